"""`GrammarConstraint`: the exact `Constraint` of a context-free grammar.

Let q be a product of distributions, one for each position. `condition` returns the marginals of
q(x | x is in the language) and one string x from a joint draw. Tokens that are committed together
must come from one joint draw: draws from the marginals of two positions can contradict each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskdiff.constraints.chart import Chart, RuleTensors, descend, inside_chart
from maskdiff.constraints.posterior import posterior
from maskdiff.constraints.prefix import PrefixMask
from maskdiff.drawing.logits import Symbols, temper
from maskdiff.drawing.settings import Draw, NextSymbol
from maskdiff.errors import CanvasError, ConfigError, quote
from maskdiff.languages.cfg import NormalForm, compile_grammar
from maskdiff.languages.lengths import nearest_lengths
from maskdiff.utils.deadline import NEVER, Deadline

if TYPE_CHECKING:
    from maskdiff.languages import Language, Vocabulary

CELLS = 220_000  # cells per nonterminal of charts that are filled together; they fit a CPU's cache
WIDER = 1.3  # largest ratio of their lengths; the cost of a chart grows with the cube of its length


class GrammarConstraint:
    """Conditions canvases on a context-free grammar. Charts are float64.

    Args:
        grammar: The grammar over the inner symbols of `vocabulary`, in their order.
        vocabulary: The vocabulary of the canvases.
        device: The device of the canvases.
        deadline: Filling a chart raises `TimedOut` after it.

    Raises:
        ConfigError: The device has no float64.
        ValueError: The symbols of the grammar are not those of the vocabulary.
    """

    def __init__(
        self,
        grammar: NormalForm,
        vocabulary: Vocabulary,
        device: torch.device | str = "cpu",
        deadline: Deadline = NEVER,
    ) -> None:
        if grammar.symbols != vocabulary.inner_symbols:
            raise ValueError(f"a grammar over {grammar.symbols} cannot constrain {vocabulary}")
        if torch.device(device).type == "mps":
            raise ConfigError("grammars need float64, which mps lacks; sample with --device cpu")
        self.vocabulary, self.grammar, self.device = vocabulary, grammar, torch.device(device)
        self.rules = RuleTensors(grammar, device, deadline)
        self.inner = torch.tensor(vocabulary.inner_ids, device=device)
        self.digits = torch.tensor(vocabulary.digit_ids, dtype=torch.int64, device=device)
        # (vocab, inner symbols): the symbols that a certain token may be.
        self.meanings = torch.arange(len(vocabulary), device=device)[:, None] == self.inner
        if vocabulary.digit is not None:
            self.meanings[vocabulary.digit] = torch.isin(self.inner, self.digits)

    @classmethod
    def of(
        cls, language: Language, device: torch.device | str = "cpu", deadline: Deadline = NEVER
    ) -> GrammarConstraint:
        """Return the constraint of the grammar of a language.

        Raises:
            ConfigError: The language has no grammar.
        """
        grammar, vocabulary = language.lark_grammar(), language.vocabulary
        if grammar is None:
            raise ConfigError(f"{language.name} has no grammar; sample without one")
        ambiguous = language.config.accept_ambiguous
        compiled = compile_grammar(grammar, vocabulary.inner_symbols, ambiguous)
        return cls(compiled, vocabulary, device, deadline)

    # Conditioning

    def condition(
        self,
        log_probs: Tensor,
        tokens: Tensor,
        free: Tensor,
        length: Tensor,
        uniform: Tensor | None,
        draw: Draw,
    ) -> tuple[Tensor, Tensor]:
        """See `Constraint`."""
        conditioned, drawn = torch.full_like(log_probs, -torch.inf), tokens.clone()
        for rows in _similar_lengths(length):
            width = int(length[rows].max())
            q = _Product(
                log_probs[rows, :width], tokens[rows, :width], free[rows, :width], length[rows] - 2
            )
            numbers = None if uniform is None else uniform[rows, : width - 2, : width - 1]
            marginals, strings = self._condition(q, numbers, draw)
            conditioned[rows, :width], drawn[rows, :width] = marginals.to(log_probs), strings
        return conditioned, torch.where(free, drawn, tokens)

    def _condition(self, q: _Product, uniform: Tensor | None, draw: Draw) -> tuple[Tensor, Tensor]:
        """`condition` for strings of similar lengths."""
        emission = self._emission(q, draw.symbols)  # (batch, n, symbols)
        chart = inside_chart(self.rules, emission, q.length)
        # Where q excludes all strings of the language, condition the uniform product.
        lost = (chart.log_total == -torch.inf)[:, None, None]
        if bool(lost.any()):
            open_chart = self._open_chart(q.tokens, q.free, q.length)
            self._check_total(open_chart, q.tokens, q.free)
            emission = torch.where(lost, open_chart.emission, emission)
            chart = inside_chart(self.rules, emission, q.length)
            q = replace(q, log_probs=torch.where(lost, 0.0, q.log_probs))
        drawn = self._draw(chart, q, uniform, draw)  # (batch, n)
        conditioned = torch.full_like(q.log_probs, -torch.inf, dtype=torch.float64)
        conditioned[:, 1:-1, self.inner] = posterior(chart)  # (batch, width, vocab)
        strings = torch.nn.functional.pad(self.inner[drawn.clamp(min=0)], (1, 1))
        if draw.symbols == "skeleton" and self.vocabulary.digit is not None:
            # <DIGIT> has the probability of all digits.
            digit = self.vocabulary.digit
            conditioned[..., digit] = conditioned[..., self.digits].logsumexp(-1)
            conditioned[..., self.digits] = -torch.inf
            strings = torch.where(torch.isin(strings, self.digits), digit, strings)
        return conditioned, strings

    def _draw(self, chart: Chart, q: _Product, uniform: Tensor | None, draw: Draw) -> Tensor:
        """(batch, n) symbols: a joint draw from the tempered product, or the likeliest string."""
        # The likeliest string. In a skeleton, <DIGIT> counts with all digits, not with the best.
        if uniform is None or draw.temperature == 0:
            emission = chart.emission
            if draw.symbols == "skeleton":
                digits = q.free[:, 1:-1, None] & torch.isin(self.inner, self.digits)
                emission = emission + math.log(max(1, len(self.digits))) * digits
            return descend(inside_chart(self.rules, emission, chart.length, best=True))
        # A draw from the product itself.
        if draw.temperature == 1.0 and draw.truncation == (1.0, 0, 0.0):
            return descend(chart, uniform)
        # A draw from the tempered and truncated product; without truncation if it leaves no string.
        whole, truncated = (
            self._emission(
                replace(q, log_probs=temper(q.log_probs, draw.temperature, *limits)), draw.symbols
            )
            for limits in ((1.0,), draw.truncation)
        )
        nucleus = inside_chart(self.rules, truncated, chart.length)
        possible = (nucleus.log_total > -torch.inf)[:, None, None]
        if not bool(possible.all()):
            emission = torch.where(possible, truncated, whole)
            nucleus = inside_chart(self.rules, emission, chart.length)
        return descend(nucleus, uniform)

    def _emission(self, q: _Product, symbols: Symbols) -> Tensor:
        """(batch, n, symbols) float64 log-probabilities of q, of certain symbols 0 or -inf.

        A free `<DIGIT>` of a skeleton is any digit, with equal probabilities.
        """
        proposed, digit = q.log_probs[:, 1:-1].double(), self.vocabulary.digit
        if symbols == "skeleton" and digit is not None:
            each = proposed[..., digit, None] - math.log(len(self.digits))
            proposed = proposed.index_copy(-1, self.digits, each.expand(-1, -1, len(self.digits)))
        free = q.free[:, 1:-1, None]
        return torch.where(free, proposed[..., self.inner], self._certain(q.tokens))

    def _certain(self, tokens: Tensor) -> Tensor:
        """(batch, n, symbols) float64 log-probabilities of certain tokens: 0 or -inf."""
        return torch.where(self.meanings[tokens[:, 1:-1]], 0.0, -torch.inf).double()

    def _open_emission(self, tokens: Tensor, free: Tensor) -> Tensor:
        """(batch, n, symbols) 0 for each symbol that is possible, -inf for others."""
        return self._certain(tokens).masked_fill(free[:, 1:-1, None], 0.0)

    def _open_chart(self, tokens: Tensor, free: Tensor, length: Tensor) -> Chart:
        """The chart of a canvas in which free positions may be any symbol."""
        return inside_chart(self.rules, self._open_emission(tokens, free), length)

    # Masks

    def mask(self, tokens: Tensor, free: Tensor, length: Tensor) -> NextSymbol:
        """See `Constraint`."""
        possible = self._open_emission(tokens, free) > -torch.inf
        return _TokenMask(self, PrefixMask(self.grammar, self.rules, possible, length - 2))

    # Checks

    def check(self, tokens: Tensor, free: Tensor, length: Tensor) -> None:
        """See `Constraint`."""
        tokens = torch.where(free, self.vocabulary.mask, tokens)
        rows = torch.cat((length[:, None].to(tokens), tokens), 1)
        distinct, which = torch.unique(rows, dim=0, return_inverse=True)
        lost = (~self.fits(distinct[:, 1:], distinct[:, 0]))[which].nonzero()[:, 0]
        if len(lost):
            first = lost[:1]
            chart = self._open_chart(tokens[first], free[first], length[first] - 2)
            self._check_total(chart, tokens[first], free[first])

    def fits(self, tokens: Tensor, length: Tensor) -> Tensor:
        """Return whether some string fits each canvas.

        Args:
            tokens: (batch, width) with `<MASK>` at free positions.
            length: (batch,) with BOS and EOS.

        Returns:
            (batch,) bool.
        """
        inside = torch.arange(tokens.shape[1], device=tokens.device) < length[:, None] - 1
        known = ((tokens != self.vocabulary.mask) & inside)[:, 1:].any(1)
        possible = torch.from_numpy(self.grammar.lengths(int(length.max()) - 2)).to(tokens.device)
        fits = possible[length - 2]
        rows = (known & fits).nonzero()[:, 0]  # only these need a chart
        for part in _similar_lengths(length[rows]):
            group = rows[part]
            canvas = tokens[group, : int(length[group].max())]
            chart = self._open_chart(canvas, canvas == self.vocabulary.mask, length[group] - 2)
            fits[group] = chart.log_total > -torch.inf
        return fits

    def _check_total(self, chart: Chart, tokens: Tensor, free: Tensor) -> None:
        """Raises `CanvasError` for the first string of an open chart without weight."""
        lost = (chart.log_total == -torch.inf).nonzero()[:, 0].tolist()
        if not lost:
            return
        row, n = lost[0], int(chart.length[lost[0]])
        possible = self.grammar.lengths(max(2 * n, n + 16))
        if not possible[n]:
            near = nearest_lengths(possible, n)
            raise CanvasError(f"no string of the grammar has {n} symbols; {near}")
        symbols = torch.where(free[row], self.vocabulary.mask, tokens[row])[1 : n + 1]
        at, decode = self._contradiction(symbols), self.vocabulary.decode
        raise CanvasError(
            f"no string of the grammar is like {quote(decode(symbols.tolist()))}: with {n} symbols "
            f"and those known before it, symbol {at} cannot be {quote(decode([int(symbols[at])]))}"
        )

    def _contradiction(self, symbols: Tensor) -> int:
        """The index of the first known symbol (n,) that contradicts the known ones before it."""
        mask = self.vocabulary.mask
        known = (symbols != mask).nonzero()[:, 0]
        # Row k has the known symbols up to the k-th one.
        places = torch.arange(len(symbols), device=symbols.device)
        rows = torch.where(places > known[:, None], mask, symbols)
        canvas = torch.nn.functional.pad(rows, (1, 1), value=self.vocabulary.bos)
        chart = self._open_chart(canvas, canvas == mask, torch.full_like(known, len(symbols)))
        return int(known[(chart.log_total == -torch.inf).int().argmax()])


@dataclass(frozen=True)
class _Product:
    """A product q of distributions at the free positions, with certain tokens elsewhere."""

    log_probs: Tensor  # (batch, width, vocab)
    tokens: Tensor  # (batch, width)
    free: Tensor  # (batch, width) bool
    length: Tensor  # (batch,) symbols, without BOS and EOS


def _similar_lengths(length: Tensor) -> Iterator[Tensor]:
    """Yields the indices of all strings in groups of similar lengths."""
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


class _TokenMask:
    """A `PrefixMask` in token ids."""

    def __init__(self, constraint: GrammarConstraint, inside: PrefixMask) -> None:
        self.constraint, self.inside = constraint, inside

    def allowed(self) -> Tensor:
        """See `NextSymbol`."""
        symbols = self.inside.allowed()  # (batch, symbols)
        tokens = symbols.new_zeros(len(symbols), len(self.constraint.vocabulary))
        tokens[:, self.constraint.inner] = symbols
        return tokens  # (batch, vocab)

    def write(self, token: Tensor) -> None:
        """See `NextSymbol`; `<DIGIT>` is any digit, and tokens beyond the end have no effect."""
        self.inside.write(self.constraint.meanings[token])

    def select(self, rows: Tensor) -> NextSymbol:
        """See `NextSymbol`."""
        return _TokenMask(self.constraint, self.inside.select(rows))


def next_symbols(mask: NextSymbol, tokens: Tensor) -> Tensor:
    """Return the allowed tokens at all positions, given the tokens before each.

    Args:
        mask: A mask at its first position; it is used up.
        tokens: (batch, width).

    Returns:
        (batch, width, vocab) bool; nothing is allowed at both ends.
    """
    first = mask.allowed()
    rows = [torch.zeros_like(first), first]
    for position in range(1, tokens.shape[1] - 2):
        mask.write(tokens[:, position])
        rows.append(mask.allowed())
    return torch.stack([*rows, torch.zeros_like(first)], 1)
