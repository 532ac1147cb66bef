"""The suites of the benchmark, on oracles and on denoisers with known behaviour."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from maskdiff import checkpoint, metrics
from maskdiff.config import SamplerConfig
from maskdiff.data import held_out
from maskdiff.errors import CanvasError, ConfigError
from maskdiff.evaluation import editing, generation, likelihood, padded, repair, speed, yardsticks
from maskdiff.evaluation.rows import Plan, SuiteRun, sampler_settings, sorted_lengths, unigram_texts
from maskdiff.languages import split_of
from maskdiff.sampling import make_sampler
from maskdiff.tasks.repairing import SIGMAS
from tests.helpers.evaluation import (
    LANGUAGE,
    TINY,
    VOCABULARY,
    Uniform,
    Zeros,
    pick,
    rows_of,
    save_tiny,
    subject,
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "best.pt")


# --------------------------------------------------------------------------------------------- rows


def test_lengths_follow_the_language_and_its_bounds() -> None:
    lengths = sorted_lengths(LANGUAGE, 4000, None, np.random.default_rng(0))
    exact = sum(
        n * math.exp(LANGUAGE.length_log_prob(n))
        for n in range(LANGUAGE.min_symbols, LANGUAGE.max_symbols + 1)
    )
    assert abs(np.mean(lengths) - exact) < 5 * np.std(lengths) / math.sqrt(4000)
    assert lengths == sorted(lengths)
    long = sorted_lengths(LANGUAGE, 100, (40, 62), np.random.default_rng(0))
    assert min(long) >= 40
    with pytest.raises(CanvasError, match=r"63\.\.70"):
        sorted_lengths(LANGUAGE, 1, (63, 70), np.random.default_rng(0))


def test_a_figure_is_measured_once() -> None:
    run = SuiteRun("x", subject(Uniform()), Plan())
    run.group("s", {"a": 1}).add("parses", metrics.wilson(1, 2))
    run.group("s", {"a": 2}).add("parses", metrics.wilson(1, 2))
    with pytest.raises(ValueError, match="twice"):
        run.group("s", {"a": 1}).add("parses", metrics.wilson(1, 2))


def test_shown_settings_are_those_that_take_effect() -> None:
    def shown(sampler: str, **given: Any) -> dict[str, Any]:
        return sampler_settings(SamplerConfig(sampler, **given))

    assert shown("autoregressive", num_ar_tokens=5) == {"temperature": 1.0}
    assert shown("predictive", top_p=0.9) == {"temperature": 1.0, "top_p": 0.9}
    assert shown("margin", steps=0) == {"steps": 0, "temperature": 1.0}
    assert shown("hybrid", steps=4) == {"steps": 4, "num_ar_tokens": 3, "temperature": 1.0}
    assert (
        shown("hybrid", steps=0, num_ar_tokens=20)["steps"] == 0
    )  # a probe of 12 steps would be refused
    assert shown("naive", steps=5, temperature=0.0) == {"steps": 5, "temperature": 0.0}


# --------------------------------------------------------------------------------------- generation


@pytest.mark.slow
def test_generation_rows_are_complete_and_right() -> None:
    plan = Plan(
        num_samples=60,
        samplers=(
            SamplerConfig("random", steps=4),
            SamplerConfig("autoregressive", steps=0, temperature=0.0),
        ),
    )
    rows = rows_of(generation.generation_suite, subject(Zeros()), plan)
    blocks = [
        r for r in rows if r.metric == "parses" and not {"length", "nesting"} & r.settings.keys()
    ]
    assert [r.sampler for r in blocks] == ["random", "autoregressive"]
    for r in rows:
        if not math.isnan(r.value) and r.low is not None and r.high is not None:
            assert r.low <= r.value <= r.high, r
    assert pick(rows, "parses").value == 0.0  # zeros alone are no equation
    assert pick(rows, "balanced").value == 1.0  # and the reference's metric accepts them
    assert pick(rows, "has_equals").value == 0.0
    assert pick(rows, "distinct_relative").value < 0.8
    # Noise is more distinct than equations.
    assert pick(rows, "distinct_relative").baseline > 1.0  # type: ignore[operator]
    assert pick(rows, "distinct_valid").value == pick(rows, "distinct_valid_relative").value == 0.0
    assert pick(rows, "distinct_valid_relative").baseline < 0.2  # type: ignore[operator]
    assert pick(rows, "distinct_valid_relative").ceiling == pytest.approx(1.0, abs=0.2)
    assert pick(rows, "parses").ceiling == 1.0
    assert pick(rows, "length_distance").value < 0.5 < pick(rows, "operator_distance").value
    assert pick(rows, "in_support").value == 0.0
    assert pick(rows, "log_likelihood").ceiling == pytest.approx(
        -LANGUAGE.entropy()["per_token_given_length"], abs=0.1
    )
    by_length = [r for r in rows if "length" in r.settings and r.sampler == "random"]
    assert [r.settings["length"] for r in by_length] == [
        name for name, _, _ in metrics.LENGTH_BUCKETS
    ]
    assert sum(r.count for r in by_length) == 60


@pytest.mark.slow
@pytest.mark.usefixtures("few_references")
def test_generation_within_a_length_range() -> None:
    plan = Plan(num_samples=10, lengths=(40, 62), samplers=(SamplerConfig("random", steps=2),))
    run = SuiteRun("generation", subject(Uniform()), plan, seen=lambda text: True)
    generation.generation_suite(run)
    rows = run.rows
    assert pick(rows, "parses").settings["length"] == "40..62"
    assert pick(rows, "novel").value == 0.0
    texts = generation.real_texts(LANGUAGE, 20, (40, 62), np.random.default_rng(0))
    assert len(texts) == 20
    assert all(40 <= len(t) <= 62 and LANGUAGE.holds(t) for t in texts)


@pytest.mark.slow
@pytest.mark.parametrize("bounds", [None, (40, 62)])
def test_histograms_are_compared_with_held_out_strings(bounds: tuple[int, int] | None) -> None:
    plan = Plan(lengths=bounds)
    texts = generation.held_out_texts(LANGUAGE, 1500, plan)
    few, again = (generation.held_out_texts(LANGUAGE, 100, plan) for _ in range(2))
    assert few == again
    assert all(split_of(text) == plan.split for text in texts if len(text) >= 20)
    assert np.mean([split_of(text) == plan.split for text in texts]) > 0.7
    assert all(LANGUAGE.holds(text) for text in texts)
    low, high = bounds or (LANGUAGE.min_symbols, LANGUAGE.max_symbols)
    assert all(low <= len(text) <= high for text in texts)
    # Where the split has no string of a length, any string stands in: its lengths are the
    # language's.
    real = [
        len(text)
        for text in generation.real_texts(LANGUAGE, 1500, bounds, np.random.default_rng(0))
    ]
    assert (
        metrics.histogram_distance(list(map(len, texts)), real, np.random.default_rng(0), 20).value
        < 0.12
    )
    if bounds is None:
        split = [len(text) for text in held_out(LANGUAGE, plan.split, 1500, 0)]
        assert metrics.histogram_distance(split, real, np.random.default_rng(0), 20).value > 0.15


def test_batch_size_does_not_change_the_strings(tiny: Path) -> None:
    denoiser, lengths = checkpoint.load_denoiser(tiny).denoiser, [5, 7, 9, 21, 40]
    config = SamplerConfig("entropy", steps=5)
    one, five = (
        generation.sample_texts(denoiser, make_sampler(config), lengths, 3, size) for size in (1, 5)
    )
    assert one.texts == five.texts
    assert one.evaluations == five.evaluations


def test_the_blind_baseline_has_the_real_frequencies() -> None:
    texts = unigram_texts(["00000001"], [4000], np.random.default_rng(0))
    assert abs(texts[0].count("1") / 4000 - 1 / 8) < 0.03


# --------------------------------------------------------------------------------------- likelihood


def test_the_elbo_of_a_uniform_model_is_exact() -> None:
    """Every mask has the same loss per hidden symbol: the Monte-Carlo sum has no variance."""
    texts = held_out(LANGUAGE, "test", 40, 0)
    rows = rows_of(likelihood.likelihood_suite, subject(Uniform()), Plan(likelihood_draws=3), texts)
    symbols = math.log(len(VOCABULARY.inner_ids))
    assert pick(rows, "elbo").value == pytest.approx(symbols)
    assert pick(rows, "next_token").value == pytest.approx(symbols)
    assert pick(rows, "elbo").baseline == pytest.approx(symbols)
    parts = [r.value for r in rows if r.metric == "elbo_part"]
    assert sum(parts) == pytest.approx(symbols)
    assert sum(r.value for r in rows if r.metric == "token_share") == pytest.approx(1.0)
    floor = -sum(LANGUAGE.log_prob(t) - LANGUAGE.length_log_prob(len(t)) for t in texts) / sum(
        map(len, texts)
    )
    assert pick(rows, "elbo").ceiling == pytest.approx(floor)
    assert pick(rows, "elbo_excess").value == pytest.approx(symbols - floor)
    assert len([r for r in rows if r.metric == "masked_loss"]) == likelihood.SIGMA_BUCKETS


@pytest.mark.parametrize("option", ["", "end_positions", "causal_length"])
def test_whole_strings_are_counted_alike(option: str) -> None:
    """A string costs its symbols and either its length or its end; both count as one more."""
    texts = held_out(LANGUAGE, "test", 40, 0)
    rows = rows_of(
        likelihood.likelihood_suite,
        subject(Zeros(), **({option: False} if option else {})),
        Plan(likelihood_draws=1),
        texts,
    )
    by = {row.sampler: row for row in rows if row.metric == "nats_per_symbol"}
    symbols = sum(map(len, texts))
    others = symbols - "".join(texts).count("0")
    each = 30 * others + 0.0  # a zero is certain; any other symbol costs 30
    if option:  # so does the end
        each += 30 * len(texts)
    else:
        each -= sum(LANGUAGE.length_log_prob(len(text)) for text in texts)
    counted = symbols + len(texts)
    assert by["causal"].value == pytest.approx(each / counted, rel=1e-6)
    model = yardsticks.fit_yardsticks(LANGUAGE, 0).model
    log_p = model.log_probs([VOCABULARY.encode(text) for text in texts])
    assert by["ngram"].value == pytest.approx(-log_p.sum() / counted)
    floor = -sum(map(LANGUAGE.log_prob, texts)) / counted
    assert by["ngram"].ceiling == pytest.approx(floor)
    assert by["ngram"].value > floor
    difference = pick(rows, "nats_difference")
    assert difference.value == pytest.approx(by["causal"].value - by["ngram"].value)


@pytest.mark.slow
def test_the_elbo_estimator_is_unbiased() -> None:
    """Compare the estimate with the exact sum over k, for a loss that depends on k."""

    class Share(Uniform):
        def __call__(
            self,
            tokens: Tensor,
            length: Tensor,
            sigma: Tensor,
            causal: bool,
            *inputs: Tensor | None,
        ) -> Tensor:
            hidden = (tokens == VOCABULARY.mask).sum(1)[:, None, None]
            logits = torch.zeros(*tokens.shape, len(VOCABULARY))
            logits[..., VOCABULARY.ids["0"]] = 1.0  # so that classes differ
            return logits * hidden / 10

    texts = ["(+12)=3", "0=0", "(*(+00)7)=0"]
    losses = likelihood.measure_losses(Share(), LANGUAGE, texts, 4000, 0)

    def loss(symbol: str, k: int) -> float:
        return math.log(math.exp(k / 10) + len(VOCABULARY) - 1) - (k / 10 if symbol == "0" else 0.0)

    for text, estimate in zip(sorted(texts, key=len), losses.elbo.sum(1), strict=True):
        n = len(text)
        exact = sum(n / k * k / n * loss(symbol, k) for k in range(1, n + 1) for symbol in text) / n
        assert estimate == pytest.approx(exact, rel=0.01)


# ---------------------------------------------------------------------------------- repair, editing


@pytest.mark.slow
def test_repair_rows_include_the_identity_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    clean = held_out(LANGUAGE, "test", 80, 0)
    levels_given: list[float | None] = []
    noise_given: list[int] = []

    def simple(texts: list[str], known: yardsticks.KnownDamage) -> list[str]:
        noise_given.append(len(known.noise or ()))
        return [*clean[:20], *texts[20:]]

    fitted = SimpleNamespace(repairers=lambda: {"simple": simple})
    monkeypatch.setattr(repair, "fit_yardsticks", lambda *_: fitted)

    def fix(
        loaded: Any, texts: list[str], method: str, sigma: float | None, seed: int, _: object
    ) -> repair.Fixed:
        levels_given.append(sigma)
        answers = {"channel oracle": clean, "identity": texts, "least_edits": texts}
        return repair.Fixed(answers[method], [3] * len(texts))

    plan = Plan(
        sigmas=(0.2,),
        corruptions=("mixed", "reference", "delete"),
        repair_methods=("channel oracle", "identity"),
    )
    rows = rows_of(repair.repair_suite, subject(Uniform()), plan, clean, fix)
    for r in rows:
        if r.baseline is not None and r.sampler != "simple":
            assert r.value == (1.0 if r.sampler == "channel oracle" else r.baseline), r
    gains = [r for r in rows if r.metric == "exact_gain"]
    assert [r.sampler for r in gains] == ["channel oracle against simple"] * 4
    mixed = pick([r for r in rows if r.sampler == "simple"], "exact", corruption="mixed")
    assert gains[0].value == pytest.approx(1 - mixed.value)
    assert noise_given == [1, 1, 1, len(SIGMAS)]  # the level, or all of them where it is unknown
    assert pick(rows, "evaluations").value == 3.0
    assert pick(rows, "strings_per_second").value > 0
    assert (
        pick(rows, "strings_per_second").low is pick(rows, "strings_per_second").high is None
    )  # a single pass
    assert levels_given == [0.2] * 9 + [None] * 3
    untold = [r for r in rows if r.settings.get("level") == "untold"]
    assert len(untold) == 4 * 7 + 1  # each repairer has 7 figures
    same_position, aligned = (
        pick(rows, m, corruption="delete").baseline for m in ("token_accuracy", "aligned_accuracy")
    )
    assert same_position < 0.6 < 0.75 < aligned  # type: ignore[operator]
    with pytest.raises(ConfigError, match="unknown"):
        repair.corruption("melt")


def test_repair_without_sigma_is_measured_once_for_mixed_damage() -> None:
    assert repair.damage_levels(Plan(corruptions=("swap",), sigmas=(0.1, 0.2))) == [
        ("swap", 0.1, True),
        ("swap", 0.2, True),
    ]
    assert repair.damage_levels(Plan(corruptions=("mixed",), sigmas=(0.3,))) == [
        ("mixed", 0.3, True),
        ("mixed", 0.3, False),
    ]
    assert repair.damage_levels(Plan(corruptions=("mixed",), sigmas=(0.1, 0.2)))[-1] == (
        "mixed",
        0.2,
        False,
    )


def test_repair_suite_with_the_repair_task(tmp_path: Path) -> None:
    loaded = checkpoint.load_denoiser(save_tiny(tmp_path / "best.pt"))
    texts = ["(+12)=3", "x", "(+?2)=3"]
    for sigma in (0.2, None):
        fixed = repair.fix_with_tasks(loaded, texts, "draft", sigma, 0)
        assert fixed.texts[1] == "x"  # refused strings are returned unchanged
        assert fixed.evaluations[1] == 0 < min(fixed.evaluations[0], fixed.evaluations[2])


def test_the_references_identity_baseline() -> None:
    """Compare with a re-run of the reference on 200 strings.

    It measured 85.4, 76.2 and 67.2 at sigma 0.1, 0.2 and 0.3.
    """
    clean = LANGUAGE.sample_many(1500, np.random.default_rng(5))
    for sigma, published in ((0.1, 0.854), (0.2, 0.762), (0.3, 0.672)):
        noisy = repair.corrupt(LANGUAGE, clean, sigma, "reference", 0)
        assert np.mean(
            [metrics.token_accuracy(a, b) for a, b in zip(noisy, clean, strict=True)]
        ) == pytest.approx(published, abs=0.035)


@pytest.mark.slow
def test_editing_counts_a_lost_anchor() -> None:
    clean = held_out(LANGUAGE, "test", 40, 0)

    def least_edits(_: Any, texts: list[str], method: str, *__: object) -> repair.Fixed:
        assert method == "least_edits"
        return repair.Fixed(texts, [0] * len(texts))

    rows = rows_of(
        editing.editing_suite,
        subject(Uniform()),
        Plan(),
        clean,
        lambda *_: repair.Fixed(clean, [1] * 40),
        least_edits,
    )
    own = [r for r in rows if r.sampler == "edit" and r.metric != "strings_per_second"]
    assert all(r.value == 1.0 for r in own)
    for name in ("ngram", "pcfg"):  # they fill the blanks, and nothing else
        assert pick([r for r in rows if r.sampler == name], "anchors_kept").value == 1.0
    lines = {r.metric: r for r in rows if r.sampler == "nearest_line"}
    assert lines["parses"].value == 1.0 > lines["anchors_kept"].value
    (gain,) = [r for r in rows if r.metric == "exact_gain"]
    best = max(r.value for r in rows if r.metric == "exact" and r.sampler != "edit")
    assert gain.sampler.startswith("edit against ")
    assert gain.value == pytest.approx(1 - best)
    assert pick(rows, "anchors_kept").baseline == 1.0
    assert pick(rows, "parses").baseline < 0.6  # type: ignore[operator]
    garbage = repair.Fixed(["=" * len(text) for text in clean], [1] * 40)
    given = Plan(), clean, lambda *_: garbage, least_edits
    spoilt = rows_of(editing.editing_suite, subject(Uniform()), *given)
    assert pick(spoilt, "anchors_kept").value < 0.3
    assert pick(spoilt, "anchors_all_kept").value == 0.0
    templates = editing.blank_symbols(clean, 0.2, np.random.default_rng(0))
    assert all(
        t.count("?") == max(1, int(0.2 * len(c))) for t, c in zip(templates, clean, strict=True)
    )


# -------------------------------------------------------------------------------------------- speed


def test_padded_loop_learns_and_keeps_its_shapes() -> None:
    torch.manual_seed(0)
    loop = padded.PaddedLoop(LANGUAGE, ["(+12)=3", "0=0"], batch_size=8)
    shown, clean, levels = loop.noised()
    assert shown.shape == clean.shape == (8, 64)
    assert levels.shape == (8,)
    assert loop.step((shown, clean, levels)) == int((clean != 0).sum())
    row = [2, *VOCABULARY.encode("(+12)=3"), 3]
    for edit in ("mask", "replace", "swap", "delete", "insert"):
        noisy = padded.corrupt_row(row, 0.3, {edit: 1.0}, loop.symbols, 1, 64)
        assert noisy[0] == 2
        assert noisy[-1] == 3
        assert len(noisy) - len(row) == {"delete": -2, "insert": 2}.get(edit, 0)


def test_both_loops_train_on_the_same_strings(tmp_path: Path) -> None:
    config = replace(TINY, train=replace(TINY.train, batch_size=8, length_tilt=0.9, num_samples=0))
    trainer, loop = speed.make_loops(config, LANGUAGE, tmp_path, 0)
    assert sorted(VOCABULARY.decode(row[1:-1]) for row in loop.rows) == sorted(
        trainer.batches.texts()
    )
    lengths = [len(row) - 2 for row in loop.rows]
    expected = sum(n * p for n, p in enumerate(LANGUAGE.length_probs()))
    assert (
        abs(np.mean(lengths) - expected) < 5 * np.std(lengths) / math.sqrt(len(lengths)) + 1
    )  # the split shifts it a little


@pytest.mark.slow
def test_speed_rows_are_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "ROUNDS", 2)
    monkeypatch.setattr(speed, "STEPS_A_ROUND", 1)
    config = replace(TINY, train=replace(TINY.train, batch_size=8))
    rows = rows_of(speed.add_training, subject(Uniform()), Plan(), (), config)
    ours = pick(rows, "training_tokens_per_second", loop="ours")
    assert ours.baseline == pick(rows, "training_tokens_per_second", loop="padded loop").value > 0
    assert pick(rows, "training_speedup").value > 0
    assert 0 < pick(rows, "corruption_share", loop="ours").value < 1
    sampled = rows_of(
        speed.add_sampling,
        subject(Uniform()),
        Plan(num_samples=4, samplers=(SamplerConfig("random", steps=2),), speed_seconds=0.1),
    )
    assert sampled[0].metric == "strings_per_second"
    assert sampled[0].value > 0


@pytest.mark.slow
def test_repair_under_a_grammar_and_without_a_model(tmp_path: Path) -> None:
    methods = repair.check_methods(["channel", "draft"], grammar=True)
    assert methods == (
        "channel",
        "draft",
        "channel+grammar",
        "draft+grammar",
        "channel+grammar+holds",
        "least_edits",
    )
    loaded = checkpoint.load_denoiser(save_tiny(tmp_path / "best.pt"))
    noisy = ["=+=+=", "((((((((", "0=0"]
    for method in methods:
        fixed = repair.fix_with_tasks(loaded, noisy, method, 0.2, 0)
        parsed = [loaded.language.parses(text) for text in fixed.texts]
        assert all(parsed) == (method not in ("channel", "draft")), method
        assert not method.endswith("+holds") or all(
            map(loaded.language.holds, fixed.texts)
        )  # a true string is near these
