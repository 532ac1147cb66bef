"""`NGramDenoiser`: both modes by their formulas, its stream, and its completions by brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from maskdiff.decoding import condition
from maskdiff.languages import Vocabulary
from maskdiff.models.causal import CausalModel
from maskdiff.models.denoiser import FullCausalStream, causal_stream, reads
from maskdiff.models.ngram import NGram
from maskdiff.models.ngram_denoiser import IMPOSSIBLE, NGramDenoiser
from maskdiff.sampling.autoregressive import causal_log_prob
from maskdiff.utils.deadline import Deadline, TimedOut

VOCABULARY = Vocabulary.of("abc", digit=False)
INNER, EOS, BOS, MASK = VOCABULARY.inner_ids, VOCABULARY.eos, VOCABULARY.bos, VOCABULARY.mask
PAD = VOCABULARY.pad


def strings(seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.choice(INNER, rng.integers(1, 7), p=(0.6, 0.3, 0.1)).tolist() for _ in range(100)]


NGRAM = NGram.fit(strings(), VOCABULARY, 3)
BACKWARD = NGram.fit([string[::-1] for string in strings()], VOCABULARY, 3)
DENOISER = NGramDenoiser(NGRAM, block_size=12)
ROWS = [[INNER[0], MASK, INNER[1], INNER[2], MASK, MASK, INNER[0]], [INNER[2]], [MASK, MASK]]


def batch(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(batch, width) tokens between BOS and EOS with PAD after them, and their lengths."""
    width = max(map(len, rows)) + 2
    whole = [[BOS, *row, EOS, *[PAD] * (width - len(row) - 2)] for row in rows]
    return torch.tensor(whole), torch.tensor([len(row) + 2 for row in rows])


def logits(rows: list[list[int]], causal: bool) -> torch.Tensor:
    tokens, length = batch(rows)
    return DENOISER(tokens, length, torch.zeros(len(rows)), causal)


def after(ngram: NGram, history: list[int]) -> np.ndarray:
    """Log p of the next token after a history, which ends before its last MASK."""
    row = ([BOS] * ngram.reach + history)[::-1][: ngram.reach]
    return ngram.next_log_probs(np.array([row]))[0]


def endings(left: int) -> np.ndarray:
    """P that a string ends after exactly `left` more symbols, by its last one: all are listed."""
    pairs = NGRAM.shortened(2)
    found = []
    for last in INNER:
        more = [[last, *row] for row in itertools.product(INNER, repeat=left)]
        log_p = [row[1:].sum() for row in pairs.symbol_log_probs(more)]
        found.append(np.logaddexp.reduce(log_p))
    return np.array(found)


@pytest.mark.parametrize("causal", [True, False])
def test_logits_are_those_of_the_formulas(causal: bool) -> None:
    ours, inner = logits(ROWS, causal), list(INNER)
    single = NGRAM.shortened(2).next_log_probs(np.array([[MASK]]))[0]
    assert ours.dtype == torch.float32
    for i, row in enumerate(ROWS):
        for at in range(len(row)):
            score = after(NGRAM, row[:at])[inner]
            if causal:
                score = score + endings(len(row) - at - 1)
            else:
                score = score + after(BACKWARD, row[at + 1 :][::-1])[inner] - single[inner]
            expected = torch.tensor(score).log_softmax(-1).float()
            torch.testing.assert_close(ours[i, at + 1, inner], expected)


@pytest.mark.parametrize("order", [2, 3])
def test_strings_of_a_length_sum_to_one_and_order_two_is_conditioned_on_it(order: int) -> None:
    """For order 2 the causal mode is p(x | n) exactly: p(x) over the sum of all such strings."""
    ngram, rows = NGRAM.shortened(order), [list(x) for x in itertools.product(INNER, repeat=4)]
    tokens, length = batch(rows)
    log_p = causal_log_prob(NGramDenoiser(ngram, 12), tokens, length).double().numpy()
    assert np.exp(log_p).sum() == pytest.approx(1.0, abs=1e-5)
    joint = ngram.log_probs(rows)
    exact = np.allclose(log_p, joint - np.logaddexp.reduce(joint), atol=1e-5)
    assert exact == (order == 2)


@pytest.mark.parametrize("causal", [True, False])
def test_special_tokens_are_impossible_and_all_logits_finite(causal: bool) -> None:
    ours = logits(ROWS, causal)
    assert ours.isfinite().all()
    assert (ours[..., list(VOCABULARY.specials)] == IMPOSSIBLE).all()


@pytest.mark.parametrize("causal", [True, False])
def test_a_string_does_not_depend_on_its_batch(causal: bool) -> None:
    together = logits(ROWS, causal)
    for i, row in enumerate(ROWS):
        alone = logits([row], causal)[0]
        assert torch.equal(together[i, 1 : len(row) + 1], alone[1:-1])


def test_a_token_does_not_see_itself() -> None:
    changed = [[INNER[1], *ROWS[0][1:]], *ROWS[1:]]
    assert torch.equal(logits(ROWS, False)[0, 1], logits(changed, False)[0, 1])
    assert not torch.equal(logits(ROWS, False)[0, 2], logits(changed, False)[0, 2])


def test_the_stream_equals_full_passes_also_after_a_selection() -> None:
    length = torch.full((4,), 8)
    ours, theirs = causal_stream(DENOISER, length), FullCausalStream(DENOISER, length)
    order = torch.tensor([2, 0, 0, 3])
    for column in ([BOS] * 4, INNER + INNER[:1], INNER[1:] + INNER[:2]):
        tokens = torch.tensor(column)
        torch.testing.assert_close(ours.step(tokens), theirs.step(tokens))
        ours, theirs = ours.select(order), theirs.select(order)


def test_it_reads_no_optional_input() -> None:
    assert not reads(DENOISER, "previous")
    assert not reads(DENOISER, "noise")


def test_a_deadline_ends_its_evaluations() -> None:
    late = Deadline(1.0, clock=iter(range(100)).__next__)
    with pytest.raises(TimedOut), DENOISER.until(late):
        logits(ROWS, True)
    assert logits(ROWS, True).isfinite().all()


@pytest.mark.parametrize("prefix", ["", "a", "cb", "aabb"])
def test_the_probability_of_a_prefix_is_exact(prefix: str) -> None:
    model = CausalModel(DENOISER, np.ones(1))
    assert not model.length_conditioned
    conditioned = condition(model, prefix.encode())
    factors = NGRAM.symbol_log_probs([VOCABULARY.encode(prefix)])[0][: len(prefix)]
    assert conditioned.summary.log_z == pytest.approx(factors.sum(), abs=1e-6)


def test_strings_of_the_tree_have_the_probability_of_the_ngram() -> None:
    """The end is a token of the tree, so strings of all lengths together sum to one."""
    tree = CausalModel(DENOISER, np.ones(1)).tree()
    for text in itertools.product(INNER, repeat=3):
        tree.forget(0)
        parents, tokens = torch.tensor([-1, 0, 1, 2]), torch.tensor([0, *text])
        log_p = tree.extend(parents, tokens)
        found = sum(float(log_p[i, token]) for i, token in enumerate((*text, EOS)))
        assert found == pytest.approx(float(NGRAM.log_probs([list(text)])[0]), abs=1e-5)
        assert math.isclose(float(log_p[0].exp().sum()), 1.0, abs_tol=1e-6)
