"""The outside judge of SQL statements: sqlglot."""

from __future__ import annotations

import logging

import sqlglot

logging.getLogger("sqlglot").setLevel(logging.ERROR)  # no warning for each unusual statement


def is_valid(text: str) -> bool:
    """Return whether sqlglot parses `text`.

    Its parser raises many kinds of exceptions for malformed statements; all of them count.
    """
    try:
        sqlglot.parse_one(text)
    except Exception:
        return False
    return True
