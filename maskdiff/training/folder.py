"""The folder of a run: locked against a second training, and checked for changes.

A folder that was removed or replaced during the run must not be made again. The TensorBoard log is
not written through it.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import IO, Any

from maskdiff.errors import UserError, quote
from maskdiff.utils.files import lock, remove_leftovers, replace_file

LOCK = ".maskdiff.lock"
FILES = ("config.yaml", "last.pt", "best.pt")
READ = 1000  # bytes of a lock file that are read, for a message only


class FolderError(UserError):
    """The folder of a run is in use, or was replaced or removed during the run."""


class RunFolder:
    """The folder of a run; the run trains inside `with`.

    Entering makes the folder where it is missing, locks it and removes the temporary files of
    killed runs. It raises FolderError, and changes nothing, if another process trains in the
    folder, or if `last.pt` is not the file that was there when this object was made. On a file
    system without locks `locked` stays False, and a second training is not noticed.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.locked = path, False
        self._last = _identity(path / "last.pt")
        self._folder: tuple[int, ...] | None = None
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> RunFolder:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = _open_lock(self.path)
        except OSError as error:
            reason = error.strerror or error
            raise FolderError(f"cannot train in {quote(str(self.path), 200)}: {reason}") from None
        if self._lock is None:
            raise _in_use(self.path)
        self.locked = lock(self._lock.fileno()) is True
        self._folder = _identity(self.path)
        if _identity(self.path / "last.pt") != self._last:
            self.__exit__()
            shown = quote(str(self.path / "last.pt"), 200)
            raise FolderError(f"another training wrote {shown} while this one started; start again")
        try:
            about = {"pid": os.getpid(), "host": socket.gethostname()}
            self._lock.write(json.dumps(about).encode())
            self._lock.flush()
        except OSError:  # a full disk: the next write fails too, with a message
            pass
        for name in FILES:
            remove_leftovers(self.path / name)
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is None:
            return
        path = self.path / LOCK
        try:
            if _is_open_at(self._lock, path):  # the folder may have been replaced
                path.unlink()
        except OSError:
            pass
        self._lock.close()
        self._lock, self.locked = None, False

    def check(self) -> None:
        """Raise FolderError if the folder, or the lock in it, was replaced or removed."""
        if _identity(self.path) != self._folder:
            what = "replaced" if self.path.exists() else "removed or moved"
            raise FolderError(f"{quote(str(self.path), 200)} was {what} during the run, which ends")
        path = self.path / LOCK
        if self._lock is not None and path.exists() and not _is_open_at(self._lock, path):
            raise FolderError(f"{path} was replaced by the lock of another training; this one ends")

    def write(self, name: str, data: bytes) -> None:
        """Write the file `name` atomically. Raises FolderError, as `check`, and CheckpointError."""
        self.check()
        replace_file(self.path / name, data)


def in_use(path: Path) -> bool:
    """Whether a process trains in the folder `path`; nothing is changed."""
    try:
        with (path / LOCK).open("r+b") as file:
            return (
                lock(file.fileno(), shared=True) is False
            )  # the processes of torchrun ask at the same time
    except OSError:
        return False


def check_free(path: Path) -> None:
    """Raise FolderError if a process trains in the folder `path`; nothing is changed."""
    if in_use(path):
        raise _in_use(path)


def _open_lock(folder: Path) -> IO[bytes] | None:
    """The lock file of a folder, empty, open and locked; None if another process holds the lock."""
    path = folder / LOCK
    # Not through a link, which may lead to another file of the user.
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    while True:
        file = os.fdopen(os.open(path, flags, 0o666), "r+b")
        if lock(file.fileno()) is False:
            file.close()
            return None
        if _is_open_at(file, path):  # else the run that held it removed it in the meantime
            file.truncate(0)
            return file
        file.close()


def _in_use(folder: Path) -> FolderError:
    """The error for a folder in which another process trains; the lock names it and its host."""
    try:
        holder: Any = json.loads((folder / LOCK).read_bytes()[:READ])
        who = f" (process {int(holder['pid'])} on {quote(holder['host'])})"
    except (OSError, ValueError, LookupError, TypeError):
        who = ""
    shown = quote(str(folder), 200)
    return FolderError(
        f"another training runs in {shown}{who}; wait for its end, or give another --name"
    )


def _identity(path: Path) -> tuple[int, ...] | None:
    """Identifies a file or folder; another one in its place differs. None if it is missing."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    changes = () if path.is_dir() else (found.st_mtime_ns, found.st_size)
    return (found.st_dev, found.st_ino, *changes)


def _is_open_at(file: IO[bytes], path: Path) -> bool:
    """Whether `path` names the file that is open."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except OSError:
        return False
