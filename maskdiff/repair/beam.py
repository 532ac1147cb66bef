"""The beam of prefixes that searches for the best explanations; see the package docstring."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from maskdiff.models.denoiser import causal_stream
from maskdiff.repair.channel import Channel, Evidence, advance, rest_costs, start

if TYPE_CHECKING:
    from maskdiff.drawing.settings import Constraint
    from maskdiff.languages import Vocabulary
    from maskdiff.models.denoiser import Denoiser

NATS_PER_SYMBOL = 0.8  # rough entropy of a symbol, to compare candidates of different lengths
MARGIN = 10.0  # nats below the best hypothesis of a string at which others are dropped
CHUNK = 4  # strings that are repaired together


@dataclass(frozen=True)
class Repaired:
    """An explanation x of a damaged string, with log-probabilities in nats."""

    tokens: list[int]
    log_prior: float  # log p(x | n), by the causal mode
    log_length: float  # log p(n)
    log_channel: float  # log p(y | x), summed over alignments and noise levels
    posterior: float  # its share of the final hypotheses of the beam
    evaluations: int  # of the causal mode

    @property
    def total(self) -> float:
        return self.log_prior + self.log_length + self.log_channel


@dataclass
class _Beam:
    """Hypotheses of all jobs, where a job is one damaged string with one candidate length n.

    alpha and beta are those of `channel.advance`, divided by exp(scale).
    """

    prefix: Tensor  # (jobs, beam, emitted) indices into the symbols
    log_prior: Tensor  # (jobs, beam); -inf marks an unused place
    alpha: Tensor  # (jobs, beam, levels, width + 1)
    beta: Tensor  # (jobs, beam, levels, width + 1)
    scale: Tensor  # (jobs, beam)
    stream: Tensor  # (jobs, beam) row of the causal stream; -1 where there is none


@dataclass
class _Jobs:
    """The constants of a search; row r of each belongs to one (string, candidate length)."""

    string: Tensor  # (jobs,) number of the damaged string
    length: Tensor  # (jobs,) candidate length n of x
    log_length: Tensor  # (jobs,)
    seen: Evidence  # of y
    rest: Tensor  # (jobs, levels, n + 1, width + 1) log of `rest_costs`

    def __getitem__(self, rows: Tensor) -> _Jobs:
        return _Jobs(**{name: value[rows] for name, value in vars(self).items()})


def candidate_lengths(
    size: int, slack: int, log_prob: Callable[[int], float], low: int, high: int
) -> list[int]:
    """Return the lengths n for a string of `size` symbols: within `slack`, or the nearest one."""
    possible = [n for n in range(low, high + 1) if log_prob(n) > -float("inf")]
    near = [n for n in possible if abs(n - size) <= slack]
    return near or sorted(possible, key=lambda n: abs(n - size))[:1]


@torch.no_grad()
def repair_channel(
    denoiser: Denoiser,
    damaged: Sequence[Sequence[int]],
    candidates: Sequence[Sequence[int]],
    length_log_prob: Callable[[int], float],
    channel: Channel,
    beam: int = 16,
    on_step: Callable[[int, list[int]], None] | None = None,
    constraint: Constraint | None = None,
    top: int | None = 1,
    certain: Sequence[Collection[int]] | None = None,
) -> list[list[Repaired]]:
    """Return the best explanations x of each damaged string, best first.

    They are different strings; there are none if the channel cannot explain a string at any
    candidate length. A result does not depend on the other strings, up to rounding.

    Args:
        damaged: Strings of inner token ids; MASK is allowed.
        candidates: The lengths of x for each of them.
        length_log_prob: log p(n).
        beam: Hypotheses for each string and length.
        on_step: Called after every step with the number of symbols and the leading prefix of one
            of the strings.
        constraint: Every x satisfies it.
        top: Number of explanations; None for all that the beam ends with.
        certain: Positions of each damaged string whose symbols every x has.
    """
    order = sorted(range(len(damaged)), key=lambda i: len(damaged[i]))
    results: list[list[Repaired]] = [[] for _ in damaged]
    for first in range(0, len(order), CHUNK):
        chunk = order[first : first + CHUNK]
        pairs = [(row, n) for row, i in enumerate(chunk) for n in candidates[i]]
        if pairs:
            kept = None if certain is None else [certain[i] for i in chunk]
            seen = Evidence.of(channel, [damaged[i] for i in chunk], denoiser.vocabulary, kept)
            jobs = _make_jobs(seen, pairs, length_log_prob, channel)
            for i, found in zip(
                chunk, _search(denoiser, jobs, len(chunk), channel, beam, on_step, constraint)
            ):
                results[i] = _best(found, top)
    return results


def _make_jobs(
    seen: Evidence,
    pairs: Sequence[tuple[int, int]],
    length_log_prob: Callable[[int], float],
    channel: Channel,
) -> _Jobs:
    string, length = torch.tensor(pairs).T
    return _Jobs(
        string=string,
        length=length,
        log_length=torch.tensor([length_log_prob(n) for _, n in pairs], dtype=torch.float64),
        seen=seen[string],
        rest=rest_costs(seen, int(length.max()), channel)[string],
    )


def _search(
    denoiser: Denoiser,
    jobs: _Jobs,
    strings: int,
    channel: Channel,
    width: int,
    on_step: Callable[[int, list[int]], None] | None,
    constraint: Constraint | None,
) -> list[list[Repaired]]:
    """Grow the beams of all jobs symbol by symbol; return the final hypotheses of each string."""
    # The search runs in float64 on the CPU, the denoiser on its device.
    vocabulary = denoiser.vocabulary
    device = getattr(denoiser, "device", torch.device("cpu"))
    symbols = torch.tensor(vocabulary.inner_ids)
    final: list[list[Repaired]] = [[] for _ in range(strings)]
    state = _start(jobs, channel)
    stream = causal_stream(denoiser, jobs.length.to(device) + 2)
    logits = stream.step(torch.full_like(jobs.length, vocabulary.bos).to(device))
    mask = None if constraint is None else constraint.mask(*_blank(jobs.length, vocabulary))
    emitted = 0
    while len(jobs.length):
        # Log-probabilities of the next symbol, (stream rows, symbols), then (jobs, beam, symbols).
        log_p = logits.cpu().double()[:, symbols].log_softmax(-1)
        if mask is not None:
            log_p = log_p.masked_fill(~mask.allowed()[:, symbols], -torch.inf)
        log_p = torch.where(
            (state.stream >= 0)[..., None], log_p[state.stream.clamp(min=0)], -torch.inf
        )
        # One more symbol; jobs that have reached their length are finished.
        state = _grow(state, jobs, channel, log_p, emitted, width, strings)
        emitted += 1
        if on_step is not None:
            leader = int((state.log_prior + state.scale).argmax())
            on_step(emitted, symbols[state.prefix.flatten(0, 1)[leader]].tolist())
        done = jobs.length == emitted
        _finish(final, state, jobs, channel, symbols, done, emitted)
        # The next step of the model for the hypotheses that are left.
        if done.any():  # the tables are large, and are not copied at every step
            going = (~done).nonzero().squeeze(1)
            kept = {name: value[going] for name, value in vars(state).items()}
            jobs, state = jobs[going], _Beam(**kept)
        alive = state.log_prior > -torch.inf
        if not alive.any():
            break
        stream = stream.select(state.stream[alive].to(device))
        written = symbols[state.prefix[..., -1][alive]]
        logits = stream.step(written.to(device))
        if mask is not None:
            mask = mask.select(state.stream[alive])
            mask.write(written)
        state.stream = torch.where(alive, alive.flatten().cumsum(0).view_as(alive) - 1, -1)
    return final


def _blank(length: Tensor, vocabulary: Vocabulary) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, free positions and lengths of blank canvases of `length` (jobs,) symbols."""
    places = torch.arange(int(length.max()) + 2)
    inner = (places > 0) & (places <= length[:, None])
    return torch.where(inner, vocabulary.mask, vocabulary.pad), inner, length + 2


def _start(jobs: _Jobs, channel: Channel) -> _Beam:
    """The empty prefix of every job."""
    rows = len(jobs.length)
    alpha, beta = start(channel, jobs.seen.runs)
    return _Beam(
        prefix=torch.zeros(rows, 1, 0, dtype=torch.int64),
        log_prior=torch.zeros(rows, 1, dtype=torch.float64),
        alpha=alpha,
        beta=beta,
        scale=torch.zeros(rows, 1, dtype=torch.float64),
        stream=torch.arange(rows)[:, None],
    )


def _grow(
    state: _Beam,
    jobs: _Jobs,
    channel: Channel,
    log_p: Tensor,
    emitted: int,
    width: int,
    strings: int,
) -> _Beam:
    """Append symbols: the `width` best (prefix, symbol) of each job, without hopeless ones."""
    rank = (
        _promise(state, jobs, channel, emitted) + (state.log_prior + state.scale)[..., None] + log_p
    )
    count = min(width, rank.shape[1] * rank.shape[2])
    top, index = rank.flatten(1).topk(count)  # (jobs, count)
    parent, symbol = index // rank.shape[2], index % rank.shape[2]
    # Lengths compete: the cost of the symbols that longer candidates still need is estimated.
    top = top + jobs.log_length[:, None] - NATS_PER_SYMBOL * (jobs.length[:, None] - emitted - 1)
    leader = torch.full((strings,), -torch.inf, dtype=top.dtype)
    leader = leader.scatter_reduce(0, jobs.string, top.amax(1), "amax")[jobs.string]
    alive = (top > -torch.inf) & (top >= leader[:, None] - MARGIN)

    # Their tables after the new symbol, all (jobs, count, levels, width + 1).
    alpha, beta = (_pick(table, parent) for table in (state.alpha, state.beta))
    rows = torch.arange(len(symbol))[:, None]
    emission = F.pad(jobs.seen.emission[rows, :, symbol], (0, 1))  # 0 beyond y
    crossing = jobs.seen.crossing[rows, symbol][:, :, None]
    after, middle = advance(channel, jobs.seen.runs, alpha, beta, emission, crossing)
    peak = torch.maximum(after.amax((-2, -1)), middle.amax((-2, -1))).clamp(min=1e-300)
    gain = log_p[rows, parent, symbol]
    return _Beam(
        prefix=torch.cat((_pick(state.prefix, parent), symbol[..., None]), dim=-1),
        log_prior=torch.where(alive, _pick(state.log_prior, parent) + gain, -torch.inf),
        alpha=after / peak[..., None, None],
        beta=middle / peak[..., None, None],
        scale=_pick(state.scale, parent) + peak.log(),
        stream=_pick(state.stream, parent),
    )


def _pick(table: Tensor, parent: Tensor) -> Tensor:
    """Entries `parent` (jobs, count) of the beam dimension of `table` (jobs, beam, ...)."""
    return table[torch.arange(len(parent))[:, None], parent]


def _promise(state: _Beam, jobs: _Jobs, channel: Channel, emitted: int) -> Tensor:
    """Log channel probability of each (prefix, next symbol) times a bound for the rest of y.

    (jobs, beam, symbols). The sum over alignments is a product of (alpha, beta) with a matrix.
    """
    left = (jobs.length - emitted - 1).clamp(min=0)  # symbols of x still to come after this one
    rows = torch.arange(len(left))
    # Bounds of the rest after the symbol, (jobs, levels, width + 1); `swapped` after a first half.
    after = jobs.rest[rows, :, left]
    later = jobs.rest[rows, :, (left - 1).clamp(min=0)]
    best = jobs.seen.emission.amax(2).log()
    swapped = F.pad(best[..., :-1] + later[..., 2:], (0, 2), value=-torch.inf)
    swapped = torch.where((left > 0)[:, None, None], swapped, -torch.inf)
    peak = torch.maximum(after.amax((-2, -1)), swapped.amax((-2, -1)))[:, None, None]
    after, swapped = (after - peak).exp(), (swapped - peak).exp()

    # The symbol is emitted, deleted, the first half of a swap, or the second half.
    emission = F.pad(jobs.seen.emission, (0, 1))  # (jobs, levels, symbols, width + 1)
    step = emission * F.pad(after[..., 1:], (0, 1))[:, :, None]
    step = step + (channel.delete[:, None] * after)[:, :, None]
    step = step + (channel.swap[:, None] * swapped)[:, :, None] * jobs.seen.crossing[:, None]
    finish = emission * F.pad(after[..., 2:], (0, 2))[:, :, None]
    total = torch.einsum("rblj,rlvj->rbv", state.alpha, step) + torch.einsum(
        "rblj,rlvj->rbv", state.beta, finish
    )
    return total.log() + peak


def _finish(
    final: list[list[Repaired]],
    state: _Beam,
    jobs: _Jobs,
    channel: Channel,
    symbols: Tensor,
    done: Tensor,
    emitted: int,
) -> None:
    """Add the hypotheses of finished jobs that explain all of y to `final`."""
    rows = done.nonzero().squeeze(1)
    if not len(rows):
        return
    end = jobs.seen.size[rows][:, None, None, None].expand(-1, *state.alpha.shape[1:3], 1)
    log_channel = (
        state.alpha[rows].gather(-1, end).sum((-2, -1)).log() + state.scale[rows]
    )  # (rows, beam)
    log_prior = state.log_prior[rows]
    for r, row in enumerate(rows.tolist()):
        for b in (log_prior[r] + log_channel[r] > -torch.inf).nonzero().flatten().tolist():
            tokens = symbols[state.prefix[row, b]].tolist()
            scores = float(log_prior[r, b]), float(jobs.log_length[row]), float(log_channel[r, b])
            final[int(jobs.string[row])].append(
                Repaired(tokens, *scores, posterior=1.0, evaluations=emitted)
            )


def _best(found: Sequence[Repaired], top: int | None) -> list[Repaired]:
    """The `top` hypotheses of greatest total, with their shares of all."""
    if not found:
        return []
    totals = torch.tensor([item.total for item in found], dtype=torch.float64)
    shares, evaluations = totals.softmax(0).tolist(), max(item.evaluations for item in found)
    order = totals.argsort(descending=True, stable=True)[:top].tolist()
    return [replace(found[i], posterior=shares[i], evaluations=evaluations) for i in order]
