"""Reads YAML files whose scalars stay text, so that each is read by the field that wants it.

YAML 1.1 reads `3e-3` as a string, `off` as false and `010` as 8. Here a scalar without quotes is
`Plain` text, and one in quotes is `str`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from maskdiff.errors import ConfigError, folded, quote
from maskdiff.utils.lines import split_lines
from maskdiff.utils.values import Plain

MAX_BYTES = 100_000  # of one file
MAX_NESTING = 8  # of lists and mappings in one
MAX_VALUES = 100_000  # of one; those that aliases repeat are counted again
# Tags of nodes: without one, or one of these.
TAGS = ("!", *(f"tag:yaml.org,2002:{name}" for name in ("str", "seq", "map")))


def is_empty(value: Any) -> bool:
    """Return whether YAML has no value here: nothing at all, `~` or `null`."""
    return value is None or (isinstance(value, Plain) and value.is_null)


class _Values:
    """Converts nodes of a YAML file to nested values whose scalars are text."""

    def __init__(self) -> None:
        self.count = 0  # so far: aliases expand a short file to a long list

    def of(self, node: yaml.Node, depth: int = 0) -> Any:
        """Return the values of a node. Raises MarkedYAMLError."""
        self.count += 1
        if depth > MAX_NESTING or self.count > MAX_VALUES:
            limits = f"over {MAX_NESTING} deep, or hold over {MAX_VALUES} values"
            raise _refused(node, f"lists and mappings are {limits}")
        if node.tag not in TAGS:
            raise _refused(node, f"tag {quote(node.tag)} has no use here; leave it out")
        if isinstance(node, yaml.ScalarNode):
            return Plain(node.value) if node.style is None else str(node.value)
        if isinstance(node, yaml.SequenceNode):
            return [self.of(item, depth + 1) for item in node.value]
        return self._mapping(node, depth)

    def _mapping(self, node: yaml.Node, depth: int) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, value = self.of(key_node, depth + 1), self.of(value_node, depth + 1)
            if not isinstance(key, str):
                raise _refused(key_node, f"key {quote(key)} is no text")
            if key == "<<" and isinstance(key, Plain):  # mappings whose keys this one overrides
                for part in value if isinstance(value, list) else [value]:
                    if not isinstance(part, dict):
                        raise _refused(value_node, "<< takes a mapping or a list of mappings")
                    merged = {**part, **merged}
            elif key in own:
                raise _refused(key_node, f"key {quote(key)} stands twice")
            else:
                own[str(key)] = value
        return {**merged, **own}


def _refused(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def parse_yaml(text: str, shown: str) -> Any:
    """Return the nested values of a YAML text. Raises ConfigError, which names the line."""
    odd = next((i for i, c in enumerate(text) if c in "\x85\u2028\u2029"), None)
    if odd is not None:
        where = f"{shown}, line {len(split_lines(text[: odd + 1]))}"
        raise ConfigError(
            f"{where}: {quote(text[odd])} ends a line to some readers of YAML; write it so, in "
            "double quotes"
        )
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)  # nodes alone: nothing is converted
        return None if node is None else _Values().of(node)
    except yaml.reader.ReaderError as error:
        line = len(split_lines(text[: error.position + 1]))
        raise ConfigError(
            f"{shown}, line {line}: {quote(chr(error.character))} has no place in YAML"
        ) from None
    except yaml.MarkedYAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        syntax = isinstance(error, (yaml.scanner.ScannerError, yaml.parser.ParserError))
        special = syntax or "alias" in str(error.problem)
        hint = "; put a text with special characters in quotes" if special else ""
        problem = error.problem
        if problem == "second occurrence":  # PyYAML's text for the second place of an anchor
            name = re.search("'(.*)'|\"(.*)\"", str(error.context))
            problem = f"anchor {name.group() if name else ''} stands twice"
        raise ConfigError(f"{shown}{where}: {problem}{hint}") from None
    except RecursionError:
        raise ConfigError(f"{shown}: lists and mappings are over {MAX_NESTING} deep") from None
    except (ValueError, OverflowError) as error:  # of an escape that is no character
        raise ConfigError(f"{shown}: {folded(error)}") from None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the mapping in one YAML file. Raises ConfigError, which names file and line."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot read configuration {quote(str(path), 200)}: {error.strerror or error}"
        ) from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(
            f"configuration {quote(str(path), 200)} is over {MAX_BYTES} bytes; give a YAML file of "
            "settings"
        )
    try:
        values = parse_yaml(raw.decode("utf-8"), f"configuration {path}")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"configuration {quote(str(path), 200)} is not UTF-8 text (byte {error.start})"
        ) from None
    if is_empty(values):
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"configuration {path} holds {quote(values)}; it must hold `key: value` lines"
        )
    return values
