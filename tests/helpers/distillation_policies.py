"""A model of our own as a policy, tiny and random in all its weights, so that every way of going
wrong shows in its numbers."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from maskdiff.checkpoint import Loaded, denoiser_from, make_payload
from maskdiff.config import Config, LanguageConfig, ModelConfig
from maskdiff.drawing.random import Purpose, gumbel
from maskdiff.experiments.distillation.causal_policy import OwnPolicy
from maskdiff.experiments.distillation.environment import Problem
from maskdiff.experiments.distillation.policy import Ids
from maskdiff.languages import (
    ArithmeticCorrections,
    make_language,
    model_vocabulary,
    pieces,
    token_lengths,
)
from maskdiff.languages.arithmetic_corrections import FEEDBACK, feedback_text
from maskdiff.languages.arithmetic_corrections.slips import Bounds, write_answer
from maskdiff.models.denoiser import ModelDenoiser
from maskdiff.models.universal import UniversalDenoiser

LANGUAGE = LanguageConfig(
    language="arithmetic-corrections",
    operators="+-*",
    max_int=12,
    max_value=99,
    min_depth=2,
    max_depth=2,
    max_len=128,
)
BOUNDS = Bounds(LANGUAGE.max_value, LANGUAGE.operators)
TINY = ModelConfig(
    vocabulary="bpe", vocab_size=80, block_size=128, n_layer=2, k_iter=1, n_head=2, n_embd=16,
    mlp_ratio=1.0, end_positions=False, causal_length=False,
)  # fmt: skip


@cache
def payload(**changes: object) -> dict[str, object]:
    """A checkpoint without one weight that is zero, and that likes to end; its pieces are learnt
    from few strings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "DRAWS", 500)
        language = make_language(LANGUAGE)
        model = replace(TINY, **changes)  # type: ignore[arg-type]
        vocabulary = model_vocabulary(language, model)
        counts = token_lengths(language, vocabulary).tolist() if vocabulary.merges else ()
    config = replace(Config(), language=LANGUAGE, model=replace(model, vocab_size=len(vocabulary)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = UniversalDenoiser(config.model).state_dict()
        weights = {
            name: weight + 0.3 * torch.randn(weight.shape) for name, weight in weights.items()
        }
    weights["head.weight"][vocabulary.eos] *= 2.5
    return make_payload(config, vocabulary, weights, lengths=counts)


def loaded(**changes: object) -> Loaded:
    return denoiser_from(payload(**changes))


def policy_of(**changes: object) -> OwnPolicy:
    return OwnPolicy(loaded(**changes))


@cache
def problems(count: int) -> tuple[Problem, ...]:
    language = ArithmeticCorrections(LANGUAGE)
    return tuple(Problem(text, text) for text in language.problems(count, np.random.default_rng(0)))


def attempted(count: int) -> Iterator[tuple[Problem, str, str]]:
    """Yields problems, attempts and the feedback on them, each kind in turn."""
    rng = np.random.default_rng(1)
    for i, problem in enumerate(problems(count)):
        attempt = write_answer(problem.text, rng, 0.3, 0.2, BOUNDS) or ""
        yield problem, attempt, feedback_text(problem.text, attempt, FEEDBACK[i % 4])


def mixed(policy: OwnPolicy, count: int) -> list[Ids]:
    """Prompts of all forms and many lengths, in no order."""
    made = []
    for i, (problem, attempt, feedback) in enumerate(attempted(count)):
        shown = tuple(policy.vocabulary.encode(attempt))
        made.append(
            policy.prompt(problem, *((), (None, feedback), (shown,), (shown, feedback))[i // 4 % 4])
        )
    assert len({*map(len, made)}) > 8
    return made


def scored(policy: OwnPolicy, row: Sequence[int], causal: bool = True) -> Tensor:
    """(tokens, size) logits of one string, row i scoring token i, by the model alone."""
    with torch.no_grad():
        tokens = torch.tensor([list(row)])
        return policy.loaded.denoiser.model.forward_strings(
            tokens, torch.tensor([len(row)]), torch.zeros(1), causal
        )[0]


def noise(key: int, place: int, size: int) -> Tensor:
    """(size,) Gumbel noise of a key at a place."""
    return gumbel(torch.tensor(key), int(Purpose.TOKEN), 0, 0, place, torch.arange(size))


def ragged(count: int, longest: int, size: int = 80, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [
        [rng.randrange(2, size) for _ in range(rng.randint(1, longest))] for _ in range(count - 1)
    ] + [[rng.randrange(2, size) for _ in range(longest)]]


def lengthened(policy: OwnPolicy, size: int) -> OwnPolicy:
    """A policy of the same weights that was made for longer strings; what is learned of positions
    ends at its last."""
    longer = UniversalDenoiser(replace(policy.loaded.config.model, block_size=size)).eval()
    weights = policy.module.state_dict()
    for name in {"from_start.weight", "from_end.weight"} & {*weights}:
        weights[name] = torch.cat(
            [weights[name], weights[name][-1:].expand(size - len(weights[name]), -1)]
        )
    longer.load_state_dict(weights)
    return OwnPolicy(replace(policy.loaded, denoiser=ModelDenoiser(longer, policy.vocabulary)))
