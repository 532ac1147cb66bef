"""The layout: imports go down the layers and make no cycle; files, functions, lines are short."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.helpers.paths import DOCS, REPOSITORY

MAX_COLUMNS, MAX_FILE_LINES, MAX_FUNCTION_LINES = 100, 500, 60


def layers() -> dict[str, int]:
    """Returns the layer of each package or module, read from the table in docs/architecture.md.

    Keys are paths relative to the repository, without `.py`.
    """
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", text, flags=re.MULTILINE)
    return {
        name.rstrip("/").removesuffix(".py"): int(layer)
        for layer, names in rows
        for name in re.findall(r"`([^`]+)`", names)
    }


def package_of(module: str, known: dict[str, int]) -> str | None:
    """Returns the entry of the table that a dotted module belongs to: the longest path."""
    parts = module.split(".")
    for size in range(len(parts), 0, -1):
        name = "/".join(parts[:size])
        if name in known:
            return name
    return None


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yields the statements below a node, at any depth; expressions contain none."""
    agenda = [node]
    while agenda:
        below = [n for n in ast.iter_child_nodes(agenda.pop()) if not isinstance(n, ast.expr)]
        agenda += below
        yield from below


def modules() -> dict[str, Path]:
    """Returns the files of the package and the scripts, by dotted name."""
    files = [*(REPOSITORY / "maskdiff").rglob("*.py"), *REPOSITORY.glob("*.py")]
    named = {
        path: path.relative_to(REPOSITORY).with_suffix("").as_posix().replace("/", ".")
        for path in files
    }
    return {name.removesuffix(".__init__"): path for path, name in named.items() if name != "setup"}


def sources() -> list[Path]:
    """Returns the files of the package, the scripts and the tests."""
    return [*modules().values(), *(REPOSITORY / "tests").rglob("*.py")]


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """Returns the modules of the project that a file imports anywhere.

    Imports under `TYPE_CHECKING` do not count.
    """
    tree = tree_of(path)
    hidden = {
        id(node)
        for block in statements(tree)
        if isinstance(block, ast.If)
        and isinstance(block.test, ast.Name)
        and block.test.id == "TYPE_CHECKING"
        for node in statements(block)
    }
    found: set[str] = set()
    for node in statements(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in known else str(node.module))
    return {name for name in found if name in known}


def test_every_module_has_a_layer() -> None:
    known = layers()
    assert len(known) > 12
    missing = [n for n in modules() if n != "maskdiff" and package_of(n, known) is None]
    assert missing == []


def test_every_entry_of_the_table_exists() -> None:
    missing = [
        name
        for name in layers()
        if not (REPOSITORY / f"{name}.py").exists() and not (REPOSITORY / name).is_dir()
    ]
    assert missing == []


@pytest.mark.slow
def test_no_import_goes_up_or_sideways() -> None:
    layer, known = layers(), modules()
    wrong = []
    for name, path in known.items():
        here = package_of(name, layer)
        for other in imports(path, known):
            there = package_of(other, layer)
            if here is None or there is None or here == there:
                continue
            if layer[there] >= layer[here]:
                wrong.append(f"{name} (layer {layer[here]}) imports {other} (layer {layer[there]})")
    assert wrong == []


@pytest.mark.slow
def test_imports_make_no_cycle() -> None:
    known = modules()
    graph = {name: imports(path, known) - {name} for name, path in known.items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            pytest.fail(" -> ".join((*path[path.index(name) :], name)))
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = (
        "import sys, maskdiff, maskdiff.config, maskdiff.errors; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=REPOSITORY, timeout=60)


def test_tests_share_code_through_helpers_alone() -> None:
    wrong = []
    for path in (REPOSITORY / "tests").rglob("test_*.py"):
        text = path.read_text(encoding="utf-8")
        others = re.findall(
            r"^\s*(?:from|import) (tests\b[\w.]*|test_\w+)", text, flags=re.MULTILINE
        )
        wrong += [
            f"{path.name} imports {name}"
            for name in others
            if not name.startswith(("tests.helpers", "tests.golden"))
        ]
        if re.search(r"sys\.path\.(insert|append)\(", text):
            wrong.append(f"{path.name} changes sys.path")
    assert wrong == []


@pytest.mark.slow
def test_files_functions_and_lines_are_short() -> None:
    long = []
    for path in sources():
        text, name = path.read_text(encoding="utf-8"), path.relative_to(REPOSITORY)
        lines = text.splitlines()
        if len(lines) > MAX_FILE_LINES:
            long.append(f"{name}: {len(lines)} lines")
        long += [f"{name}:{i + 1}" for i, line in enumerate(lines) if len(line) > MAX_COLUMNS]
        for node in statements(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or 0) - node.lineno
                if size > MAX_FUNCTION_LINES:
                    long.append(f"{name}: {node.name} has {size} lines")
    assert long == []


@pytest.mark.slow
def test_a_public_class_is_defined_once() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for name, path in modules().items():
        for node in tree_of(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(name)
    assert {name: where for name, where in places.items() if len(where) > 1} == {}
