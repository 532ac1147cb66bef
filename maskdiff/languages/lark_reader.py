"""Lark's Earley parser as an independent reader of a grammar.

It runs in a `CheckerProcess`, since Lark may take unbounded time.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from maskdiff.languages.cfg import GrammarSource, restore_source
from maskdiff.languages.cfg.source import GRAMMAR, StoredImports

ACCEPTS = "maskdiff.languages.lark_reader:accepts?"  # the name of `accepts` for `load_checker`


def request(source: GrammarSource, text: str) -> str:
    """Return the argument of `accepts` for a grammar and a text."""
    return json.dumps({"grammar": source.state(), "text": text})


def accepts(question: str) -> bool:
    """Return whether Lark's parser accepts the text of a `request`.

    Raises:
        RuntimeError: Lark refuses the grammar.
    """
    from lark.exceptions import LarkError

    asked = json.loads(question)
    parser = _parser(json.dumps(asked["grammar"]))
    if isinstance(parser, str):
        raise RuntimeError(f"it refuses the grammar: {parser}")
    try:
        parser.parse(asked["text"])
    except LarkError:
        return False
    except RuntimeError as error:  # a defect of Lark: ignored text behind a finished string
        if "multiple start symbol" not in str(error):
            raise
    return True


@lru_cache(maxsize=1)
def _parser(grammar: str) -> Any:
    """Lark's parser, or the message of the error with which Lark refuses the grammar."""
    from lark import Lark
    from lark.exceptions import LarkError

    source = restore_source(json.loads(grammar), "the grammar")
    try:
        return Lark(
            source.text,
            parser="earley",
            lexer="dynamic_complete",
            start=source.start,
            import_paths=[StoredImports(dict(source.files))],
            source_path=GRAMMAR,
        )
    except LarkError as error:
        return " ".join(str(error).split())
