"""Pages of the documentation whose commands are run, with smaller numbers."""

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

from maskdiff.cli import benchmark, inference, maskdiff, train
from maskdiff.cli.arguments import run_cli

PROGRAMS = {
    "-m maskdiff": maskdiff.main,
    "train_universal.py": train.main,
    "inference.py": inference.main,
    "benchmark.py": benchmark.main,
}
WHOLE = bool(os.environ.get("TUTORIAL_WHOLE"))  # run the commands as they are printed
SMALLER = (
    (
        r"(python train_universal\.py(?:[^\n]*\\\n)*[^\n]*)",
        r"\1 --max_iters 4 --eval_interval 4 --n_embd 32 --n_layer 1 --eval_samples 4 "
        r"--live_samples 2 --threads 1",
    ),
    (r"--num_samples \d+", "--num_samples 3"),
    (r"range\(1000\)", "range(200)"),  # lines of a corpus
)


def runnable_blocks(page: Path) -> list[str]:
    """Return the blocks that the page marks as runnable."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r"<!-- run -->\n```bash\n(.*?)```", text, flags=re.DOTALL)


def run_page(page: Path, folder: Path) -> list[str]:
    """Run the blocks of the page in `folder` and return the output of each."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    printed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PATH", path)
        for block in runnable_blocks(page):
            for pattern, smaller in () if WHOLE else SMALLER:
                block = re.sub(pattern, smaller, block)
            printed.append(_run(block))
    return printed


def _run(block: str) -> str:
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
            words = shlex.split(line)
            words[1:3] = [" ".join(words[1:3])] if words[1] == "-m" else words[1:3]
            python, program, *argv = words
            assert python == "python"
            if program in PROGRAMS:
                assert run_cli(PROGRAMS[program], argv) == 0, line
            else:  # a script of examples/
                print(subprocess.check_output([sys.executable, program, *argv], text=True), end="")
    return out.getvalue()
