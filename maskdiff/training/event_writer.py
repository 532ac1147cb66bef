"""TensorBoard events of a run.

Records are written by the calling thread, unlike those of the writer of TensorBoard, whose thread
prints a traceback of its own when it fails. If the log cannot be written, one line is printed and
training goes on without it.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary

from maskdiff.training.console import write_line


class EventWriter:
    """An event file, made at the first write.

    Args:
        folder: of the file; it is made if its parent exists.
        start: the first step that will be written; TensorBoard discards earlier events from there.
    """

    def __init__(self, folder: Path, start: int = 0):
        self.folder, self.start = folder, start
        self.file: IO[bytes] | None = None
        self.broken = False

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Write a number."""
        self._add(lambda: summary.scalar(tag, value), step)

    def text(self, tag: str, text: str, step: int) -> None:
        """Write a text, shown as Markdown."""
        self._add(lambda: summary.text(tag, text), step)

    def image(self, tag: str, picture: np.ndarray, step: int) -> None:
        """Write an image, (height, width, 3) uint8."""
        self._add(lambda: summary.image(tag, picture, dataformats="HWC"), step)

    def flush(self) -> None:
        """Flush the file."""
        self._guarded(lambda: self.file.flush() if self.file else None)

    def close(self) -> None:
        """Flush and close the file, if there is one."""
        self._guarded(lambda: self.file.close() if self.file else None)
        self.file = None

    def _add(self, make: Callable[[], Any], step: int) -> None:
        self._guarded(lambda: self._write(Event(summary=make(), step=step)))

    def _write(self, event: Any) -> None:
        if self.file is None:
            self.folder.mkdir(exist_ok=True)  # no parents: a run's folder may have been removed
            name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
            self.file = (self.folder / name).open("wb")
            self._write(Event(step=self.start, file_version="brain.Event:2"))
            self._write(Event(step=self.start, session_log=SessionLog(status=SessionLog.START)))
        event.wall_time = time.time()
        RecordWriter(self.file).write(event.SerializeToString())

    def _guarded(self, action: Callable[[], None]) -> None:
        """Run `action`, unless one failed before; print the first failure."""
        if self.broken:
            return
        try:
            action()
        except (OSError, ImportError) as error:  # images need Pillow
            self.broken = True
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            write_line(
                f"cannot write to {self.folder}: {reason}; training goes on without TensorBoard"
            )
            try:
                if self.file:
                    self.file.close()
            except OSError:
                pass
