"""What a checkpoint holds: making a payload, checking one that may be damaged, summarising it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from maskdiff import __version__
from maskdiff.config import Config, ModelConfig
from maskdiff.config_io import check, config_from_dict, to_dict
from maskdiff.errors import CheckpointError, folded, quote
from maskdiff.utils.arguments import refuse

if TYPE_CHECKING:
    from maskdiff.languages import Vocabulary
    from maskdiff.models.grammar_model import FittedGrammar
    from maskdiff.models.ngram import NGram
    from maskdiff.models.prior import Prior

FORMAT, VERSION = "maskdiff", 1
REQUIRED = ("config", "vocabulary", "weights")
Payload = dict[str, Any]
COUNTS = (torch.int32, torch.int64)  # types of the counts of an n-gram
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # types of weights
FITTED = {"ngram": COUNTS, "grammar_model": (torch.int64, torch.float64)}  # parts of tensors
MAX_COUNT = 2**53  # of steps, tokens, seconds: floats represent all integers up to it
MAX_DEPTH = 8  # of nested dicts and lists


@runtime_checkable
class HasPayload(Protocol):
    """What `save` takes beside a payload: a `Loaded` model."""

    def payload(self) -> Payload: ...


def make_payload(
    config: Config,
    vocabulary: Vocabulary,
    weights: Mapping[str, Tensor],
    *,
    language: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    provenance: Mapping[str, Any] | None = None,
    lengths: Sequence[float] = (),
    ngram: NGram | None = None,
    grammar_model: FittedGrammar | None = None,
    prior: Prior | None = None,
    mixture: float = 0.0,
    **extra: Any,
) -> Payload:
    """Return what `save` writes: tensors on the CPU, without the prefix of `torch.compile`.

    Args:
        weights: The weights to sample with (the EMA); none for a checkpoint of an n-gram alone.
        language: `Language.state` of a language that the configuration alone does not define.
        metrics, provenance: Numbers; texts, counts and times.
        lengths: For a vocabulary of pieces, probabilities of 0, 1, ... tokens a string.
        ngram: The n-gram over the characters of the language.
        grammar_model: The fitted grammar of the language.
        prior: The weights of these models, if they were fitted.
        mixture: The share of the n-gram in a `MixtureModel`.
        extra: For resuming: optimizer, raw weights, step.
    """
    symbols: dict[str, Any] = {
        "symbols": list(vocabulary.symbols),
        "fingerprint": vocabulary.fingerprint(),
    }
    if vocabulary.merges:
        symbols |= {
            "merges": [list(merge) for merge in vocabulary.merges],
            "lengths": [float(p) for p in lengths],
        }
    clean = {
        name.removeprefix("_orig_mod."): tensor.detach().cpu().clone()
        for name, tensor in weights.items()
    }
    return {
        "config": to_dict(config),
        "vocabulary": symbols,
        "language": dict(language or {}),
        "metrics": dict(metrics or {}),
        "provenance": {**versions(), **(provenance or {})},
        "weights": clean,
        **({} if ngram is None else {"ngram": ngram.state()}),
        **({} if grammar_model is None else {"grammar_model": grammar_model.state()}),
        **({} if prior is None else {"prior": prior.state()}),
        **({"mixture": mixture} if mixture else {}),
        **extra,
    }


def payload_from(given: Mapping[str, Any] | HasPayload) -> Mapping[str, Any]:
    """Return the payload that was given, or that of a loaded model. Raises ConfigError."""
    if isinstance(given, Mapping):
        return given
    if not isinstance(given, HasPayload):
        raise refuse("payload", given, "what load_denoiser, load or make_payload returns")
    return given.payload()


def check_payload(payload: Any, shown: str) -> Payload:
    """Return the payload if every part has its type. Raises CheckpointError."""
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise CheckpointError(
            f"checkpoint {shown} is of another program: its format is not {FORMAT!r}"
        )
    version = payload.get("version")
    if not isinstance(version, int) or version < 1:
        raise CheckpointError(
            f"checkpoint {shown} has version {quote(version)}; this program reads 1 to {VERSION}"
        )
    if version > VERSION:
        raise CheckpointError(
            f"checkpoint {shown} has version {version}; "
            f"this program reads up to {VERSION}: update maskdiff"
        )
    for key in REQUIRED:
        if not isinstance(payload.get(key), dict):
            raise CheckpointError(f"checkpoint {shown} is incomplete: it has no {key!r}")
    symbols = payload["vocabulary"].get("symbols")
    if not isinstance(symbols, list) or not all(isinstance(symbol, str) for symbol in symbols):
        raise CheckpointError(
            f"checkpoint {shown} is damaged: its symbols are {quote(symbols)}, not a list of texts"
        )
    for name, (fits, kind) in PARTS.items():
        if not fits(payload.get(name, {})):
            given = quote(payload[name])
            raise CheckpointError(
                f"checkpoint {shown} is damaged: {name} is {given}, not names with {kind}"
            )
    for name, weight in payload["weights"].items():
        check_weight(name, weight, shown)
    if not payload["weights"] and "ngram" not in payload:
        raise CheckpointError(f"checkpoint {shown} is incomplete: it has no weights and no n-gram")
    for part, types in FITTED.items():
        if part in payload:
            _check_fitted(part, payload[part], types, shown)
    return payload


def read_config(payload: Mapping[str, Any], shown: str = "") -> Config:
    """Return the configuration of a payload. Raises CheckpointError where it is not valid here."""
    try:
        return check(config_from_dict(payload["config"]))
    except Exception as error:  # values in a file may have any type
        raise CheckpointError(
            f"checkpoint {shown} has a configuration that this program cannot use: {folded(error)}"
        ) from None


def read_mixture(payload: Mapping[str, Any], config: ModelConfig, shown: str) -> float:
    """Return the share of the n-gram in the mixture of a payload. Raises CheckpointError."""
    share = payload.get("mixture", 0.0)
    if type(share) is not float or not 0.0 <= share <= 1.0:
        raise CheckpointError(
            f"checkpoint {shown} is damaged: mixture is {quote(share)}; allowed are 0 to 1"
        )
    characters = config.vocabulary == "characters" and config.head == "next"
    if share and not (characters and payload["weights"] and "ngram" in payload):
        raise CheckpointError(
            f"checkpoint {shown} is damaged: a mixture needs a neural model that predicts the next "
            "character, and an n-gram"
        )
    return share


def payload_summary(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything but the tensors, and the number of parameters."""
    keep = ("format", "version", "config", "vocabulary", "language", "metrics", "provenance")
    kept = {key: payload[key] for key in (*keep, "prior", "mixture") if key in payload}
    count = sum(tensor.numel() for tensor in payload["weights"].values())
    return {**kept, "parameters": count}


def is_fit(payload: Mapping[str, Any]) -> bool:
    """Return whether a payload holds an n-gram alone, without the weights of a neural model."""
    return not payload["weights"]


def neural_weights(payload: Mapping[str, Any], shown: str) -> Mapping[str, Tensor]:
    """Return the weights of the neural model of a payload. Raises CheckpointError for a fit."""
    if is_fit(payload):
        raise CheckpointError(f"{shown} holds an n-gram alone: there are no weights to start from")
    weights: Mapping[str, Tensor] = payload["weights"]
    return weights


def versions() -> dict[str, str]:
    """Return the versions of the programs that make a result, for its provenance."""
    python, machine = platform.python_version(), platform.machine()
    return {
        "maskdiff": __version__,
        "torch": str(torch.__version__),
        "python": python,
        "machine": machine,
    }


# -------------------------- checks of single values


def is_count(value: object) -> bool:
    """Return whether `value` is an integer from 0 to `MAX_COUNT`."""
    return type(value) is int and 0 <= value <= MAX_COUNT


def is_amount(value: object) -> bool:
    """Return whether `value` is a number from 0 to `MAX_COUNT`."""
    return type(value) in (int, float) and 0 <= value <= MAX_COUNT  # type: ignore[operator]


def is_printable(value: object) -> bool:
    """Return whether `value` is a float or an integer of at most 64 bits."""
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)


def are_numbers(values: object) -> bool:
    """Return whether `values` maps names to numbers."""
    return _names(values, is_printable)


def _are_facts(values: object) -> bool:
    """Return whether `values` maps names to texts and numbers; counts and times are at least 0."""
    if not _names(values, lambda value: isinstance(value, str) or is_printable(value)):
        return False
    facts: dict[str, object] = values  # type: ignore[assignment]
    counts = ("step", "tokens", "strings", "parent_tokens")
    amounts = ("train_seconds", "parent_seconds")
    return all(is_count(facts.get(name, 0)) for name in counts) and all(
        is_amount(facts.get(name, 0)) for name in amounts
    )


def _are_weights(values: object) -> bool:
    """Return whether `values` is empty or holds the weights of a `Prior`, `grammar` optional."""
    if not isinstance(values, dict) or not values:
        return values == {}
    numbers = all(type(v) is float and 0.0 <= v <= 10.0 for v in values.values())
    named = values.keys() - {"grammar"} == {"neural", "ngram"}
    return numbers and named and sum(values.values()) > 0


def _are_plain(values: object) -> bool:
    """Return whether `values` maps names to texts, numbers, None, or lists and dicts of these."""

    def plain(value: object, depth: int = MAX_DEPTH) -> bool:
        if isinstance(value, list):
            return depth > 0 and all(plain(item, depth - 1) for item in value)
        if isinstance(value, dict):
            return depth > 0 and _names(value, lambda item: plain(item, depth - 1))
        return value is None or isinstance(value, str) or is_printable(value)

    return _names(values, plain)


def _names(values: object, fits: Callable[[object], bool]) -> bool:
    return isinstance(values, dict) and all(
        isinstance(name, str) and fits(value) for name, value in values.items()
    )


PARTS: dict[str, tuple[Callable[[object], bool], str]] = {  # parts of a payload that may be absent
    "language": (_are_plain, "plain values"),
    "metrics": (are_numbers, "numbers"),
    "prior": (_are_weights, "weights of `neural`, `ngram` and `grammar`, from 0 to 10"),
    "provenance": (_are_facts, "texts, counts and times"),
}


def check_weight(name: object, weight: object, shown: str) -> None:
    """Raise CheckpointError unless a weight is a contiguous tensor of finite numbers."""
    where = f"checkpoint {shown} is damaged: weight {quote(name)}"
    weight = _stored_in_full(name, weight, FLOATS, where)
    if not bool(weight.float().isfinite().all()):
        raise CheckpointError(
            f"{where} has numbers that are infinite or none; train it again, with a lower rate"
        )


def _check_fitted(part: str, values: object, types: Sequence[torch.dtype], shown: str) -> None:
    """Raise CheckpointError unless a part of `FITTED` is tensors of `types`; see its `of_state`."""
    if not isinstance(values, dict):
        raise CheckpointError(
            f"checkpoint {shown} is damaged: {part} is {quote(values)}, not names"
        )
    for name, tensor in values.items():
        where = f"checkpoint {shown} is damaged: {part} {quote(name)}"
        _stored_in_full(name, tensor, types, where)


def _stored_in_full(
    name: object, tensor: object, types: Sequence[torch.dtype], where: str
) -> Tensor:
    """The tensor itself, if it is contiguous and of one of `types`. Raises CheckpointError."""
    if not isinstance(name, str) or not isinstance(tensor, Tensor):
        raise CheckpointError(f"{where} is not a tensor")
    if tensor.dtype not in types:
        raise CheckpointError(
            f"{where} holds {tensor.dtype}; allowed are {', '.join(map(str, types))}"
        )
    if (
        tensor.layout is not torch.strided
        or tensor.device.type == "meta"
        or not tensor.is_contiguous()
    ):
        raise CheckpointError(f"{where} is not stored in full; save it contiguous")
    return tensor
