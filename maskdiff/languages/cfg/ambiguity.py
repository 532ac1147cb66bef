"""Searches for strings that a grammar derives in more than one way, by enumeration.

Whether a grammar is ambiguous is undecidable, so "no ambiguity" holds up to the length searched.
Symbols that all rules treat alike are interchangeable, so one of each kind is enumerated: with all
90 letters of a JSON string, strings of four symbols would already be too many.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from maskdiff.languages.cfg.normal_form import NormalForm

BUDGET = 200_000  # strings of all nonterminals together


@dataclass(frozen=True)
class Ambiguity:
    """The result of a search for an ambiguous string.

    Attributes:
        searched: The length in symbols up to which strings were enumerated.
        witness: The shortest part of a string with several derivations; None if there is none.
        rule: The nonterminal that derives `witness`.
        derivations: The number of its derivations.
    """

    searched: int
    witness: str | None = None
    rule: str = ""
    derivations: int = 1


def find_ambiguity(grammar: NormalForm, longest: int = 16, budget: int = BUDGET) -> Ambiguity:
    """Return the shortest ambiguous part of a string, by enumeration.

    Every nonterminal derives a part of some string of the language, so a part with two derivations
    is a proof.

    Args:
        grammar: The grammar.
        longest: The length up to which strings are enumerated.
        budget: The number of strings after which the search ends.
    """
    _, kinds = np.unique(grammar.emits.T, axis=0, return_index=True)  # one symbol of each kind
    # table[n][a]: the strings of n symbols of nonterminal a with their numbers of derivations.
    table: list[list[Counter[str]]] = [
        [Counter() for _ in grammar.names],
        [
            Counter(grammar.symbols[s] for s in kinds if grammar.emits[a, s])
            for a in range(len(grammar))
        ],
    ]
    known = sum(map(len, table[1]))
    for n in range(2, longest + 1):
        row: list[Counter[str]] = [Counter() for _ in grammar.names]
        for parent, bodies in enumerate(grammar.children):
            for left, right in bodies:
                for k in range(1, n):
                    known += len(table[k][left]) * len(table[n - k][right])
                    if known > budget:
                        return Ambiguity(n - 1)
                    for a, ways in table[k][left].items():
                        for b, other_ways in table[n - k][right].items():
                            row[parent][a + b] += ways * other_ways
        for number, strings in enumerate(row):
            ambiguous = [text for text, ways in strings.items() if ways > 1]
            if ambiguous:
                witness = min(ambiguous)
                return Ambiguity(n, witness, grammar.names[number], strings[witness])
        table.append(row)
    return Ambiguity(longest)
