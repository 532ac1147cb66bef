"""Scores compared with hand computations and with brute force over single canvases."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskdiff.checkpoint import Loaded
from maskdiff.errors import ConfigError
from maskdiff.stepwise import scorers
from maskdiff.stepwise.causal import CausalBackend
from maskdiff.stepwise.protocol import BackendError, Candidate, Request, Spent
from maskdiff.stepwise.scorers import (
    SCORERS,
    DenoiserScorer,
    Judgement,
    differing,
    make_scorer,
    mean_log_prob,
)
from tests.helpers.step_trees import read, reducts, write
from tests.helpers.stepwise import (
    STEPS,
    Ledger,
    fresh,
    ledger,
    loaded,
    make_candidate,
    problems,
    stop_of,
)

A = Candidate(
    "a>", "a>", "stop", 2, log_probs=(-0.5, -1.5), entropies=(0.25, 0.5), gaps=(0.5, 0.25)
)
B = Candidate("b>", "b>", "stop", 1, log_probs=(-0.75,), entropies=(2.0,), gaps=(0.125,))
NONE = Candidate(
    "c>", "", "stop", 0, log_probs=(), entropies=(), gaps=()
)  # the whole step was carried over


def scores(name: str, *candidates: Candidate, model: Loaded | None = None) -> list[float]:
    [(values, spent)] = make_scorer(name, model).score([Judgement(Request(""), candidates)])
    assert spent == Spent()
    return values


def test_scores_equal_a_hand_computation() -> None:
    assert scores("entropy", A, B, NONE) == [-0.375, -2.0, 0.0]
    assert scores("perplexity", A, B, NONE) == [-1.0, -0.75, 0.0]
    assert scores("probability", A, B, NONE) == [-2.0, -0.75, 0.0]
    assert scores("gap", A, B, NONE) == [0.375, 0.125, 0.0]
    assert mean_log_prob(A) == -1.0
    assert scores("vote", A, B, replace(A, log_probs=None), NONE) == [2.0, 1.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("name", "field", "what"),
    [
        ("entropy", "entropies", "entropies"),
        ("perplexity", "log_probs", "log-probabilities"),
        ("probability", "log_probs", "log-probabilities"),
        ("gap", "gaps", "probabilities of other tokens"),
    ],
)
def test_missing_figures_are_errors(name: str, field: str, what: str) -> None:
    with pytest.raises(BackendError, match=f"tells no {what}") as error:
        scores(name, A, replace(B, **{field: None}))
    assert "\n" not in str(error.value)
    bare = replace(A, log_probs=None, entropies=None, gaps=None)
    scores(name, replace(bare, **{field: getattr(A, field)}))  # the others are not requested
    assert scores("vote", bare, bare) == [2.0, 2.0]


def test_scorers_are_made_by_name() -> None:
    for name in SCORERS:
        make_scorer(name, loaded())
    with pytest.raises(ConfigError, match="did you mean perplexity"):
        make_scorer("perplexty", None)
    for name in ("denoiser", "checker"):
        with pytest.raises(ConfigError, match="--checkpoint"):
            make_scorer(name, None)
    with pytest.raises(ConfigError, match="open_share"):
        make_scorer("denoiser", fresh(open_share=0.0))


def test_checker_scores_equal_those_of_the_trees() -> None:
    """Check every step of every derivation, correct and damaged.

    The answer ends at the right and at wrong positions.
    """
    rng, checker = random.Random(0), make_scorer("checker", loaded())
    judgements, truth = [], []
    for problem in problems(40, seed=3):
        partial: tuple[Candidate, ...] = ()
        tree = read(problem)
        while following := reducts(tree):
            right = [write(step) for step in following]
            spoilt = [
                text.replace(str(digit), str((digit + 1) % 10))
                for text in right
                for digit in (1, 7)
            ]
            candidates = []
            for text in {*right, *spoilt, write(tree), ""}:
                candidates += [
                    make_candidate(text + ">"),
                    make_candidate(text, finish="end"),
                    make_candidate(text, finish="length"),
                ]
                ends = "(" not in text
                good = text in right
                truth += [float(good and not ends), float(good and ends), float(good and not ends)]
            judgements.append(
                Judgement(Request(STEPS.prompt(problem), partial), tuple(candidates), problem)
            )
            tree = rng.choice(following)  # any right reduction may come next
            partial = (*partial, make_candidate(write(tree) + ">"))
    got = [
        value for values, spent in checker.score(judgements) for value in values if spent == Spent()
    ]
    assert got == truth
    assert 0.1 < sum(truth) / len(truth) < 0.5


def test_checker_scores_whole_answers() -> None:
    problem = "(+ (* 2 3) (- 9 4))"
    cases = {
        "(+ 6 (- 9 4))>(+ 6 5)>11": ("end", 1.0),
        "(+ (* 2 3) 5)>(+ 6 5)>11": ("end", 1.0),
        "(+ 6 5)>11": ("end", 0.0),
        "(+ 6 (- 9 4))>(+ 6 5)>12": ("end", 0.0),
        "11": ("end", 0.0),
        # correct but incomplete
        "(+ 6 (- 9 4))>(+ 6 5)": ("end", 0.0),
        "(+ 6 (- 9 4))>(+ 6 5)>": ("length", 1.0),
        "(+ 6 (- 9 4))>(+ 7 5)>": ("length", 0.0),
        "(+ 6 (- 9 4))>(+ 6 5)>1": ("length", 0.0),
    }
    candidates = tuple(
        make_candidate(text, finish=finish)  # type: ignore[arg-type]
        for text, (finish, _) in cases.items()
    )
    request = Request(STEPS.prompt(problem), stop=stop_of())
    [(values, _)] = make_scorer("checker", loaded()).score(
        [Judgement(request, candidates, problem)]
    )
    assert dict(zip(cases, values, strict=True)) == {
        text: right for text, (_, right) in cases.items()
    }


# ------------------------------------------------------------------------------------ the denoiser


def encoded_candidates(model: Loaded, *texts: str, ended: bool = False) -> tuple[Candidate, ...]:
    vocabulary = model.vocabulary
    ids = [tuple(vocabulary.encode(text)) + (vocabulary.eos,) * ended for text in texts]
    return tuple(
        replace(make_candidate(text), ids=own, tokens=len(own))
        for text, own in zip(texts, ids, strict=True)
    )


def brute_force_score(
    model: Loaded, given: list[int], own: tuple[int, ...], hidden: list[list[int]]
) -> float:
    """Return the sum of log p(token

    rest) of `own`, one canvas at a time.|Each canvas hides some of the positions.
    """
    total, text = 0.0, torch.tensor([[*given, *own]])
    for group in hidden:
        places = [len(given) + place for place in group]
        canvas = text.clone()
        canvas[0, places] = model.vocabulary.mask
        length, sigma = torch.tensor([text.shape[1]]), torch.zeros(1)
        with torch.no_grad():
            logits = model.denoiser.model.forward_strings(canvas, length, sigma, causal=False)[
                0, places
            ]
        total += float(logits.double().log_softmax(-1).gather(1, text[0, places][:, None]).sum())
    return total


def common(texts: list[tuple[int, ...]]) -> int:
    """Return the length of the common prefix."""
    return next(
        n for n in range(99) if n == min(map(len, texts)) or len({text[n] for text in texts}) > 1
    )


def differing_positions(candidates: tuple[Candidate, ...], own: tuple[int, ...]) -> list[int]:
    """Return the differing positions of `own`.

    Positions whose outer neighbour is in the common prefix or suffix as well are left out.
    """
    begin = common([c.ids for c in candidates])
    end = common([c.ids[begin:][::-1] for c in candidates])
    return list(range(max(0, begin - 1), len(own) - max(0, end - 1)))


SETS = (
    ("(+ 3 8)>", "(+ 3 9)>", "(+ 8 3)>", "(+ 3 8)>"),
    ("15", "5", "115"),
    ("(- 12 (+ 1 4))>", "(- 12 5)>", "7"),
    ("", "(+ 1 2)>"),
)


@pytest.mark.parametrize("pieces", [False, True], ids=["characters", "pieces"])
@pytest.mark.parametrize("groups", [0, 1, 2, 3])
def test_denoiser_scores_equal_those_of_single_canvases(pieces: bool, groups: int) -> None:
    model = loaded(pieces)
    scorer, vocabulary, judgements, expected = (
        DenoiserScorer(model, groups),
        model.vocabulary,
        [],
        [],
    )
    for n, texts in enumerate(SETS):
        candidates = encoded_candidates(model, *texts, ended=n == 1)
        partial = encoded_candidates(model, "(+ (- 4 1) 8)>") * (n % 3)
        request = Request(STEPS.prompt("(+ (- 4 1) (* 2 4))"), partial)
        judgements.append(Judgement(request, candidates))
        given = [
            vocabulary.bos,
            *vocabulary.encode(request.prompt),
            *(token for step in partial for token in step.ids),
        ]
        values = []
        for own in (candidate.ids for candidate in candidates):
            counted = differing_positions(candidates, own)
            hidden = [
                counted[first :: groups or len(counted)]
                for first in range(min(groups or len(counted), len(counted)))
            ]
            assert sorted(place for group in hidden for place in group) == counted
            values.append(brute_force_score(model, given, own, hidden))
        expected.append(values)
    alone = []
    for judgement, values in zip(judgements, expected, strict=True):
        with ledger(model) as book:
            [(got, spent)] = scorer.score([judgement])
        assert got == pytest.approx(values, abs=1e-4)
        assert (spent.forward_tokens, spent.calls, spent.candidates) == (book.tokens, book.calls, 0)
        alone.append((got, spent))
    with ledger(model) as book:
        together = scorer.score(judgements[::-1])[::-1]
    for (got, spent), (values, own_spent) in zip(together, alone, strict=True):
        assert got == pytest.approx(values, abs=1e-4)
        assert spent.forward_tokens == own_spent.forward_tokens
    assert sum(spent.forward_tokens for _, spent in together) == book.tokens


def test_many_canvases_are_split_into_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorers, "TOKENS", 3 * 11)
    model = loaded()
    judgement = Judgement(
        Request("(+ 1 2)>"), encoded_candidates(model, "31", "47", "5")
    )  # 2 + 2 + 1 places
    with ledger(model) as book:
        [(_, spent)] = DenoiserScorer(model).score([judgement])
    assert (
        (spent.forward_tokens, spent.calls)
        == (book.tokens, book.calls)
        == (2 * 11 + 2 * 11 + 10, 2)
    )


def test_groups_are_masked_together() -> None:
    """One group is one canvas per candidate.

    As many groups as tokens equal hiding each token alone.
    """
    model = loaded()
    judgement = Judgement(Request("(+ 1 2)>"), encoded_candidates(model, "(+ 3 8)>", "7)(- 10>"))
    results = {
        groups: DenoiserScorer(model, groups).score([judgement])[0] for groups in (0, 1, 2, 8, 50)
    }
    size = len(model.vocabulary.encode("(+ 1 2)>(+ 3 8)>")) + 1
    assert results[1][1].forward_tokens == 2 * size
    assert results[2][1].forward_tokens == 2 * 2 * size
    assert results[0][0] == pytest.approx(results[8][0], abs=1e-5)
    assert results[0][0] == pytest.approx(results[50][0], abs=1e-5)
    assert abs(results[0][0][0] - results[1][0][0]) > 0.01


def test_equal_candidates_cost_nothing() -> None:
    model = loaded()
    scorer = DenoiserScorer(model)
    five = encoded_candidates(model, "(+ 3 8)>") * 5
    with ledger(model) as book:
        [(values, spent)] = scorer.score([Judgement(Request("(+ 1 2)>"), five)])
        assert scorer.score([]) == []
    assert (values, book, replace(spent, seconds=0.0)) == ([0.0] * 5, Ledger(), Spent())
    two = encoded_candidates(model, "(+ 3 8)>", "(+ 3 9)>")
    (few, once), (many, repeated) = scorer.score(
        [Judgement(Request("(+ 1 2)>"), own) for own in (two, (*two, *two[::-1]))]
    )
    assert many == [*few, *few[::-1]]
    assert (repeated.forward_tokens, repeated.calls) == (once.forward_tokens, once.calls)


def test_candidates_of_another_backend_are_scored_by_their_text() -> None:
    """Ids of another vocabulary are ignored; the text is scored. Foreign symbols lose."""
    model = loaded()
    ours = encoded_candidates(model, "(+ 3 8)>", "(+ 3 9)>")
    theirs = tuple(replace(candidate, ids=(151_643, 7)) for candidate in ours)
    none = tuple(replace(candidate, ids=()) for candidate in ours)
    judgements = [Judgement(Request("(+ 1 2)>", (own[1],)), own) for own in (ours, theirs, none)]
    first, *others = [values for values, _ in DenoiserScorer(model).score(judgements)]
    assert others == [pytest.approx(first, abs=1e-5)] * 2
    mixed = (
        ours[0],
        make_candidate("so it is>"),
        ours[1],
    )  # foreign symbols do not change other scores
    [(values, _)] = DenoiserScorer(model).score([Judgement(Request("(+ 1 2)>"), mixed)])
    assert values[1] == -math.inf
    [(alone, _)] = DenoiserScorer(model).score([Judgement(Request("(+ 1 2)>"), ours)])
    assert [values[0], values[2]] == pytest.approx(alone, abs=1e-5)


def test_texts_longer_than_training_strings() -> None:
    """Rotary positions continue, also where the causal mode was not trained.

    Learned positions end with an error.
    """
    model = fresh()
    longest = model.config.model.block_size
    for beyond in (0, 1, 40):
        prompt = "1" * (longest - 2 + beyond)  # with BOS and one token: `longest + beyond`
        judgement = Judgement(Request(prompt), encoded_candidates(model, "7", "8"))
        expected = [
            brute_force_score(other, [2, *model.vocabulary.encode(prompt)], c.ids, [[0]])
            for c in judgement.candidates
            for other in [_model_after_reading(3 * longest)]
        ]
        assert DenoiserScorer(model).score([judgement])[0][0] == pytest.approx(expected, abs=1e-4)
    ends = fresh(end_positions=True)
    DenoiserScorer(ends).score(
        [Judgement(Request("1" * (longest - 2)), encoded_candidates(ends, "7", "8"))]
    )
    with pytest.raises(BackendError, match=f"{longest + 1} tokens .* end at {longest}"):
        DenoiserScorer(ends).score(
            [Judgement(Request("1" * (longest - 1)), encoded_candidates(ends, "7", "8"))]
        )


def _model_after_reading(width: int) -> Loaded:
    """Return the model after its causal mode has read `width` tokens."""
    model = fresh()
    CausalBackend(model).next_step([Request("1" * width, stop=stop_of(most=2), num=2)])
    return model


short = st.lists(st.integers(0, 2), max_size=5).map(tuple)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.lists(short, min_size=2, max_size=4).filter(lambda own: len({*own}) > 1))
def test_differing_positions_equal_brute_force(candidates: list[tuple[int, ...]]) -> None:
    """Omitted positions are common to all; the common tokens next to the difference stay."""
    begin, end = differing(candidates)
    first = common(candidates)
    last = common([own[first:][::-1] for own in candidates])
    assert (begin, end) == (max(0, first - 1), max(0, last - 1))
    assert (
        len({own[:begin] for own in candidates})
        == len({own[len(own) - end :] for own in candidates})
        == 1
    )
    assert len({own[begin : len(own) - end] for own in candidates}) == len(
        {*candidates}
    )  # what differed still does
    assert differing(candidates[::-1]) == (begin, end)


def test_differing_positions_of_known_texts() -> None:
    assert differing([(1, 5), (5,)]) == (0, 0)  # 15 and 5
    assert differing([(1, 2, 3, 4, 5), (1, 2, 9, 4, 5)]) == (1, 1)
    assert differing([(1, 2, 3), (1, 2, 3, 4)]) == (2, 0)
    assert differing([(7, 7), (7, 7, 7)]) == (1, 0)
    assert differing([(), (1,)]) == (0, 0)
