"""Measures how many lines and minutes of training a language needs.

    python examples/learning_curve.py examples/cron --lines 500 1000 2000 5000 --minutes 1 3 10

For each number of lines and of minutes, the program trains a model with `train_universal.py`, runs
the suites `one_edit` and `likelihood` of `benchmark.py`, and appends one JSON object to the file of
results. Cells that the file contains are not measured again. At the end it prints a table of the
corpus and, if matplotlib is installed, draws a plot beside the file.

The held-out lines are the same in all cells: test lines of the whole corpus. The other lines of a
cell are the first of one random order, so a larger number of lines contains a smaller one.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskdiff.cli import arguments as cli
from maskdiff.config import LanguageConfig
from maskdiff.errors import DataError
from maskdiff.languages import split_of
from maskdiff.languages.corpus_file import corpus_name, numbered_lines

ROOT = Path(__file__).resolve().parents[1]
Figures = dict[str, list[float | None]]  # value, low and high of each figure
Record = dict[str, Any]  # corpus, lines, minutes, threads, seed, samples, figures

GIVEN, UNKNOWN = {"edits": 1, "damage": "known broken"}, {"edits": 1, "damage": "unknown"}
# Name: suite, sampler, settings and metric of a row of the benchmark.
FIGURES: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "repair, known broken": ("one_edit", "channel", GIVEN, "exact"),
    "n-gram, known broken": ("one_edit", "ngram", GIVEN, "exact"),
    "repair": ("one_edit", "channel", UNKNOWN, "exact"),
    "n-gram": ("one_edit", "ngram", UNKNOWN, "exact"),
    "nats": ("likelihood", "causal", {}, "nats_per_symbol"),
    "n-gram nats": ("likelihood", "ngram", {}, "nats_per_symbol"),
}
CELL = ("corpus", "lines", "minutes", "seed")  # identify a record


# ----------------------------------------------------------------------------------------- one cell


def cell_lines(texts: Sequence[str], count: int, held_out: int, seed: int) -> list[str]:
    """Return `count` lines for training and validation, and at most `held_out` test lines.

    Raises:
        DataError: There are fewer lines than `count`.
    """
    distinct = sorted(set(texts))
    random.Random(seed).shuffle(distinct)
    tested = [text for text in distinct if split_of(text) == "test"]
    others = [text for text in distinct if split_of(text) != "test"]
    if len(others) < count:
        raise DataError(f"{count} lines are asked for; {len(others)} are not in the test split")
    return others[:count] + tested[:held_out]


def run_program(program: str, *arguments: object) -> None:
    """Run a program of the repository; its output goes to the error stream.

    Raises:
        DataError: It fails.
    """
    command = [sys.executable, str(ROOT / program), *map(str, arguments)]
    status = subprocess.run(command, stdout=sys.stderr).returncode
    if status:
        raise DataError(f"{program} ends with status {status}")


def measure(texts: Sequence[str], cell: Record, extra: Sequence[str]) -> Figures:
    """Train on the lines of a cell and return its figures. `extra` are flags of the training."""
    with tempfile.TemporaryDirectory() as place:
        folder, run = Path(place) / cell["corpus"], Path(place) / "run"
        folder.mkdir()
        lines = cell_lines(texts, cell["lines"], cell["samples"], cell["seed"])
        (folder / "corpus.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        machine = ["--threads", cell["threads"], "--seed", cell["seed"]]
        run_program(
            "train_universal.py", "--language", folder, "--checkpoint_dir", run,
            "--minutes", cell["minutes"], *machine, *extra,
        )  # fmt: skip
        report = run / "benchmark.json"
        run_program(
            "benchmark.py", "--checkpoint", run / "best.pt", "--suite", "one_edit", "likelihood",
            "--num_samples", cell["samples"], "--json", report, *machine,
        )  # fmt: skip
        return chosen_figures(json.loads(report.read_text(encoding="utf-8"))["rows"])


def chosen_figures(rows: Sequence[Record]) -> Figures:
    """Return the rows of `FIGURES` among those of a benchmark."""
    found = {
        (row["suite"], row["sampler"], tuple(row["settings"].items()), row["metric"]): row
        for row in rows
    }
    figures = {}
    for name, (suite, sampler, settings, metric) in FIGURES.items():
        row = found[suite, sampler, tuple(settings.items()), metric]
        figures[name] = [row["value"], row["low"], row["high"]]
    return figures


# ------------------------------------------------------------------------------------------ results


def read_results(path: Path) -> list[Record]:
    """Return the records of a file; none if it does not exist."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def table(records: Sequence[Record]) -> str:
    """Return a Markdown table: a row for each cell, a column for each figure."""
    rows = [["lines", "minutes", *FIGURES], ["---"] * (2 + len(FIGURES))]
    for record in sorted(records, key=lambda record: (record["lines"], record["minutes"])):
        figures = [_shown(name, *record["figures"][name]) for name in FIGURES]
        rows.append([f"{record['lines']:,}", f"{record['minutes']:g}", *figures])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _shown(name: str, value: float, low: float | None, high: float | None) -> str:
    """A figure and its interval; shares in percent."""
    scale, digits = (1, 3) if "nats" in name else (100, 1)
    if low is None or high is None:
        return f"{scale * value:.{digits}f}"
    shown = [f"{scale * number:.{digits}f}" for number in (value, low, high)]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]"


def plot(records: Sequence[Record], path: Path) -> None:
    """Draw repair and nats per symbol against lines, with a curve for each number of minutes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4))
    names = (("repair, known broken", "n-gram, known broken"), ("nats", "n-gram nats"))
    labels = ("lines restored exactly", "nats per symbol")
    for axis, (ours, simple), label in zip(axes, names, labels, strict=True):
        for minutes in sorted({record["minutes"] for record in records}):
            some = [record for record in records if record["minutes"] == minutes]
            some.sort(key=lambda record: record["lines"])
            lines = [record["lines"] for record in some]
            values = [record["figures"][ours][0] for record in some]
            axis.plot(lines, values, "o-", label=f"{minutes:g} minutes")
        by_lines = {record["lines"]: record["figures"][simple][0] for record in records}
        axis.plot(sorted(by_lines), [by_lines[n] for n in sorted(by_lines)], "k--", label="n-gram")
        axis.set(xscale="log", xlabel="lines", ylabel=label)
        axis.legend()
    figure.suptitle(records[0]["corpus"])
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


# ------------------------------------------------------------------------------------------ command


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the flags."""
    parser = cli.Parser(prog="learning_curve.py", description=__doc__)
    add, count = parser.add_argument, cli.IntegerRange(1, 10**7)
    add("corpus", help="a folder with a corpus, or a file")
    add("--field", default="", help="column or key of the corpus, if it is a table")
    add("--lines", type=count, nargs="+", default=[500, 1000, 2000, 5000, 10_000, 20_000])
    add(
        "--minutes", type=cli.NumberRange(0.1, 1e5), nargs="+", default=[1.0, 3.0, 10.0, 30.0, 60.0]
    )
    add("--threads", type=cli.natural, default=0, help="CPU threads (default 0: all cores)")
    add("--seed", type=cli.natural, default=0, help="of everything random (default 0)")
    add("--samples", type=count, default=300, help="held-out lines (default 300)")
    add("--train", type=shlex.split, default=[], metavar="FLAGS", help="further training flags")
    add("--results", type=Path, default=Path("learning_curve.jsonl"), metavar="FILE")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the cells that are missing, then print the table and draw the plot."""
    args = build_parser().parse_args(argv)
    config = LanguageConfig(language=args.corpus, field=args.field)
    texts, name = [line for _, line in numbered_lines(config)], corpus_name(Path(args.corpus))
    # A corpus with too few lines fails here, not after some hours.
    cell_lines(texts, max(args.lines), args.samples, args.seed)
    measured = {tuple(record[key] for key in CELL) for record in read_results(args.results)}
    for minutes in args.minutes:
        for lines in args.lines:
            cell: Record = {
                "corpus": name, "lines": lines, "minutes": minutes, "seed": args.seed,
                "threads": args.threads, "samples": args.samples,
            }  # fmt: skip
            if tuple(cell[key] for key in CELL) in measured:
                continue
            cell["figures"] = measure(texts, cell, args.train)
            with args.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(cell) + "\n")
    records = [record for record in read_results(args.results) if record["corpus"] == name]
    print(table(records))
    try:
        plot(records, args.results.with_name(f"{args.results.stem}-{name}.png"))
    except ImportError:
        print("matplotlib is not installed, so there is no plot", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run_cli(main))
