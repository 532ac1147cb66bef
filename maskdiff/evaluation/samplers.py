"""Which samplers a benchmark measures: the usual ones, or those that flags name.

Flags that refine a sampler (steps, temperature) apply to all. Each flag that names a sampler adds
one; together they replace the usual ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import replace

from maskdiff.config import SamplerConfig
from maskdiff.errors import ConfigError
from maskdiff.models.denoiser import INPUTS, Denoiser, reads
from maskdiff.sampling.compose import Speculate
from maskdiff.sampling.presets import make_sampler
from maskdiff.sampling.stage import Chain, Sampler
from maskdiff.sampling.unmask import Unmask

USUAL = (
    SamplerConfig("autoregressive", steps=0),
    SamplerConfig("speculative", steps=0),
    SamplerConfig("coupled_left_to_right", steps=0),  # of models that read the noise, like the next
    SamplerConfig("coupled", steps=12),
    SamplerConfig("entropy", steps=0),
    SamplerConfig("speculative", steps=12),
    SamplerConfig("hybrid", steps=12, num_ar_tokens=3),
    SamplerConfig("hybrid_speculative", steps=12, num_ar_tokens=3),
    SamplerConfig("maskgit", steps=12),
    SamplerConfig("naive", steps=5),
)


def choose_samplers(args: argparse.Namespace) -> tuple[SamplerConfig, ...]:
    """Return the samplers that the flags ask for; with `--grammar` each without it and with it.

    Raises:
        ConfigError: A name or a setting is impossible.
    """
    if args.temperature is not None and not 0.0 <= args.temperature <= 100.0:
        raise ConfigError(
            f"temperature {args.temperature} is impossible: give one from 0 (argmax) to 100"
        )
    flags = {
        "steps": args.maskgit_steps,
        "num_ar_tokens": args.num_ar_tokens,
        "temperature": args.temperature,
    }
    given = {name: value for name, value in flags.items() if value is not None}
    made = []
    for config in [SamplerConfig(name) for name in named_presets(args)] or USUAL:
        own = dict(given)
        if config.sampler == "autoregressive":  # it ignores steps: keep one row
            own.pop("steps", None)
        made.append(replace(config, **own))
        make_sampler(made[-1])  # an impossible one fails before anything is measured
    if args.grammar:
        made += [replace(config, grammar=True) for config in made]
    return tuple(dict.fromkeys(made))


def named_presets(args: argparse.Namespace) -> list[str]:
    """Return the presets that the flags name, in a fixed order; empty for the usual ones."""
    linear = args.maskgit_schedule == "linear"
    maskgit = args.use_maskgit or (args.maskgit_schedule and not args.no_maskgit)
    flags = (
        (maskgit, "maskgit_linear" if linear else "maskgit"),
        (args.no_maskgit, "naive"),
        (args.use_hybrid, "hybrid"),
        (args.use_hybrid, "hybrid_speculative"),
        (args.coarse_to_fine, "coarse_to_fine"),
        (args.use_self_cond, "self_conditioned"),
    )
    return list(dict.fromkeys([*(args.sampler or ()), *(name for wanted, name in flags if wanted)]))


# ----------------------------------------------------------------------- samplers that a model runs


def required_inputs(sampler: Sampler) -> frozenset[str]:
    """Return the optional inputs that a denoiser must read for this sampler to run."""
    if isinstance(sampler, Chain):
        return frozenset().union(*map(required_inputs, sampler.stages))
    if isinstance(sampler, Speculate):
        return required_inputs(sampler.finish)
    return sampler.needs if isinstance(sampler, Unmask) else frozenset()


def missing(config: SamplerConfig, denoiser: Denoiser) -> list[str]:
    """Return the flags that the model would have to be trained with for this sampler."""
    required = sorted(required_inputs(make_sampler(config)))
    return [INPUTS[name] for name in required if not reads(denoiser, name)]


def fitting(configs: Iterable[SamplerConfig], denoiser: Denoiser) -> tuple[SamplerConfig, ...]:
    """Return the samplers that the denoiser can run."""
    return tuple(config for config in configs if not missing(config, denoiser))


def check_fit(configs: Iterable[SamplerConfig], denoisers: Mapping[str, Denoiser]) -> list[str]:
    """Return a line for each named denoiser that a sampler is left out of.

    Raises:
        ConfigError: No denoiser can run a sampler.
    """
    lines = []
    for config in configs:
        lacking = {
            name: " and ".join(flags)
            for name, denoiser in denoisers.items()
            if (flags := missing(config, denoiser))
        }
        if lacking and len(lacking) == len(denoisers):
            raise ConfigError(
                f"sampler {config.sampler} needs a model trained with "
                f"{next(iter(lacking.values()))}; choose another sampler or checkpoint"
            )
        lines += [
            f"{name} was trained without {flags}: {config.sampler} is left out"
            for name, flags in lacking.items()
        ]
    return list(dict.fromkeys(lines))
