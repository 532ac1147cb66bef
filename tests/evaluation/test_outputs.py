"""Outputs of the benchmark after failures, default samplers of a model, and plots."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from maskdiff import metrics
from maskdiff.cli import benchmark, measuring
from maskdiff.config import SamplerConfig
from maskdiff.errors import DataError
from maskdiff.evaluation import plots, report, suites
from maskdiff.evaluation.rows import Row, make_row
from maskdiff.evaluation.samplers import required_inputs
from maskdiff.sampling.compose import Speculate
from maskdiff.sampling.predictive import Predictive
from maskdiff.sampling.presets import PRESETS, make_sampler
from maskdiff.sampling.stage import Chain, Sampler
from tests.helpers.evaluation import run_benchmark, save_tiny
from tests.helpers.streams import closed_pipe

pytestmark = pytest.mark.usefixtures("few_references")
QUICK = [
    "--num_samples",
    "4",
    "--suite",
    "generation",
    "--sampler",
    "random",
    "--maskgit_steps",
    "2",
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "best.pt")


@pytest.fixture(scope="module")
def coupled_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(
        tmp_path_factory.mktemp("able") / "best.pt", use_self_cond=True, use_coupling=True
    )


def measured(path: Path) -> list[dict[str, Any]]:
    return [r for r in json.loads(path.read_text())["rows"] if r["metric"] == "evaluations"]


# -------------------------------------------------------------------------------------------- files


def test_a_full_disk_keeps_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_disk_full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "o.json"
    report.write_text(path, "old")
    monkeypatch.setattr(os, "fsync", raise_disk_full)
    with pytest.raises(DataError, match="cannot write"):
        report.write_text(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["o.json"]
    assert path.read_text() == "old"


def test_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    report.check_writable(pipe)
    report.write_text(pipe, "text")
    assert os.read(reader, 10) == b"text"
    assert pipe.is_fifo()
    os.close(reader)


def test_one_bad_output_does_not_prevent_the_others(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = tmp_path / "o.json", tmp_path / "o.md"
    bad.mkdir()
    monkeypatch.setattr(
        measuring, "check_outputs", lambda _: None
    )  # as if it had gone bad while measuring
    assert run_benchmark(*QUICK, "--checkpoint", tiny, "--json", bad, "--markdown", good) == 2
    shown = capsys.readouterr()
    assert "generation, strings" in shown.out
    assert "cannot write" in shown.err
    assert "# Benchmark" in good.read_text()


@pytest.mark.slow
def test_a_closed_standard_output_does_not_prevent_the_files(tiny: Path, tmp_path: Path) -> None:
    flags = [*QUICK, "--checkpoint", tiny, "--json", tmp_path / "o.json"]
    with closed_pipe():
        assert run_benchmark(*flags) == 141
    assert measured(tmp_path / "o.json")


@pytest.mark.parametrize(("after", "left"), [(1, True), (0, False)])
def test_an_interruption_keeps_the_finished_rows(
    after: int,
    left: bool,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole: Callable[..., Iterator[list[Row]]] = suites.iter_suites

    def stopped(*given: Any) -> Iterator[list[Row]]:
        for done, rows in enumerate(whole(*given)):
            if done == after:
                raise KeyboardInterrupt
            yield rows

    monkeypatch.setattr(suites, "iter_suites", stopped)
    path = tmp_path / "o.json"
    assert (
        run_benchmark(
            *QUICK, "--suite", "generation", "likelihood", "--checkpoint", tiny, "--json", path
        )
        == 130
    )
    shown = capsys.readouterr()
    assert path.exists() is left
    assert ("1 of 2 suites" in shown.err) is ("generation, strings" in shown.out) is left
    if left:
        assert "1 of 2" in json.loads(path.read_text())["interrupted"]


# ------------------------------------------------------------------------- checkpoints and samplers


def test_the_same_file_is_measured_once(
    tiny: Path, coupled_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "link.pt").symlink_to(tiny)
    same = [str(tiny), f"{tiny.parent}/./best.pt", str(tmp_path / "link.pt")]
    assert [(s.name, s.loaded.path) for s in measuring.load_subjects(same, "cpu")] == [
        ("", str(tiny))
    ]
    assert len(measuring.load_subjects([*same, str(coupled_checkpoint)], "cpu")) == 2
    (tmp_path / "link.bin").write_bytes(tiny.read_bytes())
    names = ["link.pt", "link.bin"]
    subjects = measuring.load_subjects([str(tmp_path / name) for name in names], "cpu")
    assert [s.name for s in subjects] == names


def test_the_shipped_checkpoint_is_found_from_anywhere(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home" / "checkpoints" / "best.pt"
    home.parent.mkdir(parents=True)
    home.write_bytes(tiny.read_bytes())
    monkeypatch.setattr(
        "maskdiff.cli.arguments.__file__",
        str(tmp_path / "home" / "maskdiff" / "cli" / "arguments.py"),
    )
    monkeypatch.chdir(tmp_path)
    assert run_benchmark(*QUICK) == 0
    assert str(home) in capsys.readouterr().out


@pytest.mark.slow
def test_a_model_without_an_input_is_left_out(
    tiny: Path, coupled_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [
        "--num_samples",
        "4",
        "--suite",
        "generation",
        "--use_self_cond",
        "--sampler",
        "coupled",
        "random",
    ]
    out = tmp_path / "o.json"
    assert run_benchmark(*flags, "--checkpoint", tiny, coupled_checkpoint, "--json", out) == 0
    err = capsys.readouterr().err
    for words in (
        "use_self_cond: self_conditioned is left out",
        "use_coupling: coupled is left out",
    ):
        assert f"{tiny.parent.name}/best was trained without {words}" in err
    by_checkpoint: dict[str, list[str]] = {}
    for r in measured(out):
        by_checkpoint.setdefault(r["settings"]["checkpoint"], []).append(r["sampler"])
    assert by_checkpoint[f"{tiny.parent.name}/best"] == ["random"]
    assert by_checkpoint[f"{coupled_checkpoint.parent.name}/best"] == [
        "coupled",
        "random",
        "self_conditioned",
    ]


def test_default_samplers_include_coupling_for_coupled_models_only(
    tiny: Path, coupled_checkpoint: Path
) -> None:
    plan = measuring.make_plan(benchmark.build_parser().parse_args([]))
    plain, coupled = measuring.load_subjects([str(tiny), str(coupled_checkpoint)], "cpu")
    assert suites.check_subjects([plain], plan) == []
    left_out = set(plan.samplers) - set(suites.own_plan(plain, plan).samplers)
    assert left_out == {
        SamplerConfig("coupled_left_to_right", steps=0),
        SamplerConfig("coupled", steps=12),
    }
    assert suites.own_plan(coupled, plan) == plan
    assert (
        suites.count_measurements([plain, coupled], plan, ["generation"])
        == 2 * len(plan.samplers) - 2
    )


def _stages(sampler: Sampler) -> list[Sampler]:
    return (
        [s for stage in sampler.stages for s in _stages(stage)]
        if isinstance(sampler, Chain)
        else [sampler]
    )


def test_presets_verified_by_the_causal_mode_are_marked() -> None:
    for name in PRESETS:
        stages = _stages(make_sampler(SamplerConfig(name)))
        assert (
            any(isinstance(s, (Predictive, Speculate)) for s in stages) is PRESETS[name].verified
        ), name
        expected = (
            "noise"
            if name.startswith("coupled")
            else "previous"
            if name == "self_conditioned"
            else None
        )
        assert required_inputs(make_sampler(SamplerConfig(name))) == ({expected} - {None}), name
    rows = [
        make_row("generation", name, {}, "parses", metrics.wilson(1, 2))
        for name in ("speculative", "entropy")
    ]
    text, markdown = (
        show(report.Report(rows)) for show in (report.to_terminal, report.to_markdown)
    )
    assert "\nspeculative*  " in text
    assert "\nentropy  " in text
    assert f"(*) {report.FOOTNOTE}" in text
    assert f"(\\*) {report.FOOTNOTE}" in markdown
    assert report.FOOTNOTE not in report.to_terminal(report.Report(rows[1:]))


def test_header_counts_all_training_of_a_model(tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "x.pt", {"tokens": 2000, "step": 10, "parent_tokens": 30000})
    facts = suites.checkpoint_facts(measuring.load_subjects([str(path)], "cpu")[0])
    assert (
        "trained on 2,000 tokens in 10 steps, started from weights trained on 30,000 tokens"
        in suites.checkpoint_line(facts)
    )
    del facts["provenance"]["parent_tokens"]
    assert suites.checkpoint_line(facts).endswith("in 10 steps")


# -------------------------------------------------------------------------------------------- plots


@pytest.mark.slow
def test_plots_keep_their_order_and_separate_points() -> None:
    figure = pytest.importorskip("matplotlib.figure")
    rows = [
        make_row("generation", name, {"nesting": depth}, "parses", metrics.wilson(depth, 20))
        for name, depths in (("a", (3, 10)), ("b", (10, 1, 2, 3)))
        for depth in depths
    ]
    axes = figure.Figure().add_subplot()
    assert plots.plot_nesting(axes, rows)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2", "3", "10"]
    drawn = [line.lines[0].get_xydata() for line in axes.containers]
    assert [list(series[:, 0].round()) for series in drawn] == [[2, 3], [0, 1, 2, 3]]
    assert [list(series[:, 1]) for series in drawn] == [[15, 50], [5, 10, 15, 50]]
    assert abs(drawn[0][0, 0] - drawn[1][2, 0]) > 0.1
    moved = plots.apart([17.0, 12.0, 17.0, 0.0, 17.1])
    assert moved[1] == 12.0
    assert moved[3] == 0.0
    assert moved[0] < moved[2] < moved[4]
    assert sum(moved) == pytest.approx(63.1)
    assert plots.apart([]) == []


def test_plots_name_what_was_measured() -> None:
    facts = [
        {"name": "", "path": "some/where/small.pt"},
        {"name": "a", "path": "a.pt"},
        {"name": "b", "path": "b.pt"},
    ]
    assert plots.subtitle({"checkpoints": facts[:1], "samples": 8}) == "where/small.pt, 8 strings"
    assert plots.subtitle({"checkpoints": facts[1:], "samples": 8}) == "a, b, 8 strings"
    assert plots.subtitle({"checkpoints": facts, "samples": 8}) == "3 checkpoints, 8 strings"
    assert plots.subtitle({}) == "model, ? strings"
