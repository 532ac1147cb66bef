"""The house stands: no room imports its own floor or one above, and imports make no circle. Floors: docs/architecture.md."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.helpers.paths import DOCS, REPOSITORY


def floors() -> dict[str, float]:
    """Room (a path relative to the repository, without .py) -> floor, read from the table of the document."""
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", text, flags=re.MULTILINE)
    return {
        name.rstrip("/").removesuffix(".py"): float(floor)
        for floor, names in rows
        for name in re.findall(r"`([^`]+)`", names)
    }


def room_of(module: str, rooms: dict[str, float]) -> str | None:
    """The room that a dotted module belongs to: the longest listed path that leads to it."""
    parts = module.split(".")
    for size in range(len(parts), 0, -1):
        name = "/".join(parts[:size])
        if name in rooms:
            return name
    return None


def modules() -> dict[str, Path]:
    files = [*(REPOSITORY / "maskdiff").rglob("*.py"), *REPOSITORY.glob("*.py")]
    named = {
        path: path.relative_to(REPOSITORY).with_suffix("").as_posix().replace("/", ".")
        for path in files
    }
    return {name.removesuffix(".__init__"): path for path, name in named.items() if name != "setup"}


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """Modules of the project that a file imports, wherever in the file; those for type checkers alone left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hidden = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If)
        and isinstance(block.test, ast.Name)
        and block.test.id == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
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


def test_every_module_has_a_room() -> None:
    rooms = floors()
    assert len(rooms) > 12
    homeless = [name for name in modules() if name != "maskdiff" and room_of(name, rooms) is None]
    assert homeless == []


def test_every_room_exists() -> None:
    missing = [
        name
        for name in floors()
        if not (REPOSITORY / f"{name}.py").exists() and not (REPOSITORY / name).is_dir()
    ]
    assert missing == []


def test_no_import_goes_up_or_sideways() -> None:
    rooms, known = floors(), modules()
    wrong = []
    for name, path in known.items():
        here = room_of(name, rooms)
        for other in imports(path, known):
            there = room_of(other, rooms)
            if here is None or there is None or here == there:
                continue
            if rooms[there] >= rooms[here]:
                wrong.append(
                    f"{name} (floor {rooms[here]:g}) imports {other} (floor {rooms[there]:g})"
                )
    assert wrong == []


def test_no_circle_of_imports_within_a_room() -> None:
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
    import subprocess
    import sys

    program = (
        "import sys, maskdiff, maskdiff.config, maskdiff.errors; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=REPOSITORY, timeout=60)


def test_tests_share_code_through_helpers_alone() -> None:
    wrong = []
    for path in (REPOSITORY / "tests").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        others = re.findall(
            r"^\s*(?:from|import) (tests\b[\w.]*|test_\w+)", text, flags=re.MULTILINE
        )
        wrong += [
            f"{path.name} imports {name}" for name in others if not name.startswith("tests.helpers")
        ]
        if re.search(r"sys\.path\.(insert|append)\(", text):
            wrong.append(f"{path.name} changes sys.path")
    assert wrong == []


def test_files_and_functions_are_short() -> None:
    long = []
    for path in [*modules().values(), *(REPOSITORY / "tests").rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > 500:
            long.append(f"{path.name}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if (
                isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
                and (node.end_lineno or 0) - node.lineno > 60
            ):
                long.append(f"{path.name}: {node.name}")
    assert long == []
