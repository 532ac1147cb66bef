"""The corpus of SQL statements: how it is extracted, and the judge."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import EXAMPLES
from tests.helpers.scripts import example

pytest.importorskip("sqlglot")
FOLDER = EXAMPLES / "sql"
LINES = (FOLDER / "corpus.txt").read_text().splitlines()


@pytest.mark.slow
def test_every_line_of_the_corpus_is_valid() -> None:
    judge = example("sql/judge.py")
    assert all(map(judge.is_valid, LINES))


def test_lines_are_distinct_and_short() -> None:
    assert len(set(LINES)) == len(LINES) > 2000
    assert max(map(len, LINES)) <= 126


def test_the_licence_is_beside_the_data() -> None:
    text = (FOLDER / "LICENSE").read_text()
    assert "MIT License" in text
    assert "Toby Mao" in text


@pytest.mark.parametrize("text", ["SELECT a FROM", "SELECT (1", "SELECT 'a", "", ")", "(" * 126])
def test_the_judge_refuses_what_sqlglot_cannot_parse(text: str) -> None:
    assert not example("sql/judge.py").is_valid(text)


def test_statements_are_extracted_from_a_source_folder(tmp_path: Path) -> None:
    """Comments, expressions, invalid, long and repeated statements are left out."""
    fixtures = tmp_path / "tests" / "fixtures"
    (fixtures / "optimizer" / "tpc-h").mkdir(parents=True)
    (fixtures / "identity.sql").write_text("SELECT 1; x\nSELECT a FROM b\nx + 1\nSELECT ?\n")
    (fixtures / "optimizer" / "some.sql").write_text(
        f"# title\n-- note\nSELECT\n  a\nFROM b;\nSELECT (;\nSELECT c;\nSELECT {'d' * 126};\n"
    )
    (fixtures / "optimizer" / "tpc-h" / "tpc-h.sql").write_text("SELECT e;\n")
    (fixtures / "some__invalid.sql").write_text("SELECT f;\n")
    out = tmp_path / "corpus.txt"
    command = [sys.executable, FOLDER / "make_corpus.py", tmp_path, "--out", out]
    subprocess.run(command, check=True, stdout=subprocess.PIPE)
    assert out.read_text().splitlines() == ["SELECT 1; x", "SELECT a FROM b", "SELECT c"]
