"""Draw small JSON documents that a program could have written.

An object takes distinct keys from the list of its topic, the first ones most often. A key
determines the kind of its value (`FIELDS`). An array has values of one kind. Containers are nested
to depth 4. Strings are words and names, and sometimes random identifiers, escapes or any printable
characters. A document is compact or, with probability `SPACED`, has a space behind each comma and
colon.

A draw that is too long is rejected, but its spacing is kept: otherwise spaced documents, which are
longer, would become rarer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np

from maskdiff.languages.uniform import uniform_stream

SHORTEST_LIMIT = 8  # characters; almost no document is shorter
SPACED = 0.15
DEPTH = 4  # of nested containers

WORDS = (
    "a", "b", "c", "x", "y", "ok", "on", "off", "yes", "no", "new", "old", "red", "blue", "green",
    "black", "low", "high", "left", "right", "open", "done", "file", "test", "main", "user",
    "admin", "guest", "item", "list", "tree", "leaf", "root", "node", "text", "data", "temp",
    "alpha", "beta", "gamma", "delta", "north", "south", "apple", "pear", "milk", "bread", "tea",
    "cat", "dog", "bird", "Rome", "Paris", "Oslo", "Lima", "en", "de", "fr", "GET", "POST",
)  # fmt: skip
NAMES = (
    "Ada", "Bob", "Eve", "Max", "Ann", "Tom", "Mia", "Leo", "Zoe", "Ian", "Kim", "Lea", "Jon",
    "Amy", "Grace", "Alan", "Linus", "Ken", "Dora", "Ivan",
)  # fmt: skip
ESCAPED = (
    r"a\nb", r"line\n", r"\n", r"\t", r"x\ty", r"\"ok\"", r"say \"hi\"", r"\"", r"C:\\", r"C:\\tmp",
    r"a\\b", r"\\", r"\/", r"1\/2", r"caf\u00e9", r"\u00e9", r"\u00fcber", r"na\u00efve",
    r"\u20ac5", r"\u2026", r"\u00B0C", r"\u03c0", r"\r\n", r"\f", r"\b", r"\u0000", r"\ud83d\ude00",
    r"d\u00e9j\u00e0",
)  # fmt: skip
PHRASES = (
    "not found", "hello world", "it works", "no such file", "so far, so good", "wait...",
    "why not?", "50% off", "A & B", "1 < 2", "me@home.org", "a.b@c.de", "/usr/bin", "/dev/null",
    "index.html", "http://a.io", "2024-05-01", "1999-12-31", "12:30", "09:05:00", "1.0.2", "v2.1",
    "#ff00aa", "#333", "x=1;y=2", "[1,2]", "{}", "f(x)", "don't", "$9.99", "a|b", "~", "*", "",
)  # fmt: skip
LETTERS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-"
PRINTABLE = tuple({'"': r"\"", "\\": r"\\"}.get(c, c) for c in map(chr, range(0x20, 0x7F)))

# For each topic its keys with the kinds of their values, the most frequent first.
FIELDS = {
    "document": """
        id:natural name:name ok:boolean tags:words pos:point user:user type:word
        value:anything items:entries x:number parent:reference data:anything text:phrase
        root:node size:natural error:problem list:integers count:natural status:word
        meta:meta price:price y:number score:fraction next:reference key:identifier
        date:phrase a:anything args:mixture path:phrase active:boolean matrix:matrix box:box
        eps:power code:natural msg:phrase children:entries tree:nest token:noise
        hash:identifier lang:word version:phrase b:anything flags:booleans n:integer
        from:name to:name mass:power config:meta""",
    "user": """
        id:natural name:name age:age friend:user role:word pos:point email:phrase
        admin:boolean city:word tags:words""",
    "entry": """
        id:natural x:number name:name qty:age v:number next:reference k:word sub:entries
        price:price ok:boolean t:age""",
    "node": """
        v:integer l:node r:node k:word next:node up:reference leaf:boolean""",
    "box": """
        x:number y:number w:age h:age lat:fraction lon:fraction z:number unit:word min:point
        max:point""",
    "meta": """
        page:age opts:meta total:natural lang:word debug:boolean level:age rate:power
        seed:natural mode:word keys:words""",
}
MEMBERS = (1, 1, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5)  # of the outermost object
INNER_MEMBERS = (0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 3)
ELEMENTS = (0, 1, 1, 2, 2, 2, 2, 3, 3, 3, 4, 5)

# Arrays: their kind, the kind of their elements, and the numbers of elements.
ARRAYS = (
    ("words", "word", ELEMENTS),
    ("integers", "integer", ELEMENTS),
    ("numbers", "number", ELEMENTS),
    ("booleans", "boolean", ELEMENTS),
    ("mixture", "anything", ELEMENTS),
    ("nest", "branch", ELEMENTS),
    ("entries", "entry", (0, 1, 1, 1, 2, 2, 2, 3)),
    ("point", "number", (2, 2, 3)),
)
KINDS = """
    integer integer word word name number boolean reference phrase identifier words integers point
    entry meta mixture node nest"""
OUTERMOST = "integers words entries mixture matrix nest numbers mixture"

Make = Callable[[int], str]
_T = TypeVar("_T")


def draw_documents(count: int, rng: np.random.Generator, longest: int) -> list[str]:
    """Return random documents. The first ones do not depend on `count`.

    Args:
        count: The number of documents.
        rng: The random number generator. Each decision uses one uniform number, in order.
        longest: The largest length in characters; longer draws are rejected.

    Raises:
        ValueError: `longest` is below `SHORTEST_LIMIT`.
    """
    if longest < SHORTEST_LIMIT:
        raise ValueError(
            f"longest {longest} leaves room for almost no document; give at least {SHORTEST_LIMIT}"
        )
    uniform = uniform_stream(rng, 32 * count)
    compact, spaced = _Writer(uniform, ",", ":"), _Writer(uniform, ", ", ": ")
    documents: list[str] = []
    while len(documents) < count:
        write = spaced.document if uniform() < SPACED else compact.document
        document = write()
        while len(document) > longest:
            document = write()
        documents.append(document)
    return documents


class _Writer:
    """Writes values. Its functions take the number of containers that may still be opened.

    A container for which there is no room becomes null or a number.
    """

    def __init__(self, uniform: Callable[[], float], comma: str, colon: str) -> None:
        self.uniform, self.comma = uniform, comma
        scalars = (
            self.boolean, self.age, self.natural, self.integer, self.price, self.fraction,
            self.number, self.power, self.word, self.name, self.phrase, self.identifier,
            self.noise, self.branch, self.anything, self.reference, self.problem, self.matrix,
        )  # fmt: skip
        make: dict[str, Make] = {maker.__name__: maker for maker in scalars}
        for topic in ("user", "entry", "meta", "box", "node"):
            make[topic] = partial(self.object, topic, INNER_MEMBERS)
        for name, element, counts in ARRAYS:
            make[name] = partial(self.array, make[element], counts)
        self.makers = make
        self.kinds = [make[name] for name in KINDS.split()]
        self.outermost = [make[name] for name in OUTERMOST.split()]
        self.fields: dict[str, list[tuple[str, Make]]] = {}
        for topic, fields in FIELDS.items():
            pairs = (field.split(":") for field in fields.split())
            self.fields[topic] = [(f'"{key}"{colon}', make[kind]) for key, kind in pairs]

    # Documents and containers

    def document(self) -> str:
        """An object in 4 of 5 cases, else an array, rarely a value alone."""
        u = self.uniform()
        if u < 0.8:
            return self.object("document", MEMBERS, DEPTH)
        return self.pick(self.outermost)(DEPTH) if u < 0.95 else self.anything(DEPTH)

    def object(self, topic: str, members: Sequence[int], room: int) -> str:
        """Distinct keys of a topic, in the order in which they are drawn."""
        if not room:
            return "null"
        uniform, fields = self.uniform, self.fields[topic]
        taken: dict[str, str] = {}
        wanted = self.pick(members)
        while len(taken) < wanted:
            u = uniform()
            key, make = fields[int(u * u * len(fields))]  # the square prefers the first ones
            if key not in taken:
                taken[key] = make(room - 1)
        return "{" + self.comma.join([key + value for key, value in taken.items()]) + "}"

    def array(self, make: Make, counts: Sequence[int], room: int) -> str:
        """Values of one kind."""
        if not room:
            return self.integer(0)
        return "[" + self.comma.join([make(room - 1) for _ in range(self.pick(counts))]) + "]"

    def matrix(self, room: int) -> str:
        rows = self.makers["point" if self.uniform() < 0.5 else "integers"]
        return self.array(rows, (1, 2, 2, 3), room)

    def branch(self, room: int) -> str:
        return self.integer(room) if self.uniform() < 0.4 else self.makers["nest"](room)

    def anything(self, room: int) -> str:
        return self.pick(self.kinds)(room)

    def reference(self, room: int) -> str:
        """The value of a key such as "next": null, a number, or an object."""
        u = self.uniform()
        if u < 0.6:
            return "null"
        return self.makers["entry"](room) if u > 0.9 else self.integer(room)

    def problem(self, room: int) -> str:
        return "null" if self.uniform() < 0.5 else self.phrase(room)

    # Scalars

    def boolean(self, room: int) -> str:
        return "true" if self.uniform() < 0.5 else "false"

    def age(self, room: int) -> str:
        return str(int(self.uniform() * 100))

    def natural(self, room: int) -> str:
        """One to four digits, seldom more."""
        u = self.uniform()
        size = (10, 10, 100, 100, 100, 1000, 1000, 10_000, 10_000, 10_000_000)[int(u * 10)]
        return str(int(self.uniform() * size))

    def integer(self, room: int) -> str:
        """One in five is negative, and none is -0."""
        value = self.natural(room)
        return f"-{value}" if self.uniform() < 0.2 and value != "0" else value

    def price(self, room: int) -> str:
        """Such as 9.99: two decimals."""
        cents = int(10.0 ** (5 * self.uniform()))
        return f"{cents // 100}.{cents % 100:02d}"

    def fraction(self, room: int) -> str:
        """One to four decimals, of either sign."""
        value = (self.uniform() - 0.3) * self.pick((1, 1, 10, 100, 180))
        return f"{value:.{self.pick((1, 2, 2, 3, 4))}f}"

    def number(self, room: int) -> str:
        u = self.uniform()
        if u < 0.5:
            return self.integer(room)
        return self.fraction(room) if u < 0.9 else self.power(room)

    def power(self, room: int) -> str:
        """With an exponent: 1e-3, 6.02e23, -2.5E+10."""
        mantissa = 1 + 9 * self.uniform()
        short = self.uniform() >= 0.5
        digits = str(int(mantissa)) if short else f"{mantissa:.{self.pick((1, 1, 2))}f}"
        letter = self.pick(("e", "e", "e", "e-", "e-", "e-", "e+", "E", "E+", "E-"))
        exponent = int(self.uniform() * self.pick((10, 10, 40)))
        sign = "-" if self.uniform() < 0.2 else ""
        width = 2 if self.uniform() < 0.2 else 1
        return f"{sign}{digits}{letter}{exponent:0{width}d}"

    def word(self, room: int) -> str:
        """Mostly from the list; one in nine an identifier."""
        u = self.uniform() * 1.125
        return f'"{WORDS[int(u * len(WORDS))]}"' if u < 1 else self.identifier(room)

    def name(self, room: int) -> str:
        u = self.uniform() * 1.125
        return f'"{NAMES[int(u * len(NAMES))]}"' if u < 1 else self.identifier(room)

    def phrase(self, room: int) -> str:
        """A phrase, one with an escape, a word, or any printable characters."""
        u = self.uniform()
        if u < 0.4:
            return f'"{self.pick(PHRASES)}"'
        if u < 0.7:
            return f'"{self.pick(ESCAPED)}"'
        return self.word(room) if u < 0.8 else self.noise(room)

    def identifier(self, room: int) -> str:
        """Two to eight letters, digits, _ and -."""
        size, number = 2 + int(self.uniform() * 7), int(self.uniform() * 2**48)
        return '"' + "".join([LETTERS[number >> 6 * i & 63] for i in range(size)]) + '"'

    def noise(self, room: int) -> str:
        """Three to seven printable characters."""
        size, number = 3 + int(self.uniform() * 5), int(self.uniform() * 95**7)
        return '"' + "".join([PRINTABLE[number // 95**i % 95] for i in range(size)]) + '"'

    def pick(self, choices: Sequence[_T]) -> _T:
        return choices[int(self.uniform() * len(choices))]
