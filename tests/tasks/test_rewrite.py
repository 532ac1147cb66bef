"""`tasks.rewrite`: regenerating a span with another length; properties for any model."""

from __future__ import annotations

import math

import pytest

from maskdiff import tasks
from maskdiff.checkpoint import Loaded
from maskdiff.config import SamplerConfig
from maskdiff.errors import ConfigError
from tests.helpers.tiny import tiny_loaded

GOOD = "(+(*75)10)=45"
MASKGIT = SamplerConfig("maskgit", steps=2)


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return tiny_loaded()


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{}, {"grammar": True}, {"sampler": MASKGIT}, {"sampler": MASKGIT, "grammar": True}]
)
@pytest.mark.parametrize(
    "span, length", [((2, 7), (4, 5)), ((2, 7), None), ((2, 7), 2), ((3, 3), (1, 2)), ((0, 13), 5)]
)
def test_rewrite_keeps_both_sides(
    loaded: Loaded,
    span: tuple[int, int],
    length: tuple[int, int] | int | None,
    settings: dict[str, object],
) -> None:
    (result,) = tasks.rewrite(
        loaded,
        [GOOD],
        replace=span,
        length=length,
        **settings,  # type: ignore[arg-type]
    )
    sizes = (length, length) if isinstance(length, int) else length or (span[1] - span[0],) * 2
    if settings.get("grammar") and span == (
        3,
        3,
    ):  # nothing can stand between an operator's bracket and the operator
        assert "symbols in place of the span; " in (result.error or "")
        return
    assert result.error is None
    behind = len(GOOD) - span[1]
    assert (result.text[: span[0]], result.text[len(result.text) - behind :]) == (
        GOOD[: span[0]],
        GOOD[span[1] :],
    )
    assert sizes[0] <= len(result.text) - span[0] - behind <= sizes[1]
    assert result.parses or not settings.get("grammar")


@pytest.mark.slow
def test_the_best_length_maximises_likelihood_times_length_prior(loaded: Loaded) -> None:
    lengths = range(4, 8)
    each = [
        tasks.rewrite(loaded, [GOOD], replace=(2, 7), length=n, grammar=True)[0] for n in lengths
    ]
    fine = [result for result in each if result.error is None]
    assert len(fine) > 2

    def total(result: tasks.Result) -> float:
        assert result.score is not None
        return result.score * len(result.text) + loaded.language.length_log_prob(len(result.text))

    (best,) = tasks.rewrite(loaded, [GOOD], replace=(2, 7), length=(4, 7), grammar=True)
    assert best.text == max(fine, key=total).text
    assert best.evaluations == sum(result.evaluations for result in fine)
    assert all(math.isfinite(total(result)) for result in fine)


def test_rewrite_removes_inserts_and_fills_other_blanks(loaded: Loaded) -> None:
    removed, inserted = (
        tasks.rewrite(loaded, [GOOD], replace=span, length=n)[0]
        for span, n in (((2, 7), 0), ((11, 11), 2))
    )
    assert removed.text == "(+10)=45"
    assert (inserted.text[:11], inserted.text[13:]) == (GOOD[:11], GOOD[11:])
    (filled,) = tasks.rewrite(loaded, ["(+(*7?)10)=45"], replace=(12, 13), length=2, masks=[(4, 5)])
    assert (filled.text[:4], filled.text[6:12], len(filled.text)) == ("(+(*", ")10)=4", 14)
    assert "?" not in filled.text


def test_rewrite_with_holds_gives_true_strings(loaded: Loaded) -> None:
    texts = ["(+75)=5?", "(+75)=12", "(*11)=7"]
    for text, result in zip(
        texts, tasks.rewrite(loaded, texts, replace=(2, 4), length=(1, 6), holds=True), strict=True
    ):
        assert result.holds
        behind = text[4:]
        assert result.text[:2] == text[:2]
        assert all(a in ("?", b) for a, b in zip(behind, result.text[-len(behind) :], strict=True))
    (none,) = tasks.rewrite(loaded, ["(+75)=99"], replace=(2, 4), length=(2, 3), holds=True)
    assert "holds: all" in (none.error or "")


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"grammar": True}, {"holds": True}])
def test_a_batch_equals_its_texts_rewritten_alone(
    loaded: Loaded, settings: dict[str, object]
) -> None:
    texts = ["(+75)=12", "(*?5)=3?", "7", "zz", "(+(*75)10)=4?"]
    together = tasks.rewrite(
        loaded,
        texts,
        replace=(2, 4),
        length=(1, 3),
        **settings,  # type: ignore[arg-type]
    )
    alone = [
        tasks.rewrite(loaded, [text], replace=(2, 4), length=(1, 3), **settings)[0]
        for text in texts
    ]  # type: ignore[arg-type]
    assert [(a.text, a.error, a.input) for a in together] == [
        (a.text, a.error, a.input) for a in alone
    ]


def test_equal_seeds_give_equal_results(loaded: Loaded) -> None:
    def made(seed: int, sampler: SamplerConfig | None) -> list[str]:
        found = tasks.rewrite(
            loaded, [GOOD] * 3, replace=(2, 7), length=(4, 6), sampler=sampler, seed=seed
        )
        return [result.text for result in found]

    assert made(0, None) == made(1, None)
    assert made(0, MASKGIT) == made(0, MASKGIT)
    assert made(0, MASKGIT) != made(1, MASKGIT)


@pytest.mark.slow
def test_impossible_spans_are_reported_per_text(loaded: Loaded) -> None:
    long, outside, fine = tasks.rewrite(
        loaded, [GOOD, "5=5", GOOD], replace=(2, 7), length=(60, 70)
    )
    assert long.error == fine.error
    assert "60..70" in (long.error or "")
    assert "possible are 0..54" in (long.error or "")
    assert "replace 2:7 does not fit a text of 3 symbols" in (outside.error or "")
    (odd,) = tasks.rewrite(loaded, ["(+75)=12"], replace=(0, 1), length=0, grammar=True)
    assert "no string has 0 symbols in place of the span; possible are 1" in (odd.error or "")
    (crowded,) = tasks.rewrite(loaded, ["1" * 70 + "=1"], replace=(0, 1), length=(1, 3))
    assert "what stays has 71 symbols, and strings have at most 62" in (crowded.error or "")
    (false,) = tasks.rewrite(loaded, ["(+75)=1"], replace=(1, 2), length=(1, 4), holds=True)
    assert (false.error or "").count("no filling") <= 3
    assert len((false.error or "").splitlines()) == 1


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"replace": (3, 2)}, "A <= B"),
        ({"replace": (3, 3)}, "changes nothing"),
        ({"replace": (3, 5), "length": (4, 2)}, "N <= M"),
        ({"replace": (3, 5), "holds": True, "sampler": MASKGIT}, "draws nothing"),
    ],
)
def test_bad_settings_raise(loaded: Loaded, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tasks.rewrite(loaded, [GOOD], **settings)  # type: ignore[arg-type]
