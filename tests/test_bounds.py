"""Bounds: every numeric option has a documented lower and upper bound."""

from __future__ import annotations

import argparse
import ast
import importlib
import math
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from maskdiff import config, tasks
from maskdiff.cli import arguments as cli
from maskdiff.config import MAX_STRINGS, Config, DecodeConfig, Section
from maskdiff.config_io import check, config_from_dict, convert, load_config, options, range_text
from maskdiff.drawing.settings import Draw
from maskdiff.errors import ConfigError
from maskdiff.sampling import Autoregressive, Canvas, Predictive, Reconsider, Speculate, Unmask
from maskdiff.utils.values import Plain
from tests.helpers.paths import REPOSITORY
from tests.helpers.tiny import tiny_loaded

PARSERS = {
    "maskdiff.cli.train": REPOSITORY / "maskdiff/cli/train.py",
    "maskdiff.cli.benchmark": REPOSITORY / "maskdiff/cli/benchmark.py",
    "maskdiff.cli.inference": REPOSITORY / "maskdiff/cli/inference_flags.py",
    "maskdiff.cli.maskdiff": REPOSITORY / "maskdiff/cli/maskdiff.py",
    "maskdiff.experiments.distillation.cli": REPOSITORY
    / "maskdiff/experiments/distillation/cli.py",
    "maskdiff.experiments.distillation.attempts": REPOSITORY
    / "maskdiff/experiments/distillation/attempts.py",
}
ABSURD = [
    "99999999999999999999",
    "-99999999999999999999",
    "9" * 5000,
    "1e400",
    "-1e400",
    "nan",
    "inf",
    "-inf",
    "0x7f",
    "1_0",
]
KINDS = [kind for kind in vars(config).values() if isinstance(kind, type)]
SECTIONS = [kind for kind in KINDS if issubclass(kind, Section) and kind is not Section]
NUMBERS = [
    (section, field, kind)
    for section in SECTIONS
    for field, kind in options(section).values()
    if kind in (int, float)
]


def test_every_section_checks_its_values() -> None:
    """Every dataclass of options is covered, except those that hold only sections."""
    found = [kind for kind in KINDS if is_dataclass(kind)]
    assert {kind for kind in found if not issubclass(kind, Section)} == {Config, DecodeConfig}
    assert len(NUMBERS) > 80


@pytest.mark.parametrize(
    "section, field, kind", NUMBERS, ids=lambda value: getattr(value, "name", None)
)
def test_every_number_of_a_section_has_bounds(section: type, field: Any, kind: type) -> None:
    """Bounds apply in Python, to flags and in YAML."""
    low, high = field.metadata["low"], field.metadata["high"]
    assert type(low) is type(high) is kind
    assert math.isfinite(low)
    assert math.isfinite(high)
    assert low <= field.default <= high
    assert str(high) in range_text(field) or f"{high:g}" in range_text(field)
    for end in (low, high):
        assert getattr(section(**{field.name: end}), field.name) == end
        assert convert(field, kind, repr(end)) == end
    step = 1 if kind is int else 1e-3 * max(1.0, abs(high))
    for bad in (
        low - step,
        high + step,
        10**400,
        math.nan,
        math.inf,
        -math.inf,
        "3",
        None,
        True,
        [3],
    ):
        with pytest.raises(ConfigError):
            section(**{field.name: bad})
    for text in ABSURD:
        for given in (text, Plain(text)):
            with pytest.raises(ConfigError):
                convert(field, kind, given)


@pytest.mark.slow
def test_the_walk_visits_every_parser() -> None:
    """Every file that creates a parser is in the table above."""
    making = set()
    for path in [*REPOSITORY.glob("*.py"), *(REPOSITORY / "maskdiff").rglob("*.py")]:
        names = (
            node.func
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call)
        )
        if any(
            getattr(name, "attr", getattr(name, "id", "")) in ("Parser", "ArgumentParser")
            for name in names
        ):
            making.add(path)
    assert making == set(PARSERS.values())


def actions(
    parser: argparse.ArgumentParser,
) -> Iterator[tuple[argparse.ArgumentParser, argparse.Action]]:
    for action in parser._actions:
        yield parser, action
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                yield from actions(verb)


def outcome(kind: Callable[[str], Any], text: str) -> tuple[str, Any]:
    """Return the error message and the value of a flag for a text."""
    try:
        return "", kind(text)
    except argparse.ArgumentTypeError as error:
        return str(error), None


@pytest.mark.parametrize("module", PARSERS)
def test_every_flag_that_takes_a_number_has_bounds(module: str) -> None:
    numeric = 0
    for parser, action in actions(importlib.import_module(module).build_parser()):
        if action.nargs == 0 or isinstance(action, argparse._SubParsersAction):
            continue
        default = (
            action.default[0]
            if isinstance(action.default, (list, tuple)) and action.default
            else action.default
        )
        if action.type is None:
            assert not isinstance(default, (int, float)), (
                f"{action.dest} takes any text for a number"
            )
            continue
        assert callable(action.type)
        for text in ABSURD:
            error_text, value = outcome(action.type, text)
            assert len(error_text.splitlines()) == 1 or isinstance(value, str), (
                f"{action.dest} takes {text}"
            )
        numeric += isinstance(action.type, (cli.IntegerRange, cli.NumberRange))
        if isinstance(action.type, (cli.IntegerRange, cli.NumberRange)):
            assert f"[{action.type}]" in " ".join(parser.format_help().split())
    assert numeric > 0 or module == "maskdiff.cli.train"


def test_the_walk_finds_a_flag_without_bounds() -> None:
    """Negative control: plain `int` and `float` accept values that no option may accept."""
    assert int(ABSURD[0]) == 99999999999999999999
    assert math.isnan(float("nan"))
    for flag in (cli.IntegerRange(0, 5), cli.NumberRange(0.0, 5.0)):
        assert flag("3") == 3
        for text in ("6", "-1", *ABSURD):
            with pytest.raises(argparse.ArgumentTypeError):
                flag(text)


def test_every_number_of_a_stage_has_bounds() -> None:
    """A sampler created in Python has the bounds of the configuration."""
    walked = 0
    for kind in (Draw, Unmask, Autoregressive, Predictive, Reconsider, Speculate):
        for field in fields(kind):
            if field.type in ("int", "float") and (kind, field.name) != (Reconsider, "sigma"):
                walked += 1
                for bad in (10**30, -(10**30), math.nan, math.inf, 10**400, "3", None, True):
                    with pytest.raises(ConfigError, match=field.name):
                        given = {"finish": Unmask()} if kind is Speculate else {}
                        kind(**{**given, field.name: bad})
    assert walked > 15


@pytest.mark.parametrize(
    "name",
    ["n", "best_of", "max_tokens", "max_completion_tokens", "temperature", "seed", "top_logprobs"],
)
def test_every_number_of_a_request_has_bounds(name: str) -> None:
    bodies = pytest.importorskip("maskdiff.serving.schemas")
    from maskdiff.serving.error_responses import RequestError

    for text in (
        "99999999999999999999",
        "-99999999999999999999",
        "1" + "0" * 6000,
        "1e400",
        "NaN",
        "Infinity",
        "true",
        '"3"',
    ):
        body = (
            f'{{"model": "m", "messages": [{{"role": "user", "content": "x"}}], "{name}": {text}}}'
        )
        with pytest.raises(RequestError):
            bodies.parse_body(bodies.ChatBody, body.encode())


def test_every_number_of_a_request_is_known() -> None:
    """A new field needs bounds, too."""
    bodies = pytest.importorskip("maskdiff.serving.schemas")
    for kind in (bodies.CompletionBody, bodies.ChatBody):
        for name, field in kind.model_fields.items():
            if any(
                part in str(field.annotation) for part in ("int", "float")
            ) and "Stream" not in str(field.annotation):
                limits = {type(item).__name__ for item in field.metadata}
                assert limits & {"Ge", "Gt"}, name
                assert limits & {"Le", "Lt"}, name


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "batch_size: 65536\nmax_len: 1024",
            "batch_size is 65536; with max_len 1024 at most 16384",
        ),
        ("num_samples: 10000000\nmax_len: 1024", "at most 2097152"),
        ("eval_samples: 100000\nmax_len: 1024", "at most 65536"),
        (
            "n_layer: 64\nn_embd: 4096",
            "64 blocks of n_embd 4096 have over 12,884,901,888 parameters",
        ),
    ],
)
def test_inconsistent_numbers_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path)
    assert (
        check(config_from_dict({"batch_size": 65536, "num_samples": 10**7})).train.batch_size
        == 65536
    )


def test_a_million_strings_are_generated_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first string is yielded after one batch, and no canvas is larger than a batch."""
    loaded, sizes, blank = tiny_loaded(), [], Canvas.blank

    def counted(lengths: Any, *rest: Any) -> Canvas:
        sizes.append(len(lengths))
        return blank(lengths, *rest)

    monkeypatch.setattr(Canvas, "blank", counted)
    made = tasks.generating(loaded, MAX_STRINGS, length=5, sampler="maskgit", batch_size=3)
    first = [next(made).text for _ in range(4)]
    assert sizes == [3, 3]
    assert first == [
        result.text for result in tasks.generate(loaded, 4, length=5, sampler="maskgit")
    ]
