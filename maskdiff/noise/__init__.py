"""Noise: clean strings become canvases to train on.

Pure functions, vectorised over the batch, with a `torch.Generator` passed in. `modes` is the table
of training objectives; `canvases` holds the dataclasses, `schedule` the noise levels, `masking`,
`edits` (the mixed corruption), `skeleton` and `open_ended` one kind of noise each, `reference` that
of the reproduced experiment, and `coupling` the random numbers of a draw.

The model sees sigma 0 where every visible token is right, because the number of masks is visible,
and the noise level where tokens may be wrong; `NoiseConfig.sigma_input` changes that.
"""

from maskdiff.noise.canvases import IGNORE, Canvases, Strings, make_canvases, pad
from maskdiff.noise.coupling import exponentials, posterior_gumbel
from maskdiff.noise.edits import mixed_corruption, on_canvas, repair_noise
from maskdiff.noise.masking import causal_canvas, mask_exactly, mask_noise
from maskdiff.noise.modes import MODES, Mode, mixture, mode_number
from maskdiff.noise.open_ended import open_noise
from maskdiff.noise.reference import reference_noise
from maskdiff.noise.schedule import draw_sigma
from maskdiff.noise.skeleton import skeleton_noise

__all__ = [
    "IGNORE",
    "MODES",
    "Canvases",
    "Mode",
    "Strings",
    "causal_canvas",
    "draw_sigma",
    "exponentials",
    "make_canvases",
    "mask_exactly",
    "mask_noise",
    "mixed_corruption",
    "mixture",
    "mode_number",
    "on_canvas",
    "open_noise",
    "pad",
    "posterior_gumbel",
    "reference_noise",
    "repair_noise",
    "skeleton_noise",
]
