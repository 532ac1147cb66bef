"""Hugging Face causal language models, as completion asks for them: token bytes, and a tree of histories in one pass.

For: `HuggingFaceModel`, of a `PreTrainedModel` and its fast tokenizer or of a folder with both. Not for: downloads (nothing
here goes to the network), chat templates, models that keep a state in place of keys and values. Easy to get wrong: the text of
a token comes from the tables, never from `decode([i])`, which writes � for half a character and loses leading spaces.

A SentencePiece-like tokenizer may write a space in front of every text and take it away again on decoding. Here texts are what
the tokens stand for, so that this space is part of them: what is typed to such a model begins with a space.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskdiff.errors import CheckpointError, ConfigError, folded, quote
from maskdiff.models.continuation import ROOT, LatentStates
from maskdiff.models.token_table import TokenTable
from maskdiff.models.universal import finite

ATTENTION = ("sdpa", "eager")  # implementations that take a mask of one's own
ROWS = 256  # distributions that are normalised together


class HuggingFaceModel:
    """A causal language model after a context; a string is what it writes there, up to a token that ends it.

    `context` are the ids before the string, by default the token that begins a text, or without one the token that ends one.
    A string has at most `max_tokens` tokens, fewer where the model's positions end; one that reaches the limit is cut. Special
    tokens are never drawn inside a string: the others share their probability. `model` is put into evaluation mode.

    Raises ConfigError for a tokenizer whose tables are not understood, and for a model that cannot be evaluated as a tree.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        max_tokens: int = 256,
        context: Sequence[int] | None = None,
    ) -> None:
        self.model = model.eval()
        self._takes_keep = "logits_to_keep" in inspect.signature(model.forward).parameters
        config = model.config.get_text_config(decoder=True)
        self.table, written = read_tokens(model, tokenizer)
        self._cutter = type(tokenizer.backend_tokenizer).from_str(
            written
        )  # a copy, so that the caller's keeps its settings
        self._cutter.encode_special_tokens = (
            True  # cut the name of a special token as the text that it is
        )
        self._cutter.no_truncation()
        self._cutter.no_padding()
        if context is None:
            begins = [
                i
                for owner in (tokenizer, *_owners(model, tokenizer))
                for i in _ids(owner, "bos_token_id")
            ]
            context = (begins or [*_ids(tokenizer, "eos_token_id"), *self.table.ends])[:1]
        self.context = tuple(context)
        size = len(self.table.texts)
        if not self.context or not all(0 <= i < size for i in self.context):
            raise ConfigError(
                f"the context {quote(list(self.context))} is not one or more ids below {size}: give such a context"
            )
        room = getattr(config, "max_position_embeddings", None)
        limit = max_tokens if room is None else min(max_tokens, room - len(self.context))
        if limit < 1:
            raise ConfigError(
                f"no token fits: max_tokens is {max_tokens}, the context {len(self.context)} of {room} positions"
            )
        self.latent_states = LatentStates(torch.zeros(1, dtype=torch.float64), (limit,))
        drawn = [text is not None for text in self.table.texts]
        self.barred = ~torch.tensor(
            drawn, device=model.device
        )  # (vocabulary,) ids that are never drawn
        self.barred[list(self.table.ends)] = False
        _check_kind(model, config, len(self.context) + max(limit, 2))
        self._check_tree()

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        max_tokens: int = 256,
        context: Sequence[int] | None = None,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> HuggingFaceModel:
        """What `save_pretrained` of a model and of its tokenizer wrote: safetensors and a tokenizer.json, no code.

        Raises ConfigError where the package transformers is missing, CheckpointError for a folder that cannot be read.
        """
        transformers = _transformers()
        if not Path(folder).is_dir():
            raise CheckpointError(
                f"there is no folder {quote(str(folder))}; give one with a config.json and model.safetensors"
            )
        settings: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), **settings)
            model, info = transformers.AutoModelForCausalLM.from_pretrained(
                str(folder), dtype=dtype, use_safetensors=True, output_loading_info=True, **settings
            )
        except Exception as error:  # of many kinds, each library's own
            raise CheckpointError(
                f"cannot read a model and a tokenizer in {quote(str(folder))}: {folded(error)}"
            ) from error
        if missing := sorted(info["missing_keys"]):  # they were drawn at random
            raise CheckpointError(
                f"the weights in {quote(str(folder))} lack {len(missing)} tensors, {quote(missing[0])} first"
            )
        return cls(model.to(device), tokenizer, max_tokens, context)

    def tree(self) -> HuggingFaceTree:
        """See `Continuation.tree`."""
        return HuggingFaceTree(self)

    def encode(self, texts: Sequence[bytes]) -> list[list[int] | None]:
        """How the tokenizer cuts each text, without special tokens.

        None for bytes that are not UTF-8, and where the tokens stand for another text: one that was normalised, or one that
        does not begin with the space that the tokenizer writes in front.
        """
        strings = [_decoded(text) for text in texts]
        cuts: list[list[int] | None] = [None] * len(texts)
        for skip in (0, 1):  # the space in front of a text may be the one that the tokenizer writes
            left = [i for i, string in enumerate(strings) if cuts[i] is None and string is not None]
            rows = [i for i in left if (strings[i] or "").startswith(" " * skip)]
            encodings = self._cutter.encode_batch_fast(
                [(strings[i] or "")[skip:] for i in rows], add_special_tokens=False
            )
            for i, encoding in zip(rows, encodings, strict=True):
                if self.table.text(encoding.ids) == texts[i]:
                    cuts[i] = list(encoding.ids)
        return cuts

    def log_next(self, logits: Tensor) -> Tensor:
        """(n, vocabulary) float64 log-probabilities without the ids that are never drawn.

        Overwrites float64 logits. Raises LogitsError where one is NaN, or the largest infinite:
        some models give unused ids minus infinity.
        """
        rows = (
            logits.cpu() if logits.device.type == "mps" else logits
        ).double()  # mps has no float64
        rows.masked_fill_(self.barred.to(rows.device), -torch.inf)
        finite(rows.amax(-1))
        for part in rows.split(ROWS):  # (n, vocabulary) may be gigabytes: in place
            part.copy_(part.log_softmax(-1))
        return rows

    def logits(self, ids: Sequence[int], keep: int, **inputs: Any) -> Tensor:
        """(keep, vocabulary) what a plain forward pass says after the last `keep` of some ids."""
        if self._takes_keep:
            inputs["logits_to_keep"] = keep
        out: Tensor = self.model(
            input_ids=torch.tensor([ids], device=self.model.device), **inputs
        ).logits
        return out[0, -keep:]

    @torch.no_grad()
    def _check_tree(self) -> None:
        """Evaluate a small tree, and its branches alone: a model that overlooks mask or positions would be wrong silently."""
        ordinary = [token for token, text in enumerate(self.table.texts) if text]
        a, b, c = ordinary[0], ordinary[len(ordinary) // 2], ordinary[-1]
        try:
            tree = self.tree()
            rows = [
                tree.extend(torch.tensor([ROOT, 0, 0, 1]), torch.tensor([0, a, b, c]))
            ]  # the branches a c and b
            rows += [tree.extend(torch.tensor([2]), torch.tensor([a]))]  # now b a
            alone = [self.logits([*self.context, *path], 3) for path in ([a, c], [b, a])]
            expected = self.log_next(torch.cat(alone))[[0, 1, 4, 2, 5]].exp()
            distance = (torch.cat(rows).exp() - expected).abs().sum(1).max().item() / 2
        except Exception as error:  # whatever a model's own code raises
            raise ConfigError(
                f"this model cannot be evaluated as a tree of histories: {folded(error)}"
            ) from error
        if not distance <= (1e-3 if self.model.dtype.itemsize >= 4 else 0.05):
            raise ConfigError(
                f"this model cannot be evaluated as a tree of histories: its distributions are off by {distance:.2g} in total "
                "variation there; give one whose attention takes a mask and position_ids"
            )


class HuggingFaceTree:
    """See `HistoryTree`. The tokens of all branches stand in one row, in the order in which they came; the cache holds the keys and
    values of that row, and a mask lets each token see its ancestors and itself. The context comes first, and is evaluated
    once however many latent states are asked for; `positions` counts it too."""

    def __init__(self, model: HuggingFaceModel) -> None:
        self.model, self.calls, self.positions = model, 0, 0
        self.norm = torch.empty(0)
        self._cache = _transformers().DynamicCache()  # without a configuration: no layer may forget
        self._parent: list[int] = []  # of each place in the row, its parent's place
        self._depth: list[int] = []
        self._place: list[int] = []  # of each node, its place in the row
        self._root = (
            torch.empty(0),
            torch.empty(0),
        )  # (1, vocabulary) what follows the context, (1,) its norm

    @torch.no_grad()
    def extend(self, parents: Tensor, tokens: Tensor) -> Tensor:
        """See `HistoryTree.extend`."""
        context, fresh = self.model.context, not self._parent
        first, ids = len(self._parent), list(context) if fresh else []
        if fresh:
            self._parent, self._depth = list(range(-1, len(context) - 1)), list(range(len(context)))
        begun = len(self._parent)
        for parent, token in zip(parents.tolist(), tokens.tolist(), strict=True):
            if parent == ROOT:
                self._place.append(len(context) - 1)
                continue
            above = self._place[parent]
            self._place.append(len(self._parent))
            self._parent.append(above)
            self._depth.append(self._depth[above] + 1)
            ids.append(token)
        keep = (
            len(self._parent) - begun + fresh
        )  # the context's last row and those of the new tokens
        rows, norm = (
            self._forward(ids, first, keep) if ids else (self._root[0][:0], self._root[1][:0])
        )
        again = not fresh and bool((parents == ROOT).any())
        if fresh:
            self._root = rows[:1].clone(), norm[:1]
        elif again:
            rows, norm = torch.cat([self._root[0], rows]), torch.cat([self._root[1], norm])
        places = torch.tensor(self._place[len(self._place) - len(parents) :], dtype=torch.int64)
        index = (places - begun + (fresh or again)).clamp(
            min=0
        )  # a latent state's place lies before all others
        self.norm = norm[index]
        return rows if torch.equal(index, torch.arange(len(rows))) else rows[index]

    def forget(self, nodes: int) -> None:
        """See `HistoryTree.forget`."""
        self._place = self._place[:nodes]
        keep = max(self._place, default=len(self.model.context) - 1) + 1 if self._parent else 0
        if over := len(self._parent) - keep:
            self._cache.crop(-over)
        del self._parent[keep:], self._depth[keep:]

    def _forward(self, ids: list[int], first: int, keep: int) -> tuple[Tensor, Tensor]:
        """Evaluate the places from `first` on in one pass; (keep, vocabulary) log-probabilities after the last of them, and
        their norms.
        """
        device = self.model.model.device
        positions, mask = (
            torch.tensor([self._depth[first:]], device=device),
            self._mask(first).to(device),
        )
        inputs: dict[str, Any] = {
            "position_ids": positions,
            "attention_mask": mask,
            "past_key_values": self._cache,
        }
        logits = self.model.logits(ids, keep, **inputs, use_cache=True)
        self.calls, self.positions = self.calls + 1, self.positions + len(ids)
        some = int(
            (~self.model.barred).int().argmax()
        )  # a token that is drawn: its logit tells the norm
        logit = logits[:, some].double().cpu().clone()  # what follows overwrites float64 logits
        rows = self.model.log_next(logits)
        return rows, logit - rows[:, some].cpu()

    def _mask(self, first: int) -> Tensor:
        """(1, 1, new places, places) added to attention: 0 for the place and its ancestors, else the least number."""
        total, context = len(self._parent), len(self.model.context)
        new = torch.arange(first, total)
        sees = (torch.arange(total) <= new[:, None]) & (
            torch.arange(total) < context
        )  # (new, places)
        parent, at = torch.tensor(self._parent), new.clone()
        while len(rows := (at >= context).nonzero()[:, 0]):
            sees[rows, at[rows]] = True
            at[rows] = parent[at[rows]]
        dtype = self.model.model.dtype
        return torch.zeros(1, 1, *sees.shape, dtype=dtype).masked_fill_(
            ~sees, torch.finfo(dtype).min
        )


def _transformers() -> Any:
    """The package, which is an extra."""
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise ConfigError(
            "models of Hugging Face need the package transformers: pip install 'maskdiff[transformers]'"
        ) from error


def _check_kind(model: Any, config: Any, longest: int) -> None:
    """Refuse attention that a mask of one's own would not reach, or that counts places in the row instead of positions."""
    if model.config.is_encoder_decoder or getattr(model, "_is_stateful", False):
        raise ConfigError(
            f"a model of type {quote(config.model_type)} is not a decoder of causal attention alone"
        )
    if config._attn_implementation not in ATTENTION:
        given = quote(str(config._attn_implementation))
        raise ConfigError(
            f"attention {given} takes no mask of one's own; load with attn_implementation {' or '.join(ATTENTION)}"
        )
    kinds = set(getattr(config, "layer_types", None) or [])
    kinds |= (
        {"sliding_attention"}
        if not kinds and getattr(config, "sliding_window", None) is not None
        else set()
    )
    kinds |= (
        {"chunked_attention"}
        if not kinds and getattr(config, "attention_chunk_size", None) is not None
        else set()
    )
    kinds |= {
        *getattr(config, "attention_layers", ())
    }  # of GPT-Neo, which counts places in the row
    if others := kinds - {"full_attention", "sliding_attention"}:
        raise ConfigError(
            f"layers of kind {quote(min(others))} cannot be evaluated as a tree of histories; give full attention"
        )
    if "sliding_attention" in kinds and config.sliding_window < longest:
        raise ConfigError(
            f"attention has a window of {config.sliding_window} tokens, and context and string may have {longest}: "
            "a tree of histories needs all of them in the window; lower max_tokens"
        )


def read_tokens(model: Any, tokenizer: Any) -> tuple[TokenTable, str]:
    """What the tokens of a model say, and which of them end its text; and the tokenizer.json that it was read from.

    Raises ConfigError for a tokenizer without one, or whose tables are not understood.
    """
    size = int(model.config.get_text_config(decoder=True).vocab_size)
    ends = tuple(
        dict.fromkeys(
            i
            for owner in _owners(model, tokenizer)
            for i in _ids(owner, "eos_token_id")
            if i < size
        )
    )
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if not hasattr(backend, "to_str"):
        raise ConfigError(
            "this tokenizer keeps no tables of the package tokenizers; give a fast one, with a tokenizer.json"
        )
    written: str = backend.to_str()
    return TokenTable(
        _texts(json.loads(written), size, {*ends, *tokenizer.all_special_ids}), ends
    ), written


def _owners(model: Any, tokenizer: Any) -> tuple[Any, ...]:
    """Whatever may name the ids that begin or end a text, in the order in which they are asked."""
    config = model.config.get_text_config(decoder=True)
    return getattr(model, "generation_config", None), model.config, config, tokenizer


def _ids(owner: Any, name: str) -> list[int]:
    """The ids that a configuration or tokenizer has under a name: none, one or several."""
    value = getattr(owner, name, None)
    return [] if value is None else [value] if isinstance(value, int) else list(value)


def _decoded(text: bytes) -> str | None:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return None


def _texts(tables: dict[str, Any], size: int, special: set[int]) -> tuple[bytes | None, ...]:
    """The text of each of `size` ids by the tables of a `tokenizer.json`; None for special and unknown ones."""
    model = tables["model"]
    if model["type"] not in ("BPE", "Unigram"):
        raise ConfigError(
            f"a tokenizer of type {quote(model['type'])} is not understood; those that are: BPE and Unigram"
        )
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise ConfigError(
            "a tokenizer with a continuing_subword_prefix or an end_of_word_suffix is not understood"
        )
    vocabulary = model["vocab"]
    ids = (
        vocabulary
        if isinstance(vocabulary, dict)
        else {piece: i for i, (piece, _) in enumerate(vocabulary)}
    )
    spell, spell_added = _spelling(tables)
    texts: dict[int, bytes | None] = {i: spell(piece) for piece, i in ids.items()}
    for added in tables["added_tokens"]:
        if added["special"]:
            texts[added["id"]] = None
        else:  # one that the vocabulary has too was learnt as what it stands for there
            texts.setdefault(added["id"], spell_added(added["content"]))
    for i in (*special, ids.get(model.get("unk_token")), model.get("unk_id")):
        if i is not None:
            texts[i] = None
    if over := [i for i, text in texts.items() if text is not None and i >= size]:
        raise ConfigError(
            f"the tokenizer has ids up to {max(over)}, the model only {size}: they do not belong together"
        )
    return tuple(texts.get(i) for i in range(size))


Spell = Callable[[str], bytes]


def _spelling(tables: dict[str, Any]) -> tuple[Spell, Spell]:
    """From a piece of the vocabulary to its bytes, and from an added token to its bytes, as the decoder has it."""
    steps = _flat(tables["decoder"]) or [
        step for step in _flat(tables["pre_tokenizer"]) if step["type"] == "ByteLevel"
    ]
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return _byte_level, str.encode
    replaced: list[tuple[str, str]] = []
    fallback = bool(tables["model"].get("byte_fallback"))
    for i, step in enumerate(steps):
        match step:
            case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)}:
                replaced.append((old, new))
            case {"type": "Metaspace", "replacement": str(old)}:
                replaced.append((old, " "))
            case {"type": "ByteFallback"}:
                fallback = True
            case {"type": "Fuse"}:
                pass
            case {"type": "Strip", "content": " ", "start": _, "stop": 0} if "Fuse" in kinds[:i]:
                pass  # takes away the space in front of a whole text, which is part of ours
            case _:
                raise ConfigError(
                    f"the decoder {quote(json.dumps(step), 120)} of this tokenizer is not understood"
                )
    if not steps:
        raise ConfigError(
            "a tokenizer without a decoder is not understood: nothing says what its pieces stand for"
        )

    def spell(piece: str) -> bytes:
        if fallback and re.fullmatch("<0x[0-9A-Fa-f]{2}>", piece):
            return bytes([int(piece[3:5], 16)])
        for old, new in replaced:
            piece = piece.replace(old, new)
        return piece.encode()

    return spell, spell


def _flat(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a decoder or pre-tokenizer, those of a sequence one after another."""
    if part is None:
        return []
    inner = part.get("decoders") or part.get("pretokenizers")
    return [part] if inner is None else [step for one in inner for step in _flat(one)]


_PRINTED = [
    *range(33, 127),
    *range(161, 173),
    *range(174, 256),
]  # bytes that GPT-2's table writes as themselves
_BYTES = {chr(byte): byte for byte in _PRINTED} | {
    chr(256 + i): byte for i, byte in enumerate(byte for byte in range(256) if byte not in _PRINTED)
}


def _byte_level(piece: str) -> bytes:
    """A piece in which each character stands for a byte; one with others is itself, as the decoder has it."""
    return (
        bytes(_BYTES[char] for char in piece)
        if all(char in _BYTES for char in piece)
        else piece.encode()
    )
