"""Folders of the repository, wherever a test lies."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CHECKPOINTS = REPOSITORY / "checkpoints"
CONFIGS = REPOSITORY / "configs"
DOCS = REPOSITORY / "docs"
EXAMPLES = REPOSITORY / "examples"
