"""How much probability a denoiser gives to held-out strings: ELBO and next-token loss.

Figures are in nats per token, beside their excess over the generator's own probability of the
*same* strings, so that the luck of the draw cancels. The ELBO is also split by class of token and
by the share hidden. Nothing is drawn from the model.

Monte-Carlo of the ELBO [2406.07524]: with k uniform on 1..n and exactly k symbols hidden, n/k times
the loss on the hidden symbols is unbiased. The draws of one string take levels (u + i/draws) mod 1,
so that they spread evenly over 1..n.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskdiff import metrics
from maskdiff.evaluation.rows import SuiteRun
from maskdiff.evaluation.yardsticks import fit_yardsticks
from maskdiff.languages import HasExactProbability, HasOperators
from maskdiff.metrics import Estimate, Unit
from maskdiff.noise import Strings, mask_exactly, pad
from maskdiff.tasks.whole_strings import symbols_and_ends, whole_log_probs

if TYPE_CHECKING:
    from maskdiff.languages import Language
    from maskdiff.models.denoiser import Denoiser

CLASSES = ("structure", "operand", "value")
SIGMA_BUCKETS = 10


Array = NDArray[np.float64]


@dataclass(frozen=True)
class Losses:
    """Sums over the tokens of each string, in nats; one row a string.

    Attributes:
        tokens: (strings,) inner symbols. elbo: (strings, classes) mean over the draws of n/k *
        loss; the sum over classes is the ELBO. class_tokens: (strings, classes) symbols of each
        class. bucket_loss: (strings, buckets) plain loss of the hidden symbols, by share hidden.
        bucket_tokens: (strings, buckets) symbols hidden. causal: (strings,) next-token loss of the
        symbols and EOS. causal_inner: (strings,) the same without EOS.
    """

    tokens: Array
    elbo: Array
    class_tokens: Array
    bucket_loss: Array
    bucket_tokens: Array
    causal: Array
    causal_inner: Array


def token_losses(denoiser: Denoiser, shown: Tensor, strings: Strings, causal: bool) -> Tensor:
    """Return the nats of every clean token, (batch, width) float64, given `shown` (batch, width).

    They are 0 on BOS and padding.
    """
    sigma = torch.zeros(len(strings), device=shown.device)
    logits = denoiser(shown, strings.length, sigma, causal, None)
    nats = -logits.double().log_softmax(-1).gather(-1, strings.tokens[..., None])[..., 0]
    position = torch.arange(shown.shape[1], device=shown.device)
    return nats.masked_fill((position == 0) | (position >= strings.length[:, None]), 0.0)


def measure_losses(
    denoiser: Denoiser,
    language: Language,
    texts: Sequence[str],
    draws: int,
    seed: int,
    batch_size: int = 256,
) -> Losses:
    """Return the losses of texts sorted by length, from `draws` maskings of each."""
    order = sorted(texts, key=len)
    parts = [
        _batch_losses(denoiser, language, order[start : start + batch_size], draws, seed + i)
        for i, start in enumerate(range(0, len(order), batch_size))
    ]
    names = Losses.__dataclass_fields__
    return Losses(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    )


def _batch_losses(
    denoiser: Denoiser, language: Language, texts: Sequence[str], draws: int, seed: int
) -> Losses:
    vocabulary, generator = language.vocabulary, torch.Generator().manual_seed(seed)
    device = getattr(denoiser, "device", torch.device("cpu"))
    clean = pad([vocabulary.encode(text) for text in texts], vocabulary)
    strings = Strings(clean.tokens.to(device), clean.length.to(device))
    inner = clean.length - 2  # (batch,)
    kinds = torch.zeros(clean.tokens.shape, dtype=torch.int64)
    for i, text in enumerate(texts):
        classes = [CLASSES.index(name) for name in metrics.token_classes(text)]
        kinds[i, 1 : len(text) + 1] = torch.tensor(classes)
    one_hot = torch.nn.functional.one_hot(kinds, len(CLASSES)).double()
    member = one_hot * clean.inner()[..., None]  # (batch, width, classes)

    # The ELBO: loss of the hidden symbols at each draw of the number hidden.
    elbo = torch.zeros(len(texts), len(CLASSES), dtype=torch.float64)
    bucket_loss = torch.zeros(len(texts), SIGMA_BUCKETS, dtype=torch.float64)
    bucket_tokens = torch.zeros_like(bucket_loss)
    offset = torch.rand(len(texts), generator=generator, dtype=torch.float64)
    for i in range(draws):
        level = (offset + i / draws) % 1.0
        count = (level * inner).long().clamp(max=inner - 1) + 1  # uniform on 1..n
        hidden = mask_exactly(clean, count, generator)
        shown = clean.tokens.masked_fill(hidden, vocabulary.mask).to(device)
        nats = token_losses(denoiser, shown, strings, causal=False).cpu().masked_fill(~hidden, 0.0)
        elbo += torch.einsum("bw,bwc->bc", nats, member) * (inner / count)[:, None] / draws
        bucket = ((count - 1) * SIGMA_BUCKETS // inner).clamp(max=SIGMA_BUCKETS - 1)[:, None]
        bucket_loss.scatter_add_(1, bucket, nats.sum(1, keepdim=True))
        bucket_tokens.scatter_add_(1, bucket, count[:, None].double())

    causal = token_losses(denoiser, strings.tokens, strings, causal=True).cpu()
    causal_inner = causal.masked_fill(~clean.inner(), 0.0)
    return Losses(
        inner.double().numpy(), elbo.numpy(), member.sum(1).numpy(), bucket_loss.numpy(),
        bucket_tokens.numpy(), causal.sum(1).numpy(), causal_inner.sum(1).numpy(),
    )  # fmt: skip


def floors(language: Language, texts: Sequence[str]) -> tuple[Array, Array] | None:
    """Return exact -log p of each text, given its length and not, (strings,) each; None if
    unknown.

    The order is that of `measure_losses`.
    """
    if not isinstance(language, HasExactProbability):
        return None
    order = sorted(texts, key=len)
    free = np.array([-language.log_prob(text) for text in order])
    return free + np.array([language.length_log_prob(len(text)) for text in order]), free


@dataclass(frozen=True)
class _PerToken:
    """Adds rows of nats per token; the baseline is the uniform guess over the inner symbols."""

    run: SuiteRun
    uniform: float

    def estimate(self, nats: Array, tokens: Array, unit: Unit = Unit.NATS) -> Estimate:
        return metrics.ratio(nats, tokens, self.run.plan.rng(20), unit)

    def add(self, metric: str, nats: Array, floor: Array | None, tokens: Array) -> None:
        """Add a metric and, where the exact `floor` of each string is known, its excess."""
        rows = self.run.group("-", self.run.subject.settings())
        if floor is None:
            rows.add(metric, self.estimate(nats, tokens), self.uniform)
            return
        ceiling = self.estimate(floor, tokens).value
        excess = self.estimate(nats - floor, tokens)
        rows.add(metric, self.estimate(nats, tokens), self.uniform, ceiling)
        rows.add(f"{metric}_excess", excess, self.uniform - ceiling, 0.0)


def likelihood_suite(run: SuiteRun) -> None:
    """Add the metrics `elbo` and `next_token`, and the parts of the ELBO, in nats per token."""
    plan, language, loaded = run.plan, run.language, run.subject.loaded
    with run.progress("likelihood"):
        losses = measure_losses(
            loaded.denoiser, language, run.texts, plan.likelihood_draws, plan.seed, plan.batch_size
        )
        given, free = floors(language, run.texts) or (None, None)
    per_token = _PerToken(run, math.log(len(language.vocabulary.inner_ids)))
    per_token.add("elbo", losses.elbo.sum(1), given, losses.tokens)
    # A model that knows the length need not predict EOS; another is compared with the free floor.
    if loaded.config.model.gets_length:
        per_token.add("next_token", losses.causal_inner, given, losses.tokens)
    else:
        per_token.add("next_token", losses.causal, free, losses.tokens + 1)
    _add_whole_strings(run, free)
    _add_parts(run, losses, per_token)


def _add_whole_strings(run: SuiteRun, free: Array | None) -> None:
    """The nats per symbol of whole strings, by the causal mode and by simple models."""
    plan, language, loaded = run.plan, run.language, run.subject.loaded
    texts = sorted(run.texts, key=len)  # the order of `free`
    yardsticks = fit_yardsticks(language, plan.seed)
    nats = {
        "causal": -whole_log_probs(loaded.denoiser, loaded.config.model, language, texts),
        "ngram": yardsticks.nats(texts),
    }
    by_grammar = yardsticks.pcfg_nats(texts)
    if by_grammar is not None:
        nats["pcfg"] = by_grammar
    counted = symbols_and_ends(texts)

    def estimate(values: Array) -> Estimate:
        return metrics.ratio(values, counted, plan.rng(21), Unit.NATS)

    floor = None if free is None else estimate(free)
    for name, values in nats.items():
        rows = run.group(name, run.subject.settings())
        rows.add("nats_per_symbol", estimate(values), ceiling=floor)
    rows = run.group("causal against ngram", run.subject.settings())
    rows.add("nats_difference", estimate(nats["causal"] - nats["ngram"]))


def _add_parts(run: SuiteRun, losses: Losses, per_token: _PerToken) -> None:
    """The ELBO by class of token, and the loss by share hidden."""
    for i, name in enumerate(CLASSES if isinstance(run.language, HasOperators) else ()):
        rows = run.group("-", run.subject.settings(**{"class": name}))
        elbo, tokens = losses.elbo[:, i], losses.class_tokens[:, i]
        rows.add("elbo_part", per_token.estimate(elbo, losses.tokens))
        rows.add("elbo_within", per_token.estimate(elbo, tokens))
        rows.add("token_share", per_token.estimate(tokens, losses.tokens, Unit.SHARE))
    for i in range(SIGMA_BUCKETS):
        level = f"{i / SIGMA_BUCKETS:.1f}-{(i + 1) / SIGMA_BUCKETS:.1f}"
        estimate = per_token.estimate(losses.bucket_loss[:, i], losses.bucket_tokens[:, i])
        rows = run.group("-", run.subject.settings(hidden=level))
        rows.add("masked_loss", estimate, per_token.uniform)
