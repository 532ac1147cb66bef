"""Looks for strings that a grammar derives in more than one way, by enumeration.

For: `find_ambiguity`, run before a grammar conditions anything: an ambiguous string would be counted once per derivation.
Not for: proofs; whether a grammar is ambiguous is undecidable, so the answer "none" holds up to the length that was searched.
Easy to get wrong: symbols that all rules treat alike are interchangeable, and one of each kind is enough; with all 90 letters
of a JSON string nothing longer than three symbols could be enumerated.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from maskdiff.languages.cfg.normal_form import NormalForm

BUDGET = 200_000  # strings to enumerate, of all nonterminals together


@dataclass(frozen=True)
class Ambiguity:
    """`witness` is the shortest part of a string that `rule` derives in several ways, None if all up to `searched` have one."""

    searched: int
    witness: str | None = None
    rule: str = ""
    derivations: int = 1


def find_ambiguity(grammar: NormalForm, longest: int = 16, budget: int = BUDGET) -> Ambiguity:
    """Enumerate the strings of every nonterminal, by length, up to `longest` symbols or until `budget` strings are known.

    Every nonterminal is a part of some string of the language, so a part with two derivations is enough.
    """
    _, kinds = np.unique(grammar.emits.T, axis=0, return_index=True)  # one symbol of each kind
    table: list[list[Counter[str]]] = [[Counter() for _ in grammar.names]]
    table.append(
        [
            Counter(grammar.symbols[s] for s in kinds if grammar.emits[a, s])
            for a in range(len(grammar))
        ]
    )
    rules = list(
        zip(grammar.parent.tolist(), grammar.left.tolist(), grammar.right.tolist(), strict=True)
    )
    known = sum(map(len, table[1]))
    for n in range(2, longest + 1):
        row: list[Counter[str]] = [Counter() for _ in grammar.names]
        for parent, left, right in rules:
            for k in range(1, n):
                known += len(table[k][left]) * len(table[n - k][right])
                if known > budget:
                    return Ambiguity(n - 1)
                for a, times in table[k][left].items():
                    for b, more in table[n - k][right].items():
                        row[parent][a + b] += times * more
        for number, strings in enumerate(row):
            several = [text for text, count in strings.items() if count > 1]
            if several:
                witness = min(several)
                return Ambiguity(n, witness, grammar.names[number], strings[witness])
        table.append(row)
    return Ambiguity(longest)
