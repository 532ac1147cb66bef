"""Generation from nothing: what a sampler's strings are worth, beside blind strings and beside real ones.

For: every metric of generation, by sampler and by length.  Not for: constrained or rejected samples; every string drawn is
counted.  Easy to get wrong: the inner length is given to the sampler (drawn from the language's own distribution), so
``length_distance`` only moves for samplers that end their strings themselves; and the held-out split alone has other lengths
than the language (it may lack every string of 3 symbols), so that ``held_out_texts`` matches lengths.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from maskdiff import metrics, tasks
from maskdiff.config import ControlConfig
from maskdiff.data import held_out
from maskdiff.errors import CanvasError
from maskdiff.evaluation.rows import (
    Ledger,
    Plan,
    Row,
    Subject,
    Watch,
    chunks,
    control_settings,
    draw_lengths,
    one_symbol_each,
    sampler_settings,
    throughput,
    unigram_texts,
    unwatched,
    verdicts,
)
from maskdiff.languages import HasExactProbability, HasOperators
from maskdiff.metrics import Estimate
from maskdiff.sampling import Penalties, penalised
from maskdiff.sampling.canvas import Canvas
from maskdiff.sampling.stage import Sampler

if TYPE_CHECKING:
    from maskdiff.languages import Language
    from maskdiff.models.denoiser import Denoiser

Seen = Collection[str] | Callable[[str], bool]
REAL_SETS = 8  # sets of real draws that `distinct` is compared with


@dataclass(frozen=True)
class Drawn:
    """What one sampler made: texts in the order of their lengths, evaluations of each, and the wall-clock seconds."""

    texts: list[str]
    lengths: list[int]
    evaluations: list[int]
    seconds: float


def draw(
    denoiser: Denoiser,
    sampler: Sampler,
    lengths: Sequence[int],
    seed: int,
    batch_size: int = 256,
    control: ControlConfig | None = None,
) -> Drawn:
    """One string of each inner length; the keys depend on ``seed`` and the order alone, not on ``batch_size``.

    ``control`` (all but ``first_complete``) shapes the draws and cuts the strings where it would have ended them.
    """
    control = control or ControlConfig()
    controls = Penalties.of(control, denoiser.vocabulary)
    sampler = penalised(sampler, controls) if controls.active else sampler
    device = getattr(denoiser, "device", torch.device("cpu"))
    canvas = Canvas.blank(lengths, denoiser.vocabulary, torch.Generator().manual_seed(seed), device)
    texts: list[str] = []
    evaluations: list[int] = []
    start = time.perf_counter()
    for part in chunks(len(lengths), batch_size):
        sample = sampler(denoiser, canvas[part].trim())
        whole = [
            one_symbol_each(text, denoiser.vocabulary) for text in sample.texts(denoiser.vocabulary)
        ]
        texts += [
            text for text, _ in tasks.cut_texts(sample, denoiser.vocabulary, control)
        ] or whole
        evaluations += sample.evaluations.tolist()
    return Drawn(texts, list(lengths), evaluations, time.perf_counter() - start)


@dataclass(frozen=True)
class Yardstick:
    """Real and blind strings of the same lengths, made once for all samplers of a run."""

    language: Language
    operators: str
    seen: Seen
    lengths: list[int]
    reference: list[str]  # held-out strings that the histograms are compared with
    real: list[str]  # other real draws, as many as a sampler makes: the ceiling
    real_sets: list[list[str]]
    blind: list[str]  # symbols drawn independently: the baseline


def yardstick(language: Language, plan: Plan, seen: Seen) -> Yardstick:
    """Draw what the samples are compared with; ``seen`` are the training strings, or says whether one is among them."""
    lengths = draw_lengths(language, plan.num_samples, plan.lengths, plan.rng(1))
    sets = [
        real_texts(language, plan.num_samples, plan.lengths, plan.rng(2, i))
        for i in range(REAL_SETS)
    ]
    blind = unigram_texts(sets[0], lengths, plan.rng(3))
    reference = held_out_texts(language, max(2000, plan.num_samples), plan)
    return Yardstick(
        language, language.config.operators, seen, lengths, reference, sets[1], sets, blind
    )


def real_texts(
    language: Language, count: int, bounds: tuple[int, int] | None, rng: np.random.Generator
) -> list[str]:
    """Draws of the generator with inner lengths within ``bounds``, by rejection.

    Of a language that is a list each string is drawn once at most, so that there may be fewer.  Raises ``CanvasError`` where
    no string has such a length.
    """
    texts = language.texts()
    low, high = bounds or (0, language.max_symbols)
    if not language.length_probs()[low : high + 1].sum() > 0:
        raise CanvasError(
            f"{language.name} has no strings of {low}..{high} symbols to compare with"
        )
    if texts is not None:
        fitting = [text for text in texts if low <= len(text) <= high]
        return [fitting[i] for i in rng.permutation(len(fitting))[:count]]
    if bounds is None:
        return language.sample_many(count, rng)
    kept: list[str] = []
    while len(kept) < count:
        kept += [text for text in language.sample_many(4 * count, rng) if low <= len(text) <= high]
    return kept[:count]


def held_out_texts(language: Language, count: int, plan: Plan) -> list[str]:
    """``count`` strings of the plan's split, with the lengths that the language gives (within those of the plan).

    For each length, strings are drawn from those of a larger pool, again and again where the pool has few.  Lengths of which
    it has none, such as the shortest, whose few strings may all belong to training, get real draws instead.
    """
    lengths = draw_lengths(language, count, plan.lengths, plan.rng(4))
    share = float(language.length_probs()[lengths[0] : lengths[-1] + 1].sum())
    pool: dict[int, list[str]] = defaultdict(list)
    for text in held_out(language, plan.split, int(2 * count / max(share, 0.4)), plan.seed):  # type: ignore[arg-type]
        pool[len(text)].append(text)
    rng = plan.rng(9)
    for length in sorted(set(lengths) - pool.keys()):
        pool[length] = real_texts(language, lengths.count(length), (length, length), rng)
    return [pool[length][rng.integers(len(pool[length]))] for length in lengths]


def describe(
    texts: Sequence[str], against: Yardstick, rng: np.random.Generator
) -> dict[str, Estimate]:
    """Every metric of a set of texts that does not depend on how they were made, as far as the language can tell."""
    language = against.language
    figures = verdicts(texts, language)
    if isinstance(language, HasOperators):
        figures["balanced"] = metrics.rate(map(metrics.balanced, texts))
        figures["has_equals"] = metrics.rate(map(metrics.has_equals, texts))
        figures["has_operator"] = metrics.rate(
            metrics.has_operator(text, against.operators) for text in texts
        )
    figures["distinct"] = metrics.distinct(texts)
    if language.validity:
        figures["distinct_valid"] = metrics.distinct_valid(texts, language)
    if all(
        len(real) == len(texts) for real in against.real_sets
    ):  # a short list of strings has no sets of any size
        figures |= {
            f"{name}_relative": metrics.relative(figures[name], against.real_sets)
            for name in [*figures]
            if "distinct" in name
        }
    figures["novel"] = metrics.novel(texts, against.seen)
    figures |= distances(texts, against, rng)
    if isinstance(language, HasExactProbability):
        figures["log_likelihood"], figures["in_support"] = metrics.log_likelihood(
            texts, language, rng
        )
    return figures


def distances(
    texts: Sequence[str], against: Yardstick, rng: np.random.Generator
) -> dict[str, Estimate]:
    """How far the histograms of lengths, and of depths and operators where there are any, are from those of real strings."""
    language, operators = against.language, against.operators

    def distance(of: Callable[[str], object], own: Sequence[str]) -> Estimate:
        return metrics.histogram_distance(
            [of(t) for t in own], [of(t) for t in against.reference], rng
        )

    found = {"length_distance": distance(len, texts)}
    if isinstance(language, HasOperators):
        found["depth_distance"] = distance(
            language.depth, [text for text in texts if language.parses(text)]
        )
        found["operator_distance"] = distance(
            lambda text: metrics.operator_counts(text, operators), texts
        )
    return found


def generation(subject: Subject, plan: Plan, seen: Seen, watch: Watch = unwatched) -> list[Row]:
    """All rows of the generation suite: one block of metrics a sampler, and ``parses`` by length bucket."""
    against = yardstick(subject.language, plan, seen)
    floor, ceiling = (
        describe(against.blind, against, plan.rng(5)),
        describe(against.real, against, plan.rng(6)),
    )
    ledger = Ledger("generation")
    for config in plan.samplers:
        with watch(f"generation, {config.sampler}"):
            made = draw(
                subject.loaded.denoiser,
                subject.sampler(config),
                against.lengths,
                plan.seed,
                plan.batch_size,
                plan.control,
            )
            settings = subject.settings(
                **sampler_settings(config), **control_settings(plan.control)
            )
            if plan.lengths is not None:
                settings["length"] = f"{plan.lengths[0]}..{plan.lengths[1]}"
            for metric, estimate in describe(made.texts, against, plan.rng(7)).items():
                ledger.add(
                    config.sampler,
                    settings,
                    metric,
                    estimate,
                    baseline=floor[metric],
                    ceiling=ceiling.get(metric),
                )
            ledger.add(
                config.sampler, settings, "evaluations", metrics.mean(made.evaluations, plan.rng(8))
            )
            ledger.add(
                config.sampler,
                settings,
                "strings_per_second",
                throughput(len(made.texts), made.seconds),
            )
            if plan.lengths is None and subject.language.validity:
                add_buckets(ledger, config.sampler, settings, made, against)
    return ledger.rows


def add_buckets(
    ledger: Ledger, sampler: str, settings: dict[str, object], made: Drawn, against: Yardstick
) -> None:
    """``parses`` by bucket of inner length and by the deepest nesting of brackets."""
    flags = metrics.parses(made.texts, against.language)
    blind = metrics.by_length(metrics.parses(against.blind, against.language), against.lengths)
    for bucket, estimate in metrics.by_length(flags, made.lengths).items():
        ledger.add(
            sampler,
            {**settings, "length": bucket},
            "parses",
            estimate,
            baseline=blind[bucket],
            ceiling=1.0,
        )
    if not isinstance(against.language, HasOperators):
        return
    depths = [min(metrics.nesting(text), 10) for text in made.texts]
    for depth in sorted(set(depths)):
        chosen = metrics.rate(flag for flag, own in zip(flags, depths, strict=True) if own == depth)
        ledger.add(sampler, {**settings, "nesting": depth}, "parses", chosen, ceiling=1.0)
