"""A user's own language: its folder, what is refused, and checkpoints without the folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from maskdiff import checkpoint
from maskdiff.checkpoint import LanguageOverride
from maskdiff.config import LanguageConfig
from maskdiff.data import draw_texts, held_out
from maskdiff.errors import (
    CanvasError,
    CheckpointError,
    ConfigError,
    DataError,
    GrammarError,
    UserError,
)
from maskdiff.evaluation.generation import real_texts
from maskdiff.languages import HasExactProbability, HasValue, make_language, split_of
from maskdiff.languages.checker import load_checker
from maskdiff.languages.text import TextLanguage
from maskdiff.tasks import sample_lengths

GRAMMAR = 'start: pair | pair ";" start\npair: "a".."c" "=" /[0-9]+/\n'


def lines(count: int, seed: int = 0) -> list[str]:
    """Strings of `GRAMMAR`."""
    rng = np.random.default_rng(seed)
    return [
        ";".join(
            f"{'abc'[rng.integers(3)]}={rng.integers(1000)}" for _ in range(rng.integers(1, 4))
        )
        for _ in range(count)
    ]


def folder(path: Path, corpus: list[str], grammar: str | None = None) -> LanguageConfig:
    path.mkdir(exist_ok=True)
    (path / "corpus.txt").write_text("\n".join(corpus) + "\n", encoding="utf-8")
    if grammar is not None:
        (path / "grammar.lark").write_text(grammar, encoding="utf-8")
    return LanguageConfig(language=str(path))


def make(config: LanguageConfig) -> TextLanguage:
    language = make_language(config)
    assert isinstance(language, TextLanguage)
    return language


# What it is


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
    sizes = np.bincount([len(text) for text in corpus], minlength=63)
    assert np.allclose(language.length_probs(), sizes / 300)
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


def test_without_a_grammar_nothing_is_checked_unless_somebody_does(tmp_path: Path) -> None:
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
    ("body", "told"),
    [
        ("raise SystemExit(0)", "cannot be imported: SystemExit"),
        ("def ok():\n    pass", "fails on 'ab': TypeError"),
        ("def ok(text):\n    raise SystemExit(3)", "fails on 'ab': SystemExit"),
        ("def ok(text):\n    return {}[text]", "fails on 'ab': KeyError"),
    ],
)
def test_checkers_that_fail(tmp_path: Path, body: str, told: str) -> None:
    config = folder(tmp_path / "x", ["ab"])
    (tmp_path / "x" / "mine.py").write_text(body + "\n")
    with pytest.raises(ConfigError, match=told):
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
    ):  # possible, but nobody wrote one
        real_texts(language, 5, (60, 60), rng)
    assert sample_lengths(language, 3, (59, 61), 0)


# What is refused


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
    ("files", "options", "error", "told"),
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
    tmp_path: Path, files: dict, options: dict, error: type[UserError], told: str
) -> None:
    (tmp_path / "x").mkdir()
    for name, data in files.items():
        (tmp_path / "x" / name).write_bytes(data)
    with pytest.raises(error, match=told) as caught:
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


# In a checkpoint


def payload_of(config: LanguageConfig, language: TextLanguage) -> checkpoint.Payload:
    from dataclasses import replace

    from maskdiff.models.universal import UniversalDenoiser
    from tests.helpers.tiny import tiny_config

    whole = replace(tiny_config(vocab_size=len(language.vocabulary)), language=config)
    torch.manual_seed(0)
    weights = UniversalDenoiser(whole.model).state_dict()
    return checkpoint.make_payload(whole, language.vocabulary, weights, language=language.state())


def test_a_checkpoint_needs_no_folder(tmp_path: Path) -> None:
    from maskdiff import tasks

    corpus = lines(200)
    config = folder(tmp_path / "pairs", corpus, GRAMMAR)
    language = make(config)
    checkpoint.save(tmp_path / "x.pt", payload_of(config, language))
    (tmp_path / "pairs").rename(tmp_path / "gone")
    loaded = checkpoint.load_denoiser(tmp_path / "x.pt")
    again = loaded.language
    assert again.name == "pairs"
    assert again.vocabulary == language.vocabulary
    assert again.lark_grammar().text == GRAMMAR
    assert np.array_equal(again.length_probs(), language.length_probs())
    from maskdiff.config import SamplerConfig

    made = tasks.generate(loaded, 20, sampler=SamplerConfig("maskgit", steps=1, grammar=True))
    assert all(result.parses and result.holds is None for result in made)
    assert tasks.repair(loaded, ["a=;b=3"], grammar=True)[0].parses
    assert tasks.edit(loaded, ["a=?;?=3"], grammar=True)[0].parses
    with pytest.raises(DataError, match=r"no folder '.*pairs'"):
        again.sample_many(1, np.random.default_rng(0))


def spied(tmp_path: Path) -> tuple[Path, LanguageConfig]:
    """A folder whose checker leaves a trace when it is imported."""
    config = folder(tmp_path / "x", ["aa", "ab"])
    trace = tmp_path / "ran"
    (tmp_path / "x" / "spy_checker.py").write_text(
        f"open({str(trace)!r}, 'w').close()\ndef ok(text):\n    return text == 'aa'\n"
    )
    return trace, LanguageConfig(
        language=config.language, validity="spy_checker:ok?", skip_invalid=True
    )


@pytest.mark.parametrize("state", ["whole", "empty", "absent"])
def test_a_checkpoint_names_nothing_that_is_imported(tmp_path: Path, state: str) -> None:
    trace, named = spied(tmp_path)
    payload = payload_of(named, make(LanguageConfig(language=named.language)))
    if state == "empty":
        payload["language"] = {}
    elif state == "absent":
        del payload["language"]
    checkpoint.save(tmp_path / "x.pt", payload)
    checkpoint.save_pretrained(tmp_path / "pretrained", payload)
    for load, path in (
        (checkpoint.load_denoiser, tmp_path / "x.pt"),
        (checkpoint.from_pretrained, tmp_path / "pretrained"),
    ):
        if state == "whole":
            loaded = load(path)
            assert loaded.language.validity == "" == loaded.config.language.validity
            assert loaded.language.texts() == (
                "aa",
                "ab",
            )  # read again from the folder, nothing imported
        else:
            with pytest.raises(CheckpointError, match="give its folder with --language"):
                load(path)
        with pytest.raises(
            UserError, match=r"cannot be imported|--language"
        ):  # no module is looked for where it points
            load(path, override=LanguageOverride(validity="spy_checker:ok?"))
    assert not trace.exists()
    trusted = checkpoint.load_denoiser(
        tmp_path / "x.pt",
        override=LanguageOverride(named.language, "spy_checker:ok?", skip_invalid=True),
    )
    assert trace.exists()
    assert trusted.language.parses("aa")
    assert not trusted.language.parses("ab")


def test_a_run_folder_names_nothing_that_is_imported(tmp_path: Path) -> None:
    from maskdiff.cli.train import run_config
    from maskdiff.config_io import dump_yaml

    trace, named = spied(tmp_path)
    payload = payload_of(named, make(LanguageConfig(language=named.language)))
    checkpoint.save(tmp_path / "last.pt", payload)
    for written in (False, True):
        if written:
            (tmp_path / "config.yaml").write_text(dump_yaml(checkpoint.read_config(payload)))
        with pytest.raises(ConfigError, match=r"allow it with --validity spy_checker:ok\?"):
            run_config(tmp_path, {})
        with pytest.raises(ConfigError, match=r"spy_checker\.py'; allow it with --language DIR"):
            run_config(tmp_path, {"validity": "spy_checker:ok?"})
        given = {"validity": "spy_checker:ok?", "language": named.language}
        assert run_config(tmp_path, given).language.validity == "spy_checker:ok?"
    assert not trace.exists()


def test_a_folder_read_anew_must_speak_the_same_symbols(tmp_path: Path) -> None:
    config = folder(tmp_path / "x", lines(100))
    checkpoint.save(tmp_path / "x.pt", payload_of(config, make(config)))
    (tmp_path / "x" / "grammar.lark").write_text(GRAMMAR)
    anew = checkpoint.load_denoiser(tmp_path / "x.pt", override=LanguageOverride(config.language))
    assert anew.language.validity == "grammar.lark"
    (tmp_path / "x" / "grammar.lark").write_text(GRAMMAR.replace('";"', '(";" | "!")'))
    with pytest.raises(GrammarError, match="'!' needs '!', which is not a symbol of the language"):
        checkpoint.load_denoiser(tmp_path / "x.pt", override=LanguageOverride(config.language))
    (tmp_path / "x" / "grammar.lark").unlink()
    (tmp_path / "x" / "corpus.txt").write_text("a=1\nz=2\n")
    with pytest.raises(DataError, match="has changed since the training: 'z' is no symbol"):
        checkpoint.load_denoiser(tmp_path / "x.pt").language.texts()
    own = payload_of(config, anew.language)  # type: ignore[arg-type]
    for folder_, state in (("json", own), (config.language, None)):
        with pytest.raises(ConfigError, match="give a folder"):
            checkpoint.denoiser_from(state or json_payload(), override=LanguageOverride(folder_))
    with pytest.raises(ConfigError, match="validity is for a language of your own"):
        checkpoint.denoiser_from(json_payload(), override=LanguageOverride(validity="json:loads"))


def json_payload() -> checkpoint.Payload:
    config = LanguageConfig(language="json")
    return payload_of(config, make(config))


@pytest.mark.parametrize(
    "state",
    [
        {"symbols": 3},
        {"symbols": "ab", "lengths": [-1]},
        {"symbols": "ab", "lengths": [0]},
        {"a": 1},
        {"symbols": "ab", "lengths": [0, 10**30]},
    ],
)
def test_a_foreign_description_of_a_language(tmp_path: Path, state: dict) -> None:
    config = folder(tmp_path / "x", ["aa", "ab"])
    payload = payload_of(config, make(config))
    with pytest.raises(UserError, match="symbols, grammar and lengths"):
        checkpoint.denoiser_from({**payload, "language": state}, path="x.pt")


def test_every_suite_takes_a_language_that_knows_nothing_but_its_strings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without grammar, truth and probabilities, suites leave out what they cannot know."""
    from maskdiff.cli import benchmark

    config = folder(tmp_path / "pairs", lines(400))
    checkpoint.save(tmp_path / "x.pt", payload_of(config, make(config)))
    argv = [
        "--checkpoint",
        str(tmp_path / "x.pt"),
        "--threads",
        "1",
        "--num_samples",
        "6",
        "--sampler",
        "maskgit",
        "--maskgit_steps",
        "2",
    ]
    suites = ["generation", "repair", "one_edit", "editing", "likelihood"]
    assert (
        benchmark.main(
            [
                *argv,
                "--suite",
                *suites,
                "--sigma",
                "0.2",
                "--corruption",
                "mixed",
                "--json",
                str(tmp_path / "x.json"),
            ]
        )
        == 0
    )
    capsys.readouterr()
    rows = json.loads((tmp_path / "x.json").read_text())["rows"]
    assert {row["suite"] for row in rows} == set(suites)
    metrics = {row["metric"] for row in rows}
    assert {"distinct", "length_distance", "exact", "anchors_kept", "elbo", "next_token"} <= metrics
    assert not metrics & {
        "parses",
        "holds",
        "distinct_valid",
        "balanced",
        "depth_distance",
        "log_likelihood",
        "elbo_excess",
        "elbo_part",
    }
    assert not any(row["sampler"] in ("least_edits", "bayes_optimal") for row in rows)
    assert benchmark.main([*argv, "--grammar"]) == 2
    assert "pairs has no grammar" in capsys.readouterr().err
    assert benchmark.main([*argv, "--suite", "repair", "--repair_method", "least_edits"]) == 2
    assert "pairs has no grammar" in capsys.readouterr().err
    assert benchmark.main([*argv[:-4], "--sampler", "coarse_to_fine"]) == 2
    assert "<DIGIT>" in capsys.readouterr().err
