"""Fits of the tiny corpus of `tests.helpers.corpora`, as payloads and as loaded models."""

from __future__ import annotations

import tempfile
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from maskdiff.checkpoint import Loaded, Payload, denoiser_from
from maskdiff.training.fitting import fit_corpus
from tests.helpers.corpora import folder, lines


@lru_cache
def _made() -> Payload:
    with tempfile.TemporaryDirectory() as home:
        config = folder(Path(home) / "pairs", lines(300))
        fit = fit_corpus(replace(config, max_len=19), "pairs")
        return {"format": "maskdiff", "version": 1, **fit.payload()}


def fitted_payload() -> Payload:
    """The checkpoint of a fit of 300 lines such as `a=17;c=4`; its folder is gone."""
    return deepcopy(_made())


def fitted() -> Loaded:
    return denoiser_from(fitted_payload())
