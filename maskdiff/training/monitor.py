"""What a run shows of itself: held-out likelihood beside the entropy floor, live samples, TensorBoard.

For: validation of the averaged weights and everything that is logged.  Not for: benchmarks (``evaluation/``), which are
larger and compare samplers.  Easy to get wrong: validation noise and strings are the same at every validation, so that its
curve moves with the weights alone; and the floor is that of the very strings that are scored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from maskdiff.config import Config
from maskdiff.data import held_out
from maskdiff.errors import LogitsError
from maskdiff.languages import HasExactProbability, Language, Vocabulary
from maskdiff.models.losses import sums_by, weighted_nll
from maskdiff.models.universal import UniversalDenoiser
from maskdiff.noise import MODES, Canvases, causal_canvas, mask_noise, pad, repair_noise
from maskdiff.training.console import tell
from maskdiff.training.event_writer import EventWriter
from maskdiff.training.live_samples import live_samples
from maskdiff.training.state import Curve, Progress

VALIDATION_SEED = 20_240_607  # of held-out strings and of validation noise, the same for every run
BUCKETS = 5  # of the noise level
DRAWS = 4  # noise levels per held-out string: their spread is most of the ELBO's
REPAIR_SIGMA = 0.2
SCORED = 64  # strings that tell whether weights can be used at all


class Monitor:
    """Validates, samples and writes TensorBoard; one per run, in the leading process."""

    def __init__(
        self, config: Config, language: Language, vocabulary: Vocabulary, folder: Path, first: int
    ):
        self.config, self.language, self.vocabulary = config, language, vocabulary
        self.board = EventWriter(folder / "tensorboard", start=first)
        self.model = UniversalDenoiser(config.model).eval().requires_grad_(False)
        texts = held_out(language, "validation", config.train.eval_samples, VALIDATION_SEED)
        self.strings = pad(vocabulary.encode_many(texts), vocabulary)
        self.floor: dict[str, float] = {}  # empty where nobody knows it
        if (
            isinstance(language, HasExactProbability) and not vocabulary.merges
        ):  # who knows the entropy given the number of pieces?
            nats = -sum(
                language.log_prob(text) - language.length_log_prob(len(text)) for text in texts
            )
            self.floor = {"floor": nats / sum(map(len, texts))}

    def log_step(self, progress: Progress, curve: Curve, lr_scale: float) -> None:
        """Write the training loss, its means by mode since the last entry, rate and speed."""
        self.board.scalar("train/loss", curve.loss, progress.step)
        for mode, (nats, tokens) in zip(MODES, curve.parts.tolist(), strict=True):
            if tokens:
                self.board.scalar(f"train/loss_{mode}", nats / tokens, progress.step)
        self.board.scalar("train/lr_scale", lr_scale, progress.step)
        self.board.scalar("train/tokens", progress.tokens, progress.step)
        self.board.scalar(
            "train/tokens_per_second", progress.tokens / max(progress.seconds, 1e-9), progress.step
        )
        self.board.flush()

    def validate(self, weights: Mapping[str, Tensor], progress: Progress) -> dict[str, float]:
        """Measure ``weights`` on held-out strings; nats are per inner token.

        Returns ``validation_loss`` (by which the best checkpoint is chosen: the mean of ELBO and next-token loss, by the
        causal share), ``elbo``, ``next_token``, ``floor`` (where it is known), ``repair`` and, with live samples,
        strict rates of parsing.
        """
        self.model.load_state_dict(dict(weights))
        train = self.config.train
        metrics = {**self.floor, **self.likelihood()}
        share = (
            train.causal_share if self.config.model.head == "next" and not train.faithful else 0.0
        )
        metrics["validation_loss"] = (1 - share) * metrics["elbo"] + share * metrics["next_token"]
        if train.live_samples:
            metrics |= live_samples(
                self.model, self.language, self.vocabulary, self.config, self.board, progress.step
            )
        for name, value in metrics.items():
            self.board.scalar(f"validation/{name}", value, progress.step)
        self.board.flush()
        told = " ".join(f"{name} {metrics[name]:.3f}" for name in metrics if "sigma" not in name)
        tell(f"step {progress.step:,}, {progress.tokens / 1e6:.2f}M tokens: {told}")
        return metrics

    @torch.no_grad()
    def finite(self, weights: Mapping[str, Tensor]) -> bool:
        """Whether ``weights`` are finite and score some held-out strings with finite numbers."""
        self.model.load_state_dict(dict(weights))
        some = self.strings[torch.arange(min(len(self.strings), SCORED))]
        try:
            self.model.forward_strings(some.tokens, some.length, torch.zeros(len(some)), False)
        except LogitsError:
            return False
        return all(bool(weight.isfinite().all()) for weight in weights.values())

    def likelihood(self) -> dict[str, float]:
        """ELBO (whole and by noise level), next-token and repair loss in nats per inner token."""
        vocabulary, noise = self.vocabulary, self.config.noise
        generator = torch.Generator().manual_seed(VALIDATION_SEED)
        n = len(self.strings)
        many = self.strings[torch.arange(n).repeat(DRAWS)]
        sigma = (torch.randperm(DRAWS * n, generator=generator) + 0.5) / (
            DRAWS * n
        )  # stratified over (0, 1)
        plain = replace(noise, ar_prefix_ratio=0.0)
        masked = mask_noise(many, plain, vocabulary, generator, "elbo", sigma)
        nats = self.string_nats(masked)  # (DRAWS * n,)
        inner = (many.length - 2).float()
        bucket = (sigma * BUCKETS).long()
        by_bucket = sums_by(nats, bucket, BUCKETS) / sums_by(inner, bucket, BUCKETS)
        metrics = {"elbo": float(nats.sum() / inner.sum())}
        metrics |= {
            f"elbo_sigma_{(k + 0.5) / BUCKETS:.1f}": float(value)
            for k, value in enumerate(by_bucket)
        }
        inner = (self.strings.length - 2).float()
        metrics["next_token"] = float(
            self.string_nats(causal_canvas(self.strings)).sum() / inner.sum()
        )
        repair = repair_noise(
            self.strings, noise, vocabulary, generator, sigma=torch.full((n,), REPAIR_SIGMA)
        )
        metrics["repair"] = float(self.string_nats(repair).sum() / inner.sum())
        return metrics

    @torch.no_grad()
    def string_nats(self, canvases: Canvases, batch: int = 64) -> Tensor:
        """Weighted negative log-likelihood in nats of each canvas of one mode, (batch,); of similar lengths together."""
        order = canvases.length.argsort()
        nats = torch.empty(len(canvases))
        for rows in order.split(batch):
            part = canvases[rows]
            width = int(part.length.max())
            logits = self.model.forward_strings(
                part.tokens[:, :width], part.length, part.sigma, bool(part.causal[0])
            )
            nats[rows] = weighted_nll(logits, part.targets[:, :width], part.weights[:, :width]).sum(
                1
            )
        return nats

    def close(self) -> None:
        """Flush and close TensorBoard."""
        self.board.close()
