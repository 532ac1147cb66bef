"""Runs the command lines of a section in this process and collects what they give."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from golden_cases import FILES
from golden_compare import MASK, TIMED, masked

ROOT = Path(__file__).resolve().parents[2]
MODULES = {"diagnose": "maskdiff", "languages": "maskdiff", "distillation": "maskdiff.distillation"}
SCRIPTS = {"train": "train_universal.py", "benchmark": "benchmark.py"}


def run_section(lines: list[str], tmp: Path, **names: str) -> dict[str, Any]:
    """Returns the result of each line by the line itself."""
    for name, text in FILES.items():
        (tmp / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp / name).write_text(text)
    results: dict[str, Any] = {}
    for line in lines:
        assert line not in results, f"two equal cases: {line}"
        filled = line
        for name, value in {"tmp": str(tmp), **names}.items():
            filled = filled.replace("{" + name + "}", value)
        results[line] = masked(run_line(filled, tmp), str(tmp))
    return results


def run_line(line: str, tmp: Path) -> dict[str, Any]:
    """Returns the exit status, what is printed, and what is in the files of one command line."""
    text = line.startswith("text: ")
    program, *argv = shlex.split(line.removeprefix("text: "))
    if program in ("languages",):
        argv += [] if text else ["--json"]
    else:
        argv += ["--threads", "1", "--device", "cpu"]
        argv += [] if text or program in ("train", "distillation", "benchmark") else ["--json"]
    rows = tmp / "rows.json"
    rows.unlink(missing_ok=True)
    if program == "benchmark":
        argv += ["--json", str(rows)]
    status, printed = run_program(program, argv)
    result: dict[str, Any] = {"exit": status}
    if program == "train":
        result |= trained(Path(argv[argv.index("--checkpoint_dir") + 1])) if status == 0 else {}
    elif program == "benchmark":
        result["rows"] = json.loads(rows.read_text())["rows"] if rows.exists() else None
    elif program == "distillation":
        result |= distilled(Path(argv[argv.index("--out") + 1])) if status == 0 else {}
    elif text:
        result["lines"] = [_without_times(line) for line in printed.splitlines()]
    else:
        result["out"] = [_reported(json.loads(line)) for line in printed.splitlines()]
    return result


def run_program(program: str, argv: list[str]) -> tuple[int | str, str]:
    """Returns the exit status and the standard output of a program, run in this process."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    script = SCRIPTS.get(program, "inference.py")
    words = argv if program in (*SCRIPTS, "distillation") else [program, *argv]
    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    errors = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    before = sys.argv
    sys.argv = [script, *words]
    status: int | str = 0
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
            if program in MODULES:
                runpy.run_module(MODULES[program], run_name="__main__", alter_sys=False)
            else:
                runpy.run_path(str(ROOT / script), run_name="__main__")
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except Exception as error:
        status = f"raises {type(error).__name__}"
    finally:
        sys.argv = before
    if os.environ.get("GOLDEN_SHOW"):
        print(shlex.join([program, *argv]), status, _text(errors)[-300:], file=sys.stderr)
    return status, _text(printed)


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode()


def _without_times(line: str) -> str:
    return re.sub(r"\d+(\.\d+)? ?(s|seconds)\b", MASK, line)


def _reported(item: Any) -> Any:
    """An answer without the prose of a diagnosis, of which the numbers stay."""
    for finding in item.get("findings", []) if isinstance(item, dict) else []:
        numbers = re.findall(r"\d+(?:\.\d+)?", " ".join(finding.get("evidence", [])))
        finding["evidence"] = [float(number) for number in numbers]
    return item


def trained(folder: Path) -> dict[str, Any]:
    """Returns the logged curves of a run and a summary of its final weights."""
    payload = torch.load(folder / "last.pt", weights_only=True)
    provenance = payload["provenance"]
    return {
        "files": sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")),
        "curves": curves(folder / "tensorboard"),
        "metrics": payload["metrics"],
        "counts": {key: provenance[key] for key in ("step", "tokens", "strings")},
        "weights": summary(payload["weights"]),
        "raw": summary(payload["training"]["model"]),
    }


def summary(weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Returns shape, mean, standard deviation and the first four values of each tensor."""
    return {
        name: {
            "shape": list(tensor.shape),
            "mean": tensor.double().mean().item(),
            "std": tensor.double().std(correction=0).item(),
            "first": tensor.double().flatten()[:4].tolist(),
        }
        for name, tensor in weights.items()
        if tensor.is_floating_point() and tensor.numel()
    }


def curves(folder: Path) -> dict[str, Any]:
    """Returns the steps and values of every scalar in the TensorBoard files of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    read.Reload()
    return {
        tag: [[event.step, event.value] for event in read.Scalars(tag)]
        for tag in read.Tags()["scalars"]
        if not TIMED.search(tag)
    }


def distilled(folder: Path) -> dict[str, Any]:
    """Returns the results of the experiments, without their sentences."""
    results = json.loads((folder / "results.json").read_text())
    results.pop("config", None)
    for experiment in results["experiments"].values():
        for claim in experiment["claims"]:
            claim.pop("text", None)
    return {"results": results}


@contextlib.contextmanager
def at_root() -> Iterator[None]:
    """Runs in the root of the repository, from which the programs import."""
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    yield
