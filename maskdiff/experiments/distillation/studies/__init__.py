"""The five experiments, one module each, in the order of their numbers."""

from __future__ import annotations

from maskdiff.experiments.distillation.studies.positions import Positions
from maskdiff.experiments.distillation.studies.protocol import (
    Conclusion,
    Experiment,
    ResultTable,
    Series,
)
from maskdiff.experiments.distillation.studies.rewards import Rewards
from maskdiff.experiments.distillation.studies.tokens import Tokens
from maskdiff.experiments.distillation.studies.training import Training
from maskdiff.experiments.distillation.studies.windows import Windows

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (Rewards(), Positions(), Training(), Windows(), Tokens())
}

__all__ = ["EXPERIMENTS", "Conclusion", "Experiment", "ResultTable", "Series"]
