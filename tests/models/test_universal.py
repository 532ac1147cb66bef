"""The model: no leaks between strings, pads or the future; heads, caches and packing agree."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from maskdiff.config import ModelConfig
from maskdiff.models.universal import UniversalDenoiser

SMALL = ModelConfig(n_embd=32, n_head=2, n_layer=2, k_iter=2, block_size=24)
VARIANTS = [
    SMALL,
    replace(SMALL, head="aligned"),
    replace(SMALL, positions="learned"),
    replace(SMALL, end_positions=False),
    replace(SMALL, use_self_cond=True),
    replace(SMALL, use_coupling=True),
    replace(SMALL, tied=True, head="aligned"),
    replace(SMALL, n_layer=1, k_iter=3, mlp_ratio=2.0),
]


def randomised(config: ModelConfig, seed: int = 0) -> UniversalDenoiser:
    """A model in which no weight is zero, so that every path can leak."""
    torch.manual_seed(seed)
    model = UniversalDenoiser(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.15 * torch.randn_like(weight))
    return model


def random_strings(
    count: int = 6, width: int = 20, seed: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    length = torch.randint(5, width + 1, (count,), generator=generator)
    tokens = torch.randint(1, 20, (count, width), generator=generator)
    tokens[torch.arange(width) >= length[:, None]] = 0
    return tokens, length


@pytest.mark.parametrize("config", VARIANTS)
@pytest.mark.parametrize("causal", [False, True])
def test_a_string_scores_the_same_alone_padded_and_packed(
    config: ModelConfig, causal: bool
) -> None:
    model = randomised(config)
    tokens, length = random_strings()
    sigma = torch.linspace(0, 1, len(tokens))
    together = model.forward_strings(tokens, length, sigma, causal)
    for i, n in enumerate(length.tolist()):
        alone = model.forward_strings(
            tokens[i : i + 1, :n], length[i : i + 1], sigma[i : i + 1], causal
        )
        torch.testing.assert_close(together[i, 1:n], alone[0, 1:], atol=2e-5, rtol=1e-4)
    a, b = 0, 1  # two strings of different modes in one row
    n, m = int(length[a]), int(length[b])
    row = torch.cat((tokens[a, :n], tokens[b, :m]))[None]
    packed = model(
        row,
        torch.cat((sigma[a].expand(n), sigma[b].expand(m)))[None],
        segment=torch.tensor([[0] * n + [1] * m]),
        position=torch.cat((torch.arange(n), torch.arange(m)))[None],
        from_end=torch.cat((torch.arange(n).flip(0), torch.arange(m).flip(0)))[None],
        causal=torch.tensor([[causal] * n + [not causal] * m]),
    )
    torch.testing.assert_close(packed[0, 1:n], together[a, 1:n], atol=2e-5, rtol=1e-4)
    other = model.forward_strings(
        tokens[b : b + 1, :m], length[b : b + 1], sigma[b : b + 1], not causal
    )
    torch.testing.assert_close(packed[0, n + 1 :], other[0, 1:], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("head", ["next", "aligned"])
def test_which_tokens_a_row_of_the_logits_depends_on(head: str) -> None:
    model = randomised(replace(SMALL, head=head))
    tokens, length = random_strings(count=1, width=12, seed=3)
    n = int(length[0])
    sigma = torch.zeros(1)
    for causal in (False, True):
        base = model.forward_strings(tokens, length, sigma, causal)[0]
        for j in range(n):
            changed = tokens.clone()
            changed[0, j] = (tokens[0, j] + 5) % 19 + 1
            moved = (model.forward_strings(changed, length, sigma, causal)[0] - base).abs().amax(
                -1
            ) > 1e-6
            for i in range(1, n):
                seen = j < i or (head == "aligned" and j == i) if causal else True
                assert bool(moved[i]) == seen, (head, causal, i, j)


@pytest.mark.parametrize(
    "config", [SMALL, replace(SMALL, positions="learned"), replace(SMALL, end_positions=False)]
)
def test_the_cache_scores_like_the_full_causal_pass(config: ModelConfig) -> None:
    model = randomised(config)
    tokens, length = random_strings()
    full = model.forward_strings(tokens, length, torch.zeros(len(tokens)), causal=True)
    cache = model.start_cache(len(tokens))
    rows = torch.arange(len(tokens))
    for t in range(tokens.size(1) - 1):
        if t == 4:  # a beam reorders and repeats rows
            rows = torch.tensor([5, 0, 0, 3, 2, 1])
            cache = cache.select(rows)
        logits = model.next_logits(tokens[rows, t], (length[rows] - 1 - t).clamp(min=0), cache)
        live = length[rows] > t + 1
        torch.testing.assert_close(logits[live], full[rows, t + 1][live], atol=2e-5, rtol=1e-4)


def test_an_aligned_head_refuses_the_cache() -> None:
    model = UniversalDenoiser(replace(SMALL, head="aligned"))
    with pytest.raises(ValueError, match="aligned"):
        model.next_logits(
            torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long), model.start_cache(1)
        )


@pytest.mark.parametrize(
    ("flag", "name"), [("use_self_cond", "previous"), ("use_coupling", "noise")]
)
def test_late_inputs_start_off_and_can_be_learned(flag: str, name: str) -> None:
    torch.manual_seed(0)
    config = replace(SMALL, **{flag: True})
    tokens, length = random_strings()
    extra = {name: torch.rand(*tokens.shape, config.vocab_size)}
    fresh = UniversalDenoiser(config)
    assert fresh.head is not None
    with torch.no_grad():
        fresh.head.weight.normal_()
    plain = fresh.forward_strings(tokens, length, torch.zeros(6), False)
    assert torch.equal(plain, fresh.forward_strings(tokens, length, torch.zeros(6), False, **extra))
    trained = randomised(config)
    plain = trained.forward_strings(tokens, length, torch.zeros(6), False)
    assert not torch.allclose(
        plain, trained.forward_strings(tokens, length, torch.zeros(6), False, **extra)
    )


def test_a_tied_aligned_head_copies_from_the_start_and_an_untied_one_does_not() -> None:
    tokens, length = random_strings()
    for tied in (True, False):
        torch.manual_seed(0)
        model = UniversalDenoiser(ModelConfig(tied=tied, head="aligned")).eval()
        guess = model.forward_strings(tokens, length, torch.zeros(6), False).argmax(-1)
        inside = torch.arange(tokens.shape[1]) < length[:, None]
        copied = float((guess == tokens)[inside].float().mean())
        assert copied > 0.9 if tied else copied < 0.5


def test_the_logits_depend_on_sigma_and_the_length() -> None:
    model = randomised(SMALL)
    tokens, _ = random_strings()
    length = torch.full((6,), 10)
    base = model.forward_strings(tokens, length, torch.zeros(6), True)
    assert not torch.allclose(
        base[:, 1:9], model.forward_strings(tokens, length, torch.full((6,), 0.3), True)[:, 1:9]
    )
    assert not torch.allclose(
        base[:, 1:9], model.forward_strings(tokens, length + 2, torch.zeros(6), True)[:, 1:9]
    )


def test_the_default_model_is_small_enough() -> None:
    assert (
        UniversalDenoiser(ModelConfig(vocab_size=20)).parameter_count() <= 440_000
    )  # the symbols of arithmetic
    assert (
        UniversalDenoiser(
            ModelConfig(vocab_size=20, use_self_cond=True, use_coupling=True)
        ).parameter_count()
        <= 440_000
    )


def test_an_impossible_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple"):
        UniversalDenoiser(ModelConfig(n_embd=30, n_head=4))


def test_dropout_changes_training_and_not_evaluation() -> None:
    plain, dropped = randomised(SMALL), randomised(replace(SMALL, dropout=0.3))
    tokens, length = random_strings()
    sigma = torch.zeros(len(tokens))
    expected = plain.forward_strings(tokens, length, sigma, False)
    assert torch.equal(dropped.forward_strings(tokens, length, sigma, False), expected)
    state = torch.random.get_rng_state()
    assert torch.equal(plain.train().forward_strings(tokens, length, sigma, False), expected)
    assert torch.equal(torch.random.get_rng_state(), state)  # 0 draws nothing
    noisy = dropped.train().forward_strings(tokens, length, sigma, False)
    assert not torch.equal(noisy, expected)
    assert not torch.equal(noisy, dropped.forward_strings(tokens, length, sigma, False))
