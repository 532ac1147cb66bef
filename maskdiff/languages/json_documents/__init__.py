"""The language `json`: small nested JSON documents such as `{"id":17,"tags":["a","b"]}`.

The grammar derives every document; the generator draws those that a program could write.
"""

from maskdiff.languages.json_documents.generator import draw_documents
from maskdiff.languages.json_documents.language import GRAMMAR, is_json, json_language

__all__ = ["GRAMMAR", "draw_documents", "is_json", "json_language"]
