"""Context-free grammars: from Lark's EBNF to Chomsky normal form, with a check for ambiguity.

For: `compile_grammar(text, symbols)`. Not for: tensors, or parsing strings. Easy to get wrong: an ambiguous grammar would
count a string once per derivation, so it is refused unless the caller accepts that.
"""

from __future__ import annotations

from functools import lru_cache

from maskdiff.errors import GrammarError, quote
from maskdiff.languages.cfg.ambiguity import Ambiguity, find_ambiguity
from maskdiff.languages.cfg.distance import UNREADABLE, Closest, EditCosts, closest, nearest_strings
from maskdiff.languages.cfg.normal_form import NormalForm, normal_form
from maskdiff.languages.cfg.prefix import KnownOutlook, OpenOutlook, Outlook, PrefixParser
from maskdiff.languages.cfg.reader import Cfg, Rule, literal_characters, read_grammar
from maskdiff.languages.cfg.recognise import Recogniser, recognises


@lru_cache(maxsize=16)
def compile_grammar(
    text: str, symbols: tuple[str, ...] | str, source: str = "grammar", accept_ambiguous: bool = False
) -> NormalForm:
    """The normal form of a grammar in Lark's EBNF over the characters `symbols`, checked for ambiguity.

    Raises `GrammarError`: see `read_grammar` and `normal_form`; and for an ambiguous grammar, unless `accept_ambiguous`.
    """
    grammar = normal_form(read_grammar(text, symbols, source), symbols, source)
    if not accept_ambiguous:
        found = find_ambiguity(grammar)
        if found.witness is not None:
            raise GrammarError(
                f"{source}: {quote(found.witness)} has {found.derivations} derivations from {quote(found.rule)}: the grammar "
                "is ambiguous, and its strings would be counted once per derivation; rewrite it, or take it with "
                "--accept_ambiguous"
            )
    return grammar


__all__ = [
    "UNREADABLE", "Ambiguity", "Cfg", "Closest", "EditCosts", "KnownOutlook", "NormalForm", "OpenOutlook", "Outlook",
    "PrefixParser", "Recogniser", "Rule", "closest", "compile_grammar", "find_ambiguity", "literal_characters",
    "nearest_strings", "normal_form", "read_grammar", "recognises",
]  # fmt: skip
