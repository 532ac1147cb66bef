"""What a program in the sandbox finds: the interpreter, its library, and what else it is given.

For: `Surroundings`, and the paths that `sandbox.py` lets a program see or hides from it. Not for:
mounting them (`jail.py`). Easy to get wrong: the folder of the standard library also holds the
installed packages, and among these may be the hidden tests of a problem. Packages are shown by
name, each with its own files alone; all folders of packages are covered.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import sys
import sysconfig
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from maskdiff.errors import ConfigError, quote

SYSTEM = (
    "/usr/bin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/share/zoneinfo",
    "/bin", "/lib", "/lib32", "/lib64",
)  # fmt: skip
OURS = Path(__file__).resolve().parents[1]  # the package maskdiff


@dataclass(frozen=True)
class Surroundings:
    """What a program finds beside the interpreter and its standard library.

    prelude: Python source that is run before the program, in the same namespace. packages: names of
    installed distributions, whose files the program may read and import; what they depend on must
    be named too. hidden: files and folders that are unreadable even below a system folder. Raises
    ConfigError for a package that is not installed.
    """

    prelude: str = ""
    packages: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.package_paths()

    def package_paths(self) -> list[str]:
        """Return the files and folders of the packages, links resolved."""
        return [path for name in self.packages for path in package_paths(name)]

    def hidden_paths(self) -> list[str]:
        """Return what is to be covered, links resolved; most of it is in no folder shown."""
        return [*package_folders(), *(os.path.realpath(path) for path in self.hidden)]


NOTHING = Surroundings()


@functools.cache
def package_paths(name: str) -> list[str]:
    """Return the top-level files and folders of an installed distribution. Raises ConfigError."""
    try:
        found = importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        raise ConfigError(
            f"package {quote(name)} is not installed; give names that `pip list` shows, "
            "separated by commas"
        ) from None
    parts = {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "/")}
    paths = {os.path.realpath(str(found.locate_file(part))) for part in parts - {"__pycache__"}}
    code = [path for path in paths if not path.endswith((".dist-info", ".egg-info", ".pth"))]
    if not any(os.path.exists(path) for path in code):
        raise ConfigError(
            f"package {quote(name)} has no files of its own among the installed packages; "
            "install it as a copy, not as a link to its source"
        )
    return sorted(path for path in paths if os.path.exists(path))


@functools.cache
def interpreter() -> tuple[str, str]:
    """Return the file of the base interpreter (not of a virtual environment) and its prefix.

    Links are resolved. Raises OSError where there is none.
    """
    prefix = os.path.realpath(sys.base_prefix)
    named = os.path.join(
        prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}"
    )
    for path in (getattr(sys, "_base_executable", None), named, sys.executable):
        if path and os.path.isfile(path) and is_below(os.path.realpath(path), prefix):
            return os.path.realpath(path), prefix
    raise OSError(f"no interpreter is found below {prefix}")


def shown_paths() -> list[str]:
    """Return the folders that every program sees: of the system and of the interpreter."""
    prefix = interpreter()[1]
    return [*SYSTEM, *(f"{prefix}/{name}" for name in ("bin", "lib", "lib64"))]


@functools.cache
def package_folders() -> list[str]:
    """Return folders of installed packages and of this package below those shown."""
    shown = [path for path in shown_paths() if os.path.isdir(path)]
    depths = ("", "*/", "*/lib/", "*/*/", "*/*/lib/")
    found = {
        path
        for folder in shown
        for depth in depths
        for kind in ("site-packages", "dist-packages")
        for path in glob(f"{folder}/{depth}python*/{kind}")
    }
    found |= {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    # The source of this package, with its problems: the whole checkout, unless the standard
    # library lies in the same folder.
    library = os.path.realpath(os.path.dirname(os.__file__))
    above = str(OURS.parent)
    found.add(str(OURS) if is_below(library, above) else above)
    real = {os.path.realpath(path) for path in found}
    return sorted(
        path
        for path in real
        if not is_below(library, path)
        and any(is_below(path, os.path.realpath(folder)) for folder in shown)
    )


def is_below(path: str, folder: str) -> bool:
    """Return whether a path is a folder or lies in it; neither has links."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


__all__ = ["NOTHING", "Surroundings", "interpreter", "shown_paths"]
