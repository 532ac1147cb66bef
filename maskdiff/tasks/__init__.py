"""The verbs: `generate`, `repair`, `edit`, `complete`, `solve` and `rewrite`; the Python API that users import.

    from maskdiff.checkpoint import load_denoiser
    from maskdiff import tasks
    loaded = load_denoiser("checkpoints/best.pt")
    for result in tasks.repair(loaded, ["(+(*75)10=45"]):
        print(result.text, result.holds, result.score)

Not for: command lines, or any sampling algorithm (`maskdiff.sampling`, `maskdiff.repair`). Easy to get wrong: one bad string
must not take the others down, so a string that nothing can be made of is a `Result` with `error` in its place; only settings
that fit no string at all raise.
"""

from __future__ import annotations

from maskdiff.tasks.completing import Completer, complete, completing
from maskdiff.tasks.editing import edit
from maskdiff.tasks.filling import fill
from maskdiff.tasks.generating import generate, generating, sample_lengths
from maskdiff.tasks.repairing import REPAIR_METHODS, refiner, repair
from maskdiff.tasks.results import Alternative, Change, Result, cut_texts
from maskdiff.tasks.rewriting import rewrite

__all__ = [
    "REPAIR_METHODS",
    "Alternative",
    "Change",
    "Completer",
    "Result",
    "complete",
    "completing",
    "cut_texts",
    "edit",
    "fill",
    "generate",
    "generating",
    "refiner",
    "repair",
    "rewrite",
    "sample_lengths",
]  # fmt: skip
