"""Experiments on self-distillation: is a teacher's signal worse late in an answer?

    python -m maskdiff.experiments.distillation --experiment all --out DIR

See docs/distillation.md.
"""
