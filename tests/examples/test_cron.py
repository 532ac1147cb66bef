"""The corpus of crontab schedules: the file, exact probabilities, and the judge."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from tests.helpers.scripts import example

cron = example("cron/make_corpus.py")


def test_the_script_makes_the_corpus_that_is_shipped() -> None:
    lines, draws = cron.draw_corpus()
    assert cron.CORPUS.read_text().splitlines() == lines
    assert len(set(lines)) == cron.LINES <= draws
    assert max(map(len, lines)) <= cron.LONGEST


def test_another_seed_gives_other_lines() -> None:
    some, other = (set(cron.draw_corpus(200, seed)[0]) for seed in (1, 2))
    assert some == set(cron.draw_corpus(200, 1)[0])
    assert some != other


def test_probabilities_sum_to_one() -> None:
    assert sum(kind.probability for kind in cron.KINDS) == pytest.approx(1)
    for kind in cron.KINDS:
        for table in kind.fields:
            assert sum(table.values()) == pytest.approx(1)


def test_probabilities_equal_the_frequencies_of_draws() -> None:
    """Of the 20 most frequent lines of 4,000 draws, all agree within 5 standard errors."""
    rng, draws = random.Random(3), 4000
    seen = Counter(cron.draw(rng) for _ in range(draws))
    for line, count in seen.most_common(20):
        p = cron.probability(line)
        assert abs(count / draws - p) <= 5 * math.sqrt(p * (1 - p) / draws)


@pytest.mark.parametrize("line", ["", "* * * *", "0 0 * * MON,1", "61 * * * *", "@never"])
def test_other_lines_have_no_probability(line: str) -> None:
    assert cron.probability(line) == 0


@pytest.mark.slow
def test_the_judge_accepts_every_text_of_every_field() -> None:
    pytest.importorskip("croniter")
    judge = example("cron/judge.py")
    for kind in cron.KINDS:
        plain = [next(iter(table)) for table in kind.fields]
        for place, table in enumerate(kind.fields):
            for text in table:
                line = " ".join([*plain[:place], text, *plain[place + 1 :]])
                assert judge.is_valid(line), line


def test_the_judge_refuses_what_is_no_schedule() -> None:
    pytest.importorskip("croniter")
    judge = example("cron/judge.py")
    for line in ("", "* * * *", "* * * * * *", "60 * * * *", "0 0 * * FOO", "@never", "@daily x"):
        assert not judge.is_valid(line), line
