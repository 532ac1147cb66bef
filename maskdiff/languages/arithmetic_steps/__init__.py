"""Expressions evaluated one reduction a step, such as `(+ 3 (* 2 4))>(+ 3 8)>11`: generator, grammar and step checker."""

from maskdiff.languages.arithmetic_steps.language import ArithmeticSteps

__all__ = ["ArithmeticSteps"]
