"""Samplers: from a canvas with blanks to strings.

One unmasking loop (`Unmask`), the causal mode (`Autoregressive`, `Predictive`), compositions of
them, and presets by name. `Canvas` takes lengths in symbols; tensors named `length` count BOS and
EOS too.
"""

from maskdiff.constraints.grammar import GrammarConstraint
from maskdiff.drawing.penalties import NO_PENALTIES, Penalties
from maskdiff.drawing.settings import Constraint, Draw
from maskdiff.drawing.stopping import NEVER, Stopping, StopText, cut_short
from maskdiff.models.continuation import CausalStream
from maskdiff.models.denoiser import Denoiser, ModelDenoiser, causal_stream
from maskdiff.sampling.autoregressive import Autoregressive, causal_log_prob
from maskdiff.sampling.canvas import Canvas, Sample
from maskdiff.sampling.compose import (
    Speculate,
    certain_prefix,
    coarse_to_fine,
    constrained,
    hybrid,
    one_shot,
    penalised,
    predictor_corrector,
    verified,
)
from maskdiff.sampling.predictive import Predictive
from maskdiff.sampling.presets import PRESETS, make_sampler
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
from maskdiff.sampling.stage import Chain, Sampler, Stage
from maskdiff.sampling.trace import Trace
from maskdiff.sampling.unmask import Unmask

__all__ = [
    "NEVER",
    "NO_PENALTIES",
    "PRESETS",
    "Ancestral",
    "Autoregressive",
    "Canvas",
    "Cap",
    "CausalStream",
    "Chain",
    "Confidence",
    "Constraint",
    "Cosine",
    "Denoiser",
    "Draw",
    "EntropyBound",
    "Everything",
    "GrammarConstraint",
    "Information",
    "Linear",
    "ModelDenoiser",
    "Penalties",
    "Predictive",
    "Reconsider",
    "Rescale",
    "Sample",
    "Sampler",
    "Speculate",
    "Stage",
    "StopText",
    "Stopping",
    "Threshold",
    "Trace",
    "Unmask",
    "causal_log_prob",
    "causal_stream",
    "certain_prefix",
    "coarse_to_fine",
    "constrained",
    "cut_short",
    "hybrid",
    "make_sampler",
    "one_shot",
    "penalised",
    "predictor_corrector",
    "verified",
]  # fmt: skip
