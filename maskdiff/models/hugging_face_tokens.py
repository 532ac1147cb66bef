"""Tokenizers of transformers: the bytes of every token, how a text is cut, and the ids of a prompt.

The text of a token is read from the tokenizer's tables. `decode([i])` would replace a part of a
character and drop leading spaces.

A SentencePiece tokenizer may write a space before every text and remove it when it decodes. Here
a text is what its tokens stand for, so it includes that space.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from maskdiff.errors import ConfigError, folded, quote
from maskdiff.models.token_table import TokenTable

# An answer that shows whether a chat template changes answers or the white space around them.
PROBE = "\tSo <1> + 2\n"

Spell = Callable[[str], bytes]


class HuggingFaceTokenizer:
    """The tokenizer of a causal language model.

    Attributes:
        table: the bytes of each id, and the ids that end a text.
        begins: ids that begin a text, the preferred one first; one that ends it where none does.
        special_names: names of the special tokens, for searching in texts.

    Raises:
        ConfigError: the tokenizer has no tokenizer.json, or its tables are not supported.
    """

    def __init__(self, tokenizer: Any, module: Any) -> None:
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        if not hasattr(backend, "to_str"):
            raise ConfigError(
                "this tokenizer keeps no tables of the package tokenizers; "
                "give a fast one, with a tokenizer.json"
            )
        config = module.config.get_text_config(decoder=True)
        owners = (getattr(module, "generation_config", None), module.config, config, tokenizer)
        size, written = int(config.vocab_size), backend.to_str()
        ends = [i for i in _ids(owners, "eos_token_id") if i < size]
        texts = _texts(json.loads(written), size, {*ends, *tokenizer.all_special_ids})
        self.tokenizer, self.table = tokenizer, TokenTable(texts, tuple(ends))
        self.begins = (
            _ids((tokenizer, *owners), "bos_token_id") or _ids((tokenizer,), "eos_token_id") or ends
        )
        special = [i for i, text in enumerate(texts) if text is None]
        names = tokenizer.convert_ids_to_tokens(special)
        self.special_names = tuple(name for name in names if name and len(name) > 1)
        # A copy cuts the texts, because its settings differ from those of the caller's tokenizer.
        self._cutter = type(backend).from_str(written)
        self._cutter.encode_special_tokens = True  # the name of a special token is a text
        self._cutter.no_truncation()
        self._cutter.no_padding()

    def encode(self, texts: Sequence[bytes]) -> list[list[int] | None]:
        """Return how the tokenizer cuts each text, without special tokens.

        None for bytes that are not UTF-8, and where the tokens stand for another text: one that
        was normalised, or one that lacks the space that the tokenizer writes before it.
        """
        strings = [_decoded(text) for text in texts]
        cuts: list[list[int] | None] = [None] * len(texts)
        for skip in (0, 1):  # the first space of a text may be the one that the tokenizer writes
            rows = [
                (i, string[skip:])
                for i, string in enumerate(strings)
                if cuts[i] is None and string is not None and string.startswith(" " * skip)
            ]
            encodings = self._cutter.encode_batch_fast(
                [string for _, string in rows], add_special_tokens=False
            )
            for (i, _), encoding in zip(rows, encodings, strict=True):
                if self.table.text(encoding.ids) == texts[i]:
                    cuts[i] = list(encoding.ids)
        return cuts


class PromptTemplate:
    """Turns a user's message into the ids before an answer.

    A chat template closes the turn of an assistant. A partial answer that is rendered with the
    prompt for a new turn is a finished answer, and the model starts another one. So the template
    renders the prompt alone, and the ids of the answer follow it unchanged.

    Args:
        tokenizer: a tokenizer of transformers.
        name: the model's name, for error messages.
        chat: whether to use the chat template, if there is one. Otherwise the prompt is plain text.
        settings: variables of the template besides the messages.

    Attributes:
        chat: whether a chat template is used.
        agrees: whether the template renders a partial answer as the prompt for an answer followed
            by the unchanged text. Otherwise (it strips the answer, or writes the marks of a
            thought before it) the prompt is everything that it writes before a partial answer.

    Raises:
        ConfigError: the template fails, or does not show where an answer begins.
    """

    def __init__(
        self,
        tokenizer: Any,
        name: str,
        chat: bool = True,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._tokenizer, self._name, self._settings = tokenizer, name, dict(settings or {})
        self.chat = chat and bool(tokenizer.chat_template)
        self.agrees = True
        if self.chat:
            self.agrees = self._partial("X") == self._text("X") + PROBE
            self._text(
                "X"
            )  # raises where a template that disagrees hides the beginning of an answer

    def ids(self, prompt: str) -> tuple[int, ...]:
        """Return the ids before an answer to `prompt`."""
        if not self.chat:
            return tuple(self._tokenizer(prompt).input_ids)
        text = self._text(prompt)
        return tuple(self._tokenizer(text, add_special_tokens=False).input_ids)

    def _text(self, prompt: str) -> str:
        """The text that the template writes before an answer."""
        if self.agrees:
            return self._render([{"role": "user", "content": prompt}], add_generation_prompt=True)
        text = self._partial(prompt)
        for answer in (PROBE, PROBE.lstrip(), PROBE.rstrip(), PROBE.strip()):
            if text.endswith(answer):
                return text.removesuffix(answer)
        raise ConfigError(
            f"the chat template of {quote(self._name)} hides where an answer begins; "
            "set chat to false"
        )

    def _partial(self, prompt: str) -> str:
        """The text up to the end of the partial answer `PROBE`, whose turn stays open."""
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": PROBE}]
        return self._render(messages, continue_final_message=True, add_generation_prompt=False)

    def _render(self, messages: list[dict[str, str]], **settings: bool) -> str:
        try:
            rendered = self._tokenizer.apply_chat_template(
                messages, tokenize=False, **settings, **self._settings
            )
        except Exception as error:  # of many kinds: the template is a program
            raise ConfigError(
                f"the chat template of {quote(self._name)} cannot be rendered: {folded(error)}"
            ) from error
        return str(rendered)


def _ids(owners: Sequence[Any], name: str) -> list[int]:
    """The ids that configurations and tokenizers have under a name (one or several each)."""
    values = [getattr(owner, name, None) for owner in owners]
    lists = [[value] if isinstance(value, int) else list(value or ()) for value in values]
    return list(dict.fromkeys(i for ids in lists for i in ids))


def _decoded(text: bytes) -> str | None:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return None


def _texts(tables: dict[str, Any], size: int, special: set[int]) -> tuple[bytes | None, ...]:
    """The text of each of `size` ids by the tables of a tokenizer.json; None for special ones."""
    model = tables["model"]
    if model["type"] not in ("BPE", "Unigram"):
        raise ConfigError(
            f"a tokenizer of type {quote(model['type'])} is not supported; give BPE or Unigram"
        )
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise ConfigError(
            "a tokenizer with a continuing_subword_prefix or an end_of_word_suffix is not supported"
        )
    vocab = model["vocab"]
    ids = vocab if isinstance(vocab, dict) else {piece: i for i, (piece, _) in enumerate(vocab)}
    spell, spell_added = _spelling(tables)
    texts: dict[int, bytes | None] = {i: spell(piece) for piece, i in ids.items()}
    for added in tables["added_tokens"]:
        if added["special"]:
            texts[added["id"]] = None
        else:  # a piece of the vocabulary keeps the text that it was trained with
            texts.setdefault(added["id"], spell_added(added["content"]))
    for i in (*special, ids.get(model.get("unk_token")), model.get("unk_id")):
        if i is not None:
            texts[i] = None
    if over := [i for i, text in texts.items() if text is not None and i >= size]:
        raise ConfigError(
            f"the tokenizer has ids up to {max(over)}, the model only {size}: "
            "they do not belong together"
        )
    return tuple(texts.get(i) for i in range(size))


def _spelling(tables: dict[str, Any]) -> tuple[Spell, Spell]:
    """Functions from a piece of the vocabulary, and from an added token, to its bytes."""
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
                pass  # removes the space before a whole text, which belongs to our text
            case _:
                shown = quote(json.dumps(step), 120)
                raise ConfigError(f"the decoder {shown} of this tokenizer is not supported")
    if not steps:
        raise ConfigError("a tokenizer without a decoder is not supported: its pieces have no text")

    def spell(piece: str) -> bytes:
        if fallback and re.fullmatch("<0x[0-9A-Fa-f]{2}>", piece):
            return bytes([int(piece[3:5], 16)])
        for old, new in replaced:
            piece = piece.replace(old, new)
        return piece.encode()

    return spell, spell


def _flat(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a decoder or pre-tokenizer, with those of sequences in their place."""
    if part is None:
        return []
    inner = part.get("decoders") or part.get("pretokenizers")
    return [part] if inner is None else [step for one in inner for step in _flat(one)]


# GPT-2's table: printable bytes stand for themselves, the others for characters from 256 on.
_PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTED]
_BYTES = {chr(byte): byte for byte in _PRINTED} | {
    chr(256 + i): byte for i, byte in enumerate(_OTHERS)
}


def _byte_level(piece: str) -> bytes:
    """The bytes of a piece whose characters stand for bytes; any other piece is its own text."""
    known = all(char in _BYTES for char in piece)
    return bytes(_BYTES[char] for char in piece) if known else piece.encode()
