"""Noisy-channel repair: the strings x of length n that best explain a damaged string y.

    x* = argmax  log p(x | n)  +  log p(n)  +  log p(y | x)    (Shannon; Kernighan et al. 1990)

`p(x | n)` is the causal mode of a denoiser, `p(n)` the length distribution of the language, and
`p(y | x)` a `Channel` of masks, substitutions, swaps, deletions and insertions.

A beam of prefixes of x searches for x*. The channel is summed exactly over all alignments: every
prefix carries `alpha[j]`, the probability that the prefix became y[:j] (the forward algorithm, as
in CTC prefix search 1408.2873), so all hypotheses of the beam are different prefixes. They have
equal lengths, so one cached causal step serves all of them. Prefixes that have explained different
parts of y are compared after adding the best possible cost of the rest of y (`rest_costs`, A*).
"""

from __future__ import annotations

from maskdiff.repair.beam import Repaired, candidate_lengths, repair_channel
from maskdiff.repair.channel import Channel, Evidence, channel_log_probs, rest_costs
from maskdiff.repair.damage import DAMAGES, Damage, FewEdits, named_damage
from maskdiff.repair.damage_fit import damage_of_file, fit_damage
from maskdiff.repair.neighbours import EditWeights, likely_neighbours
from maskdiff.repair.truncation import Truncation, likely_continuations

__all__ = [
    "DAMAGES",
    "Channel",
    "Damage",
    "EditWeights",
    "Evidence",
    "FewEdits",
    "Repaired",
    "Truncation",
    "candidate_lengths",
    "channel_log_probs",
    "damage_of_file",
    "fit_damage",
    "likely_continuations",
    "likely_neighbours",
    "named_damage",
    "repair_channel",
    "rest_costs",
]
