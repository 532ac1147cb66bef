"""YAML: texts are kept as written, numbers are plain decimals, and what is written is read back."""

from __future__ import annotations

import dataclasses
import math
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from maskdiff.config import Config, ControlConfig, DecodeConfig
from maskdiff.config_io import (
    DECODING,
    SECTIONS,
    TEXTS,
    config_from_dict,
    convert,
    dump_yaml,
    load_config,
    load_decoding,
    options,
)
from maskdiff.errors import ConfigError
from maskdiff.utils.values import Plain, parse_boolean, parse_decimal, parse_integer
from maskdiff.utils.yaml_text import MAX_VALUES, parse_yaml
from tests.helpers.fuzz import both_seeds, cases
from tests.helpers.paths import CONFIGS


def config_of(text: str) -> Config:
    values = parse_yaml(text, "file")
    return config_from_dict(values or {}, "file")


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config_of(text)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# -------------------------------------------------------------------------------------------- texts

# What YAML 1.1 makes something else of: octal, float, integers with signs, base 60, hexadecimal,
# binary, dates.
REWRITTEN = [
    "007", "2026_11", "1.10", "010", "12:30", "01", "0x1F", "0b101", "0o17", "1e3", ".5", "1_000",
    "+7", "-0", "190:20:30.15", "2024-01-01", "2024-01-01T10:00:00Z", ".inf", "-.INF", ".nan",
    "1.", "=", "1:2:3", "0.10", "00", "08", "1__0", "١٢", "12e03",
]  # fmt: skip


@pytest.mark.parametrize("text", REWRITTEN)
def test_a_text_is_kept_as_written(text: str) -> None:
    assert config_of(f"name: {text}").train.name == text
    assert config_of(f"{{train: {{name: {text}}}}}").train.name == text
    assert config_of(f"language:\n  language: {text}  # why").language.language == text
    assert config_of(f"language: {text}").language.language == text


@pytest.mark.parametrize("text", REWRITTEN)
def test_texts_of_a_list_are_kept(tmp_path: Path, text: str) -> None:
    path = tmp_path / "decode.yaml"
    path.write_text(
        f"stop: [{text}, '{text}']\nstop_token: {text}\ndry_breakers: {text}\n", encoding="utf-8"
    )
    assert load_decoding(path).control == ControlConfig(
        stop=(text, text), stop_token=(text,), dry_breakers=text
    )


@pytest.mark.parametrize(
    "word", ["~", "null", "Null", "NULL", "", "yes", "No", "on", "OFF", "true", "False"]
)
def test_a_value_of_another_type_is_refused_for_a_text(word: str) -> None:
    assert "put it in quotes" in refused(f"name: {word}")
    assert config_of(f"name: '{word}'").train.name == word
    assert config_of(f'name: "{word}"').train.name == word


@pytest.mark.parametrize("key", ["1", "010", "on", "null", "1.5", "2024-01-01", "~"])
def test_keys_are_text(key: str) -> None:
    assert f"unknown key '{key}'" in refused(f"{key}: 3")


def test_a_section_whose_keys_are_comments_is_empty(tmp_path: Path) -> None:
    for name in SECTIONS:
        assert config_of(f"{name}:\n# a: 1\n  # b: 2\n") == Config()
    path = tmp_path / "decode.yaml"
    path.write_text("sampler:\n# steps: 3\ncontrol:\nstop:\n  # - x\ncompletion: ~\n")
    assert load_decoding(path) == DecodeConfig()
    path.write_text("language:\n# all\nextends:\n")
    assert load_config(path) == Config()
    assert "in quotes" in refused("language: null")  # it may be a name


# ------------------------------------------------------------------------------------------ numbers


NO_WHOLE = [
    "010", "0x1F", "0b1", "0o7", "1_000", "12:30", "1e3", "1.0", "1.", ".5", "١٢", "１２",
    "1,000",
    "+", "~", "null", "yes", "0x", "--", "1e", "",
]  # fmt: skip
NO_DECIMAL = [
    "010", "00.5", "0x1F", "1_000.0", "12:30", "190:20:30.15", ".inf", "-.inf", ".nan", "inf",
    "nan", "1e400", "1e-400", "١٢", "1e", "1e5.0", "1,5", "-1_0", "",
]  # fmt: skip
DECIMAL = [
    "0",
    "3",
    "+3",
    "0.5",
    ".5",
    "1.",
    "1e-3",
    "1E+1",
    "2.5e1",
    "1.0e-08",
    "-0",
    "-0.0",
    "0e5",
]


@pytest.mark.parametrize("text", NO_WHOLE)
def test_a_whole_number_is_plain_digits(text: str) -> None:
    assert "it must be a whole number" in refused(f"n_layer: {text}")
    assert "it must be a whole number" in refused(f"n_layer: '{text}'")


@pytest.mark.parametrize("text", NO_DECIMAL)
def test_a_number_is_a_plain_decimal_fraction(text: str) -> None:
    assert "lr is" in refused(f"lr: {text}")


@pytest.mark.parametrize("text", DECIMAL)
def test_plain_decimals_are_the_numbers_of_python(text: str) -> None:
    value = config_of(f"lr: {text}").train.lr
    assert value == float(text)
    assert math.copysign(1.0, value) == 1.0  # 0 has no sign


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_that_python_writes_is_read(number: float) -> None:
    assert parse_decimal(repr(number)) == number
    assert parse_decimal(yaml.safe_dump(number).splitlines()[0]) == number


@given(st.integers(-(10**30), 10**30))
def test_every_integer_that_python_writes_is_read(number: int) -> None:
    assert parse_integer(str(number)) == number


@given(st.one_of(st.text(max_size=8), st.from_regex(r"[-+]?[0-9_:.xXobeE]{1,8}", fullmatch=True)))
def test_numbers_equal_those_of_python(text: str) -> None:
    """Numbers equal the values of `int` and `float` in every form."""
    for reader, python in ((parse_integer, int), (parse_decimal, float)):
        try:
            value = reader(text)
        except ValueError:
            continue
        assert value == python(text)


@pytest.mark.slow
@given(st.text(max_size=6))
def test_a_flag_and_a_quoted_scalar_are_read_alike(text: str) -> None:
    quoted = parse_yaml(yaml.safe_dump({"a": text}, default_style='"', width=math.inf), "file")["a"]
    assert (quoted, type(quoted)) == (text, str)
    for field, kind in (options(SECTIONS["train"])[name] for name in ("name", "lr", "seed", "amp")):
        outcomes = []
        for given_text in (text, quoted):
            try:
                outcomes.append(convert(field, kind, given_text))
            except ConfigError as error:
                outcomes.append(str(error))
        assert outcomes[0] == outcomes[1]


def test_truth_values_of_yaml_are_read() -> None:
    for word in ("yes", "Yes", "on", "ON", "true", "1"):
        assert config_of(f"amp: {word}").train.amp is True
        assert parse_boolean(word) is True
    for word in ("no", "off", "False", "0"):
        assert config_of(f"low_discrepancy: {word}").noise.low_discrepancy is False
    for word in ("y", "2", "~", ""):
        assert "true or false" in refused(f"amp: {word}")


# ---------------------------------------------------------------------------------------- structure


@pytest.mark.parametrize(
    "text, message",
    [
        ("name: a\0b", "line 1: '\\x00' has no place in YAML"),
        ("lr: 1\nname: a\u2028b", "line 2: '\\u2028' ends a line to some readers"),
        ("lr: 1\r\rname: a\x85b", "line 3: '\\x85'"),
        ("lr: 1\n---\nlr: 2", "another document"),
        ("name: !!int 3", "tag"),
        ("name: !x 3", "tag '!x' has no use here"),
        ("? [a]\n: b", "is no text"),
        ("lr: 1\n'lr': 2", "line 2: key 'lr' stands twice"),
        ("train: {lr: 1, lr: 2}", "stands twice"),
        ("a: &a [*a]", "deep"),
        ("name: @x", "in quotes"),
        ("name: *x", "undefined alias 'x'; put a text with special characters in quotes"),
        ("<<: 3", "<< takes a mapping"),
        ("[" * 500, "deep"),
        ('name: "\\UFFFFFFFF"', "file: "),
        ("name: [a]", "it must be a text"),
        ("name: {a: b}", "it must be a text"),
    ],
)
def test_unsupported_yaml_gives_one_line(text: str, message: str) -> None:
    assert message in refused(text)


def test_byte_order_marks_and_line_ends_of_other_systems_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    for end in ("\n", "\r\n", "\r"):
        path.write_bytes(("\ufeff" + end.join(["train:", "  name: 007", "  lr: 1", ""])).encode())
        assert (load_config(path).train.name, load_config(path).train.lr) == ("007", 1.0)


def test_alias_expansion_is_bounded() -> None:
    """Ten levels of ten aliases would expand to 10**10 values."""
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10) if i else 'x'}]" for i in range(10)]
    assert f"over {MAX_VALUES} values" in refused("\n".join(levels))


@pytest.mark.slow
@both_seeds
def test_merge_keys_equal_those_of_pyyaml(seed: int) -> None:
    """Compare with SafeLoader on mappings of quoted texts."""
    for rng in cases(100, seed):

        def pairs(rng: random.Random = rng) -> str:
            return ", ".join(
                f"{key}: '{rng.randrange(100)}'" for key in rng.sample("abcd", rng.randrange(1, 4))
            )

        several = f"[{', '.join(f'*{name}' for name in rng.sample('xy', 2))}]"
        merged = rng.choice([several, "*x", "*y"])
        inner = rng.choice([f"<<: {merged}, {pairs()}", f"{pairs()}, <<: {merged}"])
        text = f"k: &x {{{pairs()}}}\nl: &y {{{pairs()}}}\nm: {{{inner}}}\n"
        assert parse_yaml(text, "file") == yaml.safe_load(text)


def reference(text: str) -> Any:
    """Return the values of PyYAML's events with styles; `ValueError` for refused input."""
    anchors: dict[str, Any] = {}
    defined: set[str] = set()
    events = iter(list(yaml.parse(text, Loader=yaml.SafeLoader))[1:])

    def value(event: yaml.Event, depth: int) -> Any:
        if isinstance(event, yaml.AliasEvent):
            return anchors[event.anchor]
        if event.tag not in (None, "!") or depth > 8:
            raise ValueError
        if event.anchor in defined:  # refused by PyYAML when it composes the nodes
            raise ValueError
        defined.update([event.anchor] if event.anchor else [])
        if isinstance(event, yaml.ScalarEvent):
            made: Any = (event.value, event.style is None)
        elif isinstance(event, yaml.SequenceStartEvent):
            made = []
            while not isinstance(item := next(events), yaml.SequenceEndEvent):
                made.append(value(item, depth + 1))
        else:
            made = {}
            while not isinstance(item := next(events), yaml.MappingEndEvent):
                key = value(item, depth + 1)
                if not isinstance(key, tuple) or any(key[0] == known for known in made):
                    raise ValueError
                made[key[0]] = value(next(events), depth + 1)
        if event.anchor:
            anchors[event.anchor] = made
        return made

    first = next(events)
    if isinstance(first, yaml.StreamEndEvent):
        return None
    made = value(next(events), 0)
    next(events)
    if not isinstance(next(events), yaml.StreamEndEvent):
        raise ValueError
    return made


def styled(value: Any) -> Any:
    """Return our values in the form of the reference."""
    if isinstance(value, str):
        return str(value), isinstance(value, Plain)
    if isinstance(value, list):
        return [styled(item) for item in value]
    return None if value is None else {key: styled(item) for key, item in value.items()}


SCALARS = [
    *REWRITTEN, "a", "b c", "'x: y'", '"a\\tb"', "~", "on", "''", "|\n    a\n    b",
    ">-\n    c\n    d", "*p", "&p q", "a#b", "! z",
]  # fmt: skip


def random_yaml(rng: random.Random) -> str:
    def flow(depth: int) -> str:
        kind = rng.randrange(3 if depth < 3 else 1)
        if kind == 0:
            return rng.choice(SCALARS[:-6])
        parts = [flow(depth + 1) for _ in range(rng.randrange(3))]
        return (
            f"[{', '.join(parts)}]"
            if kind == 1
            else "{" + ", ".join(f"{rng.choice('abc')}: {part}" for part in parts) + "}"
        )

    lines = []
    for _ in range(rng.randrange(6)):
        body = rng.choice(
            [
                rng.choice(SCALARS),
                flow(0),
                "",
                f"\n  {rng.choice('de')}: {flow(1)}",
                f"\n  - {flow(1)}\n  - z",
            ]
        )
        key = rng.choice(["a", "b", "c", "lr", "'k'"])
        lines.append(f"{key}: {body}{rng.choice(['', '  # note'])}")
    text = (
        rng.choice(["", "---\n", "# head\n"]) + "\n".join(lines) + rng.choice(["", "\n", "\n...\n"])
    )
    for _ in range(rng.choice([0, 0, 1, 3])):  # damage
        at = rng.randrange(len(text) + 1)
        text = (
            text[:at] + rng.choice("[]{}:,-\n \t'\"#&*!|>%@\r~<ax0") + text[at + rng.randrange(3) :]
        )
    return text


def test_an_anchor_that_stands_twice_is_named() -> None:
    with pytest.raises(ConfigError, match="line 2: anchor 'p' stands twice"):
        parse_yaml("lr: &p 1\na: &p 2\n", "file")


@pytest.mark.slow
@both_seeds
def test_structure_equals_that_of_pyyaml(seed: int) -> None:
    """Compare with the events of PyYAML: equal values and quotes, or refused by both."""
    read = 0
    for rng in cases(700, seed):
        text = random_yaml(rng)
        try:
            expected = reference(text)
        except (yaml.YAMLError, ValueError, KeyError):
            with pytest.raises(ConfigError):
                parse_yaml(text, "file")
            continue
        if "<<" not in text:
            assert styled(parse_yaml(text, "file")) == expected, text
            read += 1
    assert read > 3


# ----------------------------------------------------------------------------------- there and back

TRICKY = [
    *REWRITTEN, "null", "~", "on", "no", "", " ", "a: b", ": ", "#", "a #b", "- a", "'", '"',
    "\n", "a\n", "\r\n", "\t", "\x85", "\u2028", "\ufeff", "%", "@", "`", "|", ">", "[a", "{",
    "!", "&a", "*a", "?", "---", "...", "é", "👨‍👩‍👧", "\x00", "\x1b", "\\",
    "a  b " * 40,
    "\ud800", "<<", "=",
]  # fmt: skip


def values_of(section: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for any value of every field of a section."""
    text = st.one_of(st.text(max_size=20), st.sampled_from(TRICKY))
    made: dict[str, st.SearchStrategy[Any]] = {}
    for name, (field, kind) in options(section).items():
        low, high, choices = (field.metadata[key] for key in ("low", "high", "choices"))
        if kind == TEXTS:
            made[name] = st.lists(text, max_size=3).map(tuple)
        elif kind is int:
            made[name] = st.integers(low, high)
        elif kind is float:
            made[name] = st.floats(low, high)
        else:
            made[name] = (
                st.booleans() if kind is bool else st.sampled_from(choices) if choices else text
            )
    return st.builds(section, **made)


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(st.builds(Config, **{name: values_of(section) for name, section in SECTIONS.items()}))
def test_every_configuration_is_read_back(config: Config) -> None:
    assert config_of(dump_yaml(config)) == config
    plain = yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)  # as runs were saved before
    assert config_of(plain) == config


@settings(max_examples=10, deadline=None)
@given(st.builds(DecodeConfig, **{name: values_of(section) for name, section in DECODING.items()}))
def test_every_settings_file_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, config: DecodeConfig
) -> None:
    path = tmp_path_factory.getbasetemp() / "decode.yaml"
    path.write_text(dump_yaml(config), encoding="utf-8")
    assert load_decoding(path) == config


@pytest.mark.slow
def test_the_shipped_configurations_load() -> None:
    paths = sorted(CONFIGS.glob("*.yaml"))
    assert len(paths) > 20
    for path in paths:
        assert (load_decoding if path.name == "decode.yaml" else load_config)(path)
