"""What a program in the sandbox sees: the interpreter, its library, and what it is given.

Folders such as /usr/lib and that of the standard library also hold applications and installed
packages, which may include the hidden tests of a problem. So of a folder of libraries only the
libraries are visible, folders of packages in it are covered, and packages that a program may use
are named.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import re
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from maskdiff.errors import ConfigError, quote

BINARIES = ("/usr/bin", "/bin")
LIBRARIES = ("/usr/lib", "/usr/lib32", "/usr/lib64", "/lib", "/lib32", "/lib64")
DATA = ("/usr/share/zoneinfo", "/usr/lib/locale")
# Names in a folder of libraries: libraries, and folders of a machine, as x86_64-linux-gnu.
LIBRARY = re.compile(r".+\.so(\..+)?|[^.]+-linux-[^.]+", flags=re.DOTALL)
PACKAGE_FOLDERS = ("site-packages", "dist-packages")
OURS = Path(__file__).resolve().parents[3]  # the package maskdiff


@dataclass(frozen=True)
class ProgramSetup:
    """What a program has besides the interpreter and its standard library.

    Attributes:
        prelude: Python source that runs before the program, in the same namespace.
        packages: Names of installed distributions that the program may read and import; their
            dependencies must be named too.
        hidden: Files and folders that are unreadable even below a visible folder.

    Raises:
        ConfigError: For a package that is not installed.
    """

    prelude: str = ""
    packages: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.package_paths()

    def package_paths(self) -> list[tuple[str, str]]:
        """Return the files and folders of the packages, links resolved, and their names."""
        return [path for name in self.packages for path in package_paths(name)]

    def hidden_paths(self) -> list[str]:
        """Return the paths to cover, links resolved; some may lie in no visible folder."""
        return [*covered_paths(), *(os.path.realpath(path) for path in self.hidden)]


DEFAULT_SETUP = ProgramSetup()


@functools.cache
def package_paths(name: str) -> list[tuple[str, str]]:
    """Return the files and folders of an installed distribution, and their names in its folder.

    A folder without `__init__.py` may be shared with other distributions, so its parts are given
    one by one. Raises ConfigError.
    """
    try:
        found = importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        raise ConfigError(
            f"package {quote(name)} is not installed; give names that `pip list` shows, "
            "separated by commas"
        ) from None
    outside = ((), ("..",), ("/",))
    files = {file.parts for file in found.files or () if file.parts[:1] not in outside}
    names = set[str]()
    for parts in files:
        heads = (parts[:end] for end in range(1, len(parts)))
        whole = (
            head for head in heads if (*head, "__init__.py") in files or _is_metadata(head[-1])
        )
        names.add("/".join(next(whole, parts)))
    paths = [(os.path.realpath(str(found.locate_file(item))), item) for item in sorted(names)]
    visible = [
        (path, item) for path, item in paths if os.path.exists(path) and "__pycache__" not in item
    ]
    if all(_is_metadata(item) for _, item in visible):
        raise ConfigError(
            f"package {quote(name)} has no files of its own among the installed packages; "
            "install it as a copy, not as a link to its source"
        )
    if any(is_below(path, str(OURS)) or is_below(str(OURS), path) for path, _ in visible):
        raise ConfigError(f"package {quote(name)} holds the tests of the problems; leave it out")
    return visible


def _is_metadata(name: str) -> bool:
    """Return whether a file or folder describes a package instead of belonging to it."""
    return name.endswith((".dist-info", ".egg-info", ".pth")) or name.startswith("__editable__")


@functools.cache
def interpreter() -> tuple[str, str]:
    """Return the file of the base interpreter (not of a virtual environment) and its prefix.

    Links are resolved. Raises OSError where there is none.
    """
    prefix = os.path.realpath(sys.base_prefix)
    named = os.path.join(prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    for path in (getattr(sys, "_base_executable", None), named, sys.executable):
        if path and os.path.isfile(path) and is_below(os.path.realpath(path), prefix):
            return os.path.realpath(path), prefix
    raise OSError(f"no interpreter is found below {prefix}")


@functools.cache
def standard_library() -> list[str]:
    """Return the folders of the standard library and its compiled part, links resolved."""
    bases = {
        "base": sys.base_prefix, "installed_base": sys.base_prefix,
        "platbase": sys.base_exec_prefix, "installed_platbase": sys.base_exec_prefix,
    }  # fmt: skip
    compiled = sysconfig.get_path("platstdlib", vars=bases)
    return sorted({os.path.realpath(path) for path in (os.path.dirname(os.__file__), compiled)})


@functools.cache
def visible_paths() -> list[str]:
    """Return the files and folders of the system and the interpreter that every program sees.

    Links are given as they are, together with their targets.
    """
    executable, prefix = interpreter()
    visible = [*BINARIES, *DATA, *standard_library(), executable]
    for folder in (*LIBRARIES, f"{prefix}/lib", f"{prefix}/lib64"):
        if os.path.islink(folder):
            visible.append(folder)
        elif os.path.isdir(folder):
            names = sorted(filter(LIBRARY.fullmatch, os.listdir(folder)))
            visible += [f"{folder}/{name}" for name in names]
    return list(dict.fromkeys(visible))


@functools.cache
def covered_paths() -> list[str]:
    """Return folders of installed packages, and of this one, below the visible folders."""
    folders = [path for path in visible_paths() if os.path.isdir(path) and not os.path.islink(path)]
    visible = [os.path.realpath(path) for path in folders]
    found = {str(OURS.parent), str(OURS)}
    for top in visible:
        for folder, names, _ in os.walk(top):
            packages = [name for name in names if name in PACKAGE_FOLDERS]
            found |= {os.path.join(folder, name) for name in packages}
            names[:] = [name for name in names if name not in packages]
    library = standard_library()
    return sorted(
        path
        for path in found
        # Of a checkout that the standard library lies in, only this package is covered.
        if not any(is_below(folder, path) for folder in library)
        and any(is_below(path, folder) for folder in visible)
    )


def is_below(path: str, folder: str) -> bool:
    """Return whether a path is a folder or lies in it; neither has links."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


__all__ = ["DEFAULT_SETUP", "ProgramSetup", "interpreter", "visible_paths"]
