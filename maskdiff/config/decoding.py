"""Options of drawing strings: samplers, completion, penalties and stopping."""

from __future__ import annotations

from dataclasses import dataclass, field

from maskdiff.config.limits import MAX_LENGTH, MOST_CANDIDATES
from maskdiff.config.options import Section, fraction, option


@dataclass(frozen=True)
class SamplerConfig(Section):
    """How canvases are filled; see docs/samplers.md."""

    sampler: str = option(
        "autoregressive", "preset that the other settings refine; see docs/samplers.md"
    )
    steps: int = option(
        12,
        "evaluations of a string, causal ones included; 0: one per token, or no limit",
        low=0,
        high=10**6,
    )
    num_ar_tokens: int = option(
        3, "causal tokens before the parallel part of the hybrid", low=0, high=MAX_LENGTH
    )
    temperature: float = option(1.0, "of the token distribution; 0 is argmax", low=0.0, high=100.0)
    top_p: float = fraction(1.0, "smallest set of tokens with this mass is kept")
    grammar: bool = option(
        False, "condition every draw on the language's grammar, so that every string parses"
    )


@dataclass(frozen=True)
class CompletionConfig(Section):
    """How a typed text is completed; see docs/completion.md."""

    mode: str = option(
        "auto",
        "which token histories are evaluated",
        choices=("auto", "exact", "beam", "canonical"),
    )
    budget: int = option(
        4096,
        "largest number of histories in exact mode, and up to which auto is exact",
        low=1,
        high=10**6,
    )
    beam: int = option(
        32, "histories that beam mode keeps at every byte of the typed text", low=1, high=10**5
    )
    prior: str = option(
        "auto",
        "distribution of the strings: auto is the mixture of the model with its n-gram where "
        "training found that it predicts held-out lines better, model is the model alone",
        choices=("auto", "model"),
    )
    temperature: float = option(
        1.0, "of the conditioned distribution; 0 is argmax", low=0.0, high=100.0
    )
    top_p: float = fraction(1.0, "smallest set of tokens with this conditioned mass is kept")
    candidates: int = option(
        1, "draws of a string until one is valid; 1 takes any", low=1, high=MOST_CANDIDATES
    )


@dataclass(frozen=True)
class ControlConfig(Section):
    """Penalties, truncation and stopping; see docs/repetition.md. The defaults change nothing."""

    repetition_penalty: float = option(
        1.0,
        "logits of earlier tokens are divided by it, or multiplied below 0 (1909.05858)",
        low=0.01,
        high=100.0,
    )
    presence_penalty: float = option(
        0.0, "subtracted from the logit of every token drawn before", low=-100.0, high=100.0
    )
    frequency_penalty: float = option(
        0.0,
        "subtracted from the logit of a token for each time that it was drawn",
        low=-100.0,
        high=100.0,
    )
    no_repeat_ngram: int = option(
        0,
        "no n-gram of this length is written twice, from left to right (1705.04304); 0 is off",
        low=0,
        high=1024,
    )
    dry_multiplier: float = option(
        0.0,
        "DRY: subtracted from the logit of a token that continues a repetition; 0 is off",
        low=0.0,
        high=100.0,
    )
    dry_base: float = option(
        1.75, "DRY: factor of the penalty for each further matching token", low=1.0, high=10.0
    )
    dry_allowed_length: int = option(
        2, "DRY: matching tokens up to which the penalty does not grow", low=1, high=50
    )
    dry_breakers: str = option("", "DRY: symbols that no match contains or begins with")
    dry_range: int = option(
        0, "DRY: number of last tokens searched for matches; 0 is all", low=0, high=MAX_LENGTH
    )
    exempt_prompt: bool = option(False, "given tokens do not count as drawn before")
    min_p: float = fraction(0.0, "drop tokens below this share of the probability of the likeliest")
    top_k: int = option(
        0, "only this many of the likeliest tokens are drawn; 0 is all", low=0, high=10**6
    )
    stop: tuple[str, ...] = option(
        (), "the string ends before the first of these texts; may be given several times"
    )
    stop_token: tuple[str, ...] = option(
        (), "a token with exactly this text ends the string; may be given several times"
    )
    first_complete: bool = option(
        False, "keep only the first string of an output that parses, by the parser of the language"
    )
    max_tokens: int = option(
        0,
        "most tokens of a string, given ones included; 0 is the maximum of training",
        low=0,
        high=MAX_LENGTH,
    )
    loop_period: int = option(
        0, "longest period of a loop that ends the string; 0 is off", low=0, high=1024
    )
    loop_repeats: int = option(4, "repetitions of a period that make a loop", low=2, high=1024)


@dataclass(frozen=True)
class DecodeConfig:
    """All options of drawing strings: the settings files of `inference.py`."""

    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    completion: CompletionConfig = field(default_factory=CompletionConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
