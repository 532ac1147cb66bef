"""Checks of single values in a checkpoint, which may be damaged or come from a stranger."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from maskdiff.errors import CheckpointError, quote

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # types of weights
MAX_COUNT = 2**53  # of steps, tokens, seconds: floats represent all integers up to it
MAX_DEPTH = 8  # of nested dicts and lists


def is_count(value: object) -> bool:
    """Return whether `value` is an integer from 0 to `MAX_COUNT`."""
    return type(value) is int and 0 <= value <= MAX_COUNT


def is_amount(value: object) -> bool:
    """Return whether `value` is a number from 0 to `MAX_COUNT`."""
    return type(value) in (int, float) and 0 <= value <= MAX_COUNT  # type: ignore[operator]


def is_printable(value: object) -> bool:
    """Return whether `value` is a float or an integer of at most 64 bits."""
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)


def are_numbers(values: object) -> bool:
    """Return whether `values` maps names to numbers."""
    return _names(values, is_printable)


def _are_facts(values: object) -> bool:
    """Return whether `values` maps names to texts and numbers; counts and times are at least 0."""
    if not _names(values, lambda value: isinstance(value, str) or is_printable(value)):
        return False
    facts: dict[str, object] = values  # type: ignore[assignment]
    counts = ("step", "tokens", "strings", "parent_tokens")
    amounts = ("train_seconds", "parent_seconds")
    return all(is_count(facts.get(name, 0)) for name in counts) and all(
        is_amount(facts.get(name, 0)) for name in amounts
    )


def _are_plain(values: object) -> bool:
    """Return whether `values` maps names to texts, numbers, None, or lists and dicts of these."""

    def plain(value: object, depth: int = MAX_DEPTH) -> bool:
        if isinstance(value, list):
            return depth > 0 and all(plain(item, depth - 1) for item in value)
        if isinstance(value, dict):
            return depth > 0 and _names(value, lambda item: plain(item, depth - 1))
        return value is None or isinstance(value, str) or is_printable(value)

    return _names(values, plain)


def _names(values: object, fits: Callable[[object], bool]) -> bool:
    return isinstance(values, dict) and all(
        isinstance(name, str) and fits(value) for name, value in values.items()
    )


PARTS: dict[str, tuple[Callable[[object], bool], str]] = {  # parts of a payload that may be absent
    "language": (_are_plain, "plain values"),
    "metrics": (are_numbers, "numbers"),
    "provenance": (_are_facts, "texts, counts and times"),
}


def check_weight(name: object, weight: object, shown: str) -> None:
    """Raise CheckpointError unless a weight is a contiguous tensor of finite numbers."""
    where = f"checkpoint {shown} is damaged: weight {quote(name)}"
    if not isinstance(name, str) or not isinstance(weight, Tensor):
        raise CheckpointError(f"{where} is not a tensor")
    if weight.dtype not in FLOATS:
        raise CheckpointError(
            f"{where} holds {weight.dtype}; allowed are {', '.join(map(str, FLOATS))}"
        )
    if (
        weight.layout is not torch.strided
        or weight.device.type == "meta"
        or not weight.is_contiguous()
    ):
        raise CheckpointError(f"{where} is not stored in full; save it contiguous")
    if not bool(weight.float().isfinite().all()):
        raise CheckpointError(
            f"{where} has numbers that are infinite or none; train it again, with a lower rate"
        )
