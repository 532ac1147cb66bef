"""Damaged files of a run of experiments: each is an error of one line that says what is damaged;
none is concluded from."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maskdiff.errors import UserError
from maskdiff.experiments.distillation.runner import RunSettings
from tests.helpers.distillation import NAMES, one_line, run

every_experiment = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(folder)
    return folder


def mended(folder: Path, path: str, change: Callable[[Any], Any]) -> None:
    """Write a file of JSON regenerate."""
    (folder / path).write_text(json.dumps(change(json.loads((folder / path).read_text()))))


GO_ON = "if files in parts/ were damaged, delete those"
DAMAGES: dict[str, Callable[[Any], Any]] = {
    "a list": lambda part: [part],
    "nothing": lambda part: None,
    "a number": lambda part: 3,
    "a text": lambda part: "part",
    "no keys": lambda part: {},
    "texts for lists": lambda part: dict.fromkeys(part, "x"),
    "numbers for lists": lambda part: dict.fromkeys(part, 3),
    "nulls for all": lambda part: dict.fromkeys(part),
    "ragged lists": lambda part: {key: [1.0, [2.0]] for key in part},
    "lists of texts": lambda part: {key: ["x"] for key in part},
    "flat lists": lambda part: {key: [1.0, 2.0, 3.0] for key in part},
}
INNER: dict[str, dict[str, Callable[[Any], Any]]] = {
    "rewards": {
        "a way is missing": lambda part: {**part, "all": {}},
        "fewer problems": lambda part: {
            **part,
            "all": {**part["all"], "sampled": part["all"]["sampled"][:2]},
        },
        "texts": lambda part: {**part, "all": {**part["all"], "sampled": ["x", "y", "z"]}},
        "no names": lambda part: {key: value for key, value in part.items() if key != "names"},
        "names of another seed, and too few": lambda part: {**part, "names": ["0-0"]},
        "names that are lists": lambda part: {**part, "names": [[name] for name in part["names"]]},
    },
    "positions": {
        "fewer deciles": lambda part: {
            **part,
            "curves": {k: [row[:9] for row in v] for k, v in part["curves"].items()},
        },
        "a text": lambda part: {**part, "compared": "most"},
        "no curve": lambda part: {**part, "curves": {**part["curves"], "standard": []}},
        "no difference": lambda part: {
            **part,
            "curves": {k: v for k, v in part["curves"].items() if k != "gap_edit"},
        },
        "no areas": lambda part: {**part, "areas": {}},
        "areas of nowhere": lambda part: {
            **part,
            "areas": {**part["areas"], "untold": {"early": 0.5}},
        },
    },
    "training": {
        "fewer steps": lambda part: {**part, "standard": [row[:1] for row in part["standard"]]},
        "problems beyond measure": lambda part: {**part, "problems": 1e400},
        "problems below none": lambda part: {**part, "problems": -1},
    },
    "windows": {
        "an arm is missing": lambda part: {
            **part,
            "gains": {k: v for k, v in part["gains"].items() if k != "last"},
        },
        "ragged": lambda part: {**part, "before": [1.0, [2.0], 3.0]},
        "problems in words": lambda part: {**part, "problems": "three"},
    },
    "tokens": {
        "fewer problems": lambda part: {
            **part,
            "curves": {**part["curves"], "top": part["curves"]["top"][:1]},
        },
        "texts": lambda part: {**part, "curves": dict.fromkeys(part["curves"], [["x"] * 10] * 3)},
    },
}


@pytest.mark.slow
@every_experiment
def test_damaged_parts_raise_a_one_line_error(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Invalid JSON is reported with its file, an unexpected shape with its experiment; no
    damage raises a traceback or enters the results."""
    monkeypatch.chdir(tmp_path)
    folder = Path("copy")  # a short name, which messages do not cut
    shutil.copytree(whole, folder)
    part = folder / f"parts/{name}-1.json"
    good = part.read_bytes()
    for raw in (b"", b"{", good[: len(good) // 2], b"\xff\xfe", b"[" * 100_000, good + b"x"):
        part.write_bytes(raw)
        message = one_line(lambda: run(folder, [name]))
        assert f"{name}-1.json" in message
        assert "is no JSON" in message
    escaped = []
    for what, damage in {**DAMAGES, **INNER[name]}.items():
        part.write_bytes(good)
        mended(folder, f"parts/{name}-1.json", damage)
        try:
            run(folder, [name])
            escaped.append(f"{what}: concluded from")
        except UserError as error:
            if not re.fullmatch(rf"the parts of {name} cannot be read \(.+\); {GO_ON}", str(error)):
                escaped.append(f"{what}: {error}")
        except Exception as error:
            escaped.append(f"{what}: {error!r}")
    assert not escaped, "\n".join(escaped)
    for other in NAMES:  # all that is there is concluded from
        with pytest.raises(UserError, match=f"the parts of {name} cannot be read"):
            run(folder, [other])
    part.unlink()
    part.mkdir()
    assert one_line(lambda: run(folder, [name])) == f"cannot read '{part}': Is a directory"


SEED_FILES: dict[str, Callable[[Any], Any]] = {
    "a list": lambda seeds: [seeds],
    "no configuration": lambda seeds: {**seeds, "config": None},
    "no model": lambda seeds: {key: value for key, value in seeds.items() if key != "model"},
    "threads in words": lambda seeds: {**seeds, "threads": "one"},
    "threads of truth": lambda seeds: {**seeds, "threads": True},
    "threads below none": lambda seeds: {**seeds, "threads": -1},
    "weights of a number": lambda seeds: {**seeds, "weights": 3},
    "no device": lambda seeds: {key: value for key, value in seeds.items() if key != "device"},
    "precision of a number": lambda seeds: {**seeds, "dtype": 32},
    "records of nothing": lambda seeds: {**seeds, "records": None},
}


@pytest.mark.parametrize("what", SEED_FILES)
def test_damaged_seed_files_raise_a_one_line_error(whole: Path, tmp_path: Path, what: str) -> None:
    path = tmp_path / "seeds.json"
    shutil.copy(whole / "seeds.json", path)
    mended(tmp_path, "seeds.json", SEED_FILES[what])
    assert "is no seed file; give the seeds.json of a run" in one_line(
        lambda: RunSettings.read(path)
    )


def test_unreadable_and_unknown_seed_files_raise_a_one_line_error(
    whole: Path, tmp_path: Path
) -> None:
    path = tmp_path / "seeds.json"
    assert "No such file" in one_line(lambda: RunSettings.read(path))
    assert "Is a directory" in one_line(lambda: RunSettings.read(tmp_path))
    for raw in (b"", b"{", b"\xff", (whole / "seeds.json").read_bytes()[:-5]):
        path.write_bytes(raw)
        assert "is no JSON" in one_line(lambda: RunSettings.read(path))

    def read(change: Callable[[Any], Any]) -> str:
        shutil.copy(whole / "seeds.json", path)
        mended(tmp_path, "seeds.json", change)
        return one_line(lambda: RunSettings.read(path))

    assert "is a seed file of version 2; this is version 1" in read(
        lambda seeds: {**seeds, "schema": 2}
    )
    message = read(lambda seeds: {**seeds, "config": {**seeds["config"], "problms": 3}})
    assert "unknown key 'problms'; the nearest valid one is 'problems'" in message
    assert "seeds is '0'" in read(
        lambda seeds: {**seeds, "config": {**seeds["config"], "seeds": 0}}
    )
