"""The commands of the page of examples run as printed, on fewer lines and without training."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.helpers.pages import WHOLE, run_page, runnable_blocks
from tests.helpers.paths import DOCS, EXAMPLES

PAGE = DOCS / "examples.md"


def test_the_page_fits_and_measures_both_languages() -> None:
    text = "\n".join(runnable_blocks(PAGE))
    for name in ("cron", "sql"):
        assert f"maskdiff fit examples/{name}" in text
        assert f'--language examples/{name} --validity "judge:is_valid?"' in text
    assert "train_universal.py" not in text


def shorten(examples: Path) -> None:
    """Leave 500 lines of one corpus, and the lines of less than 35 symbols of the other."""
    script, corpus = examples / "cron/make_corpus.py", examples / "sql/corpus.txt"
    text = script.read_text()
    drawn = "LINES, LONGEST, SEED = 6000"
    assert drawn in text
    script.write_text(text.replace(drawn, "LINES, LONGEST, SEED = 500"))
    corpus.write_text("".join(line for line in corpus.open() if len(line) <= 35))


@pytest.mark.slow
def test_the_page_runs(tmp_path: Path) -> None:
    for judge in ("croniter", "sqlglot"):
        pytest.importorskip(judge)
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    if not WHOLE:
        shorten(tmp_path / "examples")
    cron, cron_figures, sql, sql_figures = run_page(PAGE, tmp_path)
    assert "0 9-17 * * MON-FRI\tparses" in cron
    assert "SELECT a FROM x WHERE b = 1\tparses" in sql
    for figures in (cron_figures, sql_figures):
        assert "nats_per_symbol" in figures
        assert "generation, strings" in figures
    assert "bayes_optimal: exact" in cron_figures
