"""Which samplers a benchmark measures: the usual handful, or what flags ask for.

For: from flags to ``SamplerConfig``.  Not for: what the samplers do (``maskdiff.sampling.presets``).  Easy to get wrong:
flags that refine a sampler (steps, temperature) also apply to every sampler of the usual handful; flags that name one replace
the handful.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from maskdiff.config import SamplerConfig
from maskdiff.errors import ConfigError
from maskdiff.sampling.presets import make_sampler

HANDFUL = (
    SamplerConfig("autoregressive", steps=0),
    SamplerConfig("margin", steps=0),
    SamplerConfig("entropy", steps=0),
    SamplerConfig("information", steps=12),
    SamplerConfig("maskgit", steps=12),
    SamplerConfig("hybrid", steps=12, num_ar_tokens=3),
    SamplerConfig("verified", steps=12),
    SamplerConfig("naive", steps=5),
)


def choose_samplers(args: argparse.Namespace) -> tuple[SamplerConfig, ...]:
    """The samplers that the flags of ``benchmark.py`` ask for.  Raises ``ConfigError`` on a setting that cannot be."""
    steps, temperature, ar = args.maskgit_steps, args.temperature, args.num_ar_tokens
    if temperature is not None and not 0.0 <= temperature <= 100.0:
        raise ConfigError(f"temperature {temperature} is impossible: give one from 0 (argmax) to 100")
    names = _named(args)
    chosen: Sequence[SamplerConfig] = [SamplerConfig(name) for name in names] or HANDFUL
    made = []
    for config in chosen:
        made.append(
            SamplerConfig(
                config.sampler,
                steps=config.steps if steps is None or config.sampler == "autoregressive" else steps,
                num_ar_tokens=config.num_ar_tokens if ar is None else ar,
                temperature=config.temperature if temperature is None else temperature,
                top_p=config.top_p,
            )
        )
        make_sampler(made[-1])  # an unknown name or an impossible setting fails before anything is measured
    return tuple(dict.fromkeys(made))


def _named(args: argparse.Namespace) -> list[str]:
    """The presets that the flags name, in a fixed order; empty for the handful."""
    linear = args.maskgit_schedule == "linear"
    flags = (
        (args.use_maskgit or (args.maskgit_schedule and not args.no_maskgit), "maskgit_linear" if linear else "maskgit"),
        (args.no_maskgit, "naive"),
        (args.use_hybrid, "hybrid"),
        (args.coarse_to_fine, "coarse_to_fine"),
        (args.use_self_cond, "self_conditioned"),
    )
    return list(dict.fromkeys([*(args.sampler or ()), *(name for wanted, name in flags if wanted)]))
