"""Vocabularies: symbols, their token ids, encoding and decoding."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from maskdiff.errors import ParseError, clusters, quote
from maskdiff.languages.byte_pairs import Cutter, Merge
from maskdiff.utils import arguments
from maskdiff.utils.arguments import checked_arguments

PAD, MASK, BOS, EOS, DIGIT = "<PAD>", "<MASK>", "<BOS>", "<EOS>", "<DIGIT>"
SPECIALS = (PAD, MASK, BOS, EOS)
BLANKS = "?\u00bf\u25a1\u2370"  # MASK in text: the first of these that is no symbol
ANY_DIGIT = "#"  # DIGIT in text
DIGITS = "0123456789"
PRINTABLE_ASCII = "".join(map(chr, range(0x20, 0x7F)))
# Brackets around the names of special tokens: the first pair that is no symbol.
_BRACKETS = ("<>", "\u27e8\u27e9", "\u27ea\u27eb")


def squeeze(text: str) -> str:
    """Return `text` without white space."""
    return "".join(text.split())


@dataclass(frozen=True)
class Vocabulary:
    """The symbols of a language. A token id is an index into `symbols`.

    White space in a text is skipped, unless a symbol is white space.

    Attributes:
        symbols: The four special tokens, the characters, the pieces of `merges` in their order, and
            `<DIGIT>` if the language has skeletons.
        merges: Byte-pair merges, each of two earlier symbols.

    Raises:
        ValueError: The symbols break these rules.
    """

    symbols: tuple[str, ...]
    merges: tuple[Merge, ...] = ()

    def __post_init__(self) -> None:
        inner = self.inner_symbols
        if self.merges:
            inner = self._without_pieces(inner)
        if self.symbols[: len(SPECIALS)] != SPECIALS or len(set(self.symbols)) != len(self.symbols):
            raise ValueError(
                f"a vocabulary starts with {' '.join(SPECIALS)} and repeats nothing: {self.symbols}"
            )
        if any(len(s) != 1 or s in "\r\n\0" for s in inner):
            raise ValueError(f"symbols are single characters of a line, without NUL: {inner}")
        if DIGIT in self.symbols[:-1] or (DIGIT in self.symbols and ANY_DIGIT in inner):
            raise ValueError(f"{DIGIT} comes last, and has {ANY_DIGIT} to itself")
        if set(BLANKS) <= set(inner):
            raise ValueError(
                "no character is left to write a blank with; "
                f"the language has all of {' '.join(BLANKS)}"
            )

    @classmethod
    def of(cls, inner: str, digit: bool = True) -> Vocabulary:
        """Return the vocabulary of the characters `inner`, with or without `<DIGIT>`."""
        return cls((*SPECIALS, *inner, *((DIGIT,) if digit else ())))

    def with_merges(self, merges: Iterable[Merge]) -> Vocabulary:
        """Return the vocabulary with the pieces of `merges` and without `<DIGIT>`."""
        merges = tuple(merges)
        characters = [symbol for symbol in self.symbols if symbol != DIGIT]
        return Vocabulary(tuple(dict.fromkeys((*characters, *(a + b for a, b in merges)))), merges)

    def _without_pieces(self, inner: tuple[str, ...]) -> tuple[str, ...]:
        """The characters of `inner`. Raises `ValueError` unless the pieces of the merges follow."""
        characters = tuple(s for s in inner if len(s) == 1)
        made = dict.fromkeys(characters)
        for a, b in self.merges:
            if a not in made or b not in made:
                raise ValueError(f"the merge of {a!r} and {b!r} comes before one of its parts")
            made[a + b] = None
        if tuple(made) != inner or DIGIT in self.symbols:
            raise ValueError(
                "the pieces of several characters are not those that the merges make, "
                "in their order"
            )
        return characters

    def __len__(self) -> int:
        return len(self.symbols)

    @property
    def inner_symbols(self) -> tuple[str, ...]:
        """The characters and pieces."""
        return tuple(symbol for symbol in self.symbols[len(SPECIALS) :] if symbol != DIGIT)

    @cached_property
    def ids(self) -> dict[str, int]:
        """The token id of each symbol."""
        return {symbol: i for i, symbol in enumerate(self.symbols)}

    @cached_property
    def blank(self) -> str:
        """The character for MASK in text: `?`, or another one if `?` is a symbol."""
        return next(sign for sign in BLANKS if sign not in self.symbols)

    @cached_property
    def has_space(self) -> bool:
        """Whether a symbol is white space."""
        return any(s.isspace() for s in self.symbols)

    def characters(self, text: str) -> str:
        """Return `text`, without white space unless a symbol is white space."""
        return text if self.has_space else squeeze(text)

    def readable(self, text: str) -> tuple[str, dict[int, str]]:
        """Return `text` with blanks for foreign characters, and these characters by position."""
        given = self.characters(text)
        known = {symbol for symbol in self.ids if len(symbol) == 1} | {self.blank}
        foreign = {i: symbol for i, symbol in enumerate(given) if symbol not in known}
        return "".join(self.blank if i in foreign else s for i, s in enumerate(given)), foreign

    @property
    def pad(self) -> int:
        return 0

    @property
    def mask(self) -> int:
        return 1

    @property
    def bos(self) -> int:
        return 2

    @property
    def eos(self) -> int:
        return 3

    @cached_property
    def digit(self) -> int | None:
        """The id of `<DIGIT>`, which stands for any digit in a skeleton; None if there is none."""
        return self.ids.get(DIGIT)

    @property
    def specials(self) -> tuple[int, ...]:
        """The ids of PAD, MASK, BOS and EOS."""
        return (self.pad, self.mask, self.bos, self.eos)

    @cached_property
    def digit_ids(self) -> tuple[int, ...]:
        """The ids of the digits that are symbols."""
        return tuple(self.ids[s] for s in DIGITS if s in self.ids)

    @cached_property
    def inner_ids(self) -> tuple[int, ...]:
        """The ids of `inner_symbols`."""
        return tuple(i for i in range(len(SPECIALS), len(self)) if i != self.digit)

    @cached_property
    def utf8(self) -> tuple[bytes | None, ...]:
        """The text of each token in UTF-8; None for special tokens and `<DIGIT>`."""
        inner = set(self.inner_ids)
        return tuple(
            symbol.encode() if i in inner else None for i, symbol in enumerate(self.symbols)
        )

    def encode(self, text: str, blanks: bool = False, skeleton: bool = False) -> list[int]:
        """Return the ids of `text` without BOS and EOS.

        Args:
            text: The text; with merges it is cut into pieces.
            blanks: Whether the character `blank` becomes MASK.
            skeleton: Whether `#` becomes `<DIGIT>`.

        Raises:
            ParseError: A character is no symbol; the error has its position.
        """
        characters = self._encode_characters(text, blanks, skeleton)
        return characters if not self.merges else self._merged(characters)

    @checked_arguments(texts=arguments.texts)
    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Return `encode` of each text. Raises `ParseError`."""
        if not self.merges:
            return [self.encode(text) for text in texts]
        for text in texts:
            self._encode_characters(text)  # for its error: a cutter drops foreign characters
        return self._cutter([self.characters(text) for text in texts])

    @cached_property
    def _cutter(self) -> Cutter:
        return Cutter({self.symbols[i]: i for i in self.inner_ids}, self.merges)

    def _merged(self, characters: list[int]) -> list[int]:
        """The ids of the pieces of a text, given the ids of its characters."""
        runs: list[list[int]] = [[]]
        for token in characters:
            runs[-1].append(token) if token != self.mask else runs.append([])
        pieces = self._cutter(["".join(self.symbols[i] for i in run) for run in runs])
        return [
            token
            for i, piece in enumerate(pieces)
            for token in (*([self.mask] if i else ()), *piece)
        ]

    def _encode_characters(
        self, text: str, blanks: bool = False, skeleton: bool = False
    ) -> list[int]:
        table = {s: i for s, i in self.ids.items() if len(s) == 1}
        if blanks:
            table[self.blank] = self.mask
        if skeleton and self.digit is not None:
            table[ANY_DIGIT] = self.digit
        symbols = self.characters(text)
        try:
            return [table[s] for s in symbols]
        except KeyError:
            position = next(i for i, s in enumerate(symbols) if s not in table)
            whole = clusters(symbols[position : position + 64])[0]  # an emoji of several characters
            raise ParseError(
                f"unknown symbol {quote(whole)} at position {position}; "
                f"the symbols are {' '.join(s if s.isprintable() else ascii(s) for s in table)}",
                position,
                text,
            ) from None

    def decode(self, ids: Iterable[int], specials: Literal["show", "drop"] = "show") -> str:
        """Return the text of `ids`: MASK as `blank`, `<DIGIT>` as `#`, other specials by name.

        Args:
            ids: Token ids.
            specials: `drop` removes one leading BOS, trailing PADs and one EOS before them. A
                special token inside the string stays, so that the text does not parse.

        Raises:
            IndexError: An id is out of range.
        """
        row: Sequence[int] = [int(i) for i in ids]
        if specials == "drop":
            first, last = 0, len(row)
            while last > 0 and row[last - 1] == self.pad:
                last -= 1
            if last > 0 and row[last - 1] == self.eos:
                last -= 1
            if first < last and row[0] == self.bos:
                first = 1
            row = row[first:last]
        shown = self.shown
        return "".join([shown[i] for i in row])

    @cached_property
    def shown(self) -> tuple[str, ...]:
        """The text of each token; names of special tokens have a character that is no symbol."""
        pair = next((pair for pair in _BRACKETS if pair[0] not in self.symbols), _BRACKETS[-1])
        names = {name: f"{pair[0]}{name[1:-1]}{pair[1]}" for name in SPECIALS}
        return tuple({**names, MASK: self.blank, DIGIT: ANY_DIGIT}.get(s, s) for s in self.symbols)

    def is_open(self, text: str) -> bool:
        """Return whether a decoded text has blanks or digits of a skeleton that are not filled."""
        return self.blank in text or (self.digit is not None and ANY_DIGIT in text)

    def fingerprint(self) -> str:
        """Return 16 hex digits that depend on the symbols, the merges and their order."""
        known = (self.symbols, self.merges) if self.merges else self.symbols
        return hashlib.blake2b(json.dumps(known).encode(), digest_size=8).hexdigest()
