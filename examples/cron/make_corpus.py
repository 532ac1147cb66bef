"""Writes `corpus.txt`: 6,000 distinct crontab schedules, similar to those that people write.

    python examples/cron/make_corpus.py

A schedule has one of a few kinds (hourly, daily, weekly, ...). Its kind gives each of the five
fields a table of texts and their probabilities. The probability of every line is therefore exact
(`probability`). Lines are drawn until 6,000 distinct ones are found.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

LINES, LONGEST, SEED = 6000, 38, 1
CORPUS = Path(__file__).with_name("corpus.txt")

Table = Mapping[str, float]  # texts and their probabilities, which sum to 1

# ------------------------------------------------------------------------------------------ tables


def table(weights: Mapping[str, float]) -> Table:
    """Return the texts with probabilities in proportion to their weights."""
    total = sum(weights.values())
    return {text: weight / total for text, weight in weights.items()}


def uniform(texts: Iterable[object]) -> Table:
    """Return the texts, all with the same probability."""
    return table({str(text): 1.0 for text in texts})


def mixture(*parts: tuple[float, Table]) -> Table:
    """Return the mixture of tables with the given weights."""
    sums: dict[str, float] = {}
    for weight, part in parts:
        for text, probability in part.items():
            sums[text] = sums.get(text, 0.0) + weight * probability
    return table(sums)


def lists(values: Sequence[object], size: int) -> Table:
    """Return all lists of `size` of the values, in their order."""
    return uniform(",".join(map(str, chosen)) for chosen in combinations(values, size))


def ranges(values: Sequence[object]) -> Table:
    """Return all ranges from one of the values to a later one."""
    return uniform(f"{low}-{high}" for low, high in combinations(values, 2))


# ------------------------------------------------------------------------------------------ fields

ANY = {"*": 1.0}
MINUTE = mixture(
    (40, {"0": 1.0}),
    (15, {"30": 1.0}),
    (12, uniform([15, 45])),
    (18, uniform(range(0, 60, 5))),
    (15, uniform(range(60))),
)
MINUTES = mixture(
    (70, table({"*/5": 30, "*/10": 22, "*/15": 22, "*/30": 12, "*/2": 6, "*/20": 5, "*": 8})),
    (15, table({"0,30": 8, "15,45": 4, "0,15,30,45": 3, "0,20,40": 2})),
    (8, lists(range(0, 60, 5), 2)),
    (2, lists(range(0, 60, 5), 3)),
    (5, table({"0-30/10": 1, "5-59/15": 1, "0-59/5": 1, "10-50/20": 1})),
)
NIGHT, DAY = range(7), range(7, 24)
HOUR = mixture((50, uniform(NIGHT)), (20, uniform([8, 9, 12, 18])), (30, uniform(DAY)))
OFFICE = table({"9-17": 8, "8-18": 6, "9-18": 4, "8-17": 5, "7-19": 2, "8-20": 2, "6-22": 2})
HOURS = mixture(
    (35, OFFICE),
    (25, table({"*/2": 5, "*/3": 3, "*/4": 4, "*/6": 5, "*/8": 2, "*/12": 4})),
    (12, ranges(range(24))),
    (20, lists(range(24), 2)),
    (5, lists(range(0, 24, 3), 3)),
    (3, table({"9-17/2": 3, "8-20/4": 2, "0-23/2": 2, "6-18/3": 1})),
)
DAY_OF_MONTH = mixture(
    (40, {"1": 1.0}),
    (12, {"15": 1.0}),
    (25, uniform(range(1, 32))),
    (10, table({"1,15": 8, "10,20": 1, "1,16": 1})),
    (6, table({"1-7": 5, "8-14": 2, "15-21": 2, "22-28": 1, "28-31": 3})),
    (3, table({"*/2": 3, "*/7": 1, "*/10": 1})),
    (4, lists(range(1, 32), 2)),
)
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")


def months(names: Sequence[object]) -> Table:
    """Return the texts of the field of months."""
    quarters = [",".join(str(names[i]) for i in range(start, 12, 3)) for start in range(3)]
    return mixture(
        (50, uniform(names)),
        (20, table({"*/3": 4, "*/2": 2, "*/6": 2})),
        (10, uniform(quarters)),
        (12, ranges(names)),
        (6, lists(names, 2)),
        (2, lists(names, 3)),
    )


def weekdays(names: Sequence[object]) -> Table:
    """Return the texts of the field of weekdays."""
    working = f"{names[1]}-{names[5]}"
    ends = f"{names[6]},{names[0]}", f"{names[0]},{names[6]}"
    some = f"{names[1]},{names[3]},{names[5]}", f"{names[2]},{names[4]}", f"{names[1]}-{names[6]}"
    return mixture(
        (40, {working: 1.0}),
        (35, uniform(names)),
        (6, uniform(ends)),
        (7, uniform(some)),
        (6, ranges(names)),
        (4, lists(names, 2)),
        (2, lists(names, 3)),
    )


# --------------------------------------------------------------------------------------- schedules


@dataclass(frozen=True)
class Kind:
    """A kind of schedule: its probability and the tables of its fields."""

    probability: float
    fields: tuple[Table, ...]


def _kinds() -> list[Kind]:
    """All kinds. A line writes both months and weekdays as numbers, or both as names."""
    numbers, names = (range(1, 13), range(7)), (MONTHS, WEEKDAYS)
    weighted: list[tuple[float, tuple[Table, ...]]] = [
        (3, (uniform(["@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly"]),)),
        (8, (MINUTES, ANY, ANY, ANY, ANY)),
        (8, (MINUTES, HOURS, ANY, ANY, ANY)),
        (8, (MINUTE, HOURS, ANY, ANY, ANY)),
        (18, (MINUTE, HOUR, ANY, ANY, ANY)),
        (14, (MINUTE, HOUR, DAY_OF_MONTH, ANY, ANY)),
    ]
    for share, (month, weekday) in ((0.65, numbers), (0.35, names)):
        weighted += [
            (18 * share, (MINUTE, HOUR, ANY, ANY, weekdays(weekday))),
            (6 * share, (MINUTE, HOURS, ANY, ANY, weekdays(weekday))),
            (7 * share, (MINUTES, HOURS, ANY, ANY, weekdays(weekday))),
            (7 * share, (MINUTE, HOUR, DAY_OF_MONTH, months(month), ANY)),
            (4 * share, (MINUTE, HOUR, ANY, months(month), weekdays(weekday))),
            (4 * share, (MINUTE, HOURS, DAY_OF_MONTH, months(month), ANY)),
            (3 * share, (MINUTES, HOURS, ANY, months(month), weekdays(weekday))),
        ]
    total = sum(weight for weight, _ in weighted)
    return [Kind(weight / total, fields) for weight, fields in weighted]


KINDS = _kinds()


def probability(line: str) -> float:
    """Return the probability that one draw is `line`."""
    texts = line.split(" ")
    return sum(
        kind.probability * math.prod(t.get(x, 0.0) for t, x in zip(kind.fields, texts))
        for kind in KINDS
        if len(kind.fields) == len(texts)
    )


def draw(rng: random.Random) -> str:
    """Return one line."""
    (kind,) = rng.choices(KINDS, [kind.probability for kind in KINDS])
    return " ".join(rng.choices(list(t), list(t.values()))[0] for t in kind.fields)


def draw_corpus(count: int = LINES, seed: int = SEED) -> tuple[list[str], int]:
    """Return `count` distinct lines of at most 38 symbols, sorted, and the number of draws."""
    rng, lines, draws = random.Random(seed), set[str](), 0
    while len(lines) < count:
        line, draws = draw(rng), draws + 1
        if len(line) <= LONGEST:
            lines.add(line)
    return sorted(lines), draws


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=CORPUS, help="default: beside this script")
    out = parser.parse_args().out
    out.write_text("\n".join(draw_corpus()[0]) + "\n", encoding="utf-8")
    print(f"{LINES:,} lines in {out}")
