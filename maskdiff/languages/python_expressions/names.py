"""The regular expression of NAME in `grammar.lark`: ASCII identifiers that are no keyword.

When the keywords change, run `python -m maskdiff.languages.python_expressions.names` and paste the
output. Soft keywords (`match`, `case`, `type`, `_`) are names. Keywords are excluded letter by
letter and not by `(?!if\\b)`, which depends on the text behind the name: a name leaves the spelling
of each keyword, is longer, or is shorter.
"""

from __future__ import annotations

import string

# `keyword.kwlist` of Python 3.10 to 3.14: the grammar is the same under every interpreter.
KEYWORDS = (
    "False", "None", "True", "and", "as", "assert", "async", "await", "break", "class", "continue",
    "def", "del", "elif", "else", "except", "finally", "for", "from", "global", "if", "import",
    "in", "is", "lambda", "nonlocal", "not", "or", "pass", "raise", "return", "try", "while",
    "with", "yield",
)  # fmt: skip
FIRST = string.ascii_uppercase + "_" + string.ascii_lowercase
REST = string.digits + FIRST


def name_pattern() -> str:
    """Return a regular expression without look-arounds that matches exactly the names."""
    return _ending(frozenset(KEYWORDS), FIRST)


def _ending(endings: frozenset[str], letters: str) -> str:
    """The rest of a name whose start becomes a keyword with each of `endings`.

    The next character is one of `letters`.
    """
    after: dict[str, set[str]] = {}
    for ending in endings - {""}:
        after.setdefault(ending[0], set()).add(ending[1:])
    ways = [letter + _ending(frozenset(after[letter]), REST) for letter in sorted(after)]
    ways.append(
        _class([letter for letter in letters if letter not in after]) + _class(list(REST)) + "*"
    )
    either = f"({'|'.join(ways)})" if len(ways) > 1 else ways[0]
    if "" in endings or letters == FIRST:  # the name cannot end here: a keyword, or empty
        return either
    return f"{either}?" if len(ways) > 1 else f"({either})?"


def _class(letters: list[str]) -> str:
    """A character class with ranges for `letters`, sorted by their codes."""
    parts, start = "", 0
    for i in range(1, len(letters) + 1):
        if i == len(letters) or ord(letters[i]) != ord(letters[i - 1]) + 1:
            first, last = letters[start], letters[i - 1]
            dash = "-" if i - start > 2 else ""
            parts += first if first == last else f"{first}{dash}{last}"
            start = i
    return f"[{parts}]"


if __name__ == "__main__":
    print(f"NAME: /{name_pattern()}/")
