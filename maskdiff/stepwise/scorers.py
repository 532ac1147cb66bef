"""Scores of the candidates for one step: higher is better.

From the draw itself: `entropy`, `perplexity`, `probability` (of the whole step), `gap` (between the
likeliest two tokens). `vote`: how many candidates have the same step (2203.11171). `denoiser`: the
pseudo-log-likelihood of the step under the bidirectional mode (1910.14659), which sees what is
after a token. `checker`: whether the step is right, by the language; no model knows that, so it is
the upper bound.

A scorer raises for a backend without the values that it needs. Of equal scores the first
candidate's counts, so that a scorer that sees no difference changes nothing.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from maskdiff.errors import ConfigError, ParseError, nearest, quote
from maskdiff.languages import Stepwise
from maskdiff.models.layers import rotary_tables
from maskdiff.sampling.leave_out import leave_out
from maskdiff.stepwise.protocol import BackendError, Candidate, Request, Spent
from maskdiff.stepwise.writing import answer_ids, ids_of

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded

TOKENS = 2**16  # of the canvases that the denoiser evaluates at a time


@dataclass(frozen=True)
class Judgement:
    """The candidates of one request, and the problem of its prompt."""

    request: Request
    candidates: tuple[Candidate, ...]
    problem: str = ""


class Scorer(Protocol):
    """Scores candidates."""

    def score(self, judgements: Sequence[Judgement]) -> list[tuple[list[float], Spent]]:
        """The scores of the candidates of each judgement, and their cost.

        Raises:
            BackendError: For values that the backend does not have.
        """
        ...


@dataclass(frozen=True)
class Figure:
    """A scorer that reads a figure of the draw, at no cost."""

    name: str
    of: Callable[[Candidate], float]

    def score(self, judgements: Sequence[Judgement]) -> list[tuple[list[float], Spent]]:
        """See `Scorer`."""
        return [([self.of(candidate) for candidate in j.candidates], Spent()) for j in judgements]


def _needed(values: tuple[float, ...] | None, what: str) -> tuple[float, ...]:
    if values is None:
        raise BackendError(
            f"this backend tells no {what}; choose a scorer that needs none (vote), "
            "or another backend"
        )
    return values


def _mean(values: tuple[float, ...]) -> float:
    return (
        sum(values) / len(values) if values else 0.0
    )  # a step without a token of its own is certain


def mean_log_prob(candidate: Candidate) -> float:
    """Mean log-probability of the tokens of a candidate, nats; BackendError without them."""
    return _mean(_needed(candidate.log_probs, "log-probabilities"))


FIGURES: dict[str, Callable[[Candidate], float]] = {
    "entropy": lambda candidate: -_mean(_needed(candidate.entropies, "entropies")),
    "perplexity": mean_log_prob,
    "probability": lambda candidate: sum(_needed(candidate.log_probs, "log-probabilities")),
    "gap": lambda candidate: _mean(_needed(candidate.gaps, "probabilities of other tokens")),
}
SCORERS = (*FIGURES, "vote", "denoiser", "checker")


@dataclass(frozen=True)
class Vote:
    """How many candidates have the same step or, of whole answers, the same result.

    The result is what stands after the last of `ends`.
    """

    ends: tuple[str, ...] = ()

    def score(self, judgements: Sequence[Judgement]) -> list[tuple[list[float], Spent]]:
        """See `Scorer`."""
        answers = [[self._answer(j, candidate) for candidate in j.candidates] for j in judgements]
        return [
            ([float(count[text]) for text in texts], Spent())
            for texts, count in zip(answers, map(Counter, answers), strict=True)
        ]

    def _answer(self, judgement: Judgement, candidate: Candidate) -> str:
        text = candidate.step
        if not judgement.request.stop.strings:
            for end in self.ends:
                text = text.removesuffix(end).rpartition(end)[2]
        return text.strip()


class CheckerScorer:
    """1 if a step, or every step of a whole answer, is right by the language, else 0."""

    def __init__(self, language: Stepwise) -> None:
        self.language = language

    def score(self, judgements: Sequence[Judgement]) -> list[tuple[list[float], Spent]]:
        """See `Scorer`."""
        return [
            ([float(self._right(j, candidate)) for candidate in j.candidates], Spent())
            for j in judgements
        ]

    def _right(self, judgement: Judgement, candidate: Candidate) -> bool:
        separator = self.language.separator
        before = judgement.problem
        if judgement.request.partial:
            before = judgement.request.partial[-1].step.removesuffix(separator)
        steps = [before, *candidate.step.removesuffix(separator).split(separator)]
        right = all(self.language.right_step(a, b) for a, b in zip(steps, steps[1:]))
        return right and self.language.is_final(steps[-1]) == (candidate.finish == "end")


class DenoiserScorer:
    """Pseudo-log-likelihood of a candidate under the bidirectional mode [1910.14659].

    The sum of log p(token | all others) over the tokens in which candidates differ, and one more on
    each side: common first and last tokens are left out. Equal candidates are evaluated once, and
    not at all if all are equal.

    Args:
        loaded: A model that was trained on open canvases. groups: Evaluations of a candidate, each
        of which hides every groups-th of the tokens; 0 hides
            each alone, which is exact and costs an evaluation a token.

    Raises:
        ConfigError: For another model.
    """

    def __init__(self, loaded: Loaded, groups: int = 0) -> None:
        denoiser = loaded.neural("the scorer pseudo-likelihood")
        if loaded.config.train.open_share == 0.0:
            raise ConfigError(
                "the denoiser of this checkpoint never saw a string whose end is open, so it "
                "cannot judge a step; choose another scorer, or train it with open_share above 0"
            )
        self.denoiser, self.vocabulary, self.device = denoiser, loaded.vocabulary, loaded.device
        self.groups, self.longest = groups, loaded.config.model.block_size

    def score(self, judgements: Sequence[Judgement]) -> list[tuple[list[float], Spent]]:
        """See `Scorer`."""
        began = time.perf_counter()
        texts: dict[tuple[int, tuple[int, ...]], tuple[list[int], range]] = {}
        ids = [[self._ids(candidate) for candidate in j.candidates] for j in judgements]
        for number, (judgement, known) in enumerate(zip(judgements, ids, strict=True)):
            candidates = [own for own in known if own is not None]
            if len(set(candidates)) > 1:
                request = judgement.request
                given = [
                    self.vocabulary.bos,
                    *self.vocabulary.encode(request.prompt),
                    *answer_ids(request, self.vocabulary),
                ]
                begin, end = differing(candidates)
                texts |= {
                    (number, own): (
                        [*given, *own],
                        range(len(given) + begin, len(given) + len(own) - end),
                    )
                    for own in candidates
                }
        sums, tokens, calls = self._sums(list(texts.values()))
        of = dict(zip(texts, sums, strict=True))
        spent, called = [0] * len(judgements), [set[int]() for _ in judgements]
        for (number, _), count, own_calls in zip(texts, tokens, calls, strict=True):
            spent[number] += count
            called[number] |= own_calls
        share = (time.perf_counter() - began) / max(1, len(judgements))
        return [
            (
                [-math.inf if own is None else of.get((number, own), 0.0) for own in candidates],
                Spent(spent[number], len(called[number]), 0, share),
            )
            for number, candidates in enumerate(ids)
        ]

    def _ids(self, candidate: Candidate) -> tuple[int, ...] | None:
        """The tokens of a candidate; None for foreign symbols."""
        try:
            ids = ids_of(candidate, self.vocabulary)
        except ParseError:
            return None
        ends = (
            candidate.finish == "end" and bool(candidate.text) and not candidate.ids
        )  # a backend without ids does not show the end
        return (*ids, self.vocabulary.eos) if ends else tuple(ids)

    def _sums(
        self, texts: list[tuple[list[int], range]]
    ) -> tuple[list[float], list[int], list[set[int]]]:
        """Of each text (ids, places): pseudo-log-likelihood, tokens evaluated, and calls."""
        rows: list[tuple[int, list[int], list[int]]] = []  # text, its ids, hidden places
        for number, (text, places) in enumerate(texts):
            stride = self.groups or max(1, len(places))
            rows += [
                (number, text, list(places[first::stride]))
                for first in range(min(stride, len(places)))
            ]
        sums, tokens, calls = [0.0] * len(texts), [0] * len(texts), [set[int]() for _ in texts]
        rows.sort(key=lambda row: len(row[1]))  # rows of like length together: little padding
        size = max(1, TOKENS // len(rows[-1][1])) if rows else 1
        for at in range(0, len(rows), size):
            part = rows[at : at + size]
            for (number, text, _), value in zip(part, self._evaluate(part), strict=True):
                sums[number] += value
                tokens[number] += len(text)
                calls[number].add(at)
        return sums, tokens, calls

    def _evaluate(self, rows: list[tuple[int, list[int], list[int]]]) -> list[float]:
        """The sum of the log-probabilities of the hidden tokens of each row."""
        width = max(len(text) for _, text, _ in rows)
        self._make_room(width)
        padded = [text + [self.vocabulary.pad] * (width - len(text)) for _, text, _ in rows]
        tokens = torch.tensor(padded, device=self.device)
        hidden = torch.zeros_like(tokens, dtype=torch.bool)
        for i, (_, _, places) in enumerate(rows):
            hidden[i, places] = True
        length = torch.tensor([len(text) for _, text, _ in rows], device=self.device)
        scores = leave_out(self.denoiser, tokens, length, hidden)
        sums: list[float] = scores.cpu().double().sum(1).tolist()
        return sums

    def _make_room(self, width: int) -> None:
        """Extend rotary positions to canvases longer than in training; others cannot be."""
        model = self.denoiser.model
        if width > self.longest and model.from_end is not None:
            raise BackendError(
                f"a text of {width} tokens cannot be judged: the canvases of this model end at "
                f"{self.longest}"
            )
        if width > len(model.cos):
            tables = rotary_tables(2 * width, model.config.n_embd // model.config.n_head)
            model.cos, model.sin = (table.to(model.cos) for table in tables)


def differing(candidates: Sequence[tuple[int, ...]]) -> tuple[int, int]:
    """How many common first and last tokens of all candidates can be left out.

    One common token on each side stays: `15` differs from `5` in a token that `5` does not have.
    """
    shortest = min(map(len, candidates))
    begin = 0
    while begin < shortest and len({own[begin] for own in candidates}) == 1:
        begin += 1
    end = 0
    while end < shortest - begin and len({own[-1 - end] for own in candidates}) == 1:
        end += 1
    return max(0, begin - 1), max(0, end - 1)


def make_scorer(
    name: str, loaded: Loaded | None, groups: int = 0, ends: tuple[str, ...] = ()
) -> Scorer:
    """The scorer of a name.

    Args:
        name: One of `SCORERS`.
        loaded: For scorers that need a model or a language.
        groups: Of `DenoiserScorer`.
        ends: What ends a step, for `Vote`.

    Raises:
        ConfigError: For an unknown name, or a scorer that lacks a model or steps.
    """
    if name in FIGURES:
        return Figure(name, FIGURES[name])
    if name == "vote":
        return Vote(ends)
    if name not in SCORERS:
        raise ConfigError(
            f"scorer {quote(name)} is unknown; the scorers are {', '.join(SCORERS)}: "
            f"did you mean {nearest(name, SCORERS)}?"
        )
    if loaded is None:
        raise ConfigError(
            f"the scorer {name} needs a checkpoint of our own: give --checkpoint, "
            "or --scorer vote or perplexity"
        )
    if name == "denoiser":
        return DenoiserScorer(loaded, groups)
    if not isinstance(loaded.language, Stepwise):
        raise ConfigError(
            f"{loaded.language.name} has no steps that could be checked; "
            "choose another scorer than checker"
        )
    return CheckerScorer(loaded.language)


__all__ = [
    "SCORERS",
    "CheckerScorer",
    "DenoiserScorer",
    "Judgement",
    "Scorer",
    "make_scorer",
    "mean_log_prob",
]
