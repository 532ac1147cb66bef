"""Takes the program out of a solver's answer.

For: `code_of`. Not for: Markdown itself (`maskdiff/text/answers.py`), or running the program. Easy to
get wrong: answers are not always whole. A prompt that ends in an open fence gives an answer that
begins with code and has the closing fence alone; a limit of tokens gives one without a closing
fence; and a docstring of bare code may hold fences of its own.
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


def code_of(answer: str) -> str:
    """Return the program in an answer.

    The last block marked as Python counts, else the last one without a mark, by the rules of
    CommonMark; the last may be left open. Code before a closing fence that no fence opens counts
    where no block is marked. Without a block it is what stands between the last two lines with a
    fence anywhere, as the format's grader has it, without its indentation, and without these all of
    the text.
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
    """The blocks, but of those of Markdown or without a mark the blocks of Python in them, if any.

    Fences that do not pair put such blocks together, too.
    """
    for block in blocks:
        inner = fences(block.text) if _NESTING.fullmatch(block.info) else []
        python = [fence for fence in inner if _PYTHON.match(fence.info)]
        yield from python or [block]


def _in_string(head: str) -> bool:
    """Whether the text before a fence is bare code whose string goes on behind it."""
    return any(head.count(mark) % 2 == 1 and _is_python(head + mark) for mark in ('"""', "'''"))


def _is_python(text: str) -> bool:
    """Whether a text is a program. Nothing is compiled or run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in strings
            return bool(ast.parse(text).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _text(block: Fence) -> str:
    """The text of a block, without a fence behind the last line of code, which closes nothing."""
    if block.closed or not block.text.rstrip().endswith("```"):
        return block.text
    return block.text.rstrip().rstrip("`").rstrip(" \t")


def _is_closing(head: str, blocks: list[Fence]) -> bool:
    """Whether the first fence has no mark and closes the code in `head` instead of opening a block.

    It does where nothing follows it, and where the fences do not pair: one is open at the end,
    or a marked fence follows before the next one without a mark. Then it depends on the text
    before: code does not end like a sentence.
    """
    first = blocks[0]
    if first.info or not head.strip() or _MARKS.search(head):
        return False
    if len(blocks) == 1 and not first.text.strip():
        return True
    paired = all(block.closed for block in blocks) and not _MARKED.search(first.text)
    return not paired and not _PROSE.fullmatch(head.rstrip().splitlines()[-1].strip())


def _between_last_fences(answer: str) -> str | None:
    """What stands between the last two lines with a fence; None without two, or within a string."""
    lines = answer.splitlines(keepends=True)
    found = [number for number, line in enumerate(lines) if _MARKS.search(line)]
    if len(found) < 2 or _in_string("".join(lines[: found[-2]])):
        return None
    return textwrap.dedent("".join(lines[found[-2] + 1 : found[-1]]))


__all__ = ["code_of"]
