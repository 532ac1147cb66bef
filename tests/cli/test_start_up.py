"""Start-up imports: no heavy module for `--help`, and few modules for a repair."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.helpers.paths import REPOSITORY

# Slow to import, and not needed to repair a string with a model of characters.
UNUSED = (
    "einops", "fastapi", "httpx", "lark", "matplotlib", "openai", "pandas", "safetensors", "scipy",
    "sympy", "tensorboard", "tokenizers", "torch._dynamo", "torch._inductor", "transformers",
    "uvicorn", "maskdiff.evaluation", "maskdiff.experiments", "maskdiff.serving",
    "maskdiff.stepwise.solver", "maskdiff.training",
)  # fmt: skip
COMMANDS = {
    "benchmark.py": "maskdiff.cli.benchmark",
    "inference.py": "maskdiff.cli.inference",
    "train_universal.py": "maskdiff.cli.train",
    "maskdiff": "maskdiff.cli.maskdiff",
}


def modules_after(module: str, *argv: str) -> set[str]:
    """Return the modules that a fresh process has loaded after `main(argv)` of a module."""
    program = (
        f"import sys; from {module} import main; from maskdiff.cli.arguments import run_cli\n"
        "assert run_cli(main, sys.argv[1:]) == 0\n"
        "print('\\n', *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *argv],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("module", COMMANDS.values(), ids=COMMANDS)
def test_help_imports_neither_torch_nor_numpy(module: str) -> None:
    assert not {"torch", "numpy"} & modules_after(module, "--help")


@pytest.mark.slow
def test_repair_imports_only_the_modules_it_uses() -> None:
    loaded = modules_after("maskdiff.cli.inference", "repair", "(1+2=3")
    assert "maskdiff.tasks.repairing" in loaded
    assert not loaded & set(UNUSED)


@pytest.mark.slow
def test_an_interrupt_while_numpy_is_imported_ends_the_program() -> None:
    program = """
import sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy":
            sys.meta_path.remove(self)
            raise KeyboardInterrupt

from maskdiff.cli.arguments import run_cli
from maskdiff.cli.inference import main
sys.meta_path.insert(0, Interrupting())
sys.exit(run_cli(main, ["generate", "--num", "1"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.endswith("interrupted\n")
