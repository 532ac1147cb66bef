"""The alphabet of a language: symbols, their token ids, and the two directions between text and ids.

For: encoding and decoding, the ids of the special tokens, and the fingerprint that a checkpoint carries. Not for: deciding
whether a text is in the language (that is `Language.parse`), or learning merges (`byte_pairs.py`). Easy to get wrong: dropping
every special token while decoding would turn a broken sample into a valid-looking string, so `decode(ids, "drop")` removes only
the frame (a leading BOS, the padding and the EOS before it) and shows a special token that stands *inside* the string.
"""

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
BLANKS = "?\u00bf\u25a1\u2370"  # how a MASK is written in text: the first of these that is no symbol of the language
ANY_DIGIT = "#"  # how a DIGIT is written in text
DIGITS = "0123456789"
_QUOTES = (
    "<>",
    "\u27e8\u27e9",
    "\u27ea\u27eb",
)  # around the names of special tokens: the first pair that is no symbol


def squeeze(text: str) -> str:
    """`text` without its white space: the form in which symbols are counted."""
    return "".join(text.split())


@dataclass(frozen=True)
class Vocabulary:
    """Token ids are indices into `symbols`; the four special tokens come first, `<DIGIT>` (if there is one) last.

    Every other symbol is one character or, after those, a piece that `merges` make of two earlier ones. White space counts if
    some symbol is white space, and is skipped everywhere else. Raises ValueError on a tuple that breaks these rules.
    """

    symbols: tuple[str, ...]
    merges: tuple[Merge, ...] = ()

    def __post_init__(self) -> None:
        inner = [s for s in self.symbols[len(SPECIALS) :] if s != DIGIT]
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
                f"no character is left to write a blank with; the language has all of {' '.join(BLANKS)}"
            )

    @classmethod
    def of(cls, inner: str, digit: bool = True) -> Vocabulary:
        """The vocabulary of the special tokens, the characters of `inner`, and `<DIGIT>` if asked for."""
        return cls((*SPECIALS, *inner, *((DIGIT,) if digit else ())))

    def with_merges(self, merges: Iterable[Merge]) -> Vocabulary:
        """The vocabulary of the same characters and of the pieces that `merges` make of them; it has no `<DIGIT>`."""
        merges = tuple(merges)
        characters = [symbol for symbol in self.symbols if symbol != DIGIT]
        return Vocabulary(tuple(dict.fromkeys((*characters, *(a + b for a, b in merges)))), merges)

    def _without_pieces(self, inner: list[str]) -> list[str]:
        """The single characters of `inner`, after seeing that just the pieces of the merges follow them, in their order."""
        characters = [s for s in inner if len(s) == 1]
        made = dict.fromkeys(characters)
        for a, b in self.merges:
            if a not in made or b not in made:
                raise ValueError(f"the merge of {a!r} and {b!r} comes before one of its parts")
            made[a + b] = None
        if list(made) != inner or DIGIT in self.symbols:
            raise ValueError(
                "the pieces of several characters are not those that the merges make, in their order"
            )
        return characters

    def __len__(self) -> int:
        return len(self.symbols)

    @cached_property
    def ids(self) -> dict[str, int]:
        """Token id of each symbol."""
        return {symbol: i for i, symbol in enumerate(self.symbols)}

    @cached_property
    def blank(self) -> str:
        """How a MASK is written in text: `?`, or another sign where that is a symbol of the language."""
        return next(sign for sign in BLANKS if sign not in self.symbols)

    @cached_property
    def has_space(self) -> bool:
        """Whether white space counts: some symbol is white space."""
        return any(s.isspace() for s in self.symbols)

    def characters(self, text: str) -> str:
        """The characters of `text` that stand for symbols: all of them, or those that are not white space."""
        return text if self.has_space else squeeze(text)

    def readable(self, text: str) -> tuple[str, dict[int, str]]:
        """The characters of `text`, a blank for each that is no symbol, and those by position."""
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
        """Id of `<DIGIT>`, the symbol that stands for any digit in a skeleton; None if the language has none."""
        return self.ids.get(DIGIT)

    @property
    def specials(self) -> tuple[int, ...]:
        """Ids of PAD, MASK, BOS and EOS."""
        return (self.pad, self.mask, self.bos, self.eos)

    @cached_property
    def digit_ids(self) -> tuple[int, ...]:
        """Ids of the symbols 0 to 9 that the vocabulary has."""
        return tuple(self.ids[s] for s in DIGITS if s in self.ids)

    @cached_property
    def inner_ids(self) -> tuple[int, ...]:
        """Ids that may stand inside a string: all but the special tokens and `<DIGIT>`."""
        return tuple(i for i in range(len(SPECIALS), len(self)) if i != self.digit)

    @cached_property
    def utf8(self) -> tuple[bytes | None, ...]:
        """The text of each token in UTF-8; None for those that never stand inside a string."""
        inner = set(self.inner_ids)
        return tuple(
            symbol.encode() if i in inner else None for i, symbol in enumerate(self.symbols)
        )

    def encode(self, text: str, blanks: bool = False, skeleton: bool = False) -> list[int]:
        """Ids of the inner symbols of `text`; white space that does not count is skipped, BOS and EOS are not added.

        With `blanks`, the sign for a blank becomes MASK; with `skeleton`, `#` becomes `<DIGIT>`. Raises ParseError (with the
        symbol's position) on a symbol that the vocabulary lacks. With merges a text is cut into pieces, a blank being one.
        """
        characters = self._encode_characters(text, blanks, skeleton)
        return characters if not self.merges else self._merged(characters)

    @checked_arguments(texts=arguments.texts)
    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, at once where that is faster."""
        if not self.merges:
            return [self.encode(text) for text in texts]
        for text in texts:
            self._encode_characters(
                text
            )  # for its error: a cutter leaves out what it does not know
        return self._cutter([self.characters(text) for text in texts])

    @cached_property
    def _cutter(self) -> Cutter:
        return Cutter({self.symbols[i]: i for i in self.inner_ids}, self.merges)

    def _merged(self, characters: list[int]) -> list[int]:
        """Ids of the pieces that the text of `characters` is cut into."""
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
        """Text of `ids`: MASK as the sign for a blank, `<DIGIT>` as `#`, other special tokens by name.

        `"drop"` removes the frame (one leading BOS, trailing PADs, one EOS before them) and nothing else, so that a special
        token inside the string stays visible and keeps the text from parsing. Raises IndexError on an id out of range.
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
        """How each token is written in text; the name of a special token holds a character that is no symbol."""
        pair = next((pair for pair in _QUOTES if pair[0] not in self.symbols), _QUOTES[-1])
        names = {name: f"{pair[0]}{name[1:-1]}{pair[1]}" for name in SPECIALS}
        return tuple({**names, MASK: self.blank, DIGIT: ANY_DIGIT}.get(s, s) for s in self.symbols)

    def is_open(self, text: str) -> bool:
        """Whether a decoded text holds blanks, or digits of a skeleton, that are still to be filled."""
        return self.blank in text or (self.digit is not None and ANY_DIGIT in text)

    def fingerprint(self) -> str:
        """16 hex digits that change when the symbols, the merges or their order change."""
        known = (self.symbols, self.merges) if self.merges else self.symbols
        return hashlib.blake2b(json.dumps(known).encode(), digest_size=8).hexdigest()
