"""Tools of others that repair JSON, and JSON documents of another kind than those of training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from maskdiff.evaluation.yardsticks import KnownDamage, Repairer

if TYPE_CHECKING:
    from maskdiff.languages import Language

JSON_REPAIR = "json_repair"  # of the extra `peers`

# Documents like those that configure programs: none of these keys is one of training.
SECTIONS = (
    "server", "database", "cache", "logging", "build", "editor", "deploy", "auth", "queue",
)  # fmt: skip
OPTIONS = (
    "host", "port", "timeout", "retries", "verbose", "enabled", "workers", "backend", "theme",
    "tls", "region", "strict", "interval", "limit", "format", "target", "locale", "ttl",
)  # fmt: skip
WORDS = (
    "localhost", "production", "debug", "redis", "sqlite", "dark", "utf-8", "info", "json",
    "eu-west", "weekly", "auto", "none", "release",
)  # fmt: skip
NUMBERS = (0, 1, 2, 3, 5, 8, 10, 16, 30, 60, 80, 100, 443, 512, 3000, 8080, 0.5, 1.5, 0.25)


def is_json(language: Language) -> bool:
    """Return whether a language is the built-in `json`, not a corpus of that name."""
    return language.name == "json" and language.config.language == "json"


def peers(language: Language) -> dict[str, Repairer]:
    """Return the installed tools that repair strings of a language, by name."""
    installed = is_json(language) and find_spec(JSON_REPAIR) is not None
    return {JSON_REPAIR: repair_with_json_repair} if installed else {}


def absent_peers(language: Language) -> str:
    """Return a line that says which tool is not measured; empty if none is missing."""
    if not is_json(language) or peers(language):
        return ""
    return f"{JSON_REPAIR} is not installed and has no rows: pip install 'maskdiff[peers]'"


def repair_with_json_repair(texts: Sequence[str], known: KnownDamage) -> list[str]:
    """Return the repairs of `json_repair`, with spaces behind commas and colons as in the text."""
    import json_repair

    repaired = []
    for text in texts:
        value = json_repair.loads(text)
        spaced = ": " in text or ", " in text
        repaired.append(json.dumps(value, separators=(", ", ": ") if spaced else (",", ":")))
    return repaired


def same_value(first: str, second: str) -> bool:
    """Return whether two texts are JSON documents of equal value, keys in any order."""
    try:
        one, other = (json.dumps(json.loads(text), sort_keys=True) for text in (first, second))
    except (ValueError, RecursionError):
        return False
    return one == other


def configurations(count: int, rng: np.random.Generator, longest: int) -> list[str]:
    """Return random documents of nested keys, words, numbers and booleans.

    Args:
        count: The number of documents.
        rng: The random number generator.
        longest: The largest length in characters, 13 or more; longer draws are rejected.
    """
    documents: list[str] = []
    while len(documents) < count:
        separators = (", ", ": ") if rng.random() < 0.5 else (",", ":")
        document = json.dumps(_section(rng, 2), separators=separators)
        if len(document) <= longest:
            documents.append(document)
    return documents


def _section(rng: np.random.Generator, depth: int) -> dict[str, Any]:
    """An object of one to three options, or of sections if it may nest."""
    nested = depth > 0 and rng.random() < 0.6
    names = rng.choice(SECTIONS if nested else OPTIONS, int(rng.integers(1, 4)), replace=False)
    return {
        str(name): _section(rng, depth - 1) if nested and rng.random() < 0.7 else _value(rng)
        for name in names
    }


def _value(rng: np.random.Generator) -> object:
    """A word, a number, a boolean or null."""
    kind = rng.random()
    if kind < 0.4:
        return WORDS[rng.integers(len(WORDS))]
    if kind < 0.7:
        return NUMBERS[rng.integers(len(NUMBERS))]
    return None if kind > 0.95 else bool(rng.random() < 0.5)
