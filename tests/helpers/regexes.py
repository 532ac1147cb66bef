"""Random regular expressions of every construct, random strings for them, and what `re` matches."""

from __future__ import annotations

import itertools
import random
import re
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from maskdiff.languages.regex import DEAD, Dfa

# Letters that meet others when the case is ignored, a digit and blanks beyond ASCII, what patterns
# are written with, and a character outside the basic plane.
POOL = "abkAK1_-. {}()[]\\^$|\n\t\réßſ\u212aıİ٣\u00a0\u2028\U0001d7d8"
CATEGORIES = ("\\d", "\\D", "\\w", "\\W", "\\s", "\\S")
LITERALS = (
    "a", "b", "k", "A", "K", "1", "_", "-", " ", "é", "ß", "ſ", "\u212a", "ı", "İ", "}", "]",
)  # fmt: skip
ESCAPES = (
    "\\n", "\\t", "\\.", "\\\\", "\\{", "\\[", "\\(", "\\^", "\\-", "\\x61", "\\u017f", "\\061",
    "\\U0001d7d8",
)  # fmt: skip
BRACES = ("{", "{}", "{a}", "{1, 2}", "{,a", "{1", "{-1}")
ANCHORS = ("^", "$", "\\A", "\\Z", "\\b", "\\B")
QUANTIFIERS = ("*", "+", "?", "{2}", "{1,2}", "{0,2}", "{,2}", "{2,}", "{0}", "{,}")
LIMITED = ("?", "{2}", "{1,2}", "{0,2}", "{,2}", "{0}")
REFUSED = ("a++", "b?+", "(?:a|b){1,2}+", "(?>a|ab)", "(a)\\1", "(?P<n>a)(?P=n)", "(a)?(?(1)b|1)")


def random_pattern(rng: random.Random) -> str:
    """A pattern of a few constructs; some are not valid, and some not regular."""
    start = rng.choice(["(?i)", "(?m)", "(?s)", "(?a)", "(?ims)"]) if rng.random() < 0.15 else ""
    return start + _alternatives(rng, rng.randint(1, 3), 0)


def _alternatives(rng: random.Random, depth: int, loops: int) -> str:
    count = rng.choice([1, 1, 1, 2, 3])
    return "|".join(_sequence(rng, depth, loops) for _ in range(count))


def _sequence(rng: random.Random, depth: int, loops: int) -> str:
    return "".join(_item(rng, depth, loops) for _ in range(rng.choice([0, 1, 1, 2, 2, 3, 4])))


def _item(rng: random.Random, depth: int, loops: int) -> str:
    """One part, perhaps with a quantifier; at most two unlimited ones are inside each other."""
    chance = rng.random()
    if chance < 0.08:
        return rng.choice(ANCHORS)
    if chance < 0.12:
        return rng.choice(BRACES)
    if chance < 0.13:
        return rng.choice(REFUSED)
    quantifier = ""
    if rng.random() < 0.35:
        quantifier = rng.choice(QUANTIFIERS if loops < 2 else LIMITED)
        loops += quantifier not in LIMITED
        quantifier += rng.choice(["", "", "?"])
    if depth == 0 or chance < 0.55:
        return _single(rng) + quantifier
    return _group(rng, depth - 1, loops) + quantifier


def _single(rng: random.Random) -> str:
    """A pattern of one character."""
    kind = rng.randrange(6)
    if kind == 0:
        return rng.choice(CATEGORIES)
    if kind == 1:
        return "."
    if kind == 2:
        return rng.choice(ESCAPES)
    if kind < 5:
        return rng.choice(LITERALS)
    return random_set(rng)


def random_set(rng: random.Random) -> str:
    """A set of characters: ranges, categories, and what has a meaning outside of sets alone."""
    ranges = ("a-k", "A-Z", "a-\\u212a", "\\x20-/", "0-9", "ß-é", "J-L", "\\]-\\^", "!--")
    plain = (
        "a",
        "K",
        "ſ",
        "ı",
        "_",
        "1",
        "{",
        "(",
        "?",
        "=",
        "|",
        "$",
        ".",
        "\\n",
        "\\\\",
        "\\]",
        "[",
    )
    parts = [
        rng.choice([rng.choice(CATEGORIES), rng.choice(ranges), rng.choice(plain)])
        for _ in range(rng.randint(1, 4))
    ]
    first, last = rng.choice(["", "", "", "]", "-"]), rng.choice(["", "", "", "-", "^"])
    return f"[{rng.choice(['', '^'])}{first}{''.join(parts)}{last}]"


def _group(rng: random.Random, depth: int, loops: int) -> str:
    kind = rng.randrange(10)
    if kind < 4:
        opening = rng.choice(["(?=", "(?!"]) if kind < 2 else rng.choice(["(?<=", "(?<!"])
        body = _alternatives(rng, depth, loops) if kind < 2 else _fixed(rng, depth)
        return f"{opening}{body})"
    inner = _alternatives(rng, depth, loops)
    if kind < 7:
        return f"({rng.choice(['', '?:', f'?P<g{rng.randrange(10**9)}>', '?:(?#why)'])}{inner})"
    if kind < 9:
        flags = ["i", "s", "m", "a", "u", "-i", "-s", "im-s", "i-m"]
        return f"(?{rng.choice(flags)}:{inner})"
    return f"(?x: {inner} # why\n)"


def _fixed(rng: random.Random, depth: int) -> str:
    """A pattern of fixed width, as look-behinds need it."""
    width, choices = rng.randint(0, 2), []
    for _ in range(rng.choice([1, 1, 2])):
        parts = [_single(rng) for _ in range(width)]
        if rng.random() < 0.3:
            test = rng.choice(ANCHORS) if depth == 0 or rng.random() < 0.5 else None
            opening = rng.choice(["(?=", "(?!"])
            parts.insert(rng.randint(0, width), test or f"{opening}{_sequence(rng, 0, 1)})")
        if rng.random() < 0.2:
            opening = rng.choice(["(?<=", "(?<!"])
            parts.insert(rng.randint(0, len(parts)), f"{opening}{_single(rng)})")
        choices.append("".join(parts))
    return "|".join(choices)


def nested_pattern(rng: random.Random, depth: int) -> str:
    """Quantifiers and alternatives inside each other, many of which match the empty string."""
    kind = rng.random()
    if depth == 0 or kind < 0.25:
        return rng.choice(["a", "b", "", "a?", "b??", "[ab]", "(?=a)", "(?!b)", "\\b", "$"])
    if kind < 0.5:
        parts = [nested_pattern(rng, depth - 1) for _ in range(rng.randint(2, 3))]
        return f"(?:{'|'.join(parts)})"
    if kind < 0.7:
        return nested_pattern(rng, depth - 1) + nested_pattern(rng, depth - 1)
    quantifier = rng.choice(["*", "+", "?", "{2}", "{1,2}", "{0,2}", "{2,}", "{1,3}"])
    return f"(?:{nested_pattern(rng, depth - 1)}){quantifier}{rng.choice(['', '?'])}"


def compiled(pattern: str, flags: int = 0) -> re.Pattern[str] | None:
    """Returns the pattern compiled by `re`; None if it is invalid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return re.compile(pattern, flags)
        except (re.error, OverflowError, RecursionError):
            return None


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` after a time: `re` can take exponentially long for a short string."""

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def all_strings(symbols: str, longest: int) -> Iterator[str]:
    """Every string of at most `longest` characters."""
    for length in range(longest + 1):
        yield from map("".join, itertools.product(symbols, repeat=length))


def random_strings(rng: random.Random, dfa: Dfa, symbols: str, count: int) -> Iterator[str]:
    """Strings that an automaton accepts, some of them changed at one place, and random ones."""
    for _ in range(count):
        text = walk(rng, dfa, 6)
        if text is None:
            text = "".join(rng.choices(symbols, k=rng.randint(0, 5)))
        yield text
        at = rng.randint(0, len(text))
        yield text[:at] + rng.choice(symbols) + text[at + rng.randint(0, 1) :]
        yield text[:at] + text[at + 1 :]
        yield "".join(rng.choices(symbols, k=rng.randint(0, 5)))


def walk(rng: random.Random, dfa: Dfa, longest: int) -> str | None:
    """An accepted string of at most `longest` characters, or None if the walk found none."""
    state, text, found = 0, "", None
    while True:
        if state in dfa.accepting and (found is None or rng.random() < 0.7):
            found = text
        steps = list(dfa.steps(state))
        if not steps or len(text) == longest:
            return found
        letter, state = rng.choice(steps)
        text += rng.choice(dfa.classes[letter])


def broken(dfa: Dfa, rng: random.Random) -> Dfa:
    """The automaton with one accepting state more or less, or one move less."""
    if rng.random() < 0.5 or all(to == DEAD for row in dfa.moves for to in row):
        return Dfa(dfa.classes, dfa.moves, dfa.accepting ^ {rng.randrange(len(dfa.moves))})
    rows = [list(row) for row in dfa.moves]
    edges = [(n, k) for n, row in enumerate(rows) for k, to in enumerate(row) if to != DEAD]
    state, letter = rng.choice(edges)
    rows[state][letter] = DEAD
    return Dfa(dfa.classes, tuple(map(tuple, rows)), dfa.accepting)
