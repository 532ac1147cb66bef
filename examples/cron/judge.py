"""The outside judge of crontab schedules: croniter."""

from __future__ import annotations

from croniter import croniter

FIELDS = 5  # croniter also reads seconds and years, which a crontab has not


def is_valid(text: str) -> bool:
    """Return whether `text` is a schedule of a crontab."""
    fields = len(text.split())
    return fields == (1 if text.startswith("@") else FIELDS) and croniter.is_valid(text)
