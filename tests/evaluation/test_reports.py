"""Reports, plots and the command line of the benchmark, on invented figures and a checkpoint."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from maskdiff import metrics
from maskdiff.cli import benchmark, measuring
from maskdiff.errors import DataError
from maskdiff.evaluation import names, plots, report, samplers, suites
from maskdiff.evaluation.rows import Row, RowGroup, make_row
from maskdiff.metrics import Estimate, Unit
from tests.helpers.evaluation import run_benchmark, save_tiny

pytestmark = pytest.mark.usefixtures("few_references")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "best.pt")


# ------------------------------------------------------------------------------------------ reports


def sample_report() -> report.Report:
    rows = [
        make_row(
            "generation",
            "ar",
            {"checkpoint": "a", "steps": 0},
            "parses",
            metrics.wilson(9, 10),
            baseline=0.01,
            ceiling=1.0,
        ),
        make_row(
            "generation",
            "ar",
            {"checkpoint": "a", "steps": 0},
            "evaluations",
            metrics.Estimate(17.0, 16.0, 18.0, 10),
        ),
        make_row(
            "generation",
            "ar",
            {"checkpoint": "a", "steps": 0, "length": "40+"},
            "parses",
            metrics.wilson(0, 0),
        ),
        make_row(
            "generation",
            "ar",
            {"checkpoint": "a", "steps": 0, "length": "<10"},
            "parses",
            metrics.wilson(1, 2),
        ),
        make_row(
            "generation",
            "ar",
            {"checkpoint": "a", "steps": 0, "nesting": 2},
            "parses",
            metrics.wilson(1, 2),
        ),
        make_row(
            "repair",
            "channel",
            {"corruption": "mixed", "sigma": 0.2},
            "aligned_accuracy",
            metrics.wilson(9, 10),
            baseline=0.76,
        ),
        make_row(
            "repair",
            "channel",
            {"corruption": "mixed", "sigma": 0.1},
            "aligned_accuracy",
            metrics.wilson(10, 10),
            baseline=0.85,
        ),
    ]
    return report.Report(rows, {"samples": 10, "seed": 0, "threads": 1})


def test_json_report_follows_schema_one(tmp_path: Path) -> None:
    made = sample_report()
    report.write_text(tmp_path / "deep" / "out.json", report.to_json(made))
    data = json.loads((tmp_path / "deep" / "out.json").read_text())
    assert data["schema"] == 1
    assert data["samples"] == 10
    keys = {
        "suite",
        "sampler",
        "settings",
        "metric",
        "value",
        "low",
        "high",
        "count",
        "baseline",
        "ceiling",
    }
    assert all(set(item) == keys for item in data["rows"])
    assert data["rows"][2]["value"] is None  # nothing measured is null, never NaN


def test_output_check_leaves_files_unchanged(tmp_path: Path) -> None:
    report.check_writable(tmp_path / "new" / "out.json")
    assert list((tmp_path / "new").iterdir()) == []
    kept = tmp_path / "kept.md"
    kept.write_text("mine")
    report.check_writable(kept)
    assert kept.read_text() == "mine"
    for bad in (tmp_path, kept / "out.json"):
        with pytest.raises(DataError, match="cannot write"):
            report.check_writable(bad)


def test_numbers_are_formatted_for_readers() -> None:
    given = [
        (None, Unit.NATS),
        (float("nan"), Unit.SHARE),
        (0.5, Unit.SHARE),
        (1234.5, Unit.NUMBER),
        (0.01234, Unit.NUMBER),
        (12.345, Unit.NUMBER),
        (123.456, Unit.PER_SECOND),
    ]
    shown = ["-", "-", "50.0", "1234", "0.0123", "12.35", "123"]
    assert [report.format_number(*pair) for pair in given] == shown


@pytest.mark.parametrize("suite", [*suites.SUITES, "a suite without a layout"])
@pytest.mark.parametrize("settings", [{}, {"length": "<10"}, {"hidden": "0.0-0.1"}])
def test_a_metric_that_no_table_lists_is_shown_everywhere(
    suite: str, settings: dict[str, str]
) -> None:
    """Report an invented metric with its unit beside a metric of the suite."""
    rows: list[Row] = []
    group = RowGroup(suite, "ar", settings, rows)
    group.add("parses", metrics.rate([True, True]))
    group.add("vowels", Estimate(0.25, 0.125, 0.5, 8, Unit.SHARE), baseline=0.75)
    group.add("weight", Estimate(0.25, 0.125, 0.5, 8, Unit.NATS))
    made = report.Report(rows)
    for text in (report.to_terminal(made), report.to_markdown(made)):
        assert "vowels" in text
        assert "25.0 [12.5, 50.0]" in text  # a share, in per cent
        assert "0.25 [0.125, 0.5]" in text  # nats are not
    shown = {row["metric"]: row["value"] for row in json.loads(report.to_json(made))["rows"]}
    assert shown == {"parses": 1.0, "vowels": 0.25, "weight": 0.25}


def test_tables_show_every_row_once() -> None:
    """Every row of the sample report has one cell, also rows that no table lists."""
    made = sample_report()
    cells = sum(
        cell != "" and line[0] not in ("(real draws)", "(blind draws)")
        for table in report.tables(made)
        for line in table.lines
        for cell in line[1:]
    )
    assert cells == len(made.rows)


def test_tables_show_values_intervals_and_baselines() -> None:
    made = sample_report()
    text = report.to_terminal(made)
    assert "seed: 0" in text
    assert "90.0 [59.6, 98.2]" in text
    assert "(real draws)" in text
    assert "/ 76.0" in text
    markdown = report.to_markdown(made)
    assert "| a ar steps=0 |" in markdown
    assert "generation, parses by length" in markdown


@pytest.mark.slow
def test_plots_are_drawn_from_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    written = plots.write_plots(sample_report(), tmp_path)
    assert [p.name for p in written] == [
        "validity_by_evaluations.png", "validity_by_length.png", "validity_by_nesting.png",
        "repair_by_noise.png",
    ]  # fmt: skip
    assert all(p.read_bytes()[:4] == b"\x89PNG" for p in written)
    assert plots.write_plots(report.Report([]), tmp_path) == []
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(DataError, match="pip install"):
        plots.write_plots(sample_report(), tmp_path)


# ------------------------------------------------------------------------------------- command line


def test_the_command_line_end_to_end(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [
        "--checkpoint",
        tiny,
        "--suite",
        "generation",
        "likelihood",
        "--num_samples",
        "8",
        "--seed",
        "3",
    ]
    flags += [
        "--use_maskgit",
        "--use_hybrid",
        "--maskgit_steps",
        "6",
        "--json",
        str(tmp_path / "o.json"),
        "--markdown",
        str(tmp_path / "o.md"),
    ]
    assert run_benchmark(*flags) == 0
    out = capsys.readouterr().out
    for words in (
        "samples: 8",
        "seed: 3",
        "threads:",
        "maskgit steps=6",
        "hybrid steps=6",
        "(exact floor)",
    ):
        assert words in out
    data = json.loads((tmp_path / "o.json").read_text())
    assert {r["sampler"] for r in data["rows"] if r["suite"] == "generation"} == {
        "maskgit",
        "hybrid",
        "hybrid_speculative",
    }
    assert data["checkpoints"][0]["parameters"] > 0
    assert "# Benchmark" in (tmp_path / "o.md").read_text()


def test_several_checkpoints_are_reported_together(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other" / "best.pt"
    other.parent.mkdir()
    other.write_bytes(tiny.read_bytes())
    flags = [
        "--checkpoint",
        tiny,
        other,
        "--suite",
        "generation",
        "--num_samples",
        "4",
        "--sampler",
        "random",
    ]
    assert run_benchmark(*flags, "--json", str(tmp_path / "o.json")) == 0
    rows = [
        r for r in json.loads((tmp_path / "o.json").read_text())["rows"] if r["metric"] == "parses"
    ]
    assert {r["settings"]["checkpoint"] for r in rows} == {f"{tiny.parent.name}/best", "other/best"}
    assert "other/best random" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--json", "--markdown", "--plots"])
def test_outputs_are_checked_before_measuring(
    flag: str,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def measure(*_: object) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr(suites, "iter_suites", measure)
    (tmp_path / "file").touch()
    assert run_benchmark("--checkpoint", tiny, flag, str(tmp_path / "file" / "below")) == 2
    assert "cannot write" in capsys.readouterr().err
    assert run_benchmark("--reproduce", "--results", str(tmp_path)) == 2
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.slow
def test_every_planned_measurement_is_shown(tiny: Path) -> None:
    flags = [
        "--num_samples",
        "4",
        "--sampler",
        "random",
        "autoregressive",
        "--sigma",
        "0.2",
        "--repair_method",
        "draft",
    ]
    plan = measuring.make_plan(benchmark.build_parser().parse_args(flags))
    subjects = measuring.load_subjects([tiny], "cpu")
    shown: list[str] = []

    @contextmanager
    def measurement(name: str) -> Iterator[None]:
        yield
        shown.append(name)

    parts = list(suites.iter_suites(subjects, plan, names.DEFAULT_SUITES, measurement))
    assert len(parts) == len(subjects) * len(names.DEFAULT_SUITES)
    assert len(shown) == suites.count_measurements(subjects, plan, names.DEFAULT_SUITES)
    assert shown[:2] == ["generation, random", "generation, autoregressive"]
    assert set(names.DEFAULT_SUITES) == {name.split(",")[0] for name in shown}


def test_progress_bar_needs_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def show() -> str:
        with measuring.progress_bar(2) as progress, progress("first"):
            pass
        return capsys.readouterr().err

    assert show() == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert "1/2" in show()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--checkpoint", "nowhere.pt"], "nowhere.pt"),
        (["--suite", "genration"], "generation"),
        (["--sampler", "maskgti"], "maskgit"),
        (["--temperature", "-1"], "temperature"),
        (["--use_hybrid", "--maskgit_steps", "2"], "evaluations"),
        (["--sigma", "0"], "sigma"),
        (["--corruption", "melt"], "melt"),
        (["--length", "63..70", "--suite", "generation"], "3 to 62"),
        (["--length", "63..70", "--suite", "repair"], "3 to 62"),
        (["--repair_method", "chanel", "--suite", "likelihood"], "channel"),
        (["--sampler", "maskgti", "--suite", "likelihood"], "maskgit"),
        (["--use_self_cond", "--suite", "likelihood"], "use_self_cond"),
        (["--sampler", "coupled", "random", "--suite", "generation"], "use_coupling"),
        (["--reproduce", "--variants", "V9", "--results", "{tmp}/r.md"], "variant"),
        (
            ["--reproduce", "--no_training", "--runs", "{tmp}/runs", "--results", "{tmp}/r.md"],
            "no finished run",
        ),
    ],
)
def test_bad_flags_give_one_line(
    flags: list[str], words: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [flag.replace("{tmp}", str(tmp_path)) for flag in flags]
    given = flags if "--checkpoint" in flags else [*flags, "--checkpoint", tiny]
    assert run_benchmark(*given) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in last
    assert "Traceback" not in last


def test_default_samplers_without_flags(tiny: Path) -> None:
    plan = measuring.make_plan(benchmark.build_parser().parse_args([]))
    assert ("mixed", 0.5) in plan.damages()
    assert [d for d in plan.damages() if d[0] == "swap"] == [("swap", 0.2)]
    assert plan.samplers == samplers.USUAL
    assert {"channel", "draft"} == set(plan.repair_methods)
    assert {0.2} <= set(plan.sigmas)
    assert "mixed" in plan.corruptions
    assert set(suites.SUITES) >= {"generation", "repair", "editing", "likelihood", "speed"}


@pytest.mark.slow
def test_grammar_flag_measures_every_sampler_with_and_without_it(
    tiny: Path, tmp_path: Path
) -> None:
    made = tmp_path / "made.json"
    flags = [
        "--suite",
        "generation",
        "--sampler",
        "maskgit",
        "random",
        "--maskgit_steps",
        "2",
        "--num_samples",
        "8",
    ]
    assert run_benchmark("--checkpoint", tiny, "--json", made, "--grammar", *flags) == 0
    rows = [r for r in json.loads(made.read_text())["rows"] if r["metric"] == "parses"]
    rows = [r for r in rows if not r["settings"].keys() & {"length", "nesting"}]
    by_grammar = {(r["sampler"], r["settings"].get("grammar", False)): r["value"] for r in rows}
    assert by_grammar.keys() == {
        ("maskgit", False),
        ("maskgit", True),
        ("random", False),
        ("random", True),
    }
    assert by_grammar["maskgit", True] == by_grammar["random", True] == 1.0
    assert by_grammar["maskgit", False] < 1.0
