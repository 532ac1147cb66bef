"""`verb`: the decorator that checks the arguments of every task, by their names.

A name means the same in every task that has it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, ParamSpec, TypeVar

import torch

from maskdiff.config import (
    MAX_ALTERNATIVES,
    MAX_BEAM,
    MAX_BOUND,
    MAX_CHANGE,
    MAX_PLACE,
    MAX_SEED,
    MAX_STRINGS,
    MOST_CANDIDATES,
    CompletionConfig,
    ControlConfig,
    SamplerConfig,
)
from maskdiff.config_io import build
from maskdiff.repair import Damage, Truncation
from maskdiff.utils import arguments
from maskdiff.utils.arguments import ArgumentReader, checked_arguments, optional, refuse

P = ParamSpec("P")
R = TypeVar("R")


def _loaded(name: str, value: Any) -> Any:
    if not hasattr(value, "denoiser") or not hasattr(value, "language"):
        raise refuse(name, value, "what load_denoiser(PATH) returns")
    return value


def _sampler(name: str, value: Any) -> Any:
    """Settings, the name of a preset, or a sampler (not a class)."""
    if isinstance(value, str):
        return SamplerConfig(sampler=str(value))
    if isinstance(value, Mapping):
        return build(SamplerConfig, value)
    if isinstance(value, SamplerConfig) or (callable(value) and not isinstance(value, type)):
        return value
    raise refuse(
        name, value, "a SamplerConfig, the name of a preset such as 'maskgit', or a sampler"
    )


def _settings(section: type[Any]) -> ArgumentReader:
    """A section of the configuration, or a mapping of some of its keys; checked again."""

    def read(name: str, value: Any) -> Any:
        if not isinstance(value, (section, Mapping)):
            raise refuse(name, value, f"a {section.__name__}, or a mapping of its settings")
        given = value if isinstance(value, Mapping) else asdict(value)
        return build(section, given)

    return read


def _source(name: str, value: Any) -> torch.Generator:
    """A source of random keys."""
    if not isinstance(value, torch.Generator):
        raise refuse(name, value, "a torch.Generator; a whole number is a seed")
    return value


def _length(name: str, value: Any) -> int | tuple[int, int]:
    """A number of symbols, or a range with both ends."""
    reader = arguments.pair if isinstance(value, (tuple, list)) else arguments.integer
    found: int | tuple[int, int] = reader(0, MAX_PLACE)(name, value)
    return found


def _damage(name: str, value: Any) -> Any:
    """The name of a kind of damage, or one."""
    if isinstance(value, (str, Damage, Truncation)):
        return value
    raise refuse(name, value, "the name of a kind of damage, or a Damage")


_span, _spans = arguments.pair(0, MAX_PLACE), arguments.pairs(0, MAX_PLACE)
READERS: dict[str, ArgumentReader] = {
    "loaded": _loaded,
    "texts": arguments.texts,
    "num": arguments.integer(0, MAX_STRINGS),
    "length": optional(_length),
    "sampler": optional(_sampler),
    "control": optional(_settings(ControlConfig)),
    "settings": optional(_settings(CompletionConfig)),
    "suffix": arguments.text,
    "method": arguments.text,
    "broken": arguments.boolean,
    "edits": optional(arguments.pair(0, MAX_CHANGE)),
    "damage": _damage,
    "sigma": optional(arguments.real(0.0, 1.0)),
    "beam": arguments.integer(1, MAX_BEAM),
    "candidates": arguments.integer(1, MOST_CANDIDATES),
    "slack": optional(arguments.integer(0, MAX_CHANGE)),
    "steps": arguments.integer(1, 10**6),
    "max_edits": optional(arguments.integer(0, MAX_CHANGE)),
    "top": arguments.integer(1, MAX_ALTERNATIVES),
    "certain": _spans,
    "masks": _spans,
    "replace": _span,
    "bound": arguments.integer(1, MAX_BOUND),
    "solutions": arguments.integer(1, 10**6),
    "seed": arguments.integer(0, MAX_SEED),
    "source": optional(_source),
    "batch_size": arguments.integer(1, 65_536),
    "grammar": arguments.boolean,
    "holds": arguments.boolean,
    "trace": arguments.boolean,
}


def verb(**other: ArgumentReader) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that reads arguments by name, with `other` readers or `READERS`."""
    return checked_arguments(**{**READERS, **other})


def as_list(name: str, function: Callable[P, Iterator[R]]) -> Callable[P, list[R]]:
    """Return the function `name`, which returns the items of a generator function as a list."""

    @functools.wraps(function)
    def collect(*args: P.args, **kwargs: P.kwargs) -> list[R]:
        return list(function(*args, **kwargs))

    collect.__name__ = collect.__qualname__ = name
    return collect
