"""Imports the scripts of `examples/`, some of which have the same name."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

from tests.helpers.paths import EXAMPLES


def example(path: str) -> ModuleType:
    """Return the script at a path in `examples/` as a module."""
    name = "examples_" + path.removesuffix(".py").replace("/", "_")
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module
