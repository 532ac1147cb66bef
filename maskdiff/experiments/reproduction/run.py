"""The reference's table, trained and measured again: every variant, several seeds, one report.

`reproduce` can be interrupted at any moment and resumes: a trained model is not trained again, a
half-trained one is resumed, a measured one is not measured again. Without a trainer it reports the
seeds that are trained. Results are kept per number of samples; delete `measured-*.json` after
changing how something is measured.
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
from maskdiff.evaluation.generation import sample_texts
from maskdiff.evaluation.report import format_number, write_text
from maskdiff.evaluation.rows import (
    Plan,
    Row,
    RowGroup,
    one_symbol_each,
    sorted_lengths,
    validity_figures,
)
from maskdiff.experiments.reproduction.variants import (
    VARIANTS,
    PaddedReferenceDenoiser,
    ReferenceDenoiser,
    Variant,
    reference_refinement,
)
from maskdiff.metrics import Unit
from maskdiff.sampling.canvas import Canvas
from maskdiff.utils.files import write_atomic

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.models.denoiser import Denoiser

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
SEEDS = 3  # of each variant, by default
SIGMA, BLANKS = 0.2, 0.2  # of the reference's repair and editing benchmarks
BEGIN = "<!-- reproduction: written by benchmark.py --reproduce -->"
END = "<!-- end of the reproduction -->"
TrainRun = Callable[[Config, Path, bool], None]  # (configuration, folder, whether to resume)
Note = Callable[[str], None]


def chosen_variants(names: Sequence[str] | None) -> list[Variant]:
    """Return the variants with these names or configs; all for None. Raises ConfigError."""
    known = {key: v for v in VARIANTS for key in (v.name, v.config)}
    for name in names or ():
        if name not in known:
            raise ConfigError(
                f"variant {name!r} is unknown; the nearest is {nearest(name, list(known))!r}"
            )
    return [v for v in VARIANTS if not names or v.name in names or v.config in names]


def train_with_loop(config: Config, folder: Path, resume: bool) -> None:
    """Train a run. Raises KeyboardInterrupt where a signal stopped it, after saving."""
    from maskdiff.training.loop import Trainer

    progress = Trainer(config, folder, resume).run()
    if progress.step < config.train.max_iters:
        raise KeyboardInterrupt


def variant_run(
    name: str, seed: int, runs: Path, threads: int, overrides: Mapping[str, Any]
) -> tuple[Config, Path]:
    """Return the configuration of a run and its folder, `runs/NAME-sSEED`."""
    folder = runs / f"{name}-s{seed}"
    own = {"seed": seed, "name": folder.name, "checkpoint_dir": str(folder), "threads": threads}
    return load_config(CONFIGS / f"{name}.yaml", {**overrides, **own}), folder


def finished(config: Config, folder: Path) -> bool:
    """Return whether `best.pt` of the run exists and is of its last step."""
    best = folder / "best.pt"
    if not best.exists():
        return False
    return int(load_denoiser(best).provenance.get("step", 0)) >= config.train.max_iters


def finished_seeds(
    name: str, seeds: Sequence[int] | None, runs: Path, overrides: Mapping[str, Any]
) -> list[int]:
    """Return the seeds (among `seeds`, if given) that are fully trained in `runs`, in rising
    order."""
    endings = [path.name.removeprefix(f"{name}-s") for path in runs.glob(f"{name}-s*")]
    there = sorted(int(ending) for ending in endings if ending.isascii() and ending.isdigit())
    return [
        n
        for n in there
        if (seeds is None or n in seeds) and finished(*variant_run(name, n, runs, 0, overrides))
    ]


def ensure_trained(
    name: str,
    seed: int,
    runs: Path,
    threads: int,
    trainer: TrainRun,
    note: Note,
    overrides: Mapping[str, Any],
) -> None:
    """Train one configuration and seed, unless a finished run exists."""
    config, folder = variant_run(name, seed, runs, threads, overrides)
    if finished(config, folder):
        return
    resume = (folder / "last.pt").exists()
    verb = "resuming" if resume else "training"
    note(f"{verb} {name}, seed {seed}: {config.train.max_iters} steps in {folder}")
    trainer(config, folder, resume)
    if not (folder / "best.pt").exists():
        raise CheckpointError(
            f"training {name} left no {folder / 'best.pt'}; remove {folder} and start again"
        )


# ---------------------------------------------------------------------------------------- measuring


def measure_variant(variant: Variant, loaded: Loaded, plan: Plan) -> list[Row]:
    """Return the rows of generation and, where the variant asks for them, of repair and
    editing."""
    language, rows = loaded.language, list[Row]()
    denoiser = ReferenceDenoiser(loaded.denoiser) if variant.reference_mode else loaded.denoiser
    lengths = sorted_lengths(language, plan.num_samples, None, plan.rng(60))
    texts = sample_texts(denoiser, variant.sampler(), lengths, plan.seed, plan.batch_size).texts
    figures = {
        "balanced": metrics.rate(map(metrics.balanced, texts)),
        "has_equals": metrics.rate(map(metrics.has_equals, texts)),
        "has_operator": metrics.rate(map(metrics.has_operator, texts)),
        **validity_figures(texts, language),
        "distinct": metrics.distinct(texts),
        "distinct_valid": metrics.distinct_valid(texts, language),
    }
    RowGroup("generation", variant.name, {}, rows).add_all(figures)
    if variant.tasks:
        _add_tasks(rows, variant, loaded, plan)
    return rows


def _add_tasks(rows: list[Row], variant: Variant, loaded: Loaded, plan: Plan) -> None:
    """Add repair (three passes) and editing (two) on padded rows, as the reference ran them.

    A pass writes all tokens again at once; the given tokens of editing stay.
    """
    language, vocabulary = loaded.language, loaded.language.vocabulary
    denoiser: Denoiser = loaded.denoiser
    if variant.reference_mode:
        denoiser = PaddedReferenceDenoiser(loaded.denoiser, language.config.max_len)
    clean = held_out(language, "test", plan.num_samples, plan.seed)

    def refined(canvas: Canvas, passes: int) -> list[str]:
        sample = reference_refinement(passes, clock=False)(denoiser, canvas)
        return [one_symbol_each(text, vocabulary) for text in sample.texts(vocabulary)]

    noisy = repair.corrupt(language, clean, SIGMA, "reference", plan.seed)
    identity = repair.repair_figures(noisy, clean, language, plan)
    draft = Canvas.draft(noisy, vocabulary, SIGMA, torch.Generator().manual_seed(plan.seed))
    figures = repair.repair_figures(refined(draft, 3), clean, language, plan)
    RowGroup("repair", variant.name, {"sigma": SIGMA}, rows).add_all(figures, identity, 1.0)

    templates = editing.blank_symbols(clean, BLANKS, plan.rng(61))
    canvas = Canvas.template(templates, vocabulary, torch.Generator().manual_seed(plan.seed))
    canvas = replace(canvas, suspect=torch.full_like(canvas.suspect, 0.5))
    figures = editing.editing_figures(refined(canvas, 2), templates, clean, language, plan)
    RowGroup("editing", variant.name, {"blanks": BLANKS}, rows).add_all(figures, None, 1.0)


def ensure_measured(variant: Variant, best: Path, plan: Plan, note: Note) -> list[Row]:
    """Return the rows of one variant and checkpoint, from the file beside it if there is one."""
    slug = "".join(c if c.isalnum() else "-" for c in variant.name.lower())
    path = best.parent / f"measured-{slug}-{plan.num_samples}.json"
    if path.exists() and path.stat().st_mtime >= best.stat().st_mtime:
        items = json.loads(path.read_text(encoding="utf-8"))
        return [Row(**item, unit=Unit.SHARE) for item in items]  # all figures here are shares
    note(f"measuring {variant.name} of {best.parent.name}")
    rows = measure_variant(variant, load_denoiser(best), plan)
    write_atomic(path, json.dumps([row.to_dict() for row in rows], indent=1).encode())
    return rows


# ------------------------------------------------------------------------------------------- report


# Shares of strings that weigh alike.
BINOMIAL = frozenset(["balanced", "has_equals", "has_operator", "parses", "holds"])


def pooled_share(rows: Sequence[Row]) -> str:
    """Return the mean share over seeds, its interval over strings, and the range of the seeds.

    Binomial shares have Wilson's interval of the strings of all seeds. For other shares, the arms
    of the seeds' own intervals add in squares.
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
    spread = f"; seeds {_percent(min(values))}-{_percent(max(values))}" if len(rows) > 1 else ""
    return f"{_percent(value)} [{_percent(low)}, {_percent(high)}]{spread}"


def _percent(share: float | None) -> str:
    return format_number(share, Unit.SHARE)


Measured = Mapping[str, Sequence[Sequence[Row]]]  # for each variant, one list of rows a seed
PUBLISHED = ("balanced", "has_equals", "has_operator")
STRICT = ("parses", "holds", "distinct", "distinct_valid")
HEAD = """
## The reference's table, measured again

Every variant was trained from scratch, with as many seeds as its row says, and measured on
{samples} strings a seed (threads: {threads}). Command:
`python benchmark.py --reproduce --seeds {seeds} --num_samples {samples}`; with `--no_training` it
reports the seeds that are there.

Cells: mean over seeds [95% interval for the chance of the strings]; seeds lowest-highest. The range
shows the chance of training, which is larger. At temperature 0 strings of one length are alike,
which makes the intervals too narrow still. Settings, data, noise, loss and samplers are the
reference's; the network is ours, of the same size (its norms, gates and initial values differ).
`balanced` is what the reference calls valid syntax; `parses` is membership in the language;
`distinct` counts whatever was written, `distinct valid` what parses. Definitions:
[metrics.md](metrics.md).
"""
GENERATION = """
| variant | seeds | balanced, published | balanced | has =, published | has = | has op, published \
| has op | **parses** \
| holds | distinct | distinct valid |
|---|---|---|---|---|---|---|---|---|---|---|---|
"""
TASKS = """
### Repair and editing

Repair: mixed corruption at sigma 0.2; editing: 20% of the symbols blank.

| variant | seeds | repair, published | token accuracy | corrupted string unchanged | repaired \
string parses | anchors kept \
| edited string parses |
|---|---|---|---|---|---|---|---|
"""


def results_markdown(measured: Measured, num_samples: int) -> str:
    """Return the report of the reproduction."""
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
    for metric in PUBLISHED:
        cells += [variant.published.get(metric, "-"), _cell(by_seed, metric, "generation")]
    return cells + [_cell(by_seed, metric, "generation") for metric in STRICT]


def _task_cells(variant: Variant, by_seed: Sequence[Sequence[Row]]) -> list[str]:
    found = _find(by_seed, "token_accuracy", "repair")
    identity = [row.baseline for row in found if row.baseline is not None]
    return [
        variant.name,
        str(len(by_seed)),
        variant.published.get("token_accuracy", "-"),
        _cell(by_seed, "token_accuracy", "repair"),
        _percent(float(np.mean(identity)) if identity else None),
        _cell(by_seed, "parses", "repair"),
        _cell(by_seed, "anchors_kept", "editing"),
        _cell(by_seed, "parses", "editing"),
    ]


def with_section(path: Path, section: str) -> str:
    """Return the text of the file at `path` with `section` between its markers."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    before, begin, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    glue = "" if begin or not before else "\n"
    return f"{before}{glue}{BEGIN}\n\n{section}\n{END}{after if begin else chr(10)}"


def _find(by_seed: Sequence[Sequence[Row]], metric: str, suite: str) -> list[Row]:
    return [r for rows in by_seed for r in rows if r.metric == metric and r.suite == suite]


def _cell(by_seed: Sequence[Sequence[Row]], metric: str, suite: str) -> str:
    found = _find(by_seed, metric, suite)
    return pooled_share(found) if found else "-"


def reproduce(
    seeds: Sequence[int] | None,
    runs: Path,
    results: Path,
    variants: Sequence[str] | None = None,
    num_samples: int = 200,
    threads: int = 0,
    note: Note = lambda _: None,
    trainer: TrainRun | None = train_with_loop,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, list[list[Row]]]:
    """Train what is not trained, measure what is not measured, and write the report.

    The report is written after every variant, so that an interruption leaves the finished ones.

    Args:
        seeds: Of every variant; by default 0, 1 and 2, or all that are found without a trainer.
        runs: The folder of the training runs.
        results: The file of the report.
        trainer: Trains a run; None to report the finished seeds alone.
        overrides: Changes settings of every configuration, for quick trials.

    Returns:
        For each variant, a list of rows for each seed.

    Raises:
        DataError: There is no trainer and no finished run.
    """
    plan, changed = Plan(num_samples=num_samples), overrides or {}
    chosen = chosen_variants(variants)
    if trainer is None:
        found = {v.config: finished_seeds(v.config, seeds, runs, changed) for v in chosen}
        if not any(found.values()):
            raise DataError(
                f"no finished run of these variants and seeds in {runs}; "
                "leave out --no_training, or give --runs"
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
            rows = ensure_measured(variant, best, replace(plan, seed=seed), note)
            measured[variant.name].append(rows)
        write_text(results, with_section(results, results_markdown(measured, num_samples)))
    note(f"wrote {results}")
    return measured
