"""The language `python-expressions`: real expressions of one line, such as `len(x) - 1`.

The grammar is a part of the language: all that it derives is valid, but one in a hundred real
expressions is beyond it. Python's own parser decides.
"""

from maskdiff.languages.python_expressions.collect import collect_expressions
from maskdiff.languages.python_expressions.language import GRAMMAR, python_language
from maskdiff.languages.python_expressions.validity import is_python_expression

__all__ = ["GRAMMAR", "collect_expressions", "is_python_expression", "python_language"]
