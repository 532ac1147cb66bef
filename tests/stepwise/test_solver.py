"""Many problems at once: solutions and failures are independent, verdicts are right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from maskdiff.config import BackendConfig, StepConfig
from maskdiff.errors import ConfigError, DataError
from maskdiff.stepwise.backends import make_backend
from maskdiff.stepwise.probe import ProbeResult, ProbeVerdict
from maskdiff.stepwise.protocol import BackendError, Candidate, Request
from maskdiff.stepwise.scorers import Judgement
from maskdiff.stepwise.solver import Solution, Solver
from maskdiff.utils.deadline import Deadline
from tests.helpers.step_trees import read, reducts, value_of, write, wrong_step
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

BASE = StepConfig(
    strategy="adaptive",
    scorer="denoiser",
    candidates=3,
    temperature=1.0,
    max_steps=4,
    max_step_tokens=8,
)
PROBLEMS = problems(10, seed=9)


def without_cost(solution: Solution) -> Solution:
    """Return a solution without its cost, which depends on shared prompts, and rounding."""
    if solution.answer is None:
        return solution
    steps = tuple(
        replace(
            step,
            uncertainty=step.uncertainty and round(step.uncertainty, 4),
            level=step.level and round(step.level, 4),
            scores=tuple(round(score, 3) for score in step.scores),
        )
        for step in solution.answer.steps
    )
    return replace(
        solution, answer=replace(solution.answer, steps=steps, spent=None, log_probs=None)
    )  # type: ignore[arg-type]


@pytest.fixture(params=["causal", "blocks"])
def solver(request: pytest.FixtureRequest) -> Solver:
    model = loaded(pieces=True, double=True)
    return Solver(
        make_backend(BackendConfig(backend=request.param, block=4, per_call=2), model),
        BASE,
        STEPS,
        model,
    )


def first_wrong(problem: str, text: str) -> int | None:
    """Return the expected verdict by trees.

    Text after the last separator is incomplete unless it is a number.
    """
    *steps, last = text.split(">")
    return wrong_step([problem, *steps, *([last] if isinstance(read(last), int) else [])])


def test_a_time_limit_keeps_the_finished_steps() -> None:
    """An answer ends after its last whole step; no whole step or answer is an error."""
    now = [0.0]
    right = solver_script(lambda request, number: False)

    def slow(request: Request, number: int) -> Candidate:
        now[0] += 1.0
        return right(request, number)

    problem = "(+ 3 (* 2 4))"
    config = StepConfig(strategy="greedy", max_steps=9)
    (whole,) = Solver(Scripted(right), config, STEPS).solving([problem])
    assert whole.answer is not None
    assert len(whole.answer.steps) == 2
    for strategy, seconds, steps in (
        ("greedy", 0.5, 1),
        ("greedy", 1.5, 2),
        ("greedy", -0.5, None),
        ("best-of-n", 0.5, None),
    ):
        solver = Solver(
            Scripted(slow),
            StepConfig(strategy=strategy, max_steps=9, scorer="vote", candidates=2),
            STEPS,
        )
        deadline = Deadline(seconds, clock=lambda: now[0])
        first, bad = solver.together(
            [problem, DataError("bad")], torch.Generator().manual_seed(0), deadline
        )
        assert bad.finish_reason == "error"
        if steps is None:
            assert (first.answer, first.finish_reason) == (None, "timeout")
            assert "no answer within" in str(first.error)
        else:
            assert first.answer is not None
            assert first.error is None
            assert first.answer.steps == whole.answer.steps[:steps]
            assert first.finish_reason == ("timeout" if steps < 2 else "end")
            assert (first.correct, first.first_wrong) == (steps == 2, None)
        assert not solver.deadline.passed


@pytest.mark.slow
def test_cohort_size_does_not_change_solutions(solver: Solver) -> None:
    expected = [without_cost(s) for s in solver.solving(PROBLEMS, seed=3)]
    assert sum(step.scaled for s in expected for step in s.answer.steps) > 5
    assert len({s.text for s in expected}) > 5
    for solution in expected:
        assert solution.first_wrong == first_wrong(solution.problem, solution.text)
        assert solution.correct is (solution.result == str(value_of(read(solution.problem))))
    for cohort in (1, 3):
        assert [
            without_cost(s) for s in solver.solving(iter(PROBLEMS), seed=3, cohort=cohort)
        ] == expected
    assert [without_cost(s) for s in solver.solving(PROBLEMS[:5], seed=3)] == expected[:5]
    assert [without_cost(s) for s in solver.solving(PROBLEMS, seed=4)] != expected


@pytest.mark.slow
def test_a_failing_problem_does_not_change_the_others(solver: Solver) -> None:
    """Check foreign symbols, a non-problem, an unreadable line and a long one among good ones."""
    expected = [without_cost(s) for s in solver.solving(PROBLEMS[:6], seed=3)]
    bad: dict[int, str | DataError] = {
        1: "(+ a 1)", 2: "(+ 1", 3: DataError("the line is not UTF-8"), 5: "11", 7: "",
        8: "(+ " * 6000 + "1" + " 1)" * 6000,
    }  # fmt: skip
    good = iter(range(6))
    order = [bad[n] if n in bad else PROBLEMS[next(good)] for n in range(len(bad) + 6)]

    class SolverWithKeptKeys(Solver):  # keys belong to places; here the good ones keep theirs
        def _cohort(self, batch, keys):  # type: ignore[no-untyped-def]
            kept = iter(keys)
            return super()._cohort(
                batch, [0 if n in bad else next(kept) for n in range(len(batch))]
            )

    mixed = SolverWithKeptKeys(solver.generator, BASE, STEPS, loaded(pieces=True, double=True))
    got = [without_cost(s) for s in mixed.solving(order, seed=3)]
    assert [s for n, s in enumerate(got) if n not in bad] == expected
    messages = {
        1: "unknown symbol 'a'",
        2: "write it like",
        3: "not UTF-8",
        5: "no problem",
        7: "no problem",
        8: "no problem",
    }
    for n, message in messages.items():
        assert got[n].answer is None
        assert message in (got[n].error or "")
        assert "\n" not in (got[n].error or "")
        assert (got[n].correct, got[n].first_wrong, got[n].text) == (None, None, "")


def test_a_rejected_request_fails_one_problem_only() -> None:
    """Rejections occur inside an answer, during a repeated request, and at the end."""

    def wrong(request: Request, number: int) -> bool:
        if request.prompt == STEPS.prompt(PROBLEMS[2]) and len(request.partial) == 1:
            raise BackendError("this one not")
        return False

    for strategy in ("greedy", "every-step"):
        config = StepConfig(strategy=strategy, scorer="checker")
        backend = Scripted(solver_script(wrong))
        solutions = list(Solver(backend, config, STEPS, loaded()).solving(PROBLEMS[:5]))
        assert [s.error for s in solutions] == [None, None, "this one not", None, None]
        assert [s.correct for s in solutions] == [True, True, None, True, True]
        assert backend.forgotten == 1

    class FailingScorer:
        def score(self, judgements: list[Judgement]) -> list[object]:
            if any(j.problem == PROBLEMS[1] for j in judgements):
                raise BackendError("cannot judge that")
            return checker.score(judgements)  # type: ignore[return-value]

    solver = Solver(Scripted(solver_script(lambda r, n: False)), config, STEPS, loaded())
    checker, solver.scorer = solver.scorer, FailingScorer()  # type: ignore[assignment]
    solutions = list(solver.solving(PROBLEMS[:4]))
    assert [s.error for s in solutions] == [None, "cannot judge that", None, None]
    assert [s.correct for s in solutions] == [True, None, True, True]


def test_no_request_is_sent_twice() -> None:
    """Replies and scores received before a failure of the batch are kept."""
    backend = Scripted(solver_script(lambda r, n: False))
    config = StepConfig(strategy="random", scorer="vote", candidates=2)
    solver, rounds = Solver(backend, config, STEPS), []
    vote = solver.scorer

    class FailingScorer:
        def score(self, judgements: list[Judgement]) -> object:
            rounds.append(len(judgements))
            if any(j.problem == PROBLEMS[2] for j in judgements):
                raise BackendError("no")
            return vote.score(judgements)

    solver.scorer = FailingScorer()  # type: ignore[assignment]
    solutions = list(solver.solving(PROBLEMS, seed=1))
    assert [n for n, s in enumerate(solutions) if not s.correct] == [2]
    assert len(backend.asked) == len({repr(request) for request in backend.asked})
    assert max(rounds) < len(PROBLEMS)


# -------------------------- verdicts


def answers_with_verdicts(problem: str) -> Iterator[tuple[str, bool, int | None]]:
    """Return answers to a problem, their correctness, and the first wrong step, by trees."""
    steps = solve(problem)
    right, number = str(value_of(read(problem))), len(steps)
    assert steps[-1] == right
    yield ">".join(steps), True, None
    others = [problem]  # the same by reducing what comes last
    while following := reducts(read(others[-1])):
        others.append(write(following[-1]))
    yield ">".join(others[1:]), True, None
    yield ">".join([*steps[:-1], WRONG]), False, number
    yield right, True, 1 if number > 1 else None  # a guess that skips the steps
    if number > 1:
        yield ">".join([steps[0], steps[0], *steps[1:]]), True, 2
        yield ">".join(["(+ 1 1)", *steps[1:]]), True, 1
    yield ">".join(steps[:-1]), False, None  # right as far as it goes, and no number at its end


@pytest.mark.parametrize("strategy", ["greedy", "best-of-n"])
def test_solutions_are_marked_correct_or_wrong(strategy: str) -> None:
    for problem in PROBLEMS:
        for text, correct, wrong in answers_with_verdicts(problem):
            assert first_wrong(problem, text) == wrong

            def script(request: Request, number: int, text: str = text) -> Candidate:
                rest = text[len(request.answer) :]
                end = request.stop.find(rest)
                return make_candidate(rest if end is None else rest[:end])

            config = StepConfig(strategy=strategy, scorer="vote", guard=False)
            [solution] = Solver(Scripted(script), config, STEPS).solving([f"  {problem} "])
            assert (solution.correct, solution.first_wrong) == (correct, wrong), (problem, text)
            assert (solution.problem, solution.text, solution.strategy) == (problem, text, strategy)
            last = text.split(">")[-1]
            assert solution.result == (last if last.lstrip("-").isdigit() else "")


def test_a_truncated_text_is_no_answer() -> None:
    problem = next(p for p in PROBLEMS if len(solve(p)) == 1)
    answer = solve(problem)[0]
    for text, finish in ((answer, "length"), (answer + ">", "stop")):
        script = Scripted(
            lambda r, n, text=text, finish=finish: make_candidate(text, finish=finish)
        )
        [solution] = Solver(script, StepConfig(strategy="greedy", scorer="vote"), STEPS).solving(
            [problem]
        )
        assert (solution.result, solution.correct) == ("", False)
        assert solution.answer.finish_reason != "end"


@pytest.mark.parametrize("stops", [(), (">",), (")",), ("\n",), (" ",), (")>", "(")])
@pytest.mark.parametrize("strategy", ["greedy", "every-step", "best-of-n"])
def test_steps_may_end_with_another_stop_string(stops: tuple[str, ...], strategy: str) -> None:
    """The verdict on an answer does not depend on where its steps end."""

    def script(request: Request, number: int) -> Candidate:
        rest = ">".join(solve(request.prompt[:-1]))[len(request.answer) :]
        end = request.stop.find(rest)
        return make_candidate(
            rest if end is None else rest[:end], finish="end" if end is None else "stop"
        )

    config = StepConfig(strategy=strategy, scorer="vote", step_stop=stops, guard=False)
    for solution in Solver(Scripted(script), config, STEPS).solving(PROBLEMS):
        assert (solution.correct, solution.first_wrong) == (True, None)
        assert solution.result == str(value_of(read(solution.problem)))


def test_solver_without_a_language() -> None:
    chat = Scripted(
        lambda r, n: (
            make_candidate(" two ") if r.partial else make_candidate("one\n\n", finish="stop")
        ),
        replace(KNOWN, chat=True),
    )
    config = StepConfig(strategy="greedy", scorer="vote")
    [solution] = Solver(chat, config).solving(["What?"])
    assert (solution.result, solution.correct, solution.first_wrong, solution.text) == (
        "two",
        None,
        None,
        "one\n\n two ",
    )
    assert {(r.prompt, r.stop.strings) for r in chat.asked} == {("What?", ("\n\n",))}
    chat.asked.clear()
    list(Solver(chat, config, STEPS).solving([f" {PROBLEMS[0]} "]))
    assert {(r.prompt, r.stop.strings) for r in chat.asked} == {
        (PROBLEMS[0], (">",))
    }  # its template adds the rest


# -------------------------- backends that continue


def restarts(request: Request, number: int) -> Candidate:
    """Answer from the beginning and ignore the partial answer."""
    return solver_script(lambda r, n: False)(replace(request, partial=()), number)


def test_a_backend_that_does_not_continue_is_refused() -> None:
    for continues, reason in ((None, "RESTART"), (False, "cannot go on from a partial answer")):
        backend = Scripted(restarts, replace(KNOWN, continues=continues))
        for strategy in ("greedy", "sample", "every-step", "adaptive", "random"):
            config = StepConfig(strategy=strategy, scorer="vote")
            with pytest.raises(ConfigError) as error:
                Solver(backend, config, STEPS)
            message = str(error.value)
            assert "\n" not in message
            assert all(word in message for word in (reason, strategy, backend.name, "best-of-n"))
        backend.asked.clear()
        solver = Solver(backend, replace(config, fallback="best-of-n"), STEPS)
        assert solver.fell_back
        assert solver.config.strategy == "best-of-n"
        asked = len(backend.asked)
        assert (asked == 0) == (continues is False)  # probed, or known before
        solutions = list(solver.solving(PROBLEMS[:4]))
        assert all(s.correct and s.strategy == "best-of-n" for s in solutions)
        assert not any(r.partial for r in backend.asked[asked:])
        backend.asked.clear()
        whole = Solver(backend, StepConfig(strategy="best-of-n", scorer="vote"), STEPS)
        assert not whole.fell_back
        assert not backend.asked  # best-of-n needs no probe
        forced = Solver(
            backend, StepConfig(strategy="greedy", scorer="vote", require_continuation=False), STEPS
        )
        assert not backend.asked
        [solution] = forced.solving([next(p for p in PROBLEMS if len(solve(p)) > 2)])
        assert (solution.answer.finish_reason, len(solution.answer.steps), solution.correct) == (
            "restarted",
            3,
            False,
        )


def test_a_backend_that_continues_is_probed_once_and_used() -> None:
    backend = Scripted(solver_script_of_symbols, replace(KNOWN, continues=None))
    solver = Solver(backend, StepConfig(strategy="greedy", scorer="vote"), STEPS)
    assert solver.probed is not None
    assert solver.probed.verdict is ProbeVerdict.CONTINUE
    assert not solver.fell_back
    asked = len(backend.asked)
    assert all(s.correct for s in solver.solving(PROBLEMS[:3]))
    known = ProbeResult(ProbeVerdict.CONTINUE, ("before",))
    backend.asked.clear()
    Solver(backend, StepConfig(strategy="greedy", scorer="vote"), STEPS, probed=known)
    assert not backend.asked
    assert asked == 3
    with pytest.raises(ConfigError, match="RESTART; before"):
        Solver(
            backend,
            StepConfig(scorer="vote"),
            STEPS,
            probed=ProbeResult(ProbeVerdict.RESTART, ("before",)),
        )


def solver_script_of_symbols(request: Request, number: int) -> Candidate:
    """Write correct steps and continue any partial step."""
    rest = ">".join(solve(request.prompt.rstrip(">")))[len(request.answer) :]
    end = request.stop.find(rest)
    return make_candidate(rest if end is None else rest[:end])


def test_checker_requires_steps_of_its_language() -> None:
    """With step ends other than those of the language, correct steps would score 0."""
    config = StepConfig(strategy="every-step", scorer="checker", step_stop=(")",))
    with pytest.raises(ConfigError, match="leave step_stop alone"):
        Solver(make_backend(BackendConfig(), loaded()), config, STEPS, loaded())
