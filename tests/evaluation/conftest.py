"""A fixture of the tests that run the generation suite and do not look at its histograms."""

from __future__ import annotations

import pytest

from maskdiff.evaluation import generation
from maskdiff.evaluation.rows import Plan
from maskdiff.languages import Language


@pytest.fixture
def few_references(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare samples with 100 held-out strings instead of 2000."""
    original = generation.held_out_texts

    def few(language: Language, count: int, plan: Plan) -> list[str]:
        return original(language, min(count, 100), plan)

    monkeypatch.setattr(generation, "held_out_texts", few)
