"""Near-duplicates across the split, against every pair compared by dynamic programming."""

from __future__ import annotations

import random
import re

from maskdiff.languages import split_of
from maskdiff.text.near_duplicates import near_duplicates, split_report, within_one_edit
from tests.helpers.fuzz import both_seeds, cases


def distance(a: str, b: str) -> int:
    """Levenshtein's distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        above, row = row, [i]
        for j, y in enumerate(b, start=1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]


def some(rng: random.Random, count: int, low: int, high: int) -> list[str]:
    return ["".join(rng.choices("ab", k=rng.randrange(low, high))) for _ in range(count)]


@both_seeds
def test_near_duplicates_are_the_pairs_within_one_edit(seed: int) -> None:
    for rng in cases(60, seed):
        low = rng.choice([0, 0, 9])
        texts, others = some(rng, 12, low, low + 4), some(rng, 20, low, low + 4)
        near = {t for t in texts if any(distance(t, o) <= 1 for o in others)}
        assert near_duplicates(texts, others) == near
        for a, b in zip(texts, others, strict=False):
            assert within_one_edit(a, b) == within_one_edit(b, a) == (distance(a, b) <= 1)


def test_no_strings_have_no_near_duplicates() -> None:
    assert near_duplicates([], ["a"]) == near_duplicates(["a"], []) == set()
    assert near_duplicates([""], ["ab"]) == set()


def test_the_report_counts_distinct_lines_of_each_split() -> None:
    lines = some(random.Random(0), 900, 11, 12)
    distinct = set(lines)
    report = split_report([*lines, lines[0]])
    sizes = [sum(split_of(line) == name for line in distinct) for name in
             ("train", "validation", "test")]  # fmt: skip
    numbers = [int(number.replace(",", "")) for number in re.findall(r"[\d,]*\d", report)]
    assert numbers[:5] == [901, len(distinct), *sizes]
    test = {line for line in distinct if split_of(line) == "test"}
    train = {line for line in distinct if split_of(line) == "train"}
    near = {t for t in test if any(distance(t, o) <= 1 for o in train)}
    assert f"{len(near) / len(test):.0%} of the test lines" in report


def test_a_corpus_without_test_lines_has_no_share() -> None:
    line = next(line for line in map(str, range(100)) if split_of(line) == "train")
    assert split_report([line, line]) == ("2 lines, 1 distinct: 1 training, 0 validation, 0 test")
