"""A tiny randomly initialised checkpoint, complete in every part, for tests of tasks and cli."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch

from maskdiff.checkpoint import Loaded, Payload, denoiser_from, make_payload, save
from maskdiff.config import Config
from maskdiff.languages import Vocabulary, make_language, model_vocabulary, token_lengths
from maskdiff.models.universal import UniversalDenoiser


def tiny_config(**model: object) -> Config:
    config = Config()
    language = make_language(config.language)
    sizes = {
        "n_layer": 1,
        "k_iter": 1,
        "n_head": 2,
        "n_embd": 16,
        "mlp_ratio": 1.0,
        "vocab_size": len(language.vocabulary),
    }
    changed = replace(config.model, **{**sizes, **model})  # type: ignore[arg-type]
    return replace(config, model=changed)


def tiny_payload(seed: int = 0, **model_settings: object) -> Payload:
    return deepcopy(_made_payload(seed, tuple(model_settings.items())))


@lru_cache  # a vocabulary of pieces takes a second
def _vocabulary(kind: str, size: int) -> Vocabulary:
    config = tiny_config(vocabulary=kind, vocab_size=size)
    return model_vocabulary(make_language(config.language), config.model)


@lru_cache
def _made_payload(seed: int, settings: tuple[tuple[str, object], ...]) -> Payload:
    model_settings = dict(settings)
    config = tiny_config(**model_settings)
    torch.manual_seed(seed)
    model = UniversalDenoiser(config.model)
    with torch.no_grad():
        for weight in model.parameters():  # zero-initialised heads would make all symbols alike
            weight.add_(0.3 * torch.randn_like(weight))
    language = make_language(config.language)
    vocabulary = _vocabulary(config.model.vocabulary, config.model.vocab_size)
    about = {"metrics": {"elbo": 3.0}, "provenance": {"steps": 0, "seed": seed}}
    lengths = token_lengths(language, vocabulary).tolist()
    return make_payload(config, vocabulary, model.state_dict(), lengths=lengths, **about)


def tiny_loaded(**model_settings: object) -> Loaded:
    return denoiser_from(tiny_payload(**model_settings))


def tiny_checkpoint(folder: Path, **model_settings: object) -> Path:
    path = folder / "tiny.pt"
    save(path, tiny_payload(**model_settings))
    return path


PIECES = {
    "vocabulary": "bpe",
    "vocab_size": 60,
    "causal_length": False,
}  # settings of a model that reads pieces
