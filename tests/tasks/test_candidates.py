"""Shares and probabilities of candidates whose totals are known."""

from __future__ import annotations

import math

import pytest

from maskdiff.tasks.candidates import (
    CandidatePool,
    Damaged,
    RepairCandidate,
    RepairConstraints,
    best_result,
)
from tests.helpers.tiny import tiny_loaded

# Of "(+12)=": candidates and their probabilities.
REFUSED_BEFORE, VALID, REFUSED_AFTER = {"(+12))=": 0.4}, {"(+12)=3": 0.3}, {"(+12)(=": 0.2}
LESS, LONG = {"(+11)=2": 0.06}, {"(+(*11)2)=3": 0.9}


@pytest.mark.parametrize("top", [1, 2, 5])
@pytest.mark.parametrize(
    ("given", "slack", "expected"),
    [
        # Five symbols more than the text are beyond the slack.
        (
            {**REFUSED_BEFORE, **VALID, **REFUSED_AFTER, **LESS, **LONG},
            1,
            {
                "(+12)=3": 0.3 / 0.56,
                "(+11)=2": 0.06 / 0.56,
                "(+(*11)2)=3": 0,
                "(+12))=": 0,
                "(+12)(=": 0,
            },
        ),
        (
            {**VALID, **REFUSED_AFTER, **LESS, **LONG},
            None,
            {
                "(+(*11)2)=3": 0.9 / 1.46,
                "(+12)=3": 0.3 / 1.46,
                "(+11)=2": 0.06 / 1.46,
                "(+12)(=": 0,
            },
        ),
        # The only valid string is beyond.
        (
            {**REFUSED_BEFORE, **REFUSED_AFTER, **LONG},
            1,
            {"(+(*11)2)=3": 1, "(+12))=": 0, "(+12)(=": 0},
        ),
        # None is valid.
        ({**REFUSED_BEFORE, **REFUSED_AFTER}, 1, {"(+12))=": 0.4 / 0.6, "(+12)(=": 0.2 / 0.6}),
    ],
)
def test_the_best_answer_excludes_what_is_refused_and_what_is_beyond_the_slack(
    given: dict[str, float], slack: int | None, expected: dict[str, float], top: int
) -> None:
    """The share of the first answer is the probability, for any number of answers."""
    language, text = tiny_loaded().language, "(+12)="
    pool = CandidatePool(Damaged(language.vocabulary.encode(text), text))
    for made, p in given.items():
        scores = (math.log(p), 0.0, 0.0, 0.0, 0.0, math.log(p))
        pool.candidates[made] = RepairCandidate(language, pool.damaged, made, *scores)
    result = best_result(pool, language, RepairConstraints(slack=slack, top=top))
    assert result is not None
    best, *_ = expected
    assert result.text == best
    assert result.probability == pytest.approx(expected[best])
    listed = {item.text: item.share for item in result.alternatives}
    assert list(listed) == ([*expected][:top] if top > 1 else [])
    assert listed == pytest.approx({name: expected[name] for name in listed})
    assert top == 1 or listed[best] == result.probability
    assert [*listed.values()] == sorted(listed.values(), reverse=True)
