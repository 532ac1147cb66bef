"""A user's own judge of texts: a Python function named `MODULE:FUNCTION`.

For: `load_checker` and the `Checker` that it gives. Not for: deciding whose word is taken; a name must come from the user,
never from a checkpoint. Easy to get wrong: a parser may return something false for a valid text (`json.loads("false")`), so
only its exceptions count; a function that returns a verdict is named with a question mark, `MODULE:FUNCTION?`.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from maskdiff.errors import ConfigError, folded, quote

REFUSALS = (ValueError, SyntaxError, RecursionError, MemoryError)  # what a parser says of a text that is invalid


@dataclass(frozen=True)
class Checker:
    """Whether a text is valid: `function` raises none of `REFUSALS` and, if it is a `predicate`, returns something true."""

    name: str
    function: Callable[[str], Any]
    predicate: bool

    def __call__(self, text: str) -> bool:
        """Raises ConfigError where the function fails in another way."""
        refused, result = self._ask(text)
        return not refused and (bool(result) or not self.predicate)

    def only_verdicts(self, texts: list[str]) -> bool:
        """Whether a function that is no predicate returns truth values for all of some texts: it was meant as one."""
        return not self.predicate and all(type(self._ask(text)[1]) is bool for text in texts)

    def _ask(self, text: str) -> tuple[bool, Any]:
        """Whether the function refused the text, and what it returned."""
        try:
            return False, self.function(text)
        except REFUSALS:
            return True, None
        except (Exception, SystemExit) as error:
            raise ConfigError(
                f"checker {self.name} fails on {quote(text)}: {type(error).__name__}: "
                f"{folded(error)}"
            ) from None


def load_checker(name: str, folder: Path | None = None) -> Checker | None:
    """The function `MODULE:FUNCTION` (with `?`: a predicate); None for an empty name. Raises ConfigError.

    The module is `folder/MODULE.py` where that exists; it is then loaded for itself, and `sys.path` stays as it is.
    """
    if not name:
        return None
    module, colon, function = name.removesuffix("?").partition(":")
    if not (module and colon and function):
        raise ConfigError(
            f"validity is {quote(name)}; give MODULE:FUNCTION, such as json:loads (a parser) or mine:ok? (a verdict)"
        )
    try:
        found = getattr(_module(module, folder), function)
    except (Exception, SystemExit) as error:  # the user's module may raise anything
        reason = f"{type(error).__name__}: {folded(error)}"
        raise ConfigError(
            f"validity is {quote(name)}, which cannot be imported: {reason}"
        ) from None
    if not callable(found):
        raise ConfigError(f"validity is {quote(name)}, which is no function")
    return Checker(name, found, name.endswith("?"))


def _module(name: str, folder: Path | None) -> ModuleType:
    path = folder / f"{name}.py" if folder is not None and name.isidentifier() else None
    if path is None or not path.is_file():
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(f"maskdiff_checker_{name}", path)
    if spec is None or spec.loader is None:  # a .py file has both
        raise ImportError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
