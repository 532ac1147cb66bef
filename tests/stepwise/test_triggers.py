"""Triggers: momentum uncertainty by hand, random draws compared with their rate."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from maskdiff.config import StepConfig
from maskdiff.stepwise.strategies import make_trigger
from maskdiff.stepwise.triggers import Always, Momentum, Never, Random, Trigger

# u of six steps; a = g = 0.9, and -ln 0.9 = 0.105361. M before each step, by M' = 0.9 M + 0.1 u,
# and M / (1 - 0.9^t) with the divisors 0.1, 0.19, 0.271, 0.3439, 0.40951; then whether
# u > that + 0.105361. The sixth step differs.
UNCERTAINTIES = (0.2, 0.5, 0.1, 0.4, 0.9, 0.5)
PUBLISHED = (
    (0.0, False),  # the first step never
    (0.02, True),  # 0.1 x 0.2; 0.5 > 0.125361
    (0.068, False),  # 0.018 + 0.05; 0.1 < 0.173361
    (0.0712, True),  # 0.0612 + 0.01; 0.4 > 0.176561
    (0.10408, True),  # 0.06408 + 0.04; 0.9 > 0.209441
    (0.183672, True),  # 0.093672 + 0.09; 0.5 > 0.289033
)
CORRECTED = (
    (0.0, False),
    (0.2, True),  # 0.5 > 0.305361
    (0.357895, False),  # 0.1 < 0.463256
    (0.262731, True),  # 0.4 > 0.368092
    (0.302646, True),  # 0.9 > 0.408007
    (0.448517, False),  # 0.5 < 0.553878
)


def trace(trigger: Trigger, uncertainties: tuple[float, ...]) -> list[bool]:
    decisions = []
    for step, u in enumerate(uncertainties):
        decisions.append(trigger.scale(step, u))
        trigger.update(u)
    return decisions


@pytest.mark.parametrize(("corrected", "table"), [(False, PUBLISHED), (True, CORRECTED)])
def test_momentum_trace_equals_a_hand_computation(
    corrected: bool, table: tuple[tuple[float, bool], ...]
) -> None:
    trigger = Momentum(0.9, 0.9, corrected)
    for step, (u, (level, scaled)) in enumerate(zip(UNCERTAINTIES, table, strict=True)):
        assert trigger.level == pytest.approx(level, abs=5e-7)
        assert trigger.scale(step, u) is scaled
        assert trigger.level == pytest.approx(level, abs=5e-7)  # a query does not change the state
        trigger.update(u)
    assert trigger.average == pytest.approx(0.2153048, abs=5e-8)  # 0.9 x 0.183672 + 0.05


def test_momentum_of_constant_uncertainty() -> None:
    """As published, the first 21 of 39 steps trigger at u = 1; with the correction none does."""
    assert trace(Momentum(), (1.0,) * 40) == [False] + [True] * 21 + [False] * 18
    assert not any(trace(Momentum(bias_corrected=True), (1.0,) * 40))
    for u in (1e-9, 0.3, 7.0, 1e6):
        assert not any(trace(Momentum(bias_corrected=True), (u,) * 40))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.floats(0, 12), min_size=1, max_size=25),
    st.floats(0, 0.99),
    st.floats(0.05, 1),
    st.booleans(),
)
def test_momentum_equals_the_published_form(
    uncertainties: list[float], momentum: float, scaling: float, corrected: bool
) -> None:
    """exp(u) > exp(M) / g, M in closed form, where both sides differ by more than rounding."""
    trigger = Momentum(momentum, scaling, corrected)
    for t, u in enumerate(uncertainties):
        weights = np.array([(1 - momentum) * momentum ** (t - 1 - i) for i in range(t)])
        level = float(weights @ np.array(uncertainties[:t])) if t else 0.0
        level /= 1 - momentum**t if corrected and t else 1
        left, right = math.exp(u), math.exp(level) / scaling
        assume(abs(left - right) > 1e-9 * right)
        assert trigger.scale(t, u) is (t > 0 and left > right)
        trigger.update(u)


@pytest.mark.slow
def test_random_fires_at_its_rate() -> None:
    """5,000 draws at 0.3: the standard deviation is 32.4, and 4.9 of them are one in a million."""
    rate, count = 0.3, 5_000
    drawn = [Random(rate, seed).scale(step, 9.0) for seed in range(100) for step in range(1, 51)]
    assert abs(sum(drawn) - rate * count) < 4.9 * math.sqrt(count * rate * (1 - rate))
    lots = np.array(drawn).reshape(100, 50)
    by_step, by_answer = lots.mean(0), lots.mean(1)  # no step, and no answer, has a rate of its own
    assert by_step.std() == pytest.approx(math.sqrt(rate * (1 - rate) / 100), rel=0.5)
    assert by_answer.std() == pytest.approx(math.sqrt(rate * (1 - rate) / 50), rel=0.4)
    both = (lots[:, 1:] & lots[:, :-1]).mean()  # and steps that follow each other are independent
    assert both == pytest.approx(rate**2, abs=4.9 * math.sqrt(rate**2 / lots[:, 1:].size))


def test_random_depends_on_seed_and_step_only() -> None:
    """Draws ignore uncertainties; a higher rate only adds steps; rates 0 and 1; never step 0."""
    lots = [trace(Random(rate, 5), UNCERTAINTIES * 20) for rate in (0.0, 0.2, 0.7, 1.0)]
    assert trace(Random(0.2, 5), (0.0,) * 120) == lots[1]
    assert all(
        b or not a
        for low, high in zip(lots, lots[1:], strict=False)
        for a, b in zip(low, high, strict=True)
    )
    assert not any(lots[0])
    assert lots[3] == [False] + [True] * 119
    assert 0 < sum(lots[1]) < sum(lots[2]) < 119
    assert trace(Random(0.5, 6), (0.0,) * 120) != trace(Random(0.5, 5), (0.0,) * 120)


def test_every_strategy_has_its_trigger() -> None:
    assert trace(Always(), UNCERTAINTIES) == [True] * 6
    assert trace(Never(), UNCERTAINTIES) == [False] * 6
    made = {
        name: make_trigger(StepConfig(strategy=name), 3)
        for name in ("greedy", "sample", "every-step", "adaptive", "random")
    }
    assert made == {
        "greedy": Never(), "sample": Never(), "every-step": Always(),
        "adaptive": Momentum(0.9, 0.9), "random": Random(0.5, 3),
    }  # fmt: skip
    config = StepConfig(strategy="adaptive", momentum=0.5, scaling=0.7, bias_corrected=True)
    assert make_trigger(config, 3) == Momentum(0.5, 0.7, True)
