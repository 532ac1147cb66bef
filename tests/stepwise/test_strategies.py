"""Requests, choices and records of each strategy, with backends of known answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from maskdiff.config import StepConfig
from maskdiff.stepwise.probe import SHORT, RestartGuard
from maskdiff.stepwise.protocol import BackendError, Candidate, Capabilities, Request, Spent, Stop
from maskdiff.stepwise.scorers import Judgement, Scorer, make_scorer
from maskdiff.stepwise.strategies import RUNS, Answer, step_stop
from maskdiff.stepwise.triggers import Momentum
from tests.helpers.stepwise import (
    KNOWN,
    STEPS,
    WRONG,
    Scripted,
    loaded,
    make_candidate,
    problems,
    solve,
    solver_script,
)

BASE = StepConfig(strategy="greedy", scorer="vote")


def run(
    backend: Scripted,
    config: StepConfig,
    scorer: Scorer | None = None,
    prompt: str = "p>",
    problem: str = "p",
) -> Answer:
    """Drive one strategy by hand: answer what it asks for until it ends."""
    stop = step_stop(config, ">")
    scorer = scorer or make_scorer(config.scorer, loaded())
    strategy = RUNS[config.strategy](prompt, problem, config, stop, 17)
    ask = next(strategy)
    while True:
        result = backend.next_step([ask])[0] if isinstance(ask, Request) else scorer.score([ask])[0]
        try:
            ask = strategy.send(result)
        except StopIteration as ended:
            return ended.value


def numbered(length: int, table: dict[tuple[int, int], float] | None = None) -> Scripted:
    """Return a backend of `length` steps that name their candidate and step.

    The -log p of each comes from `table`, or is 1.
    """

    def script(request: Request, number: int) -> Candidate:
        step = len(request.partial)
        text = f"{step}.{number}.{request.temperature:g}"
        return make_candidate(
            text + ">" if step + 1 < length else text, -(table or {}).get((step, number), 1.0)
        )

    return Scripted(script)


def asked(backend: Scripted) -> list[tuple[int, int, int, float]]:
    """Return step, number of candidates, first number and temperature of each request."""
    return [(len(r.partial), r.num, r.first, r.temperature) for r in backend.asked]


def test_greedy_and_sample_request_one_candidate_a_step() -> None:
    for strategy, heat in (("greedy", 0.0), ("sample", 0.6)):
        backend = numbered(4)
        answer = run(backend, replace(BASE, strategy=strategy))
        assert asked(backend) == [(step, 1, 0, heat) for step in range(4)]
        assert [step.text for step in answer.steps] == [
            f"{n}.0.{heat:g}" + ">" * (n < 3) for n in range(4)
        ]
        assert answer.text == "".join(step.text for step in answer.steps)
        assert (answer.finish_reason, answer.tokens, answer.log_probs, answer.spent) == (
            "end",
            4,
            (-1.0,) * 4,
            Spent(4, 4, 4),
        )
        assert not any(
            step.scaled or step.proposals or step.scores or step.level for step in answer.steps
        )
        assert len({r.seed for r in backend.asked}) == 4  # a server does not know positions
        assert all(r.stop == Stop((">",), 96) and r.prompt == "p>" for r in backend.asked)
        for before, after in zip(backend.asked, backend.asked[1:], strict=False):
            assert after.partial[:-1] == before.partial


@pytest.mark.parametrize(("draft", "first"), [("greedy", 0.0), ("sample", 0.6)])
def test_every_step_requests_exactly_n_candidates(draft: str, first: float) -> None:
    """One candidate, then three more, are requested; all differ, so the first wins the vote."""
    backend = numbered(3)
    answer = run(backend, replace(BASE, strategy="every-step", candidates=4, draft=draft))
    assert asked(backend) == [part for n in range(3) for part in ((n, 1, 0, first), (n, 3, 1, 0.6))]
    assert [r.seed for r in backend.asked[::2]] == [r.seed for r in backend.asked[1::2]]
    for n, step in enumerate(answer.steps):
        assert (step.scaled, step.chosen, len(step.proposals), step.scores) == (
            True,
            0,
            4,
            (1.0,) * 4,
        )
        assert step.text.startswith(f"{n}.0.")
    assert answer.spent == Spent(12, 6, 12)
    assert answer.tokens == 3  # of the answer itself
    single = numbered(3)
    answer = run(single, replace(BASE, strategy="every-step", candidates=1))
    assert asked(single) == [(n, 1, 0, 0.0) for n in range(3)]
    assert not any(step.scaled for step in answer.steps)


def test_the_best_candidate_is_chosen_and_continued() -> None:
    table = {(0, 2): 0.5, (1, 3): 0.2, (1, 1): 0.2, (2, 0): 0.1}
    backend = numbered(3, table)
    answer = run(backend, replace(BASE, strategy="every-step", scorer="perplexity"))
    assert [step.chosen for step in answer.steps] == [2, 1, 0]  # the first of equals
    assert [step.uncertainty for step in answer.steps] == [0.5, 0.2, 0.1]
    assert answer.steps[1].scores == (-1.0, -0.2, -1.0, -0.2)
    assert answer.text == "0.2.0.6>1.1.0.6>2.0.0"
    assert [candidate.step for candidate in backend.asked[-1].partial] == ["0.2.0.6>", "1.1.0.6>"]


def test_adaptive_scales_where_the_trigger_fires() -> None:
    """The trigger gets the first candidate and records the chosen one; here they differ."""
    drafts = [0.3, 0.9, 0.25, 0.28, 0.5, 0.35, 0.2]
    others = [0.05, 0.02, 0.25, 0.01, 0.04, 0.35, 0.1]
    table = {(n, 0): u for n, u in enumerate(drafts)} | {(n, 2): u for n, u in enumerate(others)}
    backend = numbered(7, table)
    answer = run(
        backend, replace(BASE, strategy="adaptive", scorer="probability", momentum=0.5, scaling=0.9)
    )
    right, wrong = Momentum(0.5, 0.9), Momentum(0.5, 0.9)
    expected, mistaken, levels = [], [], []
    for n, (draft, other) in enumerate(zip(drafts, others, strict=True)):
        levels.append(right.level)
        expected.append(right.scale(n, draft))
        mistaken.append(wrong.scale(n, draft))
        right.update(min(draft, other) if expected[-1] else draft)
        wrong.update(draft)
    assert expected == [False, True, True, True, True, True, False] != mistaken
    assert [step.scaled for step in answer.steps] == expected
    assert [step.level for step in answer.steps] == pytest.approx(levels)
    assert [step.chosen for step in answer.steps] == [0, 2, 0, 2, 2, 0, 0]
    assert [step.uncertainty for step in answer.steps] == [0.3, 0.02, 0.25, 0.01, 0.04, 0.35, 0.2]
    assert asked(backend) == [(0, 1, 0, 0.0)] + [
        part for n in range(1, 6) for part in ((n, 1, 0, 0.0), (n, 3, 1, 0.6))
    ] + [(6, 1, 0, 0.0)]


def test_only_adaptive_needs_log_probabilities() -> None:
    without_log_probs = Scripted(
        lambda request, number: replace(numbered(3).script(request, number), log_probs=None)
    )
    with pytest.raises(BackendError, match="log-probabilities"):
        run(without_log_probs, replace(BASE, strategy="adaptive"))
    for strategy in ("greedy", "every-step", "random", "best-of-n"):
        answer = run(without_log_probs, replace(BASE, strategy=strategy, rate=1.0))
        assert answer.log_probs is None
        assert all(step.uncertainty is None and step.level is None for step in answer.steps)


def test_random_scales_at_its_rate() -> None:
    for rate, scaled in ((0.0, [False] * 5), (1.0, [False] + [True] * 4)):
        backend = numbered(5)
        answer = run(backend, replace(BASE, strategy="random", rate=rate))
        assert [step.scaled for step in answer.steps] == scaled
        assert sum(r.num for r in backend.asked) == answer.spent.candidates == 5 + 3 * sum(scaled)
    some = run(numbered(30), replace(BASE, strategy="random", rate=0.5))
    assert 5 < sum(step.scaled for step in some.steps) < 25


def test_best_of_n_requests_whole_answers() -> None:
    """No partial answer or stop string is sent; the answer is split into steps afterwards."""
    heats = {"greedy": [(1, 0, 0.0), (3, 1, 0.6)], "sample": [(4, 0, 0.6)]}
    for draft, expected in heats.items():
        backend = Scripted(lambda r, n: make_candidate(f"a{n}>b>c", -2.0 + (n == 2), finish="end"))
        answer = run(
            backend,
            replace(BASE, strategy="best-of-n", scorer="probability", draft=draft, max_steps=5),
        )
        assert [(r.num, r.first, r.temperature) for r in backend.asked] == expected
        assert all(r.partial == () and r.stop == Stop((), 96 * 5) for r in backend.asked)
        assert [step.text for step in answer.steps] == ["a2>", "b>", "c"]
        last = answer.steps[-1]
        assert (last.chosen, last.scaled, last.scores, len(last.proposals)) == (
            2,
            True,
            (-2.0, -2.0, -1.0, -2.0),
            4,
        )
        assert (answer.text, answer.finish_reason, answer.spent.candidates) == ("a2>b>c", "end", 4)
    one = Scripted(lambda r, n: make_candidate("a>b>", finish="length"))
    answer = run(one, replace(BASE, strategy="best-of-n", candidates=1, draft="sample"))
    assert ([step.text for step in answer.steps], answer.finish_reason) == (
        ["a>", "b>", ""],
        "step_length",
    )


def test_step_limits_end_an_answer() -> None:
    endless = Scripted(lambda r, n: make_candidate(f"{len(r.partial)}>"))
    answer = run(endless, replace(BASE, max_steps=6))
    assert (len(answer.steps), answer.finish_reason) == (6, "max_steps")
    cut = Scripted(
        lambda r, n: make_candidate(
            "1>" if len(r.partial) < 2 else "too lo",
            finish="stop" if len(r.partial) < 2 else "length",
        )
    )
    answer = run(cut, replace(BASE, max_step_tokens=3, guard=False))
    assert ([step.text for step in answer.steps], answer.finish_reason) == (
        ["1>", "1>", "too lo"],
        "step_length",
    )


def test_an_answer_that_restarts_is_ended() -> None:
    """A backend that ignores the answer repeats its first step, which three steps reveal."""
    restarting = Scripted(lambda r, n: make_candidate("(+ 3 8)>"))
    answer = run(restarting, BASE)
    assert (len(answer.steps), answer.finish_reason, answer.restarts) == (3, "restarted", 2)
    answer = run(restarting, replace(BASE, guard=False, max_steps=7))
    assert (len(answer.steps), answer.finish_reason, answer.restarts) == (7, "max_steps", 6)
    texts = [f"(+ {n} {n})>" for n in (1, 2, 3, 4, 2, 5, 3, 1, 6)]
    backend = Scripted(lambda r, n: make_candidate(texts[len(r.partial)]))
    answer = run(backend, BASE)  # later, only two repeats in a row prove a restart
    assert (len(answer.steps), answer.finish_reason, answer.restarts) == (8, "restarted", 3)


@pytest.mark.parametrize(
    ("steps", "restarts"),
    [
        ("abcde", [False] * 5),
        ("aaa", [False, False, True]),
        ("aba", [False, False, True]),  # by the third step one repetition is enough
        ("abb", [False, False, True]),
        ("aab", [False, False, True]),
        ("abcadab", [False] * 6 + [True]),  # later it takes two in a row
        (["a", "ab", "abc"], [False] * 3),  # whole, not the beginning
        (["", "", "", ""], [False] * 4),  # of no symbols
    ],
)
def test_guard_detects_restarts(steps: Sequence[str], restarts: list[bool]) -> None:
    guard = RestartGuard()
    assert [guard.restarted(SHORT * step) for step in steps] == restarts
    guard = RestartGuard()  # steps of few symbols may repeat
    assert not any(guard.restarted(step) for step in steps)


def test_checker_finds_the_correct_candidate() -> None:
    """One correct candidate of four suffices for the checker, but not for the vote."""
    chosen = {}
    for scorer in ("checker", "vote"):
        for problem in problems(12, seed=5):
            backend = Scripted(solver_script(lambda r, number: number != 1 + len(r.partial) % 3))
            config = replace(BASE, strategy="every-step", scorer=scorer)
            chosen[scorer, problem] = run(
                backend, config, prompt=STEPS.prompt(problem), problem=problem
            )
    for (scorer, problem), answer in chosen.items():
        if scorer == "checker":
            assert answer.text.split(">") == solve(problem)
            assert [step.chosen for step in answer.steps] == [
                1 + n % 3 for n in range(len(answer.steps))
            ]
        else:
            assert answer.text == WRONG
        assert answer.finish_reason == "end"


def test_scorer_cost_is_counted() -> None:
    class CostlyScorer:
        def score(self, judgements: Sequence[Judgement]) -> list[tuple[list[float], Spent]]:
            return [([float(len(c.step)) for c in j.candidates], Spent(100, 2)) for j in judgements]

    answer = run(numbered(2), replace(BASE, strategy="every-step"), CostlyScorer())
    assert answer.spent == Spent(8 + 200, 4 + 4, 8)


def test_every_strategy_returns_the_chosen_steps() -> None:
    """Ids, tokens and figures of an answer are those of its chosen steps only."""
    backend = Scripted(
        lambda r, n: replace(
            make_candidate(f"{len(r.partial)}>" if len(r.partial) < 3 else "8", -0.5, -n),
            ids=(len(r.partial), n),
        ),
        Capabilities(**{**vars(KNOWN), "token_ids": True}),
    )
    answer = run(backend, replace(BASE, strategy="every-step", scorer="probability"))
    assert (answer.ids, answer.tokens, answer.log_probs) == (
        (0, 0, 1, 0, 2, 0, 3, 0),
        8,
        (-0.5, 0.0) * 4,
    )
