"""Files of a grammar: imports, start rules, declarations, and limits that are checked early."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from maskdiff.checkpoint import load_denoiser, make_payload, save
from maskdiff.config import LanguageConfig
from maskdiff.errors import CheckpointError, ConfigError, GrammarError
from maskdiff.languages import make_language, restore_language
from maskdiff.languages.cfg import (
    GrammarSource,
    Recogniser,
    compile_grammar,
    open_source,
    read_grammar,
    restore_source,
)
from maskdiff.languages.cfg import source as grammar_source
from maskdiff.languages.text import TextLanguage
from maskdiff.models.universal import UniversalDenoiser
from tests.helpers.tiny import tiny_config

LETTERS = "abcdefghijklmnopqrstuvwx"


def folder(where: Path, grammar: str, lines: str, **beside: str) -> Path:
    """A language folder; `beside` has texts by file names without .lark, with `__` for a slash."""
    where.mkdir(parents=True, exist_ok=True)
    (where / "grammar.lark").write_text(grammar, encoding="utf-8")
    (where / "corpus.txt").write_text(lines, encoding="utf-8")
    for name, text in beside.items():
        path = where / f"{name.replace('__', '/')}.lark"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return where


def language_of(where: Path, **settings: str) -> TextLanguage:
    made = make_language(LanguageConfig(language=str(where), **settings))  # type: ignore[arg-type]
    assert isinstance(made, TextLanguage)
    return made


def test_a_relative_import_is_read_beside_the_grammar_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = folder(
        tmp_path / "mine",
        '%import .words.VERB\nstart: VERB " x"',
        "go x\n",
        words='VERB: "go" | "run"',
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "words.lark").write_text('VERB: "stay"', encoding="utf-8")
    monkeypatch.chdir(elsewhere)
    assert language_of(mine).parses("run x")
    (mine / "words.lark").unlink()
    with pytest.raises(GrammarError, match=r"cannot read the imported file words\.lark"):
        language_of(mine)


def test_imports_of_imports_are_relative_to_the_file_that_imports(tmp_path: Path) -> None:
    mine = folder(
        tmp_path / "mine", "%import .parts.outer.pair\nstart: pair", "ab\n",
        parts__outer="%import .inner.B\npair: A B\nA: /a/", parts__inner='B: "b" | "c"',
    )  # fmt: skip
    assert language_of(mine).parses("ac")


def test_a_checkpoint_holds_the_imported_files(tmp_path: Path) -> None:
    grammar = '%import .words.VERB\n%import common.INT\nbegin: VERB " " INT'
    mine = folder(tmp_path / "mine", grammar, "go 1\ngo 23\n", words='VERB: "go" | "run"')
    language = language_of(mine, start="begin")
    held = language.state()
    (mine / "words.lark").unlink()
    (mine / "grammar.lark").unlink()
    (mine / "corpus.txt").unlink()
    again = restore_language(language.config, held)
    assert again.parses("run 321")
    assert not again.parses("begin 1")
    assert again.lark_grammar() == GrammarSource(
        grammar,
        "the grammar of mine",
        "begin",
        language.lark_grammar().files,  # type: ignore[union-attr]
    )


def test_a_grammar_from_a_checkpoint_opens_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "words.lark").write_text('VERB: "go"', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for text in ("%import .words.VERB\nstart: VERB", "%import words.VERB\nstart: VERB"):
        with pytest.raises(GrammarError, match="words"):
            read_grammar(restore_source({"text": text}, "the grammar"), "go")


@pytest.mark.parametrize(
    "state",
    [3, {"text": 3}, {"text": "start: A", "files": {"a": 1}}, {"text": "", "spacing": "x"}, ["a"]],
)
def test_a_grammar_that_is_described_otherwise_is_one_line(state: object) -> None:
    with pytest.raises(GrammarError, match="the grammar of mine is described by"):
        restore_source(state, "the grammar of mine")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('%declare indent\nstart: "a"', "%declare of the rule 'indent'"),
        ("%declare _INDENT\nstart: _INDENT", "'_INDENT' is declared and not defined"),
        ('begin: "a"', "no rule 'start' to start with; name one with --start: begin"),
        ('start{x}: x\nother: start{"a"}', "'start' is a template"),
        ('start: "b".."a"', "bad character range"),
        ('start: A\nA: "a" -> b', "Aliasing not allowed in terminals"),
        ("start: A\nA: B\nB: A", "ecursion in terminal"),
        ('start: x{"a"}\nx{y}: x{z{y}} | y\nz{y}: y', "ever new arguments"),
        ('start: "a"~3..2', r"repeated ~3\.\.2"),
        ('start: "a"~99999', "at most 1000 times"),
        ("%import nothing.A\nstart: A", "Lark's library has no grammar 'nothing'"),
        ("%import common.NOTHING\nstart: NOTHING", "NOTHING"),
        ('start: "\\', "line 1 column"),
        ("start: /(/", r"the terminal '/\(/' cannot be read"),
        ("start: " + "(" * 5000 + '"a"' + ")" * 5000, "nested too deeply"),
        (
            "start: A0\n" + "".join(f"A{i}: A{i + 1} A{i + 1}\n" for i in range(60)) + 'A60: "a"',
            "over 100000 names",
        ),
        ('start: "' + "a" * 30_000 + '"', "symbols in a row; at most 2000"),
        ("start: a\n" + "".join(f'r{i}: "a"\n' for i in range(2_500)), "2501 rules in"),
        ('start: "a"\n//' + "x" * 200_000, "at most 2000 rules and 100000 characters are read"),
        ("\x00", "line 1 column 1"),
    ],
)  # fmt: skip
def test_unreadable_grammars_raise_a_one_line_error(text: str, message: str) -> None:
    with pytest.raises(GrammarError, match=message) as caught:
        compile_grammar(GrammarSource(text, "mine.lark"), "ab")
    assert str(caught.value).startswith("mine.lark: ")
    assert "\n" not in str(caught.value)


def test_files_that_import_each_other_are_refused(tmp_path: Path) -> None:
    mine = folder(
        tmp_path, "%import .one.A\nstart: A", "a\n", one="%import .two.A", two="%import .one.A"
    )
    with pytest.raises(GrammarError, match="do files import each other"):
        open_source(mine / "grammar.lark")


def test_terminals_that_double_across_files_are_refused(tmp_path: Path) -> None:
    files = {f"f{i}": f"%import .f{i + 1}.A -> B\nA: B B" for i in range(40)}
    mine = folder(tmp_path, "%import .f0.A\nstart: A", "a\n", **files, f40='A: "a"')
    with pytest.raises(GrammarError, match="over 100000 names"):
        open_source(mine / "grammar.lark")


def test_the_start_rule_is_a_setting(tmp_path: Path) -> None:
    mine = folder(tmp_path, 'whole: part+\npart: "a" | "b"', "ab\n")
    assert language_of(mine, start="whole").parses("bba")
    assert not language_of(
        folder(tmp_path, 'whole: part+\npart: "a" | "ab"', "ab\n"), start="part"
    ).parses("aa")
    (mine / "grammar.lark").unlink()
    with pytest.raises(
        ConfigError, match=r"start is 'whole'; it is for a grammar, and there is no .*grammar\.lark"
    ):
        language_of(mine, start="whole")


EXPONENTIAL: list[tuple[str, list[str], list[str]]] = [
    ("start: " + " ".join(f'"{c}"?' for c in LETTERS), [LETTERS, "ax", "c"], ["ba", "aa"]),
    ("start: " + " ".join(f'("{c}" | "{c}{c}")?' for c in LETTERS), ["aabb", "xx"], ["aaa"]),
    (
        "start: r0\n" + "".join(f"r{i}: r{i + 1}\n" for i in range(1_990)) + 'r1990: "a"',
        ["a"],
        ["aa"],
    ),
    (
        "start: r0\n" + "".join(f'r{i}: "b" r{i + 1} | "c"\n' for i in range(1_990)) + 'r1990: "a"',
        ["bbc"],
        ["b"],
    ),
    ('start: ("a" "b"?)~100..900', ["a" * 100, "ab" * 300], ["a" * 99]),
    (
        "start: " + " ".join(["(" + " | ".join(f'"{c}"' for c in LETTERS) + ")"] * 200),
        ["a" * 200],
        ["a"],
    ),
]


@pytest.mark.slow
def test_grammars_that_grow_exponentially_when_expanded_are_read() -> None:
    """All are read in a second process that ends within 60 seconds, however busy the machine is."""
    program = (
        "import sys, json\nfrom maskdiff.languages.cfg import compile_grammar, Recogniser\n"
        "symbols, grammars = json.load(sys.stdin)\n"
        "for text, accepts, rejects in grammars:\n"
        "    known = Recogniser(compile_grammar(text, symbols))\n"
        "    read = lambda some: known([symbols.index(c) for c in some])\n"
        "    assert all(map(read, accepts)), ('accepts', text[:100])\n"
        "    assert not any(map(read, rejects)), ('rejects', text[:100])\n"
    )
    made = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps([LETTERS, EXPONENTIAL]),
        text=True, timeout=60,
        capture_output=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr


def letters(number: int) -> str:
    return format(number, "b").translate({48: "a", 49: "b"})


TOO_LARGE = [
    'start: A0\nA0: "a"\n'
    + "".join(f'A{i}: "a"\n%override A{i - 1}: A{i} A{i}\n' for i in range(1, 40)),
    "start: A0\n"
    + "".join(f'A{i}: "b"\n// |\n | A{i + 1} A{i + 1}\n' for i in range(40)) + 'A40: "a"',
    "start: A0\n"
    + "".join(f'A{i}: /b"\n/x A{i + 1} A{i + 1}\n' for i in range(40)) + 'A40: "a"',
    'start: "b"\n%ignore /[ab]/\n%ignore /a[ab]{25}/',
    "start: " + " ".join(['("a" | "b")'] * 5 + ['"a"~1000'] * 1000),
    "start: " + " ".join(f"T{i}" for i in (2, 3, 5, 7, 11, 13)) + "\n%ignore \" \"\n"
    + "".join(f"T{i}: /(a{{{i}}})+/\n" for i in (2, 3, 5, 7, 11, 13)),
    "start: (" + " | ".join(f"A{i}" for i in range(1_900)) + ")+\n%ignore \" \"\n"
    + "".join(f'A{i}: "{letters(i + 2048)}"\n' for i in range(1_900)),
]  # fmt: skip


@pytest.mark.slow
def test_too_large_grammars_are_refused_early() -> None:
    """All in one process with 1 GB of memory and 60 seconds."""
    program = (
        "import json, resource, sys\nresource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30))\n"
        "from maskdiff.errors import GrammarError\n"
        "from maskdiff.languages.cfg import compile_grammar, compile_reader\n"
        "for text in json.load(sys.stdin):\n"
        "    print(line := text[:60].replace('\\n', ' '))\n"
        "    try:\n        compile_reader(text, 'ab ')\n"
        "        compile_grammar(text, 'ab ', True)\n"
        "    except GrammarError as error:\n        assert '\\n' not in str(error), line\n"
    )
    made = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(TOO_LARGE),
        text=True,
        timeout=60,
        capture_output=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('start: x | "a" /[0-9]+/ "b"\nx: start', "the rule 'start'"),
        ('start: y | "a"\ny: z | "c"\nz: y "b"?', "the rule 'y'"),
        ('start: x+ "c"\nx: "b"?', "a repetition of what may be empty"),
        ('start: start start | "a"?', "the rule 'start'"),
    ],
)
def test_a_cyclic_grammar_is_ambiguous(text: str, what: str) -> None:
    with pytest.raises(GrammarError, match=f"{what} derives itself: the grammar is cyclic"):
        compile_grammar(text, "abc0123456789")
    assert compile_grammar(text, "abc0123456789", accept_ambiguous=True)


def test_unreached_rules_change_nothing() -> None:
    grammar = compile_grammar('start: "a"\nother: "b" other | "c"', "abc")
    assert Recogniser(grammar)([0])
    assert len(grammar) == 1


def test_a_checkpoints_grammar_is_compiled_only_when_it_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Even one that is no grammar: a language is made, drawn lengths of and measured without it."""
    state = {"name": "mine", "symbols": "ab", "grammar": {"text": "start: ((("}, "lengths": [0, 1]}
    language = restore_language(LanguageConfig(language="mine"), state)
    assert language.length_probs()[1] == 1.0
    assert language.state()["grammar"]["text"] == "start: ((("
    with pytest.raises(GrammarError, match="the grammar of mine: "):
        language.parses("a")


@pytest.mark.parametrize(
    "grammar", [3, ["start: A"], {"text": 3}, {"text": "a", "files": 1}, [[]] * 3]
)
def test_a_checkpoint_with_something_else_for_a_grammar_is_one_line(
    tmp_path: Path, grammar: object
) -> None:
    payload = payload_with(grammar, tmp_path)
    with pytest.raises(
        CheckpointError, match=r"^checkpoint .* the grammar of mine is described by"
    ):
        load_denoiser(payload)


def payload_with(grammar: object, where: Path) -> Path:
    mine = folder(where / "mine", 'start: "a"+', "aa\n")
    language = language_of(mine)
    config = tiny_config(vocab_size=len(language.vocabulary), block_size=language.config.max_len)
    config = replace(config, language=language.config)
    state = language.state() | {"grammar": grammar}
    weights = UniversalDenoiser(config.model).state_dict()
    save(where / "x.pt", make_payload(config, language.vocabulary, weights, language=state))
    return where / "x.pt"


@pytest.mark.slow
def test_the_numbers_of_nonterminals_are_the_same_in_every_process(tmp_path: Path) -> None:
    """Seeded draws depend on them, so sets must not decide their order."""
    mine = folder(
        tmp_path,
        'all: WORD+ | pair\npair: WORD "=" WORD*\nWORD: "go" | /[a-f]+/\n%ignore / +/',
        "go\n",
    )
    source = open_source(mine / "grammar.lark", "all")
    program = (
        "import json, sys\n"
        "from maskdiff.languages.cfg import compile_grammar, compile_reader, restore_source\n"
        "source = restore_source(json.load(sys.stdin), 'mine')\n"
        "symbols = 'abcdefgo= '\n"
        "for g in (compile_grammar(source, symbols, True), compile_reader(source, symbols)):\n"
        "    print(g.names, *(x.tolist() for x in (g.parent, g.left, g.right, g.emits)))\n"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program], input=json.dumps(source.state()), text=True,
            capture_output=True, check=True,
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
        ).stdout
        for seed in range(2)
    }  # fmt: skip
    assert len(printed) == 1
    assert "WORD" in printed.pop()


def test_limits_are_checked_before_lark_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("Lark's loader was called")

    monkeypatch.setattr("lark.load_grammar.load_grammar", forbidden)
    with pytest.raises(GrammarError, match="5000 rules in"):
        grammar_source.load_definitions(
            GrammarSource("".join(f'r{i}: "a"\n' for i in range(5_000)))
        )


def test_a_checkpoint_file_holds_the_grammar(tmp_path: Path) -> None:
    """Written and read again, by the file's own checks of plain values."""
    mine = folder(
        tmp_path / "mine",
        "%import .words.VERB\nstart: VERB+",
        "gorun\n",
        words='VERB: "go" | "run"',
    )
    language = language_of(mine)
    config = tiny_config(vocab_size=len(language.vocabulary), block_size=language.config.max_len)
    config = replace(config, language=language.config)
    model = UniversalDenoiser(config.model)
    save(
        tmp_path / "x.pt",
        make_payload(config, language.vocabulary, model.state_dict(), language=language.state()),
    )
    for file in mine.iterdir():
        file.unlink()
    assert load_denoiser(tmp_path / "x.pt").language.parses("rungorun")
