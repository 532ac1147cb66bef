"""Extracts the program from a solver's answer.

Answers may be incomplete. After a prompt that ends in an open fence, an answer begins with code and
has the closing fence alone; a limit of tokens may cut the closing fence; and a docstring of bare
code may hold fences itself.
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Iterable

from maskdiff.text.answers import Fence, fences

# `python`, `Python3`, `py title=x`, `{.python #id}`, `python:main.py`; not `python-repl`, `pycon`.
_PYTHON = re.compile(r"\{?\s*\.?(?:python|py)[0-9.]*(?![\w.-])", flags=re.IGNORECASE)
_NESTING = re.compile(r"|(?:markdown|md)\b.*", flags=re.IGNORECASE)  # info of a block of blocks
_MARKED = re.compile(r"^[ \t]*(?:`{3,}|~{3,})[ \t]*[^\s`~]", flags=re.MULTILINE)
_MARKS = re.compile(r"`{3,}|~{3,}")
# A line that introduces code or ends a sentence, and is not code itself.
_PROSE = re.compile(r"[^#].*:|[^=()\[\]{}#\"'_]*[.!?]")


def extract_code(answer: str) -> str:
    """Return the program in an answer.

    It is the last block marked as Python, else the last unmarked one, by the rules of CommonMark;
    the last block may be open. Where no block is marked, code before a closing fence without an
    opening one comes first. Without a block it is the dedented text between the last two lines with
    a fence anywhere, as in the format's grader, and without these the whole text.
    """
    blocks = fences(answer)
    head = answer[: blocks[0].opening] if blocks else answer
    if _in_string(head):
        return answer
    full = [block for block in _inside(blocks) if block.text.strip()]
    marked = [block for block in full if _PYTHON.match(block.info)]
    unmarked = [block for block in full if not block.info]
    if not marked and blocks and _is_closing(head, blocks):
        return head
    if marked or unmarked:
        return _text((marked or unmarked)[-1])
    between = None if full else _between_last_fences(answer)
    return answer if between is None else between


def _inside(blocks: Iterable[Fence]) -> Iterable[Fence]:
    """Yield the blocks; instead of a Markdown or unmarked block the Python blocks in it, if any.

    Unpaired fences make such blocks too.
    """
    for block in blocks:
        inner = fences(block.text) if _NESTING.fullmatch(block.info) else []
        python = [fence for fence in inner if _PYTHON.match(fence.info)]
        yield from python or [block]


def _in_string(head: str) -> bool:
    """Return whether the text before a fence is bare code with an open string."""
    return any(head.count(mark) % 2 == 1 and _is_python(head + mark) for mark in ('"""', "'''"))


def _is_python(text: str) -> bool:
    """Return whether a text parses as a program."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in strings
            return bool(ast.parse(text).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _text(block: Fence) -> str:
    """Return the text of a block, without a fence at the end of its last line of code."""
    if block.closed or not block.text.rstrip().endswith("```"):
        return block.text
    return block.text.rstrip().rstrip("`").rstrip(" \t")


def _is_closing(head: str, blocks: list[Fence]) -> bool:
    """Return whether the first fence closes the code in `head` instead of opening a block.

    It is unmarked, and either nothing follows it, or the fences do not pair (one is open at the
    end, or a marked fence follows before the next unmarked one) and the text before it does not end
    like a sentence.
    """
    first = blocks[0]
    if first.info or not head.strip() or _MARKS.search(head):
        return False
    if len(blocks) == 1 and not first.text.strip():
        return True
    paired = all(block.closed for block in blocks) and not _MARKED.search(first.text)
    return not paired and not _PROSE.fullmatch(head.rstrip().splitlines()[-1].strip())


def _between_last_fences(answer: str) -> str | None:
    """Return the text between the last two lines with a fence; None without two, or in a string."""
    lines = answer.splitlines(keepends=True)
    found = [number for number, line in enumerate(lines) if _MARKS.search(line)]
    if len(found) < 2 or _in_string("".join(lines[: found[-2]])):
        return None
    return textwrap.dedent("".join(lines[found[-2] + 1 : found[-1]]))


__all__ = ["extract_code"]
