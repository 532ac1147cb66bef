"""The language `arithmetic-steps`: expressions and their reductions, `(+ 3 (* 2 4))>(+ 3 8)>11`."""

from maskdiff.languages.arithmetic_steps.language import ArithmeticSteps

__all__ = ["ArithmeticSteps"]
