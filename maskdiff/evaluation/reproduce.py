"""The reference's table, trained and measured again: every variant, several seeds, one report.

For: ``reproduce``, which can be interrupted at any moment and goes on where it was: a trained model is not trained again, a
half-trained one is resumed, a measured one is not measured again.  Not for: our own model (that is ``benchmark.py``).  Easy to
get wrong: results are kept per number of samples; delete ``measured-*.json`` after changing how something is measured.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from maskdiff import metrics
from maskdiff.checkpoint import load_denoiser, write_atomic
from maskdiff.config import Config
from maskdiff.configio import load_config
from maskdiff.data import held_out
from maskdiff.errors import CheckpointError, ConfigError, nearest
from maskdiff.evaluation import editing, repair
from maskdiff.evaluation.generation import draw
from maskdiff.evaluation.report import RATES, number, write_text
from maskdiff.evaluation.rows import Plan, Row, draw_lengths, one_symbol_each
from maskdiff.evaluation.rows import row as make_row
from maskdiff.evaluation.variants import VARIANTS, Faithful, Variant, refine
from maskdiff.sampling.canvas import Canvas

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SIGMA, BLANKS = 0.2, 0.2  # of the reference's repair and editing benchmarks
BEGIN, END = "<!-- reproduction: written by benchmark.py --reproduce -->", "<!-- end of the reproduction -->"
Trainer = Callable[[Config, Path, bool], None]
Note = Callable[[str], None]


def choose(names: Sequence[str] | None) -> list[Variant]:
    """The variants with these names or configs, all without.  Raises ``ConfigError``."""
    known = {key: v for v in VARIANTS for key in (v.name, v.config)}
    for name in names or ():
        if name not in known:
            raise ConfigError(f"variant {name!r} is unknown; the nearest is {nearest(name, list(known))!r}")
    return [v for v in VARIANTS if not names or v.name in names or v.config in names]


def train_with_loop(config: Config, folder: Path, resume: bool) -> None:
    """The default trainer.  Raises ``KeyboardInterrupt`` where the run was stopped by a signal, after it was saved."""
    from maskdiff.training.loop import Trainer as Loop

    progress = Loop(config, folder, resume).run()
    if progress.step < config.train.max_iters:
        raise KeyboardInterrupt


def ensure_trained(
    name: str, seed: int, runs: Path, threads: int, trainer: Trainer, note: Note, overrides: Mapping[str, Any]
) -> Path:
    """The best.pt of one configuration and seed, trained now unless a finished one is there."""
    folder = runs / f"{name}-s{seed}"
    config = load_config(
        CONFIGS / f"{name}.yaml", {**overrides, "seed": seed, "name": folder.name, "checkpoint_dir": str(folder)}
    )
    config = replace(config, train=replace(config.train, threads=threads))
    best, last = folder / "best.pt", folder / "last.pt"
    if best.exists() and _steps(best) >= config.train.max_iters:
        return best
    resume = last.exists()
    note(f"{'resuming' if resume else 'training'} {name}, seed {seed}: {config.train.max_iters} steps in {folder}")
    trainer(config, folder, resume)
    if not best.exists():
        raise CheckpointError(f"training {name} left no {best}; remove {folder} and start again")
    return best


def _steps(path: Path) -> int:
    return int(load_denoiser(path).provenance.get("step", 0))


# ------------------------------------------------------------------------------------------------------------ measuring


def measure(variant: Variant, loaded: Loaded, plan: Plan) -> list[Row]:
    """Generation, and repair and editing where the variant asks for them, as the reference ran them."""
    language, denoiser = loaded.language, Faithful(loaded.denoiser) if variant.faithful else loaded.denoiser
    lengths = draw_lengths(language, plan.num_samples, None, plan.rng(60))
    made = draw(denoiser, variant.sampler(), lengths, plan.seed, plan.batch_size)
    found = {
        "balanced": metrics.rate(map(metrics.balanced, made.texts)),
        "has_equals": metrics.rate(map(metrics.has_equals, made.texts)),
        "has_operator": metrics.rate(metrics.has_operator(text) for text in made.texts),
        "parses": metrics.rate(metrics.parses(made.texts, language)),
        "holds": metrics.rate(metrics.holds(made.texts, language)),
        "distinct": metrics.distinct(made.texts),
    }
    rows = [make_row("generation", variant.name, {}, metric, estimate) for metric, estimate in found.items()]
    return rows + (_tasks(variant, loaded, denoiser, plan) if variant.tasks else [])


def _tasks(variant: Variant, loaded: Loaded, denoiser: Any, plan: Plan) -> list[Row]:
    """Repair (three passes) and editing (two), all tokens rewritten at once, the given ones pinned when editing."""
    language = loaded.language
    clean = held_out(language, "test", plan.num_samples, plan.seed)
    noisy = repair.corrupt(language, clean, SIGMA, "reference", plan.seed)
    identity = repair.score(noisy, clean, language, plan)
    canvas = Canvas.draft(noisy, language.vocabulary, SIGMA, torch.Generator().manual_seed(plan.seed))
    repaired = [one_symbol_each(t) for t in refine(3, clock=False)(denoiser, canvas).texts(language.vocabulary)]
    rows = [
        make_row("repair", variant.name, {"sigma": SIGMA}, metric, estimate, baseline=identity[metric], ceiling=1.0)
        for metric, estimate in repair.score(repaired, clean, language, plan).items()
    ]
    templates = editing.blanked(clean, BLANKS, plan.rng(61))
    canvas = Canvas.template(templates, language.vocabulary, torch.Generator().manual_seed(plan.seed))
    canvas = replace(canvas, suspect=torch.full_like(canvas.suspect, 0.5))
    edited = [one_symbol_each(t) for t in refine(2, clock=False)(denoiser, canvas).texts(language.vocabulary)]
    scores = editing.score(edited, templates, clean, language, plan)
    return rows + [make_row("editing", variant.name, {"blanks": BLANKS}, m, e, ceiling=1.0) for m, e in scores.items()]


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


def pooled(rows: Sequence[Row]) -> str:
    """The mean over seeds, its interval over the strings of all seeds, and the range of the seeds."""
    metric, values, count = rows[0].metric, [row.value for row in rows], sum(row.count for row in rows)
    value = float(np.mean(values))
    estimate = metrics.wilson(round(value * count), count)
    spread = f"; seeds {number(min(values), metric)}-{number(max(values), metric)}" if len(rows) > 1 else ""
    return f"{number(value, metric)} [{number(estimate.low, metric)}, {number(estimate.high, metric)}]{spread}"


SIMILAR = (("balanced", "generation"), ("has_equals", "generation"), ("has_operator", "generation"))
STRICT = (("parses", "generation"), ("holds", "generation"), ("distinct", "generation"))


def results_markdown(measured: Mapping[str, Sequence[Sequence[Row]]], plan: Plan, seeds: Iterable[int], threads: int) -> str:
    """``docs/results.md`` of the reproduction; ``measured`` holds, for each variant, one list of rows a seed."""
    seeds = list(seeds)
    lines = [
        "## The reference's table, measured again",
        "",
        f"Every variant was trained from scratch with seeds {', '.join(map(str, seeds))} and measured on "
        f"{plan.num_samples} strings each"
        f" ({threads or torch.get_num_threads()} threads). Command: `python benchmark.py --reproduce --seeds "
        f"{len(seeds)} --num_samples {plan.num_samples}`.",
        "",
        "Cells: mean over seeds [95% interval over all strings]; seeds lowest-highest. The interval knows the chance "
        "of the strings only; the "
        "range shows the chance of training, which is larger. At temperature 0 strings of one length are alike, so "
        "even that flatters.",
        "`balanced` is what the reference calls valid syntax; `parses` is membership in the language. Definitions: "
        "[metrics.md](metrics.md).",
        "",
        "| variant | balanced, published | balanced | has =, published | has = | has op, published | has op | "
        "**parses** | holds | distinct |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, by_seed in measured.items():
        variant = next(v for v in VARIANTS if v.name == name)
        cells = [name]
        for metric, suite in SIMILAR:
            cells += [variant.published.get(metric, "-"), _cell(by_seed, metric, suite)]
        cells += [_cell(by_seed, metric, suite) for metric, suite in STRICT]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "### Repair and editing", "", "Repair: mixed corruption at sigma 0.2; editing: 20% of the symbols blank.", "",
              "| variant | repair, published | token accuracy | corrupted string unchanged | repaired string parses | "
              "anchors kept | edited string parses |",
              "|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, by_seed in measured.items():
        variant = next(v for v in VARIANTS if v.name == name)
        if variant.tasks:
            identity = [r.baseline or 0.0 for rows in by_seed for r in _find(rows, "token_accuracy", "repair")]
            cells = [
                name,
                variant.published.get("token_accuracy", "-"),
                _cell(by_seed, "token_accuracy", "repair"),
                number(float(np.mean(identity)), "token_accuracy"),
                _cell(by_seed, "parses", "repair"),
                _cell(by_seed, "anchors_kept", "editing"),
                _cell(by_seed, "parses", "editing"),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "### Why", ""]
    for name in measured:
        variant = next(v for v in VARIANTS if v.name == name)
        lines += [f"**{name}** (`configs/{variant.config}.yaml`). {variant.why}", ""]
    return "\n".join(lines)


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
    seeds: Iterable[int],
    runs: Path,
    results: Path,
    variants: Sequence[str] | None = None,
    num_samples: int = 200,
    threads: int = 0,
    note: Note = lambda _: None,
    trainer: Trainer = train_with_loop,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, list[list[Row]]]:
    """Train what is not trained, measure what is not measured, write ``results``; the rows by variant and seed.

    The report is written again after every variant, so that an interruption leaves what is known.  ``overrides`` changes
    settings of every configuration, for quick trials.
    """
    plan, seeds = Plan(num_samples=num_samples), list(seeds)
    measured: dict[str, list[list[Row]]] = {}
    for variant in choose(variants):
        found = []
        for seed in seeds:
            best = ensure_trained(variant.config, seed, runs, threads, trainer, note, overrides or {})
            found.append(ensure_measured(variant, best, replace(plan, seed=seed), note))
        measured[variant.name] = found
        write_text(results, placed(results, results_markdown(measured, plan, seeds, threads)))
    note(f"wrote {results}")
    return measured
