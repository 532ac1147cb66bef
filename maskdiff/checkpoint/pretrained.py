"""Folders with `model.safetensors` and `config.json`, as other programs read them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from maskdiff.checkpoint.loaded import LanguageOverride, Loaded, denoiser_from, resolve_device
from maskdiff.checkpoint.payload import (
    FORMAT,
    VERSION,
    HasPayload,
    check_payload,
    payload_from,
    payload_summary,
)
from maskdiff.errors import CheckpointError, folded, quote
from maskdiff.utils import arguments
from maskdiff.utils.arguments import checked_arguments
from maskdiff.utils.files import write_atomic


@checked_arguments(folder=arguments.path)
def save_pretrained(folder: str | Path, payload: Mapping[str, Any] | HasPayload) -> None:
    """Write `model.safetensors` and `config.json` into `folder`. Needs the extra `hub`.

    `payload` is a payload or what `load_denoiser` returns. Raises CheckpointError.
    """
    payload = payload_from(payload)
    tensors = {name: tensor.contiguous() for name, tensor in payload["weights"].items()}
    data = _safetensors().save(tensors, metadata={"format": "pt"})
    folder = Path(folder)
    write_atomic(folder / "model.safetensors", data)
    about = {"format": FORMAT, "version": VERSION, **payload_summary(payload)}
    write_atomic(folder / "config.json", (json.dumps(about, indent=2, default=str) + "\n").encode())


@checked_arguments(folder=arguments.path)
def from_pretrained(
    folder: str | Path, device: str | torch.device = "cpu", override: LanguageOverride | None = None
) -> Loaded:
    """Return the model that `save_pretrained` wrote. Raises what `load_denoiser` raises."""
    folder, shown, module = Path(folder), quote(str(folder), 200), _safetensors()
    if folder.is_file():
        raise CheckpointError(
            f"{shown} is a file; give a folder, or use load_denoiser for a .pt file"
        )
    try:
        about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights = module.load((folder / "model.safetensors").read_bytes())
    except OSError as error:
        raise CheckpointError(
            f"cannot read {quote(str(error.filename))}: {error.strerror or error}"
        ) from None
    except Exception as error:
        raise CheckpointError(
            f"{shown} holds no model of this program ({type(error).__name__}: {folded(error)})"
        ) from None
    about = about if isinstance(about, dict) else {}
    return denoiser_from(
        check_payload({**about, "weights": weights}, shown),
        resolve_device(device),
        str(folder),
        override,
    )


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise CheckpointError(
            "pretrained folders need the package safetensors: pip install 'maskdiff[hub]'"
        ) from None
    return safetensors.torch
