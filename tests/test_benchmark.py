"""The suites, reports and the reproduction, on an untrained model, on oracles and on doctored figures."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import benchmark
from maskdiff import checkpoint, metrics
from maskdiff.config import Config, ModelConfig, SamplerConfig, TrainConfig
from maskdiff.configio import load_config
from maskdiff.data import held_out
from maskdiff.errors import CanvasError, ConfigError, DataError
from maskdiff.evaluation import editing, generation, likelihood, padded, plots, repair, report, reproduce, speed, suites
from maskdiff.evaluation.rows import Ledger, Plan, Row, Subject, draw_lengths, row, unigram_texts
from maskdiff.evaluation.variants import VARIANTS, Faithful, maskgit, refine, untrained_prefix
from maskdiff.languages import make_language
from maskdiff.model import UniversalDenoiser
from maskdiff.sampling import Canvas

LANGUAGE = make_language()
VOCABULARY = LANGUAGE.vocabulary
TINY = Config(
    model=ModelConfig(n_layer=1, k_iter=1, n_embd=16, n_head=2, vocab_size=len(VOCABULARY)), train=TrainConfig(num_samples=300)
)


class Uniform:
    """Gives every one of the inner symbols the same probability, wherever it looks."""

    vocabulary = VOCABULARY

    def __call__(self, tokens: Tensor, length: Tensor, sigma: Tensor, causal: bool, previous: Tensor | None = None) -> Tensor:
        logits = torch.full((*tokens.shape, len(VOCABULARY)), -math.inf)
        logits[..., list(VOCABULARY.inner_ids)] = 0.0
        return logits


class Zeros(Uniform):
    """Is certain of a zero everywhere, and of EOS where the string ends."""

    def __call__(self, tokens: Tensor, length: Tensor, sigma: Tensor, causal: bool, previous: Tensor | None = None) -> Tensor:
        logits = torch.full((*tokens.shape, len(VOCABULARY)), -30.0)
        logits[..., VOCABULARY.ids["0"]] = 0.0
        return logits


def subject(denoiser: Any, **model: Any) -> Subject:
    config = replace(TINY, model=replace(TINY.model, **model))
    return Subject(SimpleNamespace(denoiser=denoiser, language=LANGUAGE, config=config, metrics={}, provenance={}, path=""))  # type: ignore[arg-type]


def pick(rows: list[Row], metric: str, **settings: Any) -> Row:
    found = [r for r in rows if r.metric == metric and settings.items() <= r.settings.items()]
    assert len(found) >= 1, (metric, settings)
    return found[0]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("tiny") / "best.pt"
    checkpoint.save(path, checkpoint.make_payload(TINY, VOCABULARY, UniversalDenoiser(TINY.model).state_dict()))
    return path


# ------------------------------------------------------------------------------------------------------------- rows


def test_lengths_follow_the_language_and_its_bounds() -> None:
    lengths = draw_lengths(LANGUAGE, 4000, None, np.random.default_rng(0))
    exact = sum(n * math.exp(LANGUAGE.length_log_prob(n)) for n in range(LANGUAGE.min_symbols, LANGUAGE.max_symbols + 1))
    assert abs(np.mean(lengths) - exact) < 5 * np.std(lengths) / math.sqrt(4000)
    assert lengths == sorted(lengths)
    long = draw_lengths(LANGUAGE, 100, (40, 62), np.random.default_rng(0))
    assert min(long) >= 40
    with pytest.raises(CanvasError, match="63 to 70"):
        draw_lengths(LANGUAGE, 1, (63, 70), np.random.default_rng(0))


def test_a_figure_is_measured_once() -> None:
    ledger = Ledger("x")
    ledger.add("s", {"a": 1}, "parses", metrics.wilson(1, 2))
    ledger.add("s", {"a": 2}, "parses", metrics.wilson(1, 2))
    with pytest.raises(ValueError, match="twice"):
        ledger.add("s", {"a": 1}, "parses", metrics.wilson(1, 2))


# ------------------------------------------------------------------------------------------------------- generation


def test_generation_rows_are_complete_and_right() -> None:
    plan = Plan(
        num_samples=60, samplers=(SamplerConfig("random", steps=4), SamplerConfig("autoregressive", steps=0, temperature=0.0))
    )
    rows = generation.generation(subject(Zeros()), plan, set())
    blocks = [r for r in rows if r.metric == "parses" and not {"length", "nesting"} & r.settings.keys()]
    assert [r.sampler for r in blocks] == ["random", "autoregressive"]
    for r in rows:
        assert math.isnan(r.value) or r.low is None or r.low <= r.value <= r.high, r  # type: ignore[operator]
    assert pick(rows, "parses").value == 0.0  # zeros alone are no equation
    assert pick(rows, "balanced").value == 1.0  # and yet the reference's metric likes them
    assert pick(rows, "has_equals").value == 0.0
    assert pick(rows, "distinct_relative").value < 0.8
    assert pick(rows, "parses").ceiling == 1.0
    assert pick(rows, "length_distance").value < 0.5 < pick(rows, "operator_distance").value
    assert pick(rows, "in_support").value == 0.0
    assert pick(rows, "log_likelihood").ceiling == pytest.approx(-LANGUAGE.entropy()["per_token_given_length"], abs=0.1)
    by_length = [r for r in rows if "length" in r.settings and r.sampler == "random"]
    assert [r.settings["length"] for r in by_length] == [name for name, _, _ in metrics.LENGTH_BUCKETS]
    assert sum(r.count for r in by_length) == 60


def test_generation_within_a_length_range() -> None:
    plan = Plan(num_samples=10, lengths=(40, 62), samplers=(SamplerConfig("random", steps=2),))
    rows = generation.generation(subject(Uniform()), plan, lambda text: True)
    assert pick(rows, "parses").settings["length"] == "40..62"
    assert pick(rows, "novel").value == 0.0
    texts = generation.real_texts(LANGUAGE, 20, (40, 62), np.random.default_rng(0))
    assert len(texts) == 20
    assert all(40 <= len(t) <= 62 and LANGUAGE.holds(t) for t in texts)


def test_batch_size_changes_no_string(tiny: Path) -> None:
    denoiser, lengths = checkpoint.load_denoiser(tiny).denoiser, [5, 7, 9, 21, 40]
    config = SamplerConfig("entropy", steps=5)
    one, five = (generation.draw(denoiser, config, lengths, 3, size) for size in (1, 5))
    assert one.texts == five.texts
    assert one.evaluations == five.evaluations


def test_the_blind_baseline_has_the_real_frequencies() -> None:
    texts = unigram_texts(["00000001"], [4000], np.random.default_rng(0))
    assert abs(texts[0].count("1") / 4000 - 1 / 8) < 0.03


# ------------------------------------------------------------------------------------------------------- likelihood


def test_the_elbo_of_a_uniform_model_is_exact() -> None:
    """Every masking has the same loss per hidden symbol, so the Monte-Carlo sum has no variance at all."""
    texts = held_out(LANGUAGE, "test", 40, 0)
    rows = likelihood.likelihood(subject(Uniform()), Plan(likelihood_draws=3), texts)
    symbols = math.log(len(VOCABULARY.inner_ids))
    assert pick(rows, "elbo").value == pytest.approx(symbols)
    assert pick(rows, "next_token").value == pytest.approx(symbols)
    assert pick(rows, "elbo").baseline == pytest.approx(symbols)
    parts = [r.value for r in rows if r.metric == "elbo_part"]
    assert sum(parts) == pytest.approx(symbols)
    assert sum(r.value for r in rows if r.metric == "token_share") == pytest.approx(1.0)
    floor = -sum(LANGUAGE.log_prob(t) - LANGUAGE.length_log_prob(len(t)) for t in texts) / sum(map(len, texts))
    assert pick(rows, "elbo").ceiling == pytest.approx(floor)
    assert pick(rows, "elbo_excess").value == pytest.approx(symbols - floor)
    assert len([r for r in rows if r.metric == "masked_loss"]) == likelihood.SIGMA_BUCKETS


def test_the_elbo_estimator_is_unbiased() -> None:
    """A model whose loss depends on how much is hidden: the estimate against the sum over all k by hand."""

    class Share(Uniform):
        def __call__(
            self, tokens: Tensor, length: Tensor, sigma: Tensor, causal: bool, previous: Tensor | None = None
        ) -> Tensor:
            hidden = (tokens == VOCABULARY.mask).sum(1)[:, None, None]
            logits = torch.zeros(*tokens.shape, len(VOCABULARY))
            logits[..., VOCABULARY.ids["0"]] = 1.0  # so that classes differ
            return logits * hidden / 10

    texts = ["(+12)=3", "0=0", "(*(+00)7)=0"]
    losses = likelihood.measure(Share(), LANGUAGE, texts, 4000, 0)

    def loss(symbol: str, k: int) -> float:
        return math.log(math.exp(k / 10) + len(VOCABULARY) - 1) - (k / 10 if symbol == "0" else 0.0)

    for text, estimate in zip(sorted(texts, key=len), losses.elbo.sum(1), strict=True):
        n = len(text)
        exact = sum(n / k * k / n * loss(symbol, k) for k in range(1, n + 1) for symbol in text) / n
        assert estimate == pytest.approx(exact, rel=0.01)


# --------------------------------------------------------------------------------------------------- repair, editing


def test_repair_stands_beside_doing_nothing() -> None:
    clean = held_out(LANGUAGE, "test", 80, 0)
    answers = {}

    def fix(loaded: Any, texts: list[str], method: str, sigma: float, seed: int) -> list[str]:
        answers[method] = texts
        return {"oracle": clean, "identity": texts}[method]

    plan = Plan(sigmas=(0.2,), corruptions=("mixed", "reference", "delete"), repair_methods=("oracle", "identity"))
    rows = repair.repair(subject(Uniform()), plan, clean, fix)
    for r in rows:
        assert r.value == (1.0 if r.sampler == "oracle" else r.baseline), r
    same_position, aligned = (pick(rows, m, corruption="delete").baseline for m in ("token_accuracy", "aligned_accuracy"))
    assert same_position < 0.6 < 0.75 < aligned  # type: ignore[operator]
    with pytest.raises(ConfigError, match="unknown"):
        repair.corruption("melt")


def test_the_references_identity_baseline() -> None:
    """It was measured in a re-run of the reference: 85.4, 76.2 and 67.2 at sigma 0.1, 0.2 and 0.3, on 200 strings."""
    clean = LANGUAGE.sample_many(1500, np.random.default_rng(5))
    for sigma, published in ((0.1, 0.854), (0.2, 0.762), (0.3, 0.672)):
        noisy = repair.corrupt(LANGUAGE, clean, sigma, "reference", 0)
        assert np.mean([metrics.token_accuracy(a, b) for a, b in zip(noisy, clean, strict=True)]) == pytest.approx(
            published, abs=0.035
        )


def test_editing_counts_a_lost_anchor() -> None:
    clean = held_out(LANGUAGE, "test", 40, 0)
    rows = editing.editing(subject(Uniform()), Plan(), clean, lambda loaded, templates, seed: clean)
    assert all(r.value == 1.0 for r in rows)
    assert pick(rows, "anchors_kept").baseline == 1.0
    assert pick(rows, "parses").baseline < 0.6  # type: ignore[operator]
    spoilt = editing.editing(
        subject(Uniform()), Plan(), clean, lambda loaded, templates, seed: ["=" * len(t) for t in templates]
    )
    assert pick(spoilt, "anchors_kept").value < 0.3
    assert pick(spoilt, "anchors_all_kept").value == 0.0
    templates = editing.blanked(clean, 0.2, np.random.default_rng(0))
    assert all(t.count("?") == max(1, int(0.2 * len(c))) for t, c in zip(templates, clean, strict=True))


# ----------------------------------------------------------------------------------------------------------- reports


def sample_report() -> report.Report:
    rows = [
        row("generation", "ar", {"checkpoint": "a", "steps": 0}, "parses", metrics.wilson(9, 10), baseline=0.01, ceiling=1.0),
        row("generation", "ar", {"checkpoint": "a", "steps": 0}, "evaluations", metrics.Estimate(17.0, 16.0, 18.0, 10)),
        row("generation", "ar", {"checkpoint": "a", "steps": 0, "length": "40+"}, "parses", metrics.wilson(0, 0)),
        row("generation", "ar", {"checkpoint": "a", "steps": 0, "length": "<10"}, "parses", metrics.wilson(1, 2)),
        row("generation", "ar", {"checkpoint": "a", "steps": 0, "nesting": 2}, "parses", metrics.wilson(1, 2)),
        row(
            "repair", "channel", {"corruption": "mixed", "sigma": 0.2}, "aligned_accuracy", metrics.wilson(9, 10), baseline=0.76
        ),
        row(
            "repair",
            "channel",
            {"corruption": "mixed", "sigma": 0.1},
            "aligned_accuracy",
            metrics.wilson(10, 10),
            baseline=0.85,
        ),
    ]
    return report.Report(rows, {"samples": 10, "seed": 0, "threads": 1})


def test_json_is_schema_one_and_comes_back(tmp_path: Path) -> None:
    made = sample_report()
    report.write_text(tmp_path / "deep" / "out.json", report.to_json(made))
    data = json.loads((tmp_path / "deep" / "out.json").read_text())
    assert data["schema"] == 1
    assert data["samples"] == 10
    keys = {"suite", "sampler", "settings", "metric", "value", "low", "high", "count", "baseline", "ceiling"}
    assert all(set(item) == keys for item in data["rows"])
    assert data["rows"][2]["value"] is None  # nothing measured is null, never NaN
    back = report.read_json(tmp_path / "deep" / "out.json")
    assert back.rows[0] == made.rows[0]
    assert math.isnan(back.rows[2].value)
    (tmp_path / "bad.json").write_text('{"schema": 2, "rows": []}')
    (tmp_path / "worse.json").write_text("[")
    for name, words in (("bad.json", "schema 2"), ("worse.json", "no benchmark report"), ("none.json", "cannot read")):
        with pytest.raises(DataError, match=words):
            report.read_json(tmp_path / name)


def test_tables_show_values_intervals_and_baselines() -> None:
    made = sample_report()
    text = report.to_terminal(made)
    assert "seed: 0" in text
    assert "90.0 [59.6, 98.2]" in text
    assert "(real draws)" in text
    assert "/ 76.0" in text
    markdown = report.to_markdown(made)
    assert "| a ar steps=0 |" in markdown
    assert "generation, parses by length" in markdown


def test_plots_are_drawn_from_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    written = plots.write_plots(sample_report(), tmp_path)
    assert [p.name for p in written] == [
        "validity_by_evaluations.png", "validity_by_length.png", "validity_by_nesting.png", "repair_by_noise.png",
    ]  # fmt: skip
    assert all(p.read_bytes()[:4] == b"\x89PNG" for p in written)
    assert plots.write_plots(report.Report([]), tmp_path) == []
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(DataError, match="pip install"):
        plots.write_plots(sample_report(), tmp_path)


# ---------------------------------------------------------------------------------------------------------- the door


def test_the_door_end_to_end(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--checkpoint", str(tiny), "--suite", "generation", "likelihood", "--num_samples", "8", "--seed", "3"]
    flags += [
        "--use_maskgit",
        "--use_hybrid",
        "--maskgit_steps",
        "6",
        "--json",
        str(tmp_path / "o.json"),
        "--markdown",
        str(tmp_path / "o.md"),
    ]
    assert benchmark.main(flags) == 0
    out = capsys.readouterr().out
    for words in ("samples: 8", "seed: 3", "threads:", "maskgit steps=6", "hybrid steps=6", "(exact floor)"):
        assert words in out
    data = json.loads((tmp_path / "o.json").read_text())
    assert {r["sampler"] for r in data["rows"] if r["suite"] == "generation"} == {"maskgit", "hybrid"}
    assert data["checkpoints"][0]["parameters"] > 0
    assert "# Benchmark" in (tmp_path / "o.md").read_text()


def test_checkpoints_side_by_side(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other" / "best.pt"
    other.parent.mkdir()
    other.write_bytes(tiny.read_bytes())
    flags = ["--checkpoint", str(tiny), str(other), "--suite", "generation", "--num_samples", "4", "--sampler", "random"]
    assert benchmark.main([*flags, "--json", str(tmp_path / "o.json")]) == 0
    rows = [r for r in json.loads((tmp_path / "o.json").read_text())["rows"] if r["metric"] == "parses"]
    assert {r["settings"]["checkpoint"] for r in rows} == {f"{tiny.parent.name}/best", "other/best"}
    assert "other/best random" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--checkpoint", "nowhere.pt"], "nowhere.pt"),
        (["--suite", "genration"], "generation"),
        (["--sampler", "maskgti"], "maskgit"),
        (["--temperature", "-1"], "temperature"),
        (["--use_hybrid", "--maskgit_steps", "2"], "evaluations"),
        (["--sigma", "0"], "sigma"),
        (["--corruption", "melt"], "melt"),
        (["--length", "63..70", "--suite", "generation"], "3 to 62"),
        (["--reproduce", "--variants", "V9"], "variant"),
    ],
)
def test_bad_flags_are_one_line(flags: list[str], words: str, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = flags if "--checkpoint" in flags else [*flags, "--checkpoint", str(tiny)]
    assert benchmark.main(given) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in last
    assert "Traceback" not in last


def test_without_flags_the_handful(tiny: Path) -> None:
    plan = benchmark.make_plan(benchmark.build_parser().parse_args([]))
    assert ("mixed", 0.5) in plan.damages()
    assert [d for d in plan.damages() if d[0] == "swap"] == [("swap", 0.2)]
    assert len(plan.samplers) >= 6
    assert {"channel", "draft"} == set(plan.repair_methods)
    assert {0.2} <= set(plan.sigmas)
    assert "mixed" in plan.corruptions
    assert set(suites.SUITES) >= {"generation", "repair", "editing", "likelihood", "speed"}


# ------------------------------------------------------------------------------------------------------------- speed


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


def test_speed_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "ROUNDS", 2)
    monkeypatch.setattr(speed, "STEPS_A_ROUND", 1)
    config = replace(TINY, train=replace(TINY.train, batch_size=8))
    rows = speed.training_speed(config, LANGUAGE, Plan())
    ours = pick(rows, "training_tokens_per_second", loop="ours")
    assert ours.baseline == pick(rows, "training_tokens_per_second", loop="padded loop").value > 0
    assert pick(rows, "training_speedup").value > 0
    assert 0 < pick(rows, "corruption_share", loop="ours").value < 1
    sampled = speed.sampling_speed(
        subject(Uniform()), Plan(num_samples=4, samplers=(SamplerConfig("random", steps=2),), speed_seconds=0.1)
    )
    assert sampled[0].metric == "strings_per_second"
    assert sampled[0].value > 0


# ------------------------------------------------------------------------------------------------------ reproduction


def test_every_variant_has_a_config_and_a_reason() -> None:
    for variant in VARIANTS:
        config = load_config(reproduce.CONFIGS / f"{variant.config}.yaml")
        assert config.train.faithful == variant.faithful
        assert len(variant.why.split()) > 8
        assert variant.published
    v1, v2 = (load_config(reproduce.CONFIGS / f"{name}.yaml") for name in ("v1", "v2"))
    assert (v1.noise.sigma_max, v2.noise.sigma_max, v2.noise.high_noise_bias) == (0.9, 1.0, 0.3)
    assert (v1.train.max_iters, v2.train.max_iters, v2.train.num_samples) == (2000, 4000, 50000)
    assert v2.train.lr == v1.train.lr == 3e-4
    assert v2.model == v1.model


def test_the_references_samplers_keep_its_quirks() -> None:
    class Echo(Uniform):
        """An aligned head without a causal mode: it scores what it reads."""

        def __call__(
            self, tokens: Tensor, length: Tensor, sigma: Tensor, causal: bool, previous: Tensor | None = None
        ) -> Tensor:
            levels.append(round(float(sigma[0]), 3))
            return torch.nn.functional.one_hot(tokens, len(VOCABULARY)) * 9.0 + torch.eye(len(VOCABULARY))[VOCABULARY.ids["("]]

    levels: list[float] = []
    canvas = Canvas.blank([6], VOCABULARY)
    texts = untrained_prefix(3, maskgit(3))(Faithful(Echo()), canvas).texts(VOCABULARY)
    assert texts == ["<BOS><BOS><BOS>((("]  # the prefix copies BOS, and is not barred from doing so
    assert levels == [0, 0, 0, 1.0, 0.667, 0.333]  # the causal part at 0, then the clock
    levels.clear()
    refine(5, clock=True)(Faithful(Echo()), Canvas.blank([4], VOCABULARY))
    assert levels == [1.0, 0.84, 0.68, 0.52, 0.36]


def test_reproduction_resumes(tmp_path: Path) -> None:
    trained: list[tuple[str, bool]] = []

    def trainer(config: Config, folder: Path, resume: bool) -> None:
        trained.append((folder.name, resume))
        folder.mkdir(parents=True, exist_ok=True)
        if len(trained) == 2:  # the power fails after a save
            (folder / "last.pt").touch()
            raise KeyboardInterrupt
        torch.manual_seed(config.train.seed)
        config = replace(config, model=replace(config.model, vocab_size=len(VOCABULARY)))
        weights = UniversalDenoiser(config.model).state_dict()
        payload = checkpoint.make_payload(config, VOCABULARY, weights, provenance={"step": config.train.max_iters})
        checkpoint.save(folder / "best.pt", payload)

    shrink = {"n_layer": 1, "n_embd": 16, "n_head": 2, "k_iter": 1, "max_iters": 3}
    results = tmp_path / "results.md"

    def go() -> Any:
        return reproduce.reproduce(
            range(2), tmp_path / "runs", results, ["V1", "coarse-to-fine"], 12, 1, trainer=trainer, overrides=shrink
        )

    with pytest.raises(KeyboardInterrupt):
        go()
    rows = go()
    assert trained == [("v1-s0", False), ("v1-s1", False), ("v1-s1", True), ("skeleton-s0", False), ("skeleton-s1", False)]
    results.write_text("# Ours\n\n" + results.read_text() + "\nMore.\n")
    again = go()
    assert len(trained) == 5  # nothing is trained, and nothing measured, twice
    assert repr(again) == repr(rows)
    text = results.read_text()
    assert text.startswith("# Ours\n")  # what others wrote there stays
    assert text.endswith("\nMore.\n")
    assert text.count(reproduce.BEGIN) == text.count("measured again") == 1
    assert "38.5-53.5" in text
    assert "**V1**" in text
    assert "| coarse-to-fine | 29 |" in text
    assert "seeds" in text
