"""Tiny training runs, and comparisons of two runs."""

from __future__ import annotations

from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from maskdiff import checkpoint
from maskdiff.config import Config
from maskdiff.config_io import load_config
from tests.helpers.paths import REPOSITORY

TINY = {
    "n_embd": 16, "n_head": 2, "n_layer": 1, "k_iter": 2, "batch_size": 8, "num_samples": 64,
    "max_depth": 2, "max_len": 24, "max_iters": 12, "warmup_iters": 2, "log_interval": 4,
    "eval_interval": 6, "eval_samples": 16, "live_samples": 0, "save_interval": 5, "threads": 1,
    "device": "cpu",
}  # fmt: skip


def tiny(**changes: object) -> Config:
    return load_config(None, {**TINY, **changes})


def flags(folder: Path, **changes: object) -> list[str]:
    values = {**TINY, "checkpoint_dir": str(folder), **changes}
    words = []
    for name, value in values.items():
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return words


def command(folder: Path, **changes: object) -> list[str]:
    return [str(REPOSITORY / "train_universal.py"), *flags(folder, **changes)]


def same_tensors(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return (
            isinstance(b, dict)
            and a.keys() == b.keys()
            and all(same_tensors(a[k], b[k]) for k in a)
        )
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same_tensors, a, b))  # type: ignore[arg-type]
    return a == b


def assert_same_run(a: Path, b: Path) -> None:
    """Two runs have equal weights, averages, optimizer states and metrics, bit for bit."""
    one, two = checkpoint.load(a / "last.pt"), checkpoint.load(b / "last.pt")
    for payload in (one, two):
        payload["training"]["progress"].pop("seconds")
    assert same_tensors(one["weights"], two["weights"])
    assert same_tensors(one["training"], two["training"])
    assert one["metrics"] == two["metrics"]


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar that TensorBoard shows of a run, by step, except the speed."""
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag != "train/tokens_per_second"]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}
