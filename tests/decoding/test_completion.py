"""Conditioning on typed text against brute force.

Masses, q, counters, the baselines that must fail, and the traps.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from maskdiff.decoding.completion import Decoding
from maskdiff.decoding.condition import condition
from maskdiff.decoding.histories import Goal, count
from maskdiff.drawing.random import new_keys
from maskdiff.errors import CanvasError, ConfigError
from maskdiff.evaluation.completion_baselines import (
    PROPOSALS,
    as_they_fall,
    leaves,
    naive_mask,
    position_table,
    reject,
    token_healing,
    total_variation,
)
from maskdiff.models.continuation import LatentStates
from maskdiff.models.table_model import TableModel
from maskdiff.models.token_table import TokenTable
from tests.helpers.completion import (
    ONE_IN_A_MILLION,
    SEED,
    Brute,
    Counted,
    Given,
    History,
    Known,
    Many,
    Placed,
    chi_square,
    random_case,
    random_table,
)

KINDS = {  # special properties of a table
    "plain": {},
    "silent": {"silent": True},
    "special": {"special": True},
    "both": {"silent": True, "special": True},
    "bytes": {"alphabet": "é日".encode()[:4]},
}


def goal_of(model: TableModel, prefix: bytes) -> Goal:
    return Goal(model.table, model.latent_states, prefix)


def mass(model: TableModel, prefix: bytes, whole: bool = False) -> float:
    """p(a string begins with the prefix), or is it; 0 where it cannot."""
    try:
        return math.exp(condition(model, prefix, "exact", whole=whole).summary.log_z)
    except CanvasError:
        return 0.0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_q_of_every_history_is_that_of_brute_force(kind: str) -> None:
    for number in range(25):
        case = random_case(number, **KINDS[kind])
        brute, found = case.brute, condition(case.model, case.prefix, "exact")
        tree = found.histories
        paths = [tuple(tree.path(node)) for node in range(len(tree))]
        assert sorted(paths) == sorted(brute.histories()), case.description
        assert abs(found.summary.log_z - math.log(brute.mass())) < 1e-10, case.description
        assert found.summary.dropped == 0
        q = found.log_q(list(range(len(tree)))).exp().numpy()
        for node, path in enumerate(paths):
            z = brute.mass(path)
            assert abs(float(found.log_z[node].exp()) - z) < 1e-10, case.description
            if z > 0:
                assert np.abs(q[node] - brute.q(path)).max() < 1e-10, (case.description, path)
        truth = brute.leaves()
        assert total_variation(leaves(found, goal_of(case.model, case.prefix)), truth) <= 1e-9, (
            case.description
        )
        listed = {
            (*tree.path(node), token): math.exp(p - found.summary.log_z)
            for node, token, p in found.leaves()
        }
        assert total_variation(listed, truth) <= 1e-9, case.description


@pytest.mark.slow
def test_drawn_strings_have_the_distribution_of_brute_force() -> None:
    """40,000 draws, 76 strings and the rare ones, threshold at 1e-6.

    Power: a divergence sum (q - p)^2 / p of 7.5e-3 (relative errors of 8.7 %, total variation at
    most 0.05) lies 6 standard deviations beyond it; draws that far off are shown to fail.
    """
    model, prefix, draws = (
        Known(TokenTable((b"a", b"b", b"ab", b"ab", b"", None), (5,)), 4, 8),
        b"ab",
        40_000,
    )
    brute = Brute(model, prefix)
    truth, goal = brute.strings(), goal_of(model, prefix)
    generator, found = torch.Generator().manual_seed(SEED), []
    for _ in range(10):
        conditioned = condition(model, prefix, "exact")
        found += [
            made.tokens for made in Decoding(conditioned, new_keys(draws // 10, generator)).run()
        ]
    assert chi_square(found, truth) < ONE_IN_A_MILLION, f"seed {SEED}"
    strings = list(truth)
    p = np.array([truth[s] for s in strings])
    exact, rng = brute.leaves(), np.random.default_rng(SEED)
    for proposal in (naive_mask, position_table):
        made = leaves(proposal(model, prefix), goal)
        ratio = {leaf: made.get(leaf, 0.0) / share for leaf, share in exact.items()}
        q = p * [next(r for leaf, r in ratio.items() if s[: len(leaf)] == leaf) for s in strings]
        assert abs(q.sum() - sum(made.values())) < 1e-9
        q /= q.sum()  # what is left of its strings, dead ends apart
        share = math.sqrt(7.5e-3 / ((q - p) ** 2 / p).sum())
        assert share < 0.7
        slightly = p + share * (q - p)
        for wrong in (q, slightly):
            drawn = [strings[i] for i in rng.choice(len(strings), size=draws, p=wrong)]
            assert chi_square(drawn, truth) > ONE_IN_A_MILLION, f"seed {SEED}, {proposal.__name__}"


@pytest.mark.parametrize("kind", ["plain", "silent", "bytes"])
def test_a_text_continues_with_a_byte_or_ends(kind: str) -> None:
    checked = 0
    for number in range(12):
        case = random_case(number, most=60, **KINDS[kind])
        next_bytes = sorted({byte for text in case.model.table.texts for byte in text or b""})
        for prefix in (case.prefix, case.prefix[:-1], case.prefix[:1], b""):
            onward = [mass(case.model, prefix + bytes([byte])) for byte in next_bytes]
            ending = mass(case.model, prefix, whole=True)
            assert abs(ending - Brute(case.model, prefix, whole=True).mass()) < 1e-12, (
                case.description
            )
            assert abs(mass(case.model, prefix) - sum(onward) - ending) < 1e-12, (
                case.description,
                prefix,
            )
            checked += len([z for z in (*onward, ending) if z > 0]) > 1
    assert checked > 20


@pytest.mark.parametrize("kind", KINDS)
def test_exact_mode_is_one_forward_pass_over_the_histories(kind: str) -> None:
    for number in range(10):
        case = random_case(number, **KINDS[kind])
        counted = Counted(case.model)
        found = condition(counted, case.prefix, "exact")
        size = len(case.brute.histories())
        assert counted.passes == [size], case.description
        assert count(goal_of(case.model, case.prefix), 10**6) == size
        assert (found.summary.calls, found.summary.positions, found.summary.histories) == (
            1,
            size,
            size,
        )
        made = Decoding(found, new_keys(20, torch.Generator().manual_seed(SEED))).run()
        longest = max(len(string.tokens) for string in made)
        assert 1 <= len(counted.passes) <= longest, case.description
        assert max(counted.passes[1:], default=0) <= 20
        assert all(string.calls <= len(string.tokens) for string in made)


@pytest.mark.slow
def test_the_baselines_fail_where_the_exact_proposal_passes() -> None:
    """Shares of cases beyond a total variation of 0.05, over thousands of drawn cases.

    0.8 (position table) to 1.0.
    """
    apart: dict[str, list[float]] = {proposal.__name__: [] for proposal in PROPOSALS}
    for number in range(60):
        case = random_case(number, fewest=12, limit=12)
        goal, truth = goal_of(case.model, case.prefix), case.brute.leaves()
        assert abs(sum(truth.values()) - 1) < 1e-12
        assert total_variation(leaves(condition(case.model, case.prefix), goal), truth) <= 1e-9, (
            case.description
        )
        for proposal in PROPOSALS:
            made = leaves(proposal(case.model, case.prefix), goal)
            assert sum(made.values()) < 1 + 1e-9
            apart[proposal.__name__].append(total_variation(made, truth))
    for name, values in apart.items():
        print(f"{name}: {min(values):.3f} to {max(values):.3f}, median {sorted(values)[30]:.3f}")
        assert sum(value > 0.05 for value in values) > 30, (SEED, name, values)
        assert max(values) <= 1 + 1e-9


def test_a_table_by_position_is_exact_for_a_model_without_memory() -> None:
    """The control: the check above is about histories, and what is wrong with the position table
    is that it has none."""
    masked = []
    for number in range(20):
        case = random_case(number, fewest=12, model=Placed, limit=40)
        goal, truth = goal_of(case.model, case.prefix), case.brute.leaves()
        assert (
            total_variation(leaves(position_table(case.model, case.prefix), goal), truth) <= 1e-9
        ), case.description
        masked.append(total_variation(leaves(naive_mask(case.model, case.prefix), goal), truth))
    assert sum(value > 0.05 for value in masked) > 10, SEED


def test_silent_tokens_are_a_geometric_series_to_the_position_table() -> None:
    rows = {(): {0: 0.2, 1: 0.3, 2: 0.5}, (0,): {0: 0.5, 1: 0.5}}
    model = Given((b"a", b"b", b""), rows, limit=30)
    for n in range(1, 30):
        model.given[(2,) * n] = rows[()]  # type: ignore[index]
        model.given[(*(2,) * n, 0)] = rows[(0,)]  # type: ignore[index]
    table = position_table(model, b"aa")
    assert table.log_weight.exp().tolist() == pytest.approx([0.2 / 0.5 * 0.5, 0.5, 1.0])
    assert table.log_q([()])[0].exp().tolist() == pytest.approx(
        [0.5, 0.0, 0.5, 0.0]
    )  # 0.2 * 0.5 and 0.5 * 0.2


@pytest.mark.slow
def test_rejection_draws_from_the_same_distribution() -> None:
    checked = 0
    for number in itertools.count():
        case = random_case(number, limit=4, silent=number % 2 == 0, special=number % 3 == 0)
        z = case.brute.mass()
        if z < 0.05:
            continue
        counted, generator = Counted(case.model), torch.Generator().manual_seed(SEED + number)
        made = reject(counted, case.prefix, 4000, 10**6, generator)
        assert len(made.completions) == 4000
        assert all(
            string.data.startswith(case.prefix) and string.ended for string in made.completions
        )
        assert (
            chi_square([string.tokens for string in made.completions], case.brute.strings())
            < ONE_IN_A_MILLION
        ), case.description
        assert abs(made.draws * z / 4000 - 1) < 6 * math.sqrt((1 - z) / 4000), case.description
        assert (made.calls, made.positions) == (len(counted.passes), sum(counted.passes))
        log_p = [
            sum(case.model.log_next(s.tokens[:n])[t] for n, t in enumerate(s.tokens))
            for s in made.completions[:20]
        ]
        assert [string.log_p for string in made.completions[:20]] == pytest.approx(log_p)
        checked += 1
        if checked == 5:
            break
    few = reject(case.model, case.prefix, 4000, 100, generator)
    assert few.draws == 100
    assert len(few.completions) < 100


def test_rejection_leaves_a_string_where_it_contradicts() -> None:
    model = Given(
        (b"a", b"b"),
        {(): {0: 0.5, 1: 0.5}, (0,): {0: 1.0}, (0, 0): {0: 1.0}, (1,): {1: 1.0}, (1, 1): {1: 1.0}},
    )
    counted = Counted(model)
    made = reject(counted, b"a", 10**6, 1000, torch.Generator().manual_seed(SEED))
    assert (
        counted.passes == [1] + [len(made.completions)] * 3
    )  # those that begin with b are not gone on with
    assert 350 < len(made.completions) < 650


def test_baselines_by_hand() -> None:
    rows: dict[History, dict[int, float]] = {
        (): {0: 0.4, 2: 0.1, 3: 0.5},
        (0,): {0: 0.7, 1: 0.2, 4: 0.1},
        (0, 1): {3: 1.0},
        (2,): {1: 0.25, 3: 0.75},
    }
    texts = (b"a", b"b", b"ab", b"c", b"bc")
    goal = goal_of(model := Given(texts, rows), b"abc")
    z = 0.4 * 0.2 * 1.0 + 0.4 * 0.1 + 0.1 * 0.75
    truth = {(0, 1, 3): 0.08 / z, (0, 4): 0.04 / z, (2, 3): 0.075 / z}
    assert total_variation(leaves(condition(model, b"abc"), goal), truth) < 1e-12
    naive = {(0, 1, 3): 0.8 * 2 / 3, (0, 4): 0.8 / 3, (2, 3): 0.2}
    assert total_variation(leaves(naive_mask(model, b"abc"), goal), naive) < 1e-12
    assert leaves(as_they_fall(model, b"abc"), goal) == {(2, 3): 1.0}
    assert leaves(token_healing(model, b"abc"), goal) == {(2, 3): 1.0}
    one = leaves(
        token_healing(model, b"a"), goal_of(model, b"a")
    )  # of one token, which is taken back
    assert one == pytest.approx({(0,): 0.8, (2,): 0.2})
    table = position_table(model, b"abc")  # `ab` explains two bytes and is likelier than `a`, `b`
    assert table.log_weight.exp().tolist() == pytest.approx(
        [0.4 * 0.25 + 0.1 * 0.75, 0.2 * 0.75 + 0.1, 0.75, 1.0]
    )
    by_place = {(0, 1, 3): 4 / 7 * 0.6, (0, 4): 4 / 7 * 0.4, (2, 3): 3 / 7}
    assert total_variation(leaves(table, goal), by_place) < 1e-12


def test_a_cut_without_continuation_loses_all_mass() -> None:
    model = Given((b"a", b"ab", b"bc"), {(): {0: 0.5, 1: 0.5}, (0,): {2: 1.0}})
    goal = goal_of(model, b"abc")
    truth = leaves(condition(model, b"abc"), goal)
    assert truth == pytest.approx({(0, 2): 1.0})
    for proposal in (as_they_fall, token_healing):  # the longest token is ab, and nothing is c
        assert leaves(proposal(model, b"abc"), goal) == {}
        assert total_variation({}, truth) == pytest.approx(1.0)
    made = leaves(naive_mask(model, b"abc"), goal)  # ab is a dead end, half the time
    assert made == pytest.approx({(0, 2): 0.5})
    assert total_variation(made, truth) == pytest.approx(0.5)


def test_baselines_take_one_prefix() -> None:
    table = TokenTable((b"a", b"b"))
    two = Many(table, LatentStates(torch.tensor([0.5, 0.5]).log(), (2, 3), closed=True), 0)
    for proposal in PROPOSALS:
        with pytest.raises(ValueError, match="one latent state"):
            proposal(two, b"a")
    with pytest.raises(ValueError, match="one latent state"):
        reject(two, b"a", 1, 1, torch.Generator())


def test_silent_tokens_without_end_are_too_many_for_exact_mode() -> None:
    table = TokenTable((b"a", b"b", b"", None), (3,))
    with pytest.raises(ConfigError, match="beam") as caught:
        condition(TableModel(table, 100, 0), b"abab", "exact")
    assert "\n" not in str(caught.value)
    short = TableModel(table, 6, 0)
    assert (
        abs(
            condition(short, b"abab", "exact").summary.log_z
            - math.log(Brute(short, b"abab").mass())
        )
        < 1e-10
    )


def test_a_special_token_never_explains_text() -> None:
    """Token 3 is called <a>, and its text is none.

    It may not stand for the three characters, and may follow them.
    """
    model = Known(TokenTable((b"<", b"a", b">", None, None), (4,)), 6, SEED % 1000)
    found = condition(model, b"<a>", "exact")
    assert found.summary.histories == 3
    q = found.log_q([0, 1, 2]).exp()
    assert q[:, 3].tolist() == [0.0] * 3
    assert q.sum(1).tolist() == pytest.approx([1.0] * 3)
    assert math.exp(found.summary.log_z) == pytest.approx(Brute(model, b"<a>").mass())
    made = Decoding(found, new_keys(300, torch.Generator().manual_seed(SEED))).run()
    assert any(3 in string.tokens for string in made)
    assert all(string.tokens[:3] == (0, 1, 2) and string.data.startswith(b"<a>") for string in made)


def test_a_prefix_may_end_inside_a_character() -> None:
    rows = {(): {0: 0.5, 1: 0.2, 2: 0.1, 3: 0.2}, (2,): {3: 0.5, 4: 0.5}}
    model = Given(("é".encode(), "è!".encode(), b"\xc3", b"x", b"\xa9"), rows)
    found = condition(model, b"\xc3", "exact")
    assert found.log_q([0])[0].exp().tolist() == pytest.approx(
        [0.5 / 0.8, 0.2 / 0.8, 0.1 / 0.8, 0, 0, 0]
    )
    whole = condition(model, "é".encode(), "exact")  # by the token, or by its two bytes
    assert whole.log_q([0])[0].exp().tolist() == pytest.approx(
        [0.5 / 0.55, 0, 0.05 / 0.55, 0, 0, 0]
    )
    for made in Decoding(found, new_keys(50, torch.Generator().manual_seed(SEED))).run():
        assert made.data.startswith(b"\xc3")


@pytest.mark.slow
def test_a_string_may_end_just_where_the_prefix_does() -> None:
    model = Given((b"a", b"b"), {(): {0: 0.5, 2: 0.5}, (0,): {0: 0.25, 2: 0.75}})
    found = condition(model, b"a", "exact")
    assert math.exp(found.summary.log_z) == pytest.approx(0.5)  # the empty string is none of these
    made = [
        string.data
        for string in Decoding(found, new_keys(4000, torch.Generator().manual_seed(SEED))).run()
    ]
    assert chi_square(made, {b"a": 0.75, b"aa": 0.25}) < ONE_IN_A_MILLION, SEED
    assert math.exp(condition(model, b"a", whole=True).summary.log_z) == pytest.approx(0.375)


def test_the_probability_of_forced_tokens_weighs_the_histories() -> None:
    """Whichever token is first, one token alone can follow.

    How likely it is there decides between the first ones.
    """
    rows = {
        (): {0: 0.5, 1: 0.4, 4: 0.1},
        (0,): {2: 0.01, 0: 0.99},
        (0, 2): {3: 1.0},
        (1,): {3: 0.02, 0: 0.98},
    }
    model = Given((b"a", b"ab", b"b", b"c"), rows)
    found = condition(model, b"abc", "exact")
    assert math.exp(found.summary.log_z) == pytest.approx(0.5 * 0.01 + 0.4 * 0.02)
    q = found.log_q([0])[0].exp().tolist()
    assert q[:2] == pytest.approx([5 / 13, 8 / 13])  # and not 5 / 9, 4 / 9 as without that
    naive = naive_mask(model, b"abc").log_q([()])[0].exp().tolist()
    assert naive[:2] == pytest.approx([5 / 9, 4 / 9])


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        (b"abc", "after byte 2"),
        (b"cab", "after byte 0"),
        (b"abab\nab", "after byte 4"),
        (b"b\xff", "after byte 1"),
    ],
)
def test_an_impossible_prefix_names_the_place(prefix: bytes, message: str) -> None:
    model = Known(TokenTable((b"a", b"b", b"ab", None), (3,)), 12, 0)
    for mode in ("auto", "exact", "beam"):
        with pytest.raises(CanvasError, match=message) as caught:
            condition(model, prefix, mode)
        assert "\n" not in str(caught.value)


def test_a_prefix_longer_than_the_limit_allows() -> None:
    model = Known(
        TokenTable((b"a", b"aa", None), (2,)), 4, 0
    )  # three tokens, and the one that ends the string
    assert condition(model, b"a" * 6, "exact").summary.histories > 1
    for mode in ("auto", "exact", "beam"):
        with pytest.raises(CanvasError) as caught:
            condition(model, b"a" * 7, mode)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_an_empty_prefix_leaves_plain_samples() -> None:
    table = random_table(np.random.default_rng(SEED), b"ab", 2, silent=True, special=True)
    counted = Counted(model := Known(table, 3, SEED))
    found = condition(counted, b"")
    assert (found.summary.log_z, found.summary.dropped, found.summary.histories) == (0.0, 0.0, 0)
    assert counted.passes == []
    made = Decoding(found, new_keys(8000, torch.Generator().manual_seed(SEED))).run()
    truth = {s: math.exp(log_p) for s, log_p in model.strings()}
    assert chi_square([string.tokens for string in made], truth) < ONE_IN_A_MILLION, SEED
    assert leaves(found, goal_of(model, b"")) == {(): 1.0}
