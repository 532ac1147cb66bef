"""`NGram`: probabilities by a slow count, sums, orders, its own reversal, and its state."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch

from maskdiff.errors import DataError
from maskdiff.languages import Vocabulary
from maskdiff.models.ngram import NGram

VOCABULARY = Vocabulary.of("abc", digit=False)
INNER, EOS, BOS, MASK = VOCABULARY.inner_ids, VOCABULARY.eos, VOCABULARY.bos, VOCABULARY.mask
State = dict[str, torch.Tensor]


def random_strings(seed: int, count: int = 200, longest: int = 9) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    rows = [rng.choice(INNER, rng.integers(0, longest), p=(0.6, 0.3, 0.1)) for _ in range(count)]
    return [row.tolist() for row in rows]


class Slow:
    """The formula of the module docstring with dictionaries of tuples, the farthest symbol first.

    It shares no code with `NGram`.
    """

    def __init__(self, strings: list[list[int]], order: int) -> None:
        self.order = order
        self.after: dict[tuple[int, ...], Counter[int]] = {}
        for string in strings:
            whole = (BOS, *string, EOS)
            for i in range(1, len(whole)):
                for depth in range(min(order - 1, i) + 1):
                    self.after.setdefault(whole[i - depth : i], Counter())[whole[i]] += 1

    def p(self, symbol: int, history: tuple[int, ...]) -> float:
        context = history[max(0, len(history) - self.order + 1) :]
        shorter = 1 / (len(INNER) + 1) if not context else self.p(symbol, context[1:])
        if context not in self.after:
            return shorter
        seen = self.after[context]
        return (seen[symbol] + len(seen) * shorter) / (seen.total() + len(seen))

    def log_p(self, string: list[int]) -> float:
        whole = (BOS, *string, EOS)
        return sum(math.log(self.p(whole[i], whole[:i])) for i in range(1, len(whole)))


def contexts(histories: list[tuple[int, ...]], reach: int) -> np.ndarray:
    """Histories that begin with BOS as `NGram` reads them: the nearest symbol first."""
    rows = [((BOS,) * reach + history)[-reach:][::-1] for history in histories]
    return np.array(rows)


@pytest.mark.parametrize("order", [2, 3, 5, 8])
def test_probabilities_are_those_of_a_slow_count(order: int) -> None:
    strings = random_strings(order)
    model, slow = NGram.fit(strings, VOCABULARY, order), Slow(strings, order)
    given = [*strings[:50], *random_strings(99, 100, 14)]
    expected = [slow.log_p(string) for string in given]
    np.testing.assert_allclose(model.log_probs(given), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("order", [2, 4, 7])
def test_next_symbols_are_those_of_a_slow_count_and_sum_to_one(order: int) -> None:
    """Contexts that were seen, and ones that were not."""
    strings = random_strings(order)
    model, slow = NGram.fit(strings, VOCABULARY, order), Slow(strings, order)
    histories = [(BOS, *string[:i]) for string in random_strings(5, 40) for i in range(len(string))]
    histories += [(BOS, *[INNER[2]] * n) for n in range(12)]
    p = np.exp(model.next_log_probs(contexts(histories, model.reach)))
    for row, history in zip(p, histories, strict=True):
        for symbol in (*INNER, EOS):
            assert row[symbol] == pytest.approx(slow.p(symbol, history), abs=1e-12)
    np.testing.assert_allclose(p.sum(1), 1.0, atol=1e-12)
    assert not p[:, [VOCABULARY.pad, MASK, BOS]].any()


def test_strings_up_to_a_length_and_the_rest_sum_to_one() -> None:
    """The rest is the probability of a beginning that is longer."""
    model = NGram.fit(random_strings(3), VOCABULARY, 3)
    begun, total = 0.0, 0.0
    for length in range(6):
        strings = [list(string) for string in itertools.product(INNER, repeat=length)]
        total += float(np.exp(model.log_probs(strings)).sum())
    for string in itertools.product(INNER, repeat=6):
        begun += math.exp(model.symbol_log_probs([list(string)])[0][:-1].sum())
    assert total + begun == pytest.approx(1.0, abs=1e-12)


def test_symbols_of_a_string_sum_to_its_log_probability() -> None:
    strings = random_strings(4)
    model = NGram.fit(strings, VOCABULARY, 4)
    parts = model.symbol_log_probs(strings)
    assert [len(part) for part in parts] == [len(string) + 1 for string in strings]
    np.testing.assert_allclose([part.sum() for part in parts], model.log_probs(strings))


@pytest.mark.parametrize("seed", range(4))
def test_fit_order_takes_the_order_that_predicts_held_out_strings_best(seed: int) -> None:
    strings, held_out = random_strings(seed), random_strings(seed + 50, 40)
    scores = {
        order: float(NGram.fit(strings, VOCABULARY, order).log_probs(held_out).sum())
        for order in range(2, 9)
    }
    chosen = NGram.fit_order(strings, held_out, VOCABULARY, highest=8)
    assert scores[chosen.order] == max(scores.values())
    alone = NGram.fit(strings, VOCABULARY, chosen.order)
    np.testing.assert_allclose(chosen.log_probs(held_out), alone.log_probs(held_out))


def test_deterministic_strings_get_a_high_order() -> None:
    """After `aaaa` comes `b` if the string began with `c`, else `c`: only order 6 knows it."""
    a, b, c = INNER
    strings = [[c, a, a, a, a, b], [b, a, a, a, a, c]] * 50
    assert NGram.fit_order(strings, strings, VOCABULARY).order >= 6


def test_mask_in_a_context_means_unknown() -> None:
    """The symbols before a MASK change nothing; only those after it count."""
    model = NGram.fit(random_strings(6), VOCABULARY, 4)
    a, b, c = INNER
    rows = np.array([[a, MASK, b], [a, MASK, c], [MASK, a, b], [MASK, c, c]])
    log_p = model.next_log_probs(rows)
    assert np.array_equal(log_p[0], log_p[1])
    assert np.array_equal(log_p[2], log_p[3])
    shortened = model.shortened(2).next_log_probs(rows[:, :1])
    np.testing.assert_allclose(log_p, shortened)
    assert not np.allclose(log_p[0], log_p[2])


@pytest.mark.parametrize("order", [2, 3, 4, 6, 12])
def test_backward_is_the_ngram_of_the_reversed_strings(order: int) -> None:
    strings = random_strings(order)
    ours = NGram.fit(strings, VOCABULARY, order).backward().state()
    expected = NGram.fit([string[::-1] for string in strings], VOCABULARY, order).state()
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


def test_state_round_trip() -> None:
    strings = random_strings(7)
    model = NGram.fit(strings, VOCABULARY, 12)  # longer than any string: its last levels are empty
    again = NGram.of_state(model.state(), VOCABULARY)
    assert again.order == 12
    np.testing.assert_array_equal(again.log_probs(strings), model.log_probs(strings))


def replaced(name: str, values: object) -> Callable[[State], None]:
    return lambda state: state.update({name: values})  # type: ignore[dict-item]


def changed(name: str, at: int, value: int) -> Callable[[State], None]:
    def change(state: State) -> None:
        state[name] = state[name].clone()
        state[name][at] = value

    return change


def removed(*prefixes: str) -> Callable[[State], None]:
    def change(state: State) -> None:
        for name in [name for name in state if name.startswith(prefixes)]:
            del state[name]

    return change


DAMAGE: dict[str, Callable[[State], None]] = {
    "no level": lambda state: state.clear(),
    "one level": removed("1.", "2."),
    "a part is missing": removed("1.kinds"),
    "an unknown part": replaced("x", torch.zeros(1)),
    "no tensor": replaced("1.counts", [1, 2]),
    "two dimensions": replaced("1.counts", torch.ones(2, 2, dtype=torch.int64)),
    "too short": replaced("1.counts", torch.ones(1, dtype=torch.int64)),
    "no context": replaced("0.contexts", torch.zeros(0, dtype=torch.int64)),
    "a negative key": changed("1.pairs", 0, -1),
    "a key out of range": changed("1.pairs", -1, 2**30),
    "keys not sorted": changed("1.contexts", 0, 2**30),
    "a context of PAD": changed("1.contexts", 0, 0),
    "a count of zero": changed("1.counts", 0, 0),
    "another total": changed("1.totals", 0, 10**6),
    "another number of kinds": changed("1.kinds", 0, 1),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_states_are_refused(damage: Callable[[State], None]) -> None:
    state = NGram.fit(random_strings(8), VOCABULARY, 3).state()
    damage(state)
    with pytest.raises(DataError, match="damaged"):
        NGram.of_state(state, VOCABULARY)


def test_a_state_of_another_vocabulary_is_refused() -> None:
    state = NGram.fit(random_strings(8), VOCABULARY, 3).state()
    with pytest.raises(DataError, match="damaged"):
        NGram.of_state(state, Vocabulary.of("ab", digit=False))


def test_absurd_counts_are_refused() -> None:
    """Sums that floats cannot hold."""
    state = NGram.fit([[INNER[0]]], VOCABULARY, 2).state()
    for depth in (0, 1):
        for name in ("counts", "totals"):
            values = state[f"{depth}.{name}"].long()
            state[f"{depth}.{name}"] = torch.full_like(values, 2**61)
    state["0.totals"] = state["0.counts"].sum()[None]
    with pytest.raises(DataError, match="damaged"):
        NGram.of_state(state, VOCABULARY)


def test_no_strings_are_refused() -> None:
    with pytest.raises(DataError, match="strings"):
        NGram.fit([], VOCABULARY)
