"""Completion: strings that begin with what was typed, character for character, from a model of tokens of several characters.

    from maskdiff.decoding import CausalModel, Decoding, condition
    conditioned = condition(CausalModel(loaded.denoiser, loaded.lengths), b"(+(*7")
    print(conditioned.summary)
    strings = Decoding(conditioned, new_keys(5, generator)).run()

For: `condition` (what the prefix weighs, and q), `Decoding` (drawing), and the models that fit `Continuation`. Not for: texts
of a language, or command lines (`maskdiff.tasks.complete`). Easy to get wrong: the state is the history of tokens, not the
place in the text.
"""

from __future__ import annotations

from maskdiff.decoding.canvas_model import CanvasModel, ending_with
from maskdiff.decoding.condition import MODES, Conditioned, Summary, condition
from maskdiff.decoding.decode import Completion, Decoding
from maskdiff.decoding.shared_tree import SharedTree
from maskdiff.models.causal import CausalModel
from maskdiff.models.continuation import Canonical, Continuation, HistoryTree, LatentStates
from maskdiff.models.table_model import TableModel
from maskdiff.models.token_table import TokenTable

__all__ = [
    "MODES",
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
    "ending_with",
]  # fmt: skip
