"""Generation from nothing: every metric of a sampler's strings, beside blind and real strings.

The length is given to the sampler, drawn from the language's own distribution, so `length_distance`
only moves for models that draw the end of their strings. Such a model gets no length with
`autoregressive`, except under a grammar. Every string drawn is counted; only with bounds of the
length such a model draws strings of other lengths again. The held-out split alone has other lengths
than the language (it may lack every string of 3 symbols), so `held_out_texts` matches lengths.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from maskdiff import metrics, tasks
from maskdiff.config import ControlConfig, SamplerConfig
from maskdiff.data import held_out
from maskdiff.errors import CanvasError
from maskdiff.evaluation.rows import (
    Plan,
    Seen,
    Settings,
    SuiteRun,
    control_settings,
    one_symbol_each,
    sampler_settings,
    sorted_lengths,
    unigram_texts,
    validity_figures,
)
from maskdiff.languages import HasExactProbability, HasOperators
from maskdiff.metrics import Estimate
from maskdiff.sampling import Penalties, penalised
from maskdiff.sampling.canvas import Canvas
from maskdiff.sampling.stage import Sampler

if TYPE_CHECKING:
    from maskdiff.languages import Language
    from maskdiff.models.denoiser import Denoiser

REAL_SETS = 8  # sets of real draws that `distinct` is compared with
DEEPEST = 10  # nesting from which strings are counted together


@dataclass(frozen=True)
class SampledTexts:
    """The strings of one sampler, in the order of `lengths`, and what they cost."""

    texts: list[str]
    lengths: list[int]
    evaluations: list[int]
    seconds: float


def sample_texts(
    denoiser: Denoiser,
    sampler: Sampler,
    lengths: Sequence[int],
    seed: int,
    batch_size: int = 256,
    control: ControlConfig | None = None,
) -> SampledTexts:
    """Draw one string of each length in symbols.

    The random keys depend on `seed` and the order alone, not on `batch_size`. `control` (all but
    `first_complete`) changes the draws, and cuts the strings where it would have ended them.
    """
    control = control or ControlConfig()
    penalties = Penalties.of(control, denoiser.vocabulary)
    sampler = penalised(sampler, penalties) if penalties.active else sampler
    device = getattr(denoiser, "device", torch.device("cpu"))
    canvas = Canvas.blank(lengths, denoiser.vocabulary, torch.Generator().manual_seed(seed), device)
    texts: list[str] = []
    evaluations: list[int] = []

    begin = time.perf_counter()
    for start in range(0, len(lengths), batch_size):
        sample = sampler(denoiser, canvas[start : start + batch_size].trim())
        evaluations += sample.evaluations.tolist()
        cut = [text for text, _ in tasks.cut_texts(sample, denoiser.vocabulary, control)]
        whole = sample.texts(denoiser.vocabulary)
        texts += cut or [one_symbol_each(text, denoiser.vocabulary) for text in whole]
    return SampledTexts(texts, list(lengths), evaluations, time.perf_counter() - begin)


# -------------------------------------------------------------------------- real and blind strings


@dataclass(frozen=True)
class Yardstick:
    """Real and blind strings of the same lengths, made once for all samplers of a run.

    Attributes:
        reference: Held-out strings that the histograms are compared with.
        real: Other real draws, as many as a sampler makes: the ceiling.
        blind: Symbols drawn independently: the baseline.
    """

    language: Language
    seen: Seen
    lengths: list[int]
    reference: list[str]
    real: list[str]
    real_sets: list[list[str]]
    blind: list[str]


def make_yardstick(language: Language, plan: Plan, seen: Seen) -> Yardstick:
    """Draw the strings that samples are compared with."""
    count, bounds = plan.num_samples, plan.lengths
    lengths = sorted_lengths(language, count, bounds, plan.rng(1))
    sets = [real_texts(language, count, bounds, plan.rng(2, i)) for i in range(REAL_SETS)]
    blind = unigram_texts(sets[0], lengths, plan.rng(3))
    reference = held_out_texts(language, max(2000, count), plan)
    return Yardstick(language, seen, lengths, reference, sets[1], sets, blind)


def real_texts(
    language: Language, count: int, bounds: tuple[int, int] | None, rng: np.random.Generator
) -> list[str]:
    """Return draws of the generator with lengths within `bounds`, by rejection.

    Each string of a language that is a list is drawn at most once, so there may be fewer.

    Raises:
        CanvasError: No string has such a length.
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
    """Return `count` strings of the plan's split, with the lengths of the language.

    For each length, strings are drawn with replacement from those of a larger pool. Lengths that
    the pool lacks get real draws instead: the few shortest strings may all belong to training.
    """
    lengths = sorted_lengths(language, count, plan.lengths, plan.rng(4))
    share = float(language.length_probs()[lengths[0] : lengths[-1] + 1].sum())
    pool: dict[int, list[str]] = defaultdict(list)
    for text in held_out(language, plan.split, int(2 * count / max(share, 0.4)), plan.seed):
        pool[len(text)].append(text)
    rng = plan.rng(9)
    for length in sorted(set(lengths) - pool.keys()):
        pool[length] = real_texts(language, lengths.count(length), (length, length), rng)
    return [pool[length][rng.integers(len(pool[length]))] for length in lengths]


# ------------------------------------------------------------------------------------------ metrics


def text_figures(
    texts: Sequence[str], against: Yardstick, rng: np.random.Generator
) -> dict[str, Estimate]:
    """Return every metric of a set of texts, as far as the language can tell."""
    language = against.language
    figures = validity_figures(texts, language)
    if isinstance(language, HasOperators):
        operators = language.config.operators
        figures["balanced"] = metrics.rate(map(metrics.balanced, texts))
        figures["has_equals"] = metrics.rate(map(metrics.has_equals, texts))
        figures["has_operator"] = metrics.rate(metrics.has_operator(t, operators) for t in texts)
    figures["distinct"] = metrics.distinct(texts)
    if language.validity:
        figures["distinct_valid"] = metrics.distinct_valid(texts, language)
    # A short list of strings has no sets of that size.
    if all(len(real) == len(texts) for real in against.real_sets):
        for name in [name for name in figures if "distinct" in name]:
            figures[f"{name}_relative"] = metrics.relative(figures[name], against.real_sets)
    figures["novel"] = metrics.novel(texts, against.seen)
    figures |= distances(texts, against, rng)
    if isinstance(language, HasExactProbability):
        log_likelihood, in_support = metrics.log_likelihood(texts, language, rng)
        figures |= {"log_likelihood": log_likelihood, "in_support": in_support}
    return figures


def distances(
    texts: Sequence[str], against: Yardstick, rng: np.random.Generator
) -> dict[str, Estimate]:
    """Return the distances of histograms from those of real strings: lengths, depths,
    operators."""
    language = against.language

    def distance(feature: Callable[[str], object], own: Sequence[str]) -> Estimate:
        values, real = (list(map(feature, chosen)) for chosen in (own, against.reference))
        return metrics.histogram_distance(values, real, rng)

    found = {"length_distance": distance(len, texts)}
    if isinstance(language, HasOperators):
        operators = language.config.operators
        parsed = [text for text in texts if language.parses(text)]
        found["depth_distance"] = distance(language.depth, parsed)
        found["operator_distance"] = distance(
            lambda text: metrics.operator_counts(text, operators), texts
        )
    return found


# -------------------------------------------------------------------------------------------- suite


def generation_suite(run: SuiteRun) -> None:
    """Add all metrics of each sampler, and `parses` by length and by nesting."""
    plan, subject = run.plan, run.subject
    against = make_yardstick(run.language, plan, run.seen)
    floor = text_figures(against.blind, against, plan.rng(5))
    ceiling = text_figures(against.real, against, plan.rng(6))
    for config in plan.samplers:
        with run.progress(f"generation, {config.sampler}"):
            made = _drawn_texts(run, config, against.lengths)
            settings = subject.settings(
                **sampler_settings(config), **control_settings(plan.control)
            )
            if plan.lengths is not None:
                settings["length"] = f"{plan.lengths[0]}..{plan.lengths[1]}"
            rows = run.group(config.sampler, settings)
            rows.add_all(text_figures(made.texts, against, plan.rng(7)), floor, ceiling)
            rows.add_cost(made.evaluations, made.seconds, plan.rng(8))
            if plan.lengths is None and run.language.validity:
                add_buckets(run, config.sampler, settings, made, against)


def _drawn_texts(run: SuiteRun, config: SamplerConfig, lengths: Sequence[int]) -> SampledTexts:
    """Strings of the lengths, or of those that the model chooses if it draws their ends.

    The seconds of the latter include the checks of the strings.
    """
    plan, subject = run.plan, run.subject
    if config.grammar or not tasks.draws_ends(subject.loaded, config):
        sampler, denoiser = subject.sampler(config), subject.loaded.denoiser
        return sample_texts(denoiser, sampler, lengths, plan.seed, plan.batch_size, plan.control)
    begin = time.perf_counter()
    made = tasks.generate(
        subject.loaded, len(lengths), length=plan.lengths, sampler=config, seed=plan.seed,
        batch_size=plan.batch_size, control=replace(plan.control, first_complete=False),
    )  # fmt: skip
    made.sort(key=lambda result: len(result.text))
    texts, evaluations = [r.text for r in made], [r.evaluations for r in made]
    return SampledTexts(texts, [*map(len, texts)], evaluations, time.perf_counter() - begin)


def add_buckets(
    run: SuiteRun, sampler: str, settings: Settings, made: SampledTexts, against: Yardstick
) -> None:
    """Add `parses` by bucket of length and by the deepest nesting of brackets."""
    flags = metrics.parses(made.texts, run.language)
    blind = metrics.by_length(metrics.parses(against.blind, run.language), against.lengths)
    for bucket, estimate in metrics.by_length(flags, made.lengths).items():
        rows = run.group(sampler, {**settings, "length": bucket})
        rows.add("parses", estimate, blind.get(bucket), 1.0)
    if not isinstance(run.language, HasOperators):
        return
    depths = [min(metrics.nesting(text), DEEPEST) for text in made.texts]
    for depth in sorted(set(depths)):
        chosen = metrics.rate(flag for flag, own in zip(flags, depths, strict=True) if own == depth)
        run.group(sampler, {**settings, "nesting": depth}).add("parses", chosen, ceiling=1.0)
