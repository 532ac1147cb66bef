"""Completion: strings that begin with what was typed, character for character, from a model of tokens of several characters.

    from maskdiff.completion import CausalModel, Decoding, condition
    conditioned = condition(CausalModel(loaded.denoiser, loaded.lengths), b"(+(*7")
    print(conditioned.summary)
    strings = Decoding(conditioned, new_keys(5, generator)).run()

For: `condition` (what the prefix weighs, and q), `Decoding` (drawing), and the models that fit `NextTokenModel`. Not for: texts
of a language, or command lines (`maskdiff.tasks.complete`). Easy to get wrong: the state is the history of tokens, not the
place in the text.
"""

from __future__ import annotations

from maskdiff.completion.canvas import CanvasModel, ending_with
from maskdiff.completion.causal import CausalModel
from maskdiff.completion.condition import MODES, Conditioned, Summary, condition
from maskdiff.completion.decode import Completion, Decoding
from maskdiff.completion.model import Beginnings, Canonical, NextTokenModel, Reader
from maskdiff.completion.table import TableModel
from maskdiff.completion.together import Together
from maskdiff.completion.tokens import TokenTable

__all__ = [
    "MODES", "Beginnings", "Canonical", "CanvasModel", "CausalModel", "Completion", "Conditioned", "Decoding", "NextTokenModel",
    "Reader", "Summary", "TableModel", "Together", "TokenTable", "condition", "ending_with",
]  # fmt: skip
