"""Experiments on self-distillation: does a teacher's signal get worse with position, and does regenerating mend it?

    python -m maskdiff.distillation --experiment all --out DIR

See docs/distillation.md.
"""
