"""Small nested JSON documents, such as `{"id":17,"tags":["a","b"]}`: a generator, a grammar, and Python's `json` as the judge.

For: `draw` (documents as a program would write them), `valid`, `SYMBOLS`, and `GRAMMAR`, the file for
`maskdiff.languages.cfg.compile_grammar`. Not for: drawing every document that there is; the grammar has them, the generator
writes few. Easy to get wrong: white space. Most documents are compact, the others have ", " and ": " throughout, as
`json.dumps` writes them; the grammar takes any number of spaces wherever JSON does.
"""

from pathlib import Path

from maskdiff.languages.json_documents.generator import draw
from maskdiff.languages.json_documents.validity import SYMBOLS, valid

GRAMMAR = Path(__file__).with_name("grammar.lark")

__all__ = ["GRAMMAR", "SYMBOLS", "draw", "valid"]
