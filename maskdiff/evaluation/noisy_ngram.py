"""The most probable originals of strings with blanks or training noise, by an n-gram.

The channel acts on each symbol of x with fixed rates, as `maskdiff.repair.Channel` does, and a beam
search reads the damaged string y from left to right. The search is independent of that of `repair`,
so that a yardstick does not depend on the code that it measures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from maskdiff.config import NoiseConfig
    from maskdiff.models.ngram import NGram

BEAM = 64  # strings that the search keeps at each symbol of y
SPARE = 2  # times BEAM: extensions among which some have the same context
FLOOR = 1e-7  # of every rate, so that every y has some explanation

Tokens = tuple[int, ...]
Beam = dict[Tokens, float]  # strings after `reach` BOS, and log p(string, y so far)
Scored = tuple[Tokens, float]


@dataclass(frozen=True)
class NoiseRates:
    """Probabilities of what happens to a symbol of x; by default blanks, and nothing else.

    Attributes:
        keep: It stays.
        mask: It becomes MASK.
        replace: It becomes one given symbol, which may be itself.
        swap: It changes places with the next one.
        delete: It is removed.
        insert: One given symbol appears in a gap.
    """

    keep: float = 1.0
    mask: float = 1.0
    replace: float = 0.0
    swap: float = 0.0
    delete: float = 0.0
    insert: float = 0.0

    @classmethod
    def of(cls, noise: NoiseConfig, sigma: float, symbols: int) -> NoiseRates:
        """Return the rates of the training noise at level `sigma`, over `symbols` symbols."""
        return cls(
            keep=max(1 - sigma, FLOOR),
            mask=max(sigma * noise.mask_share, FLOOR),
            replace=max(sigma * noise.replace_share, FLOOR) / symbols,
            swap=max(sigma * noise.swap_share, FLOOR),
            delete=max(sigma * noise.delete_share, FLOOR),
            insert=max(sigma * noise.insert_share, FLOOR) / symbols,
        )


def noisy_originals(
    model: NGram, tokens: Sequence[int], rates: NoiseRates, beam: int = BEAM, whole: bool = False
) -> dict[Tokens, float]:
    """Return probable originals x of a damaged string with log p(x) + log p(y | x) in nats.

    At most one deleted symbol is restored in a gap. For blanks alone the first string is the most
    probable one if `beam` is at least the number of contexts.

    Args:
        model: The n-gram.
        tokens: y, inner token ids and MASK.
        rates: The channel.
        beam: Strings that are kept at each symbol of y.
        whole: Whether these are the best of all; by default they are the best for each context of
            the n-gram (Viterbi), so that fewer strings are found but the first one is better.

    Returns:
        At most `beam` strings, best first.
    """
    vocabulary, reach = model.vocabulary, model.reach
    symbols = np.array(vocabulary.inner_ids)
    search = _Search(model, symbols, beam, None if whole else reach)
    log = {name: math.log(p) if p else -math.inf for name, p in vars(rates).items()}
    beams: list[Beam] = [{} for _ in range(len(tokens) + 2)]
    beams[0][(vocabulary.bos,) * reach] = 0.0
    for j, token in enumerate(tokens):
        kept = search.kept_and_restored(beams[j], log["delete"])
        if token == vocabulary.mask:
            _add(beams[j + 1], search.longer(kept, np.full(len(symbols), log["mask"])))
            continue
        own = np.where(symbols == token, rates.keep, 0.0) + rates.replace
        with np.errstate(divide="ignore"):
            _add(beams[j + 1], search.longer(kept, np.log(own)))
        if rates.insert:
            _add(beams[j + 1], ((text, p + log["insert"]) for text, p in kept.items()))
        following = tokens[j + 1] if j + 1 < len(tokens) else vocabulary.mask
        if rates.swap and following not in (token, vocabulary.mask):
            pairs = search.written(dict(search.written(kept, following)), token)
            _add(beams[j + 2], ((text, p + log["swap"]) for text, p in pairs))
    ended = search.written(
        search.kept_and_restored(beams[len(tokens)], log["delete"]), vocabulary.eos
    )
    return {text[reach:-1]: p for text, p in sorted(ended, key=lambda pair: -pair[1])}


@dataclass(frozen=True)
class _Search:
    """Extends beams.

    Attributes:
        symbols: (symbols,) inner token ids.
        beam: Strings that are kept.
        context: Last symbols in which kept strings differ; None for all.
    """

    model: NGram
    symbols: NDArray[np.int64]
    beam: int
    context: int | None

    def kept(self, strings: Beam) -> Beam:
        """The best strings, one for each context, best first."""
        found: dict[Tokens, Tokens] = {}
        for text in sorted(strings, key=lambda text: (-strings[text], text)):
            found.setdefault(text if self.context is None else text[-self.context :], text)
            if len(found) == self.beam:
                break
        return {text: strings[text] for text in found.values()}

    def kept_and_restored(self, strings: Beam, log_delete: float) -> Beam:
        """The best strings, of which some have a further symbol that was deleted."""
        kept = self.kept(strings)
        if log_delete == -math.inf:
            return kept
        _add(kept, list(self.longer(kept, np.full(len(self.symbols), log_delete))))
        return self.kept(kept)

    def longer(self, strings: Beam, channel: NDArray[np.float64]) -> Iterator[Scored]:
        """The best strings with one more symbol, whose log p(y | symbol) is `channel`."""
        texts = list(strings)
        scores = np.array([*strings.values()])[:, None] + channel
        scores += self.model.next_log_probs(self._contexts(texts))[:, self.symbols]
        best = np.argsort(-scores, axis=None, kind="stable")[: SPARE * self.beam]
        rows, columns = np.unravel_index(best, scores.shape)
        written, values = self.symbols[columns].tolist(), scores[rows, columns].tolist()
        for row, token, score in zip(rows.tolist(), written, values, strict=True):
            if score > -math.inf:
                yield (*texts[row], token), score

    def written(self, strings: Beam, token: int) -> Iterator[Scored]:
        """All strings with this token at the end."""
        texts = list(strings)
        targets = np.full(len(texts), token)
        log_p = self.model.target_log_probs(self._contexts(texts), targets).tolist()
        for text, own in zip(texts, log_p, strict=True):
            yield (*text, token), strings[text] + own

    def _contexts(self, texts: Sequence[Tokens]) -> NDArray[np.int64]:
        reach = self.model.reach
        return np.array([text[: -reach - 1 : -1] for text in texts]).reshape(-1, reach)


def _add(strings: Beam, more: Iterable[Scored]) -> None:
    """Add probabilities, given as logarithms, to those of the same strings."""
    for text, log_p in more:
        strings[text] = float(np.logaddexp(strings[text], log_p)) if text in strings else log_p
