"""The five experiments, one file each, in the order in which they are numbered.

For: `EXPERIMENTS`. Not for: running them (`maskdiff.experiments.distillation.runner`). Easy to get wrong: an experiment measures one seed
at a time and concludes from all of them, so that what was measured is kept and an interrupted run goes on.
"""

from __future__ import annotations

from maskdiff.experiments.distillation.studies.positions import Positions
from maskdiff.experiments.distillation.studies.protocol import Conclusion, Experiment, Series, Table
from maskdiff.experiments.distillation.studies.rewards import Rewards
from maskdiff.experiments.distillation.studies.tokens import Tokens
from maskdiff.experiments.distillation.studies.training import Training
from maskdiff.experiments.distillation.studies.windows import Windows

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (Rewards(), Positions(), Training(), Windows(), Tokens())
}

__all__ = ["EXPERIMENTS", "Conclusion", "Experiment", "Series", "Table"]
