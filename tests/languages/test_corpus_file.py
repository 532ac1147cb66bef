"""Corpora of all formats: folders and files of text, CSV and JSON lines, with and without gzip."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from maskdiff.config import LanguageConfig
from maskdiff.errors import ConfigError, DataError, UserError
from maskdiff.languages import corpus_file, fitted_length, make_language
from maskdiff.languages.text import TextLanguage
from tests.helpers.corpora import GRAMMAR, make

LINES = ['a="1";', "b=2, c=3", "c=ä"]


def as_csv(lines: list[str]) -> str:
    out = io.StringIO(newline="")
    csv.writer(out).writerows([["id", "rule"], *enumerate(lines)])
    return out.getvalue()


WRITERS: dict[str, Callable[[list[str]], str]] = {
    "txt": lambda lines: "\n".join(lines) + "\n",
    "csv": as_csv,
    "jsonl": lambda lines: "".join(json.dumps({"id": 1, "rule": line}) + "\n" for line in lines),
}


def write(path: Path, text: str, bom: bool = False) -> Path:
    data = b"\xef\xbb\xbf" * bom + text.encode()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def refused(config: LanguageConfig) -> str:
    with pytest.raises(UserError) as error:
        make_language(config)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("bom", [False, True])
@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize("kind", WRITERS)
def test_all_formats_give_the_same_language(tmp_path: Path, kind: str, gz: str, bom: bool) -> None:
    write(tmp_path / "plain" / "corpus.txt", WRITERS["txt"](LINES))
    plain = make(LanguageConfig(language=str(tmp_path / "plain")))
    field = "" if kind == "txt" else "rule"
    for path in (
        tmp_path / "rules" / f"corpus.{kind}{gz}",
        tmp_path / "files" / f"rules.{kind}{gz}",
    ):
        write(path, WRITERS[kind](LINES), bom)
        place = path.parent if path.parent.name == "rules" else path
        language = make(LanguageConfig(language=str(place), field=field))
        assert language.name == "rules"
        assert language.texts() == plain.texts() == tuple(sorted(LINES))
        assert language.state() == {**plain.state(), "name": "rules"}


def test_a_file_has_no_grammar(tmp_path: Path) -> None:
    path = write(tmp_path / "corpus.txt", "a=1\nzzz\n")
    write(tmp_path / "grammar.lark", GRAMMAR)
    assert make(LanguageConfig(language=str(path))).validity == ""
    assert "invalid by grammar.lark" in refused(LanguageConfig(language=str(tmp_path)))


def test_several_corpora_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "corpus.txt", "a\n")
    write(tmp_path / "corpus.jsonl.gz", '{"a": "a"}\n')
    assert "several corpora: corpus.txt, corpus.jsonl.gz" in refused(
        LanguageConfig(language=str(tmp_path))
    )


@pytest.mark.parametrize(
    ("name", "text", "field", "message"),
    [
        ("x.csv", "id,rule\n1,a\n", "", "several columns: 'id', 'rule'; name one of them with"),
        ("x.csv", "id,rule\n1,a\n", "rul", "the nearest is 'rule' of 'id', 'rule'"),
        ("x.csv", "id,rule\n1,a\n2\n", "rule", "x.csv: line 3: a row of 1 cells; the header has 2"),
        ("x.csv", 'id,rule\n1,"a\nb"\n', "rule", "x.csv: line 2: 'rule' has a line break: 'a\\nb'"),
        ("x.csv", "id,rule\n1,\n", "rule", "x.csv has no lines"),
        ("x.jsonl", '{"a": "x"}\n{"a": 1}\n', "", "x.jsonl: line 2: 'a' is no text"),
        ("x.jsonl", '{"a": "x"}\n{"b": "x"}\n', "a", "x.jsonl: line 2: an object without 'a'"),
        ("x.jsonl", '{"a": "x"}\n{"a"\n', "a", "x.jsonl: line 2: no JSON"),
        ("x.txt", "a\n", "rule", "field is 'rule'; it is for CSV and JSON lines"),
    ],
)
def test_bad_rows_and_columns_are_one_line(
    tmp_path: Path, name: str, text: str, field: str, message: str
) -> None:
    path = write(tmp_path / name, text)
    assert message in refused(LanguageConfig(language=str(path), field=field))


def test_damaged_and_huge_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "x.txt.gz", "abc\n" * 1000)
    config = LanguageConfig(language=str(path))
    whole = path.read_bytes()
    for damaged in (whole[:-9], b"abc\n", whole[:12] + b"\xff\xff\xff" + whole[15:]):
        path.write_bytes(damaged)
        assert "is damaged or no gzip file" in refused(config)
    path.write_bytes(gzip.compress(b"\xff\n"))
    assert "is not UTF-8 text (byte 0)" in refused(config)
    monkeypatch.setattr(corpus_file, "MAX_BYTES", 10_000)
    path.write_bytes(gzip.compress(b"a" * 10**6))  # about a thousand bytes
    assert "has over 10000 bytes" in refused(config)


def test_the_length_follows_the_corpus_unless_it_is_given(tmp_path: Path) -> None:
    def chosen(longest: int) -> int:
        write(tmp_path / "corpus.txt", f"{'a' * longest}\nb\n")
        return fitted_length(LanguageConfig(language=str(tmp_path))).max_len

    assert [chosen(n) for n in (3, 62, 63, 200, 512, 600)] == [64, 64, 65, 202, 514, 514]
    assert "longer than 512 symbols" in refused(fitted_length(LanguageConfig(str(tmp_path))))
    assert chosen(200) == 202
    assert "raise --max_len to 202" in refused(LanguageConfig(language=str(tmp_path)))
    language = make_language(tmp_path)
    assert isinstance(language, TextLanguage)
    assert language.max_symbols == 200
    assert fitted_length(LanguageConfig()) == LanguageConfig()


def test_a_field_is_no_option_of_a_language_of_the_package() -> None:
    with pytest.raises(ConfigError, match="field is for a language of your own"):
        make_language(LanguageConfig(field="rule"))
    with pytest.raises(DataError, match="cannot read"):
        corpus_file.numbered_lines(LanguageConfig(language="no/folder"))


def test_lines_are_split_once_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change is noticed even if size and time of the file stay the same."""
    path, split = tmp_path / "corpus.txt", corpus_file.split_lines
    seen: list[str] = []
    monkeypatch.setattr(corpus_file, "split_lines", lambda text: seen.append(text) or split(text))
    config = LanguageConfig(language=str(tmp_path))
    for text in ("ab\nba\n", "ba\nab\n"):
        path.write_text(text)
        for _ in range(3):
            found = [line for _, line in corpus_file.numbered_lines(config)]
            assert found == text.split()
    assert seen == ["ab\nba\n", "ba\nab\n"]
