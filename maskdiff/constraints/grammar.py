"""Conditioning on a grammar: every sampler asks here, and what it commits can always be completed.

For: ``Constraint``, what samplers ask of any constraint, and ``GrammarConstraint``, exact for a context-free grammar.  Not for:
charts (``chart.py``, ``posterior.py``, ``prefix.py``).  Easy to get wrong: what commits together must come from *one* joint
draw.  Two positions drawn from their own exact posteriors can contradict each other; one joint draw cannot, and as all visible
tokens are certain at the next evaluation, there always is a string left.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskdiff.constraints.chart import Chart, Rules, descend, fill
from maskdiff.constraints.posterior import posterior
from maskdiff.constraints.prefix import PrefixMask
from maskdiff.drawing.logits import Symbols, temper
from maskdiff.drawing.settings import Draw, NextSymbol
from maskdiff.errors import CanvasError, ConfigError, quote
from maskdiff.languages.cfg import NormalForm, compile_grammar
from maskdiff.utils.deadline import NEVER, Deadline

if TYPE_CHECKING:
    from maskdiff.languages import Language, Vocabulary

CELLS = 220_000  # of the charts that are filled together, per nonterminal: few steps, and they stay in a CPU's cache
WIDER = 1.3  # the longest of them is at most so much longer than the shortest: a chart costs the cube of its width


class GrammarConstraint:
    """Exact conditioning on a context-free grammar over the inner symbols of a vocabulary, for canvases on ``device``.

    Charts are float64; filling them raises TimedOut at ``deadline``.

    Raises ``ConfigError`` for a device without that, ``ValueError`` where the grammar's symbols are
    not the vocabulary's, in their order.
    """

    def __init__(
        self,
        grammar: NormalForm,
        vocabulary: Vocabulary,
        device: torch.device | str = "cpu",
        deadline: Deadline = NEVER,
    ) -> None:
        if grammar.symbols != tuple(vocabulary.symbols[i] for i in vocabulary.inner_ids):
            raise ValueError(f"a grammar over {grammar.symbols} cannot constrain {vocabulary}")
        if torch.device(device).type == "mps":
            raise ConfigError("grammars need float64, which mps lacks; sample with --device cpu")
        self.vocabulary, self.grammar, self.device = vocabulary, grammar, torch.device(device)
        self.rules = Rules(grammar, device, deadline)
        self.inner = torch.tensor(vocabulary.inner_ids, device=device)
        self.digits = torch.tensor(vocabulary.digit_ids, dtype=torch.int64, device=device)
        self.stands_for = (
            torch.arange(len(vocabulary), device=device)[:, None] == self.inner
        )  # (vocab, inner symbols)
        if vocabulary.digit is not None:
            self.stands_for[vocabulary.digit] = torch.isin(self.inner, self.digits)

    @classmethod
    def of(
        cls, language: Language, device: torch.device | str = "cpu", deadline: Deadline = NEVER
    ) -> GrammarConstraint:
        """The constraint of a language's own grammar; raises ``ConfigError`` where it has none."""
        grammar = language.lark_grammar()
        if grammar is None:
            raise ConfigError(f"{language.name} has no grammar; sample without one")
        vocabulary = language.vocabulary
        symbols = tuple(vocabulary.symbols[i] for i in vocabulary.inner_ids)
        normal = compile_grammar(grammar, symbols, language.config.accept_ambiguous)
        return cls(normal, vocabulary, device, deadline)

    def condition(
        self,
        log_probs: Tensor,
        tokens: Tensor,
        free: Tensor,
        length: Tensor,
        uniform: Tensor | None,
        draw: Draw,
    ) -> tuple[Tensor, Tensor]:
        """See ``Constraint``."""
        conditioned, drawn = torch.full_like(log_probs, -torch.inf), tokens.clone()
        for rows in _like_lengths(length):
            width = int(length[rows].max())
            part = _Part(
                log_probs[rows, :width], tokens[rows, :width], free[rows, :width], length[rows]
            )
            numbers = None if uniform is None else uniform[rows, : width - 2, : width - 1]
            marginals, symbols = self._condition(part, numbers, draw)
            conditioned[rows, :width], drawn[rows, :width] = marginals.to(log_probs), symbols
        return conditioned, torch.where(free, drawn, tokens)

    def _condition(self, part: _Part, uniform: Tensor | None, draw: Draw) -> tuple[Tensor, Tensor]:
        """The same for a group of strings."""
        emission = self._emission(part, draw.symbols)
        chart = fill(self.rules, emission, part.length - 2)
        if bool(
            (chart.log_total == -torch.inf).any()
        ):  # where every string is impossible to the denoiser, all are alike
            open_ = self._open_chart(self._part(part.tokens, part.free, part.length))
            self._refuse(open_, part)
            lost = (chart.log_total == -torch.inf)[:, None, None]
            chart = fill(self.rules, torch.where(lost, open_.emission, emission), part.length - 2)
            part = replace(part, log_probs=torch.where(lost, 0.0, part.log_probs))
        drawn = descend(*self._drawing(chart, part, uniform, draw))
        conditioned = torch.full_like(part.log_probs, -torch.inf, dtype=chart.emission.dtype)
        conditioned[:, 1:-1, self.inner] = posterior(chart)
        symbols = torch.nn.functional.pad(self.inner[drawn.clamp(min=0)], (1, 1))
        return (
            self._fold(conditioned, symbols)
            if draw.symbols == "skeleton"
            else (conditioned, symbols)
        )

    def _drawing(
        self, chart: Chart, part: _Part, uniform: Tensor | None, draw: Draw
    ) -> tuple[Chart, Tensor | None]:
        """The chart and the numbers to draw with: those given, or of the tempered product, or of the best string."""
        if uniform is None or draw.temperature == 0:
            emission = chart.emission
            if (
                draw.symbols == "skeleton"
            ):  # the best skeleton, not the one with the best digits: <DIGIT> counts in full
                proposed = part.free[:, 1:-1, None] & torch.isin(self.inner, self.digits)
                emission = emission + math.log(max(1, len(self.digits))) * proposed
            return fill(self.rules, emission, chart.length, best=True), None
        cuts = draw.truncation
        if draw.temperature == 1.0 and cuts == (1.0, 0, 0.0):
            return chart, uniform
        warm = [temper(part.log_probs, draw.temperature, *cut) for cut in ((1.0,), cuts)]
        whole, cut = (self._emission(replace(part, log_probs=x), draw.symbols) for x in warm)
        nucleus = fill(self.rules, cut, chart.length)
        some = (nucleus.log_total > -torch.inf)[:, None, None]
        return (
            nucleus
            if bool(some.all())
            else fill(self.rules, torch.where(some, cut, whole), chart.length)
        ), uniform

    def _emission(self, part: _Part, symbols: Symbols) -> Tensor:
        """(batch, n, inner symbols) float64 log-probabilities: those given where free, certainty elsewhere.

        A skeleton's ``<DIGIT>`` is any digit: all of them alike where it is proposed, all of them allowed where it is written.
        """
        proposed, digit = part.log_probs[:, 1:-1].double(), self.vocabulary.digit
        if symbols == "skeleton" and digit is not None:
            each = proposed[..., digit, None] - math.log(len(self.digits))
            proposed = proposed.index_copy(-1, self.digits, each.expand(-1, -1, len(self.digits)))
        certain = torch.where(self.stands_for[part.tokens[:, 1:-1]], 0.0, -torch.inf).double()
        return torch.where(part.free[:, 1:-1, None], proposed[..., self.inner], certain)

    def _fold(self, conditioned: Tensor, symbols: Tensor) -> tuple[Tensor, Tensor]:
        """Digits as ``<DIGIT>``, which has the probability of all of them."""
        digit = self.vocabulary.digit
        if digit is None:
            return conditioned, symbols
        conditioned[..., digit] = conditioned[..., self.digits].logsumexp(-1)
        conditioned[..., self.digits] = -torch.inf
        return conditioned, torch.where(torch.isin(symbols, self.digits), digit, symbols)

    def mask(self, tokens: Tensor, free: Tensor, length: Tensor) -> NextSymbol:
        """See ``Constraint``."""
        possible = self._emission(self._part(tokens, free, length), "plain") > -torch.inf
        return _Mask(self, PrefixMask(self.grammar, self.rules, possible, length - 2))

    def check(self, tokens: Tensor, free: Tensor, length: Tensor) -> None:
        """See ``Constraint``."""
        tokens = torch.where(free, self.vocabulary.mask, tokens)
        rows = torch.cat((length[:, None].to(tokens), tokens), 1)
        alike, which = torch.unique(rows, dim=0, return_inverse=True)
        lost = self._lost(alike[:, 1:], alike[:, 0])[which].nonzero()[:, 0]
        if len(lost):
            first = lost[:1]
            part = self._part(tokens[first], free[first], length[first])
            self._refuse(self._open_chart(part), part)

    def _lost(self, tokens: Tensor, length: Tensor) -> Tensor:
        """(batch,) whether nothing can be made of a string with ``<MASK>`` where it is free."""
        symbols = torch.arange(tokens.shape[1], device=tokens.device) < length[:, None] - 1
        known = ((tokens != self.vocabulary.mask) & symbols)[:, 1:].any(1)
        possible = torch.from_numpy(self.grammar.lengths(int(length.max()) - 2)).to(tokens.device)
        lost = ~possible[length - 2]
        rows = (known & ~lost).nonzero()[:, 0]
        for part in _like_lengths(length[rows]):
            group = rows[part]
            canvas = tokens[group, : int(length[group].max())]
            chart = self._open_chart(
                self._part(canvas, canvas == self.vocabulary.mask, length[group])
            )
            lost[group] = chart.log_total == -torch.inf
        return lost

    def _part(self, tokens: Tensor, free: Tensor, length: Tensor) -> _Part:
        """A canvas in which everything that is free may be anything."""
        anything = torch.zeros(
            *tokens.shape, len(self.vocabulary), dtype=torch.float64, device=self.device
        )
        return _Part(anything, tokens, free, length)

    def _open_chart(self, part: _Part) -> Chart:
        return fill(self.rules, self._emission(part, "plain"), part.length - 2)

    def _refuse(self, chart: Chart, part: _Part) -> None:
        """Raises ``CanvasError`` for the first string without any possibility."""
        lost = (chart.log_total == -torch.inf).nonzero()[:, 0].tolist()
        if not lost:
            return
        row, n = lost[0], int(chart.length[lost[0]])
        possible = self.grammar.lengths(max(2 * n, n + 16))
        if not possible[n]:
            near = [*possible[:n].nonzero()[0][-1:], *(possible[n:].nonzero()[0][:1] + n)]
            told = f"the nearest length{'s are' if len(near) > 1 else ' is'} {' and '.join(map(str, near))}"
            raise CanvasError(
                f"no string of the grammar has {n} symbols; {told if near else 'none has a length near it'}"
            )
        symbols = torch.where(part.free[row], self.vocabulary.mask, part.tokens[row])[1 : n + 1]
        at = self._contradiction(symbols)
        raise CanvasError(
            f"no string of the grammar is like {quote(self.vocabulary.decode(symbols.tolist()))}: with {n} symbols and those "
            f"known before it, symbol {at} cannot be {quote(self.vocabulary.decode([int(symbols[at])]))}"
        )

    def _contradiction(self, symbols: Tensor) -> int:
        """Index of the first known symbol that cannot be kept together with those before it."""
        known = (symbols != self.vocabulary.mask).nonzero()[:, 0]
        places = torch.arange(len(symbols), device=symbols.device)
        rows = torch.where(places > known[:, None], self.vocabulary.mask, symbols)
        frame = torch.nn.functional.pad(rows, (1, 1), value=self.vocabulary.bos)
        length = torch.full_like(known, frame.shape[1])
        chart = self._open_chart(self._part(frame, frame == self.vocabulary.mask, length))
        return int(known[(chart.log_total == -torch.inf).int().argmax()])


@dataclass(frozen=True)
class _Part:
    """What a group of strings proposes, and where."""

    log_probs: Tensor  # (batch, width, vocab)
    tokens: Tensor  # (batch, width)
    free: Tensor  # (batch, width) bool
    length: Tensor  # (batch,)


def _like_lengths(length: Tensor) -> Iterator[Tensor]:
    """Indices of all strings, a group of like lengths at a time."""
    order = length.argsort(stable=True)
    sizes, start = length[order].tolist(), 0
    for end in range(1, len(sizes) + 1):
        if (
            end == len(sizes)
            or (end - start + 1) * sizes[end] ** 2 > CELLS
            or sizes[end] > WIDER * sizes[start] + 2
        ):
            yield order[start:end]
            start = end


class _Mask:
    """``PrefixMask`` in terms of token ids."""

    def __init__(self, constraint: GrammarConstraint, inside: PrefixMask) -> None:
        self.constraint, self.inside = constraint, inside

    def allowed(self) -> Tensor:
        """See ``NextSymbol``."""
        found = self.inside.allowed()
        whole = found.new_zeros(len(found), len(self.constraint.vocabulary))
        whole[:, self.constraint.inner] = found
        return whole

    def write(self, token: Tensor) -> None:
        """See ``NextSymbol``; beyond the end any token will do, and ``<DIGIT>`` is any digit."""
        self.inside.write(self.constraint.stands_for[token])

    def select(self, rows: Tensor) -> NextSymbol:
        """See ``NextSymbol``."""
        return _Mask(self.constraint, self.inside.select(rows))


def next_symbols(mask: NextSymbol, tokens: Tensor) -> Tensor:
    """(batch, width, vocab) what may stand at every position given the tokens (batch, width) before it; nothing at the ends."""
    first = mask.allowed()
    rows = [torch.zeros_like(first), first]
    for position in range(1, tokens.shape[1] - 2):
        mask.write(tokens[:, position])
        rows.append(mask.allowed())
    return torch.stack([*rows, torch.zeros_like(first)], 1)
