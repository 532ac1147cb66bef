"""Regular expressions of Python as deterministic automata.

For: `compile_pattern(pattern, symbols)`, and operations on the automata that it returns (`Dfa`).
Python's own parser reads the pattern, and `re` itself says which characters each set of characters
holds. The automaton accepts exactly the strings that `re.fullmatch` matches, look-arounds, anchors
and word boundaries included. What is not regular is refused by name.
"""

from maskdiff.languages.regex.compiling import compile_pattern, compile_preferred
from maskdiff.languages.regex.context import (
    ContextDependence,
    compile_followed,
    context_dependences,
)
from maskdiff.languages.regex.dfa import Dfa, everything, explore
from maskdiff.languages.regex.joint import Joint
from maskdiff.languages.regex.limits import RegexError
from maskdiff.languages.regex.minimise import DEAD

__all__ = [
    "DEAD", "ContextDependence", "Dfa", "Joint", "RegexError", "compile_followed",
    "compile_pattern", "compile_preferred", "context_dependences", "everything", "explore",
]  # fmt: skip
