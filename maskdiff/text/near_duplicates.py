"""Near-duplicates: strings that one insertion, deletion or replacement makes equal.

Two strings within one edit have a common member among themselves and their deletions of one
character, so few pairs have to be compared.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from maskdiff.languages import split_of

SAMPLED = 1000  # test strings that a report examines at most


def within_one_edit(a: str, b: str) -> bool:
    """Return whether at most one insertion, deletion or replacement makes `b` of `a`."""
    short, long = sorted((a, b), key=len)
    if len(long) - len(short) > 1:
        return False
    same = next((i for i, c in enumerate(short) if c != long[i]), len(short))
    rest = short[same + 1 :] if len(short) == len(long) else short[same:]
    return rest == long[same + 1 :]


def near_duplicates(texts: Collection[str], others: Iterable[str]) -> set[str]:
    """Return the strings of `texts` that are within one edit of one of `others`."""
    by_deletion: dict[str, list[str]] = defaultdict(list)
    for text in set(texts):
        for shorter in _neighbourhood(text):
            by_deletion[shorter].append(text)
    keys, ends = by_deletion.keys(), _half_ends(texts)
    found: set[str] = set()
    for other in others:
        if ends.isdisjoint(_ends_of_neighbours(other)):
            continue
        for shorter in keys & _neighbourhood(other):
            found.update(
                text
                for text in by_deletion[shorter]
                if text not in found and within_one_edit(text, other)
            )
    return found


def split_report(lines: Sequence[str]) -> str:
    """Return one line: how many strings are distinct, and how many test strings have a neighbour.

    A neighbour is a training string within one edit. Of a long corpus, `SAMPLED` test strings are
    examined.
    """
    distinct = sorted(set(lines))
    parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for line in distinct:
        parts[split_of(line)].append(line)
    train, test = parts["train"], parts["test"]
    report = (
        f"{len(lines):,} lines, {len(distinct):,} distinct: {len(train):,} training, "
        f"{len(parts['validation']):,} validation, {len(test):,} test"
    )
    if not test:
        return report
    few = len(test) <= SAMPLED
    examined = test if few else random.Random(0).sample(test, SAMPLED)
    share = len(near_duplicates(examined, train)) / len(examined)
    return (
        f"{report}; {share:.0%} of {'the' if few else f'{SAMPLED:,}'} test lines differ from a "
        "training line by one edit, and are easier than lines unlike any of training"
    )


def _neighbourhood(text: str) -> set[str]:
    """The string and its deletions of one character."""
    return {text, *(text[:i] + text[i + 1 :] for i in range(len(text)))}


def _half_ends(texts: Collection[str]) -> set[tuple[int, str, bool]]:
    """The first and the second half of each string, with its length.

    Of a string and its neighbour one half is the same: the first as a beginning, or the second as
    an end.
    """
    ends = set()
    for text in texts:
        half = len(text) // 2
        ends |= {(len(text), text[:half], True), (len(text), text[half:], False)}
    return ends


def _ends_of_neighbours(text: str) -> list[tuple[int, str, bool]]:
    """The halves that a string within one edit of `text` may have in common with it."""
    ends = []
    for size in range(max(0, len(text) - 1), len(text) + 2):
        half = size // 2
        ends.append((size, text[:half], True))
        ends.append((size, text[max(0, len(text) - (size - half)) :], False))
    return ends
