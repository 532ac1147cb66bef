"""Noisy-channel repair against brute force over all strings and alignments of three symbols."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from maskdiff.config import NoiseConfig
from maskdiff.languages import Vocabulary
from maskdiff.languages.cfg import compile_grammar
from maskdiff.repair import (
    Channel,
    Evidence,
    candidate_lengths,
    channel_log_probs,
    repair_channel,
    rest_costs,
)
from maskdiff.sampling import GrammarConstraint
from tests.helpers.channels import channel_probability
from tests.helpers.grammars import accepts

VOCABULARY = Vocabulary.of("ab(", digit=False)
INNER = VOCABULARY.inner_ids
MASK = VOCABULARY.mask


class Bigram:
    """A causal denoiser that counts its calls: a random bigram table per length."""

    def __init__(self, seed: int = 0, peak: float = 1.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        size = len(VOCABULARY)
        self.vocabulary = VOCABULARY
        self.table = peak * torch.randn(12, size, size, generator=generator)
        self.calls = 0

    def __call__(
        self,
        tokens: Tensor,
        length: Tensor,
        sigma: Tensor,
        causal: bool,
        previous: Tensor | None = None,
    ) -> Tensor:
        assert causal
        self.calls += 1
        before = torch.nn.functional.pad(tokens[:, :-1], (1, 0), value=VOCABULARY.bos)
        return self.table[length[:, None].expand_as(before), before]

    def log_prior(self, x: tuple[int, ...]) -> float:
        log_p = self.table[len(x) + 2][:, list(INNER)].double().log_softmax(-1)
        return sum(
            float(log_p[a, INNER.index(b)]) for a, b in itertools.pairwise((VOCABULARY.bos, *x))
        )


def log_length(n: int) -> float:
    return math.log(n / 15.0)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["ab(a", "a?(b", "ba", "?", "(((("])
@pytest.mark.parametrize("sigmas", [(0.2,), (0.1, 0.5)])
def test_wide_beam_finds_the_best_of_all_strings(text: str, sigmas: tuple[float, ...]) -> None:
    denoiser, y = Bigram(), tuple(VOCABULARY.encode(text, blanks=True))
    channel = Channel.of(NoiseConfig(), sigmas, len(INNER))
    lengths = [n for n in (1, 2, 3, 4) if abs(n - len(y)) <= 1]
    scores = {
        x: denoiser.log_prior(x)
        + log_length(n)
        + math.log(channel_probability(x, y, channel, VOCABULARY))
        for n in lengths
        for x in itertools.product(INNER, repeat=n)
    }
    best = max(scores, key=lambda x: scores[x])
    ((found,),) = repair_channel(denoiser, [list(y)], [lengths], log_length, channel, beam=300)
    assert tuple(found.tokens) == best
    assert found.total == pytest.approx(scores[best], abs=1e-5)  # the logits are float32
    assert found.log_prior == pytest.approx(denoiser.log_prior(best), abs=1e-5)


def test_channel_probabilities_are_summed_over_alignments() -> None:
    channel = Channel.of(NoiseConfig(), (0.3,), len(INNER))
    y = VOCABULARY.encode("aab", blanks=True)
    ((found,),) = repair_channel(Bigram(peak=0.0), [y], [[3]], log_length, channel, beam=300)
    assert math.exp(found.log_channel) == pytest.approx(
        channel_probability(tuple(found.tokens), tuple(y), channel, VOCABULARY), rel=1e-6
    )


def test_a_batch_equals_its_strings_repaired_alone() -> None:
    channel = Channel.of(NoiseConfig(), (0.2,), len(INNER))
    rows = [VOCABULARY.encode(text, blanks=True) for text in ("ab(ab(", "?", "a(?b", "bbbb", "ab")]
    candidates = [candidate_lengths(len(row), 2, lambda n: 0.0, 1, 8) for row in rows]
    together = repair_channel(Bigram(), rows, candidates, lambda n: 0.0, channel, beam=4)
    for row, lengths, (found,) in zip(rows, candidates, together):
        ((alone,),) = repair_channel(Bigram(), [row], [lengths], lambda n: 0.0, channel, beam=4)
        assert found.tokens == alone.tokens
        assert found.total == pytest.approx(alone.total)


def test_blanks_keep_everything_visible() -> None:
    row = VOCABULARY.encode("a?b??(", blanks=True)
    ((found,),) = repair_channel(Bigram(), [row], [[6]], lambda n: 0.0, Channel.blanks(), beam=3)
    assert all(a == b for a, b in zip(row, found.tokens) if a != MASK)
    assert MASK not in found.tokens


def test_blanks_cannot_change_the_length() -> None:
    row = VOCABULARY.encode("ab", blanks=True)
    assert repair_channel(Bigram(), [row], [[3]], lambda n: 0.0, Channel.blanks()) == [[]]


@pytest.mark.slow
def test_narrow_beam_is_close_to_the_wide_one() -> None:
    """Beam 8 of 3^7 strings loses at most half a nat on average; beam 1 loses more."""
    denoiser = Bigram(seed=3, peak=2.0)
    channel = Channel.of(NoiseConfig(), (0.2,), len(INNER))
    generator = torch.Generator().manual_seed(1)
    rows = [
        [INNER[i] for i in torch.randint(0, 3, (7,), generator=generator).tolist()]
        for _ in range(30)
    ]
    lost = {}
    for beam in (1, 8, 200):
        found = repair_channel(denoiser, rows, [[6, 7, 8]] * 30, lambda n: 0.0, channel, beam=beam)
        lost[beam] = sum(item.total for (item,) in found) / 30
    assert lost[200] - lost[8] < 0.5
    assert lost[1] < lost[8] <= lost[200] + 1e-9


@pytest.mark.slow
def test_under_a_grammar_the_best_string_of_the_grammar_is_found() -> None:
    grammar = 'start: "a" start "b" | "a" "b" | "(" start'
    constraint = GrammarConstraint(compile_grammar(grammar, "ab("), VOCABULARY)
    denoiser, channel = Bigram(3), Channel.of(NoiseConfig(), (0.3,), len(INNER))
    changed = 0
    for text in ("abab", "bba", "(ba?", "bbbbb", "?", "(a(b"):
        y = tuple(VOCABULARY.encode(text, blanks=True))
        lengths = range(1, 6)
        job = denoiser, [y], [lengths], lambda n: -0.3 * n, channel, 400
        (free,), (found,) = (repair_channel(*job, constraint=c)[0] for c in (None, constraint))
        strings = [
            x
            for n in lengths
            for x in itertools.product(INNER, repeat=n)
            if accepts(grammar, VOCABULARY.decode(x))
        ]
        best = max(
            strings,
            key=lambda x: (
                denoiser.log_prior(x)
                - 0.3 * len(x)
                + math.log(channel_probability(x, y, channel, VOCABULARY))
            ),
        )
        assert tuple(found.tokens) == best
        changed += free.tokens != found.tokens
    assert changed >= 4


def test_rest_costs_bound_the_remaining_cost() -> None:
    """The bound for no symbols left of x is the probability of dropping the rest of y."""
    channel = Channel.of(NoiseConfig(), (0.2,), len(INNER))
    seen = Evidence.of(channel, [INNER[:1] * 4], VOCABULARY)
    seen = replace(seen, emission=torch.full((1, 1, 3, 4), 0.5, dtype=torch.float64))
    table = rest_costs(seen, 3, channel)[0, 0]
    assert table[0].exp().tolist() == pytest.approx(
        [float(channel.spurious) ** (4 - j) for j in range(5)]
    )
    assert float(table[3, 1].exp()) == pytest.approx(0.125)
    assert float(table[2, 4].exp()) == pytest.approx(float(channel.delete) ** 2)


def test_candidate_lengths_are_possible_lengths() -> None:
    possible = {3, 5, 7, 20}
    log_prob = lambda n: 0.0 if n in possible else -math.inf  # noqa: E731
    assert candidate_lengths(6, 2, log_prob, 3, 20) == [5, 7]
    assert candidate_lengths(12, 2, log_prob, 3, 20) == [7]
    assert candidate_lengths(0, 2, log_prob, 3, 20) == [3]


def test_a_wide_beam_lists_the_best_of_all_strings_in_order() -> None:
    denoiser, y = Bigram(), tuple(VOCABULARY.encode("ab(", blanks=True))
    channel, lengths = Channel.of(NoiseConfig(), (0.3,), len(INNER)), (2, 3, 4)
    scores = {
        x: denoiser.log_prior(x)
        + log_length(n)
        + math.log(channel_probability(x, y, channel, VOCABULARY))
        for n in lengths
        for x in itertools.product(INNER, repeat=n)
    }
    best = sorted(scores, key=lambda x: -scores[x])[:12]
    (found,) = repair_channel(denoiser, [y], [lengths], log_length, channel, beam=300, top=12)
    assert [tuple(item.tokens) for item in found] == best
    assert [item.total for item in found] == pytest.approx([scores[x] for x in best], abs=1e-5)
    assert sum(item.posterior for item in found) <= 1 + 1e-9
    (one,) = repair_channel(denoiser, [y], [lengths], log_length, channel, beam=300)
    assert one == found[:1]


@pytest.mark.slow
def test_channel_log_probs_equal_brute_force_and_the_beam() -> None:
    rng = random.Random(2)
    channel = Channel.of(NoiseConfig(), (0.1, 0.4), len(INNER))
    barred = 0
    for _ in range(40):
        y = tuple(rng.choice((*INNER, MASK)) for _ in range(rng.randint(1, 5)))
        certain = frozenset(j for j in range(len(y)) if rng.random() < 0.3)
        texts = [tuple(rng.choice(INNER) for _ in range(rng.randint(0, 6))) for _ in range(12)]
        found = channel_log_probs(channel, y, texts, VOCABULARY, certain).exp().tolist()
        assert found == pytest.approx(
            [channel_probability(x, y, channel, VOCABULARY, certain) for x in texts],
            rel=1e-9,
            abs=1e-15,
        )
        barred += found.count(0.0)
        (explained,) = repair_channel(
            Bigram(), [y], [(2, 3, 4)], log_length, channel, 300, top=99, certain=[certain]
        )
        again = channel_log_probs(
            channel, y, [item.tokens for item in explained], VOCABULARY, certain
        )
        assert again.tolist() == pytest.approx([item.log_channel for item in explained])
    assert barred > 50
    assert len(channel_log_probs(channel, y, [], VOCABULARY)) == 0


@pytest.mark.slow
def test_certain_symbols_condition_the_search_exactly() -> None:
    """The best string with the certain symbols is found; without them it often differs."""
    rng, changed = random.Random(4), 0
    channel, lengths, denoiser = (
        Channel.of(NoiseConfig(), (0.4,), len(INNER)),
        (1, 2, 3, 4),
        Bigram(peak=2.0),
    )
    for _ in range(25):
        y = tuple(rng.choice((*INNER, MASK)) for _ in range(rng.randint(2, 4)))
        certain = frozenset(rng.sample(range(len(y)), rng.randint(1, 2)))
        strings = [x for n in lengths for x in itertools.product(INNER, repeat=n)]
        channels = {x: channel_probability(x, y, channel, VOCABULARY, certain) for x in strings}
        best = max(
            (x for x in strings if channels[x]),
            key=lambda x: denoiser.log_prior(x) + math.log(channels[x]),
        )
        job = denoiser, [y], [lengths], lambda n: 0.0, channel, 400
        ((found,),), ((free,),) = (repair_channel(*job, certain=c) for c in ([certain], None))
        assert tuple(found.tokens) == best
        changed += found.tokens != free.tokens
    assert changed > 5


@pytest.mark.slow
@pytest.mark.parametrize("rates", [(0.002, 0.02), (0.3,)])
def test_columns_that_are_left_out_do_not_change_log_probabilities(
    rates: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strings near y, one much shorter, and one whose symbols are shifted from half of y on."""
    rng = random.Random(1)
    y = [rng.choice(INNER) for _ in range(120)]
    texts = [y, y[:40] + y[41:90] + [INNER[0]] + y[90:], y[:60] + y[80:], y[:60] + y[70:] + y[:9]]
    channel = Channel.of_rates(
        rates, insert=0.3, delete=0.3, replace=0.3, swap=0.1, symbols=len(INNER)
    ).or_untouched(0.1)
    found = channel_log_probs(channel, y, texts, VOCABULARY)
    monkeypatch.setattr("maskdiff.repair.channel.NEGLIGIBLE", 1e-300)
    whole = channel_log_probs(channel, y, texts, VOCABULARY)
    assert torch.isfinite(whole).all()
    torch.testing.assert_close(found, whole, rtol=1e-10, atol=1e-10)
