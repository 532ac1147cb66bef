"""Configuration in and out: YAML files with `extends`, command-line flags generated from the dataclasses, YAML back.

For: turning what a user wrote into the frozen dataclasses of `config.py`, with every error naming the key, the value, what
is allowed and the nearest valid name. Not for: the options themselves (`config.py`) or what they do. Easy to get wrong: YAML
1.1 reads `3e-3` as a string, `off` as false and `010` as 8, so its scalars stay text here, and every
value, from YAML or from a flag, goes through the one `convert`, which knows what the field wants.

A file may be flat (`n_layer: 2`), sectioned (`model: {n_layer: 2}`) or both; field names are unique across sections.
`extends: other.yaml` (or a list) is read first, relative to the file that says it, and is overridden by what follows.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, fields, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

from maskdiff.config import (
    KINDS,
    MAX_HELD_TOKENS,
    MAX_PARAMETERS,
    MAX_STEP_TOKENS,
    MAX_VALIDATED_TOKENS,
    CompletionConfig,
    Config,
    ControlConfig,
    DecodeConfig,
    LanguageConfig,
    ModelConfig,
    NoiseConfig,
    SamplerConfig,
    TrainConfig,
    checked,
    range_text,
)
from maskdiff.errors import ConfigError, folded, nearest, quote
from maskdiff.utils.lines import split_lines
from maskdiff.utils.values import Plain, parse_boolean, parse_decimal, parse_integer

Section = TypeVar("Section")

SECTIONS: dict[str, type] = {
    "language": LanguageConfig,
    "noise": NoiseConfig,
    "model": ModelConfig,
    "train": TrainConfig,
}
DECODING: dict[str, type] = {
    "sampler": SamplerConfig,
    "completion": CompletionConfig,
    "control": ControlConfig,
}
TEXTS = tuple[str, ...]  # the type of a option that may be given several times
DERIVED = ("block_size",)  # a model's size that follows from its language: in files, but no flag
READERS: dict[type, Callable[[str], int | float | bool]] = {
    int: parse_integer,
    float: parse_decimal,
    bool: parse_boolean,
}
MAX_DEPTH = 16  # of `extends`
MAX_BYTES = 100_000  # of one configuration file
MAX_NESTING = 8  # of lists and mappings in one
MAX_VALUES = 100_000  # of one, those that aliases repeat counted again


# --------------------------------------------------------------------------------------------------------------- values


def convert(field: Field[Any], kind: type, given: Any) -> Any:
    """`given` (of YAML, a flag or Python) as a checked value of `field`, whose annotation is `kind`.

    Text is read by the kind of value that the field wants; text of YAML without quotes is `Plain`.
    Raises ConfigError.
    """
    if kind == TEXTS:
        return checked(field, _texts(field.name, given), given)
    if not isinstance(given, str):
        return checked(field, given)
    value = _text(field.name, given) if kind is str else _read(field.name, kind, given)
    return checked(field, value, given)


def _read(name: str, kind: type, text: str) -> int | float | bool:
    try:
        return READERS[kind](text)
    except ValueError as error:
        hint = f"; {error}" if str(error) else ""
        raise ConfigError(
            f"{name} is {quote(text)}; it must be {KINDS[kind.__name__]}{hint}"
        ) from None


def _text(name: str, text: str) -> str:
    """The text as it is written.

    Raises ConfigError for one without quotes that YAML gives another meaning.
    """
    if isinstance(text, Plain) and (text.is_null or text.is_truth):
        meaning = "no value" if text.is_null else "a truth value"
        raise ConfigError(
            f"{name} is {quote(text)}, which is {meaning} in YAML; "
            "if it is a text, put it in quotes"
        )
    return str(text)


def _texts(name: str, given: Any) -> Any:
    if isinstance(given, str):
        return () if isinstance(given, Plain) and not given else (_text(name, given),)
    if isinstance(given, list):
        return [_text(name, text) if isinstance(text, str) else text for text in given]
    return given


# ------------------------------------------------------------------------------------------------------------- building


def options(section: type) -> dict[str, tuple[Field[Any], type]]:
    """Field name -> (field, type) of a section's dataclass."""
    hints = get_type_hints(section)
    return {field.name: (field, hints[field.name]) for field in fields(section)}


def build(
    section: type[Section], values: Mapping[str, Any], source: str = "", base: Section | None = None
) -> Section:
    """A checked `section` with `values` over `base` (or the defaults); `source` (a file name) leads the error messages."""
    known = options(section)
    given: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise ConfigError(_prefix(source) + unknown("key", str(name), known))
        try:
            given[name] = convert(*known[name], value)
        except ConfigError as error:
            raise ConfigError(f"{_prefix(source)}{error}") from None
    return replace(base if base is not None else section(), **given)  # type: ignore[type-var]


def unknown(what: str, given: str, allowed: Mapping[str, Any] | Sequence[str]) -> str:
    """The message for an unknown name, with the nearest valid one."""
    return (
        f"unknown {what} {quote(given)}; the nearest valid one is {nearest(given, list(allowed))!r}"
    )


def _prefix(source: str) -> str:
    return f"{source}: " if source else ""


def config_from_dict(
    values: Mapping[str, Any], source: str = "", base: Config | None = None
) -> Config:
    """A checked Config from a mapping that is flat, sectioned or both; unknown keys name the nearest valid one."""
    config = base or Config()
    homes = {name: key for key, section in SECTIONS.items() for name in options(section)}
    sorted_in: dict[str, dict[str, Any]] = {key: {} for key in SECTIONS}

    def put(section: str, key: str, given: Any) -> None:
        if key in sorted_in[section]:
            raise ConfigError(
                f"{_prefix(source)}key {key!r} stands twice, in section {section!r} and outside; keep one"
            )
        sorted_in[section][key] = given

    for name, value in values.items():
        if name in SECTIONS and _is_section(value, name in homes):
            for inner, given in _entries(name, value, source).items():
                if inner not in options(SECTIONS[name]) and inner in homes:
                    raise ConfigError(
                        f"{_prefix(source)}key {inner!r} belongs in section {homes[inner]!r}, not in {name!r}"
                    )
                put(name, str(inner), given)
        elif name in homes:
            put(homes[name], name, value)
        else:
            raise ConfigError(
                _prefix(source) + unknown("key", str(name), [*homes, *SECTIONS, "extends"])
            )
    parts = {
        key: build(section, sorted_in[key], source, getattr(config, key))
        for key, section in SECTIONS.items()
    }
    return replace(config, **parts)


def _is_section(value: Any, is_knob: bool) -> bool:
    """Whether a section is meant, where a option has its name: `language: {...}`, or nothing behind it."""
    empty = value is None or (isinstance(value, Plain) and not value)
    return empty or not is_knob or isinstance(value, Mapping)


def _entries(name: str, value: Any, source: str) -> Mapping[Any, Any]:
    """The entries of a section; one whose keys are all comments has none. Raises ConfigError."""
    if _is_nothing(value):
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{_prefix(source)}section {name!r} is {quote(value)}; it must map keys to values"
        )
    return value


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, Plain) and value.is_null)


def check(config: Config, source: str = "") -> Config:
    """`config` itself, after the checks that need more than one option; ConfigError otherwise."""
    noise, model, train, language = config.noise, config.model, config.train, config.language
    pairs = (("sigma_min", noise.sigma_min, "sigma_max", noise.sigma_max),
             ("min_int", language.min_int, "max_int", language.max_int),
             ("min_depth", language.min_depth, "max_depth", language.max_depth))  # fmt: skip
    for low, low_value, high, high_value in pairs:
        if low_value > high_value:
            raise ConfigError(
                f"{_prefix(source)}{low} {low_value:g} is over {high} {high_value:g}; lower {low} or raise {high}"
            )
    unit = model.n_head * (
        2 if model.positions == "rotary" else 1
    )  # rotary positions turn pairs of features
    if model.n_embd % unit:
        example = unit * max(1, round(model.n_embd / unit))
        allowed = f"with {model.n_head} heads it must be a multiple of {unit}, such as {example}"
        raise ConfigError(f"{_prefix(source)}n_embd is {model.n_embd}; {allowed}")
    edits = (
        noise.mask_share
        + noise.replace_share
        + noise.swap_share
        + noise.delete_share
        + noise.insert_share
    )
    if abs(edits - 1.0) > 1e-6:
        raise ConfigError(
            f"{_prefix(source)}the shares of mask, replace, swap, delete and insert add up to {edits:g}, not 1"
        )
    if train.faithful and train.cut_rows:
        raise ConfigError(
            f"{_prefix(source)}faithful reproduces the reference, which cuts no rows; set cut_rows 0"
        )
    _check_sizes(config, source)
    shares = train.mode_shares()
    if (total := sum(shares.values())) > 1.0 + 1e-9:
        raise ConfigError(
            f"{_prefix(source)}{' + '.join(shares)} is {total:g}; lower them to 1 or less"
        )
    return config


def _check_sizes(config: Config, source: str) -> None:
    """Raises ConfigError where numbers that are allowed one by one take absurd memory together."""
    model, train, longest = config.model, config.train, config.language.max_len
    for what, tokens, most in (
        ("batch_size", train.batch_size, MAX_STEP_TOKENS),
        ("num_samples", train.num_samples, MAX_HELD_TOKENS),
        ("eval_samples", train.eval_samples, MAX_VALIDATED_TOKENS),
    ):
        if tokens * longest > most:
            raise ConfigError(
                f"{_prefix(source)}{what} is {tokens}; with max_len {longest} at most "
                f"{most // longest} are allowed"
            )
    parameters = round(model.n_layer * model.n_embd**2 * (4 + 2 * model.mlp_ratio))
    if parameters > MAX_PARAMETERS:
        raise ConfigError(
            f"{_prefix(source)}{model.n_layer} blocks of n_embd {model.n_embd} have over "
            f"{parameters:,} parameters; allowed are {MAX_PARAMETERS:,}"
        )


# ----------------------------------------------------------------------------------------------------------------- YAML


class _Values:
    """Nodes of a YAML file as nested values whose scalars are text: `Plain` where they have no quotes."""

    def __init__(self) -> None:
        self.count = 0  # made so far: aliases make a long list of a short file

    def of(self, node: yaml.Node, depth: int = 0) -> Any:
        """The values of a node. Raises MarkedYAMLError for tags, keys that are no text, endless nesting."""
        self.count += 1
        if depth > MAX_NESTING or self.count > MAX_VALUES:
            limits = f"over {MAX_NESTING} deep, or hold over {MAX_VALUES} values"
            raise _refused(node, f"lists and mappings are {limits}")
        if node.tag not in TAGS:
            raise _refused(node, f"tag {quote(node.tag)} has no use here; leave it out")
        if isinstance(node, yaml.ScalarNode):
            return Plain(node.value) if node.style is None else str(node.value)
        if isinstance(node, yaml.SequenceNode):
            return [self.of(item, depth + 1) for item in node.value]
        return self._mapping(node, depth)

    def _mapping(self, node: yaml.Node, depth: int) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, value = self.of(key_node, depth + 1), self.of(value_node, depth + 1)
            if not isinstance(key, str):
                raise _refused(key_node, f"key {quote(key)} is no text")
            if key == "<<" and isinstance(key, Plain):  # mappings whose keys this one overrides
                for part in value if isinstance(value, list) else [value]:
                    if not isinstance(part, dict):
                        raise _refused(value_node, "<< takes a mapping or a list of mappings")
                    merged = {**part, **merged}
            elif key in own:
                # The second would silently win.
                raise _refused(key_node, f"key {quote(key)} stands twice")
            else:
                own[str(key)] = value
        return {**merged, **own}


# What has no tag has one of these.
TAGS = ("!", *(f"tag:yaml.org,2002:{name}" for name in ("str", "seq", "map")))


def _refused(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def parse_yaml(text: str, shown: str) -> Any:
    """The nested values of a YAML text, scalars as text (see `_Values`); ConfigError names the line."""
    odd = next((i for i, c in enumerate(text) if c in "\x85\u2028\u2029"), None)
    if odd is not None:
        where = f"{shown}, line {len(split_lines(text[: odd + 1]))}"
        raise ConfigError(
            f"{where}: {quote(text[odd])} ends a line to some readers of YAML; write it so, in "
            "double quotes"
        )
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)  # nodes alone: nothing is converted
        return None if node is None else _Values().of(node)
    except yaml.reader.ReaderError as error:
        line = len(split_lines(text[: error.position + 1]))
        raise ConfigError(
            f"{shown}, line {line}: {quote(chr(error.character))} has no place in YAML"
        ) from None
    except yaml.MarkedYAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        syntax = isinstance(error, (yaml.scanner.ScannerError, yaml.parser.ParserError))
        special = syntax or "alias" in str(error.problem)
        hint = "; put a text with special characters in quotes" if special else ""
        raise ConfigError(f"{shown}{where}: {error.problem}{hint}") from None
    except RecursionError:
        raise ConfigError(f"{shown}: lists and mappings are over {MAX_NESTING} deep") from None
    except (ValueError, OverflowError) as error:  # of an escape that is no character
        raise ConfigError(f"{shown}: {folded(error)}") from None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in one YAML file, `extends` not followed; ConfigError names the file and the line."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot read configuration {quote(str(path), 200)}: {error.strerror or error}"
        ) from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(
            f"configuration {quote(str(path), 200)} is over {MAX_BYTES} bytes; give a YAML file of "
            "settings"
        )
    try:
        values = parse_yaml(raw.decode("utf-8"), f"configuration {path}")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"configuration {quote(str(path), 200)} is not UTF-8 text (byte {error.start})"
        ) from None
    if _is_nothing(values):
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"configuration {path} holds {quote(values)}; it must hold `key: value` lines"
        )
    return values


def load_decoding(path: str | Path) -> DecodeConfig:
    """The settings of sampling in a YAML file, in the sections `sampler`, `completion` and `control` or outside them.

    A key outside them goes to every section that has it (`temperature`: to two). Raises ConfigError.
    """
    parts: dict[str, dict[str, Any]] = {name: {} for name in DECODING}
    for name, value in read_yaml(path).items():
        homes = [section for section, kind in DECODING.items() if name in options(kind)]
        if name in DECODING and _is_section(value, bool(homes)):
            entries = _entries(name, value, str(path))
            if twice := [key for key in entries if key in parts[name]]:
                raise ConfigError(
                    f"{path}: key {twice[0]!r} stands twice, in section {name!r} and outside; keep "
                    "one"
                )
            parts[name].update(entries)
            continue
        if not homes:
            if name == "extends":
                raise ConfigError(
                    f"{path}: settings of sampling extend no other file; write them all here"
                )
            known = [key for kind in DECODING.values() for key in options(kind)]
            raise ConfigError(
                f"{path}: {unknown('key', str(name), [*dict.fromkeys(known), *DECODING])}"
            )
        for home in homes:
            if name in parts[home]:
                raise ConfigError(
                    f"{path}: key {name!r} stands twice, in section {home!r} and outside; keep one"
                )
            parts[home][name] = value
    made: dict[str, Any] = {
        name: build(kind, parts[name], str(path)) for name, kind in DECODING.items()
    }
    return DecodeConfig(**made)


def load_config(
    path: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    base: Config | None = None,
) -> Config:
    """`base` (or the defaults), under the YAML file at `path` (its `extends` first), under `overrides` (flags). ConfigError."""
    given = {} if path is None else _explicit(Path(path), ())
    return check(config_from_dict({**given, **(overrides or {})}, base=base), str(path or ""))


def _explicit(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """What a file and those it extends say, flat and checked: of several parents the later win, the file wins over all."""
    if path.resolve() in above or len(above) >= MAX_DEPTH:
        raise ConfigError(
            f"configuration {path} extends itself, through {' -> '.join(parent.name for parent in above)}"
        )
    values = read_yaml(path)
    merged: dict[str, Any] = {}
    for parent in _parents(values.pop("extends", []), path):
        merged.update(_explicit(path.parent / parent, (*above, path.resolve())))
    config_from_dict(values, str(path))  # for its errors, which name this file
    for name, value in values.items():
        flat = {} if _is_nothing(value) else {name: value}
        merged.update(value if isinstance(value, Mapping) else flat)
    return merged


def _parents(given: Any, path: Path) -> Sequence[str]:
    """The files that a file extends. Raises ConfigError."""
    try:
        found = _texts("extends", given)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(found, (list, tuple)) or not all(isinstance(parent, str) for parent in found):
        raise ConfigError(
            f"{path}: extends is {quote(given)}; it must be a file name or a list of file names"
        )
    return found


def to_dict(config: Config) -> dict[str, dict[str, Any]]:
    """Nested plain values, as checkpoints and YAML carry them; `config_from_dict` reads it back."""
    return asdict(config)


def dump_yaml(config: Config | DecodeConfig) -> str:
    """The whole configuration as sectioned YAML; `load_config`, or `load_decoding`, reads it back."""
    # Escaped, for YAML folds a raw U+0085; and not folded, for its writer and its reader disagree
    # about some blanks there.
    return yaml.safe_dump(asdict(config), sort_keys=False, default_flow_style=False, width=math.inf)


# ---------------------------------------------------------------------------------------------------------------- flags


def add_config_flags(
    parser: argparse.ArgumentParser, *sections: type, skip: Sequence[str] = DERIVED
) -> None:
    """One `--name` flag a option (`--x` / `--no_x` for truth values), grouped by section, with help, default and range.

    A flag that is not given leaves no attribute behind (`argparse.SUPPRESS`), so `overrides` sees only what was typed.
    Without `sections`, those of `Config`, less what the language decides.
    """
    for section in sections or tuple(SECTIONS.values()):
        summary = (section.__doc__ or "").strip().splitlines()[0]
        group = parser.add_argument_group(section.__name__.removesuffix("Config").lower(), summary)
        for name, (field, kind) in options(section).items():
            if name not in skip:
                _add_flag(group, field, kind)


class _Switch(argparse.Action):
    """`--x` sets true, `--no_x` false; help shows both."""

    def __call__(
        self,
        parser: Any,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, option_string != f"--no_{self.dest}")


def _add_flag(group: Any, field: Field[Any], kind: type) -> None:
    name, allowed = field.name, range_text(field)
    default = "" if field.default is MISSING else f"default {field.default!r}"
    notes = "; ".join(note for note in (allowed, default) if note)
    text = f"{field.metadata.get('help', '')} ({notes})".replace("%", "%%")
    if kind is bool:
        both = f"--{name}", f"--no_{name}"
        group.add_argument(
            *both, dest=name, action=_Switch, nargs=0, default=argparse.SUPPRESS, help=text
        )
        return

    def parse(given: str) -> Any:
        try:
            return convert(field, kind, given)
        except ConfigError as error:
            # argparse keeps the words of this exception type only.
            raise argparse.ArgumentTypeError(str(error)) from None

    if kind == TEXTS:
        group.add_argument(
            f"--{name}", action="append", metavar="TEXT", default=argparse.SUPPRESS, help=text
        )
        return
    group.add_argument(
        f"--{name}", type=parse, metavar=kind.__name__.upper(), default=argparse.SUPPRESS, help=text
    )


def overrides(args: argparse.Namespace, *sections: type) -> dict[str, Any]:
    """The options of `sections` (default: those of `Config`) that were given as flags."""
    names = {name for section in sections or tuple(SECTIONS.values()) for name in options(section)}
    return {name: value for name, value in vars(args).items() if name in names}


def sampler_config(args: argparse.Namespace, base: SamplerConfig | None = None) -> SamplerConfig:
    """The SamplerConfig that the flags ask for, over `base`."""
    return build(SamplerConfig, overrides(args, SamplerConfig), base=base)
