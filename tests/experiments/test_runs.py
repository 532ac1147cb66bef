"""Whole runs of the experiments: the same results again, alone and after interruptions; refused
inputs and written files."""

from __future__ import annotations

import json
import math
import re
import shutil
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskdiff.errors import DataError, UserError
from maskdiff.experiments.distillation import cli as distillation_cli
from maskdiff.experiments.distillation import plots, report, runner
from maskdiff.experiments.distillation.rollouts import Rollouts
from maskdiff.experiments.distillation.runner import RunSettings, weights_fingerprint
from maskdiff.experiments.distillation.trainer import DistillationTrainer
from tests.helpers.distillation import (
    NAMES,
    SMALL,
    Letters,
    Located,
    ignore_progress,
    one_line,
    parts_of,
    planted,
    results_of,
    run,
    setting_of,
)

every_experiment = pytest.mark.parametrize("name", NAMES)


def files_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Returns the modification time and the bytes of every file."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in paths
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run, as the command leaves it."""
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("whole") / "run"
    policy = planted()
    distillation_cli._run(policy, Located(), setting_of(policy), NAMES, folder, True)
    return folder


# ----------------------------------------------------------------------------------- the same again


@pytest.mark.slow
def test_a_seed_file_gives_the_same_bytes_in_another_folder(whole: Path, tmp_path: Path) -> None:
    known = RunSettings.read(whole / "seeds.json")
    assert known == setting_of(planted())
    assert run(tmp_path / "again", setting=known) == (whole / "results.json").read_bytes()
    assert parts_of(tmp_path / "again") == parts_of(whole)
    assert sorted(parts_of(whole)) == sorted(
        f"{name}-{seed}.json" for name in NAMES for seed in (0, 1)
    )
    assert (tmp_path / "again/seeds.json").read_bytes() == (whole / "seeds.json").read_bytes()


@pytest.mark.slow
def test_other_seeds_and_other_weights_give_other_results(whole: Path, tmp_path: Path) -> None:
    """The negative control: equal bytes are not for want of anything random."""
    first = parts_of(whole)
    assert all(first[f"{name}-0.json"] != first[f"{name}-1.json"] for name in NAMES)
    run(tmp_path / "weights", policy=planted(1))
    assert all(found != first[name] for name, found in parts_of(tmp_path / "weights").items())
    run(tmp_path / "later", setting=setting_of(planted(), replace(SMALL, first_seed=1, seeds=1)))
    assert all(
        found == first[name] for name, found in parts_of(tmp_path / "later").items()
    )  # a seed is the same in any set


@pytest.mark.slow
@every_experiment
def test_an_experiment_alone_equals_its_part_of_the_set_and_keeps_the_weights(
    whole: Path, tmp_path: Path, name: str
) -> None:
    policy = planted()
    before, seen = policy.module[0].detach().clone(), []

    def record(experiment: str, seed: int, what: str) -> None:
        seen.append(torch.equal(policy.module[0], before))

    run(tmp_path, [name], policy=policy, progress=record)
    assert results_of(tmp_path)["experiments"] == {name: results_of(whole)["experiments"][name]}
    assert parts_of(tmp_path) == {
        part: raw for part, raw in parts_of(whole).items() if part.startswith(f"{name}-")
    }
    assert torch.equal(policy.module[0], before)
    assert seen[-1]
    assert all(seen) == (
        name not in ("training",)
    )  # training reports every step; windows reports each arm before it runs


@pytest.mark.slow
def test_the_order_of_experiments_does_not_matter(whole: Path, tmp_path: Path) -> None:
    run(tmp_path, NAMES[::-1])
    assert parts_of(tmp_path) == parts_of(whole)
    assert results_of(tmp_path) == results_of(whole)


@pytest.mark.slow
def test_an_interrupted_run_resumes_with_the_same_policy_and_bytes(
    whole: Path, tmp_path: Path
) -> None:
    """The run is interrupted at every fifth new progress message, also during training."""
    policy, stopped, messages = planted(), [], set()
    before = policy.module[0].detach().clone()

    def report_progress(*what: object) -> None:
        if what not in messages:
            messages.add(what)
            if len(messages) % 5 == 0:
                raise KeyboardInterrupt(*what)

    for _ in range(50):
        try:
            found = run(tmp_path, policy=policy, progress=report_progress)
            break
        except KeyboardInterrupt as interrupt:
            stopped.append(interrupt.args)
            assert torch.equal(policy.module[0], before)
    else:
        pytest.fail("it never came to an end")
    assert len(stopped) >= 10
    assert {name for name, _, what in stopped if what} >= {"training", "windows"}
    assert found == (whole / "results.json").read_bytes()
    assert parts_of(tmp_path) == parts_of(whole)


@pytest.mark.slow
def test_measured_parts_are_not_measured_again(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    (folder / "parts/windows-1.json").unlink()
    messages = []
    before = files_of(folder)
    assert (
        run(folder, progress=lambda *what: messages.append(what))
        == (whole / "results.json").read_bytes()
    )
    assert {(name, seed) for name, seed, what in messages if what != "done"} == {("windows", 1)}
    assert sum(what == "done" for *_, what in messages) == 10
    after = files_of(folder)
    assert after["parts/windows-1.json"][1] == files_of(whole)["parts/windows-1.json"][1]
    assert all(after[name] == before[name] for name in before if name != "results.json")


@pytest.mark.slow
def test_a_part_does_not_change_when_its_bytes_are_read_again(whole: Path) -> None:
    """The conclusions use the parts as they were written: numbers of 9 digits, None for unknown
    values."""
    for name, raw in parts_of(whole).items():
        assert (
            json.dumps(json.loads(raw, parse_constant=pytest.fail), indent=1) + "\n" == raw.decode()
        ), name


# ----------------------------------------------------------------------------------- refused inputs


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes, named",
    [
        ({"rollouts": 3}, "rollouts"),
        ({"seeds": 3}, "seeds"),
        ({"temperature": 0.5, "tail": True}, "temperature, tail"),
        ({"teacher": "ema"}, "teacher"),
        ({"records": "other.jsonl"}, "records"),
    ],
)
def test_parts_of_another_configuration_are_refused(
    whole: Path, changes: dict[str, Any], named: str
) -> None:
    before = files_of(whole)
    message = one_line(lambda: run(whole, setting=setting_of(planted(), replace(SMALL, **changes))))
    assert f"holds a run with another {named};" in message
    assert files_of(whole) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes, named",
    [
        ({"weights": "0" * 16}, "weights"),
        ({"model": "x"}, "model"),
        ({"threads": 2}, "threads"),
        ({"device": "cuda:0"}, "device"),
        ({"dtype": "bfloat16", "records": "0" * 16}, "dtype, records"),
    ],
)
def test_parts_of_another_model_or_machine_are_refused(
    whole: Path, changes: dict[str, Any], named: str
) -> None:
    before = files_of(whole)
    assert f"another {named};" in one_line(
        lambda: run(whole, setting=replace(setting_of(planted()), **changes))
    )
    assert files_of(whole) == before


def test_a_fingerprint_depends_on_every_weight() -> None:
    seen = {weights_fingerprint(planted(seed)) for seed in range(20)}
    assert len(seen) == 20
    policy = planted()
    assert weights_fingerprint(policy) == weights_fingerprint(policy.twin())
    with torch.no_grad():
        policy.module[0][3, 7] += 1e-6
    assert weights_fingerprint(policy) not in seen


def test_an_unusable_folder_raises_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot make the folder" in one_line(lambda: run(tmp_path / "file"))
    (tmp_path / "parts").write_text("")
    assert "cannot make the folder" in one_line(lambda: run(tmp_path))


@pytest.mark.slow
def test_parts_without_their_seed_file_are_not_reused(whole: Path, tmp_path: Path) -> None:
    """The owner of such parts is unknown, so that a run of another policy must not use them."""
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    (folder / "seeds.json").unlink()
    other = planted(1)
    try:
        run(folder, ["rewards"], policy=other)
    except UserError:
        return
    assert parts_of(folder)["rewards-0.json"] != parts_of(whole)["rewards-0.json"]


# ------------------------------------------------------------------------------------ written files


def numbers(value: Any) -> Iterator[float]:
    """All numbers of JSON."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from numbers(inner)
    elif isinstance(value, float):
        yield value


def strange(text: str) -> list[str]:
    """Returns every spelling of NaN or infinity in a text."""
    return re.findall(r"\b-?(?:nan|inf|infinity)\b", text, flags=re.IGNORECASE)


@pytest.mark.slow
def test_results_hold_numbers_and_no_times_or_paths(whole: Path) -> None:
    """Two runs with equal bytes show that the results hold no time."""
    text = (whole / "results.json").read_text()
    results = results_of(whole)
    assert list(results["experiments"]) == NAMES
    assert sum(1 for _ in numbers(results)) > 300
    assert all(map(math.isfinite, numbers(results)))
    assert strange(text) == []
    for path in (whole, whole.parent, Path.cwd(), Path(sys.prefix), Path.home()):
        assert str(path) not in text
    assert torch.__version__ not in text
    for name, made in results["experiments"].items():
        kinds = {
            claim["control"]: claim["verdict"] for claim in reversed(made["claims"])
        }  # the first of each kind
        assert (made["verdict"], made["verdict_controlled"]) == (kinds[False], kinds[True]), name


def test_answers_of_few_tokens_leave_no_strange_numbers(tmp_path: Path) -> None:
    """Six tokens leave four deciles empty: unknown numbers are null or a dash."""
    config = replace(SMALL, max_tokens=6, seeds=1)
    policy = planted(end=-9.0)
    setting = setting_of(policy, config)
    text = run(tmp_path, setting=setting, policy=policy).decode()
    assert strange(text) == []
    results = runner.run_experiments(policy, Located(), setting, NAMES, tmp_path, ignore_progress)
    assert strange(report.to_markdown(results, setting, "command")) == []


@pytest.mark.slow
def test_an_environment_that_cannot_locate_mistakes_has_no_claims_about_them(
    whole: Path, tmp_path: Path
) -> None:
    run(tmp_path, ["positions"], environment=Letters())
    made = (
        results_of(folder)["experiments"]["positions"]["claims"] for folder in (tmp_path, whole)
    )
    without, within = ({claim["name"]: claim for claim in claims} for claims in made)
    assert set(without) < set(within)
    assert all("area" in name for name in set(within) - set(without))
    known = {name: claim for name, claim in within.items() if name in without}
    assert {name: claim["estimate"]["value"] for name, claim in without.items()} == {
        name: claim["estimate"]["value"] for name, claim in known.items()
    }


@pytest.mark.slow
def test_the_page_shows_every_claim_table_and_note(whole: Path) -> None:
    page = (whole / "report.md").read_text()
    config = results_of(whole)["config"]
    assert f"{config['seeds']} seeds" in page
    assert f"{config['problems']} problems" in page
    assert report.RULE in page
    unseen = 0
    for name, made in results_of(whole)["experiments"].items():
        assert made["title"] in page
        assert made["predicts"] in page
        assert f"]({name}.png)" in page
        for claim in made["claims"]:
            kind = " (control)" if claim["control"] else ""
            (row,) = [
                line
                for line in page.splitlines()
                if line.startswith(f"| {claim['name']}{kind}: {claim['text']} |")
            ]
            little = "" if claim["seen"] else " (too little to see)"
            assert row.endswith(f"| {claim['margin']:g} | {claim['verdict']}{little} |")
            unseen += bool(little)
            value, low = claim["estimate"]["value"], claim["estimate"]["low"]
            figure = row.split("|")[2].strip()
            if value is not None:
                assert float(figure.split()[0]) == pytest.approx(value, abs=6e-4)
                assert ("[unknown]" in figure) == (low is None)
        for table in made["tables"]:
            assert f"{table['title']}:" in page
            assert all(f"| {row[0]} |" in page for row in table["rows"] if isinstance(row[0], str))
        assert all(f"- {note}" in page for note in made["notes"])
    assert unseen
    blocks = re.findall(r"(?:^\|.*\n)+", page, flags=re.MULTILINE)
    assert len(blocks) > 10
    assert all(
        len({line.count("|") for line in block.splitlines()}) == 1 for block in blocks
    )  # rows of equal cells


@pytest.mark.slow
def test_the_summary_shows_both_verdicts_of_each_claim(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    for part in (folder / "parts").iterdir():
        if part.name.partition("-")[0] not in ("tokens", "rewards"):
            part.unlink()
    policy = planted()
    distillation_cli._run(
        policy, Located(), setting_of(policy), ["tokens", "rewards"], folder, False
    )
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in out[:-1]] == ["rewards", "rewards", "tokens", "tokens"]
    assert [line[11:].split("  ")[0] for line in out[:-1]] == ["as described", "controlled"] * 2
    for line in out[:-1]:
        assert any(verdict in line for verdict in ("supported", "undecided"))
    assert str(folder / "report.md") in out[-1]
    page = (folder / "report.md").read_text()
    assert f"--experiment rewards tokens --seed_file {folder}/seeds.json" in page
    assert ".png" not in page


@pytest.mark.slow
def test_results_include_every_measured_part(whole: Path, tmp_path: Path) -> None:
    """Single experiments add up to the results of the set; only experiments that lack a seed are
    left out."""
    policy = planted()
    for count, name in enumerate(("windows", "rewards", "tokens"), 1):
        run(tmp_path / "one", [name], policy=policy)
        found = results_of(tmp_path / "one")["experiments"]
        assert list(found) == [
            name for name in NAMES if name in ("windows", "rewards", "tokens")[:count]
        ]
        assert all(found[name] == results_of(whole)["experiments"][name] for name in found)
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    assert run(folder, ["tokens"]) == run(folder, []) == (whole / "results.json").read_bytes()
    (folder / "parts/positions-0.json").unlink()
    messages = list[tuple[str, int, str]]()
    run(folder, ["rewards"], progress=lambda *what: messages.append(what))
    assert messages == [
        ("rewards", 0, "done"),
        ("rewards", 1, "done"),
    ]  # only the requested experiments are measured
    assert list(results_of(folder)["experiments"]) == [
        name for name in NAMES if name != "positions"
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "maskdiff.experiments.distillation.plots.plot_png", lambda result: result.name.encode()
        )
        distillation_cli._run(policy, Located(), setting_of(policy), ["rewards"], folder, True)
    for name in NAMES:  # the page and the pictures are of the same experiments
        assert (f"]({name}.png)" in (folder / "report.md").read_text()) == (name != "positions")
        drawn = (folder / f"{name}.png").read_bytes()
        assert drawn == (
            name.encode() if name != "positions" else (whole / f"{name}.png").read_bytes()
        )


def test_records_are_identified_by_their_content(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    made = set[str]()
    for raw in (b"", b"{}", b"{} ", b"\xff" * 100_000):
        path.write_bytes(raw)
        made.add(runner.file_fingerprint(str(path)))
        assert runner.file_fingerprint(str(path)) in made
    assert len(made) == 4
    assert all(re.fullmatch("[0-9a-f]{16}", text) for text in made)
    assert (
        one_line(lambda: runner.file_fingerprint(str(tmp_path)))
        == f"cannot read '{tmp_path}': Is a directory"
    )


@pytest.mark.slow
def test_plots_are_images_with_content(whole: Path) -> None:
    image = pytest.importorskip("matplotlib.image")
    for name in NAMES:
        raw = (whole / f"{name}.png").read_bytes()
        assert raw.startswith(b"\x89PNG\r\n\x1a\n")
        width, height = struct.unpack(">II", raw[16:24])
        assert 400 <= width <= 3000
        assert 400 <= height <= 1500
        assert 5_000 < len(raw) < 2_000_000
        pixels = image.imread(whole / f"{name}.png")
        assert pixels.shape[:2] == (height, width)
        assert (
            len(np.unique(pixels[..., 0])) + len(np.unique(pixels[..., 2])) > 40
        )  # something is drawn, in colours
        assert 0.5 < float((pixels[..., :3].min(-1) > 0.99).mean()) < 0.99  # mostly on white


def test_without_matplotlib_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(DataError, match=r"pip install 'maskdiff\[plots\]'"):
        plots.require_matplotlib()


def test_negative_control_a_step_outside_an_experiment_moves_the_weights() -> None:
    """The negative control of the weights' test: the same step outside an experiment does move
    them."""
    policy = planted()
    before = policy.module[0].detach().clone()
    rollouts = Rollouts(policy, Letters(), SMALL, 0)
    DistillationTrainer(policy, SMALL).step(rollouts.standard_pairs(rollouts.sampled))
    assert not torch.equal(policy.module[0], before)
