"""Completions of models with several latent states, and of costly models, against enumeration."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from maskdiff.decoding.completion import Decoding
from maskdiff.decoding.condition import condition
from maskdiff.decoding.histories import Goal
from maskdiff.drawing.random import new_keys
from maskdiff.errors import CanvasError, ConfigError
from maskdiff.evaluation.completion_baselines import leaves, reject
from maskdiff.models.continuation import ROOT, LatentStates
from maskdiff.models.token_table import TokenTable
from tests.helpers.completion import (
    ONE_IN_A_MILLION,
    SEED,
    Counted,
    History,
    Many,
    begins,
    chi_square,
    random_table,
)
from tests.helpers.fuzz import both_seeds, cases

TINY = 1e-9


def keys(count: int) -> torch.Tensor:
    return new_keys(count, torch.Generator().manual_seed(SEED))


def many(number: int) -> tuple[Many, bytes, str]:
    """Three to five latent states of closed strings, with and without something behind their
    last token."""
    rng = np.random.default_rng([SEED, number, 5])
    table = random_table(
        rng, b"ab", 2, silent=bool(rng.integers(2)), special=bool(rng.integers(2)), ends=0
    )
    size = int(rng.integers(3, 6))
    prior = np.log(rng.dirichlet(np.ones(size)) * (1.0 if rng.integers(2) else 0.25))
    tails = tuple(
        bytes(rng.choice(list(b"ab"), size=rng.integers(0, 4)).tolist()) for _ in range(size)
    )
    limits = tuple(int(n) for n in rng.integers(0, 4, size=size))
    latent_states = LatentStates(
        torch.from_numpy(prior),
        limits,
        True,
        tails if rng.integers(3) else None,
        b"!" * int(rng.integers(2)),
    )
    prefix = bytes(rng.choice(list(b"ab"), size=rng.integers(0, 6)).tolist())
    return (
        Many(table, latent_states, number),
        prefix,
        f"seed {SEED}, number {number}, prefix {prefix!r}, {table}, {latent_states}",
    )


def truth_of(model: Many, prefix: bytes, whole: bool) -> dict[tuple[int, History], float]:
    """p of every string that begins with the prefix (or is it), by its latent state and its
    tokens."""
    found = {}
    for latent in range(len(model.latent_states)):
        tail = model.latent_states.tail(latent)
        for tokens, log_p in model.strings(latent):
            special = any(model.table.texts[token] is None for token in tokens)
            same = not special and model.table.text(tokens) + tail == prefix
            if same if whole else begins(model.table, tokens, prefix, tail):
                found[latent, tokens] = math.exp(log_p)
    return found


def check_many(number: int, whole: bool) -> bool:
    """Every mass and q against the strings themselves; whether there were any."""
    model, prefix, description = many(number)
    truth = truth_of(model, prefix, whole)
    if not truth:
        with pytest.raises(CanvasError):
            condition(model, prefix, "exact", whole=whole)
        return False
    found = condition(model, prefix, "exact", whole=whole)
    shares = [
        sum(p for (b, _), p in truth.items() if b == latent)
        for latent in range(len(model.latent_states))
    ]
    assert math.exp(found.summary.log_z) == pytest.approx(sum(shares), abs=1e-10), description
    assert found.log_root.exp().tolist() == pytest.approx(shares, abs=1e-10), description
    for node in range(len(found.histories)):
        latent, path = found.histories.latent[node], tuple(found.histories.path(node))
        q = np.zeros(len(model.table))
        for (b, tokens), p in truth.items():
            if b == latent and tokens[: len(path)] == path:
                q[tokens[len(path)]] += p
        if q.sum() > 0:
            assert np.abs(found.log_q([node])[0].exp().numpy() - q / q.sum()).max() < 1e-10, (
                description,
                latent,
                path,
            )
    return True


@pytest.mark.slow
@both_seeds
def test_mass_that_costly_models_leave_out_is_negligible(seed: int) -> None:
    """The likeliest histories first give Z and q of all of them, and report the mass that
    they leave out; so does a beam with a floor."""
    fewer = bounded = 0
    for rng in cases(60, seed, 2.0):
        model, prefix, description = many(rng.randrange(10**6))
        if not truth_of(model, prefix, False):
            continue
        truth = condition(model, prefix, "exact")
        for negligible in (1e-12, 1e-2, 0.3):
            costly = Counted(model)
            costly.negligible, costly.floor = negligible, negligible  # type: ignore[attr-defined]
            for mode in ("exact", "beam"):
                found = condition(costly, prefix, mode, beam=1000)
                lost = math.exp(truth.summary.log_z) - math.exp(found.summary.log_z)
                most = math.exp(found.log_dropped)
                assert -1e-12 < lost <= most + 1e-12, description
                assert mode == "beam" or found.summary.dropped <= negligible, description
                bounded += lost > 1e-9
                fewer += len(found.histories) < len(truth.histories)
                if negligible == 1e-12 and mode == "exact":
                    assert found.log_root.exp().tolist() == pytest.approx(
                        truth.log_root.exp().tolist(), abs=1e-10
                    ), description
                    for node in range(len(found.histories)):
                        root, path = found.histories.latent[node], found.histories.path(node)
                        same = truth.histories.child[ROOT, root]
                        for token in path:
                            same = truth.histories.child[same, token]
                        own, other = (
                            x.log_q([i])[0].exp() for x, i in ((found, node), (truth, same))
                        )
                        assert torch.allclose(own, other, atol=1e-7) or found.log_z[node] < -20, (
                            description
                        )
    assert fewer > 0 < bounded


def test_exact_mode_of_a_costly_model_stops_at_its_budget() -> None:
    model, prefix, _ = next(
        case
        for case in map(many, range(100))
        if len(case[1]) > 3 and truth_of(case[0], case[1], False)
    )
    costly = Counted(model)
    costly.negligible = costly.floor = 1e-15  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="exact mode needs over 1 histories"):
        condition(costly, prefix, "exact", budget=1)


@pytest.mark.slow
def test_several_prefixes_are_weighed_by_their_completions() -> None:
    assert sum(check_many(number, whole=False) for number in range(80)) > 30, SEED


@pytest.mark.slow
def test_whole_texts_of_several_prefixes() -> None:
    assert sum(check_many(number, whole=True) for number in range(80)) > 8, SEED


def test_a_tail_covers_the_bytes_after_the_tokens() -> None:
    """By hand: `a`, and the tail `bc`; or two tokens and no tail.

    A silent last token lets the tail stand as well.
    """
    table = TokenTable((b"a", b"b", b""))
    model = Many(
        table,
        LatentStates(
            torch.tensor([0.25, 0.75], dtype=torch.float64).log(), (1, 2), True, (b"b", b""), b"."
        ),
        3,
    )
    p, first = (np.exp(model.log_next(*node)) for node in ((0, ()), (1, ())))
    z = [0.25 * p[0], 0.75 * first[0] * np.exp(model.log_next(1, (0,)))[1]]
    found = condition(model, b"ab", "exact")
    assert found.log_root.exp().tolist() == pytest.approx(z)
    texts = {string.data for string in Decoding(found, keys(50)).run()}
    assert texts == {b"ab."}
    assert condition(model, b"b").log_root.exp().tolist() == pytest.approx(
        [0.25 * (p[1] + p[2]), 0.75 * (first[1] + first[2] * np.exp(model.log_next(1, (2,)))[1])]
    )
    with pytest.raises(CanvasError):  # what was typed does not reach into the suffix
        condition(model, b"ab.", "exact")


@pytest.mark.slow
def test_strings_of_several_prefixes_have_the_right_distribution() -> None:
    checked = 0
    for number in range(200, 260):
        model, prefix, description = many(number)
        truth = truth_of(model, prefix, False)
        if len(truth) < 8 or checked == 5:
            continue
        checked += 1
        counted = Counted(model)
        decoding = Decoding(condition(counted, prefix, "exact"), keys(4000))
        made = decoding.run()
        drawn = list(
            zip((s.latent for s in decoding.strings), (s.tokens for s in made), strict=True)
        )
        total = sum(truth.values())
        assert chi_square(drawn, {x: p / total for x, p in truth.items()}) < ONE_IN_A_MILLION, (
            description
        )
        for (latent, tokens), string in zip(drawn, made, strict=True):
            assert string.ended
            assert (
                string.data
                == model.table.text(tokens)
                + model.latent_states.tail(latent)
                + model.latent_states.suffix
            )
            assert string.data.startswith(prefix)
        assert len(counted.passes) <= 1 + max(model.latent_states.limits)
    assert checked == 5


@pytest.mark.slow
def test_rejection_respects_the_text_behind_the_last_token() -> None:
    checked = 0
    for number in range(400, 500):
        several, prefix, description = many(number)
        own = several.latent_states
        limits, tails = own.limits[:1], None if own.tails is None else own.tails[:1]
        model = replace(
            several,
            latent_states=LatentStates(torch.zeros(1).double(), limits, True, tails, own.suffix),
        )
        truth = {tokens: p for (_, tokens), p in truth_of(model, prefix, False).items()}
        if not limits[0] or len(truth) < 4 or sum(truth.values()) < 0.02 or checked == 6:
            continue
        checked += 1
        made = reject(
            model, prefix, 2000, 10**6, torch.Generator().manual_seed(SEED + number)
        ).completions
        total = sum(truth.values())
        assert (
            chi_square([string.tokens for string in made], {x: p / total for x, p in truth.items()})
            < ONE_IN_A_MILLION
        ), description
        for string in made:
            assert (
                string.data
                == model.table.text(string.tokens) + model.latent_states.tail(0) + own.suffix
            )
        goal = Goal(model.table, model.latent_states, prefix)
        assert sum(leaves(condition(model, prefix, "exact"), goal).values()) == pytest.approx(
            1.0
        ), description
    assert checked == 6, SEED


def test_a_beam_over_several_prefixes_bounds_the_mass_that_it_leaves_out() -> None:
    left_out = 0
    for number in range(300, 340):
        model, prefix, description = many(number)
        z = sum(truth_of(model, prefix, False).values())
        try:
            summary = condition(model, prefix, "beam", beam=1).summary
        except CanvasError:
            continue
        assert summary.log_z <= math.log(z) + TINY, description
        assert math.log(z) <= summary.log_z - math.log1p(-summary.dropped) + TINY, description
        left_out += summary.dropped > 0
    assert left_out > 0, SEED


def test_goals_depend_on_the_last_token() -> None:
    """The tokens that cover depend on whether one is left.

    The text behind the last token counts only then.
    """
    table = TokenTable((b"a", b"b"))
    goal = Goal(
        table, LatentStates(torch.zeros(1, dtype=torch.float64), (2,), True, (b"b",)), b"aab"
    )
    assert goal.covers(goal.key(1, 1, 0)) == [0]
    assert goal.covers(goal.key(1, 0, 0)) == []
