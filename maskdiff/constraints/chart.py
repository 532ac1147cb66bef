"""The inside chart of a product of distributions under a context-free grammar.

The inside algorithm (Baker 1979) for a grammar in Chomsky normal form gives the total weight of all
strings of the language, exact joint draws and the likeliest string. A draw from the top down is
exact, because the rule and the split of a span depend only on what the span derives (Goodman 1998).

Everything is in log space, so that unlikely strings do not underflow. All cells of one width are
filled at once. A span (start, width) splits into (start, k) and (start + k, width - k); the latter
are a diagonal of the chart, which is a strided view.
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
TINY = 1e-290  # a smaller sum of float64 probabilities may have lost its terms


class LogScatter:
    """Adds rows of one tensor to rows of another in log space.

    Args:
        source: (m,) rows to read.
        target: (m,) rows to add them to.
        size: The number of rows of the result.
    """

    def __init__(self, source: Tensor, target: Tensor, size: int) -> None:
        single = torch.bincount(target, minlength=size)[target] == 1
        self.size = size
        self.copied = source[single], target[single]
        self.added = source[~single], target[~single]

    def __call__(self, x: Tensor, best: bool = False) -> Tensor:
        """Return the log of the sum, or the maximum, of the sources of each target, (size, …)."""
        result = x.new_full((self.size, *x.shape[1:]), -torch.inf)
        source, target = self.copied
        result[target] = x[source]
        source, target = self.added
        if not len(source):
            return result
        # The maximum of each target, then the sum relative to it.
        given = x[source]
        column = (-1, *[1] * (x.dim() - 1))
        result.scatter_reduce_(0, target.view(column).expand_as(given), given, "amax")
        if best:
            return result
        shift = torch.where(result == -torch.inf, 0.0, result)
        mass = torch.zeros_like(result).index_add_(0, target, (given - shift[target]).exp_())
        several = torch.zeros(self.size, dtype=torch.bool, device=x.device)
        several = several.index_fill_(0, target, True).view(column)
        return torch.where(several, mass.log_() + shift, result)


class RuleTensors:
    """The rules of a normal form as tensors.

    Nonterminals below `long` derive strings of any length, the others single symbols. A *pair* is a
    distinct (left, right) of some rule. Pairs are ordered by which children are long: none, the
    right one, the left one, both (`slices`).

    Args:
        grammar: The grammar.
        device: The device of the tensors.
        deadline: Filling a chart raises `TimedOut` after it.
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
        self.parent = torch.from_numpy(grammar.parent).to(device)
        self.pair = order.argsort()[pair_of].to(device)
        self.to_parents = LogScatter(self.pair, self.parent, self.long)
        self.to_pairs = LogScatter(self.parent, self.pair, len(order))
        self.options = _rules_by_parent(self.parent, self.long)  # (long, most rules), padded
        self.emits = torch.from_numpy(grammar.emits).to(device)
        # The distinct sets of symbols, and the set of each nonterminal.
        self.classes, self.class_of = torch.unique(self.emits, dim=0, return_inverse=True)


def _rules_by_parent(parent: Tensor, size: int) -> Tensor:
    """(size, most) the rules of each parent, padded with NONE."""
    members = [(parent == head).nonzero()[:, 0] for head in range(size)]
    most = max(1, *(len(rules) for rules in members))
    pad = torch.nn.functional.pad
    return torch.stack([pad(rules, (0, most - len(rules)), value=NONE) for rules in members])


@dataclass(frozen=True)
class Chart:
    """Log weights of spans; the weight of a string is the product of its symbols' probabilities.

    Attributes:
        rules: The grammar.
        emission: (batch, n, symbols) log-probabilities; -inf excludes a symbol.
        length: (batch,) symbols of each string.
        unit: (nonterminals, batch, n) weight of each symbol from each nonterminal.
        inside: (long nonterminals, batch, n + 1, n + 1) weight of symbols i .. i + w - 1 from each
            nonterminal at [..., i, w]: the sum over derivations, or the best one.
        best: Whether weights are those of the best derivation.
    """

    rules: RuleTensors
    emission: Tensor
    length: Tensor
    unit: Tensor
    inside: Tensor
    best: bool = False

    @property
    def log_total(self) -> Tensor:
        """(batch,) log weight of all strings of the language, or of the best; -inf if none."""
        rows = torch.arange(len(self.length), device=self.length.device)
        return self.inside[0, rows, 0, self.length]


def inside_chart(rules: RuleTensors, emission: Tensor, length: Tensor, best: bool = False) -> Chart:
    """Return the inside chart in O(n^3 x pairs) time and O(n^2 x nonterminals) memory a string.

    Args:
        rules: The grammar.
        emission: (batch, n, symbols) log-probabilities.
        length: (batch,) symbols of each string.
        best: Whether to maximise over derivations instead of summing.

    Raises:
        TimedOut: The deadline of `rules` has passed.
    """
    batch, n, _ = emission.shape
    unit = _unit(rules, emission, best)
    inside = emission.new_full((rules.long, batch, n + 1, n + 1), -torch.inf)
    inside[:, :, :n, 1] = unit[: rules.long]
    for width in range(2, n + 1):
        rules.deadline.check()
        splits = [_splits(rules, unit, inside, kind, width, best) for kind in range(4)]
        inside[:, :, : n - width + 1, width] = rules.to_parents(torch.cat(splits), best)
    return Chart(rules, emission, length, unit, inside, best)


def _unit(rules: RuleTensors, emission: Tensor, best: bool) -> Tensor:
    """(nonterminals, batch, n) log weight of each nonterminal as one symbol."""

    def by_class(reduce: str) -> Tensor:
        masked = (emission.masked_fill(~one, -torch.inf) for one in rules.classes)
        return torch.stack([getattr(torch, reduce)(x, -1) for x in masked])[rules.class_of]

    if best:
        return by_class("amax")
    # A matrix product of probabilities, unless they are too far apart for it.
    top = emission.amax(-1, keepdim=True).nan_to_num(neginf=0.0)
    classes = rules.classes.T.to(emission.dtype)
    mass = (emission - top).exp() @ classes  # (batch, n, classes)
    possible = (emission > -torch.inf).to(mass) @ classes > 0
    if bool(((mass < TINY) & possible).any()):
        return by_class("logsumexp")
    return (mass.log() + top).permute(2, 0, 1)[rules.class_of]


def _splits(
    rules: RuleTensors, unit: Tensor, inside: Tensor, kind: int, width: int, best: bool
) -> Tensor:
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
    splits = inside[:, :, :starts, 1:width][left] + second_parts(inside, starts, width)[right]
    return splits.amax(-1) if best else log_sum(splits)


def second_parts(inside: Tensor, starts: int, width: int) -> Tensor:
    """Return a view (…, starts, width - 1) of a chart: (i + k, width - k) for k from 1."""
    *outer, row, column = inside.stride()
    shape = (*inside.shape[:-2], starts, width - 1)
    offset = inside.storage_offset() + row + (width - 1) * column
    return inside.as_strided(shape, (*outer, row, row - column), offset)


def log_sum(x: Tensor) -> Tensor:
    """Return the log of the sum over the last dimension; overwrites `x`, which may be -inf."""
    top = x.amax(-1, keepdim=True)
    top = torch.where(top == -torch.inf, 0.0, top)
    return x.sub_(top).exp_().sum(-1).log_() + top[..., 0]


def descend(chart: Chart, uniform: Tensor | None = None) -> Tensor:
    """Return one string of the language for each row, from the top of the chart down.

    Args:
        chart: The chart.
        uniform: (batch, n, n + 1) numbers in (0, 1) for an exact draw: one for each span
            (start, width), and for each symbol at width 0. None takes the best rule, split and
            symbol; on a `best` chart this is the likeliest string.

    Returns:
        (batch, n) symbols; NONE beyond a string's length and for rows without weight.
    """
    batch, n, _ = chart.emission.shape
    spans = torch.full((batch, n + 1, n + 1), NONE, dtype=torch.int64, device=chart.length.device)
    rows = torch.arange(batch, device=chart.length.device)
    spans[rows, 0, chart.length] = torch.where(chart.log_total > -torch.inf, 0, NONE)
    # Split the spans, the widest first.
    for width in range(n, 1, -1):
        chart.rules.deadline.check()
        row, start = (spans[:, :, width] != NONE).nonzero().T
        if len(row):
            left, right, split = _split(chart, row, start, width, spans[row, start, width], uniform)
            spans[row, start, split] = left
            spans[row, start + split, width - split] = right
    # Choose the symbols.
    heads = spans[:, :n, 1]
    scores = chart.emission.masked_fill(~chart.rules.emits[heads], -torch.inf)
    symbol = _choose(scores, None if uniform is None else uniform[:, :, 0])
    return torch.where(heads == NONE, NONE, symbol)


def _split(
    chart: Chart, row: Tensor, start: Tensor, width: int, head: Tensor, uniform: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """(m,) left child, right child and width of the left child of m spans of one width."""
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
    """The inside weight of any nonterminals, broadcast."""
    long = chart.rules.long
    spanned = chart.inside[head.clamp(max=long - 1), row, start, width]
    alone = chart.unit[head, row, start].masked_fill(width != 1, -torch.inf)
    return torch.where(head < long, spanned, alone)


def _choose(scores: Tensor, uniform: Tensor | None) -> Tensor:
    """(…) index into the last dimension of log weights: the largest, or by `uniform` (…)."""
    if uniform is None:
        return scores.argmax(-1)
    top = scores.amax(-1, keepdim=True)
    edges = (scores - torch.where(top == -torch.inf, 0.0, top)).exp().cumsum(-1)
    point = (uniform.to(edges) * edges[..., -1])[..., None]
    chosen = torch.searchsorted(edges, point, right=True)[..., 0]
    last = (edges < edges[..., -1:]).sum(-1)  # the last possible index, in case of rounding
    return torch.minimum(chosen, last)
