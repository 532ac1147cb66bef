"""Noise: clean strings become canvases to train on.

For: masking, the mixed corruption, skeletons, next-token canvases, noise schedules and the mixture of modes; pure functions,
vectorised over the batch, with a ``torch.Generator`` passed in.  Not for: models, loops, or packing strings into rows
(``maskdiff.data``).  Easy to get wrong: the model is told sigma 0 wherever every visible token is right (the number of masks
is visible), and the level only where tokens may be wrong; ``NoiseConfig.sigma_input`` changes that.

One idea per file: ``canvases`` (the dataclasses), ``schedule`` (sigma), ``masking``, ``edits`` (mixed corruption, repair),
``skeleton``, ``open_ended``, ``mixture``, ``coupling`` (the random numbers of a draw, as an input).
"""

from maskdiff.noise.canvases import (
    CAUSAL,
    IGNORE,
    MASKED,
    MODES,
    OPEN,
    REPAIR,
    SKELETON,
    Canvases,
    Strings,
    pad,
)
from maskdiff.noise.coupling import exponentials, posterior_gumbel
from maskdiff.noise.edits import mixed_corruption, on_canvas, repair_noise
from maskdiff.noise.masking import causal_canvas, mask_exactly, mask_noise
from maskdiff.noise.mixture import mixture, reference_noise
from maskdiff.noise.open_ended import open_noise
from maskdiff.noise.schedule import draw_sigma
from maskdiff.noise.skeleton import skeleton_noise

__all__ = [
    "CAUSAL",
    "IGNORE",
    "MASKED",
    "MODES",
    "OPEN",
    "REPAIR",
    "SKELETON",
    "Canvases",
    "Strings",
    "causal_canvas",
    "draw_sigma",
    "exponentials",
    "mask_exactly",
    "mask_noise",
    "mixed_corruption",
    "mixture",
    "on_canvas",
    "open_noise",
    "pad",
    "posterior_gumbel",
    "reference_noise",
    "repair_noise",
    "skeleton_noise",
]
