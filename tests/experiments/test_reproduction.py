"""The reproduction of the reference's table: its variants, its resumption, and a report that says
what it rests on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maskdiff import checkpoint, metrics
from maskdiff.config import Config
from maskdiff.config_io import load_config
from maskdiff.errors import DataError
from maskdiff.evaluation.rows import make_row
from maskdiff.experiments.reproduction import run as reproduce
from maskdiff.experiments.reproduction.variants import (
    SHARPNESS,
    VARIANTS,
    PaddedReferenceDenoiser,
    ReferenceDenoiser,
    reference_maskgit,
    reference_refinement,
    untrained_prefix,
)
from maskdiff.models.universal import UniversalDenoiser
from maskdiff.sampling import Canvas
from tests.helpers.evaluation import VOCABULARY, Uniform

SHRINK = {"n_layer": 1, "n_embd": 16, "n_head": 2, "k_iter": 1, "max_iters": 3}


def test_every_variant_has_a_config_and_a_reason() -> None:
    for variant in VARIANTS:
        config = load_config(reproduce.CONFIGS / f"{variant.config}.yaml")
        assert config.train.faithful == variant.reference_mode
        assert len(variant.why.split()) > 8
        assert variant.why == " ".join(variant.why.split())
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
            self,
            tokens: Tensor,
            length: Tensor,
            sigma: Tensor,
            causal: bool,
            *inputs: Tensor | None,
        ) -> Tensor:
            levels.append(round(float(sigma[0]), 3))
            return (
                torch.nn.functional.one_hot(tokens, len(VOCABULARY)) * 9.0
                + torch.eye(len(VOCABULARY))[VOCABULARY.ids["("]]
            )

    levels: list[float] = []
    canvas = Canvas.blank([6], VOCABULARY)
    texts = untrained_prefix(3, reference_maskgit(3))(ReferenceDenoiser(Echo()), canvas).texts(
        VOCABULARY
    )
    assert texts == ["<BOS><BOS><BOS>((("]  # the prefix copies BOS, and is not barred from doing so
    assert levels == [0, 0, 0, 1.0, 0.667, 0.333]  # the causal part at 0, then the clock
    levels.clear()
    reference_refinement(5, clock=True)(ReferenceDenoiser(Echo()), Canvas.blank([4], VOCABULARY))
    assert levels == [1.0, 0.84, 0.68, 0.52, 0.36]


def test_the_references_confidence_is_read_at_temperature_0_1() -> None:
    """Sharpened tenfold, a token without a rival is surer than a likelier one with a close
    rival."""
    rival, spread = torch.full((len(VOCABULARY),), 1e-6), torch.full((len(VOCABULARY),), 0.04)
    rival[VOCABULARY.ids["("]], rival[VOCABULARY.ids[")"]] = 0.5, 0.49
    spread[VOCABULARY.ids["="]] = 0.4

    class Fixed(Uniform):
        def __call__(
            self,
            tokens: Tensor,
            length: Tensor,
            sigma: Tensor,
            causal: bool,
            *inputs: Tensor | None,
        ) -> Tensor:
            shown.append(VOCABULARY.decode(tokens[0, 1:3].tolist()))
            return torch.stack([rival, rival, spread, spread]).log()[None]

    second = []
    for wrap in (lambda denoiser: denoiser, ReferenceDenoiser):
        shown: list[str] = []
        reference_maskgit(2)(wrap(Fixed()), Canvas.blank([2], VOCABULARY))
        second.append(shown[1])
    assert second == ["(?", "?="]


@pytest.mark.slow
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
        payload = checkpoint.make_payload(
            config, VOCABULARY, weights, provenance={"step": config.train.max_iters}
        )
        checkpoint.save(folder / "best.pt", payload)

    results = tmp_path / "results.md"

    def go() -> Any:
        return reproduce.reproduce(
            range(2),
            tmp_path / "runs",
            results,
            ["V1", "coarse-to-fine"],
            12,
            1,
            trainer=trainer,
            overrides=SHRINK,
        )

    with pytest.raises(KeyboardInterrupt):
        go()
    rows = go()
    assert trained == [
        ("v1-s0", False),
        ("v1-s1", False),
        ("v1-s1", True),
        ("skeleton-s0", False),
        ("skeleton-s1", False),
    ]
    results.write_text("# Ours\n\n" + results.read_text() + "\nMore.\n")
    again = go()
    assert len(trained) == 5  # no training and no measurement runs twice
    assert repr(again) == repr(rows)
    text = results.read_text()
    assert text.startswith("# Ours\n")  # text of other authors stays
    assert text.endswith("\nMore.\n")
    assert text.count(reproduce.BEGIN) == text.count("measured again") == 1
    assert "38.5-53.5" in text
    assert "**V1**" in text
    assert "| coarse-to-fine | 2 | 29 |" in text


def finish(runs: Path, name: str, seed: int, step: int) -> None:
    """Writes the files of a training run of `step` steps."""
    config = load_config(reproduce.CONFIGS / f"{name}.yaml", SHRINK)
    config = replace(config, model=replace(config.model, vocab_size=len(VOCABULARY)))
    torch.manual_seed(seed)
    weights = UniversalDenoiser(config.model).state_dict()
    payload = checkpoint.make_payload(config, VOCABULARY, weights, provenance={"step": step})
    checkpoint.save(runs / f"{name}-s{seed}" / "best.pt", payload)


@pytest.mark.slow
def test_existing_results_are_reported_without_training(tmp_path: Path) -> None:
    runs, results = tmp_path / "runs", tmp_path / "results.md"
    for name, seed, step in (("v1", 0, 3), ("v1", 4, 3), ("v1", 7, 2), ("skeleton", 1, 3)):
        finish(runs, name, seed, step)
    (runs / "v1-s0.log").touch()  # neither a run nor a seed
    names = ["V1", "V2", "coarse-to-fine"]

    def go(seeds: Any) -> dict[str, int]:
        rows = reproduce.reproduce(
            seeds, runs, results, names, 12, 1, trainer=None, overrides=SHRINK
        )
        return {name: len(by_seed) for name, by_seed in rows.items()}

    assert go(None) == {
        "V1": 2,
        "V2": 0,
        "coarse-to-fine": 1,
    }  # seed 7 of V1 stopped a step too early
    text = results.read_text()
    assert "| V1 | 2 | 38.5-53.5 |" in text
    assert "| V2 | 0 | 39 | - |" in text
    assert "| coarse-to-fine | 1 | 29 |" in text
    assert "**V1**" in text
    assert "**V2**" not in text  # an unmeasured variant needs no explanation
    assert "--seeds 2" in text
    assert go(range(1)) == {"V1": 1, "V2": 0, "coarse-to-fine": 0}
    assert sorted(path.name for path in runs.iterdir()) == [
        "skeleton-s1",
        "v1-s0",
        "v1-s0.log",
        "v1-s4",
        "v1-s7",
    ]
    with pytest.raises(DataError, match="no finished run"):
        go([5])


def test_only_rates_are_pooled_as_rates() -> None:
    def rows(metric: str, *estimates: metrics.Estimate) -> list[Any]:
        return [make_row("generation", "V1", {}, metric, estimate) for estimate in estimates]

    half = metrics.wilson(10, 20)
    both = metrics.wilson(20, 40)
    assert reproduce.pooled_share(rows("parses", half, half)) == (
        f"50.0 [{100 * both.low:.1f}, {100 * both.high:.1f}]; seeds 50.0-50.0"
    )
    narrow, wide = metrics.Estimate(0.80, 0.77, 0.82, 100), metrics.Estimate(0.84, 0.80, 0.85, 100)
    assert (
        reproduce.pooled_share(rows("token_accuracy", narrow)) == "80.0 [77.0, 82.0]"
    )  # one seed: its own interval
    # Two: arms of 3 and 4 points below make 5 / 2.
    assert (
        reproduce.pooled_share(rows("token_accuracy", narrow, wide))
        == "82.0 [79.5, 83.1]; seeds 80.0-84.0"
    )
    every = metrics.distinct([str(i) for i in range(100)])
    assert reproduce.pooled_share(rows("distinct", every)) != "100.0 [100.0, 100.0]"


def test_padded_rows_are_read_whole_and_scored_at_their_own_width() -> None:
    """In reference mode, repaired rows have the width and length of the training rows."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Recording:
        vocabulary = VOCABULARY

        def __call__(self, tokens: Tensor, length: Tensor, *inputs: Any) -> Tensor:
            seen.append((tokens, length))
            return torch.arange(tokens.shape[1], dtype=torch.float32)[None, :, None].expand(
                *tokens.shape, len(self.vocabulary)
            )

    tokens = torch.full((2, 7), 5)
    logits = PaddedReferenceDenoiser(Recording(), 64)(
        tokens, torch.tensor([7, 6]), torch.zeros(2), False
    )
    shown, length = seen[0]
    assert shown.shape == (2, 64)
    assert torch.equal(shown[:, :7], tokens)
    assert (shown[:, 7:] == VOCABULARY.pad).all()
    assert length.tolist() == [64, 64]
    assert torch.equal(logits[0, :, 0], SHARPNESS * torch.arange(7.0))
