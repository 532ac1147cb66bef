"""`make_backend`, the backend that a configuration names.

What a backend needs beyond torch is imported when it is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from maskdiff.config import BackendConfig
from maskdiff.errors import ConfigError

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.languages import Stepwise
    from maskdiff.stepwise.protocol import StepBackend

HTTP = ("completions", "chat")


def make_backend(
    config: BackendConfig,
    loaded: Loaded | None = None,
    language: Stepwise | None = None,
    device: str = "auto",
) -> StepBackend:
    """The backend that `config` names.

    Args:
        config: The configuration.
        loaded: Our checkpoint, for our own backends.
        language: Tells an HTTP backend which step is the last.
        device: Of a model of transformers.

    Raises:
        ConfigError: For what is missing, or not installed.
    """
    if config.backend in HTTP:
        return _http(config, language)
    if config.backend == "hugging-face":
        if not config.model:
            raise ConfigError("--backend hugging-face needs a model: give --model FOLDER_OR_NAME")
        from maskdiff.stepwise.hugging_face import load

        return load(config.model, device)
    if loaded is None:
        raise ConfigError(
            f"the backend {config.backend} is a checkpoint of our own; give --checkpoint"
        )
    if config.backend == "blocks":
        from maskdiff.stepwise.blocks import BlockBackend

        return BlockBackend(loaded, block=config.block, per_call=config.per_call)
    from maskdiff.stepwise.causal import CausalBackend

    return CausalBackend(loaded)


def _http(config: BackendConfig, language: Stepwise | None) -> StepBackend:
    for given, flag in (
        (config.base_url, "--base_url http://HOST:PORT/v1"),
        (config.model, "--model NAME"),
    ):
        if not given:
            raise ConfigError(f"--backend {config.backend} asks a server: give {flag}")
    from maskdiff.stepwise.openai_api import ChatBackend, CompletionsBackend, Prefill

    ended = None if language is None else language.is_final
    if config.backend == "chat":
        return ChatBackend(
            config.model, config.base_url, prefill=cast(Prefill, config.prefill),
            timeout=config.server_timeout, retries=config.retries, concurrency=config.concurrency,
            log_probs=config.log_probs, ended=ended,
        )  # fmt: skip
    return CompletionsBackend(
        config.model, config.base_url, timeout=config.server_timeout, retries=config.retries,
        concurrency=config.concurrency, log_probs=config.log_probs, ended=ended,
    )  # fmt: skip


__all__ = ["make_backend"]
