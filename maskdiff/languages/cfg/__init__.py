"""Context-free grammars: from Lark's EBNF to Chomsky normal form, with a check for ambiguity.

`compile_grammar` returns the strings that are generated, `compile_reader` those that are accepted.
An ambiguous grammar counts a string once per derivation, so it is refused by default.
"""

from __future__ import annotations

from functools import lru_cache

from maskdiff.errors import GrammarError, quote
from maskdiff.languages.cfg.ambiguity import Ambiguity, find_ambiguity
from maskdiff.languages.cfg.derivations import DerivationSampler
from maskdiff.languages.cfg.distance import UNREADABLE, EditCosts, NearestString, nearest_strings
from maskdiff.languages.cfg.forest import ForestParser, Forests
from maskdiff.languages.cfg.normal_form import NormalForm, normal_form
from maskdiff.languages.cfg.prefix import CanvasLookahead, LengthLookahead, Lookahead, PrefixParser
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

AMBIGUOUS = (
    "is ambiguous, and its strings would be counted once per derivation; "
    "rewrite it, or take it with --accept_ambiguous"
)


@lru_cache(maxsize=16)
def compile_grammar(
    grammar: GrammarSource | str, symbols: tuple[str, ...] | str, accept_ambiguous: bool = False
) -> NormalForm:
    """Return the normal form of the strings that a grammar writes.

    Args:
        grammar: The grammar; a text can import Lark's library only.
        symbols: The characters of the strings.
        accept_ambiguous: Whether an ambiguous grammar is accepted.

    Raises:
        GrammarError: See `read_grammar` and `normal_form`; an ambiguous grammar.
    """
    source = as_source(grammar)
    compiled = _compiled(source, tuple(symbols), "written")
    if not accept_ambiguous:
        _check_ambiguity(compiled, source.name)
    return compiled


def compile_reader(grammar: GrammarSource | str, symbols: tuple[str, ...] | str) -> NormalForm:
    """Return the normal form of the strings that a grammar accepts.

    Without `%ignore` these are the strings that it writes. With `%ignore` a string may have several
    derivations.

    Args:
        grammar, symbols: See `compile_grammar`.

    Raises:
        GrammarError: See `read_grammar` and `normal_form`.
    """
    return _compiled(as_source(grammar), tuple(symbols), "readable")


def _compiled(source: GrammarSource, symbols: tuple[str, ...], form: Form) -> NormalForm:
    return _normal_form(read_grammar(source, symbols, form), symbols, source.name)


_normal_form = lru_cache(maxsize=16)(normal_form)  # without %ignore both forms have equal rules


def rule_name(nonterminal: str) -> str:
    """Return the rule of the file that a nonterminal stands for; empty if it is not one rule."""
    name, _, form = nonterminal.partition("@")
    spaced = form in ("", "written", "read") or ">" in form
    return name if spaced and name.isidentifier() and not name[0].isupper() else ""


def _check_ambiguity(grammar: NormalForm, name: str) -> None:
    if grammar.cyclic:
        rule = rule_name(grammar.cyclic)
        what = f"the rule {quote(rule)}" if rule else "a repetition of what may be empty"
        raise GrammarError(
            f"{name}: {what} derives itself: the grammar is cyclic, so it {AMBIGUOUS}"
        )
    found = find_ambiguity(grammar)
    if found.witness is not None:
        rule = quote(rule_name(found.rule) or found.rule)
        raise GrammarError(
            f"{name}: {quote(found.witness)} has {found.derivations} derivations from {rule}: "
            f"the grammar {AMBIGUOUS}"
        )


__all__ = [
    "AMBIGUOUS", "UNREADABLE", "Ambiguity", "CanvasLookahead", "Cfg", "DerivationSampler",
    "EditCosts", "ForestParser", "Forests", "GrammarSource", "LengthLookahead", "Lookahead",
    "NearestString", "NormalForm", "PrefixParser", "Recogniser", "Rule", "Spacing", "as_source",
    "compile_grammar", "compile_reader", "find_ambiguity", "literal_characters", "nearest_strings",
    "normal_form", "open_source", "read_grammar", "recognises", "restore_source",
]  # fmt: skip
