"""Configuration in and out: YAML files with `extends`, command-line flags generated from the dataclasses, YAML back.

For: turning what a user wrote into the frozen dataclasses of `config.py`, with every error naming the key, the value, what
is allowed and the nearest valid name. Not for: the knobs themselves (`config.py`) or what they do. Easy to get wrong: YAML
1.1 reads `3e-3` as a string and `off` as false, so every value, from YAML or from a flag, goes through the one `convert`.

A file may be flat (`n_layer: 2`), sectioned (`model: {n_layer: 2}`) or both; field names are unique across sections.
`extends: other.yaml` (or a list) is read first, relative to the file that says it, and is overridden by what follows.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, asdict, fields, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

from maskdiff.config import (
    CompletionConfig,
    Config,
    ControlConfig,
    DecodeConfig,
    LanguageConfig,
    ModelConfig,
    NoiseConfig,
    SamplerConfig,
    TrainConfig,
)
from maskdiff.errors import ConfigError, nearest, quote

Section = TypeVar("Section")

SECTIONS: dict[str, type] = {"language": LanguageConfig, "noise": NoiseConfig, "model": ModelConfig, "train": TrainConfig}
DECODING: dict[str, type] = {"sampler": SamplerConfig, "completion": CompletionConfig, "control": ControlConfig}
TEXTS = tuple[str, ...]  # the type of a knob that may be given several times
DERIVED = ("block_size",)  # a model's size that follows from its language: in files, but no flag
MAX_DEPTH = 16  # of `extends`
MAX_BYTES = 1_000_000  # of one configuration file


# --------------------------------------------------------------------------------------------------------------- values


def convert(field: Field[Any], kind: type, given: Any) -> Any:
    """`given` (of YAML or a flag) as a checked value of `field`, whose annotation is `kind`; ConfigError otherwise."""
    name, meta = field.name, field.metadata
    if kind == TEXTS:
        return _convert_texts(name, given)
    value = _convert_bool(name, given) if kind is bool else _convert_scalar(name, kind, given)
    choices = meta.get("choices")
    if choices and value not in choices:
        hint = f"; the nearest is {nearest(str(value), choices)!r}" if str(value) else ""
        raise ConfigError(f"{name} is {quote(given)}; allowed are {', '.join(map(repr, choices))}{hint}")
    low, high = meta.get("low"), meta.get("high")
    outside = kind in (int, float) and ((low is not None and value < low) or (high is not None and value > high))
    if outside:
        raise ConfigError(f"{name} is {quote(given)}; allowed is {range_text(field)}")
    return value


def _convert_bool(name: str, given: Any) -> bool:
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if isinstance(given, bool):
        return given
    if str(given).lower() in words:
        return words[str(given).lower()]
    raise ConfigError(f"{name} is {quote(given)}; allowed are true and false")


def _convert_texts(name: str, given: Any) -> tuple[str, ...]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"{name} is {quote(given)}; it must be a text or a list of texts; put numbers in quotes")
    return tuple(texts)


def _convert_scalar(name: str, kind: type, given: Any) -> Any:
    if given is None or isinstance(given, (bool, list, dict, tuple)):
        extra = "; put a word that YAML takes for a truth value in quotes" if isinstance(given, bool) and kind is str else ""
        raise ConfigError(f"{name} is {quote(given)}; it must be {kind_text(kind)}{extra}")
    if kind is str:
        return str(given)
    try:
        number = float(given)
        if not math.isfinite(number):
            raise ValueError
        # Through int() where possible: a float would round seeds above 2**53.
        value = kind(given) if kind is float or not isinstance(given, float) else int(number)
        if kind is int and value != number and abs(number) < 2**53:
            raise ValueError
    except (ValueError, OverflowError, TypeError):
        raise ConfigError(f"{name} is {quote(given)}; it must be {kind_text(kind)}") from None
    return value


def kind_text(kind: type) -> str:
    return {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}.get(kind, kind.__name__)


def range_text(field: Field[Any]) -> str:
    """The allowed range or choices of a field in words; empty when anything goes."""
    choices, low, high = (field.metadata.get(key) for key in ("choices", "low", "high"))
    if choices:
        return ", ".join(choice or "''" for choice in choices)
    if low is not None and high is not None:
        return f"{low:g} to {high:g}"
    if low is not None:
        return f"{low:g} or more"
    return f"{high:g} or less" if high is not None else ""


# ------------------------------------------------------------------------------------------------------------- building


def knobs(section: type) -> dict[str, tuple[Field[Any], type]]:
    """Field name -> (field, type) of a section's dataclass."""
    hints = get_type_hints(section)
    return {field.name: (field, hints[field.name]) for field in fields(section)}


def build(section: type[Section], values: Mapping[str, Any], source: str = "", base: Section | None = None) -> Section:
    """A checked `section` with `values` over `base` (or the defaults); `source` (a file name) leads the error messages."""
    known = knobs(section)
    given = {}
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
    return f"unknown {what} {quote(given)}; the nearest valid one is {nearest(given, list(allowed))!r}"


def _prefix(source: str) -> str:
    return f"{source}: " if source else ""


def config_from_dict(values: Mapping[str, Any], source: str = "", base: Config | None = None) -> Config:
    """A checked Config from a mapping that is flat, sectioned or both; unknown keys name the nearest valid one."""
    config = base or Config()
    homes = {name: key for key, section in SECTIONS.items() for name in knobs(section)}
    sorted_in: dict[str, dict[str, Any]] = {key: {} for key in SECTIONS}

    def put(section: str, key: str, given: Any) -> None:
        if key in sorted_in[section]:
            raise ConfigError(f"{_prefix(source)}key {key!r} stands twice, in section {section!r} and outside; keep one")
        sorted_in[section][key] = given

    for name, value in values.items():
        # `language: {...}` is the section, `language: arithmetic` the knob of the same name.
        if name in SECTIONS and (isinstance(value, Mapping) or name not in homes):
            if value is not None and not isinstance(value, Mapping):
                raise ConfigError(f"{_prefix(source)}section {name!r} is {quote(value)}; it must map keys to values")
            for inner, given in (value or {}).items():
                if inner not in knobs(SECTIONS[name]) and inner in homes:
                    raise ConfigError(f"{_prefix(source)}key {inner!r} belongs in section {homes[inner]!r}, not in {name!r}")
                put(name, str(inner), given)
        elif name in homes:
            put(homes[name], name, value)
        else:
            raise ConfigError(_prefix(source) + unknown("key", str(name), [*homes, *SECTIONS, "extends"]))
    parts = {key: build(section, sorted_in[key], source, getattr(config, key)) for key, section in SECTIONS.items()}
    return replace(config, **parts)


def check(config: Config, source: str = "") -> Config:
    """`config` itself, after the checks that need more than one knob; ConfigError otherwise."""
    noise, model, train, language = config.noise, config.model, config.train, config.language
    pairs = (("sigma_min", noise.sigma_min, "sigma_max", noise.sigma_max),
             ("min_int", language.min_int, "max_int", language.max_int),
             ("min_depth", language.min_depth, "max_depth", language.max_depth))  # fmt: skip
    for low, low_value, high, high_value in pairs:
        if low_value > high_value:
            raise ConfigError(
                f"{_prefix(source)}{low} {low_value:g} is over {high} {high_value:g}; lower {low} or raise {high}"
            )
    unit = model.n_head * (2 if model.positions == "rotary" else 1)  # rotary positions turn pairs of features
    if model.n_embd % unit:
        example = unit * max(1, round(model.n_embd / unit))
        allowed = f"with {model.n_head} heads it must be a multiple of {unit}, such as {example}"
        raise ConfigError(f"{_prefix(source)}n_embd is {model.n_embd}; {allowed}")
    edits = noise.mask_share + noise.replace_share + noise.swap_share + noise.delete_share + noise.insert_share
    if abs(edits - 1.0) > 1e-6:
        raise ConfigError(f"{_prefix(source)}the shares of mask, replace, swap, delete and insert add up to {edits:g}, not 1")
    if train.faithful and train.cut_rows:
        raise ConfigError(f"{_prefix(source)}faithful reproduces the reference, which cuts no rows; set cut_rows 0")
    modes = train.causal_share + train.repair_share + train.skeleton_share + train.open_share
    if modes > 1.0 + 1e-9:
        raise ConfigError(
            f"{_prefix(source)}causal, repair, skeleton and open shares add up to {modes:g}; lower them to 1 or less"
        )
    return config


# ----------------------------------------------------------------------------------------------------------------- YAML


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys: the second would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (str, int, float, bool)) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            if isinstance(key, (str, int, float, bool)):
                seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in one YAML file, `extends` not followed; ConfigError names the file and the line."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read configuration {quote(str(path))}: {error.strerror or error}") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"configuration {quote(str(path))} is over {MAX_BYTES} bytes; give a YAML file of settings")
    try:
        values = yaml.load(raw.decode("utf-8"), Loader=_Loader)  # a SafeLoader
    except UnicodeDecodeError as error:
        raise ConfigError(f"configuration {quote(str(path))} is not UTF-8 text (byte {error.start})") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"configuration {path}{where}: {getattr(error, 'problem', None) or error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"configuration {path} holds {quote(values)}; it must hold `key: value` lines")
    return values


def load_decoding(path: str | Path) -> DecodeConfig:
    """The settings of sampling in a YAML file, in the sections `sampler`, `completion` and `control` or outside them.

    A key outside them goes to every section that has it (`temperature`: to two). Raises ConfigError.
    """
    parts: dict[str, dict[str, Any]] = {name: {} for name in DECODING}
    for name, value in read_yaml(path).items():
        homes = [section for section, kind in DECODING.items() if name in knobs(kind)]
        if name in DECODING and (isinstance(value, Mapping) or not homes):
            if value is not None and not isinstance(value, Mapping):
                raise ConfigError(f"{path}: section {name!r} is {quote(value)}; it must map keys to values")
            if twice := [key for key in value or {} if key in parts[name]]:
                raise ConfigError(f"{path}: key {str(twice[0])!r} stands twice, in section {name!r} and outside; keep one")
            parts[name].update({str(key): given for key, given in (value or {}).items()})
            continue
        if not homes:
            if name == "extends":
                raise ConfigError(f"{path}: settings of sampling extend no other file; write them all here")
            known = [key for kind in DECODING.values() for key in knobs(kind)]
            raise ConfigError(f"{path}: {unknown('key', str(name), [*dict.fromkeys(known), *DECODING])}")
        for home in homes:
            if name in parts[home]:
                raise ConfigError(f"{path}: key {name!r} stands twice, in section {home!r} and outside; keep one")
            parts[home][name] = value
    made: dict[str, Any] = {name: build(kind, parts[name], str(path)) for name, kind in DECODING.items()}
    return DecodeConfig(**made)


def load_config(
    path: str | Path | None = None, overrides: Mapping[str, Any] | None = None, base: Config | None = None
) -> Config:
    """`base` (or the defaults), under the YAML file at `path` (its `extends` first), under `overrides` (flags). ConfigError."""
    given = {} if path is None else _explicit(Path(path), ())
    return check(config_from_dict({**given, **(overrides or {})}, base=base), str(path or ""))


def _explicit(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """What a file and those it extends say, flat and checked: of several parents the later win, the file wins over all."""
    if path.resolve() in above or len(above) >= MAX_DEPTH:
        raise ConfigError(f"configuration {path} extends itself, through {' -> '.join(parent.name for parent in above)}")
    values = read_yaml(path)
    parents = values.pop("extends", [])
    if isinstance(parents, str):
        parents = [parents]
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise ConfigError(f"{path}: extends is {quote(parents)}; it must be a file name or a list of file names")
    merged: dict[str, Any] = {}
    for parent in parents:
        merged.update(_explicit(path.parent / parent, (*above, path.resolve())))
    config_from_dict(values, str(path))  # for its errors, which name this file
    for name, value in values.items():
        merged.update(value if isinstance(value, Mapping) else {name: value} if value is not None else {})
    return merged


def to_dict(config: Config) -> dict[str, dict[str, Any]]:
    """Nested plain values, as checkpoints and YAML carry them; `config_from_dict` reads it back."""
    return asdict(config)


def dump_yaml(config: Config) -> str:
    """The whole configuration as sectioned YAML; `load_config` of it gives an equal Config."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, default_flow_style=False)  # escaped: YAML folds a raw U+0085


# ---------------------------------------------------------------------------------------------------------------- flags


def add_config_flags(parser: argparse.ArgumentParser, *sections: type, skip: Sequence[str] = DERIVED) -> None:
    """One `--name` flag a knob (`--x` / `--no_x` for truth values), grouped by section, with help, default and range.

    A flag that is not given leaves no attribute behind (`argparse.SUPPRESS`), so `overrides` sees only what was typed.
    Without `sections`, those of `Config`, less what the language decides.
    """
    for section in sections or tuple(SECTIONS.values()):
        summary = (section.__doc__ or "").strip().splitlines()[0]
        group = parser.add_argument_group(section.__name__.removesuffix("Config").lower(), summary)
        for name, (field, kind) in knobs(section).items():
            if name not in skip:
                _add_flag(group, field, kind)


class _Switch(argparse.Action):
    """`--x` sets true, `--no_x` false; help shows both."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, option_string != f"--no_{self.dest}")


def _add_flag(group: Any, field: Field[Any], kind: type) -> None:
    name, allowed = field.name, range_text(field)
    default = "" if field.default is MISSING else f"default {field.default!r}"
    notes = "; ".join(note for note in (allowed, default) if note)
    text = f"{field.metadata.get('help', '')} ({notes})".replace("%", "%%")
    if kind is bool:
        both = f"--{name}", f"--no_{name}"
        group.add_argument(*both, dest=name, action=_Switch, nargs=0, default=argparse.SUPPRESS, help=text)
        return

    def parse(given: str) -> Any:
        try:
            return convert(field, kind, given)
        except ConfigError as error:
            # argparse keeps the words of this exception type only.
            raise argparse.ArgumentTypeError(str(error)) from None

    if kind == TEXTS:
        group.add_argument(f"--{name}", action="append", metavar="TEXT", default=argparse.SUPPRESS, help=text)
        return
    group.add_argument(f"--{name}", type=parse, metavar=kind.__name__.upper(), default=argparse.SUPPRESS, help=text)


def overrides(args: argparse.Namespace, *sections: type) -> dict[str, Any]:
    """The knobs of `sections` (default: those of `Config`) that were given as flags."""
    names = {name for section in sections or tuple(SECTIONS.values()) for name in knobs(section)}
    return {name: value for name, value in vars(args).items() if name in names}


def sampler_config(args: argparse.Namespace, base: SamplerConfig | None = None) -> SamplerConfig:
    """The SamplerConfig that the flags ask for, over `base`."""
    return build(SamplerConfig, overrides(args, SamplerConfig), base=base)
