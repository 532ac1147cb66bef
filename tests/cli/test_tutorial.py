"""The commands of the tutorial run as printed, in a temporary folder, with smaller numbers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import DOCS, REPOSITORY

TUTORIAL = DOCS / "tutorial.md"
WHOLE = bool(os.environ.get("TUTORIAL_WHOLE"))  # run the commands as they are printed
SMALLER = (
    (r"--max_iters \d+", "--max_iters 10 --eval_interval 10 --n_embd 32 --eval_samples 16"),
    (r"--num_samples \d+", "--num_samples 6"),
)


def commands() -> list[str]:
    """Return the blocks that the page marks as runnable."""
    return re.findall(
        r"<!-- run -->\n```bash\n(.*?)```", TUTORIAL.read_text(encoding="utf-8"), flags=re.DOTALL
    )


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the output of each block."""
    folder = tmp_path_factory.mktemp("tutorial")
    for name in ("train_universal.py", "inference.py", "benchmark.py"):
        (folder / name).symlink_to(REPOSITORY / name)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
    }
    printed = []
    for block in commands():
        text = block
        for pattern, smaller in () if WHOLE else SMALLER:
            text = re.sub(pattern, smaller, text)
        done = subprocess.run(
            ["bash", "-euc", text],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stderr[-2000:]}"
        printed.append(done.stdout)
    return printed


def test_tutorial_page_has_all_its_sections() -> None:
    text = "\n".join(commands())
    for program in (
        "train_universal.py",
        "inference.py repair",
        "inference.py edit",
        "inference.py generate",
        "benchmark.py",
    ):
        assert f"python {program}" in text


@pytest.mark.slow
def test_tutorial_runs_and_prints_what_it_states(outputs: list[str]) -> None:
    lines, training, free, _, under, measured = outputs
    assert lines.splitlines()[0].startswith(("every ", "if "))
    assert "steps" in training
    assert all(line.split("\t")[1] == "unchecked" for line in free.splitlines())
    first = [line for line in under.splitlines() if "\t" in line and not line.startswith(" ")]
    assert len(first) == 7  # a repair, an edit, five new lines; alternatives are indented
    assert all(line.split("\t")[1] == "parses" for line in first)
    assert re.search(
        r"^least_edits .*100\.0 \[", measured, flags=re.MULTILINE
    )  # its row: all that it gives parses
    assert re.search(r"^channel\+grammar .*100\.0 \[", measured, flags=re.MULTILINE)
    assert re.search(r"maskgit .*grammar=True +100\.0", measured)
