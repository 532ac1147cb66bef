"""Runs experiments seed by seed, keeps what was measured, and concludes.

    DIR/seeds.json            the seed file: configuration, model, seeds; gives the same results again with --seed_file
    DIR/parts/NAME-SEED.json  what one experiment measured of one seed; a run that is interrupted goes on behind the last
    DIR/results.json          estimates, verdicts and tables
    DIR/NAME.png, report.md   the same to look at

For: `Run`, `run`. Not for: layout (`report.py`, `plots.py`). Easy to get wrong: nothing that differs between two runs of one
seed file (times, paths, versions) may stand in results.json; and parts of another configuration or other weights must never be
mixed in.
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
from maskdiff.experiments.distillation.policy import Policy
from maskdiff.experiments.distillation.studies import EXPERIMENTS, Conclusion
from maskdiff.experiments.distillation.study import Study
from maskdiff.experiments.distillation.verdicts import Finding, decide
from maskdiff.utils.files import write_atomic

SCHEMA = 1
MAX_BYTES = 2**26  # of a file that is read again
Tell = Callable[[str, int, str], None]  # experiment, seed, what is being done


@dataclass(frozen=True)
class Setting:
    """What a run is made from: the seed file. weights: fingerprint of the model; threads: CPU threads, which rounding depends
    on.
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
        """As the seed file holds it."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def read(cls, path: str | Path) -> Setting:
        """A seed file. Raises ConfigError."""
        raw = read_json(path)
        try:
            if raw["schema"] != SCHEMA:
                raise ConfigError(
                    f"{quote(str(path), 200)} is a seed file of version {raw['schema']}; this is version {SCHEMA}"
                )
            config = build(DistillationConfig, raw["config"], str(path))
            model, weights, threads, quick = (
                raw[name] for name in ("model", "weights", "threads", "quick")
            )
            where = tuple(raw[name] for name in ("device", "dtype", "records"))
        except (KeyError, TypeError, AttributeError):
            raise ConfigError(
                f"{quote(str(path), 200)} is no seed file; give the seeds.json of a run"
            ) from None
        texts = all(isinstance(text, str) for text in (model, weights, *where))
        counts = type(threads) is int and 0 < threads <= MAX_THREADS
        if not (texts and counts and type(quick) is bool):
            raise ConfigError(
                f"{quote(str(path), 200)} is no seed file; give the seeds.json of a run"
            )
        return cls(config, model, weights, threads, quick, *where)


@dataclass(frozen=True)
class Result:
    """An experiment's conclusion, with its claims decided."""

    name: str
    conclusion: Conclusion
    findings: list[Finding]

    def primary(self, control: bool) -> Finding:
        """The finding that the experiment's verdict is taken from, as first described or after controls."""
        return next(finding for finding in self.findings if finding.control == control)


def read_json(path: str | Path) -> Any:
    """What a JSON file holds. Raises DataError."""
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise ValueError(f"it has over {MAX_BYTES} bytes")
        return json.loads(raw)
    except OSError as error:
        raise DataError(f"cannot read {quote(str(path), 200)}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{quote(str(path), 200)} is no JSON: {error}") from None


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all. Raises what `write_atomic` does."""
    write_atomic(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def fingerprint(policy: Policy) -> str:
    """16 hex digits of a policy's weights and their precision."""
    digest = hashlib.blake2b(digest_size=8)
    for weight in policy.module.parameters():
        digest.update(str(weight.dtype).encode())
        digest.update(weight.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def content(path: str) -> str:
    """16 hex digits of a file's content. Raises DataError."""
    try:
        return hashlib.blake2b(Path(path).read_bytes(), digest_size=8).hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {quote(path, 200)}: {error.strerror or error}") from None


def prepare(folder: Path, setting: Setting) -> None:
    """Make the folder and its seed file, or see that it is of the same run. Raises DataError and ConfigError."""
    try:
        (folder / "parts").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot make the folder {quote(str(folder), 200)}: {error.strerror or error}"
        ) from None
    path = folder / "seeds.json"
    if path.exists():
        known = Setting.read(path)
        if known != setting:
            differ = [
                option.name
                for option in fields(setting.config)
                if _differ(setting.config, known.config, option.name)
            ]
            others = [option.name for option in fields(setting) if option.name != "config"]
            differ += [name for name in others if _differ(setting, known, name)]
            where = quote(str(folder), 200)
            raise ConfigError(
                f"{where} holds a run with another {', '.join(differ)}; give the same settings or another --out"
            )
    elif any((folder / "parts").glob("*.json")):
        raise ConfigError(
            f"{quote(str(folder), 200)} holds parts without the seeds.json of their run; give another --out"
        )
    else:
        write_json(path, setting.as_json())


def _differ(first: object, second: object, name: str) -> bool:
    return bool(getattr(first, name) != getattr(second, name))


def run(
    policy: Policy,
    environment: Environment,
    setting: Setting,
    names: Sequence[str],
    folder: Path,
    tell: Tell,
) -> list[Result]:
    """Measure what is not measured yet of some experiments, and conclude from all that are measured. Raises UserError."""
    prepare(folder, setting)
    config = setting.config
    seeds = range(config.first_seed, config.first_seed + config.seeds)

    def part(name: str, seed: int) -> Path:
        return folder / "parts" / f"{name}-{seed}.json"

    for seed in seeds:
        study = Study(policy, environment, config, seed)
        for name in names:
            if not part(name, seed).exists():
                tell(name, seed, "")
                write_json(
                    part(name, seed), EXPERIMENTS[name].measure(study, partial(tell, name, seed))
                )
            tell(name, seed, "done")
    whole = [name for name in EXPERIMENTS if all(part(name, seed).exists() for seed in seeds)]
    return [
        conclude(name, [read_json(part(name, seed)) for seed in seeds], config) for name in whole
    ]


def conclude(name: str, parts: Sequence[Mapping[str, Any]], config: DistillationConfig) -> Result:
    """The conclusion from the parts of one experiment. Raises DataError for parts that cannot be those of it."""
    rng = np.random.default_rng((config.first_seed, list(EXPERIMENTS).index(name)))
    try:
        conclusion = EXPERIMENTS[name].conclude(parts, config, rng)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise DataError(
            f"the parts of {name} cannot be read ({error!r}); if files in parts/ were damaged, delete those"
        ) from None
    return Result(
        name, conclusion, [decide(claim, rng, config.resamples) for claim in conclusion.claims]
    )


__all__ = [
    "Result",
    "Setting",
    "Tell",
    "conclude",
    "content",
    "fingerprint",
    "prepare",
    "read_json",
    "run",
    "write_json",
]
