"""The script of learning curves: the lines of a cell, results that are kept, table and plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from maskdiff.errors import DataError
from maskdiff.languages import split_of
from tests.helpers.corpora import folder, lines
from tests.helpers.forked import run
from tests.helpers.paths import REPOSITORY
from tests.helpers.scripts import example

curve = example("learning_curve.py")
TEXTS = lines(400)
FIGURES = {name: [0.5, 0.4, 0.6] for name in curve.FIGURES}


def test_cells_share_test_lines_and_are_nested() -> None:
    small, large = (set(curve.cell_lines(TEXTS, count, 10, seed=1)) for count in (50, 200))
    assert small < large
    for cell, count in ((small, 50), (large, 200)):
        assert sum(split_of(text) != "test" for text in cell) == count
    assert sum(split_of(text) == "test" for text in large - small) == 0


def test_too_few_lines_are_an_error() -> None:
    with pytest.raises(DataError, match="1000 lines are asked for"):
        curve.cell_lines(TEXTS, 1000, 10, seed=1)


def test_figures_are_those_of_the_named_rows() -> None:
    rows = [
        {"suite": s, "sampler": a, "settings": b, "metric": m, "value": i, "low": 0.0, "high": 9.0}
        for i, (s, a, b, m) in enumerate(curve.FIGURES.values())
    ]
    other = {**rows[0], "settings": {"edits": 2, "damage": "known broken"}, "value": -1}
    found = curve.chosen_figures([other, *rows])
    assert [value for value, _, _ in found.values()] == list(range(len(curve.FIGURES)))


def test_measured_cells_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[tuple[int, float]] = []

    def measured(texts: list[str], cell: dict[str, Any], extra: list[str]) -> dict[str, Any]:
        assert extra == ["--n_embd", "16"]
        done.append((cell["lines"], cell["minutes"]))
        return FIGURES

    monkeypatch.setattr(curve, "measure", measured)
    monkeypatch.setattr(curve, "plot", lambda records, path: None)
    folder(tmp_path / "pairs", TEXTS)
    results = tmp_path / "results.jsonl"
    argv = [str(tmp_path / "pairs"), "--results", str(results), "--train", "--n_embd 16"]
    argv += ["--lines", "50", "100", "--minutes"]
    assert curve.main([*argv, "1"]) == 0
    assert curve.main([*argv, "1", "3"]) == 0
    assert done == [(50, 1.0), (100, 1.0), (50, 3.0), (100, 3.0)]
    records = [json.loads(line) for line in results.read_text().splitlines()]
    assert [(record["lines"], record["minutes"]) for record in records] == done
    table = capsys.readouterr().out.splitlines()[-4:]
    cells = [row.split(" | ")[:2] for row in table]
    assert cells == [["| 50", "1"], ["| 50", "3"], ["| 100", "1"], ["| 100", "3"]]
    assert "50.0 [40.0, 60.0]" in table[0]
    assert "0.500 [0.400, 0.600]" in table[0]


def test_a_plot_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    records = [{"corpus": "pairs", "lines": n, "minutes": 1, "figures": FIGURES} for n in (9, 99)]
    curve.plot(records, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_program_that_fails_is_an_error() -> None:
    with pytest.raises(DataError, match=r"train_universal\.py ends with status 2"):
        curve.run_program("train_universal.py", "--max_it", 5)


@pytest.mark.slow
def test_a_cell_is_trained_and_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_program(program: str, *arguments: object) -> None:
        done = run([str(REPOSITORY / program), *map(str, arguments)])
        assert done.returncode == 0, done.stderr

    monkeypatch.setattr(curve, "run_program", run_program)  # which takes seconds to import torch
    cell = {"corpus": "pairs", "lines": 120, "minutes": 0.1, "threads": 1, "seed": 0, "samples": 2}
    flags = "--max_iters 2 --eval_interval 2 --n_embd 16 --n_layer 1 --eval_samples 4"
    figures = curve.measure(TEXTS, cell, [*flags.split(), "--live_samples", "2"])
    assert figures.keys() == curve.FIGURES.keys()
    value, low, high = figures["n-gram, known broken"]
    assert 0 <= low <= value <= high <= 1
    assert figures["nats"][0] > 0
