"""Shared by the tests of the benchmark: denoisers of known behaviour, subjects, a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from maskdiff import checkpoint
from maskdiff.cli import benchmark
from maskdiff.cli.arguments import run_cli
from maskdiff.config import Config, ModelConfig, TrainConfig
from maskdiff.evaluation.rows import Plan, Row, Subject, SuiteRun
from maskdiff.languages import make_language
from maskdiff.models.universal import UniversalDenoiser

LANGUAGE = make_language()
VOCABULARY = LANGUAGE.vocabulary
TINY = Config(
    model=ModelConfig(n_layer=1, k_iter=1, n_embd=16, n_head=2, vocab_size=len(VOCABULARY)),
    train=TrainConfig(num_samples=300),
)


class Uniform:
    """Gives every inner symbol the same probability at every position."""

    vocabulary = VOCABULARY

    def __call__(
        self, tokens: Tensor, length: Tensor, sigma: Tensor, causal: bool, *inputs: Tensor | None
    ) -> Tensor:
        logits = torch.full((*tokens.shape, len(VOCABULARY)), -math.inf)
        logits[..., list(VOCABULARY.inner_ids)] = 0.0
        return logits


class Zeros(Uniform):
    """Is certain of a zero at every position."""

    def __call__(
        self, tokens: Tensor, length: Tensor, sigma: Tensor, causal: bool, *inputs: Tensor | None
    ) -> Tensor:
        logits = torch.full((*tokens.shape, len(VOCABULARY)), -30.0)
        logits[..., VOCABULARY.ids["0"]] = 0.0
        return logits


def subject(denoiser: Any, **model: Any) -> Subject:
    config = replace(TINY, model=replace(TINY.model, **model))
    return Subject(
        SimpleNamespace(
            length_conditioned=config.model.causal_length,
            denoiser=denoiser,
            language=LANGUAGE,
            config=config,
            metrics={},
            provenance={},
            path="",
        )
    )  # type: ignore[arg-type]


def rows_of(
    suite: Callable[..., None],
    subject: Subject,
    plan: Plan,
    texts: Sequence[str] = (),
    *options: Any,
) -> list[Row]:
    """Returns the rows that a suite adds; `options` are further arguments of the suite."""
    run = SuiteRun(suite.__name__.removesuffix("_suite"), subject, plan, texts)
    suite(run, *options)
    return run.rows


def run_benchmark(*flags: object) -> int:
    """Runs `benchmark.py` in this process; returns its exit status."""
    return run_cli(benchmark.main, [str(flag) for flag in flags])


def pick(rows: list[Row], metric: str, **settings: Any) -> Row:
    found = [r for r in rows if r.metric == metric and settings.items() <= r.settings.items()]
    assert len(found) >= 1, (metric, settings)
    return found[0]


def save_tiny(path: Path, provenance: dict[str, Any] | None = None, **model: Any) -> Path:
    """An untrained checkpoint at ``path``."""
    torch.manual_seed(0)
    config = replace(TINY, model=replace(TINY.model, **model))
    weights = UniversalDenoiser(config.model).state_dict()
    checkpoint.save(
        path, checkpoint.make_payload(config, VOCABULARY, weights, provenance=provenance)
    )
    return path
