"""The commands of the page about repairing a column run as printed, with fewer training steps."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from tests.helpers.pages import run_page, runnable_blocks
from tests.helpers.paths import DOCS

PAGE = DOCS / "repair-a-file.md"


def test_the_page_names_its_commands() -> None:
    text = "\n".join(runnable_blocks(PAGE))
    for words in ("--language good.csv --field rule", "--column rule --output fixed.csv"):
        assert words in text


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file, delimiter=";"))


@pytest.mark.slow
def test_the_page_repairs_a_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_page(PAGE, tmp_path)
    err = capsys.readouterr().err
    counts = [
        [int(n) for n in found]
        for found in re.findall(r"(\d+) repaired, (\d+) un.*, (\d+) left", err)
    ]
    assert [sum(each) for each in counts] == [12, 2]
    before, after = rows(tmp_path / "data.csv"), rows(tmp_path / "fixed.csv")
    assert [(row[0], row[2]) for row in before] == [(row[0], row[2]) for row in after]
    assert sum(a != b for a, b in zip(before, after, strict=True)) == counts[0][0]
    assert len((tmp_path / "lines.txt").read_text().splitlines()) == 2
