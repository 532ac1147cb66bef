"""The commands of the tutorial run as printed, in a temporary folder, with smaller numbers."""

from __future__ import annotations

import re

import pytest

from tests.helpers.pages import run_page, runnable_blocks
from tests.helpers.paths import DOCS

TUTORIAL = DOCS / "tutorial.md"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the output of each block."""
    return run_page(TUTORIAL, tmp_path_factory.mktemp("tutorial"))


def test_tutorial_page_has_all_its_sections() -> None:
    text = "\n".join(runnable_blocks(TUTORIAL))
    for program in (
        "train_universal.py",
        "inference.py repair",
        "inference.py edit",
        "inference.py generate",
        "benchmark.py",
    ):
        assert f"python {program}" in text


@pytest.mark.slow
def test_tutorial_runs_and_prints_what_it_states(outputs: list[str]) -> None:
    lines, fitted, training, free, _, under, measured = outputs
    assert lines.splitlines()[0].startswith(("every ", "if "))
    assert "nats per symbol" in fitted
    assert "steps" in training
    assert all(line.split("\t")[1] == "unchecked" for line in free.splitlines())
    first = [line for line in under.splitlines() if "\t" in line and not line.startswith(" ")]
    assert len(first) == 7  # a repair, an edit, five new lines; alternatives are indented
    assert all(line.split("\t")[1] == "parses" for line in first)
    assert re.search(
        r"^least_edits .*100\.0 \[", measured, flags=re.MULTILINE
    )  # its row: all that it gives parses
    assert re.search(r"^channel\+grammar .*100\.0 \[", measured, flags=re.MULTILINE)
    assert re.search(r"maskgit .*grammar=True +100\.0", measured)
