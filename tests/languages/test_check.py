"""`maskdiff languages check`: where Lark reads a grammar otherwise, and grammars it hangs on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from maskdiff.cli.maskdiff import main
from maskdiff.config import LanguageConfig
from maskdiff.errors import ConfigError
from maskdiff.languages.cfg import GrammarSource
from maskdiff.languages.check import check_folder
from maskdiff.languages.lark_reader import accepts, request

HOURS = "\n".join(f"{hour} h" for hour in range(24))


def folder(where: Path, grammar: str, lines: str) -> str:
    (where / "grammar.lark").write_text(grammar, encoding="utf-8")
    (where / "corpus.txt").write_text(lines, encoding="utf-8")
    return str(where)


@pytest.mark.slow
def test_a_grammar_that_lark_reads_otherwise_is_found_with_the_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = folder(tmp_path, 'start: HOUR " h"\nHOUR: /1?[0-9]|2[0-3]/', HOURS)
    assert main(["languages", "check", mine, "--draws", "50", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["lines"], found["both"], found["only_lark"], found["neither"]) == (24, 20, [], [])
    assert sorted(line for _, line in found["only_here"]) == ["20 h", "21 h", "22 h", "23 h"]
    assert found["refused"]
    assert not found["agrees"]


@pytest.mark.slow
def test_the_same_grammar_with_its_alternatives_exchanged_agrees(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = folder(
        tmp_path, 'start: HOUR " h"\nHOUR: /2[0-3]|1?[0-9]/\nother: "x"', HOURS + "\n24 h\n"
    )
    assert main(["languages", "check", mine, "--draws", "50"]) == 0
    printed = capsys.readouterr().out
    assert (
        "25 of 25 different lines: 24 read by both, 1 by neither, 0 only here, 0 only by Lark"
        in printed
    )
    assert "50 strings drawn from the grammar: 50 read by Lark" in printed
    assert "rules that the start rule does not reach: other" in printed
    assert "by neither: line 25 '24 h'" in printed


@pytest.mark.slow
def test_imports_and_another_start_rule_reach_lark(tmp_path: Path) -> None:
    (tmp_path / "words.lark").write_text('WORD: "go" | "run"', encoding="utf-8")
    mine = folder(
        tmp_path, "%import .words.WORD\nall: WORD+\n%ignore / +/", "go\nrun go\n gogo \nx\n"
    )
    found = check_folder(LanguageConfig(language=mine, start="all"), draws=30)
    assert (found.both, found.written, found.agrees) == (3, 1, True)
    assert [line for _, line in found.neither] == ["x"]


@pytest.mark.slow
def test_a_grammar_on_which_lark_hangs_is_an_error(tmp_path: Path) -> None:
    letters = "abcdefghijklmnopqrstuvwx"
    mine = folder(tmp_path, "start: " + " ".join(f'"{c}"?' for c in letters), "ax\n")
    with pytest.raises(
        ConfigError, match=r"^Lark cannot be compared with, at 'ax': it takes more than 0\.3 s"
    ):
        check_folder(LanguageConfig(language=mine, validity_timeout=0.3), draws=0)


@pytest.mark.slow
def test_a_grammar_that_lark_refuses_is_one_line(tmp_path: Path) -> None:
    mine = folder(tmp_path, 'start: "a" -> x | "a" -> y', "a\n")
    with pytest.raises(
        ConfigError, match=r"^Lark cannot be compared with, at 'a': it refuses the grammar: Rules"
    ):
        check_folder(LanguageConfig(language=mine), draws=0)


@pytest.mark.slow
def test_lines_of_all_lengths_are_compared(tmp_path: Path) -> None:
    mine = folder(
        tmp_path,
        'start: "a"+ "b"?',
        "".join("a" * n + "\n" for n in range(1, 40)) + "a" * 38 + "b\n" + "b" * 70,
    )
    found = check_folder(LanguageConfig(language=mine), lines=20, draws=0)
    assert (found.lines, found.compared) == (41, 20)


def test_a_folder_without_a_grammar_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("a\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"grammar\.lark is not there"):
        check_folder(LanguageConfig(language=str(tmp_path)))


def test_lark_itself_decides() -> None:
    """A negative control: the reader refuses what Lark refuses, and accepts what it accepts."""
    source = GrammarSource('start: "a" "b"\n%ignore " "')
    assert accepts(request(source, "a b "))
    assert not accepts(request(source, "ba"))
