"""The tasks `generate`, `complete`, `repair`, `edit`, `fill` and `rewrite`: the Python API.

    from maskdiff import tasks
    from maskdiff.checkpoint import load_denoiser
    loaded = load_denoiser("checkpoints/best.pt")
    for result in tasks.repair(loaded, ["(+(*75)10=45"]):
        print(result.text, result.holds, result.score)

A text that cannot be processed has a `Result` with `error`, and the others are processed; only
settings that fit no text raise.
"""

from __future__ import annotations

from maskdiff.tasks.completing import Completer, complete, completing
from maskdiff.tasks.editing import edit
from maskdiff.tasks.filling import fill
from maskdiff.tasks.generating import draws_ends, generate, generating, sample_lengths
from maskdiff.tasks.repairing import REPAIR_METHODS, refiner, repair
from maskdiff.tasks.results import Alternative, Change, Result
from maskdiff.tasks.rewriting import rewrite
from maskdiff.tasks.running import cut_texts

__all__ = [
    "REPAIR_METHODS",
    "Alternative",
    "Change",
    "Completer",
    "Result",
    "complete",
    "completing",
    "cut_texts",
    "draws_ends",
    "edit",
    "fill",
    "generate",
    "generating",
    "refiner",
    "repair",
    "rewrite",
    "sample_lengths",
]  # fmt: skip
