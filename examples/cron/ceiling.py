"""Prints the exact recovery of a Bayes-optimal repairer of one edit, the ceiling of any model.

    python examples/cron/ceiling.py --num_samples 300

The damaged lines are those of the suite `one_edit` of `benchmark.py` with the same `--num_samples`
and `--seed`. The repairer knows that there is exactly one edit, and the probability p with which
the generator of the corpus draws each line. The prior of a line is the probability that it is among
the distinct lines of N draws, 1 - (1 - p)^N.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

from make_corpus import CORPUS, draw_corpus, probability

from maskdiff import metrics
from maskdiff.config import LanguageConfig
from maskdiff.data import held_out
from maskdiff.evaluation.one_edit import DamagedStrings, most_probable, symbols_of
from maskdiff.evaluation.rows import Plan
from maskdiff.languages import make_language


@dataclass(frozen=True)
class Prior:
    """The probability that a line is in a corpus of the distinct lines of `draws` draws."""

    draws: int

    def log_prob(self, text: str) -> float:
        """Return the log-probability; -inf for a line that is never drawn."""
        p = probability(text)
        return math.log(-math.expm1(self.draws * math.log1p(-p))) if p > 0 else -math.inf


def optimum(num_samples: int, seed: int) -> metrics.Estimate:
    """Return the share of damaged lines whose most probable original is the right one."""
    language, plan = make_language(LanguageConfig(language=str(CORPUS.parent))), Plan(seed=seed)
    symbols, prior = symbols_of(language), Prior(draw_corpus()[1])
    clean = held_out(language, plan.split, num_samples, seed)
    noisy = DamagedStrings.draw(clean, 1, symbols, plan.rng(60)).noisy
    found = [most_probable(text, prior.log_prob, symbols) for text in noisy]
    return metrics.rate(a == b for a, b in zip(found, clean, strict=True))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_samples", type=int, default=200, help="lines (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="of lines and edits (default 0)")
    args = parser.parse_args()
    exact = optimum(args.num_samples, args.seed)
    interval = f"[{100 * exact.low:.1f}, {100 * exact.high:.1f}]"
    print(f"bayes_optimal: exact {100 * exact.value:.1f} {interval} of {exact.count} lines")
