"""Atomic writes of files, and locks that the system releases when their process ends.

A lock of the system alone tells whether a process lives: process numbers are reused, and other
hosts have the same ones.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

from maskdiff.errors import CheckpointError, quote

try:
    import fcntl
except ImportError:  # a system without it has no locks here
    fcntl = None  # type: ignore[assignment]

TAKEN = (errno.EAGAIN, errno.EACCES)  # errors if another process has the lock


def lock(handle: int, shared: bool = False) -> bool | None:
    """Lock an open file until it is closed; return whether that succeeded.

    Returns None if the system or file system has no locks. Several processes may hold a `shared`
    lock, but then none an exclusive one.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in TAKEN else None
    return True


def write_atomic(path: str | Path, data: bytes) -> None:
    """Write `data` to `path`, which always holds the whole old or the whole new file.

    Creates missing folders and removes temporary files of killed processes. Raises CheckpointError.
    """
    try:
        Path(os.path.realpath(path)).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(path, error) from error
    replace_file(path, data)


def replace_file(path: str | Path, data: bytes) -> None:
    """As `write_atomic`, in an existing folder."""
    remove_leftovers(path)
    path = Path(os.path.realpath(path))  # replace what a link points to, not the link
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with temporary.open("wb") as file:
                locked = lock(file.fileno())  # so that others see that its writer lives
                if path.exists():
                    shutil.copymode(path, temporary)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                if locked:
                    os.replace(temporary, path)
            if not locked:  # a system without locks replaces no file that is open
                os.replace(temporary, path)
        except BaseException:
            _discard(temporary)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error


def remove_leftovers(path: str | Path) -> None:
    """Remove the temporary files of `path` whose writers were killed."""
    path = Path(os.path.realpath(path))
    own = re.compile(re.escape(f".{path.name}.") + r"[0-9]+\.tmp")
    try:
        names = [name for name in os.listdir(path.parent) if own.fullmatch(name)]
    except OSError:
        return
    for name in names:
        try:
            with open(path.with_name(name), "r+b") as file:
                if lock(file.fileno()):
                    _discard(path.with_name(name))
        except OSError:  # another user's
            continue


def _cannot_write(path: str | Path, error: OSError) -> CheckpointError:
    kept = "; the previous file is kept" if os.path.isfile(path) else ""
    return CheckpointError(f"cannot write {quote(str(path))}: {error.strerror or error}{kept}")


def _discard(path: Path) -> None:
    """Remove a temporary file if possible; the failure before it is the one to report."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        pass


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system allows to open a folder."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
