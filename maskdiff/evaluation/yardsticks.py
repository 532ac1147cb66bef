"""Simple repairers as yardsticks: models as noisy channels, and the nearest training line.

They are fitted on the training split and are given what the model is given, see `KnownDamage`.

One random edit has a kind, uniform among `kinds`, and turns a string of n symbols over an alphabet
of A into another one with these log-probabilities: a deletion -log n, an insertion
-log(n + 1) - log A, a replacement -log n - log(A - 1), a transposition -log(n - 1). Several
deletions or insertions may give the same string; they are counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from maskdiff.data import draw_texts
from maskdiff.evaluation.noisy_ngram import NoiseRates, noisy_originals
from maskdiff.languages import split_of
from maskdiff.languages.cfg import UNREADABLE, nearest_strings
from maskdiff.models.grammar_model import FittedGrammar, fit_grammar
from maskdiff.training.fitting import ngram_of

if TYPE_CHECKING:
    from maskdiff.languages import Language, Split, Vocabulary
    from maskdiff.models.ngram import NGram

KINDS = ("replace", "insert", "delete")  # all edits: and "transpose"
USUAL_EDITS = (0, 2)  # edits that the n-gram considers if their number is unknown
SOURCES = 64  # sources of each string that the fitted grammar compares
BEAM = 8  # sources of a string, and strings at one edit whose own sources are searched
ROWS = 256  # sources that are scored together
FOREIGN, BLANK = -2, -3  # codes of symbols of a text that no line has; -1 is behind a line
TRAINING = 20_000  # strings drawn to fit the yardsticks of a language without a corpus
VALIDATION = 1000  # strings drawn to choose the order
YARDSTICKS = 0x59  # first word of the seed of the strings drawn

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Tokens = tuple[int, ...]
Repairer = Callable[[Sequence[str], "KnownDamage"], list[str]]


@dataclass(frozen=True)
class KnownDamage:
    """What a repairer is given about the damage of all texts.

    Attributes:
        broken: The text is damaged, so that unchanged is no answer.
        edits: The least and the greatest number of edits; None if unknown.
        noise: Rates of the training noise, of which one holds for the whole text; blanks are
            places to fill. None for a few edits of texts without blanks.
    """

    broken: bool = False
    edits: tuple[int, int] | None = None
    noise: tuple[NoiseRates, ...] | None = None

    def __str__(self) -> str:
        return "known broken" if self.broken else "unknown"


UNKNOWN = KnownDamage()
BLANKS = KnownDamage(noise=(NoiseRates(),))  # every other symbol is right


# ------------------------------------------------------------------------------ the noisy channel


@dataclass(frozen=True)
class _Edits:
    """Edits of y that lead back to x: `written` replaces the symbols from `start` to `stop`."""

    start: Ints  # (edits,)
    stop: Ints  # (edits,)
    written: Ints  # (edits, width)
    log_channel: Floats  # (edits,) log p(y | x)

    def __getitem__(self, rows: Ints) -> _Edits:
        return _Edits(*(values[rows] for values in vars(self).values()))


def edit_sources(
    model: NGram, tokens: Sequence[int], top: int = BEAM, kinds: Sequence[str] = KINDS
) -> list[tuple[float, Tokens]]:
    """Return the strings x that one edit turns into `tokens`, by log p(x) + log p(tokens | x).

    Only the symbols that an edit writes and the `reach` symbols after them are scored: the other
    terms are those of `tokens`. A source is scored if a bound permits that it is among the first.

    Returns:
        The `top` pairs (log-probability in nats, x), best first.
    """
    y = np.array(tokens, dtype=np.int64)
    n, vocabulary = len(y), model.vocabulary
    padded = np.concatenate(
        [np.full(model.reach, vocabulary.bos), y, [vocabulary.eos], np.full(model.reach, 0)]
    )
    # Log-probabilities before and after each position of y, and of every symbol there.
    own = model.symbol_log_probs([tokens])[0]
    before = np.concatenate([[0.0], np.cumsum(own)])  # (n + 2,)
    after = before[-1] - before
    places = np.arange(n + 1)[:, None] + np.arange(model.reach)
    first = model.next_log_probs(padded[places][:, ::-1])  # (n + 1, vocabulary)
    found: list[tuple[float, Tokens]] = []
    for edits in _edits_back(vocabulary, y, kinds):
        known = before[edits.start] + edits.log_channel
        known += after[np.minimum(edits.stop + model.reach, n + 1)]
        width = edits.written.shape[1]
        target = edits.written[:, 0] if width else padded[model.reach + edits.stop]
        bound = known + first[edits.start, target]  # no later symbol adds to it
        order = np.argsort(-bound, kind="stable")
        for begin in range(0, len(order), ROWS):
            rows = order[begin : begin + ROWS]
            if len(found) == top and bound[rows[0]] < found[-1][0]:
                break
            scores = known[rows] + _window_log_probs(model, padded, edits[rows])
            best = np.argsort(-scores, kind="stable")[:top]
            found += [(float(scores[i]), _applied(tokens, edits, int(rows[i]))) for i in best]
            found = sorted(found, key=lambda pair: (-pair[0], pair[1]))[:top]
    return found


def _applied(tokens: Sequence[int], edits: _Edits, row: int) -> Tokens:
    start, stop = int(edits.start[row]), int(edits.stop[row])
    return (*tokens[:start], *edits.written[row].tolist(), *tokens[stop:])


def _edits_back(vocabulary: Vocabulary, y: Ints, kinds: Sequence[str]) -> list[_Edits]:
    """The edits that lead from y to each of its sources, each source once in a kind."""
    n, symbols = len(y), np.array(vocabulary.inner_ids)
    at, count = np.arange(n), len(symbols)
    run = np.ones(n)  # equal symbols up to and including this one
    for i in range(1, n):
        run[i] = run[i - 1] + 1 if y[i] == y[i - 1] else 1
    none, made = np.empty((n, 0), dtype=np.int64), []

    def add(start: Ints, stop: Ints, written: Ints, log_channel: Floats | float) -> None:
        log_p = np.broadcast_to(log_channel - math.log(len(kinds)), start.shape)
        made.append(_Edits(start, stop, written, log_p))

    if "insert" in kinds and n > 1:  # delete the last symbol of each run
        ends = np.append(y[1:] != y[:-1], True)
        log_ways = np.log(run[ends])
        add(at[ends], at[ends] + 1, none[ends], log_ways - math.log(n * count))
    if "replace" in kinds and count > 1:
        start, symbol = np.nonzero(y[:, None] != symbols)
        add(start, start + 1, symbols[symbol][:, None], -math.log(n * (count - 1)) if n else 0.0)
    if "delete" in kinds:  # write a symbol, at the end of a run of its like
        differs = np.append(y, -1)[:, None] != symbols  # (n + 1, symbols)
        start, symbol = np.nonzero(differs)
        left = np.where(start > 0, start - 1, 0)
        same = (start > 0) & (np.append(y, -1)[left] == symbols[symbol])
        ways = np.where(same, np.append(run, 0)[left], 0) + 1
        add(start, start, symbols[symbol][:, None], np.log(ways) - math.log(n + 1))
    if "transpose" in kinds and n > 1:
        start = np.flatnonzero(y[1:] != y[:-1])
        swapped = np.stack([y[start + 1], y[start]], axis=1)
        add(start, start + 2, swapped, -math.log(n - 1))
    return made


def _window_log_probs(model: NGram, padded: Ints, edits: _Edits) -> Floats:
    """Log p of the symbols that each edit writes and of the `reach` symbols after, (edits,)."""
    reach, span = model.reach, np.arange(model.reach)
    left = padded[edits.start[:, None] + span]
    places = edits.stop[:, None] + reach + span
    right = np.where(places < len(padded), padded[np.minimum(places, len(padded) - 1)], 0)
    line = np.concatenate([left, edits.written, right], axis=1)
    parts = np.lib.stride_tricks.sliding_window_view(line, reach + 1, axis=1)
    inside = parts[..., -1] != model.vocabulary.pad  # nothing follows the end
    log_p = np.zeros(inside.shape)
    windows = parts[inside]
    log_p[inside] = model.target_log_probs(windows[:, :-1][:, ::-1], windows[:, -1])
    return np.asarray(log_p.sum(1))


def most_probable_source(
    model: NGram, tokens: Sequence[int], known: KnownDamage, beam: int = BEAM
) -> Tokens:
    """Return the most probable original of `tokens` under the n-gram and the channel of edits."""
    totals = probable_sources(model, tokens, known, beam, beam)
    return max(totals, key=lambda x: totals[x], default=tuple(tokens))


def probable_sources(
    model: NGram, tokens: Sequence[int], known: KnownDamage, beam: int, top: int
) -> dict[Tokens, float]:
    """Return probable originals x of `tokens` with log p(x) + log p(tokens | x) by the n-gram.

    The number of edits is uniform in its range. Of two edits, the second one is undone only for the
    `beam` best strings after the first, whose probabilities are summed; of each string the `top`
    best sources are kept.
    """
    low, high = known.edits or USUAL_EDITS
    given = tuple(tokens)
    level = {given: float(model.log_probs([given])[0])}  # log p(x) + log p(tokens | x)
    totals: dict[Tokens, float] = {}
    for count in range(high + 1):
        if count >= low:
            _accumulate(totals, level.items())
        if count == high:
            break
        near = sorted(level, key=lambda x: -level[x])[:beam]
        own = model.log_probs(near)
        following: dict[Tokens, float] = {}
        for middle, log_p in zip(near, own, strict=True):
            channel = level[middle] - log_p
            sources = edit_sources(model, middle, top)
            _accumulate(following, ((x, channel + score) for score, x in sources))
        level = following
    if known.broken:
        totals.pop(given, None)
    return totals


def noisy_sources(
    model: NGram, tokens: Sequence[int], noise: Sequence[NoiseRates], whole: bool = False
) -> dict[Tokens, float]:
    """Return probable originals as `noisy_originals` does, each under its most probable rates."""
    totals: dict[Tokens, float] = {}
    for rates in noise:
        for string, log_p in noisy_originals(model, tokens, rates, whole=whole).items():
            totals[string] = max(log_p, totals.get(string, -math.inf))
    return totals


def most_probable_derived(
    grammar: FittedGrammar, model: NGram, tokens: Sequence[int], known: KnownDamage
) -> Tokens:
    """Return the most probable original of `tokens` under a grammar and the channel of the damage.

    The n-gram proposes originals, and the least-edit parser strings of the grammar. All edits of a
    string that the n-gram did not propose count as replacements.
    """
    symbols = model.vocabulary.inner_ids
    low, high = known.edits or USUAL_EDITS
    most: float = high
    if known.noise is None:
        totals = probable_sources(model, tokens, known, BEAM, SOURCES)
    else:
        totals = noisy_sources(model, tokens, known.noise, whole=True)
        low, most = 0, math.inf if any(rates.replace for rates in known.noise) else 0
    channel = dict(
        zip(totals, np.array(list(totals.values())) - model.log_probs(list(totals)), strict=True)
    )
    place = {token: i for i, token in enumerate(symbols)}
    given = [place.get(token, UNREADABLE) for token in tokens]
    for near in nearest_strings(grammar.grammar, given, BEAM, most):
        string = tuple(symbols[i] for i in near.symbols)
        if near.cost >= max(low, known.broken):
            channel.setdefault(string, _replacements(tokens, int(near.cost), model, known))
    if not channel:
        return tuple(tokens)
    scores = grammar.smoothed_log_probs(list(channel)) + np.array(list(channel.values()))
    return list(channel)[int(scores.argmax())]


def _replacements(tokens: Sequence[int], cost: int, model: NGram, known: KnownDamage) -> float:
    """Log p of the damaged tokens if `cost` of their symbols were replaced."""
    symbols = len(model.vocabulary.inner_ids)
    if known.noise is None:
        return -cost * math.log(len(KINDS) * max(1, len(tokens)) * symbols)
    blanks = list(tokens).count(model.vocabulary.mask)
    kept = max(0, len(tokens) - blanks - cost)
    return max(
        _log_power(rates.mask, blanks)
        + _log_power(rates.replace, cost)
        + _log_power(rates.keep, kept)
        for rates in known.noise
    )


def _log_power(rate: float, count: int) -> float:
    """Log of `rate` to the power of `count`; 0 to the power of 0 is 1."""
    if count == 0:
        return 0.0
    return count * math.log(rate) if rate > 0 else -math.inf


def _accumulate(totals: dict[Tokens, float], pairs: Iterable[tuple[Tokens, float]]) -> None:
    """Add probabilities, given as logarithms, to those of the same strings."""
    for string, log_p in pairs:
        totals[string] = float(np.logaddexp(totals.get(string, -math.inf), log_p))


# --------------------------------------------------------------------------- the nearest line


class NearestLine:
    """Finds the line of least edit distance; of several, the most frequent, then the first.

    Lines are compared in the order of a lower bound of the distance, from the numbers of each
    symbol, until the bound exceeds the least distance.

    Args:
        lines: The lines.
        blank: A symbol of texts that equals every symbol of a line; none by default.
    """

    def __init__(self, lines: Sequence[str], blank: str = "") -> None:
        counted = Counter(lines)
        self.lines = sorted(counted, key=lambda line: -counted[line])  # ties keep their order
        self.lengths = np.array([len(line) for line in self.lines])
        symbols = sorted(set("".join(self.lines)))
        self._ids = {symbol: i for i, symbol in enumerate(symbols)}
        self._places = {**self._ids, blank: BLANK}
        self._codes = np.full((len(self.lines), int(self.lengths.max())), -1, dtype=np.int16)
        for i, line in enumerate(self.lines):
            self._codes[i, : len(line)] = [self._ids[symbol] for symbol in line]
        self._bags = np.zeros((len(self.lines), len(symbols)), dtype=np.int16)
        for i in range(len(symbols)):
            self._bags[:, i] = (self._codes == i).sum(1)

    def __call__(self, text: str, broken: bool = False) -> str:
        """Return the line nearest to `text`; another one than `text` if that is `broken`."""
        codes = np.array([self._places.get(symbol, FOREIGN) for symbol in text], dtype=np.int16)
        surplus = self._bags - np.bincount(codes[codes >= 0], minlength=len(self._ids))
        missing = np.maximum(np.maximum(surplus, 0).sum(1) - (codes == BLANK).sum(), 0)
        bound = np.maximum(missing, len(text) - self.lengths + missing)
        order = np.argsort(bound, kind="stable")
        best: tuple[int, int] | None = None  # distance and place
        for begin in range(0, len(order), ROWS):
            rows = order[begin : begin + ROWS]
            if best is not None and bound[rows[0]] > best[0]:
                break
            width = int(self.lengths[rows].max())
            found = _distances(codes, self._codes[rows, :width], self.lengths[rows])
            for distance, row in zip(found.tolist(), rows.tolist(), strict=True):
                if not (broken and distance == 0) and (best is None or (distance, row) < best):
                    best = distance, row
        return text if best is None else self.lines[best[1]]


def _distances(
    text: NDArray[np.int16], lines: NDArray[np.int16], lengths: Ints
) -> NDArray[np.int16]:
    """The edit distances of a text from lines (lines, width), each of its own length."""
    step = np.arange(lines.shape[1] + 1, dtype=np.int16)
    table = np.tile(step, (len(lines), 1))
    for symbol in text:
        row = table + np.int16(1)
        differs = (lines != symbol) & (symbol != BLANK)
        row[:, 1:] = np.minimum(row[:, 1:], table[:, :-1] + differs)
        table = np.minimum.accumulate(row - step, axis=1) + step
    return table[np.arange(len(lines)), lengths]


# --------------------------------------------------------------------------- fitted on a language


@dataclass(frozen=True)
class Yardsticks:
    """The simple repairers of a language.

    Attributes:
        model: The n-gram, of the order that predicts the validation split best.
        lines: The training lines, repetitions included.
        grammar: The grammar of the language, fitted to them; None without one.
    """

    vocabulary: Vocabulary
    model: NGram
    lines: Sequence[str]
    grammar: FittedGrammar | None = None

    @cached_property
    def nearest(self) -> NearestLine:
        return NearestLine(self.lines)

    @cached_property
    def nearest_with_blanks(self) -> NearestLine:
        return NearestLine(self.lines, self.vocabulary.blank)

    def ngram(self, texts: Sequence[str], known: KnownDamage = UNKNOWN) -> list[str]:
        """Return the most probable original of each text.

        See `most_probable_source` and, where the damage is noise, `noisy_originals`.
        """

        def original(tokens: list[int]) -> Tokens:
            if known.noise is None:
                return most_probable_source(self.model, tokens, known)
            totals = noisy_sources(self.model, tokens, known.noise)
            return max(totals, key=lambda x: totals[x])

        return self._answers(texts, known, original)

    def pcfg(self, texts: Sequence[str], known: KnownDamage = UNKNOWN) -> list[str]:
        """Return the most probable original of each text by the fitted grammar, which must exist.

        See `most_probable_derived`.
        """
        grammar = self.grammar
        assert grammar is not None
        return self._answers(
            texts, known, lambda row: most_probable_derived(grammar, self.model, row, known)
        )

    def _answers(
        self, texts: Sequence[str], known: KnownDamage, original: Callable[[list[int]], Tokens]
    ) -> list[str]:
        blanks = known.noise is not None
        rows = [self.vocabulary.encode(text, blanks=blanks) for text in texts]
        return [self.vocabulary.decode(original(row)) for row in rows]

    def nearest_line(self, texts: Sequence[str], known: KnownDamage = UNKNOWN) -> list[str]:
        """Return the training line nearest to each text."""
        nearest = self.nearest if known.noise is None else self.nearest_with_blanks
        return [nearest(text, known.broken) for text in texts]

    def repairers(self) -> dict[str, Repairer]:
        """Return the repairers by their names in a report."""
        pcfg = {} if self.grammar is None else {"pcfg": self.pcfg}
        return {"ngram": self.ngram, **pcfg, "nearest_line": self.nearest_line}

    def nats(self, texts: Sequence[str], given: int = 0) -> Floats:
        """Return -log p of each text with its end, given its first `given` symbols, (texts,)."""
        rows = [self.vocabulary.encode(text) for text in texts]
        return np.array([-log_p[given:].sum() for log_p in self.model.symbol_log_probs(rows)])

    def pcfg_nats(self, texts: Sequence[str]) -> Floats | None:
        """Return -log p of each text by the fitted grammar, (texts,); None without one.

        A text that the grammar does not derive has `FittedGrammar.smoothed_log_probs`.
        """
        if self.grammar is None:
            return None
        return -self.grammar.smoothed_log_probs([self.vocabulary.encode(text) for text in texts])


def fit_yardsticks(language: Language, seed: int = 0) -> Yardsticks:
    """Return the yardsticks of a language.

    They are fitted on the training split of its corpus, or on `TRAINING` strings of that split,
    drawn with `seed`. The validation split chooses the order of the n-gram.
    """
    return _fit_yardsticks(language, seed)  # type: ignore[arg-type]  # hashed by identity


@lru_cache(maxsize=2)
def _fit_yardsticks(language: Language, seed: int) -> Yardsticks:
    train = split_lines_of(language, "train", TRAINING, seed)
    validation = split_lines_of(language, "validation", VALIDATION, seed)
    vocabulary, model = language.vocabulary, ngram_of(train, validation, language.vocabulary)
    return Yardsticks(vocabulary, model, train, fit_grammar(language, train, validation))


def split_lines_of(language: Language, split: Split, count: int, seed: int) -> list[str]:
    """Return all lines of a split of a corpus, else `count` draws that belong to the split."""
    texts = language.texts()
    if texts is not None:
        return [text for text in texts if split_of(text) == split]
    rng = np.random.default_rng((YARDSTICKS, seed, split == "train"))
    return draw_texts(language, count, rng, split)
