"""Reads and writes checkpoint files (`.pt`): atomic, without execution of code."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from maskdiff.checkpoint.payload import (
    FORMAT,
    REQUIRED,
    VERSION,
    HasPayload,
    Payload,
    check_payload,
    payload_from,
)
from maskdiff.errors import CheckpointError, folded, quote
from maskdiff.utils import arguments
from maskdiff.utils.arguments import checked_arguments
from maskdiff.utils.files import write_atomic


@checked_arguments(path=arguments.path)
def save(path: str | Path, payload: Mapping[str, Any] | HasPayload) -> None:
    """Write a payload (see `make_payload`) or what `load_denoiser` returns, atomically.

    Raises CheckpointError.
    """
    write_atomic(path, to_bytes(payload_from(payload)))


def to_bytes(payload: Mapping[str, Any]) -> bytes:
    """Return the contents of the file that `save` writes."""
    missing = [key for key in REQUIRED if key not in payload]
    if missing:
        raise ValueError(f"checkpoint payload lacks {missing}")
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "version": VERSION, **payload}, buffer)
    return buffer.getvalue()


@checked_arguments(path=arguments.path)
def load(path: str | Path, device: str | torch.device = "cpu") -> Payload:
    """Return the payload saved at `path`, with tensors on `device`. Raises CheckpointError.

    Nothing in the file is executed.
    """
    shown = quote(str(path), 200)
    try:
        _check_archive(Path(path), shown)
        payload = torch.load(path, map_location=device, weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"checkpoint {shown} holds more than tensors and plain values, so it was not loaded "
            "and nothing in it was run; use a checkpoint saved by this program"
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"cannot read checkpoint {shown}: {error.strerror or error}"
        ) from None
    except Exception as error:  # torch raises any type for a foreign file
        reason = f"{type(error).__name__}: {folded(error)}"
        raise CheckpointError(
            f"checkpoint {shown} is damaged or of another program ({reason})"
        ) from None
    return check_payload(payload, shown)


def _check_archive(path: Path, shown: str) -> None:
    """Raise CheckpointError unless the file is a whole, uncompressed archive, as torch writes it.

    A compressed archive could expand to any size.
    """
    if not os.path.exists(path):
        raise CheckpointError(
            f"checkpoint {shown} does not exist; "
            "give the path of a file written by train_universal.py"
        )
    if os.path.isdir(path):
        raise CheckpointError(
            f"checkpoint {shown} is a folder; give a .pt file (or use from_pretrained for a folder)"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            if any(item.compress_type != zipfile.ZIP_STORED for item in archive.infolist()):
                raise CheckpointError(f"checkpoint {shown} is of another program: it is compressed")
            bad = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"checkpoint {shown} is truncated or of another program ({folded(error)})"
        ) from None
    if bad is not None:
        raise CheckpointError(
            f"checkpoint {shown} is damaged: {bad} fails its checksum; get it or train it again"
        )
