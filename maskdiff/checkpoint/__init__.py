"""Checkpoints: save, load and describe.

A checkpoint may come from a stranger: loading executes nothing in it, and every part is checked
before anything is built from it. Writing is atomic: a full disk or a kill leaves the previous file.
The layout is documented in `docs/formats.md`; `training/state.py` reads the state of a run.

    payload.py  what a checkpoint holds, and its checks
    files.py    `.pt` files: `save`, `load`
    loaded.py   `load_denoiser`, `from_pretrained`: the model with its language and configuration
"""

from __future__ import annotations

from maskdiff.checkpoint.files import load, save, to_bytes
from maskdiff.checkpoint.loaded import (
    LanguageOverride,
    Loaded,
    check_fits,
    check_vocabulary,
    denoiser_from,
    from_pretrained,
    load_denoiser,
    resolve_device,
    save_pretrained,
    stored_pieces,
)
from maskdiff.checkpoint.payload import (
    Payload,
    is_fit,
    make_payload,
    neural_weights,
    payload_summary,
    read_config,
    versions,
)

__all__ = [
    "LanguageOverride", "Loaded", "Payload", "check_fits", "check_vocabulary", "denoiser_from",
    "from_pretrained", "is_fit", "load", "load_denoiser", "make_payload", "neural_weights",
    "payload_summary", "read_config", "resolve_device", "save", "save_pretrained", "stored_pieces",
    "to_bytes", "versions",
]  # fmt: skip
