"""Validation of the averaged weights, and what a run logs to TensorBoard.

Strings and noise are the same at every validation, so that its curve depends on the weights alone,
and the entropy floor is that of the strings that are scored.
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
from maskdiff.training.console import write_line
from maskdiff.training.event_writer import EventWriter
from maskdiff.training.live_samples import has_causal_mode, live_samples
from maskdiff.training.state import Curve, RunProgress

VALIDATION_SEED = 20_240_607  # of held-out strings and of validation noise, the same for every run
BUCKETS = 5  # of the noise level
DRAWS = 4  # noise levels per held-out string: their spread is most of the ELBO's
REPAIR_SIGMA = 0.2
SCORED = 64  # strings that are scored to check that weights are usable


class Monitor:
    """Validates, samples and writes TensorBoard events; one per run, in the leading process."""

    def __init__(
        self, config: Config, language: Language, vocabulary: Vocabulary, folder: Path, first: int
    ):
        self.config, self.language, self.vocabulary = config, language, vocabulary
        self.events = EventWriter(folder / "tensorboard", start=first)
        self.model = UniversalDenoiser(config.model).eval().requires_grad_(False)
        texts = held_out(language, "validation", config.train.eval_samples, VALIDATION_SEED)
        self.strings = pad(vocabulary.encode_many(texts), vocabulary)
        self.floor: dict[str, float] = {}  # empty if it is unknown, as for pieces
        if isinstance(language, HasExactProbability) and not vocabulary.merges:
            probs = [
                language.log_prob(text) - language.length_log_prob(len(text)) for text in texts
            ]
            self.floor = {"floor": -sum(probs) / sum(map(len, texts))}

    def log_step(self, progress: RunProgress, curve: Curve, lr_scale: float) -> None:
        """Write the training loss, its means by mode since the last entry, rate and speed."""
        values = {"loss": curve.loss}
        for mode, (nats, tokens) in zip(MODES, curve.parts.tolist(), strict=True):
            if tokens:
                values[f"loss_{mode}"] = nats / tokens
        values |= {"lr_scale": lr_scale, "tokens": progress.tokens}
        values["tokens_per_second"] = progress.tokens / max(progress.seconds, 1e-9)
        for name, value in values.items():
            self.events.scalar(f"train/{name}", value, progress.step)
        self.events.flush()

    def validate(self, weights: Mapping[str, Tensor], progress: RunProgress) -> dict[str, float]:
        """Measure `weights` on held-out strings; nats are per inner token.

        Returns:
            `validation_loss` (which chooses the best checkpoint: the ELBO, the next-token loss or
            their mean weighted by the causal share, by the option `criterion`), `elbo` (also by
            noise level), `next_token`, `repair`, `floor` if it is known, and with live samples the
            rates of valid strings.
        """
        self.model.load_state_dict(dict(weights))
        train = self.config.train
        metrics = {**self.floor, **self.likelihood()}
        share = {"mixture": train.causal_share, "next_token": 1.0, "elbo": 0.0}[train.criterion]
        share = share if has_causal_mode(self.config) else 0.0
        metrics["validation_loss"] = (1 - share) * metrics["elbo"] + share * metrics["next_token"]
        if train.live_samples:
            metrics |= live_samples(
                self.model, self.language, self.vocabulary, self.config, self.events, progress.step
            )
        for name, value in metrics.items():
            self.events.scalar(f"validation/{name}", value, progress.step)
        self.events.flush()
        figures = " ".join(f"{name} {metrics[name]:.3f}" for name in metrics if "sigma" not in name)
        write_line(f"step {progress.step:,}, {progress.tokens / 1e6:.2f}M tokens: {figures}")
        return metrics

    @torch.no_grad()
    def finite(self, weights: Mapping[str, Tensor]) -> bool:
        """Whether `weights` are finite, and give finite logits for some held-out strings."""
        self.model.load_state_dict(dict(weights))
        some = self.strings[torch.arange(min(len(self.strings), SCORED))]
        try:
            self.model.forward_strings(some.tokens, some.length, torch.zeros(len(some)), False)
        except LogitsError:
            return False
        return all(bool(weight.isfinite().all()) for weight in weights.values())

    def likelihood(self) -> dict[str, float]:
        """ELBO (whole and by noise level), next-token and repair loss in nats per inner token."""
        # ELBO, at noise levels stratified over (0, 1).
        vocabulary, noise = self.vocabulary, self.config.noise
        generator = torch.Generator().manual_seed(VALIDATION_SEED)
        n = len(self.strings)
        many = self.strings[torch.arange(n).repeat(DRAWS)]
        sigma = (torch.randperm(DRAWS * n, generator=generator) + 0.5) / (DRAWS * n)
        plain = replace(noise, ar_prefix_ratio=0.0)
        masked = mask_noise(many, plain, vocabulary, generator, "elbo", sigma)
        nats = self.string_nats(masked)  # (DRAWS * n,)
        inner = (many.length - 2).float()
        bucket = (sigma * BUCKETS).long()
        by_bucket = sums_by(nats, bucket, BUCKETS) / sums_by(inner, bucket, BUCKETS)
        metrics = {"elbo": float(nats.sum() / inner.sum())}
        for k, value in enumerate(by_bucket):
            metrics[f"elbo_sigma_{(k + 0.5) / BUCKETS:.1f}"] = float(value)

        # Next token and repair.
        inner = (self.strings.length - 2).float()
        causal = causal_canvas(self.strings)
        metrics["next_token"] = float(self.string_nats(causal).sum() / inner.sum())
        sigma = torch.full((n,), REPAIR_SIGMA)
        repair = repair_noise(self.strings, noise, vocabulary, generator, sigma)
        metrics["repair"] = float(self.string_nats(repair).sum() / inner.sum())
        return metrics

    @torch.no_grad()
    def string_nats(self, canvases: Canvases, batch: int = 64) -> Tensor:
        """Weighted negative log-likelihood in nats of each canvas of one mode, (batch,)."""
        order = canvases.length.argsort()  # similar lengths together
        nats = torch.empty(len(canvases))
        for rows in order.split(batch):
            part = canvases[rows]
            width = int(part.length.max())
            logits = self.model.forward_strings(
                part.tokens[:, :width], part.length, part.sigma, bool(part.causal[0])
            )
            losses = weighted_nll(logits, part.targets[:, :width], part.weights[:, :width])
            nats[rows] = losses.sum(1)
        return nats

    def close(self) -> None:
        """Flush and close TensorBoard."""
        self.events.close()
