"""The regular expression of NAME in `grammar.lark`: identifiers of ASCII that are no keyword of Python.

For: `name_pattern()`; print it with `python -m maskdiff.languages.python_expressions.names` and paste it when the keywords
change. Not for: soft keywords (`match`, `case`, `type`, `_`), which are names wherever an expression stands.
Easy to get wrong: "but not a keyword" is spelt out letter by letter, not as `(?!if\\b)`, which would see what follows the name:
whoever leaves the spelling of every keyword, goes past its end or stops before it has written a name.
"""

from __future__ import annotations

import string

# As in `keyword.kwlist` of Python 3.10 to 3.14; written out, because the grammar is the same under every interpreter.
KEYWORDS = (
    "False", "None", "True", "and", "as", "assert", "async", "await", "break", "class", "continue", "def", "del",
    "elif", "else", "except", "finally", "for", "from", "global", "if", "import", "in", "is", "lambda", "nonlocal",
    "not", "or", "pass", "raise", "return", "try", "while", "with", "yield",
)  # fmt: skip
FIRST = string.ascii_uppercase + "_" + string.ascii_lowercase
REST = string.digits + FIRST


def name_pattern() -> str:
    """A regular expression that matches exactly the names; it holds no lookaround."""
    return _ending(frozenset(KEYWORDS), FIRST)


def _ending(endings: frozenset[str], letters: str) -> str:
    """What may follow a beginning that these `endings` would make a keyword, when the next character is one of `letters`."""
    after: dict[str, set[str]] = {}
    for ending in endings - {""}:
        after.setdefault(ending[0], set()).add(ending[1:])
    ways = [letter + _ending(frozenset(after[letter]), REST) for letter in sorted(after)]
    ways.append(
        _class([letter for letter in letters if letter not in after]) + _class(list(REST)) + "*"
    )
    either = f"({'|'.join(ways)})" if len(ways) > 1 else ways[0]
    if "" in endings or letters == FIRST:  # stopping here would be a keyword, or nothing at all
        return either
    return f"{either}?" if len(ways) > 1 else f"({either})?"


def _class(letters: list[str]) -> str:
    """`letters`, in the order of their codes, as a character class with ranges."""
    parts, start = "", 0
    for i in range(1, len(letters) + 1):
        if i == len(letters) or ord(letters[i]) != ord(letters[i - 1]) + 1:
            first, last = letters[start], letters[i - 1]
            parts += (
                first
                if first == last
                else f"{first}{last}"
                if i - start == 2
                else f"{first}-{last}"
            )
            start = i
    return f"[{parts}]"


if __name__ == "__main__":
    print(f"NAME: /{name_pattern()}/")
