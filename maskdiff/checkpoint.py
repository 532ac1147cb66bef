"""Checkpoints: save, load and describe; atomic, safe and versioned.

For: `best.pt` / `last.pt` of training runs and `from_pretrained` folders (safetensors and JSON). Not for: the training loop,
which decides what goes in and when. Easy to get wrong: a checkpoint is input from a stranger. It is loaded with
`weights_only=True`, checked for being an uncompressed, undamaged archive first; then every part is checked for its type, and
the parts for fitting each other, before anything is built from them. Every failure is one line, never a traceback. A save
is atomic (`files.py`), so that a full disk or a kill leaves the previous checkpoint as it was. The
state of a training run in `last.pt` is checked where it is used (`training/state.py`).

The layout of the file is documented in `docs/formats.md`.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import platform
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskdiff import __version__
from maskdiff.config import MAX_PARAMETERS, Config, LanguageConfig, ModelConfig
from maskdiff.config_io import check, config_from_dict, to_dict
from maskdiff.errors import CheckpointError, ConfigError, DataError, GrammarError, folded, quote
from maskdiff.utils import arguments
from maskdiff.utils.arguments import checked_arguments, refuse
from maskdiff.utils.deadline import NEVER, Deadline
from maskdiff.utils.files import write_atomic
from maskdiff.utils.payload import PARTS, check_weight

if TYPE_CHECKING:
    import argparse

    from maskdiff.languages import Language, Vocabulary
    from maskdiff.models.denoiser import ModelDenoiser
    from maskdiff.models.universal import UniversalDenoiser

FORMAT, VERSION = "maskdiff", 1
REQUIRED = ("config", "vocabulary", "weights")
Payload = dict[str, Any]


# ----------------------------------------------------------------------------------------------------------------- files


@checked_arguments(path=arguments.path)
def save(path: str | Path, payload: Mapping[str, Any] | Loaded) -> None:
    """Write a payload (see `make_payload`), or what `load_denoiser` returns. CheckpointError; the old file survives."""
    write_atomic(path, to_bytes(_payload(payload)))


def to_bytes(payload: Mapping[str, Any]) -> bytes:
    """The contents of the file that `save` writes."""
    missing = [key for key in REQUIRED if key not in payload]
    if missing:
        raise ValueError(f"checkpoint payload lacks {missing}")
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "version": VERSION, **payload}, buffer)
    return buffer.getvalue()


@checked_arguments(path=arguments.path)
def load(path: str | Path, device: str | torch.device = "cpu") -> Payload:
    """The payload saved at `path`, tensors on `device`. Nothing in the file is executed. Raises CheckpointError."""
    shown = quote(str(path), 200)
    try:
        _check_archive(Path(path), shown)
        payload = torch.load(path, map_location=device, weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"checkpoint {shown} holds more than tensors and plain values, so it was not loaded and nothing in it was run; "
            "use a checkpoint saved by this program"
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"cannot read checkpoint {shown}: {error.strerror or error}"
        ) from None
    except Exception as error:  # torch raises whatever a foreign file makes it stumble over
        reason = f"{type(error).__name__}: {folded(error)}"
        raise CheckpointError(
            f"checkpoint {shown} is damaged or of another program ({reason})"
        ) from None
    return _check_payload(payload, shown)


def _check_archive(path: Path, shown: str) -> None:
    """That the file is a whole, uncompressed archive: torch's own are, and a compressed one could be a bomb."""
    if not os.path.exists(path):
        raise CheckpointError(
            f"checkpoint {shown} does not exist; give the path of a file written by train_universal.py"
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


def _check_payload(payload: Any, shown: str) -> Payload:
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
            f"checkpoint {shown} has version {version}; this program reads up to {VERSION}: update maskdiff"
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
    return payload


# -------------------------------------------------------------------------------------------------------------- payloads


def make_payload(
    config: Config,
    vocabulary: Vocabulary,
    weights: Mapping[str, Tensor],
    *,
    language: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    provenance: Mapping[str, Any] | None = None,
    lengths: Sequence[float] = (),
    **extra: Any,
) -> Payload:
    """What `save` takes: `weights` are those to sample with (the EMA); `extra` is for resuming (optimizer, raw weights, step).

    `language` is what `Language.state` says of a language that the configuration alone does not make; `lengths`, for a
    vocabulary of pieces, the probabilities of 0, 1, ... tokens a string.

    Tensors are detached and copied to the CPU; a `torch.compile` prefix is stripped from their names.
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
        **extra,
    }


def payload_of(loaded: Loaded) -> Payload:
    """The payload of a model that was loaded: what `save` and `save_pretrained` write of it."""
    lengths = [] if loaded.token_lengths is None else loaded.token_lengths.tolist()
    return make_payload(
        loaded.config, loaded.vocabulary, loaded.denoiser.model.state_dict(), language=loaded.language.state(),
        metrics=loaded.metrics, provenance=loaded.provenance, lengths=lengths,
    )  # fmt: skip


def _payload(given: Mapping[str, Any] | Loaded) -> Mapping[str, Any]:
    """A payload, of itself or of a model that was loaded. Raises ConfigError for anything else."""
    if not isinstance(given, (Mapping, Loaded)):
        raise refuse("payload", given, "what load_denoiser, load or make_payload returns")
    return payload_of(given) if isinstance(given, Loaded) else given


def versions() -> dict[str, str]:
    """The programs that make a result, for provenance."""
    python, machine = platform.python_version(), platform.machine()
    return {
        "maskdiff": __version__,
        "torch": str(torch.__version__),
        "python": python,
        "machine": machine,
    }


def payload_summary(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Everything of a payload but its tensors: configuration, vocabulary, metrics, provenance, number of parameters."""
    keep = ("format", "version", "config", "vocabulary", "language", "metrics", "provenance")
    count = sum(tensor.numel() for tensor in payload["weights"].values())
    return {**{key: payload[key] for key in keep if key in payload}, "parameters": count}


def read_config(payload: Mapping[str, Any], shown: str = "") -> Config:
    """The Config of a payload; CheckpointError when it does not fit this program, or not itself."""
    try:
        return check(config_from_dict(payload["config"]))
    except Exception as error:  # not ConfigError alone: a stranger's values may be of any type
        raise CheckpointError(
            f"checkpoint {shown} has a configuration that this program cannot use: {folded(error)}"
        ) from None


# ------------------------------------------------------------------------------------------------------------- denoisers


@dataclass
class Loaded:
    """A denoiser with everything that a task needs to use it.

    The denoiser's own vocabulary may have pieces of several characters, the language's never has. lengths: (n + 1,)
    probabilities of 0, 1, ... tokens a string.
    """

    denoiser: ModelDenoiser
    language: Language
    config: Config
    metrics: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    path: str = ""
    token_lengths: NDArray[np.float64] | None = None  # of a vocabulary of pieces

    @property
    def vocabulary(self) -> Vocabulary:
        """What a token is to the denoiser."""
        return self.denoiser.vocabulary

    @property
    def length_conditioned(self) -> bool:
        """Whether the causal mode gets the length of its string, and so never ends it itself."""
        return self.config.model.causal_length

    @property
    def lengths(self) -> NDArray[np.float64]:
        """P(n) that a string has n tokens, for n = 0, 1, ..."""
        return self.language.length_probs() if self.token_lengths is None else self.token_lengths

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.model.parameters()).device

    @property
    def deadline(self) -> Deadline:
        """By when the task under way has to end; `denoiser.until` sets it."""
        return getattr(self.denoiser, "deadline", NEVER)


def resolve_device(name: str | torch.device) -> torch.device:
    """`auto` is CUDA, then MPS, then the CPU; anything else must exist. ConfigError."""
    text = str(name)
    if text == "auto":
        text = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    try:
        device = torch.device(text)
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ValueError):
        raise ConfigError(
            f"device is {quote(text)}; this machine has {', '.join(_devices())}"
        ) from None
    return device


def _devices() -> list[str]:
    found = ["auto", "cpu"] + [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return found + (["mps"] if torch.backends.mps.is_available() else [])


@dataclass(frozen=True)
class LanguageOverride:
    """What the user says about the language of a checkpoint; the checkpoint's own word imports and opens nothing.

    folder: read the language anew from there (it may have a grammar now). validity: MODULE:FUNCTION that checks its texts.
    skip_invalid, accept_ambiguous, start, spacing: as in `LanguageConfig`, for the folder. validity_timeout:
    seconds for one text.
    """

    folder: str = ""
    validity: str = ""
    skip_invalid: bool = False
    accept_ambiguous: bool = False
    start: str = ""
    spacing: str = ""
    validity_timeout: float = LanguageConfig.validity_timeout

    @classmethod
    def of(cls, args: argparse.Namespace) -> LanguageOverride:
        """Returns what the flags of `cli.add_language_flags` state."""
        return cls(
            args.language, args.validity, args.skip_invalid, args.accept_ambiguous, args.start, args.spacing,
            args.validity_timeout,
        )  # fmt: skip


def load_denoiser(
    path: str | Path, device: str | torch.device = "cpu", spoken: LanguageOverride | None = None
) -> Loaded:
    """The denoiser of a checkpoint, its language and its configuration, ready to sample.

    Raises CheckpointError, and what `make_language` raises for a folder of `spoken`.
    """
    where = resolve_device(device)
    return denoiser_from(load(path, where), where, str(path), spoken)


def denoiser_from(
    payload: Mapping[str, Any],
    device: str | torch.device = "cpu",
    path: str = "",
    spoken: LanguageOverride | None = None,
) -> Loaded:
    """`Loaded` from a payload, see `load_denoiser`; CheckpointError also where its parts do not fit together."""
    from maskdiff.models.denoiser import ModelDenoiser

    shown, spoken = quote(path), spoken or LanguageOverride()
    config = read_config(payload, shown)
    language = _language(config.language, payload.get("language", {}), spoken, shown)
    config = replace(config, language=language.config)
    ours, token_lengths = language.vocabulary, None
    if config.model.vocabulary == "bpe":
        ours, token_lengths = _pieces(payload["vocabulary"], ours, config.model.block_size, shown)
    check_vocabulary(payload, ours, shown)
    if config.model.vocab_size != len(ours):
        raise CheckpointError(
            f"checkpoint {shown} has vocab_size {config.model.vocab_size} for {len(ours)} symbols; train it again"
        )
    if config.model.block_size < config.language.max_len:
        raise CheckpointError(
            f"checkpoint {shown} has block_size {config.model.block_size} for strings of max_len {config.language.max_len}; "
            "train it again"
        )
    model = _fitting_model(config.model, payload["weights"], shown)
    model.load_state_dict(dict(payload["weights"]))
    model.to(device).eval().requires_grad_(False)
    metrics, provenance = dict(payload.get("metrics", {})), dict(payload.get("provenance", {}))
    return Loaded(
        ModelDenoiser(model, ours), language, config, metrics, provenance, path, token_lengths
    )


def _pieces(
    stored: Mapping[str, Any], characters: Vocabulary, most: int, shown: str
) -> tuple[Vocabulary, NDArray[np.float64]]:
    """The vocabulary of pieces that a checkpoint describes, and the probabilities of its lengths in tokens. CheckpointError."""
    merges, lengths = stored.get("merges"), stored.get("lengths")
    pairs = isinstance(merges, list) and all(isinstance(m, list) and len(m) == 2 for m in merges)
    if not pairs or not all(isinstance(part, str) for merge in merges or [] for part in merge):
        raise CheckpointError(
            f"checkpoint {shown} is damaged: its merges are {quote(merges)}, not pairs of texts"
        )
    numbers = isinstance(lengths, list) and all(
        isinstance(p, float) and 0.0 <= p <= 1.0 for p in lengths
    )
    if (
        not numbers
        or not lengths
        or len(lengths) >= most
        or not abs(sum(lengths) - 1.0) < 1e-6
        or lengths[0] > 0
    ):
        raise CheckpointError(
            f"checkpoint {shown} is damaged: its lengths are {quote(lengths)}, not probabilities of 1, 2, ... tokens"
        )
    try:
        return characters.with_merges((a, b) for a, b in merges or []), np.array(lengths)
    except ValueError as error:
        raise CheckpointError(
            f"checkpoint {shown} has pieces that the merges do not make: {error}"
        ) from None


def stored_pieces(payload: Mapping[str, Any], language: Language, shown: str) -> Vocabulary:
    """The pieces that a payload makes of the characters of `language`; whether they are its own, `check_vocabulary` says."""
    return _pieces(payload["vocabulary"], language.vocabulary, language.config.max_len, shown)[0]


def _language(
    config: LanguageConfig, state: Mapping[str, Any], spoken: LanguageOverride, shown: str
) -> Language:
    """The language of a checkpoint, or that of the folder that its user gives."""
    from maskdiff.languages import LANGUAGES, make_language, restore_language

    if spoken.validity:
        config = replace(config, validity_timeout=spoken.validity_timeout)
    if not spoken.folder:
        for name in ("skip_invalid", "accept_ambiguous", "start", "spacing"):
            if getattr(spoken, name):
                raise ConfigError(f"{name} is for a folder; give --language DIR, too")
        try:
            return restore_language(config, state, spoken.validity)
        except (ConfigError, DataError, GrammarError) as error:
            if spoken.validity and isinstance(error, ConfigError):  # the user's own word
                raise
            raise CheckpointError(
                f"checkpoint {shown} has a language that this program cannot make: {error}"
            ) from None
    if spoken.folder in LANGUAGES or config.language in LANGUAGES:
        raise ConfigError(
            f"language is {quote(spoken.folder)}; give a folder, for a checkpoint of one (this is of {config.language})"
        )
    symbols = state.get("symbols")
    if not (
        Path(spoken.folder) / "grammar.lark"
    ).exists():  # what the training's grammar needed is for none here
        config = replace(config, start="", spacing=LanguageConfig.spacing)
    return make_language(
        replace(
            config, language=spoken.folder, validity=spoken.validity, skip_invalid=spoken.skip_invalid,
            accept_ambiguous=spoken.accept_ambiguous or config.accept_ambiguous,
            start=spoken.start or config.start, spacing=spoken.spacing or config.spacing,
        ),
        symbols if isinstance(symbols, str) else "",
    )  # fmt: skip


def check_vocabulary(payload: Mapping[str, Any], ours: Vocabulary, shown: str) -> None:
    """That the weights of a payload were trained on the symbols `ours`, in their order. CheckpointError."""
    stored = payload["vocabulary"]
    if stored.get("fingerprint") != ours.fingerprint() or list(stored["symbols"]) != list(
        ours.symbols
    ):
        theirs = f"{len(stored['symbols'])} symbols, {stored.get('fingerprint')}"
        new = [symbol for symbol in ours.symbols if symbol not in stored["symbols"]]
        more = f"; it was not trained on {', '.join(map(quote, new[:5]))}" if new else ""
        raise CheckpointError(
            f"checkpoint {shown} has another vocabulary ({theirs}) than the language has here "
            f"({len(ours)} symbols, {ours.fingerprint()}){more}; use the language of its run, or train it again"
        )


def _fitting_model(
    config: ModelConfig, weights: Mapping[str, Tensor], shown: str
) -> UniversalDenoiser:
    """The model of `config`, its weights still to be loaded; CheckpointError, before it takes memory, if they do not fit."""
    from maskdiff.models.universal import uninitialised

    try:
        wanted = uninitialised(config, "meta").state_dict()
    except ValueError as error:
        raise CheckpointError(
            f"checkpoint {shown} has a configuration that no model has: {folded(error)}"
        ) from None
    count = sum(weight.numel() for weight in wanted.values())
    if count > MAX_PARAMETERS:
        raise CheckpointError(
            f"checkpoint {shown} asks for a model of {count:,} parameters; allowed are {MAX_PARAMETERS:,}"
        )
    check_fits(weights, wanted, f"checkpoint {shown} has weights that do not fit its configuration")
    return uninitialised(config)


def check_fits(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], message: str) -> None:
    """Raise CheckpointError, `message` and some names, where `weights` are not like `wanted`."""
    wrong = [name for name in {**wanted, **weights} if name not in wanted or name not in weights]
    wrong += [
        name for name in wanted if name in weights and wanted[name].shape != weights[name].shape
    ]
    if wrong:
        some = ", ".join(map(quote, wrong[:3])) + (" and others" if len(wrong) > 3 else "")
        raise CheckpointError(f"{message}: {some}")


# --------------------------------------------------------------------------------------------------------------- folders


@checked_arguments(folder=arguments.path)
def save_pretrained(folder: str | Path, payload: Mapping[str, Any] | Loaded) -> None:
    """Write `model.safetensors` and `config.json` into `folder`, for programs that read those. Needs the extra `hub`.

    `payload` is one, or what `load_denoiser` returns. Raises CheckpointError.
    """
    payload = _payload(payload)
    tensors = {name: tensor.contiguous() for name, tensor in payload["weights"].items()}
    data = _safetensors().save(tensors, metadata={"format": "pt"})
    folder = Path(folder)
    write_atomic(folder / "model.safetensors", data)
    about = {"format": FORMAT, "version": VERSION, **payload_summary(payload)}
    write_atomic(folder / "config.json", (json.dumps(about, indent=2, default=str) + "\n").encode())


@checked_arguments(folder=arguments.path)
def from_pretrained(
    folder: str | Path, device: str | torch.device = "cpu", spoken: LanguageOverride | None = None
) -> Loaded:
    """The denoiser that `save_pretrained` wrote. Raises as `load_denoiser` does."""
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
        _check_payload({**about, "weights": weights}, shown),
        resolve_device(device),
        str(folder),
        spoken,
    )


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise CheckpointError(
            "pretrained folders need the package safetensors: pip install 'maskdiff[hub]'"
        ) from None
    return safetensors.torch
