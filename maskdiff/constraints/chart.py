"""The inside chart of a canvas: what a context-free grammar makes of a product of per-position distributions.

For: the total weight of all strings that parse, exact joint samples, and the most probable string.  Not for: per-position
posteriors (``posterior.py``), deciding what to commit (``parallel.py``), or grammars themselves (``maskdiff/languages/cfg``).
Everything is in log space, so that nothing which is merely unlikely can underflow to "impossible".  Easy to get wrong: all
cells of one width are filled at once, and a span (start, width) splits into (start, k) and (start + k, width - k); the second
runs along a diagonal of the chart, which is a view with strides of its own, not a copy.

The inside algorithm (Baker 1979) for a grammar in Chomsky normal form.  Drawing from the top down is exact because the rule
and the split of a span depend on nothing but what the span derives (Goodman 1998).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskdiff.utils.deadline import NEVER, Deadline

if TYPE_CHECKING:
    from maskdiff.languages.cfg import NormalForm

NONE = -1  # no symbol, no nonterminal
TINY = 1e-290  # below this a sum of float64 probabilities has lost what it was made of


class Pool:
    """Which rows of one tensor add up, in log space, to which rows of another."""

    def __init__(self, source: Tensor, target: Tensor, size: int) -> None:
        alone = torch.bincount(target, minlength=size)[target] == 1
        self.size, self.copied, self.added = (
            size,
            (source[alone], target[alone]),
            (source[~alone], target[~alone]),
        )

    def __call__(self, x: Tensor, best: bool = False) -> Tensor:
        """(size, …): for each target the sum over its sources ``x[source]``, or the largest of them; -inf without any."""
        result = x.new_full((self.size, *x.shape[1:]), -torch.inf)
        source, target = self.copied
        result[target] = x[source]
        source, target = self.added
        if not len(source):
            return result
        given = x[source]
        index = target.view(-1, *[1] * (x.dim() - 1)).expand_as(given)
        result.scatter_reduce_(0, index, given, "amax")
        if best:
            return result
        shift = torch.where(result == -torch.inf, 0.0, result)
        mass = torch.zeros_like(result).index_add_(0, target, (given - shift[target]).exp_())
        several = torch.zeros(self.size, dtype=torch.bool, device=x.device).index_fill_(
            0, target, True
        )
        several = several.view(-1, *[1] * (x.dim() - 1))
        return torch.where(several, mass.log_() + shift, result)


class Rules:
    """The rules of a normal form as tensors.

    Nonterminals below ``long`` may span any width, the others are one symbol.  A *pair* is a distinct (left, right) of some
    rule.  Pairs are ordered by which children are long: neither, the right one, the left one, both (``slices``).
    Charts of these rules are filled until ``deadline``, and raise TimedOut.
    """

    def __init__(
        self, grammar: NormalForm, device: torch.device | str = "cpu", deadline: Deadline = NEVER
    ) -> None:
        self.long, self.deadline = grammar.long, deadline
        children = torch.stack((torch.from_numpy(grammar.left), torch.from_numpy(grammar.right)), 1)
        pairs, pair_of = torch.unique(children, dim=0, return_inverse=True)
        kind = 2 * (pairs[:, 0] < self.long) + (pairs[:, 1] < self.long)
        order = kind.argsort(stable=True)
        self.left, self.right = (pairs[order, side].to(device) for side in (0, 1))
        ends = torch.bincount(kind, minlength=4).cumsum(0).tolist()
        self.slices = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
        self.parent, self.pair = (
            torch.from_numpy(grammar.parent).to(device),
            order.argsort()[pair_of].to(device),
        )
        self.to_parents = Pool(self.pair, self.parent, self.long)
        self.to_pairs = Pool(self.parent, self.pair, len(order))
        self.options = _grouped(
            self.parent, self.long
        )  # (long, most): rules of each parent, filled up with NONE
        self.emits = torch.from_numpy(grammar.emits).to(device)
        self.classes, self.class_of = torch.unique(
            self.emits, dim=0, return_inverse=True
        )  # sets of symbols, and whose


def _grouped(group: Tensor, groups: int) -> Tensor:
    members = [(group == g).nonzero()[:, 0] for g in range(groups)]
    most = max(1, *(len(m) for m in members))
    return torch.stack(
        [torch.nn.functional.pad(m, (0, most - len(m)), value=NONE) for m in members]
    )


@dataclass(frozen=True)
class Chart:
    """``inside[a, b, i, w]``: log weight of all ways in which symbols i .. i+w-1 of string b derive from nonterminal a.

    ``unit[a, b, i]`` is that of symbol i alone, for the nonterminals of one symbol too.  Weights are products of the symbols'
    given probabilities.  ``best`` charts hold the weight of the best way instead of the sum over all of them.
    """

    rules: Rules
    emission: Tensor  # (batch, n, symbols) log-probabilities of the symbols, -inf forbids
    length: Tensor  # (batch,) symbols of each string
    unit: Tensor  # (nonterminals, batch, n)
    inside: Tensor  # (long nonterminals, batch, n + 1, n + 1)
    best: bool = False

    @property
    def log_total(self) -> Tensor:
        """(batch,) log weight of all strings of the language (of the best one, in a ``best`` chart); -inf if there is none."""
        rows = torch.arange(len(self.length), device=self.length.device)
        return self.inside[0, rows, 0, self.length]


def fill(rules: Rules, emission: Tensor, length: Tensor, best: bool = False) -> Chart:
    """The inside chart of strings of ``length`` (batch,) symbols with log-probabilities ``emission`` (batch, n, symbols).

    O(n^3 x pairs) time and O(n^2 x nonterminals) memory for each string; ``best`` maximises instead of adding up.
    """
    batch, n, _ = emission.shape
    unit = _unit(rules, emission, best)
    inside = emission.new_full((rules.long, batch, n + 1, n + 1), -torch.inf)
    inside[:, :, :n, 1] = unit[: rules.long]
    for width in range(2, n + 1):
        rules.deadline.check()
        joined = torch.cat([_join(rules, unit, inside, kind, width, best) for kind in range(4)])
        inside[:, :, : n - width + 1, width] = rules.to_parents(joined, best)
    return Chart(rules, emission, length, unit, inside, best)


def _unit(rules: Rules, emission: Tensor, best: bool) -> Tensor:
    """(nonterminals, batch, n) log weight of each nonterminal as one symbol."""
    if best:
        return torch.stack(
            [emission.masked_fill(~one, -torch.inf).amax(-1) for one in rules.classes]
        )[rules.class_of]
    top = emission.amax(-1, keepdim=True).nan_to_num(neginf=0.0)
    mass = (emission - top).exp() @ rules.classes.T.to(emission.dtype)
    weights = (mass.log() + top).permute(2, 0, 1)
    if bool(
        ((mass < TINY) & ((emission > -torch.inf).to(mass) @ rules.classes.T.to(mass) > 0)).any()
    ):
        weights = torch.stack(
            [emission.masked_fill(~one, -torch.inf).logsumexp(-1) for one in rules.classes]
        )
    return weights[rules.class_of]


def _join(rules: Rules, unit: Tensor, inside: Tensor, kind: int, width: int, best: bool) -> Tensor:
    """(pairs of the kind, batch, starts) log weight of all splits of the spans of one width."""
    which = rules.slices[kind]
    left, right, starts = rules.left[which], rules.right[which], inside.shape[2] - width
    if not len(left) or (kind == 0 and width > 2):
        return unit.new_full((len(left), inside.shape[1], starts), -torch.inf)
    if kind == 0:
        return unit[left, :, :starts] + unit[right, :, 1:]
    if kind == 1:
        return unit[left, :, :starts] + inside[:, :, 1 : starts + 1, width - 1][right]
    if kind == 2:
        return inside[:, :, :starts, width - 1][left] + unit[right, :, width - 1 :]
    splits = inside[:, :, :starts, 1:width][left] + second(inside, starts, width)[right]
    return splits.amax(-1) if best else log_sum(splits)


def second(inside: Tensor, starts: int, width: int) -> Tensor:
    """View (…, starts, width - 1) of a chart: (i + k, width - k) for k = 1 .. width - 1, along its diagonals."""
    *outer, row, column = inside.stride()
    shape = (*inside.shape[:-2], starts, width - 1)
    return inside.as_strided(
        shape, (*outer, row, row - column), inside.storage_offset() + row + (width - 1) * column
    )


def log_sum(x: Tensor) -> Tensor:
    """Log of the sum over the last dimension; uses up ``x``, and expects -inf."""
    top = x.amax(-1, keepdim=True)
    top = torch.where(top == -torch.inf, 0.0, top)
    return x.sub_(top).exp_().sum(-1).log_() + top[..., 0]


def descend(chart: Chart, uniform: Tensor | None = None) -> Tensor:
    """(batch, n) symbols of one string of the language for each row: an exact draw, or the best string.

    ``uniform`` (batch, n, n + 1) numbers in (0, 1), one for each span (start, width) and, at width 0, one for each symbol;
    without it the best rule, split and symbol is taken, which on a ``best`` chart gives the most probable string.  Places
    beyond a string's length, and strings without any weight, get ``NONE``.
    """
    batch, n, _ = chart.emission.shape
    spans = torch.full((batch, n + 1, n + 1), NONE, dtype=torch.int64, device=chart.length.device)
    rows = torch.arange(batch, device=chart.length.device)
    spans[rows, 0, chart.length] = torch.where(chart.log_total > -torch.inf, 0, NONE)
    for width in range(n, 1, -1):
        chart.rules.deadline.check()
        row, start = (spans[:, :, width] != NONE).nonzero().T
        if len(row):
            left, right, split = _split(chart, row, start, width, spans[row, start, width], uniform)
            spans[row, start, split] = left
            spans[row, start + split, width - split] = right
    heads = spans[:, :n, 1]
    scores = chart.emission.masked_fill(~chart.rules.emits[heads], -torch.inf)
    symbol = _choose(scores, None if uniform is None else uniform[:, :, 0])
    return torch.where(heads == NONE, NONE, symbol)


def _split(
    chart: Chart, row: Tensor, start: Tensor, width: int, head: Tensor, uniform: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Children (m,), (m,) and width (m,) of the first of them for m spans of one width with these nonterminals."""
    rules = chart.rules
    options = rules.options[head]  # (m, most)
    pair = rules.pair[options]
    left, right = rules.left[pair][..., None], rules.right[pair][..., None]
    k = torch.arange(1, width, device=row.device)
    at, i = row[:, None, None], start[:, None, None]
    scores = _weight(chart, left, at, i, k) + _weight(chart, right, at, i + k, width - k)
    scores = scores.masked_fill((options == NONE)[..., None], -torch.inf).flatten(1)
    chosen = _choose(scores, None if uniform is None else uniform[row, start, width])
    taken = pair.gather(1, chosen[:, None] // (width - 1))[:, 0]
    return rules.left[taken], rules.right[taken], chosen % (width - 1) + 1


def _weight(chart: Chart, head: Tensor, row: Tensor, start: Tensor, width: Tensor) -> Tensor:
    """Inside weight of nonterminals of either sort, broadcast."""
    long = chart.rules.long
    spanned = chart.inside[head.clamp(max=long - 1), row, start, width]
    alone = chart.unit[head, row, start].masked_fill(width != 1, -torch.inf)
    return torch.where(head < long, spanned, alone)


def _choose(scores: Tensor, uniform: Tensor | None) -> Tensor:
    """(…) index into the last dimension of log weights: the largest, or the one in which the ``uniform`` (…) falls."""
    if uniform is None:
        return scores.argmax(-1)
    top = scores.amax(-1, keepdim=True)
    edges = (scores - torch.where(top == -torch.inf, 0.0, top)).exp().cumsum(-1)
    chosen = torch.searchsorted(edges, (uniform.to(edges) * edges[..., -1])[..., None], right=True)[
        ..., 0
    ]
    last = (edges < edges[..., -1:]).sum(-1)  # rounding must not step past the last possible one
    return torch.minimum(chosen, last)
