"""From logits to a token: allowed symbols, penalties, temperature, truncation, and the draw.

Confidence, entropy and margin are of the untempered distribution over the allowed symbols.
Temperature and truncation act on the draw alone, penalties on both. Everything is float32 or
better: half precision never draws rare tokens (2409.02908).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from maskdiff.languages import Vocabulary

Symbols = Literal["plain", "skeleton", "fill", "open"]


def is_blank(tokens: Tensor, vocabulary: Vocabulary, symbols: Symbols = "plain") -> Tensor:
    """(…) bool: blank tokens: MASK, and `<DIGIT>` for the sampler that fills a skeleton."""
    blank = tokens == vocabulary.mask
    if symbols == "fill" and vocabulary.digit is not None:
        blank = blank | (tokens == vocabulary.digit)
    return blank


def as_shown(tokens: Tensor, vocabulary: Vocabulary, symbols: Symbols) -> Tensor:
    """The tokens (…) that the denoiser sees: in a skeleton, `<DIGIT>` for digits that are known."""
    if symbols != "skeleton" or vocabulary.digit is None:
        return tokens
    digits = torch.tensor(vocabulary.digit_ids, device=tokens.device)
    return torch.where(torch.isin(tokens, digits), vocabulary.digit, tokens)


def allowed_symbols(tokens: Tensor, vocabulary: Vocabulary, symbols: Symbols = "plain") -> Tensor:
    """(…, vocab) bool: symbols that may replace tokens (…).

    `plain` are all but PAD, MASK, BOS, EOS and `<DIGIT>`; `skeleton` has `<DIGIT>` for the digits;
    `fill` has digits where `<DIGIT>` stands, plain symbols elsewhere; `open` has EOS, too.
    """
    plain = torch.ones(len(vocabulary), dtype=torch.bool, device=tokens.device)
    plain[list(vocabulary.specials)] = False
    plain[vocabulary.eos] = symbols == "open"
    digit, digits = vocabulary.digit, list(vocabulary.digit_ids)
    if digit is not None:
        plain[digit] = symbols == "skeleton"
    if symbols == "skeleton":
        plain[digits] = False
    if symbols != "fill" or digit is None:
        return plain.expand(*tokens.shape, -1)
    only_digits = torch.zeros_like(plain)
    only_digits[digits] = True
    return torch.where((tokens == digit)[..., None], only_digits, plain)


def fold_digits(logits: Tensor, vocabulary: Vocabulary) -> Tensor:
    """(…, vocab) logits in which `<DIGIT>` has the probability of all digits and its own.

    A model that sees no digit cannot know whether it writes a skeleton or a string, and shares the
    mass between the two.
    """
    if vocabulary.digit is None:
        return logits
    whole = logits[..., [*vocabulary.digit_ids, vocabulary.digit]].logsumexp(-1, keepdim=True)
    index = torch.full_like(whole, vocabulary.digit, dtype=torch.int64)
    return logits.scatter(-1, index, whole)


def log_distribution(logits: Tensor, allowed: Tensor) -> Tensor:
    """(…, vocab) log-probabilities over the allowed symbols; uniform where all were impossible."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).masked_fill(
        ~allowed, -torch.inf
    )
    dead = logits.amax(-1, keepdim=True) == -torch.inf
    return torch.where(dead & allowed, 0.0, logits).log_softmax(-1)


def temper(
    log_probs: Tensor, temperature: float, top_p: float = 1.0, top_k: int = 0, min_p: float = 0.0
) -> Tensor:
    """(…, vocab) unnormalised log-probabilities at a temperature > 0, truncated.

    First by `top_k`, then by `top_p`, then by `min_p`, each on what is left, as in transformers.
    """
    return keep_min_p(
        keep_top_p(keep_top_k((log_probs / temperature).log_softmax(-1), top_k), top_p), min_p
    )


def keep_top_k(logits: Tensor, top_k: int) -> Tensor:
    """(…, vocab) with minus infinity below the `top_k`-th largest, ties kept; 0 keeps all."""
    if not 0 < top_k < logits.shape[-1]:
        return logits
    return logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], -torch.inf)


def keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """(…, vocab) with minus infinity outside the smallest set of mass `top_p` (1904.09751).

    A symbol is kept while the mass of those above it is below `top_p`; the likeliest always is.
    """
    if top_p >= 1.0:
        return logits
    ordered, index = logits.sort(dim=-1, descending=True, stable=True)
    # Summed from the unlikely end, where sums are small and so exact.
    drop = ordered.flip(-1).softmax(-1).cumsum(-1).flip(-1) <= 1 - top_p
    drop[..., 0] = False
    return logits.masked_fill(torch.zeros_like(drop).scatter(-1, index, drop), -torch.inf)


def keep_min_p(logits: Tensor, min_p: float) -> Tensor:
    """(…, vocab) with minus infinity below `min_p` times the largest probability (2407.01082)."""
    if min_p <= 0.0:
        return logits
    probs = logits.softmax(-1)
    best = probs.amax(-1, keepdim=True)
    return logits.masked_fill((probs < min_p * best) & (probs < best), -torch.inf)


def draw_tokens(
    log_probs: Tensor,
    noise: Tensor | None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
) -> Tensor:
    """(…) token ids by the Gumbel-max trick: argmax(log p / temperature + noise).

    Without noise, or at temperature 0: argmax log p. `log_probs` (…, vocab) need not be normalised.
    """
    if temperature == 0 or noise is None:
        return log_probs.argmax(-1)
    return (temper(log_probs, temperature, top_p, top_k, min_p) + noise).argmax(-1)


@dataclass(frozen=True)
class TokenFigures:
    """Log-probability, entropy and gap of drawn tokens, (n,) each, in nats at temperature 1.

    The gap is the probability of the likeliest token minus that of the second.
    """

    log_probs: Tensor
    entropies: Tensor
    gaps: Tensor


def token_figures(log_probs: Tensor, tokens: Tensor) -> TokenFigures:
    """The figures of tokens (n,) under normalised `log_probs` (n, vocab)."""
    two = log_probs.topk(2, dim=-1).values.exp()
    return TokenFigures(pick(log_probs, tokens), entropy(log_probs), two[:, 0] - two[:, 1])


def penalise_repetition(logits: Tensor, repeated: Tensor, penalty: float) -> Tensor:
    """(…, vocab) logits l, l / penalty (l * penalty below 0) where `repeated` (1909.05858).

    It depends on the offset of the logits, so it is defined on those of the model's head.
    """
    return torch.where(
        repeated, torch.where(logits < 0, logits * penalty, logits / penalty), logits
    )


def penalise_counts(logits: Tensor, counts: Tensor, presence: float, frequency: float) -> Tensor:
    """(…, vocab) logits minus `presence` where counts are above 0, minus `frequency` * counts."""
    return logits - presence * (counts > 0).to(logits) - frequency * counts.to(logits)


def entropy(log_probs: Tensor) -> Tensor:
    """(…) entropy in nats of (…, vocab) log-probabilities."""
    return -torch.where(log_probs == -torch.inf, 0.0, log_probs.exp() * log_probs).sum(-1)


def pick(log_probs: Tensor, tokens: Tensor) -> Tensor:
    """(…) log-probability of tokens (…) under (…, vocab)."""
    return log_probs.gather(-1, tokens[..., None])[..., 0]
