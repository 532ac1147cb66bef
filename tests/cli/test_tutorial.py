"""The commands of the tutorial run as printed, in a temporary folder, with smaller numbers."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from maskdiff.cli import benchmark, inference, train
from maskdiff.cli.arguments import run_cli
from tests.helpers.paths import DOCS

PROGRAMS = {
    "train_universal.py": train.main,
    "inference.py": inference.main,
    "benchmark.py": benchmark.main,
}
TUTORIAL = DOCS / "tutorial.md"
WHOLE = bool(os.environ.get("TUTORIAL_WHOLE"))  # run the commands as they are printed
SMALLER = (
    (
        r"--name rules",
        "--name rules --max_iters 10 --n_embd 32 --eval_interval 10 --eval_samples 16 "
        "--live_samples 2 --threads 1",
    ),
    (r"--num_samples \d+", "--num_samples 6"),
)


def commands() -> list[str]:
    """Return the blocks that the page marks as runnable."""
    return re.findall(
        r"<!-- run -->\n```bash\n(.*?)```", TUTORIAL.read_text(encoding="utf-8"), flags=re.DOTALL
    )


def run(block: str) -> str:
    """Run a block in the current folder and return its output.

    Commands of the programs run in this process, which saves them the import of torch.
    """
    if "<<" in block:  # shell, with files between `<<'END'` and `END`
        done = subprocess.run(
            ["bash", "-euc", block], stdout=subprocess.PIPE, text=True, check=True
        )
        return done.stdout
    with contextlib.redirect_stdout(io.StringIO()) as out:
        for line in block.replace("\\\n", " ").splitlines():
            python, program, *argv = shlex.split(line)
            assert python == "python"
            assert run_cli(PROGRAMS[program], argv) == 0, line
    return out.getvalue()


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the output of each block."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    printed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("tutorial"))
        patch.setenv("PATH", path)
        for block in commands():
            for pattern, smaller in () if WHOLE else SMALLER:
                block = re.sub(pattern, smaller, block)
            printed.append(run(block))
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
