"""Options of everything: default, help and range of each, in dataclasses by subject.

`options` defines and checks an option; `training`, `decoding`, `stepwise` and `distillation` hold
the sections; `limits` holds shared bounds. YAML files and flags are read by `config_io`.
"""

from maskdiff.config.decoding import CompletionConfig, ControlConfig, DecodeConfig, SamplerConfig
from maskdiff.config.distillation import DistillationConfig
from maskdiff.config.limits import (
    CANDIDATES,
    MAX_ALTERNATIVES,
    MAX_BEAM,
    MAX_BOUND,
    MAX_CHANGE,
    MAX_COUNT,
    MAX_HELD_TOKENS,
    MAX_LENGTH,
    MAX_MEASURED,
    MAX_PARAMETERS,
    MAX_PLACE,
    MAX_RATE,
    MAX_SEED,
    MAX_STEP_TOKENS,
    MAX_STRINGS,
    MAX_THREADS,
    MAX_VALIDATED_TOKENS,
    MOST_CANDIDATES,
)
from maskdiff.config.options import KINDS, Section, checked, mode_share, option, range_text
from maskdiff.config.stepwise import BackendConfig, StepConfig
from maskdiff.config.training import Config, LanguageConfig, ModelConfig, NoiseConfig, TrainConfig

__all__ = [
    "CANDIDATES",
    "KINDS",
    "MAX_ALTERNATIVES",
    "MAX_BEAM",
    "MAX_BOUND",
    "MAX_CHANGE",
    "MAX_COUNT",
    "MAX_HELD_TOKENS",
    "MAX_LENGTH",
    "MAX_MEASURED",
    "MAX_PARAMETERS",
    "MAX_PLACE",
    "MAX_RATE",
    "MAX_SEED",
    "MAX_STEP_TOKENS",
    "MAX_STRINGS",
    "MAX_THREADS",
    "MAX_VALIDATED_TOKENS",
    "MOST_CANDIDATES",
    "BackendConfig",
    "CompletionConfig",
    "Config",
    "ControlConfig",
    "DecodeConfig",
    "DistillationConfig",
    "LanguageConfig",
    "ModelConfig",
    "NoiseConfig",
    "SamplerConfig",
    "Section",
    "StepConfig",
    "TrainConfig",
    "checked",
    "mode_share",
    "option",
    "range_text",
]
