"""A user's own language: its folder, and the folders that are refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from maskdiff.config import LanguageConfig
from maskdiff.data import draw_texts, held_out
from maskdiff.errors import CanvasError, ConfigError, DataError, GrammarError, UserError
from maskdiff.evaluation.generation import real_texts
from maskdiff.languages import HasExactProbability, HasValue, make_language, split_of
from maskdiff.languages.checker import load_checker
from maskdiff.tasks import sample_lengths
from tests.helpers.corpora import GRAMMAR, folder, lines, make

# The language


def test_a_folder_is_a_language(tmp_path: Path) -> None:
    corpus = lines(300)
    language = make(folder(tmp_path / "pairs", corpus, GRAMMAR))
    assert language.name == "pairs"
    assert language.texts() == tuple(sorted(corpus))
    assert language.validity == "grammar.lark"
    assert not isinstance(language, (HasValue, HasExactProbability))
    assert set(language.sample_many(2000, np.random.default_rng(0))) <= set(corpus)
    assert language.sample_many(50, np.random.default_rng(1))[:20] == language.sample_many(
        20, np.random.default_rng(1)
    )
    for text in corpus:
        assert language.parses(text)
        assert language.vocabulary.decode(language.vocabulary.encode(text)) == text
    for text in ("", "a=", "a=1;", "a=1 ", "d=1", "a=1;;b=2", "A=1"):
        assert not language.parses(text)
    assert language.length_probs().sum() == pytest.approx(1)
    # Lengths are those of the training lines: held-out lines teach nothing.
    training = [text for text in corpus if split_of(text) == "train"]
    sizes = np.bincount([len(text) for text in training], minlength=63)
    assert np.allclose(language.length_probs(), sizes / len(training))
    with pytest.raises(CanvasError, match="nearest length"):
        language.check_length(2)
    assert language.check_length(60) == 60  # no line has it, the grammar allows it
    assert language.length_probs()[60] == 0
    assert -20 < language.length_log_prob(60) < language.length_log_prob(len(corpus[0]))
    assert language.length_log_prob(2) == -np.inf


def test_line_ends_of_all_systems(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "corpus.txt").write_bytes(b"\xef\xbb\xbfab\r\nb\ra\n\r\n ba")
    assert make(LanguageConfig(language=str(tmp_path / "x"))).texts() == (" ba", "a", "ab", "b")


def test_literals_of_the_grammar_are_symbols_even_where_no_line_has_them(tmp_path: Path) -> None:
    language = make(folder(tmp_path / "x", ["a=1"], GRAMMAR))
    assert language.parses("a=1;a=1")
    assert not language.parses("a=2")  # a regular expression names no symbols


def test_without_a_grammar_only_a_checker_decides(tmp_path: Path) -> None:
    config = folder(tmp_path / "x", ["{}", "[1]", "null", "0", "false"])
    language = make(config)
    assert language.validity == ""
    assert language.parses("}{")
    assert not language.parses("z")
    assert not language.parses("")
    checked = make(LanguageConfig(language=config.language, validity="json:loads"))
    assert checked.validity == "json:loads"
    for text in ("null", "0", "false", "[{}]"):  # whatever a parser returns
        assert checked.parses(text)
    for text in (
        "}{",
        "[\u27e8EOS\u27e9]",
        "2",
        "[?]",
        " 0",
    ):  # the last four: symbols that the language does not have
        assert not checked.parses(text)


def test_a_checker_may_stand_in_the_folder(tmp_path: Path) -> None:
    before = list(sys.path)
    for name, rest in (("x", 0), ("y", 1)):  # two modules of one name
        folder(tmp_path / name, ["aa", "a"])
        (tmp_path / name / "mine.py").write_text(
            f"def even(text):\n    return len(text) % 2 == {rest}\n"
        )
    first, second = (load_checker("mine:even?", tmp_path / name) for name in "xy")
    assert first is not None
    assert second is not None
    assert (first("aa"), first("a"), second("aa"), second("a")) == (True, False, False, True)
    assert sys.path == before
    with pytest.raises(DataError, match=r"1 of 2 lines is invalid by mine:even\?: line 2 'a'"):
        make_language(LanguageConfig(language=str(tmp_path / "x"), validity="mine:even?"))
    with pytest.raises(ConfigError, match=r"returns truth values; name it mine:even\?"):
        make_language(LanguageConfig(language=str(tmp_path / "x"), validity="mine:even"))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise SystemExit(0)", "cannot be imported: SystemExit"),
        ("def ok():\n    pass", "fails on 'ab': TypeError"),
        ("def ok(text):\n    raise SystemExit(3)", "fails on 'ab': SystemExit"),
        ("def ok(text):\n    return {}[text]", "fails on 'ab': KeyError"),
    ],
)
def test_checkers_that_fail(tmp_path: Path, body: str, message: str) -> None:
    config = folder(tmp_path / "x", ["ab"])
    (tmp_path / "x" / "mine.py").write_text(body + "\n")
    with pytest.raises(ConfigError, match=message):
        make_language(LanguageConfig(language=config.language, validity="mine:ok?"))


def test_white_space_and_blanks_that_are_symbols(tmp_path: Path) -> None:
    language = make(folder(tmp_path / "x", ["a ? b", "<EOS> #1", "x\ty"]))
    vocabulary = language.vocabulary
    assert vocabulary.blank == "\u00bf"
    assert vocabulary.digit is None
    assert vocabulary.encode("a\u00bf?", blanks=True)[1] == vocabulary.mask
    text = vocabulary.decode(
        [
            vocabulary.bos,
            *vocabulary.encode("a ?"),
            vocabulary.eos,
            *vocabulary.encode(" b"),
            vocabulary.eos,
        ],
        "drop",
    )
    assert text == "a ?\u27e8EOS\u27e9 b"
    assert not language.parses(text)
    assert not vocabulary.is_open("a ? #")
    assert vocabulary.is_open("a\u00bf")


def test_each_held_out_string_is_given_once(tmp_path: Path) -> None:
    corpus = lines(400)
    language = make(folder(tmp_path / "x", corpus * 3))
    test = held_out(language, "test", 10_000, 0)
    assert len(test) == len(set(test))
    assert set(test) == {text for text in corpus if split_of(text) == "test"}
    assert held_out(language, "test", 5, 0) == test[:5]
    train_only = make(folder(tmp_path / "y", [t for t in corpus if split_of(t) == "train"]))
    with pytest.raises(DataError, match="falls into the validation split"):
        held_out(train_only, "validation", 5, 0)
    with pytest.raises(DataError, match="falls into the validation split"):
        draw_texts(train_only, 10**6, np.random.default_rng(0), "validation")


def test_real_strings_of_a_list(tmp_path: Path) -> None:
    language = make(folder(tmp_path / "x", lines(60), GRAMMAR))
    rng = np.random.default_rng(0)
    drawn = real_texts(language, 1000, None, rng)
    assert sorted(drawn) == sorted(language.texts() or ())  # no string more often than it is there
    with pytest.raises(
        CanvasError, match=r"no strings of 60..60 symbols"
    ):  # a possible length that no line has
        real_texts(language, 5, (60, 60), rng)
    assert sample_lengths(language, 3, (59, 61), 0)


# Refused folders


def test_lines_outside_the_grammar_are_counted_and_shown(tmp_path: Path) -> None:
    corpus = ["a=1", "b=", "c=3", "=", "a", "b=2;", "c=4"]
    config = folder(tmp_path / "x", corpus, GRAMMAR)
    with pytest.raises(
        DataError,
        match=r"4 of 7 lines are invalid by grammar.lark: "
        r"line 2 'b=', line 4 '=', line 5 'a';.*--skip_invalid",
    ):
        make_language(config)
    kept = make(LanguageConfig(language=config.language, skip_invalid=True))
    assert kept.texts() == ("a=1", "c=3", "c=4")
    assert "4 of 7 lines" in kept.note
    with pytest.raises(DataError, match="2 of 2 lines"):  # skipping everything leaves no language
        make_language(
            LanguageConfig(
                language=folder(tmp_path / "y", ["=", "a1"], GRAMMAR).language, skip_invalid=True
            )
        )


def test_lines_that_are_too_long(tmp_path: Path) -> None:
    config = folder(tmp_path / "x", ["ab", "a" * 70, "b" * 62])
    with pytest.raises(
        DataError, match=r"1 of 3 lines is longer than 62 symbols: line 2 .*raise --max_len to 72"
    ):
        make_language(config)
    assert make(LanguageConfig(language=config.language, max_len=72)).max_symbols == 70


@pytest.mark.parametrize(
    ("files", "options", "error", "message"),
    [
        ({}, {}, DataError, "cannot read .*corpus.txt.*No such file"),
        ({"corpus.txt": b""}, {}, DataError, "has no lines"),
        ({"corpus.txt": b"\n\r\n"}, {}, DataError, "has no lines"),
        ({"corpus.txt": b"a\xff"}, {}, DataError, r"not UTF-8 text \(byte 1\)"),
        ({"corpus.txt": b"a\n", "grammar.lark": b"start: )"}, {}, GrammarError, "line 1"),
        ({"corpus.txt": b"a\n", "grammar.lark": b""}, {}, GrammarError, "grammar.lark"),
        (
            {"corpus.txt": "a?\u00bf\u25a1\u2370".encode()},
            {},
            DataError,
            "no character is left to write a blank",
        ),
        ({"corpus.txt": b"a\0b"}, {}, DataError, "without NUL"),
        ({"corpus.txt": b"a" * 5000}, {}, DataError, r"longer than 62 symbols: .*; leave them out"),
        ({"corpus.txt": b"a\n"}, {"validity": "json"}, ConfigError, "MODULE:FUNCTION"),
        (
            {"corpus.txt": b"a\n"},
            {"validity": "no_such_module:f"},
            ConfigError,
            "cannot be imported",
        ),
        ({"corpus.txt": b"a\n"}, {"validity": "json:__doc__"}, ConfigError, "no function"),
        (
            {"corpus.txt": b"aa\n", "grammar.lark": b'start: "a" | start start'},
            {},
            GrammarError,
            "ambiguous",
        ),
    ],
)
def test_bad_folders(
    tmp_path: Path, files: dict, options: dict, error: type[UserError], message: str
) -> None:
    (tmp_path / "x").mkdir()
    for name, data in files.items():
        (tmp_path / "x" / name).write_bytes(data)
    with pytest.raises(error, match=message) as caught:
        make_language(LanguageConfig(language=str(tmp_path / "x"), **options)).parses("a")
    assert "\n" not in str(caught.value)


def test_ambiguity_that_only_lines_show(tmp_path: Path) -> None:
    """A line with two derivations is found where enumeration ends before its length."""
    letters = "abcdefghij"
    parts = " ".join(f"P{i}" for i in range(10))
    terminals = "\n".join(f"P{i}: /[{letters.replace(letters[i], '')}k]/" for i in range(10))
    grammar = f'start: {parts} tail | {parts} "z"\ntail: "z" | "y"\n{terminals}\n'
    config = folder(tmp_path / "x", ["bcdefghijkz", "kabcdefghiy", letters[1:] + "ky"], grammar)
    with pytest.raises(GrammarError, match=r"'bcdefghijkz' has 2 derivations.*--accept_ambiguous"):
        make_language(config)
    assert (
        make(LanguageConfig(language=config.language, accept_ambiguous=True)).derivations(
            "kabcdefghiy"
        )
        == 1
    )


def test_an_ambiguous_or_left_recursive_grammar_that_its_user_accepts(tmp_path: Path) -> None:
    config = folder(tmp_path / "x", ["aa", "a"], 'start: "a" | start start')
    assert make(LanguageConfig(language=config.language, accept_ambiguous=True)).parses("aaaa")
    left = folder(tmp_path / "y", ["aa", "a"], 'start: "a" | start "a"')
    assert make(left).parses("aaaa")
    assert not make(left).parses("ab")


@pytest.mark.parametrize("name", ["arithmetics", "no/such/folder", ""])
def test_unknown_languages(name: str) -> None:
    with pytest.raises(ConfigError, match="arithmetic"):
        make_language(LanguageConfig(language=name))
