"""From logits to a token: which symbols may stand where, penalties, temperature, top-k, top-p, min-p, and the draw itself.

For: the arithmetic between a denoiser's logits and a candidate token, shared by every sampler.  Not for: choosing
positions, or what has been said so far (``said.py``).  Easy to get wrong: confidence, entropy and margin are read from the
*untempered* distribution over the allowed symbols; temperature and the cuts shape only the draw, penalties both.  Everything
is float32 or better: half precision never draws rare tokens (2409.02908).
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
    """Which tokens (…) ask to be replaced: MASK, and ``<DIGIT>`` too for the sampler that fills a skeleton."""
    blank = tokens == vocabulary.mask
    if symbols == "fill" and vocabulary.digit is not None:
        blank = blank | (tokens == vocabulary.digit)
    return blank


def as_shown(tokens: Tensor, vocabulary: Vocabulary, symbols: Symbols) -> Tensor:
    """What the denoiser sees (…): a skeleton sampler sees the digits that are known as ``<DIGIT>``."""
    if symbols != "skeleton" or vocabulary.digit is None:
        return tokens
    digits = torch.tensor(vocabulary.digit_ids, device=tokens.device)
    return torch.where(torch.isin(tokens, digits), vocabulary.digit, tokens)


def allowed_symbols(tokens: Tensor, vocabulary: Vocabulary, symbols: Symbols = "plain") -> Tensor:
    """(…, vocab) bool: what may be written in the place of tokens (…).

    ``plain``: all but PAD, MASK, BOS, EOS and ``<DIGIT>``.  ``skeleton``: ``<DIGIT>`` in the place of the digits.  ``fill``:
    digits where ``<DIGIT>`` stands, plain elsewhere.  ``open``: plain and EOS, where the end of a string is open.
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
    """(…, vocab) logits in which ``<DIGIT>`` has the probability of all digits and its own.

    A model that sees no digit cannot know whether a skeleton or a string is asked for, and shares the mass between the two.
    """
    if vocabulary.digit is None:
        return logits
    whole = logits[..., [*vocabulary.digit_ids, vocabulary.digit]].logsumexp(-1, keepdim=True)
    index = torch.full_like(whole, vocabulary.digit, dtype=torch.int64)
    return logits.scatter(-1, index, whole)


def log_distribution(logits: Tensor, allowed: Tensor) -> Tensor:
    """(…, vocab) normalised log-probabilities over the allowed symbols; uniform over them where all were impossible."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).masked_fill(
        ~allowed, -torch.inf
    )
    dead = logits.amax(-1, keepdim=True) == -torch.inf
    return torch.where(dead & allowed, 0.0, logits).log_softmax(-1)


def temper(
    log_probs: Tensor, temperature: float, top_p: float = 1.0, top_k: int = 0, min_p: float = 0.0
) -> Tensor:
    """(…, vocab) log-probabilities, unnormalised, at a temperature > 0, cut by ``top_k``, then ``top_p``, then ``min_p``.

    The order is that of the field's libraries: each cut sees the distribution that the one before has left.
    """
    return keep_min_p(
        keep_top_p(keep_top_k((log_probs / temperature).log_softmax(-1), top_k), top_p), min_p
    )


def keep_top_k(logits: Tensor, top_k: int) -> Tensor:
    """(…, vocab) with minus infinity below the ``top_k``-th largest, ties with it kept; 0 keeps all."""
    if not 0 < top_k < logits.shape[-1]:
        return logits
    return logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], -torch.inf)


def keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """(…, vocab) with minus infinity outside the smallest set of mass ``top_p`` (1904.09751).

    The most likely symbol is always kept, and a symbol is kept while the mass of those above it is below ``top_p``.
    """
    if top_p >= 1.0:
        return logits
    ordered, index = logits.sort(dim=-1, descending=True, stable=True)
    # Summed from the unlikely end, where the sums are small and so exact, as the field's libraries do.
    drop = ordered.flip(-1).softmax(-1).cumsum(-1).flip(-1) <= 1 - top_p
    drop[..., 0] = False
    return logits.masked_fill(torch.zeros_like(drop).scatter(-1, index, drop), -torch.inf)


def keep_min_p(logits: Tensor, min_p: float) -> Tensor:
    """(…, vocab) with minus infinity where the probability is below ``min_p`` times the largest (2407.01082)."""
    if min_p <= 0.0:
        return logits
    probs = logits.softmax(-1)
    best = probs.amax(-1, keepdim=True)
    return logits.masked_fill((probs < min_p * best) & (probs < best), -torch.inf)


def draw(
    log_probs: Tensor,
    noise: Tensor | None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
) -> Tensor:
    """(…) token ids by the Gumbel-max trick: argmax(log p / temperature + noise).

    At temperature 0, argmax log p, without ``noise`` (…, vocab).  ``log_probs`` (…, vocab) need not be normalised.
    """
    if temperature == 0 or noise is None:
        return log_probs.argmax(-1)
    return (temper(log_probs, temperature, top_p, top_k, min_p) + noise).argmax(-1)


@dataclass(frozen=True)
class TokenFigures:
    """What a distribution says of the tokens that were drawn, (n,) each, in nats at temperature 1.

    A gap is the probability of the likeliest token minus that of the second.
    """

    log_probs: Tensor
    entropies: Tensor
    gaps: Tensor


def token_figures(log_probs: Tensor, tokens: Tensor) -> TokenFigures:
    """The figures of tokens (n,) under normalised ``log_probs`` (n, vocab)."""
    two = log_probs.topk(2, dim=-1).values.exp()
    return TokenFigures(pick(log_probs, tokens), entropy(log_probs), two[:, 0] - two[:, 1])


def penalise_repetition(logits: Tensor, said: Tensor, penalty: float) -> Tensor:
    """(…, vocab) logits l of what was ``said`` (…, vocab) bool become l / penalty, or l * penalty below 0 (1909.05858).

    Logits have an arbitrary offset, and what this does depends on it: it is defined on what the model's head says.
    """
    return torch.where(said, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def penalise_counts(logits: Tensor, counts: Tensor, presence: float, frequency: float) -> Tensor:
    """(…, vocab) logits less ``presence`` where counts (…, vocab) are above 0, and less ``frequency`` times the counts."""
    return logits - presence * (counts > 0).to(logits) - frequency * counts.to(logits)


def entropy(log_probs: Tensor) -> Tensor:
    """(…) entropy in nats of (…, vocab) log-probabilities."""
    return -torch.where(log_probs == -torch.inf, 0.0, log_probs.exp() * log_probs).sum(-1)


def pick(log_probs: Tensor, tokens: Tensor) -> Tensor:
    """(…) log-probability of tokens (…) under (…, vocab)."""
    return log_probs.gather(-1, tokens[..., None])[..., 0]
