"""Expressions of Python on one line, such as `len(x) - 1` and `self.items[key] is not None`: real ones, and a judge.

For: `collect` (what the standard library is made of), `valid` (Python's own parser), `SYMBOLS`, and `GRAMMAR`, the file for
`maskdiff.languages.cfg.compile_grammar`. Not for: statements, or running anything. Easy to get wrong: the grammar is a part of
the language. All that it derives is valid, but one in a hundred real expressions is beyond it; `valid` decides.
"""

from pathlib import Path

from maskdiff.languages.python_expressions.collect import collect
from maskdiff.languages.python_expressions.validity import SYMBOLS, valid

GRAMMAR = Path(__file__).with_name("grammar.lark")

__all__ = ["GRAMMAR", "SYMBOLS", "collect", "valid"]
