"""What the modes that leave out histories promise, how strings are drawn, and models that begin in several ways."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch

from maskdiff.decoding.condition import Conditioned, condition
from maskdiff.decoding.decode import Decoding
from maskdiff.decoding.histories import Goal
from maskdiff.drawing.random import new_keys
from maskdiff.drawing.settings import Draw
from maskdiff.errors import CanvasError, ConfigError
from maskdiff.evaluation.completion_baselines import (
    leaves,
    position_table,
    reject,
    token_healing,
    total_variation,
)
from maskdiff.models.continuation import ROOT, LatentStates
from maskdiff.models.table_model import TableModel
from maskdiff.models.token_table import TokenTable
from tests.helpers.completion import (
    ONE_IN_A_MILLION,
    SEED,
    Brute,
    Case,
    Counted,
    Given,
    History,
    Known,
    Many,
    Pieces,
    begins,
    chi_square,
    random_case,
    random_table,
)
from tests.helpers.fuzz import both_seeds, cases

TINY = 1e-9


def keys(count: int) -> torch.Tensor:
    return new_keys(count, torch.Generator().manual_seed(SEED))


def check_bound(found: Conditioned, case: Case) -> float:
    """What is left out is at most `dropped`, and the first draws are off by no more; returns the share that is missing."""
    z, truth = case.brute.mass(), case.brute.leaves()
    lower, dropped = found.summary.log_z, found.summary.dropped
    missing = 1 - math.exp(lower) / z
    assert lower <= math.log(z) + TINY, case.told
    assert math.log(z) <= lower - math.log1p(-dropped) + TINY, (
        case.told
    )  # Z / (1 - dropped) = Z + what was dropped
    assert missing <= dropped + TINY, case.told
    made = leaves(found, found.goal)
    assert abs(total_variation(made, truth) - missing) < TINY, (
        case.told
    )  # kept leaves keep their weights to each other
    first = [{leaf[:1]: 0.0 for leaf in truth} for _ in range(2)]
    for shares, one in zip(first, (made, truth), strict=True):
        for leaf, p in one.items():
            shares[leaf[:1]] += p
    assert total_variation(*first) <= dropped + TINY, case.told
    return missing


@pytest.mark.parametrize("silent", [False, True])
def test_a_narrow_beam_bounds_what_it_leaves_out(silent: bool) -> None:
    left_out, wide = 0, 0
    for number in range(40):
        case = random_case(number, fewest=15, silent=silent, special=number % 2 == 0)
        for beam in (1, 2, 5):
            try:
                found = condition(case.model, case.prefix, "beam", beam=beam)
            except CanvasError:  # all that it kept were dead ends, see `lost`
                continue
            assert found.summary.mode == "beam"
            missing = check_bound(found, case)
            left_out += missing > 1e-6
            wide += 0 < missing < found.summary.dropped / 1.5
    assert left_out > 20, SEED
    assert wide > 5, SEED


def test_a_wide_beam_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """With histories enough at every byte nothing is left out, whether they are read together or byte after byte."""
    for head, fewest in ((8, 2), (1, 8)):
        monkeypatch.setattr(
            import_module("maskdiff.decoding.condition"), "HEAD", head
        )  # the package has a function there
        for number in range(15):
            case = random_case(number, fewest=fewest)
            offsets = [len(case.model.table.text(history)) for history in case.brute.histories()]
            widest = max(offsets.count(offset) for offset in offsets)
            found = condition(case.model, case.prefix, "beam", beam=widest)
            assert found.summary.calls > 1 or head > 1 or widest == len(offsets), case.told
            assert found.summary.dropped == 0
            assert found.summary.histories == len(offsets)
            assert abs(found.summary.log_z - math.log(case.brute.mass())) < 1e-10, case.told
            q = found.log_q(list(range(len(found.histories)))).exp().numpy()
            for node in range(len(found.histories)):
                path = tuple(found.histories.path(node))
                if case.brute.mass(path) > 0:
                    assert np.abs(q[node] - case.brute.q(path)).max() < 1e-10, (case.told, path)


def test_silent_tokens_are_what_a_wide_beam_leaves_out() -> None:
    """By hand: p(silent) = 0.2 at first, all of which would have gone on to the prefix with probability 0.5."""
    rows = {(): {0: 0.7, 2: 0.2, 3: 0.1}, (2,): {0: 0.5, 1: 0.5}}
    model = Given((b"a", b"b", b""), rows)
    found = condition(model, b"a", "beam", beam=100)
    assert math.exp(found.summary.log_z) == pytest.approx(0.7)
    assert found.summary.dropped == pytest.approx(0.2 / 0.9)
    assert math.exp(condition(model, b"a", "exact").summary.log_z) == pytest.approx(0.8)
    long = Known(
        TokenTable((b"a", b"b", b"", None), (3,)), 200, SEED
    )  # too many for exact mode, so auto is beam
    assert condition(long, b"abba").summary.mode == "beam"
    assert 0 < condition(long, b"abba").summary.dropped < 1


def lost(kind: str) -> tuple[TableModel, bytes, dict[str, int]]:
    """A possible prefix, of which the mode keeps no history that can still reach it."""
    if kind == "canonical":
        model = Pieces(["ab"] * 9 + ["ba"], 1, 5, 0)
        assert model.encode([b"ab"]) == [[model.vocabulary.ids["ab"]]]
        row = np.full(len(model.table), -math.inf)
        row[model.vocabulary.ids["a"]] = 0.0
        model._rows[()] = row  # never `ab` in one piece, which is how the tokenizer cuts it
        return model, b"ab", {}
    # four tokens fit before the end; the likeliest histories are the slowest ones, and none of them arrives
    rows: dict[History, dict[int, float]] = {}
    for size in range(7):
        for cut in range(2**size):
            rows[tuple(cut >> i & 1 for i in range(size))] = (
                {0: 0.9, 1: 0.1} if size < 4 else {2: 1.0}
            )
    return Given((b"a", b"aa"), rows, limit=5), b"a" * 8, {"beam": 1}


@pytest.mark.parametrize("mode", ["beam", "canonical"])
def test_a_mode_that_lost_every_way_does_not_say_there_is_none(mode: str) -> None:
    model, prefix, settings = lost(mode)
    assert condition(model, prefix, "exact").summary.log_z > -math.inf
    with pytest.raises((CanvasError, ConfigError)) as caught:
        condition(model, prefix, mode, **settings)
    assert "no string of" not in str(caught.value), str(caught.value)
    assert "exact" in str(caught.value) or "beam" in str(caught.value)


def canonical_cases(count: int) -> Iterator[tuple[Case, Brute]]:
    """Prefixes of strings over the pieces of small tokenizers, some of which end inside a character."""
    rng, made = np.random.default_rng([SEED, 77]), 0
    while made < count:
        texts = ["".join(rng.choice(list("ab(é"), size=rng.integers(2, 9))) for _ in range(30)]
        silent = made % 2 == 1
        limit = int(rng.integers(4, 6 if silent else 8))
        model = Pieces(texts, int(rng.integers(3, 9)), limit, int(rng.integers(2**31)), silent)
        prefix = texts[0].encode()[: rng.integers(1, 7)]
        if made % 4 == 0:  # ends inside the character
            prefix = (texts[0][: rng.integers(3)] + "é").encode()[:-1]
        case = Case(
            model,
            prefix,
            f"seed {SEED}, prefix {prefix!r}, {model.vocabulary.symbols[4:]}, limit {model.limit}",
        )
        brute = Canonical(model, prefix)
        if case.brute.mass() > 0 and brute.mass() > 0:
            made += 1
            yield case, brute


class Canonical(Brute):
    """Brute force over the histories that the tokenizer would write."""

    def _mass(self, history: History) -> float:
        if history and history[-1] in self.model.table.ends:
            return 0.0
        if self.model.encode([self.model.table.text(history)]) != [list(history)]:  # type: ignore[attr-defined]
            return 0.0
        return super()._mass(history)

    def histories(self) -> list[History]:
        found = super().histories()
        texts = [self.model.table.text(history) for history in found]
        return [h for h, cut in zip(found, self.model.encode(texts), strict=True) if cut == list(h)]  # type: ignore[attr-defined]


def test_canonical_mode_keeps_what_the_tokenizer_would_write() -> None:
    left_out = inside = 0
    for case, brute in canonical_cases(40):
        found = condition(case.model, case.prefix, "canonical")
        paths = [tuple(found.histories.path(node)) for node in range(len(found.histories))]
        assert sorted(paths) == sorted(brute.histories()), case.told
        assert found.summary.calls == 1
        assert abs(found.summary.log_z - math.log(brute.mass())) < 1e-10, case.told
        q = found.log_q(list(range(len(found.histories)))).exp().numpy()
        for node, path in enumerate(paths):
            if brute.mass(path) > 0:
                assert np.abs(q[node] - brute.q(path)).max() < 1e-10, case.told
        missing = check_bound(found, case)
        left_out += missing > 1e-6
        inside += case.prefix.decode(errors="ignore").encode() != case.prefix
    assert left_out > 5, SEED
    assert inside >= 10, SEED


def test_baselines_take_the_tokenizers_cut() -> None:
    for case, _ in canonical_cases(10):
        cut = case.model.encode([case.prefix])[0]  # type: ignore[attr-defined]
        healing = token_healing(case.model, case.prefix)
        if cut is not None:
            assert healing.forced == tuple(cut[:-1])
            assert healing.heal == case.model.table.texts[cut[-1]]
        made = leaves(position_table(case.model, case.prefix), healing.goal)
        assert total_variation(made, case.brute.leaves()) <= 1 + TINY


def test_auto_is_exact_up_to_the_budget() -> None:
    for number in range(10):
        case = random_case(number)
        size = len(case.brute.histories())
        assert condition(case.model, case.prefix, budget=size).summary.mode == "exact"
        assert (
            condition(case.model, case.prefix, budget=size, mode="exact").summary.histories == size
        )
        with pytest.raises(ConfigError, match=r"beam .*canonical") as caught:
            condition(case.model, case.prefix, "exact", budget=size - 1)
        assert "\n" not in str(caught.value)
        try:
            assert (
                condition(case.model, case.prefix, budget=size - 1, beam=size).summary.mode
                == "beam"
            ), case.told
        except CanvasError:
            assert case.model.table.silent


def test_modes_are_told_apart_by_name() -> None:
    model = Known(TokenTable((b"a", b"b", None), (2,)), 5, 0)
    for given, told in (
        ("exakt", "exact"),
        ("Beam", "beam"),
        ("cannonical", "canonical"),
        ("", ""),
    ):
        with pytest.raises(ConfigError, match=f"did you mean {told}"):
            condition(model, b"a", given)
    with pytest.raises(ConfigError, match=r"tokenizer.*beam"):
        condition(model, b"a", "canonical")


def test_a_string_depends_on_its_key_alone() -> None:
    different = 0
    for number in range(4):
        case = random_case(number, silent=number % 2 == 0, special=number % 3 == 0)
        for temperature, top_p in ((1.0, 1.0), (0.7, 0.9)):
            together = Decoding(
                condition(case.model, case.prefix), keys(24), draw=Draw(temperature, top_p)
            ).run()
            again = Decoding(
                condition(case.model, case.prefix), keys(24), draw=Draw(temperature, top_p)
            ).run()
            assert together == again, case.told
            shared = condition(case.model, case.prefix)  # and strings of one tree after one another
            for i, key in enumerate(keys(24)):
                alone = Decoding(
                    condition(case.model, case.prefix), key[None], draw=Draw(temperature, top_p)
                ).run()
                assert alone == [together[i]], case.told
                assert Decoding(shared, key[None], draw=Draw(temperature, top_p)).run() == alone, (
                    case.told
                )
            assert all(made.data.startswith(case.prefix) for made in together), case.told
            assert all(
                begins(case.model.table, made.tokens, case.prefix) and made.ended
                for made in together
            ), case.told
            for made in together[:5]:
                log_p = sum(
                    case.model.log_next(made.tokens[:n])[token]
                    for n, token in enumerate(made.tokens)
                )
                assert made.log_p == pytest.approx(log_p)
                assert made.data == case.model.table.text(made.tokens)
            different += len({made.tokens for made in together}) > 1
    assert different > 0, SEED


def test_temperature_zero_is_the_likeliest_token_of_q() -> None:
    otherwise = 0
    for number in range(25):
        case = random_case(number, silent=number % 2 == 0)
        wanted: History = ()
        while not wanted or wanted[-1] not in case.model.table.ends:
            covered = case.model.table.text(wanted).startswith(case.prefix)
            row = case.model.log_next(wanted) if covered else case.brute.q(wanted)
            otherwise += row.argmax() != case.model.log_next(wanted).argmax()
            wanted = (*wanted, int(row.argmax()))
        for temperature, top_p in ((0.0, 1.0), (1.0, 1e-9)):
            made = Decoding(
                condition(case.model, case.prefix), keys(3), draw=Draw(temperature, top_p)
            ).run()
            assert [string.tokens for string in made] == [wanted] * 3, case.told
    assert otherwise > 5, SEED


def test_temperature_acts_on_q_and_not_on_p() -> None:
    """p(a) p(b | a) = p(ab) = 0.3, so that q is 1/2 at every temperature; p sharpened first would choose `a` in 72 of 100."""
    model = Given(
        (b"a", b"b", b"ab"), {(): {0: 0.6, 2: 0.3, 3: 0.1}, (0,): {1: 0.5, 0: 0.2, 3: 0.3}}
    )
    for temperature in (0.5, 1.0, 2.0):
        made = Decoding(condition(model, b"ab"), keys(4000), draw=Draw(temperature)).run()
        assert abs(sum(string.tokens[0] == 0 for string in made) / 4000 - 0.5) < 0.045, (
            SEED,
            temperature,
        )
    uneven = Given(
        (b"a", b"b", b"ab"), {(): {0: 0.4, 2: 0.6}, (0,): {1: 0.75, 0: 0.25}}
    )  # q: 1/3 and 2/3; squared 1/5 and 4/5
    made = Decoding(condition(uneven, b"ab"), keys(4000), draw=Draw(0.5)).run()
    assert abs(sum(string.tokens[0] == 0 for string in made) / 4000 - 0.2) < 0.035, SEED


def test_strings_can_be_watched() -> None:
    case = random_case(1)
    told: dict[int, list[bytes]] = {i: [] for i in range(10)}
    made = Decoding(condition(case.model, case.prefix), keys(10)).run(
        lambda i, data: told[i].append(data)
    )
    for i, string in enumerate(made):
        assert b"".join(told[i]) == string.data
        assert told[i][0].startswith(case.prefix)
        assert all(told[i])


def test_a_string_at_its_limit_is_cut() -> None:
    """Strings that are not closed at the limit have not ended, and those that do not get to the prefix until then never do."""
    model = Many(
        TokenTable((b"a", b"b")), LatentStates(torch.zeros(1, dtype=torch.float64), (3,)), SEED
    )
    found = condition(model, b"ab", "exact")
    p = sum(
        math.exp(log_p) for tokens, log_p in model.strings(0) if begins(model.table, tokens, b"ab")
    )
    assert math.exp(found.summary.log_z) == pytest.approx(p)
    for made in Decoding(found, keys(20)).run():
        assert (made.ended, len(made.tokens)) == (False, 3)
        assert made.data.startswith(b"ab")
    with pytest.raises(CanvasError):
        condition(model, b"ab", "exact", whole=True)


def many(number: int) -> tuple[Many, bytes, str]:
    """Three to five latent states of closed strings, with and without something behind their last token."""
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
    """p of every string that begins with the prefix (or is it), by its latent state and its tokens."""
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
    model, prefix, told = many(number)
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
    assert math.exp(found.summary.log_z) == pytest.approx(sum(shares), abs=1e-10), told
    assert found.log_root.exp().tolist() == pytest.approx(shares, abs=1e-10), told
    for node in range(len(found.histories)):
        latent, path = found.histories.latent[node], tuple(found.histories.path(node))
        q = np.zeros(len(model.table))
        for (b, tokens), p in truth.items():
            if b == latent and tokens[: len(path)] == path:
                q[tokens[len(path)]] += p
        if q.sum() > 0:
            assert np.abs(found.log_q([node])[0].exp().numpy() - q / q.sum()).max() < 1e-10, (
                told,
                latent,
                path,
            )
    return True


@both_seeds
def test_what_costly_models_leave_out_is_negligible(seed: int) -> None:
    """The likeliest histories first give Z and q of all of them, and say how much they left out; so
    does a floor of a beam."""
    fewer = bounded = 0
    for rng in cases(150, seed, 2.0):
        model, prefix, told = many(rng.randrange(10**6))
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
                assert -1e-12 < lost <= most + 1e-12, told
                assert mode == "beam" or found.summary.dropped <= negligible, told
                bounded += lost > 1e-9
                fewer += len(found.histories) < len(truth.histories)
                if negligible == 1e-12 and mode == "exact":
                    assert found.log_root.exp().tolist() == pytest.approx(
                        truth.log_root.exp().tolist(), abs=1e-10
                    ), told
                    for node in range(len(found.histories)):
                        root, path = found.histories.latent[node], found.histories.path(node)
                        same = truth.histories.child[ROOT, root]
                        for token in path:
                            same = truth.histories.child[same, token]
                        own, other = (
                            x.log_q([i])[0].exp() for x, i in ((found, node), (truth, same))
                        )
                        assert torch.allclose(own, other, atol=1e-7) or found.log_z[node] < -20, (
                            told
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


def test_several_beginnings_are_weighed_by_what_they_lead_to() -> None:
    assert sum(check_many(number, whole=False) for number in range(80)) > 30, SEED


def test_whole_texts_of_several_beginnings() -> None:
    assert sum(check_many(number, whole=True) for number in range(80)) > 8, SEED


def test_a_tail_covers_what_the_tokens_leave_open() -> None:
    """By hand: `a`, and the tail `bc`; or two tokens and no tail. A silent last token lets the tail stand as well."""
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


def test_strings_of_several_beginnings_are_drawn_as_they_should() -> None:
    checked = 0
    for number in range(200, 260):
        model, prefix, told = many(number)
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
        assert chi_square(drawn, {x: p / total for x, p in truth.items()}) < ONE_IN_A_MILLION, told
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


def test_rejection_knows_what_stands_behind_the_last_token() -> None:
    checked = 0
    for number in range(400, 500):
        several, prefix, told = many(number)
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
        ), told
        for string in made:
            assert (
                string.data
                == model.table.text(string.tokens) + model.latent_states.tail(0) + own.suffix
            )
        goal = Goal(model.table, model.latent_states, prefix)
        assert sum(leaves(condition(model, prefix, "exact"), goal).values()) == pytest.approx(
            1.0
        ), told
    assert checked == 6, SEED


def test_a_beam_over_several_beginnings_bounds_what_it_leaves_out() -> None:
    left_out = 0
    for number in range(300, 340):
        model, prefix, told = many(number)
        z = sum(truth_of(model, prefix, False).values())
        try:
            summary = condition(model, prefix, "beam", beam=1).summary
        except CanvasError:
            continue
        assert summary.log_z <= math.log(z) + TINY, told
        assert math.log(z) <= summary.log_z - math.log1p(-summary.dropped) + TINY, told
        left_out += summary.dropped > 0
    assert left_out > 0, SEED


def test_goals_are_told_apart_by_the_last_token() -> None:
    """The tokens that cover depend on whether one is left: only then does what stands behind it count."""
    table = TokenTable((b"a", b"b"))
    goal = Goal(
        table, LatentStates(torch.zeros(1, dtype=torch.float64), (2,), True, (b"b",)), b"aab"
    )
    assert goal.covers(goal.key(1, 1, 0)) == [0]
    assert goal.covers(goal.key(1, 0, 0)) == []
