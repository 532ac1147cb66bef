"""The left-to-right loop, and strings that begin with what was typed, character for character.

    from maskdiff.decoding import CausalModel, Decoding, condition
    conditioned = condition(CausalModel(loaded.denoiser, loaded.lengths), b"(+(*7")
    print(conditioned.summary)
    strings = Decoding(conditioned, new_keys(5, generator)).run()

`decode` (`loop.py`) draws all tokens from left to right. `condition` finds what the prefix weighs,
and q; `Decoding` draws from q, then from the model. The state is the history of tokens, not
the place in the text. `maskdiff.tasks.complete` completes the texts of a language.
"""

from __future__ import annotations

from maskdiff.decoding.canvas_model import CanvasModel, ending_with
from maskdiff.decoding.completion import Completion, Decoding
from maskdiff.decoding.condition import CONDITION_MODES, Conditioned, Summary, condition
from maskdiff.decoding.loop import decode
from maskdiff.decoding.shared_tree import SharedTree
from maskdiff.models.causal import CausalModel
from maskdiff.models.continuation import Canonical, Continuation, HistoryTree, LatentStates
from maskdiff.models.table_model import TableModel
from maskdiff.models.token_table import TokenTable

__all__ = [
    "CONDITION_MODES",
    "Canonical",
    "CanvasModel",
    "CausalModel",
    "Completion",
    "Conditioned",
    "Continuation",
    "Decoding",
    "HistoryTree",
    "LatentStates",
    "SharedTree",
    "Summary",
    "TableModel",
    "TokenTable",
    "condition",
    "decode",
    "ending_with",
]  # fmt: skip
