"""Context-free grammars: from Lark's EBNF to Chomsky normal form, with a check for ambiguity.

`compile_grammar` gives what is generated, and `compile_reader` what is accepted. An ambiguous grammar
would count a string once per derivation, so it is refused unless the caller accepts that.
"""

from __future__ import annotations

from functools import lru_cache

from maskdiff.errors import GrammarError, quote
from maskdiff.languages.cfg.ambiguity import Ambiguity, find_ambiguity
from maskdiff.languages.cfg.derivations import DerivationSampler
from maskdiff.languages.cfg.distance import UNREADABLE, Closest, EditCosts, closest, nearest_strings
from maskdiff.languages.cfg.normal_form import NormalForm, normal_form
from maskdiff.languages.cfg.prefix import KnownOutlook, OpenOutlook, Outlook, PrefixParser
from maskdiff.languages.cfg.reader import Form, literal_characters, read_grammar
from maskdiff.languages.cfg.recognise import Recogniser, recognises
from maskdiff.languages.cfg.rules import Cfg, Rule
from maskdiff.languages.cfg.source import (
    GrammarSource,
    Spacing,
    as_source,
    open_source,
    restore_source,
)


@lru_cache(maxsize=16)
def compile_grammar(
    grammar: GrammarSource | str, symbols: tuple[str, ...] | str, accept_ambiguous: bool = False
) -> NormalForm:
    """Returns the normal form of the strings that a grammar writes, over the characters `symbols`.

    Raises:
        GrammarError: See `read_grammar` and `normal_form`; an ambiguous grammar, unless
            `accept_ambiguous`.
    """
    source = as_source(grammar)
    made = _compiled(source, tuple(symbols), "written")
    if not accept_ambiguous:
        _check_ambiguity(made, source.name)
    return made


def compile_reader(grammar: GrammarSource | str, symbols: tuple[str, ...] | str) -> NormalForm:
    """Returns the normal form of the strings that a grammar accepts, over the characters `symbols`.

    Without `%ignore` these are the strings that it writes. With it a string may have several derivations.

    Raises:
        GrammarError: See `read_grammar` and `normal_form`.
    """
    return _compiled(as_source(grammar), tuple(symbols), "readable")


def _compiled(source: GrammarSource, symbols: tuple[str, ...], form: Form) -> NormalForm:
    return _normal_form(read_grammar(source, symbols, form), symbols, source.name)


_normal_form = lru_cache(maxsize=16)(normal_form)  # without %ignore both forms have the same rules


def rule_name(nonterminal: str) -> str:
    """Returns the rule of the file that a nonterminal comes from; empty if it stands for a part of one."""
    name, _, form = nonterminal.partition("@")
    spaced = form in ("", "written", "read") or ">" in form
    return name if spaced and name.isidentifier() and not name[0].isupper() else ""


def _check_ambiguity(grammar: NormalForm, name: str) -> None:
    hint = "is ambiguous, and its strings would be counted once per derivation; rewrite it, or take it with --accept_ambiguous"
    if grammar.cyclic:
        own = rule_name(grammar.cyclic)
        what = f"the rule {quote(own)}" if own else "a repetition of what may be empty"
        raise GrammarError(f"{name}: {what} derives itself: the grammar is cyclic, so it {hint}")
    found = find_ambiguity(grammar)
    if found.witness is not None:
        own = quote(rule_name(found.rule) or found.rule)
        raise GrammarError(
            f"{name}: {quote(found.witness)} has {found.derivations} derivations from {own}: the grammar {hint}"
        )


__all__ = [
    "UNREADABLE", "Ambiguity", "Cfg", "Closest", "DerivationSampler", "EditCosts", "GrammarSource",
    "KnownOutlook", "NormalForm", "OpenOutlook", "Outlook", "PrefixParser", "Recogniser", "Rule", "Spacing",
    "as_source", "closest", "compile_grammar", "compile_reader", "find_ambiguity", "literal_characters",
    "nearest_strings", "normal_form", "open_source", "read_grammar", "recognises", "restore_source",
]  # fmt: skip
