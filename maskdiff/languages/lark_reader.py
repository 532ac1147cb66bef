"""Lark as an independent reader of a grammar: whether its Earley parser accepts a text.

Runs in the process of a `CheckerProcess`, since Lark can take any time over a grammar or a text.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from maskdiff.languages.cfg import GrammarSource, restore_source
from maskdiff.languages.cfg.source import GRAMMAR, held_imports

ACCEPTS = "maskdiff.languages.lark_reader:accepts?"  # the name of `accepts` for `load_checker`


def request(source: GrammarSource, text: str) -> str:
    """Returns the question whether `source` accepts `text`, as `accepts` takes it."""
    return json.dumps({"grammar": source.state(), "text": text})


def accepts(question: str) -> bool:
    """Whether Lark's parser accepts the text of a `request`. Raises RuntimeError if it refuses the grammar."""
    from lark.exceptions import LarkError

    asked = json.loads(question)
    parser = _parser(json.dumps(asked["grammar"]))
    if isinstance(parser, str):
        raise RuntimeError(f"it refuses the grammar: {parser}")
    try:
        parser.parse(asked["text"])
    except LarkError:
        return False
    except RuntimeError as error:  # a fault of Lark where text is ignored behind a finished string
        if "multiple start symbol" not in str(error):
            raise
    return True


@lru_cache(maxsize=1)
def _parser(grammar: str) -> Any:
    """Lark's parser, or the error with which Lark refuses the grammar."""
    from lark import Lark
    from lark.exceptions import LarkError

    source = restore_source(json.loads(grammar), "the grammar")
    try:
        return Lark(
            source.text,
            parser="earley",
            lexer="dynamic_complete",
            start=source.start,
            import_paths=[held_imports(source)],
            source_path=GRAMMAR,
        )
    except LarkError as error:
        return " ".join(str(error).split())
