"""Fixtures that make the suites fast where a test does not look at what they change."""

from __future__ import annotations

import pytest

from maskdiff.evaluation import generation, yardsticks
from maskdiff.evaluation.rows import Plan
from maskdiff.languages import Language


@pytest.fixture
def few_references(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare samples with 100 held-out strings instead of 2000."""
    original = generation.held_out_texts

    def few(language: Language, count: int, plan: Plan) -> list[str]:
        return original(language, min(count, 100), plan)

    monkeypatch.setattr(generation, "held_out_texts", few)


@pytest.fixture(autouse=True)
def few_training_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fit the yardsticks of languages without a corpus on 300 strings instead of 20,000."""
    monkeypatch.setattr(yardsticks, "TRAINING", 300)
    monkeypatch.setattr(yardsticks, "VALIDATION", 50)
