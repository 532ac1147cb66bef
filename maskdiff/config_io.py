"""Configuration in and out: YAML files with `extends`, and command-line flags of the dataclasses.

Every value, from YAML, a flag or Python, passes through `convert`, which reads it as its field
demands. An error names the key, the value, what is allowed and the nearest valid name.

A file may be flat (`n_layer: 2`), sectioned (`model: {n_layer: 2}`) or both; field names are unique
across sections. `extends: other.yaml` (or a list) is read first, relative to its file, and is
overridden by what follows.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

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
from maskdiff.errors import ConfigError, nearest, quote
from maskdiff.utils.values import Plain, parse_boolean, parse_decimal, parse_integer
from maskdiff.utils.yaml_text import is_empty, read_yaml

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
TEXTS = tuple[str, ...]  # the type of an option that may be given several times
DERIVED = ("block_size",)  # follows from the language: in files, but not a flag
READERS: dict[type, Callable[[str], int | float | bool]] = {
    int: parse_integer,
    float: parse_decimal,
    bool: parse_boolean,
}
MAX_DEPTH = 16  # of `extends`


# -------------------------- values


def convert(field: Field[Any], kind: type, given: Any) -> Any:
    """Return `given` (of YAML, a flag or Python) as a checked value of `field` of type `kind`.

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
    """The text as it is written; ConfigError if YAML gives it another meaning without quotes."""
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


# -------------------------- building


@cache  # resolving annotations takes longer than building a section
def options(section: type) -> Mapping[str, tuple[Field[Any], type]]:
    """Return field name -> (field, type) of the dataclass of a section."""
    hints = get_type_hints(section)
    return {field.name: (field, hints[field.name]) for field in fields(section)}


def build(
    section: type[Section], values: Mapping[str, Any], source: str = "", base: Section | None = None
) -> Section:
    """Return a checked `section` with `values` over `base` (or the defaults).

    `source`, a file name, starts the error messages. Raises ConfigError.
    """
    known = options(section)  # type: ignore[arg-type]
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
    """Return the message for an unknown name, with the nearest valid one."""
    return (
        f"unknown {what} {quote(given)}; the nearest valid one is {nearest(given, list(allowed))!r}"
    )


def _prefix(source: str) -> str:
    return f"{source}: " if source else ""


def config_from_dict(
    values: Mapping[str, Any], source: str = "", base: Config | None = None
) -> Config:
    """Return a checked Config from a flat or sectioned mapping. Raises ConfigError."""
    config = base or Config()
    homes = {name: key for key, section in SECTIONS.items() for name in options(section)}
    sorted_in: dict[str, dict[str, Any]] = {key: {} for key in SECTIONS}

    def put(section: str, key: str, given: Any) -> None:
        if key in sorted_in[section]:
            raise ConfigError(
                f"{_prefix(source)}key {key!r} stands twice, in section {section!r} and outside; "
                "keep one"
            )
        sorted_in[section][key] = given

    for name, value in values.items():
        if name in SECTIONS and _is_section(value, name in homes):
            for inner, given in _entries(name, value, source).items():
                if inner not in options(SECTIONS[name]) and inner in homes:
                    raise ConfigError(
                        f"{_prefix(source)}key {inner!r} belongs in section {homes[inner]!r}, "
                        f"not in {name!r}"
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


def _is_section(value: Any, is_option: bool) -> bool:
    """Whether `value` is a section, also if an option has its name, as `language` has."""
    empty = value is None or (isinstance(value, Plain) and not value)
    return empty or not is_option or isinstance(value, Mapping)


def _entries(name: str, value: Any, source: str) -> Mapping[Any, Any]:
    """The entries of a section, which may be empty. Raises ConfigError."""
    if is_empty(value):
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{_prefix(source)}section {name!r} is {quote(value)}; it must map keys to values"
        )
    return value


def check(config: Config, source: str = "") -> Config:
    """Return `config` after the checks that need more than one option. Raises ConfigError."""
    noise, model, train, language = config.noise, config.model, config.train, config.language
    pairs = (("sigma_min", noise.sigma_min, "sigma_max", noise.sigma_max),
             ("min_int", language.min_int, "max_int", language.max_int),
             ("min_depth", language.min_depth, "max_depth", language.max_depth))  # fmt: skip
    for low, low_value, high, high_value in pairs:
        if low_value > high_value:
            raise ConfigError(
                f"{_prefix(source)}{low} {low_value:g} is over {high} {high_value:g}; "
                f"lower {low} or raise {high}"
            )
    # Rotary positions rotate pairs of features.
    unit = model.n_head * (2 if model.positions == "rotary" else 1)
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
            f"{_prefix(source)}the shares of mask, replace, swap, delete and insert "
            f"add up to {edits:g}, not 1"
        )
    if train.faithful and train.cut_rows:
        raise ConfigError(
            f"{_prefix(source)}faithful reproduces the reference, which cuts no rows; "
            "set cut_rows 0"
        )
    _check_sizes(config, source)
    shares = train.mode_shares()
    if (total := sum(shares.values())) > 1.0 + 1e-9:
        raise ConfigError(
            f"{_prefix(source)}{' + '.join(shares)} is {total:g}; lower them to 1 or less"
        )
    return config


def _check_sizes(config: Config, source: str) -> None:
    """Raise ConfigError if sizes that are allowed one by one take too much memory together."""
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


# -------------------------- files


def load_decoding(path: str | Path) -> DecodeConfig:
    """Return the settings of sampling in a YAML file, in the sections of `DECODING` or outside.

    A key outside applies to every section that has it (`temperature`: to two). Raises ConfigError.
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
    """Return `base` (or the defaults), overridden by the YAML file at `path` and by `overrides`.

    Raises ConfigError.
    """
    return check(config_from_dict(explicit(path, overrides), base=base), str(path or ""))


def explicit(
    path: str | Path | None = None, overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the options that the YAML file at `path` and `overrides` set, by name.

    Of `minutes` and `max_iters`, which both limit a run, the one that is set later counts: a run
    with `minutes` alone has `max_iters` 0, and one with `max_iters` alone `minutes` 0. Raises
    ConfigError.
    """
    given: dict[str, Any] = {}
    for values in ({} if path is None else _explicit(Path(path), ()), overrides or {}):
        given.update(values)
        if "minutes" in values and "max_iters" not in values and _is_positive(values["minutes"]):
            given["max_iters"] = 0
        if "max_iters" in values and "minutes" not in values:
            given["minutes"] = 0.0
    return given


def _is_positive(minutes: Any) -> bool:
    """Whether a valid value of the option `minutes` is above 0. Raises ConfigError."""
    number: float = convert(*options(TrainConfig)["minutes"], minutes)
    return number > 0


def _explicit(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """The settings of a file over those that it extends, of which later ones take precedence."""
    if path.resolve() in above or len(above) >= MAX_DEPTH:
        raise ConfigError(
            f"configuration {path} extends itself, "
            f"through {' -> '.join(parent.name for parent in above)}"
        )
    values = read_yaml(path)
    merged: dict[str, Any] = {}
    for parent in _parents(values.pop("extends", []), path):
        merged.update(_explicit(path.parent / parent, (*above, path.resolve())))
    config_from_dict(values, str(path))  # for its errors, which name this file
    for name, value in values.items():
        flat = {} if is_empty(value) else {name: value}
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
    """Return nested plain values for checkpoints and YAML; `config_from_dict` reads them."""
    return asdict(config)


def dump_yaml(config: Config | DecodeConfig) -> str:
    """Return the configuration as sectioned YAML; `load_config` or `load_decoding` reads it."""
    import yaml

    # Not folded: PyYAML's writer and reader disagree about some blanks in folded lines.
    return yaml.safe_dump(asdict(config), sort_keys=False, default_flow_style=False, width=math.inf)


# -------------------------- flags


def add_config_flags(
    parser: argparse.ArgumentParser, *sections: type, skip: Sequence[str] = DERIVED
) -> None:
    """Add a flag `--name` for each option, grouped by section (`--x` and `--no_x` for booleans).

    A flag that is not given leaves no attribute (`argparse.SUPPRESS`), so `overrides` finds only
    those that were given. The default is all sections of `Config`.
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
    other = field.metadata.get("flag")
    group.add_argument(
        *([f"--{other}"] if other else []),
        f"--{name}",
        dest=name,
        type=parse,
        metavar=kind.__name__.upper(),
        default=argparse.SUPPRESS,
        help=text,
    )


def overrides(args: argparse.Namespace, *sections: type) -> dict[str, Any]:
    """Return the options of `sections` (default: of `Config`) that were given as flags."""
    names = {name for section in sections or tuple(SECTIONS.values()) for name in options(section)}
    return {name: value for name, value in vars(args).items() if name in names}


def sampler_config(args: argparse.Namespace, base: SamplerConfig | None = None) -> SamplerConfig:
    """Return the SamplerConfig of the flags over `base`."""
    return build(SamplerConfig, overrides(args, SamplerConfig), base=base)
