"""Runs experiments seed by seed, stores the measurements and draws the conclusions.

    DIR/seeds.json            the seed file: configuration, model, seeds; for --seed_file
    DIR/parts/NAME-SEED.json  measurements of an experiment and a seed; an interrupted run goes on
    DIR/results.json          estimates, verdicts and tables
    DIR/NAME.png, report.md   the same as pictures and text

results.json holds nothing that differs between two runs of a seed file (times, paths, versions).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from maskdiff.config import MAX_THREADS, DistillationConfig
from maskdiff.config_io import build
from maskdiff.errors import ConfigError, DataError, quote
from maskdiff.experiments.distillation.environment import Environment
from maskdiff.experiments.distillation.hypotheses import TestedHypothesis, decide
from maskdiff.experiments.distillation.policy import Policy
from maskdiff.experiments.distillation.rollouts import Rollouts
from maskdiff.experiments.distillation.studies import EXPERIMENTS, Conclusion
from maskdiff.utils.files import write_atomic

SCHEMA = 1
MAX_BYTES = 2**26  # of a stored file
ProgressCallback = Callable[[str, int, str], None]  # experiment, seed, what is being done


@dataclass(frozen=True)
class RunSettings:
    """The content of a seed file.

    Attributes:
        weights: Fingerprint of the model's weights.
        threads: CPU threads, on which rounding depends.
        records: Fingerprint of the file of problems; empty without one.
    """

    config: DistillationConfig
    model: str
    weights: str
    threads: int
    quick: bool = False
    device: str = "cpu"
    dtype: str = "float32"
    records: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the content of the seed file."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def read(cls, path: str | Path) -> RunSettings:
        """Read a seed file. Raises ConfigError and DataError."""
        raw, name = read_json(path), quote(str(path), 200)
        invalid = ConfigError(f"{name} is no seed file; give the seeds.json of a run")
        texts = ("model", "weights", "device", "dtype", "records")
        try:
            if raw["schema"] != SCHEMA:
                raise ConfigError(
                    f"{name} is a seed file of version {raw['schema']}; this is version {SCHEMA}"
                )
            config = build(DistillationConfig, raw["config"], str(path))
            values = {item: raw[item] for item in (*texts, "threads", "quick")}
        except (KeyError, TypeError, AttributeError):
            raise invalid from None
        threads = values["threads"]
        if (
            not all(isinstance(values[item], str) for item in texts)
            or not (type(threads) is int and 0 < threads <= MAX_THREADS)
            or type(values["quick"]) is not bool
        ):
            raise invalid
        return cls(config, **values)

    def differences(self, other: RunSettings) -> list[str]:
        """Return the names of the settings that differ."""
        pairs: list[tuple[Any, Any]] = [(self.config, other.config), (self, other)]
        return [
            item.name
            for ours, theirs in pairs
            for item in fields(ours)
            if item.name != "config" and getattr(ours, item.name) != getattr(theirs, item.name)
        ]


@dataclass(frozen=True)
class ExperimentResult:
    """An experiment's conclusion with its tested hypotheses."""

    name: str
    conclusion: Conclusion
    hypotheses: list[TestedHypothesis]

    def primary(self, control: bool) -> TestedHypothesis:
        """Return the first hypothesis without or with controls, which gives the verdict."""
        return next(item for item in self.hypotheses if item.hypothesis.control == control)


def read_json(path: str | Path) -> Any:
    """Return the value of a JSON file. Raises DataError."""
    name = quote(str(path), 200)
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise ValueError(f"it has over {MAX_BYTES} bytes")
        return json.loads(raw)
    except OSError as error:
        raise DataError(f"cannot read {name}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is no JSON: {error}") from None


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically. Raises what `write_atomic` does."""
    write_atomic(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def weights_fingerprint(policy: Policy) -> str:
    """Return 16 hex digits of a policy's weights and their precision."""
    digest = hashlib.blake2b(digest_size=8)
    for weight in policy.module.parameters():
        digest.update(str(weight.dtype).encode())
        digest.update(weight.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def file_fingerprint(path: str) -> str:
    """Return 16 hex digits of a file's content. Raises DataError."""
    try:
        return hashlib.blake2b(Path(path).read_bytes(), digest_size=8).hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {quote(path, 200)}: {error.strerror or error}") from None


def prepare_folder(folder: Path, settings: RunSettings) -> None:
    """Create the folder and its seed file, or check that they belong to the same run.

    Raises DataError and ConfigError.
    """
    name, path = quote(str(folder), 200), folder / "seeds.json"
    try:
        (folder / "parts").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {name}: {error.strerror or error}") from None
    if path.exists():
        if different := settings.differences(RunSettings.read(path)):
            raise ConfigError(
                f"{name} holds a run with another {', '.join(different)}; give the same settings "
                "or another --out"
            )
    elif any((folder / "parts").glob("*.json")):
        raise ConfigError(
            f"{name} holds parts without the seeds.json of their run; give another --out"
        )
    else:
        write_json(path, settings.as_json())


def run_experiments(
    policy: Policy,
    environment: Environment,
    settings: RunSettings,
    names: Sequence[str],
    folder: Path,
    progress: ProgressCallback,
) -> list[ExperimentResult]:
    """Measure what is missing of the named experiments; conclude from all complete ones.

    Raises UserError.
    """
    prepare_folder(folder, settings)
    config = settings.config
    seeds = range(config.first_seed, config.first_seed + config.seeds)

    def part(name: str, seed: int) -> Path:
        return folder / "parts" / f"{name}-{seed}.json"

    for seed in seeds:
        rollouts = Rollouts(policy, environment, config, seed)
        for name in names:
            if not part(name, seed).exists():
                progress(name, seed, "")
                made = EXPERIMENTS[name].measure(rollouts, partial(progress, name, seed))
                write_json(part(name, seed), made)
            progress(name, seed, "done")
    complete = [name for name in EXPERIMENTS if all(part(name, seed).exists() for seed in seeds)]
    return [
        conclude(name, [read_json(part(name, seed)) for seed in seeds], config) for name in complete
    ]


def conclude(
    name: str, parts: Sequence[Mapping[str, Any]], config: DistillationConfig
) -> ExperimentResult:
    """Return the result of one experiment. Raises DataError for damaged parts."""
    rng = np.random.default_rng((config.first_seed, list(EXPERIMENTS).index(name)))
    try:
        conclusion = EXPERIMENTS[name].conclude(parts, config, rng)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise DataError(
            f"the parts of {name} cannot be read ({error!r}); if files in parts/ were damaged, "
            "delete those"
        ) from None
    tested = [decide(item, rng, config.resamples) for item in conclusion.hypotheses]
    return ExperimentResult(name, conclusion, tested)


__all__ = [
    "ExperimentResult", "ProgressCallback", "RunSettings", "conclude", "file_fingerprint",
    "prepare_folder", "read_json", "run_experiments", "weights_fingerprint", "write_json",
]  # fmt: skip
