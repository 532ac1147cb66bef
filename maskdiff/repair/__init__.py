"""Noisy-channel repair: the strings x of length n that best explain a damaged string y, by a beam of prefixes of x.

    x* = argmax  log p(x | n)  +  log p(n)  +  log p(y | x)        (Shannon's noisy channel; Kernighan et al. 1990)

`p(x | n)` is the causal mode of a denoiser, `p(n)` the language's length distribution and `p(y | x)` a `Channel` of masks,
substitutions, swaps, deletions and insertions. Not for: parallel refinement of a draft (`tasks.repair` with method draft).

The channel is summed exactly over all alignments: every prefix of the beam carries `alpha[j]`, the probability of the prefix
having become y[:j] (the forward algorithm, as in CTC prefix search 1408.2873), so no two hypotheses are ever the same prefix
and nothing has to be merged. All hypotheses have emitted the same number of symbols, so one cached causal step serves them.
Easy to get wrong: prefixes that have explained different parts of y are comparable only after adding what the rest of y will
cost at best (`rest_costs`, the A* part of the beam); without it the beam fills with prefixes that put the hard symbols off.
"""

from __future__ import annotations

from maskdiff.repair.beam import Repaired, candidate_lengths, repair_channel
from maskdiff.repair.channel import Channel, Evidence, channel_log_probs, rest_costs

__all__ = [
    "Channel",
    "Evidence",
    "Repaired",
    "candidate_lengths",
    "channel_log_probs",
    "repair_channel",
    "rest_costs",
]
