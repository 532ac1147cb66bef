"""Causal language models of transformers: loading, evaluation with caches, and a tree of histories.

`TransformersModel` is the one adapter: `HuggingFaceModel` (completion), the stepwise backend and
the policy of the experiments use it. Nothing here downloads a model unless it is loaded by name,
and no code of a model folder is run.
"""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskdiff.errors import CheckpointError, ConfigError, LogitsError, folded, quote
from maskdiff.models.continuation import ROOT, LatentStates
from maskdiff.models.hugging_face_tokens import HuggingFaceTokenizer

ATTENTION = ("sdpa", "eager")  # implementations that take a 4-dimensional mask
ROWS = 256  # distributions that are normalised together

Ids = tuple[int, ...]


def load_pretrained(
    name: str | Path,
    dtype: torch.dtype | str = "auto",
    device: str | torch.device = "cpu",
    local: bool = False,
) -> tuple[Any, Any]:
    """Return a causal language model and its tokenizer, from safetensors and without running code.

    Args:
        name: a folder that `save_pretrained` wrote, or a name that `from_pretrained` knows.
        dtype: of the weights; "auto" is the one that they were saved in.
        device: where the weights are put.
        local: whether to use nothing but local files.

    Raises:
        ConfigError: the package transformers is missing.
        CheckpointError: the files cannot be read, or lack tensors of the model.
    """
    transformers, path = _transformers(), str(name)
    settings: dict[str, Any] = {"local_files_only": local, "trust_remote_code": False}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, **settings)
        module, info = transformers.AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, use_safetensors=True, output_loading_info=True, **settings
        )
    except Exception as error:  # of many kinds, each library's own
        raise CheckpointError(
            f"cannot read a model and a tokenizer in {quote(path)}: {folded(error)}"
        ) from error
    if missing := sorted(info["missing_keys"]):  # transformers initialises them at random
        raise CheckpointError(
            f"the weights in {quote(path)} lack {len(missing)} tensors, {quote(missing[0])} first"
        )
    return module.to(device), tokenizer


class TransformersModel:
    """A causal language model of transformers with its tokenizer. The model is put into eval mode.

    Attributes:
        module: the `PreTrainedModel`.
        tokens: the tokenizer, with the bytes of its tokens.
        name: by default the last part of the model's folder, or the name that it was loaded by.
        room: positions of the model; None where it has no limit.
        barred: (vocabulary,) ids that are never drawn: those without a text that end no text.
        calls: forward passes so far.
        positions: tokens that they evaluated.
    """

    def __init__(self, module: Any, tokenizer: Any, name: str | None = None) -> None:
        self.module, self.tokens = module.eval(), HuggingFaceTokenizer(tokenizer, module)
        self.name, config = name or _title(module), module.config.get_text_config(decoder=True)
        self.room: int | None = getattr(config, "max_position_embeddings", None)
        table = self.tokens.table
        self.barred = torch.tensor([text is None for text in table.texts], device=module.device)
        self.barred[list(table.ends)] = False
        self.calls = self.positions = 0
        self._parameters = inspect.signature(module.forward).parameters

    def forward(self, tokens: Tensor, keep: int, **settings: Any) -> Any:
        """Return the model's output for (rows, n) ids, with logits of the last `keep` places.

        Logits of all places of a large vocabulary would take more memory than everything else.
        Arguments for positions are left out for a model that takes none.
        """
        if "logits_to_keep" in self._parameters:
            settings["logits_to_keep"] = keep
        if "position_ids" not in self._parameters:
            settings.pop("position_ids", None)
        self.calls, self.positions = self.calls + 1, self.positions + tokens.numel()
        out = self.module(input_ids=tokens, **settings)
        out.logits = out.logits[:, -keep:]
        return out

    def finite(self, logits: Tensor) -> Tensor:
        """Return (n, vocabulary) logits in float64, on the CPU if their device is mps.

        Raises LogitsError where one is NaN, or the largest is infinite. Minus infinity is allowed,
        because some models give it to unused ids.
        """
        rows = (logits.cpu() if logits.device.type == "mps" else logits).double()
        if not rows.amax(-1).isfinite().all():
            raise LogitsError(
                f"{quote(self.name)} gives NaN or infinite logits; load it with a wider dtype"
            )
        return rows

    def twin(self) -> TransformersModel:
        """Return the same model with weights of its own; the tokenizer is shared."""
        other = copy.copy(self)
        other.module = copy.deepcopy(self.module)
        return other


class GrowingRows:
    """Rows of ids that only grow, evaluated with a contiguous cache of keys and values.

    Args:
        model: the model.
        rows: ids, at least one in each row. Shorter rows are padded on the left.
        caches: whether keys and values are kept; otherwise every pass reads the whole rows.
    """

    def __init__(self, model: TransformersModel, rows: Sequence[Ids], caches: bool = True) -> None:
        self.model, self.caches, self._read = model, caches, 0
        self._cache: Any = None
        width, device = max(map(len, rows)), model.module.device
        self._tokens = torch.tensor(
            [[0] * (width - len(row)) + list(row) for row in rows], device=device
        )  # (rows, width)
        self._mask: Tensor | None = None  # (rows, width) false at padding, if there is any
        if any(len(row) < width for row in rows):
            pads = torch.tensor([width - len(row) for row in rows], device=device)
            self._mask = torch.arange(width, device=device) >= pads[:, None]

    def logits(self, keep: int = 1) -> Tensor:
        """Evaluate the new tokens; return (rows, keep, vocabulary) logits after the last ones."""
        new = self._tokens[:, self._read :]
        settings: dict[str, Any] = {"use_cache": self.caches}
        if self._mask is not None:
            positions = (self._mask.cumsum(-1) - 1).clamp(min=0)[:, -new.shape[1] :]
            settings |= {"attention_mask": self._mask.long(), "position_ids": positions}
        if self._cache is not None:
            settings["past_key_values"] = self._cache
        out = self.model.forward(new, keep, **settings)
        if self.caches:
            self._cache, self._read = out.past_key_values, self._tokens.shape[1]
        logits: Tensor = out.logits
        return logits

    def log_p(self) -> Tensor:
        """Evaluate the new tokens; return (rows, vocabulary) float64 log p of the next one."""
        return self.model.finite(self.logits()[:, -1]).log_softmax(-1)

    def append(self, tokens: Tensor) -> None:
        """Add (rows, n) tokens at the end of the rows."""
        self._tokens = torch.cat([self._tokens, tokens.to(self._tokens)], 1)
        if self._mask is not None:
            self._mask = nn.functional.pad(self._mask, (0, tokens.shape[1]), value=True)

    def step(self, token: Tensor) -> Tensor:
        """See `CausalStream.step`; returns what `log_p` does."""
        self.append(token[:, None])
        return self.log_p()

    def select(self, rows: Tensor) -> GrowingRows:
        """See `CausalStream.select`; returns these rows themselves."""
        index = rows.to(self._tokens.device)
        self._tokens = self._tokens[index]
        self._mask = None if self._mask is None else self._mask[index]
        if self._cache is not None:
            self._cache.reorder_cache(index)
        return self

    def copy(self, rows: Sequence[int]) -> GrowingRows:
        """Return some of the rows as new ones, which share no tensor that changes."""
        other = copy.copy(self)
        other._cache = _shallow(self._cache)
        return other.select(torch.tensor(rows))  # makes new tensors of the cache


# --- self-test: a model that ignores a mask, positions or a cache silently gives wrong numbers ---

# From three ordinary tokens: logits (n, vocabulary), and the rows after which they stand.
Evaluation = Callable[[int, int, int], tuple[Tensor, list[Ids]]]


@torch.no_grad()
def evaluation_fault(model: TransformersModel, evaluate: Evaluation) -> str:
    """Return why a way of evaluation differs from plain passes over each row; "" if it does not."""
    ordinary = [token for token, text in enumerate(model.tokens.table.texts) if text]
    a, b, c = (ordinary[(len(ordinary) - 1) * i // 2] for i in range(3))
    try:
        given, rows = evaluate(a, b, c)
        alone = torch.cat([GrowingRows(model, [row], caches=False).logits()[:, -1] for row in rows])
        p, q = (
            logits.cpu().double().masked_fill(model.barred.cpu(), -torch.inf).softmax(-1)
            for logits in (given, alone)
        )
        distance = (p - q).abs().sum(1).max().item() / 2
    except Exception as error:  # whatever a model's own code raises
        return folded(error)
    if distance <= (1e-3 if model.module.dtype.itemsize >= 4 else 0.05):
        return ""
    return f"its distributions are off by {distance:.2g} in total variation there"


def growing_rows_fault(model: TransformersModel, padded: bool) -> str:
    """Return why `GrowingRows` fail; "" if they do not.

    Args:
        model: the model.
        padded: whether rows of unequal length are tested, or else copies of a row.
    """

    def evaluate(a: int, b: int, c: int) -> tuple[Tensor, list[Ids]]:
        known: list[Ids] = [(a, b, c, a), (b,), (c, b)] if padded else [(a, b)]
        rows = GrowingRows(model, known)
        given, paths = [rows.log_p()], list(known)

        def grow(rows: GrowingRows, known: list[Ids], tokens: list[int]) -> list[Ids]:
            given.append(rows.step(torch.tensor(tokens)))
            known = [(*row, token) for row, token in zip(known, tokens, strict=True)]
            paths.extend(known)
            return known

        if padded:  # rows leave the batch one after another
            known = grow(rows, known, [c, a, b])
            known = grow(rows.select(torch.tensor([1, 2])), known[1:], [b, c])
            grow(rows.select(torch.tensor([0])), known[:1], [c])
        else:  # a wider copy, one row of it, and the original again
            wide = rows.copy([0, 0])
            both = grow(wide, [*known, *known], [a, b])
            grow(wide.select(torch.tensor([1])), both[1:], [c])
            grow(rows, known, [c])
        return torch.cat(given), paths

    return evaluation_fault(model, evaluate)


# --- a tree of histories after a context ---


class HuggingFaceModel:
    """A causal language model after a context; a string is its text up to a token that ends it.

    Special tokens are never drawn inside a string; the others share their probability.

    Args:
        module: a `PreTrainedModel`.
        tokenizer: its fast tokenizer.
        max_tokens: most tokens of a string, fewer where the model's positions end.
        context: ids before a string; by default the token that begins or else ends a text.

    Raises:
        ConfigError: the tokenizer or the model's attention is not supported, or no token fits.
    """

    def __init__(
        self,
        module: Any,
        tokenizer: Any,
        max_tokens: int = 256,
        context: Sequence[int] | None = None,
    ) -> None:
        self.model = model = TransformersModel(module, tokenizer)
        self.table, size = model.tokens.table, len(model.tokens.table)
        self.context = tuple(model.tokens.begins[:1] if context is None else context)
        if not self.context or not all(0 <= i < size for i in self.context):
            raise ConfigError(
                f"the context {quote(list(self.context))} is not one or more ids below {size}: "
                "give such a context"
            )
        used = len(self.context)
        limit = max_tokens if model.room is None else min(max_tokens, model.room - used)
        if limit < 1:
            raise ConfigError(
                f"no token fits: max_tokens is {max_tokens}, the context {used} of {model.room} "
                "positions"
            )
        self.latent_states = LatentStates(torch.zeros(1, dtype=torch.float64), (limit,))
        _check_attention(module, used + max(limit, 2))
        if fault := evaluation_fault(model, self._evaluate_tree):
            raise ConfigError(
                f"this model cannot be evaluated as a tree of histories: {fault}; "
                "give one whose attention takes a mask and position_ids"
            )

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        max_tokens: int = 256,
        context: Sequence[int] | None = None,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> HuggingFaceModel:
        """Return the model of a folder that `save_pretrained` wrote; see `load_pretrained`."""
        _transformers()
        if not Path(folder).is_dir():
            raise CheckpointError(
                f"there is no folder {quote(str(folder))}; "
                "give one with a config.json and model.safetensors"
            )
        return cls(*load_pretrained(folder, dtype, device, local=True), max_tokens, context)

    def tree(self) -> PackedTree:
        """See `Continuation.tree`."""
        return PackedTree(self)

    def encode(self, texts: Sequence[bytes]) -> list[list[int] | None]:
        """See `HuggingFaceTokenizer.encode`."""
        return self.model.tokens.encode(texts)

    def _evaluate_tree(self, a: int, b: int, c: int) -> tuple[Tensor, list[Ids]]:
        """Evaluate the branches a, a c, b and b a of a tree in two passes; see `Evaluation`."""
        tree = self.tree()
        first = tree.extend(torch.tensor([ROOT, 0, 0, 1]), torch.tensor([0, a, b, c]))
        paths = [(), (a,), (b,), (a, c), (b, a)]
        log_p = torch.cat([first, tree.extend(torch.tensor([2]), torch.tensor([a]))])
        return log_p, [(*self.context, *path) for path in paths]


class PackedTree:
    """See `HistoryTree`. All branches share one row of tokens, in the order of their addition.

    The cache holds the keys and values of that row; a mask lets each token see its ancestors and
    itself. The row begins with the context but its last token, which is the token of a root.
    `positions` counts the context too.
    """

    def __init__(self, owner: HuggingFaceModel) -> None:
        self.owner, self.calls, self.positions = owner, 0, 0
        self.norm = torch.empty(0)
        self._cache = _transformers().DynamicCache()  # without a config, no layer forgets
        self._shared = len(owner.context) - 1  # places before the first node
        self._parent = list(range(-1, self._shared - 1))  # of each place of the row: its parent's
        self._depth = list(range(self._shared))
        self._read = 0  # places in the cache

    @torch.no_grad()
    def extend(self, parents: Tensor, tokens: Tensor) -> Tensor:
        """See `HistoryTree.extend`."""
        # Give each node the next place of the row.
        *context, last = self.owner.context
        ids = [] if self._read else context
        for parent, token in zip(parents.tolist(), tokens.tolist(), strict=True):
            place = self._shared + parent  # before the first node's place for ROOT, which is -1
            ids.append(last if parent == ROOT else token)
            self._depth.append(self._shared if parent == ROOT else self._depth[place] + 1)
            self._parent.append(place)
        # Evaluate the new places in one pass.
        model = self.owner.model
        device, new = model.module.device, slice(self._read, None)
        out = model.forward(
            torch.tensor([ids], device=device),
            len(parents),
            position_ids=torch.tensor([self._depth[new]], device=device),
            attention_mask=self._mask().to(device),
            past_key_values=self._cache,
            use_cache=True,
        )
        self.calls, self.positions = self.calls + 1, self.positions + len(ids)
        self._read = len(self._parent)
        # Normalise, without the ids that are never drawn.
        rows, norms = model.finite(out.logits[0]), []
        rows.masked_fill_(model.barred.to(rows.device), -torch.inf)
        for part in rows.split(ROWS):  # (n, vocabulary) may be gigabytes: in place
            norms.append(part.logsumexp(-1))
            part -= norms[-1][:, None]
        self.norm = torch.cat(norms).cpu()
        return rows

    def forget(self, nodes: int) -> None:
        """See `HistoryTree.forget`."""
        keep = self._shared + nodes
        if over := self._read - keep if self._read else 0:
            self._cache.crop(-over)
            self._read = keep
        del self._parent[keep:], self._depth[keep:]

    def _mask(self) -> Tensor:
        """(1, 1, new places, places) added to attention: 0 for a place and its ancestors."""
        total, shared = len(self._parent), self._shared
        new = torch.arange(self._read, total)
        # (new places, places) what each sees; at first the shared places, up to itself
        sees = (torch.arange(total) <= new[:, None]) & (torch.arange(total) < shared)
        parent, at = torch.tensor(self._parent), new.clone()
        while len(rows := (at >= shared).nonzero()[:, 0]):
            sees[rows, at[rows]] = True
            at[rows] = parent[at[rows]]
        dtype = self.owner.model.module.dtype
        mask = torch.zeros(1, 1, *sees.shape, dtype=dtype)
        return mask.masked_fill_(~sees, torch.finfo(dtype).min)


def _transformers() -> Any:
    """The package, which is an optional dependency."""
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise ConfigError(
            "models of Hugging Face need the package transformers: "
            "pip install 'maskdiff[transformers]'"
        ) from error


def _title(module: Any) -> str:
    """The last part of a model's folder, the name that it was loaded by, or its type."""
    path = str(getattr(module.config, "name_or_path", ""))
    return (
        Path(path).resolve().name if path and Path(path).is_dir() else path or type(module).__name__
    )


def _shallow(cache: Any) -> Any:
    """A copy of a cache whose layers are copies that share their tensors."""
    if cache is None:
        return None
    new = copy.copy(cache)
    new.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in new.layers:  # layers with a state keep dictionaries
        dicts = {
            name: dict(value) for name, value in vars(layer).items() if isinstance(value, dict)
        }
        vars(layer).update(dicts)
    return new


def _check_attention(module: Any, longest: int) -> None:
    """Refuse attention that ignores a 4-dimensional mask, or counts places instead of positions."""
    config = module.config.get_text_config(decoder=True)
    if module.config.is_encoder_decoder or getattr(module, "_is_stateful", False):
        raise ConfigError(
            f"a model of type {quote(config.model_type)} is not a decoder of causal attention alone"
        )
    if config._attn_implementation not in ATTENTION:
        given = quote(str(config._attn_implementation))
        raise ConfigError(
            f"attention {given} takes no 4-dimensional mask; "
            f"load with attn_implementation {' or '.join(ATTENTION)}"
        )
    # The kinds of the layers, by whichever setting the configuration has.
    kinds = {*(getattr(config, "layer_types", None) or ())}
    if not kinds and getattr(config, "sliding_window", None) is not None:
        kinds = {"sliding_attention"}
    if not kinds and getattr(config, "attention_chunk_size", None) is not None:
        kinds = {"chunked_attention"}
    kinds |= {*getattr(config, "attention_layers", ())}  # GPT-Neo's, which count places in the row
    if others := kinds - {"full_attention", "sliding_attention"}:
        raise ConfigError(
            f"layers of kind {quote(min(others))} cannot be evaluated as a tree of histories; "
            "give full attention"
        )
    if "sliding_attention" in kinds and config.sliding_window < longest:
        raise ConfigError(
            f"attention has a window of {config.sliding_window} tokens, and context and string may "
            f"have {longest}: a tree needs all of them in the window; lower max_tokens"
        )
