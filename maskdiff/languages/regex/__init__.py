"""Regular expressions of Python as deterministic automata.

`compile_pattern` returns a `Dfa` that accepts exactly the strings that `re.fullmatch` matches,
look-arounds, anchors and word boundaries included. Python's own parser reads the pattern, and `re`
itself evaluates sets of characters. A pattern that is not regular is an error.
"""

from maskdiff.languages.regex.compiling import compile_pattern, compile_preferred
from maskdiff.languages.regex.context import (
    ContextDependence,
    compile_followed,
    context_dependences,
)
from maskdiff.languages.regex.dfa import Dfa, everything, explore
from maskdiff.languages.regex.limits import RegexError
from maskdiff.languages.regex.minimise import DEAD
from maskdiff.languages.regex.parallel import ParallelAutomata

__all__ = [
    "DEAD", "ContextDependence", "Dfa", "ParallelAutomata", "RegexError", "compile_followed",
    "compile_pattern", "compile_preferred", "context_dependences", "everything", "explore",
]  # fmt: skip
