"""How much probability a denoiser gives to held-out strings: the ELBO and the next-token loss beside the exact entropy.

For: nats per token, their excess over what the generator itself needs for the same strings, and the split of the ELBO by
class of token and by noise level.  Not for: sampling; nothing is drawn from the model.  Easy to get wrong: the floor is
computed on the *same* strings, so that the excess is free of the luck of the draw.

Monte-Carlo of the ELBO [2406.07524]: with k uniform on 1..n and exactly k symbols hidden, n/k times the loss on the hidden
ones is unbiased.  The draws of one string take levels (u + i/draws) mod 1, so that they spread evenly over 1..n.
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
from maskdiff.evaluation.rows import Ledger, Plan, Row, Subject, chunks
from maskdiff.languages import HasExactProbability, HasOperators
from maskdiff.metrics import Estimate
from maskdiff.noise import Strings, mask_exactly, pad

if TYPE_CHECKING:
    from maskdiff.languages import Language
    from maskdiff.models.denoiser import Denoiser

CLASSES = ("structure", "operand", "value")
SIGMA_BUCKETS = 10


@dataclass(frozen=True)
class Losses:
    """Sums of one pass over the strings; all are nats, one row a string."""

    tokens: NDArray[np.float64]  # (strings,) inner symbols
    elbo: NDArray[
        np.float64
    ]  # (strings, classes) mean over the draws of n/k * loss; the sum over classes is the ELBO
    class_tokens: NDArray[np.float64]  # (strings, classes)
    bucket_loss: NDArray[
        np.float64
    ]  # (strings, buckets) plain loss of the hidden symbols, by share hidden
    bucket_tokens: NDArray[np.float64]  # (strings, buckets) symbols hidden
    causal: NDArray[np.float64]  # (strings,) next-token loss of the symbols and EOS
    causal_inner: NDArray[np.float64]  # (strings,) the same without EOS


def token_losses(denoiser: Denoiser, shown: Tensor, strings: Strings, causal: bool) -> Tensor:
    """Nats of every clean token, (batch, width) float64, given ``shown`` (batch, width); zero on BOS and padding."""
    sigma = torch.zeros(len(strings), device=shown.device)
    logits = denoiser(shown, strings.length, sigma, causal, None)
    nats = -logits.double().log_softmax(-1).gather(-1, strings.tokens[..., None])[..., 0]
    position = torch.arange(shown.shape[1], device=shown.device)
    return nats.masked_fill((position == 0) | (position >= strings.length[:, None]), 0.0)


def measure(
    denoiser: Denoiser,
    language: Language,
    texts: Sequence[str],
    draws: int,
    seed: int,
    batch_size: int = 256,
) -> Losses:
    """All sums that the suite needs, from ``draws`` maskings of every text."""
    order = sorted(texts, key=len)
    parts = [
        _measure_batch(denoiser, language, order[part], draws, seed + i)
        for i, part in enumerate(chunks(len(order), batch_size))
    ]
    names = Losses.__dataclass_fields__
    return Losses(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    )


def _measure_batch(
    denoiser: Denoiser, language: Language, texts: Sequence[str], draws: int, seed: int
) -> Losses:
    vocabulary, generator = language.vocabulary, torch.Generator().manual_seed(seed)
    device = getattr(denoiser, "device", torch.device("cpu"))
    clean = pad([vocabulary.encode(text) for text in texts], vocabulary)
    strings = Strings(clean.tokens.to(device), clean.length.to(device))
    inner = clean.length - 2  # (batch,)
    kinds = torch.zeros(clean.tokens.shape, dtype=torch.int64)
    for i, text in enumerate(texts):
        kinds[i, 1 : len(text) + 1] = torch.tensor(
            [CLASSES.index(name) for name in metrics.token_classes(text)]
        )
    member = (
        torch.nn.functional.one_hot(kinds, len(CLASSES)).double() * clean.inner()[..., None]
    )  # (batch, width, classes)
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
    return Losses(
        inner.double().numpy(), elbo.numpy(), member.sum(1).numpy(), bucket_loss.numpy(), bucket_tokens.numpy(),
        causal.sum(1).numpy(), causal.masked_fill(~clean.inner(), 0.0).sum(1).numpy(),
    )  # fmt: skip


def floors(
    language: Language, texts: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Exact -log p of each text in the order of ``measure``, given its length and not: (strings,) twice; None if unknown."""
    if not isinstance(language, HasExactProbability):
        return None
    order = sorted(texts, key=len)
    free = np.array([-language.log_prob(text) for text in order])
    return free + np.array([language.length_log_prob(len(text)) for text in order]), free


def likelihood(subject: Subject, plan: Plan, texts: Sequence[str]) -> list[Row]:
    """Rows of the likelihood suite on held-out ``texts``; metric ``elbo`` and so on, in nats per token."""
    losses = measure(
        subject.loaded.denoiser,
        subject.language,
        texts,
        plan.likelihood_draws,
        plan.seed,
        plan.batch_size,
    )
    given, free = floors(subject.language, texts) or (None, None)
    ledger, settings = Ledger("likelihood"), subject.settings()
    symbols = len(subject.language.vocabulary.inner_ids)

    def per_token(nats: NDArray[np.float64], tokens: NDArray[np.float64]) -> Estimate:
        return metrics.ratio(nats, tokens, plan.rng(20))

    def add(
        metric: str,
        nats: NDArray[np.float64],
        floor: NDArray[np.float64] | None,
        tokens: NDArray[np.float64],
    ) -> None:
        # The baseline is the uniform guess over the symbols that a string may contain.
        if floor is None:
            ledger.add("-", settings, metric, per_token(nats, tokens), baseline=math.log(symbols))
            return
        ceiling = per_token(floor, tokens).value
        ledger.add(
            "-",
            settings,
            metric,
            per_token(nats, tokens),
            baseline=math.log(symbols),
            ceiling=ceiling,
        )
        ledger.add(
            "-",
            settings,
            f"{metric}_excess",
            per_token(nats - floor, tokens),
            baseline=math.log(symbols) - ceiling,
            ceiling=0.0,
        )

    add("elbo", losses.elbo.sum(1), given, losses.tokens)
    # A model that is told the length owes nothing for EOS; one that is not is compared with the free floor.
    knows = bool(subject.loaded.config.model.end_positions)
    add(
        "next_token",
        losses.causal_inner if knows else losses.causal,
        given if knows else free,
        losses.tokens + (not knows),
    )
    for i, name in enumerate(CLASSES if isinstance(subject.language, HasOperators) else ()):
        own = {**settings, "class": name}
        ledger.add("-", own, "elbo_part", per_token(losses.elbo[:, i], losses.tokens))
        ledger.add("-", own, "elbo_within", per_token(losses.elbo[:, i], losses.class_tokens[:, i]))
        ledger.add("-", own, "token_share", per_token(losses.class_tokens[:, i], losses.tokens))
    for i in range(SIGMA_BUCKETS):
        level = f"{i / SIGMA_BUCKETS:.1f}-{(i + 1) / SIGMA_BUCKETS:.1f}"
        estimate = per_token(losses.bucket_loss[:, i], losses.bucket_tokens[:, i])
        ledger.add(
            "-", {**settings, "hidden": level}, "masked_loss", estimate, baseline=math.log(symbols)
        )
    return ledger.rows
