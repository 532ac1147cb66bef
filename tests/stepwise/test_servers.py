"""Real servers of our own model and the official client: probe, closed turns, equality."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from maskdiff.checkpoint import Loaded, load_denoiser
from maskdiff.config import BackendConfig, StepConfig
from maskdiff.errors import ConfigError
from maskdiff.languages import Stepwise
from maskdiff.stepwise.backends import make_backend
from maskdiff.stepwise.causal import CausalBackend
from maskdiff.stepwise.probe import Nonce, ProbeVerdict, probe_continuation
from maskdiff.stepwise.protocol import StepBackend
from maskdiff.stepwise.solver import Solution, Solver
from tests.helpers.paths import CHECKPOINTS

pytest.importorskip("fastapi")
pytest.importorskip("openai")

VERDICTS = {
    "continue": ProbeVerdict.CONTINUE,
    "restart": ProbeVerdict.RESTART,
    "reject": ProbeVerdict.REJECT,
    "echo": ProbeVerdict.ECHO,
}
CAP = 8
CONFIG = StepConfig(strategy="sample", scorer="vote", max_steps=CAP)


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load_denoiser(CHECKPOINTS / "arithmetic-steps.pt", "cpu")


@pytest.fixture(scope="module")
def language(loaded: Loaded) -> Stepwise:
    assert isinstance(loaded.language, Stepwise)
    return loaded.language


@pytest.fixture(scope="module")
def problems(language: Stepwise) -> list[str]:
    """Return problems of at least four steps, which a restart cannot finish by chance."""
    drawn = language.problems(200, np.random.default_rng(5))
    return [problem for problem in drawn if len(language.solution(problem)) >= 4][:2]


@contextmanager
def backend(
    loaded: Loaded, language: Stepwise, kind: str, prefill: str = "continue"
) -> Iterator[StepBackend]:
    """Return a backend over HTTP for a server of the shipped checkpoint."""
    from maskdiff.serving.app import create_app
    from maskdiff.serving.model import ServedModel
    from maskdiff.serving.server import run_in_thread

    served = ServedModel(CausalBackend(loaded), "steps", language.prompt, 4096)
    with run_in_thread(create_app(served, prefill=prefill)) as url:  # type: ignore[arg-type]
        yield make_backend(
            BackendConfig(backend=kind, model="steps", base_url=url), language=language
        )


def solve(
    generator: StepBackend, config: StepConfig, language: Stepwise, problems: list[str]
) -> list[Solution]:
    return list(Solver(generator, config, language).solving(problems, 3))


@pytest.mark.slow
@pytest.mark.parametrize("prefill", VERDICTS)
def test_probe_identifies_every_server_on_every_seed(
    loaded: Loaded, language: Stepwise, prefill: str
) -> None:
    def make(rng: np.random.Generator) -> Nonce:
        return Nonce(*language.nonce(rng))

    with backend(loaded, language, "chat", prefill) as chat:
        verdicts = [probe_continuation(chat, make, seed).verdict for seed in range(2)]
    assert verdicts == [VERDICTS[prefill]] * 2


def test_text_completion_continues_on_every_server(loaded: Loaded, language: Stepwise) -> None:
    with backend(loaded, language, "completions", "restart") as text:
        assert Solver(text, CONFIG, language).probe().verdict is ProbeVerdict.CONTINUE


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["completions", "chat"])
def test_greedy_over_http_equals_local_greedy(
    loaded: Loaded, language: Stepwise, problems: list[str], kind: str
) -> None:
    config = replace(CONFIG, strategy="greedy")
    home = solve(CausalBackend(loaded), config, language, problems)
    with backend(loaded, language, kind) as far:
        away = solve(far, config, language, problems)
    for here, there in zip(home, away, strict=True):
        assert here.answer is not None
        assert there.answer is not None
        assert (here.text, here.answer.finish_reason) == (there.text, there.answer.finish_reason)
        assert here.answer.log_probs == pytest.approx(there.answer.log_probs, abs=1e-5)
        assert (
            there.answer.spent.forward_tokens > here.answer.spent.forward_tokens
        )  # the prompt is read again each time


@pytest.mark.slow
@pytest.mark.parametrize("prefill", ["restart", "reject", "echo"])
def test_adaptive_refuses_a_server_that_does_not_continue_and_falls_back(
    loaded: Loaded, language: Stepwise, problems: list[str], prefill: str
) -> None:
    config = replace(CONFIG, strategy="adaptive", candidates=2)
    with backend(loaded, language, "chat", prefill) as chat:
        with pytest.raises(ConfigError, match="best-of-n") as refused:
            Solver(chat, config, language)
        assert VERDICTS[prefill].name in str(refused.value)
        solver = Solver(chat, replace(config, fallback="best-of-n"), language)
        solutions = list(solver.solving(problems[:1]))
    assert solver.fell_back
    assert [s.strategy for s in solutions] == ["best-of-n"]
    assert all(s.answer is not None and s.answer.finish_reason == "end" for s in solutions)


@pytest.mark.slow
def test_a_closed_turn_runs_to_the_cap_unguarded_and_three_steps_guarded(
    loaded: Loaded, language: Stepwise, problems: list[str]
) -> None:
    unguarded = replace(CONFIG, require_continuation=False, guard=False)
    with backend(loaded, language, "chat", "restart") as chat:
        loose = solve(chat, unguarded, language, problems)
        tight = solve(chat, replace(unguarded, guard=True), language, problems)
    answers = [s.answer for s in loose if s.answer is not None]
    assert [(a.finish_reason, len(a.steps)) for a in answers] == [("max_steps", CAP)] * len(
        problems
    )
    assert sum(a.restarts for a in answers) / sum(len(a.steps) - 1 for a in answers) > 0.9
    # Each step is fluent: only its content reveals the failure.
    assert np.mean([step.uncertainty for a in answers for step in a.steps]) < 0.1
    assert not any(s.correct for s in loose)
    for solution in tight:
        assert solution.answer is not None
        assert solution.answer.finish_reason == "restarted"
        assert len(solution.answer.steps) <= 3


@pytest.mark.slow
def test_a_server_that_continues_is_never_guarded(
    loaded: Loaded, language: Stepwise, problems: list[str]
) -> None:
    with backend(loaded, language, "chat") as chat:
        solutions = solve(chat, CONFIG, language, problems)
    assert all(s.answer is not None and s.answer.restarts == 0 for s in solutions)
