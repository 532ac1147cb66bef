"""The reference's table, trained and measured again: every variant, several seeds, one report.

For: ``reproduce``, which can be interrupted at any moment and goes on where it was: a trained model is not trained again, a
half-trained one is resumed, a measured one is not measured again; without a trainer it reports the seeds that are there.  Not
for: our own model (that is ``benchmark.py``).  Easy to get wrong: results are kept per number of samples; delete
``measured-*.json`` after changing how something is measured.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from maskdiff import metrics
from maskdiff.checkpoint import load_denoiser
from maskdiff.config import Config
from maskdiff.config_io import load_config
from maskdiff.data import held_out
from maskdiff.errors import CheckpointError, ConfigError, DataError, nearest
from maskdiff.evaluation import editing, repair
from maskdiff.evaluation.generation import draw
from maskdiff.evaluation.report import RATES, number, write_text
from maskdiff.evaluation.rows import Plan, Row, draw_lengths, one_symbol_each, verdicts
from maskdiff.evaluation.rows import row as make_row
from maskdiff.experiments.reproduction.variants import VARIANTS, Faithful, Padded, Variant, refine
from maskdiff.sampling.canvas import Canvas
from maskdiff.utils.files import write_atomic

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
SEEDS = 3  # of each variant, unless told otherwise
SIGMA, BLANKS = 0.2, 0.2  # of the reference's repair and editing benchmarks
BEGIN, END = (
    "<!-- reproduction: written by benchmark.py --reproduce -->",
    "<!-- end of the reproduction -->",
)
Trainer = Callable[[Config, Path, bool], None]
Note = Callable[[str], None]


def choose(names: Sequence[str] | None) -> list[Variant]:
    """The variants with these names or configs, all without.  Raises ``ConfigError``."""
    known = {key: v for v in VARIANTS for key in (v.name, v.config)}
    for name in names or ():
        if name not in known:
            raise ConfigError(
                f"variant {name!r} is unknown; the nearest is {nearest(name, list(known))!r}"
            )
    return [v for v in VARIANTS if not names or v.name in names or v.config in names]


def train_with_loop(config: Config, folder: Path, resume: bool) -> None:
    """The default trainer.  Raises ``KeyboardInterrupt`` where the run was stopped by a signal, after it was saved."""
    from maskdiff.training.loop import Trainer as Loop

    progress = Loop(config, folder, resume).run()
    if progress.step < config.train.max_iters:
        raise KeyboardInterrupt


def settings(
    name: str, seed: int, runs: Path, threads: int, overrides: Mapping[str, Any]
) -> tuple[Config, Path]:
    """The configuration of a run and its folder, ``runs/NAME-sSEED``."""
    folder = runs / f"{name}-s{seed}"
    given = {
        **overrides,
        "seed": seed,
        "name": folder.name,
        "checkpoint_dir": str(folder),
        "threads": threads,
    }
    return load_config(CONFIGS / f"{name}.yaml", given), folder


def finished(config: Config, folder: Path) -> bool:
    """Whether ``best.pt`` of the run is there and of its last step."""
    best = folder / "best.pt"
    return (
        best.exists()
        and int(load_denoiser(best).provenance.get("step", 0)) >= config.train.max_iters
    )


def finished_seeds(
    name: str, seeds: Sequence[int] | None, runs: Path, overrides: Mapping[str, Any]
) -> list[int]:
    """The seeds of a configuration, all or among ``seeds``, that were trained to the end in ``runs``, in rising order."""
    endings = [path.name.removeprefix(f"{name}-s") for path in runs.glob(f"{name}-s*")]
    there = sorted(int(ending) for ending in endings if ending.isascii() and ending.isdigit())
    return [
        n
        for n in there
        if (seeds is None or n in seeds) and finished(*settings(name, n, runs, 0, overrides))
    ]


def ensure_trained(
    name: str,
    seed: int,
    runs: Path,
    threads: int,
    trainer: Trainer,
    note: Note,
    overrides: Mapping[str, Any],
) -> None:
    """Train one configuration and seed now, unless a finished run is there."""
    config, folder = settings(name, seed, runs, threads, overrides)
    if finished(config, folder):
        return
    resume = (folder / "last.pt").exists()
    note(
        f"{'resuming' if resume else 'training'} {name}, seed {seed}: {config.train.max_iters} steps in {folder}"
    )
    trainer(config, folder, resume)
    if not (folder / "best.pt").exists():
        raise CheckpointError(
            f"training {name} left no {folder / 'best.pt'}; remove {folder} and start again"
        )


# ------------------------------------------------------------------------------------------------------------ measuring


def measure(variant: Variant, loaded: Loaded, plan: Plan) -> list[Row]:
    """Generation, and repair and editing where the variant asks for them, as the reference ran them."""
    language, denoiser = (
        loaded.language,
        Faithful(loaded.denoiser) if variant.faithful else loaded.denoiser,
    )
    lengths = draw_lengths(language, plan.num_samples, None, plan.rng(60))
    made = draw(denoiser, variant.sampler(), lengths, plan.seed, plan.batch_size)
    found = {
        "balanced": metrics.rate(map(metrics.balanced, made.texts)),
        "has_equals": metrics.rate(map(metrics.has_equals, made.texts)),
        "has_operator": metrics.rate(metrics.has_operator(text) for text in made.texts),
        **verdicts(made.texts, language),
        "distinct": metrics.distinct(made.texts),
        "distinct_valid": metrics.distinct_valid(made.texts, language),
    }
    rows = [
        make_row("generation", variant.name, {}, metric, estimate)
        for metric, estimate in found.items()
    ]
    return rows + (_tasks(variant, loaded, plan) if variant.tasks else [])


def _tasks(variant: Variant, loaded: Loaded, plan: Plan) -> list[Row]:
    """Repair (three passes) and editing (two) on padded rows, all tokens anew at once, the given ones pinned when editing."""
    language = loaded.language
    denoiser = (
        Padded(loaded.denoiser, language.config.max_len) if variant.faithful else loaded.denoiser
    )
    clean = held_out(language, "test", plan.num_samples, plan.seed)
    noisy = repair.corrupt(language, clean, SIGMA, "reference", plan.seed)
    identity = repair.score(noisy, clean, language, plan)
    canvas = Canvas.draft(
        noisy, language.vocabulary, SIGMA, torch.Generator().manual_seed(plan.seed)
    )
    repaired = [
        one_symbol_each(t, language.vocabulary)
        for t in refine(3, clock=False)(denoiser, canvas).texts(language.vocabulary)
    ]
    rows = [
        make_row(
            "repair",
            variant.name,
            {"sigma": SIGMA},
            metric,
            estimate,
            baseline=identity[metric],
            ceiling=1.0,
        )
        for metric, estimate in repair.score(repaired, clean, language, plan).items()
    ]
    templates = editing.blanked(clean, BLANKS, plan.rng(61))
    canvas = Canvas.template(
        templates, language.vocabulary, torch.Generator().manual_seed(plan.seed)
    )
    canvas = replace(canvas, suspect=torch.full_like(canvas.suspect, 0.5))
    edited = [
        one_symbol_each(t, language.vocabulary)
        for t in refine(2, clock=False)(denoiser, canvas).texts(language.vocabulary)
    ]
    scores = editing.score(edited, templates, clean, language, plan)
    return rows + [
        make_row("editing", variant.name, {"blanks": BLANKS}, m, e, ceiling=1.0)
        for m, e in scores.items()
    ]


def ensure_measured(variant: Variant, best: Path, plan: Plan, note: Note) -> list[Row]:
    """The rows of one variant and checkpoint, from the file beside it if they were measured before."""
    slug = "".join(c if c.isalnum() else "-" for c in variant.name.lower())
    path = best.parent / f"measured-{slug}-{plan.num_samples}.json"
    if path.exists() and path.stat().st_mtime >= best.stat().st_mtime:
        return [Row(**item) for item in json.loads(path.read_text(encoding="utf-8"))]
    note(f"measuring {variant.name} of {best.parent.name}")
    rows = measure(variant, load_denoiser(best), plan)
    write_atomic(path, json.dumps([row.as_dict() for row in rows], indent=1).encode())
    return rows


# --------------------------------------------------------------------------------------------------------------- report


BINOMIAL = frozenset(
    ["balanced", "has_equals", "has_operator", "parses", "holds"]
)  # shares of strings that count alike


def pooled(rows: Sequence[Row]) -> str:
    """The mean over seeds, its interval for the chance of the strings, and the range of the seeds.

    Rates: Wilson's interval of the strings of all seeds together.  Other figures: the seeds' own intervals, whose arms of
    independent estimates add in squares.
    """
    metric, values = rows[0].metric, [row.value for row in rows]
    value = float(np.mean(values))
    if metric in BINOMIAL:
        count = sum(row.count for row in rows)
        estimate = metrics.wilson(round(value * count), count)
        low, high = estimate.low, estimate.high
    else:
        below = [0.0 if row.low is None else row.value - row.low for row in rows]
        above = [0.0 if row.high is None else row.high - row.value for row in rows]
        low, high = value - math.hypot(*below) / len(rows), value + math.hypot(*above) / len(rows)
    spread = (
        f"; seeds {number(min(values), metric)}-{number(max(values), metric)}"
        if len(rows) > 1
        else ""
    )
    return f"{number(value, metric)} [{number(low, metric)}, {number(high, metric)}]{spread}"


Measured = Mapping[str, Sequence[Sequence[Row]]]  # for each variant, one list of rows a seed
SIMILAR = (("balanced", "generation"), ("has_equals", "generation"), ("has_operator", "generation"))
STRICT = (
    ("parses", "generation"),
    ("holds", "generation"),
    ("distinct", "generation"),
    ("distinct_valid", "generation"),
)
HEAD = """
## The reference's table, measured again

Every variant was trained from scratch, with as many seeds as its row says, and measured on {samples} strings a seed
(threads: {threads}). Command: `python benchmark.py --reproduce --seeds {seeds} --num_samples {samples}`; with `--no_training`
it reports the seeds that are there.

Cells: mean over seeds [95% interval for the chance of the strings]; seeds lowest-highest. The range shows the chance of
training, which is larger. At temperature 0 strings of one length are alike, which makes the intervals too narrow still.
Settings, data, noise, loss and samplers are the reference's; the network is ours, of the same size (its norms, gates and
initial values differ). `balanced` is what the reference calls valid syntax; `parses` is membership in the language; `distinct`
counts whatever was written, `distinct valid` what parses. Definitions: [metrics.md](metrics.md).
"""
GENERATION = """
| variant | seeds | balanced, published | balanced | has =, published | has = | has op, published | has op | **parses** \
| holds | distinct | distinct valid |
|---|---|---|---|---|---|---|---|---|---|---|---|
"""
TASKS = """
### Repair and editing

Repair: mixed corruption at sigma 0.2; editing: 20% of the symbols blank.

| variant | seeds | repair, published | token accuracy | corrupted string unchanged | repaired string parses | anchors kept \
| edited string parses |
|---|---|---|---|---|---|---|---|
"""


def results_markdown(measured: Measured, num_samples: int) -> str:
    """The report of the reproduction."""
    seeds = max(map(len, measured.values()), default=0)
    variants = [variant for variant in VARIANTS if variant.name in measured]
    head = HEAD.strip().format(samples=num_samples, seeds=seeds, threads=torch.get_num_threads())
    lines = [head, "", GENERATION.strip()]
    lines += [_line(_generation_cells(variant, measured[variant.name])) for variant in variants]
    lines += ["", TASKS.strip()]
    lines += [
        _line(_task_cells(variant, measured[variant.name])) for variant in variants if variant.tasks
    ]
    lines += ["", "### Why", ""]
    for variant in variants:
        if measured[variant.name]:
            lines += [f"**{variant.name}** (`configs/{variant.config}.yaml`). {variant.why}", ""]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _generation_cells(variant: Variant, by_seed: Sequence[Sequence[Row]]) -> list[str]:
    cells = [variant.name, str(len(by_seed))]
    for metric, suite in SIMILAR:
        cells += [variant.published.get(metric, "-"), _cell(by_seed, metric, suite)]
    return cells + [_cell(by_seed, metric, suite) for metric, suite in STRICT]


def _task_cells(variant: Variant, by_seed: Sequence[Sequence[Row]]) -> list[str]:
    identity = [
        r.baseline
        for rows in by_seed
        for r in _find(rows, "token_accuracy", "repair")
        if r.baseline is not None
    ]
    return [
        variant.name,
        str(len(by_seed)),
        variant.published.get("token_accuracy", "-"),
        _cell(by_seed, "token_accuracy", "repair"),
        number(float(np.mean(identity)) if identity else None, "token_accuracy"),
        _cell(by_seed, "parses", "repair"),
        _cell(by_seed, "anchors_kept", "editing"),
        _cell(by_seed, "parses", "editing"),
    ]


def placed(path: Path, section: str) -> str:
    """The text of the file at ``path`` with ``section`` between its markers: what else stands there is kept."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    before, begin, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    glue = "" if begin or not before else "\n"
    return f"{before}{glue}{BEGIN}\n\n{section}\n{END}{after if begin else chr(10)}"


def _find(rows: Sequence[Row], metric: str, suite: str) -> list[Row]:
    return [row for row in rows if row.metric == metric and row.suite == suite]


def _cell(by_seed: Sequence[Sequence[Row]], metric: str, suite: str) -> str:
    assert metric in RATES
    found = [row for rows in by_seed for row in _find(rows, metric, suite)]
    return pooled(found) if found else "-"


def reproduce(
    seeds: Sequence[int] | None,
    runs: Path,
    results: Path,
    variants: Sequence[str] | None = None,
    num_samples: int = 200,
    threads: int = 0,
    note: Note = lambda _: None,
    trainer: Trainer | None = train_with_loop,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, list[list[Row]]]:
    """Train what is not trained, measure what is not measured, write ``results``; the rows by variant and seed.

    ``seeds`` of every variant, by default 0, 1 and 2.  Without a ``trainer`` nothing is trained: each variant is reported with
    those of its seeds that are finished (all that are found, by default).  The report is written again after every variant,
    so that an interruption leaves what is known.  ``overrides`` changes settings of every configuration, for quick trials.

    Raises ``DataError`` where nothing is trained and nothing is to be.
    """
    plan, changed, chosen = Plan(num_samples=num_samples), overrides or {}, choose(variants)
    if trainer is None:
        found = {v.config: finished_seeds(v.config, seeds, runs, changed) for v in chosen}
        if not any(found.values()):
            raise DataError(
                f"no finished run of these variants and seeds in {runs}; leave out --no_training, or give --runs"
            )
    else:
        found = {v.config: list(range(SEEDS) if seeds is None else seeds) for v in chosen}
    measured: dict[str, list[list[Row]]] = {}
    for variant in chosen:
        measured[variant.name] = []
        for seed in found[variant.config]:
            if trainer is not None:
                ensure_trained(variant.config, seed, runs, threads, trainer, note, changed)
            best = runs / f"{variant.config}-s{seed}" / "best.pt"
            measured[variant.name].append(
                ensure_measured(variant, best, replace(plan, seed=seed), note)
            )
        write_text(results, placed(results, results_markdown(measured, num_samples)))
    note(f"wrote {results}")
    return measured
