"""The language `arithmetic-corrections`: solutions of problems, and corrections of attempts.

For example `(+ 3 (* 2 4));(+ 3 9)>12|@1>(+ 3 8)>11`.
"""

from maskdiff.languages.arithmetic_corrections.answers import (
    BACKTRACK,
    FEEDBACK,
    Marks,
    feedback_text,
    judge,
    symbol_labels,
)
from maskdiff.languages.arithmetic_corrections.language import ArithmeticCorrections

__all__ = [
    "BACKTRACK", "FEEDBACK", "ArithmeticCorrections", "Marks", "feedback_text", "judge",
    "symbol_labels",
]  # fmt: skip
