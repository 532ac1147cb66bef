"""Fully bracketed arithmetic with its value, such as `(+(*75)10)=45`: grammar, parser, generator and probabilities."""

from maskdiff.languages.arithmetic.language import ArithmeticLanguage
from maskdiff.languages.arithmetic.parser import Node, Tree

__all__ = ["ArithmeticLanguage", "Node", "Tree"]
