"""Which samplers a benchmark measures: the usual handful, or what flags ask for, where the model can run them.

For: from flags to ``SamplerConfig``, and which of them a model lacks an input for.  Not for: what the samplers do
(``maskdiff.sampling.presets``).  Easy to get wrong: flags that refine a sampler (steps, temperature) also apply to all of the
usual handful; flags that name one replace the handful, and each of them adds samplers of its own: they do not combine.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from maskdiff.config import SamplerConfig
from maskdiff.errors import ConfigError
from maskdiff.models.denoiser import INPUTS, Denoiser, reads
from maskdiff.sampling.compose import Speculate
from maskdiff.sampling.presets import make_sampler
from maskdiff.sampling.stage import Chain, Sampler
from maskdiff.sampling.unmask import Unmask

HANDFUL = (
    SamplerConfig("autoregressive", steps=0),
    SamplerConfig("speculative", steps=0),
    SamplerConfig(
        "coupled_left_to_right", steps=0
    ),  # like the next, only of models that read the noise of the draw
    SamplerConfig("coupled", steps=12),
    SamplerConfig("entropy", steps=0),
    SamplerConfig("speculative", steps=12),
    SamplerConfig("hybrid", steps=12, num_ar_tokens=3),
    SamplerConfig("hybrid_speculative", steps=12, num_ar_tokens=3),
    SamplerConfig("maskgit", steps=12),
    SamplerConfig("naive", steps=5),
)
# Presets whose tokens the causal mode verifies: no evidence about the bidirectional mode alone.
VERIFIED = frozenset(
    ["speculative", "hybrid_speculative", "verified", "certain_prefix", "predictive"]
)


def choose_samplers(args: argparse.Namespace) -> tuple[SamplerConfig, ...]:
    """The samplers that the flags of ``benchmark.py`` ask for; with ``--grammar`` each without it and with it.

    Raises ``ConfigError`` on a setting that cannot be.
    """
    steps, temperature, ar = args.maskgit_steps, args.temperature, args.num_ar_tokens
    if temperature is not None and not 0.0 <= temperature <= 100.0:
        raise ConfigError(
            f"temperature {temperature} is impossible: give one from 0 (argmax) to 100"
        )
    names = named(args)
    chosen: Sequence[SamplerConfig] = [SamplerConfig(name) for name in names] or HANDFUL
    made = []
    for config in chosen:
        made.append(
            SamplerConfig(
                config.sampler,
                steps=config.steps
                if steps is None or config.sampler == "autoregressive"
                else steps,
                num_ar_tokens=config.num_ar_tokens if ar is None else ar,
                temperature=config.temperature if temperature is None else temperature,
                top_p=config.top_p,
            )
        )
        make_sampler(
            made[-1]
        )  # an unknown name or an impossible setting fails before anything is measured
    if args.grammar:
        made += [replace(config, grammar=True) for config in made]
    return tuple(dict.fromkeys(made))


def named(args: argparse.Namespace) -> list[str]:
    """The presets that the flags name, in a fixed order; empty for the handful."""
    linear = args.maskgit_schedule == "linear"
    flags = (
        (
            args.use_maskgit or (args.maskgit_schedule and not args.no_maskgit),
            "maskgit_linear" if linear else "maskgit",
        ),
        (args.no_maskgit, "naive"),
        (args.use_hybrid, "hybrid"),
        (args.use_hybrid, "hybrid_speculative"),
        (args.coarse_to_fine, "coarse_to_fine"),
        (args.use_self_cond, "self_conditioned"),
    )
    return list(dict.fromkeys([*(args.sampler or ()), *(name for wanted, name in flags if wanted)]))


# -------------------------------------------------------------------------------------------------- what a model can run


def needs(sampler: Sampler) -> frozenset[str]:
    """The optional inputs that a denoiser must read for this sampler to run."""
    if isinstance(sampler, Chain):
        return frozenset().union(*map(needs, sampler.stages))
    if isinstance(sampler, Speculate):
        return needs(sampler.finish)
    return sampler.needs if isinstance(sampler, Unmask) else frozenset()


def missing(config: SamplerConfig, denoiser: Denoiser) -> list[str]:
    """What the model would have to be trained with for this sampler."""
    return [
        INPUTS[name] for name in sorted(needs(make_sampler(config))) if not reads(denoiser, name)
    ]


def fitting(configs: Iterable[SamplerConfig], denoiser: Denoiser) -> tuple[SamplerConfig, ...]:
    """Those that the denoiser can run."""
    return tuple(config for config in configs if not missing(config, denoiser))


def check_fit(configs: Iterable[SamplerConfig], denoisers: Mapping[str, Denoiser]) -> list[str]:
    """A line for each named denoiser that a sampler is left out of.  Raises ``ConfigError`` if no denoiser can run one."""
    lines = []
    for config in configs:
        lacking = {
            name: flags
            for name, denoiser in denoisers.items()
            if (flags := missing(config, denoiser))
        }
        if lacking and len(lacking) == len(denoisers):
            wanted = " and ".join(next(iter(lacking.values())))
            raise ConfigError(
                f"sampler {config.sampler} needs a model trained with {wanted}; choose another sampler or checkpoint"
            )
        lines += [
            f"{name} was trained without {' and '.join(f)}: {config.sampler} is left out"
            for name, f in lacking.items()
        ]
    return list(dict.fromkeys(lines))
