"""`Loaded`: a denoiser with its language and configuration, built from a payload."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskdiff.checkpoint.files import load
from maskdiff.checkpoint.payload import (
    FITTED,
    FORMAT,
    VERSION,
    HasPayload,
    Payload,
    check_payload,
    make_payload,
    payload_from,
    payload_summary,
    read_config,
    read_mixture,
)
from maskdiff.config import MAX_PARAMETERS, Config, LanguageConfig, ModelConfig
from maskdiff.errors import CheckpointError, ConfigError, DataError, GrammarError, folded, quote
from maskdiff.models.prior import Prior
from maskdiff.utils import arguments
from maskdiff.utils.arguments import checked_arguments
from maskdiff.utils.deadline import NEVER, Deadline
from maskdiff.utils.files import write_atomic

if TYPE_CHECKING:
    import argparse

    from maskdiff.constraints.grammar import GrammarConstraint
    from maskdiff.languages import Language, Vocabulary
    from maskdiff.models.denoiser import ModelDenoiser
    from maskdiff.models.grammar_model import FittedGrammar
    from maskdiff.models.ngram import NGram
    from maskdiff.models.ngram_denoiser import NGramDenoiser
    from maskdiff.models.universal import UniversalDenoiser


@dataclass
class Loaded:
    """A denoiser with everything that a task needs to use it.

    Tokens of the denoiser may be pieces of several characters; symbols of the language are single.
    The denoiser is a neural model, or the n-gram if the checkpoint has no weights. `ngram` and
    `grammar_model` are over the characters of the language; None for a checkpoint without one.
    `mixture` is the share of the n-gram in the `MixtureModel` that `complete` draws from.
    """

    denoiser: ModelDenoiser | NGramDenoiser
    language: Language
    config: Config
    metrics: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    path: str = ""
    token_lengths: NDArray[np.float64] | None = None  # of a vocabulary of pieces: P(n tokens)
    ngram: NGram | None = None
    fitted_prior: Prior | None = None
    grammar_model: FittedGrammar | None = None
    mixture: float = 0.0
    _constraints: dict[torch.device, GrammarConstraint] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of the denoiser."""
        return self.denoiser.vocabulary

    @property
    def length_conditioned(self) -> bool:
        """Whether the causal mode gets the length of its string; otherwise it draws an end. A fit
        counts as conditioned; `tasks.draws_ends` tells how it generates."""
        return self.config.model.causal_length

    @property
    def lengths(self) -> NDArray[np.float64]:
        """P(n) that a string has n tokens, for n = 0, 1, ..."""
        return self.language.length_probs() if self.token_lengths is None else self.token_lengths

    @property
    def device(self) -> torch.device:
        return self.denoiser.device

    @property
    def prior(self) -> Prior:
        """The weights of causal mode, n-gram and fitted grammar, fitted or usual ones."""
        from maskdiff.models.ngram_denoiser import NGramDenoiser

        neural = not isinstance(self.denoiser, NGramDenoiser)
        return self.fitted_prior or Prior.usual(neural, self.ngram is not None)

    @property
    def deadline(self) -> Deadline:
        """The deadline of the present task; `denoiser.until` sets it."""
        return getattr(self.denoiser, "deadline", NEVER)

    def constraint(self, device: str | torch.device | None = None) -> GrammarConstraint:
        """Return the grammar of the language as a constraint, made at the first call.

        Args:
            device: Where its charts are filled; None for the device of the model.

        Raises:
            ConfigError: The language has no grammar, or the device cannot hold float64.
            TimedOut: From the constraint's methods, when the present deadline has passed.
        """
        from maskdiff.constraints.grammar import GrammarConstraint

        where = torch.device(self.device if device is None else device)
        if where not in self._constraints:
            self._constraints[where] = GrammarConstraint.of(self.language, where)
        made = self._constraints[where]
        made.rules.deadline = self.deadline
        return made

    def payload(self) -> Payload:
        """Return what `save` and `save_pretrained` write of the model."""
        return make_payload(
            self.config,
            self.vocabulary,
            self.denoiser.weights(),
            language=self.language.state(),
            metrics=self.metrics,
            provenance=self.provenance,
            lengths=[] if self.token_lengths is None else self.token_lengths.tolist(),
            ngram=self.ngram,
            grammar_model=self.grammar_model,
            prior=self.fitted_prior,
            mixture=self.mixture,
        )

    def neural(self, use: str) -> ModelDenoiser:
        """Return the neural denoiser. Raises ConfigError, naming `use`, if there is only a fit."""
        from maskdiff.models.denoiser import ModelDenoiser

        if not isinstance(self.denoiser, ModelDenoiser):
            raise ConfigError(
                f"{use} needs a neural model, and {quote(self.path)} holds an n-gram alone; "
                "train one with train_universal.py"
            )
        return self.denoiser


def resolve_device(name: str | torch.device) -> torch.device:
    """Return the device of a name; `auto` is CUDA, else MPS, else the CPU. Raises ConfigError."""
    text = str(name)
    if text == "auto":
        cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
        text = "cuda" if cuda else "mps" if mps else "cpu"
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
    """Settings of a user for the language of a checkpoint.

    What a checkpoint itself names as folder or checker is neither opened nor imported.

    Attributes:
        folder: Read the language again from this folder (it may have a grammar now) or file.
        validity: `MODULE:FUNCTION` that checks texts.
        skip_invalid, accept_ambiguous, start, spacing: As in `LanguageConfig`, for the folder.
        validity_timeout: Seconds for one text.
        field: The column or key of the corpus; by default that of the checkpoint.
    """

    folder: str = ""
    validity: str = ""
    skip_invalid: bool = False
    accept_ambiguous: bool = False
    start: str = ""
    spacing: str = ""
    validity_timeout: float = LanguageConfig.validity_timeout
    field: str = ""

    @classmethod
    def of(cls, args: argparse.Namespace) -> LanguageOverride:
        """Return the values of the flags of `cli.add_language_flags`."""
        return cls(
            folder=args.language,
            field=args.field,
            validity=args.validity,
            skip_invalid=args.skip_invalid,
            accept_ambiguous=args.accept_ambiguous,
            start=args.start,
            spacing=args.spacing,
            validity_timeout=args.validity_timeout,
        )


def load_denoiser(
    path: str | Path, device: str | torch.device = "cpu", override: LanguageOverride | None = None
) -> Loaded:
    """Return the denoiser of a checkpoint with its language and configuration, ready to sample.

    Raises CheckpointError, and what `make_language` raises for a folder of `override`.
    """
    where = resolve_device(device)
    return denoiser_from(load(path, where), where, str(path), override)


def denoiser_from(
    payload: Mapping[str, Any],
    device: str | torch.device = "cpu",
    path: str = "",
    override: LanguageOverride | None = None,
) -> Loaded:
    """As `load_denoiser`, from a payload. Raises CheckpointError if its parts do not agree."""
    shown, override = quote(path), override or LanguageOverride()
    config = read_config(payload, shown)
    language = _language(config.language, payload.get("language", {}), override, shown)
    config = replace(config, language=language.config)
    # The vocabulary of the denoiser, which must be that of the language or pieces of it.
    ours, token_lengths = language.vocabulary, None
    if config.model.vocabulary == "bpe":
        ours, token_lengths = _pieces(payload["vocabulary"], ours, config.model.block_size, shown)
    check_vocabulary(payload, ours, shown)
    if config.model.vocab_size != len(ours):
        raise CheckpointError(
            f"checkpoint {shown} has vocab_size {config.model.vocab_size} "
            f"for {len(ours)} symbols; train it again"
        )
    if config.model.block_size < config.language.max_len:
        raise CheckpointError(
            f"checkpoint {shown} has block_size {config.model.block_size} "
            f"for strings of max_len {config.language.max_len}; train it again"
        )
    ngram = _ngram(payload, language.vocabulary, shown)
    denoiser = _denoiser(config.model, payload["weights"], ours, ngram, torch.device(device), shown)
    metrics, provenance = dict(payload.get("metrics", {})), dict(payload.get("provenance", {}))
    prior = Prior(**payload["prior"]) if payload.get("prior") else None
    grammar = _grammar_model(payload, language.vocabulary, shown)
    mixture = read_mixture(payload, config.model, shown)
    return Loaded(
        denoiser, language, config, metrics, provenance, path, token_lengths, ngram, prior, grammar,
        mixture,
    )  # fmt: skip


def _ngram(payload: Mapping[str, Any], characters: Vocabulary, shown: str) -> NGram | None:
    """The n-gram of a checkpoint, None if it has none. Raises CheckpointError."""
    if "ngram" not in payload:
        return None
    from maskdiff.models.ngram import NGram

    try:
        return NGram.of_state(payload["ngram"], characters)
    except DataError as error:
        raise CheckpointError(f"checkpoint {shown} cannot be used: {error}") from None


def _grammar_model(
    payload: Mapping[str, Any], characters: Vocabulary, shown: str
) -> FittedGrammar | None:
    """The fitted grammar of a checkpoint, None if it has none. Raises CheckpointError."""
    if "grammar_model" not in payload:
        return None
    from maskdiff.models.grammar_model import FittedGrammar

    try:
        return FittedGrammar.of_state(payload["grammar_model"], characters)
    except DataError as error:
        raise CheckpointError(f"checkpoint {shown} cannot be used: {error}") from None


def _denoiser(
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    vocabulary: Vocabulary,
    ngram: NGram | None,
    device: torch.device,
    shown: str,
) -> ModelDenoiser | NGramDenoiser:
    """The neural model or, without weights, the n-gram. Raises CheckpointError."""
    if not weights and ngram is not None:
        from maskdiff.models.ngram_denoiser import NGramDenoiser

        if config.vocabulary == "bpe" or not config.causal_length:
            raise CheckpointError(
                f"checkpoint {shown} is damaged: an n-gram alone has characters as tokens and is "
                "conditioned on the length"
            )
        return NGramDenoiser(ngram, config.block_size, device)
    from maskdiff.models.denoiser import ModelDenoiser

    # The model is built after its configuration was compared with the weights.
    model = _fitting_model(config, weights, shown)
    model.load_state_dict(dict(weights))
    model.to(device).eval().requires_grad_(False)
    return ModelDenoiser(model, vocabulary)


def _pieces(
    stored: Mapping[str, Any], characters: Vocabulary, most: int, shown: str
) -> tuple[Vocabulary, NDArray[np.float64]]:
    """The vocabulary of pieces of a checkpoint, and P(n tokens). Raises CheckpointError."""
    merges, lengths = stored.get("merges"), stored.get("lengths")
    pairs = isinstance(merges, list) and all(isinstance(m, list) and len(m) == 2 for m in merges)
    if not pairs or not all(isinstance(part, str) for merge in merges or [] for part in merge):
        raise CheckpointError(
            f"checkpoint {shown} is damaged: its merges are {quote(merges)}, not pairs of texts"
        )
    numbers = isinstance(lengths, list) and all(
        isinstance(p, float) and 0.0 <= p <= 1.0 for p in lengths
    )
    sized = numbers and lengths and len(lengths) < most
    if not lengths or not sized or not abs(sum(lengths) - 1.0) < 1e-6 or lengths[0] > 0:
        raise CheckpointError(
            f"checkpoint {shown} is damaged: its lengths are {quote(lengths)}, "
            "not probabilities of 1, 2, ... tokens"
        )
    try:
        return characters.with_merges((a, b) for a, b in merges or []), np.array(lengths)
    except ValueError as error:
        raise CheckpointError(
            f"checkpoint {shown} has pieces that the merges do not make: {error}"
        ) from None


def stored_pieces(payload: Mapping[str, Any], language: Language, shown: str) -> Vocabulary:
    """Return the vocabulary of pieces of a payload; compare it with `check_vocabulary`."""
    return _pieces(payload["vocabulary"], language.vocabulary, language.config.max_len, shown)[0]


def _language(
    config: LanguageConfig, state: Mapping[str, Any], override: LanguageOverride, shown: str
) -> Language:
    """The language of a checkpoint, or that of the folder of `override`."""
    from maskdiff.languages import LANGUAGES, has_columns, make_language, restore_language

    if override.validity:
        config = replace(config, validity_timeout=override.validity_timeout)
    if not override.folder:
        for name in ("field", "skip_invalid", "accept_ambiguous", "start", "spacing"):
            if getattr(override, name):
                raise ConfigError(f"{name} is for a folder; give --language DIR, too")
        try:
            return restore_language(config, state, override.validity)
        except (ConfigError, DataError, GrammarError) as error:
            if override.validity and isinstance(error, ConfigError):  # an error of the flag
                raise
            raise CheckpointError(
                f"checkpoint {shown} has a language that this program cannot make: {error}"
            ) from None
    if override.folder in LANGUAGES or config.language in LANGUAGES:
        raise ConfigError(
            f"language is {quote(override.folder)}; give a folder, for a checkpoint of one "
            f"(this is of {config.language})"
        )
    symbols = state.get("symbols")
    if not (Path(override.folder) / "grammar.lark").exists():
        config = replace(config, start="", spacing=LanguageConfig.spacing)
    config = replace(
        config,
        language=override.folder,
        field=override.field or (config.field if has_columns(Path(override.folder)) else ""),
        validity=override.validity,
        skip_invalid=override.skip_invalid,
        accept_ambiguous=override.accept_ambiguous or config.accept_ambiguous,
        start=override.start or config.start,
        spacing=override.spacing or config.spacing,
    )
    return make_language(config, symbols if isinstance(symbols, str) else "")


def check_vocabulary(payload: Mapping[str, Any], ours: Vocabulary, shown: str) -> None:
    """Raise CheckpointError unless a payload was trained on the symbols of `ours`, in order."""
    stored = payload["vocabulary"]
    same = stored.get("fingerprint") == ours.fingerprint()
    if not same or list(stored["symbols"]) != list(ours.symbols):
        theirs = f"{len(stored['symbols'])} symbols, {stored.get('fingerprint')}"
        new = [symbol for symbol in ours.symbols if symbol not in stored["symbols"]]
        more = f"; it was not trained on {', '.join(map(quote, new[:5]))}" if new else ""
        raise CheckpointError(
            f"checkpoint {shown} has another vocabulary ({theirs}) than the language has here "
            f"({len(ours)} symbols, {ours.fingerprint()}){more}; "
            "use the language of its run, or train it again"
        )


def _fitting_model(
    config: ModelConfig, weights: Mapping[str, Tensor], shown: str
) -> UniversalDenoiser:
    """The model of `config` without weights; CheckpointError before it takes memory."""
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
            f"checkpoint {shown} asks for a model of {count:,} parameters; "
            f"allowed are {MAX_PARAMETERS:,}"
        )
    check_fits(weights, wanted, f"checkpoint {shown} has weights that do not fit its configuration")
    return uninitialised(config)


def check_fits(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], message: str) -> None:
    """Raise CheckpointError with `message` unless names and shapes are those of `wanted`."""
    wrong = [name for name in {**wanted, **weights} if name not in wanted or name not in weights]
    wrong += [
        name for name in wanted if name in weights and wanted[name].shape != weights[name].shape
    ]
    if wrong:
        some = ", ".join(map(quote, wrong[:3])) + (" and others" if len(wrong) > 3 else "")
        raise CheckpointError(f"{message}: {some}")


# -------------------------- folders of safetensors and JSON


@checked_arguments(folder=arguments.path)
def save_pretrained(folder: str | Path, payload: Mapping[str, Any] | HasPayload) -> None:
    """Write `model.safetensors` and `config.json` into `folder`. Needs the extra `hub`.

    `payload` is a payload or what `load_denoiser` returns. Raises CheckpointError.
    """
    payload = payload_from(payload)
    tensors = {name: tensor.contiguous() for name, tensor in payload["weights"].items()}
    for part in FITTED:  # their tensors have the part as a prefix
        tensors |= {f"{part}.{name}": value for name, value in payload.get(part, {}).items()}
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
    parts: dict[str, Any] = {"weights": weights}
    for part in FITTED:
        about.pop(part, None)
        names = [name for name in weights if name.startswith(f"{part}.")]
        if names:
            parts[part] = {name.removeprefix(f"{part}."): weights.pop(name) for name in names}
    return denoiser_from(
        check_payload({**about, **parts}, shown), resolve_device(device), str(folder), override
    )


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise CheckpointError(
            "pretrained folders need the package safetensors: pip install 'maskdiff[hub]'"
        ) from None
    return safetensors.torch
