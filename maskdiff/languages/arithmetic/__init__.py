"""The language `arithmetic`: grammar, parser, generator and exact probabilities."""

from maskdiff.languages.arithmetic.language import ArithmeticLanguage
from maskdiff.languages.arithmetic.parser import Node, Tree

__all__ = ["ArithmeticLanguage", "Node", "Tree"]
