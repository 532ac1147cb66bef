"""Differences between two recorded values, and what is masked before they are recorded."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

TOLERANCE = 1e-5  # of floats, absolute plus relative
MASK = "<masked>"
PROSE = {"error", "remedy", "predicts", "notes", "title"}  # words may change
TIMES = {"seconds", "created", "id", "system_fingerprint", "train_seconds"}
TIMED = re.compile(r"second|times_exact|tok_s|per_sec|_ms\b")  # metrics and curves of speed
MISSING = "<missing>"


def differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields every difference as its path, the old value and the new one."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            where = f"{path}.{key}" if path else str(key)
            yield from differences(old.get(key, MISSING), new.get(key, MISSING), where)
    elif isinstance(old, list) and isinstance(new, list):
        for place in range(max(len(old), len(new))):
            pair = [items[place] if place < len(items) else MISSING for items in (old, new)]
            yield from differences(*pair, f"{path}[{place}]")
    elif not _same(old, new):
        yield path, old, new


def _same(old: Any, new: Any) -> bool:
    """Whether two plain values are equal; floats within the tolerance."""
    numbers = all(type(value) in (int, float) for value in (old, new))
    if numbers and float in (type(old), type(new)):
        return math.isclose(old, new) or abs(old - new) <= TOLERANCE * (1 + abs(old))
    return type(old) is type(new) and bool(old == new)


def masked(value: Any, tmp: str = "") -> Any:
    """The value without times, prose and paths, and with floats of 9 digits."""
    if isinstance(value, dict):
        timed = TIMED.search(str(value.get("metric", ""))) or value.get("suite") == "speed"
        hidden = TIMES | PROSE | ({"value", "low", "high", "baseline"} if timed else set())
        return {
            str(key): MASK if key in hidden and item is not None else masked(item, tmp)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [masked(item, tmp) for item in value]
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else str(value)
    if isinstance(value, str) and tmp:
        return value.replace(tmp, "{tmp}")
    return value
