"""The tasks on a tiny random model: properties that hold for any model."""

from __future__ import annotations

import pytest
import torch

from maskdiff import tasks
from maskdiff.checkpoint import Loaded, load_denoiser
from maskdiff.config import SamplerConfig
from maskdiff.errors import CanvasError, ConfigError, DataError
from maskdiff.sampling import GrammarConstraint, Unmask, constrained
from tests.helpers.paths import CHECKPOINTS
from tests.helpers.tiny import tiny_loaded

GOOD = "(+(*75)10)=45"


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return tiny_loaded()


def test_generate_sets_lengths_and_fields(loaded: Loaded) -> None:
    results = tasks.generate(loaded, 5, length=24)
    assert [len(result.text) for result in results] == [24] * 5
    assert all(
        result.finish_reason == "eos" and result.evaluations > 0 and result.input is None
        for result in results
    )
    assert all(result.score is not None and result.score < 0 for result in results)
    ranged = tasks.generate(loaded, 20, length=(10, 14))
    assert {len(result.text) for result in ranged} <= set(range(10, 15))
    assert tasks.generate(loaded, 0) == []


def test_generate_draws_lengths_like_the_language(loaded: Loaded) -> None:
    """The mean length of 4000 draws is within 5 standard errors of the exact mean."""
    drawn = torch.tensor(tasks.sample_lengths(loaded.language, 4000, None, 0)).double()
    probs = torch.tensor(list(loaded.language.length_probs()))
    sizes = torch.arange(len(probs)).double()
    mean = float((probs * sizes).sum())
    sd = float(((probs * sizes**2).sum() - mean**2) ** 0.5)
    assert abs(float(drawn.mean()) - mean) < 5 * sd / 4000**0.5


def test_generate_is_reproducible_and_independent_of_the_batch(loaded: Loaded) -> None:
    config = SamplerConfig(sampler="entropy", steps=4)
    one = tasks.generate(loaded, 6, sampler=config, seed=3)
    two = tasks.generate(loaded, 6, sampler=config, seed=3, batch_size=2)
    other = tasks.generate(loaded, 6, sampler=config, seed=4)
    assert [result.text for result in one] == [result.text for result in two]
    assert [result.text for result in one] != [result.text for result in other]


@pytest.mark.parametrize("length", [2, 63, 10**9, (1, 2), (63, 70)])
def test_generate_refuses_impossible_lengths(loaded: Loaded, length: int | tuple[int, int]) -> None:
    with pytest.raises(CanvasError, match="3 to 62"):
        tasks.generate(loaded, 1, length=length)


@pytest.mark.parametrize(
    "sampler",
    [None, SamplerConfig(sampler="entropy", steps=0), SamplerConfig(sampler="autoregressive")],
)
def test_edit_keeps_every_anchor(loaded: Loaded, sampler: SamplerConfig | None) -> None:
    templates = ["(+(*??)10)=45", "?" * 9, GOOD, "(+ ?5)=1?", "(" + "?" * 12]
    for template, result in zip(templates, tasks.edit(loaded, templates, sampler=sampler)):
        anchors = template.replace(" ", "")
        assert result.input == template
        assert len(result.text) == len(anchors)
        assert all(a in ("?", b) for a, b in zip(anchors, result.text))
        assert "?" not in result.text
        assert result.finish_reason == "eos"


def test_a_bad_string_does_not_change_the_noise_of_the_next(loaded: Loaded) -> None:
    sampler, template = SamplerConfig("maskgit", steps=2), "(+(*????)??)=??"
    alone = [
        tasks.edit(loaded, [first, template], sampler=sampler)[1]
        for first in ("(+11)=2", "not a string", "")
    ]
    assert len({result.text for result in alone}) == 1
    assert (
        len(
            {
                tasks.edit(loaded, [template], sampler=sampler, seed=seed)[0].text
                for seed in range(5)
            }
        )
        > 1
    )


def test_a_question_mark_that_is_a_symbol_is_kept() -> None:
    json = load_denoiser(CHECKPOINTS / "json.pt", "cpu")
    (filled,) = tasks.edit(json, ['["?",¿]'], grammar=True)
    assert filled.parses
    assert filled.text.startswith('["?",')
    (shorter,) = tasks.rewrite(json, ['["?",12]'], replace=(4, 7), length=0, grammar=True)
    assert shorter.text == '["?"]'


def test_edit_masks_spans(loaded: Loaded) -> None:
    (result,) = tasks.edit(loaded, [GOOD], masks=[(3, 5), (11, 13)])
    assert (result.text[:3], result.text[5:11]) == (GOOD[:3], GOOD[5:11])
    (bad,) = tasks.edit(loaded, [GOOD], masks=[(10, 14)])
    assert bad.error is not None
    assert "10:14" in bad.error


@pytest.mark.parametrize("method", tasks.REPAIR_METHODS)
def test_repair_gives_plain_strings(loaded: Loaded, method: str) -> None:
    texts = ["(+(*75)10=45", "(+(*7?)10)=45", "(+75)=?2"]
    for text, result in zip(texts, tasks.repair(loaded, texts, method=method)):
        assert result.input == text
        assert abs(len(result.text) - len(text)) <= (2 if method == "channel" else 0)
        assert set(result.text) <= set("0123456789()+*=")


def test_channel_repair_with_almost_no_noise_returns_its_input(loaded: Loaded) -> None:
    """At a tiny sigma repair is the identity, and only masks are filled."""
    texts = [GOOD, "(+75)=12"]
    assert [result.text for result in tasks.repair(loaded, texts, sigma=1e-6)] == texts


@pytest.mark.slow
def test_repair_of_a_string_does_not_depend_on_the_batch(loaded: Loaded) -> None:
    texts = [GOOD, "(+75)=?2", "((((", "5" * 30, "(*?5)=1"]
    together = [result.text for result in tasks.repair(loaded, texts)]
    assert together == [tasks.repair(loaded, [text])[0].text for text in texts]


@pytest.mark.parametrize("verb", [tasks.edit, tasks.repair])
def test_bad_strings_are_reported_in_place(loaded: Loaded, verb: object) -> None:
    texts = [
        GOOD,
        "",
        "   ",
        "(+a5)=1",
        "5" * 200,
        "(" * 1_000_000,
        DataError("the line is not UTF-8 text"),
        "\udcff" * 5,
        GOOD,
    ]
    results = verb(loaded, texts)  # type: ignore[operator]
    assert len(results) == len(texts)
    foreign = [texts[3], texts[7]]  # symbols that are unreadable to `repair`
    fine = [result.input in (GOOD, *foreign[: 2 * (verb is tasks.repair)]) for result in results]
    assert [result.error is None for result in results] == fine
    bad = [result for result in results if result.error is not None]
    assert len(bad) == (5 if verb is tasks.repair else 7)
    assert all(result.finish_reason == "error" and result.text == "" for result in bad)
    assert all("\n" not in result.error and len(result.error) <= 400 for result in bad)
    if verb is tasks.edit:
        assert "position 2" in results[3].error
    else:
        assert results[3].foreign == {2: "a"}
    assert results[0].text == results[-1].text


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"method": "chanel"}, "'channel'"),
        ({"sigma": 0.0}, "sigma"),
        ({"sigma": 2.0}, "sigma"),
        ({"beam": 0}, "beam"),
        ({"slack": -1}, "slack"),
    ],
)
def test_bad_settings_raise(loaded: Loaded, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tasks.repair(loaded, [GOOD], **settings)  # type: ignore[arg-type]


def test_unknown_sampler_raises(loaded: Loaded) -> None:
    with pytest.raises(ConfigError, match="maskgit"):
        tasks.generate(loaded, 1, sampler=SamplerConfig(sampler="maskgi"))


def test_trace_shows_the_run(loaded: Loaded) -> None:
    for result in (
        tasks.generate(loaded, 2, length=10, trace=True)[1],
        tasks.edit(loaded, ["(+??)=12"], trace=True)[0],
        tasks.repair(loaded, ["(+7?)=12"], trace=True)[0],
    ):
        assert result.trace
        assert result.text in "\n".join(result.trace)
    assert tasks.generate(loaded, 1)[0].trace is None


def test_score_is_the_mean_causal_log_probability(loaded: Loaded) -> None:
    (result,) = tasks.repair(loaded, [GOOD], sigma=1e-6)
    vocabulary = loaded.language.vocabulary
    tokens = torch.tensor([[vocabulary.bos, *vocabulary.encode(result.text), vocabulary.eos]])
    logits = loaded.denoiser(tokens, torch.tensor([tokens.shape[1]]), torch.zeros(1), True, None)
    inner = logits[0, 1:-1][:, list(vocabulary.inner_ids)].double().log_softmax(-1)
    columns = torch.tensor([vocabulary.inner_ids.index(int(i)) for i in tokens[0, 1:-1]])
    expected = float(inner.gather(1, columns[:, None]).mean())
    assert result.score == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("method", tasks.REPAIR_METHODS)
def test_repair_under_a_grammar_parses_and_keeps_valid_strings(loaded: Loaded, method: str) -> None:
    texts = ["7=8", "(+(*75)10=45", "))((", "?????", "(+12)=?", "=+=+="]
    if method == "draft":
        texts = [text for text in texts if len(text) > 4 or text == "7=8"]
    free = tasks.repair(loaded, texts, method=method)
    results = tasks.repair(loaded, texts, method=method, grammar=True)
    assert all(result.parses for result in results)
    assert method == "least_edits" or not all(result.parses for result in free)
    assert (results[0].text, results[0].evaluations) == ("7=8", 0)
    for plain, under in zip(free[1:], results[1:], strict=True):
        if method == "channel" and plain.parses:
            assert under.text == plain.text


@pytest.mark.slow
def test_under_a_grammar_an_untrained_model_writes_the_language(loaded: Loaded) -> None:
    config = SamplerConfig("maskgit", steps=2, grammar=True)
    made = tasks.generate(loaded, 20, sampler=config)
    assert all(result.parses for result in made)
    assert not all(
        result.parses
        for result in tasks.generate(loaded, 20, sampler=SamplerConfig("maskgit", steps=2))
    )
    texts = ["(+?(*24))=1?", "(+?(*24)=1?", "(+(*??)10)=45"]
    results = tasks.edit(loaded, texts, sampler=config)
    assert [result.finish_reason for result in results] == ["eos", "error", "eos"]
    assert "symbol 8 cannot be '='" in (results[1].error or "")
    for text, result in zip(texts[::2], results[::2], strict=True):
        assert result.parses
        assert all(b in ("?", a) for a, b in zip(result.text, text, strict=True))


def test_edit_under_a_grammar_gives_the_best_filling(loaded: Loaded) -> None:
    texts = ["(+(*??)10)=45", "(+?)?=?", "?=?"]
    first, second = (tasks.edit(loaded, texts, grammar=True, seed=seed) for seed in (0, 1))
    assert first == second  # nothing is drawn
    assert [result.finish_reason for result in first] == ["eos", "error", "eos"]
    assert first[0].parses
    assert first[2].parses


def test_a_given_constrained_sampler_refuses_strings_individually(loaded: Loaded) -> None:
    sampler = constrained(Unmask(steps=2), GrammarConstraint.of(loaded.language))
    results = tasks.edit(loaded, ["(+(*??)10)=45", "(+?)?=?", "?=?"], sampler=sampler)
    assert [result.finish_reason for result in results] == ["eos", "error", "eos"]
    assert results[0].parses
    assert "(+?)?=?" in (results[1].error or "")


def test_strings_longer_than_the_model_have_no_score(loaded: Loaded) -> None:
    """A parsable string of any length is kept; the nearest string may be too long to score."""
    longest = loaded.language.max_symbols
    whole = "1=1" + "0" * (longest - 1)
    assert len(whole) == longest + 2
    (kept,) = tasks.repair(loaded, [whole], grammar=True)
    assert (kept.text, kept.score, kept.parses) == (whole, None, True)
    open_brackets = "(+" * (longest // 2) + "1"
    (closed,) = tasks.repair(loaded, [open_brackets], method="least_edits")
    assert closed.parses
    assert closed.finish_reason == "eos"
