"""Samplers by name: what `--sampler` and `SamplerConfig` mean.

Every preset combines the stages of this package. `steps` is the number of evaluations of a string
in all, causal ones included: `hybrid` with 3 causal tokens and 12 steps is 3 + 9. The presets that
count otherwise say so. To add one, register it here; the command lines, the benchmark and the tests
read `PRESETS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from maskdiff.config import SamplerConfig
from maskdiff.drawing.settings import Draw
from maskdiff.errors import ConfigError
from maskdiff.sampling.autoregressive import Autoregressive
from maskdiff.sampling.compose import (
    Speculate,
    certain_prefix,
    coarse_to_fine,
    hybrid,
    one_shot,
    predictor_corrector,
    verified,
)
from maskdiff.sampling.predictive import Predictive
from maskdiff.sampling.remask import Cap, Confidence, Reconsider, Rescale
from maskdiff.sampling.schedule import (
    Ancestral,
    Cosine,
    EntropyBound,
    Everything,
    Information,
    Linear,
    Threshold,
)
from maskdiff.sampling.stage import Sampler
from maskdiff.sampling.unmask import Unmask

Factory = Callable[[SamplerConfig], Sampler]
TOKEN_DRAW = ("temperature", "top_p")
BUDGETED = ("steps", *TOKEN_DRAW)
WARM_START = ("steps", "num_ar_tokens", *TOKEN_DRAW)


@dataclass(frozen=True)
class Preset:
    """A named sampler.

    Attributes:
        help: One line for a reader.
        make: Returns the sampler for a configuration.
        reads: The fields of `SamplerConfig` that change the sampler. A report shows these alone.
        verified: Whether the causal mode verifies the tokens of a bidirectional draft. Such a
            sampler is no evidence about the bidirectional mode alone.
    """

    help: str
    make: Factory
    reads: tuple[str, ...]
    verified: bool


PRESETS: dict[str, Preset] = {}


def preset(
    name: str, help: str, reads: tuple[str, ...] = BUDGETED, verified: bool = False
) -> Callable[[Factory], Factory]:
    """Return a decorator that registers a factory in `PRESETS`; see `Preset` for the arguments."""

    def register(make: Factory) -> Factory:
        PRESETS[name] = Preset(help, make, reads, verified)
        return make

    return register


def make_sampler(config: SamplerConfig) -> Sampler:
    """Return the sampler named by `config.sampler` with the settings of `config`.

    `config.grammar` has no effect here, because it needs a language: `constrained` applies it.

    Raises:
        ConfigError: The name is unknown, or the settings make no sampler.
    """
    if config.sampler not in PRESETS:
        nearest = get_close_matches(config.sampler, PRESETS, n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"sampler {config.sampler!r} is unknown; did you mean {nearest}? "
            f"allowed: {', '.join(PRESETS)}"
        )
    return PRESETS[config.sampler].make(config)


# ------------------------------------------------------------------- settings of the unmasking loop

# The parallel stage of every composition. Chosen among 36 combinations of order, schedule, spacing
# and fresh noise at 12 evaluations of a denoiser with exact conditionals: first of them at 21
# symbols, fifth at 37 (docs/samplers.md). Compositions draw coupled tokens where the model can.
SPACED_BOUND: dict[str, Any] = {"order": "entropy", "schedule": EntropyBound(0.1), "spacing": 4}
PARALLEL: dict[str, Any] = {**SPACED_BOUND, "coupled": "able"}
REFERENCE: dict[str, Any] = {"order": "top", "schedule": Cosine(), "fresh": True, "sigma": "clock"}


def _draw(config: SamplerConfig) -> Draw:
    return Draw(config.temperature, config.top_p)


def _loop(config: SamplerConfig, **settings: Any) -> Unmask:
    """Return the unmasking loop with the budget and token draw of `config`, and `settings`."""
    base = Unmask(steps=config.steps, draw=_draw(config))
    return replace(base, **settings)


# Presets that are plain settings of the loop: name -> (help, settings).
LOOPS: dict[str, tuple[str, dict[str, Any]]] = {
    "maskgit": (
        "cosine schedule, by confidence of the drawn token with falling Gumbel noise (2202.04200)",
        {"order": "confidence", "schedule": Cosine(), "fresh": True, "choice_temperature": 1.0},
    ),
    "maskgit_linear": (
        "maskgit with the same number of tokens at every evaluation",
        {"order": "confidence", "schedule": Linear(), "fresh": True, "choice_temperature": 1.0},
    ),
    "maskgit_reference": (
        "as the reference experiment: cosine, by the largest probability, at a falling noise level",
        REFERENCE,
    ),
    "ancestral": (
        "the reverse process of linear masking: every blank commits by a coin (2406.07524)",
        {"order": "random", "schedule": Ancestral()},
    ),
    "random": (
        "uniformly random positions, evenly many at an evaluation",
        {"order": "random", "schedule": Linear()},
    ),
    "entropy": ("least uncertain positions first", {"order": "entropy", "schedule": Linear()}),
    "margin": (
        "largest gap between the two best tokens first (2502.06768)",
        {"order": "margin", "schedule": Linear()},
    ),
    "left_to_right": (
        "bidirectional mode, first blanks first",
        {"order": "left_to_right", "schedule": Linear()},
    ),
    "dilated": (
        "far-apart positions together, in van der Corput order",
        {"order": "dilated", "schedule": Linear()},
    ),
    "spaced": (
        "by entropy, preferring positions more than 4 apart",
        {"order": "entropy", "schedule": Linear(), "spacing": 4},
    ),
    "information": (
        "by entropy, an equal share of the remaining entropy at every evaluation",
        {"order": "entropy", "schedule": Information()},
    ),
    "entropy_bound": (
        "by entropy, as many as 0.1 nats allow (2505.24857), never fewer than an even pace",
        {"order": "entropy", "schedule": EntropyBound(0.1)},
    ),
    "spaced_bound": ("entropy_bound and spaced together", SPACED_BOUND),
    "coupled": (
        "entropy_bound by a model that sees the noise of the draw; tokens agree (2512.21323)",
        {"order": "entropy", "schedule": EntropyBound(0.1), "coupled": "on"},
    ),
    "coupled_left_to_right": (
        "coupled, first blanks first, as many as 0.02 nats allow",
        {"order": "left_to_right", "schedule": EntropyBound(0.02), "coupled": "on"},
    ),
    "threshold": (
        "every position that is 90% certain (2505.22618), never fewer than an even pace",
        {"order": "top", "schedule": Threshold(0.9)},
    ),
    "remdm_cap": (
        "random order, committed tokens hidden again with a capped probability (2503.00307)",
        {"order": "random", "schedule": Linear(), "remask": Cap(0.05)},
    ),
    "remdm_rescale": (
        "random order, committed tokens hidden again with a rescaled probability (2503.00307)",
        {"order": "random", "schedule": Linear(), "remask": Rescale(0.1)},
    ),
    "remdm_conf": (
        "random order, the least confident committed tokens hidden again (2503.00307)",
        {"order": "random", "schedule": Linear(), "remask": Confidence()},
    ),
    "self_conditioned": (
        "spaced_bound, and the model sees its previous prediction (2208.04202)",
        {**SPACED_BOUND, "self_condition": True},
    ),
}


def _factory(settings: dict[str, Any]) -> Factory:
    def make(config: SamplerConfig) -> Sampler:
        loop = _loop(config, **settings)
        # Temperature 0 is deterministic.
        return loop if config.temperature else replace(loop, choice_temperature=0.0)

    return make


for _name, (_help, _settings) in LOOPS.items():
    preset(_name, _help)(_factory(_settings))


# ------------------------------------------------------------------------------------- compositions


# Refinement writes every tentative token again at every evaluation, so it needs at least one.
REWRITE: dict[str, Any] = {
    "schedule": Everything(), "order": "top", "rewrite": True, "fresh": True
}  # fmt: skip


@preset(
    "naive",
    "every token again at every evaluation, no order (the reference's baseline); at least 1 step",
)
def _naive(config: SamplerConfig) -> Sampler:
    return _loop(config, **REWRITE, sigma="naive", steps=config.steps or 1)


@preset(
    "refine",
    "repair of a draft: every tentative token again at the draft's noise level; at least 1 step",
)
def _refine(config: SamplerConfig) -> Sampler:
    return _loop(config, **REWRITE, steps=config.steps or 1)


def _corrected(config: SamplerConfig, corrector: Reconsider) -> Sampler:
    fill = _loop(config, **PARALLEL)
    rounds = 2 if config.steps == 0 or config.steps >= 8 else 1
    if 0 < config.steps < 3:
        return fill  # too few to score and refill
    return predictor_corrector(fill, corrector, rounds=rounds)


@preset(
    "predictor_corrector",
    "the parallel stage, then up to two rounds of hiding and refilling the least plausible tokens",
)
def _predictor_corrector(config: SamplerConfig) -> Sampler:
    return _corrected(config, Reconsider())


@preset("causal_corrector", "predictor_corrector whose corrections are scored by the causal mode")
def _causal_corrector(config: SamplerConfig) -> Sampler:
    return _corrected(config, Reconsider(score="causal", threshold=0.1, radius=1))


@preset(
    "autoregressive",
    "causal mode with a cache, one token an evaluation; steps is ignored",
    TOKEN_DRAW,
)
def _autoregressive(config: SamplerConfig) -> Sampler:
    return Autoregressive(draw=_draw(config))


@preset(
    "predictive",
    "the autoregressive sample by fixed-point iteration (2002.09928); steps is ignored",
    TOKEN_DRAW,
    verified=True,
)
def _predictive(config: SamplerConfig) -> Sampler:
    causal = Predictive(draw=_draw(config))
    return one_shot(_loop(config)).then(causal)


@preset("hybrid", "num_ar_tokens causal tokens, then the parallel stage; steps in all", WARM_START)
def _hybrid(config: SamplerConfig) -> Sampler:
    return hybrid(config.num_ar_tokens, _loop(config, **PARALLEL))


@preset(
    "hybrid_speculative",
    "num_ar_tokens causal tokens, then speculative; steps in all",
    WARM_START,
    verified=True,
)
def _hybrid_speculative(config: SamplerConfig) -> Sampler:
    start = Autoregressive(config.num_ar_tokens, _draw(config))
    return start.then(_speculative(config)) if config.num_ar_tokens else _speculative(config)


@preset(
    "hybrid_reference",
    "num_ar_tokens causal tokens, then maskgit_reference with steps evaluations *of its own*",
    WARM_START,
)
def _hybrid_reference(config: SamplerConfig) -> Sampler:
    return hybrid(
        config.num_ar_tokens, _loop(config, **REFERENCE, steps=0, stage_steps=config.steps)
    )


@preset(
    "verified",
    "a parallel draft with a third of the steps, then causal fixed-point iterations on it",
    verified=True,
)
def _verified(config: SamplerConfig) -> Sampler:
    draft = _loop(config, **PARALLEL, steps=-(-config.steps // 3) if config.steps else 0)
    return verified(draft, config.steps, _draw(config))


@preset(
    "certain_prefix",
    "causal fixed-point iterations with half of the steps, then the parallel stage for the rest",
    verified=True,
)
def _certain_prefix(config: SamplerConfig) -> Sampler:
    finish = _loop(config, **PARALLEL)
    if config.steps == 0:
        return _predictive(config)
    return certain_prefix(config.steps // 2, finish) if config.steps >= 4 else finish


@preset(
    "speculative",
    "rounds of a parallel draft and its causal verification, the last two steps for what is left",
    verified=True,
)
def _speculative(config: SamplerConfig) -> Sampler:
    return Speculate(_loop(config, **PARALLEL), config.steps)


@preset(
    "coarse_to_fine",
    "operators, brackets and <DIGIT> with two thirds of the steps, then the digits",
)
def _coarse_to_fine(config: SamplerConfig) -> Sampler:
    if config.steps == 1:
        raise ConfigError(
            "coarse_to_fine needs an evaluation for each of its halves; "
            "give steps of at least 2, or 0"
        )
    loop = _loop(config, **PARALLEL)
    return coarse_to_fine(replace(loop, steps=config.steps * 2 // 3 if config.steps else 0), loop)
