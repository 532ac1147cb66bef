"""Names of suites, and defaults that the command line shows; nothing here imports torch."""

from __future__ import annotations

SUITE_NAMES = (
    "generation", "repair", "one_edit", "editing", "likelihood", "completion", "repetition",
    "solve", "speed",
)  # fmt: skip
DEFAULT_SUITES = ("generation", "repair", "editing", "likelihood")
# The suites for models that read pieces; other models have all suites.
PIECE_SUITES = ("completion", "repetition", "solve")
USUAL_METHODS = ("channel", "draft")  # of the repair suite
PROBLEM_SPLITS = ("test", "deeper")  # of the solve suite
