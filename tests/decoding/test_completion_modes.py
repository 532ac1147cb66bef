"""The modes that leave out histories, and how strings are drawn, against enumeration."""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib import import_module

import numpy as np
import pytest
import torch

from maskdiff.decoding.completion import Decoding
from maskdiff.decoding.condition import Conditioned, condition
from maskdiff.drawing.random import new_keys
from maskdiff.drawing.settings import Draw
from maskdiff.errors import CanvasError, ConfigError
from maskdiff.evaluation.completion_baselines import (
    leaves,
    position_table,
    token_healing,
    total_variation,
)
from maskdiff.models.continuation import LatentStates
from maskdiff.models.table_model import TableModel
from maskdiff.models.token_table import TokenTable
from tests.helpers.completion import (
    SEED,
    Brute,
    Case,
    Given,
    History,
    Known,
    Many,
    Pieces,
    begins,
    random_case,
)

TINY = 1e-9


def keys(count: int) -> torch.Tensor:
    return new_keys(count, torch.Generator().manual_seed(SEED))


def check_bound(found: Conditioned, case: Case) -> float:
    """The mass left out is at most `dropped`, which also bounds the error of the first draws.

    Returns the share that is missing.
    """
    z, truth = case.brute.mass(), case.brute.leaves()
    lower, dropped = found.summary.log_z, found.summary.dropped
    missing = 1 - math.exp(lower) / z
    assert lower <= math.log(z) + TINY, case.description
    assert math.log(z) <= lower - math.log1p(-dropped) + TINY, (
        case.description
    )  # Z / (1 - dropped) = Z + what was dropped
    assert missing <= dropped + TINY, case.description
    made = leaves(found, found.goal)
    assert abs(total_variation(made, truth) - missing) < TINY, (
        case.description
    )  # kept leaves keep their weights to each other
    first = [{leaf[:1]: 0.0 for leaf in truth} for _ in range(2)]
    for shares, one in zip(first, (made, truth), strict=True):
        for leaf, p in one.items():
            shares[leaf[:1]] += p
    assert total_variation(*first) <= dropped + TINY, case.description
    return missing


@pytest.mark.slow
@pytest.mark.parametrize("silent", [False, True])
def test_a_narrow_beam_bounds_the_mass_that_it_leaves_out(silent: bool) -> None:
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
    """With histories enough at every byte nothing is left out, whether they are read together or
    byte after byte."""
    for head, fewest in ((8, 2), (1, 8)):
        monkeypatch.setattr(
            import_module("maskdiff.decoding.condition"), "HEAD", head
        )  # the package has a function there
        for number in range(15):
            case = random_case(number, fewest=fewest)
            offsets = [len(case.model.table.text(history)) for history in case.brute.histories()]
            widest = max(offsets.count(offset) for offset in offsets)
            found = condition(case.model, case.prefix, "beam", beam=widest)
            assert found.summary.calls > 1 or head > 1 or widest == len(offsets), case.description
            assert found.summary.dropped == 0
            assert found.summary.histories == len(offsets)
            assert abs(found.summary.log_z - math.log(case.brute.mass())) < 1e-10, case.description
            q = found.log_q(list(range(len(found.histories)))).exp().numpy()
            for node in range(len(found.histories)):
                path = tuple(found.histories.path(node))
                if case.brute.mass(path) > 0:
                    assert np.abs(q[node] - case.brute.q(path)).max() < 1e-10, (
                        case.description,
                        path,
                    )


def test_a_wide_beam_leaves_out_only_silent_tokens() -> None:
    """By hand: p(silent) = 0.2 at first, all of which would have gone on to the prefix with
    probability 0.5."""
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
    # four tokens fit before the end; the likeliest histories are the slowest ones, and none of them
    # arrives
    rows: dict[History, dict[int, float]] = {}
    for size in range(7):
        for cut in range(2**size):
            rows[tuple(cut >> i & 1 for i in range(size))] = (
                {0: 0.9, 1: 0.1} if size < 4 else {2: 1.0}
            )
    return Given((b"a", b"aa"), rows, limit=5), b"a" * 8, {"beam": 1}


@pytest.mark.parametrize("mode", ["beam", "canonical"])
def test_a_mode_that_dropped_every_history_does_not_report_an_impossible_prefix(mode: str) -> None:
    model, prefix, settings = lost(mode)
    assert condition(model, prefix, "exact").summary.log_z > -math.inf
    with pytest.raises((CanvasError, ConfigError)) as caught:
        condition(model, prefix, mode, **settings)
    assert "no string of" not in str(caught.value), str(caught.value)
    assert "exact" in str(caught.value) or "beam" in str(caught.value)


def canonical_cases(count: int) -> Iterator[tuple[Case, Brute]]:
    """Prefixes of strings over the pieces of small tokenizers, some of which end inside a
    character."""
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
        text = self.model.table.text(history)
        if self.model.encode([text]) != [list(history)]:  # type: ignore[attr-defined]
            return 0.0
        return super()._mass(history)

    def histories(self) -> list[History]:
        found = super().histories()
        texts = [self.model.table.text(history) for history in found]
        cuts = self.model.encode(texts)  # type: ignore[attr-defined]
        return [h for h, cut in zip(found, cuts, strict=True) if cut == list(h)]


def test_canonical_mode_keeps_canonical_tokenizations() -> None:
    left_out = inside = 0
    for case, brute in canonical_cases(40):
        found = condition(case.model, case.prefix, "canonical")
        paths = [tuple(found.histories.path(node)) for node in range(len(found.histories))]
        assert sorted(paths) == sorted(brute.histories()), case.description
        assert found.summary.calls == 1
        assert abs(found.summary.log_z - math.log(brute.mass())) < 1e-10, case.description
        q = found.log_q(list(range(len(found.histories)))).exp().numpy()
        for node, path in enumerate(paths):
            if brute.mass(path) > 0:
                assert np.abs(q[node] - brute.q(path)).max() < 1e-10, case.description
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
            ), case.description
        except CanvasError:
            assert case.model.table.silent


def test_unknown_modes_name_the_nearest() -> None:
    model = Known(TokenTable((b"a", b"b", None), (2,)), 5, 0)
    for given, nearest in (
        ("exakt", "exact"),
        ("Beam", "beam"),
        ("cannonical", "canonical"),
        ("", ""),
    ):
        with pytest.raises(ConfigError, match=f"did you mean {nearest}"):
            condition(model, b"a", given)
    with pytest.raises(ConfigError, match=r"tokenizer.*beam"):
        condition(model, b"a", "canonical")


@pytest.mark.slow
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
            assert together == again, case.description
            shared = condition(case.model, case.prefix)  # and strings of one tree after one another
            for i, key in enumerate(keys(24)):
                alone = Decoding(
                    condition(case.model, case.prefix), key[None], draw=Draw(temperature, top_p)
                ).run()
                assert alone == [together[i]], case.description
                assert Decoding(shared, key[None], draw=Draw(temperature, top_p)).run() == alone, (
                    case.description
                )
            assert all(made.data.startswith(case.prefix) for made in together), case.description
            assert all(
                begins(case.model.table, made.tokens, case.prefix) and made.ended
                for made in together
            ), case.description
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
            assert [string.tokens for string in made] == [wanted] * 3, case.description
    assert otherwise > 5, SEED


@pytest.mark.slow
def test_temperature_acts_on_q_and_not_on_p() -> None:
    """p(a) p(b | a) = p(ab) = 0.3, so that q is 1/2 at every temperature.

    P sharpened first would choose `a` in 72 of 100.
    """
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


def test_strings_are_streamed() -> None:
    case = random_case(1)
    streamed: dict[int, list[bytes]] = {i: [] for i in range(10)}
    made = Decoding(condition(case.model, case.prefix), keys(10)).run(
        lambda i, data: streamed[i].append(data)
    )
    for i, string in enumerate(made):
        assert b"".join(streamed[i]) == string.data
        assert streamed[i][0].startswith(case.prefix)
        assert all(streamed[i])


def test_a_string_at_its_limit_is_cut() -> None:
    """Strings that are not closed at the limit have not ended, and those that do not get to the
    prefix until then never do."""
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
