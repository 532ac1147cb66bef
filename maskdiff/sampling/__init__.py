"""Samplers: everything that turns a canvas with blanks into strings.

For: one unmasking loop (``Unmask``), the causal mode (``Autoregressive``, ``Predictive``), compositions of them, and presets.
Not for: files, training, evaluation.  Easy to get wrong: ``Canvas`` takes lengths in symbols; tensors named ``length``
count BOS and EOS too.
"""

from maskdiff.sampling.autoregressive import Autoregressive, causal_log_prob
from maskdiff.sampling.canvas import Canvas, Sample
from maskdiff.sampling.denoiser import CausalStream, Denoiser, ModelDenoiser, causal_stream
from maskdiff.sampling.parallel import Unmask
from maskdiff.sampling.remask import Cap, Confidence, Reconsider, Rescale
from maskdiff.sampling.sampler import Chain, Sampler, Stage
from maskdiff.sampling.schedule import Ancestral, Cosine, EntropyBound, Everything, Information, Linear, Threshold
from maskdiff.sampling.trace import Trace

__all__ = [
    "Ancestral", "Autoregressive", "Canvas", "Cap", "CausalStream", "Chain", "Confidence", "Cosine", "Denoiser", "EntropyBound",
    "Everything", "Information", "Linear", "ModelDenoiser", "Reconsider", "Rescale", "Sample", "Sampler", "Stage", "Threshold",
    "Trace", "Unmask", "causal_log_prob", "causal_stream",
]  # fmt: skip
