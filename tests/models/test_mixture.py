"""`MixtureModel`: distributions by hand, prefixes by enumeration, and the fit of its share."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from maskdiff.config import ModelConfig
from maskdiff.decoding import Decoding, condition
from maskdiff.drawing.random import new_keys
from maskdiff.languages import Vocabulary
from maskdiff.models import mixture
from maskdiff.models.causal import CausalModel
from maskdiff.models.continuation import ROOT, Canonical
from maskdiff.models.denoiser import ModelDenoiser
from maskdiff.models.mixture import MixtureModel, fit_mixture
from maskdiff.models.ngram import NGram
from maskdiff.models.ngram_denoiser import NGramDenoiser
from maskdiff.models.universal import UniversalDenoiser

VOCABULARY = Vocabulary.of("abc", digit=False)
INNER, EOS, BOS, PAD = VOCABULARY.inner_ids, VOCABULARY.eos, VOCABULARY.bos, VOCABULARY.pad
LENGTHS = np.array([0.0, 0.5, 0.2, 0.3])
LONGEST = 3
SHARE = 0.3


def ngram() -> NGram:
    rng = np.random.default_rng(0)
    rows = [rng.choice(INNER, rng.integers(1, 4), p=(0.6, 0.3, 0.1)).tolist() for _ in range(60)]
    return NGram.fit(rows, VOCABULARY, 3)


def neural(length_conditioned: bool, spread: float = 0.3) -> CausalModel:
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=len(VOCABULARY), block_size=8, n_layer=1, k_iter=1, n_head=2, n_embd=16,
        mlp_ratio=1.0, causal_length=length_conditioned,
    )  # fmt: skip
    model = UniversalDenoiser(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(spread * torch.randn_like(weight))
    return CausalModel(ModelDenoiser(model, VOCABULARY), LENGTHS, max_tokens=LONGEST)


NGRAM = ngram()
BOTH = pytest.mark.parametrize("conditioned", [True, False])


def mixed(conditioned: bool, share: float = SHARE) -> MixtureModel:
    return MixtureModel(neural(conditioned), NGRAM, share)


def by_hand(model: CausalModel, history: list[int], left: int, share: float) -> np.ndarray:
    """Log p(next token | history), from full passes of both denoisers or the counts of the n-gram.

    `left` symbols follow, in a string whose length the models get.
    """
    row = torch.tensor([[BOS, *history, *[INNER[0]] * max(left, 1), EOS]])
    inputs, place = (row, torch.tensor([row.shape[1]]), torch.zeros(1), True), len(history) + 1
    with torch.no_grad():
        own = model.denoiser(*inputs)[0, place].double().numpy()
    if model.length_conditioned:
        outcomes = [*INNER]
        theirs = NGramDenoiser(NGRAM, 8)(*inputs)[0, place].double().numpy()
    else:
        outcomes = [*INNER, EOS]
        context = ([BOS] * NGRAM.reach + history)[::-1][: NGRAM.reach]
        theirs = NGRAM.next_log_probs(np.array([context]))[0]
    found = np.full(len(VOCABULARY), -np.inf)
    found[outcomes] = (1 - share) * own[outcomes] + share * theirs[outcomes]
    return np.asarray(found - np.logaddexp.reduce(found[outcomes]))


def strings(conditioned: bool) -> dict[tuple[int, ...], float]:
    """Every string with its probability; one that has not ended after `LONGEST` symbols is cut."""
    model, found = neural(conditioned), {}
    for size in range(0 if not conditioned else 1, LONGEST + 1):
        for string in itertools.product(INNER, repeat=size):
            log_p = math.log(LENGTHS[size]) if conditioned else 0.0
            for i, symbol in enumerate(string):
                log_p += by_hand(model, list(string[:i]), size - i, SHARE)[symbol]
            if not conditioned and size < LONGEST:
                log_p += by_hand(model, list(string), 0, SHARE)[EOS]
            found[string] = math.exp(log_p)
    return found


@BOTH
def test_strings_and_their_prefixes_have_the_probabilities_of_an_enumeration(
    conditioned: bool,
) -> None:
    every, model = strings(conditioned), mixed(conditioned)
    assert sum(every.values()) == pytest.approx(1.0, abs=1e-5)
    for size in range(1, LONGEST):
        for prefix in itertools.product(INNER, repeat=size):
            text = VOCABULARY.decode(list(prefix)).encode()
            exact = sum(p for string, p in every.items() if string[:size] == prefix)
            given = condition(model, text, "exact")
            assert math.exp(given.summary.log_z) == pytest.approx(exact, rel=1e-4)
            if conditioned:  # the whole string, too
                log_z = condition(model, text, "exact", whole=True).summary.log_z
                assert math.exp(log_z) == pytest.approx(every[prefix], rel=1e-4)


@BOTH
def test_completions_are_drawn_from_the_conditional_distribution(conditioned: bool) -> None:
    """1,500 draws: the shares are within five standard errors of an enumeration."""
    prefix, draws = INNER[0], 1500
    given = condition(mixed(conditioned), VOCABULARY.decode([prefix]).encode())
    made = list(Decoding(given, new_keys(draws, torch.Generator().manual_seed(0))).run())
    exact = {s: p for s, p in strings(conditioned).items() if s[:1] == (prefix,)}
    counts = dict.fromkeys(exact, 0)
    for item in made:
        counts[tuple(token for token in item.tokens if token != EOS)] += 1
    total = sum(exact.values())
    for string, count in counts.items():
        p = exact[string] / total
        assert abs(count - draws * p) < 5 * math.sqrt(draws * p * (1 - p)) + 1


@BOTH
def test_every_next_token_distribution_is_normalised(conditioned: bool) -> None:
    tree = mixed(conditioned).tree()
    rows = tree.extend(torch.tensor([ROOT, 0, 1]), torch.tensor([0, INNER[1], INNER[0]]))
    assert rows.exp().sum(1).tolist() == pytest.approx([1.0] * 3)
    special = torch.ones(len(VOCABULARY), dtype=torch.bool)
    special[[*INNER, *([] if conditioned else [EOS])]] = False
    assert bool((rows[:, special] == -torch.inf).all())


@BOTH
def test_shares_of_0_and_1_give_either_model(conditioned: bool) -> None:
    latent = len(neural(conditioned).latent_states) - 1  # of the longest strings
    parents, tokens = torch.tensor([ROOT, 0, 1]), torch.tensor([latent, INNER[1], INNER[0]])
    alone = neural(conditioned).tree()
    expected = alone.extend(parents, tokens)
    tree = mixed(conditioned, 0.0).tree()
    assert torch.allclose(tree.extend(parents, tokens), expected, rtol=0.0, atol=1e-12)
    assert torch.allclose(tree.norm, alone.norm, rtol=0.0, atol=1e-12)  # for penalties
    assert (tree.calls, tree.positions) == (alone.calls, alone.positions)
    rows = mixed(conditioned, 1.0).tree().extend(parents, tokens)
    history = [INNER[1], INNER[0]]
    for i, row in enumerate(rows):
        theirs = torch.from_numpy(by_hand(neural(conditioned), history[:i], LONGEST - i, 1.0))
        assert torch.allclose(row, theirs, rtol=0.0, atol=1e-5)  # of float32 logits


def test_forgotten_nodes_change_nothing() -> None:
    first, second = mixed(True).tree(), mixed(True).tree()
    root, child = (
        (torch.tensor([ROOT]), torch.tensor([0])),
        (torch.tensor([0]), torch.tensor([INNER[0]])),
    )
    first.extend(*root)
    first.extend(torch.tensor([0]), torch.tensor([INNER[2]]))
    first.forget(1)
    second.extend(*root)
    assert torch.equal(first.extend(*child), second.extend(*child))


def test_the_mixture_has_the_tokenizer_of_its_model() -> None:
    model = mixed(True)
    assert isinstance(model, Canonical)
    assert model.encode([b"ab"]) == [[INNER[0], INNER[1]]]


# -------------------------- the fit


@BOTH
def test_the_share_is_that_of_strings_drawn_from_a_mixture(
    conditioned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixture, "SHARES", torch.tensor([0.0, 0.2, 0.8, 1.0], dtype=torch.float64))
    model = neural(conditioned, spread=0.5)
    keys = new_keys(70, torch.Generator().manual_seed(1))
    given = condition(MixtureModel(model, NGRAM, 0.8), b"")
    made = [
        [token for token in item.tokens if token != EOS] for item in Decoding(given, keys).run()
    ]
    assert fit_mixture(model, NGRAM, [string for string in made if string]) == pytest.approx(0.8)


def test_no_share_if_the_model_alone_is_as_good() -> None:
    """Strings of the model itself; and too few strings."""
    model = neural(True, spread=0.5)
    keys = new_keys(60, torch.Generator().manual_seed(2))
    made = [list(item.tokens) for item in Decoding(condition(model, b""), keys).run()]
    assert fit_mixture(model, NGRAM, made) == 0.0
    assert fit_mixture(model, NGRAM, [[INNER[0]]] * (mixture.LEAST - 1)) == 0.0


def test_strings_of_impossible_lengths_are_left_out() -> None:
    model = neural(True)
    assert fit_mixture(model, NGRAM, [[INNER[0]] * 5] * 100) == 0.0
