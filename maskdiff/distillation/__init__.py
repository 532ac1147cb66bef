"""An alias: `python -m maskdiff.distillation` runs `maskdiff.experiments.distillation`."""
