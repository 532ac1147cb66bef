"""The reader of a grammar with `%ignore`, and random edits of the texts that it reads."""

from __future__ import annotations

import random
from collections.abc import Callable

from maskdiff.languages.cfg import GrammarSource, Recogniser, compile_reader


def reader_of(grammar: GrammarSource | str, symbols: str) -> Callable[[str], bool]:
    """Whether the readable form of a grammar derives a text."""
    recogniser, place = (
        Recogniser(compile_reader(grammar, symbols)),
        {c: i for i, c in enumerate(symbols)},
    )
    return lambda text: recogniser([place.get(character, -1) for character in text])


def mutated(text: str, rng: random.Random, symbols: str) -> str:
    """`text` with one to three random edits, many of them at white space, comments and quotes."""
    made = list(text)
    for _ in range(rng.randint(1, 3)):
        at, new = rng.randrange(len(made) + 1), rng.choice([*made, *'  "?/#', rng.choice(symbols)])
        operation = rng.randrange(4)
        if operation == 0 and made:
            del made[min(at, len(made) - 1)]
        elif operation == 1 and made:
            made[min(at, len(made) - 1)] = new
        else:
            made[at:at] = (
                [new] if operation == 2 else rng.choice(["  ", "/* */", "#x", "\n", " a", "if"])
            )
    return "".join(made)
