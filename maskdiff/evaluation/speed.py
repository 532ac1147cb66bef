"""Speed: strings per second of each sampler, training beside an ordinary loop, the cost of
controls.

The figures are of one machine in one run. Rounds of the loops that are compared alternate, so that
a slow spell of the machine hits both, and the first round is thrown away. Tokens are real ones:
BOS, symbols and EOS, no padding. Both training loops train on the same strings, of the language's
own lengths: a padded row costs the same however full it is, so longer strings (a `length_tilt`)
would flatter the loop that gets them.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from maskdiff import metrics
from maskdiff.config import Config, ControlConfig
from maskdiff.evaluation.generation import sample_texts
from maskdiff.evaluation.padded import PaddedLoop
from maskdiff.evaluation.rows import Plan, SuiteRun, sampler_settings, sorted_lengths, timed_call
from maskdiff.metrics import Estimate, Unit
from maskdiff.sampling import Autoregressive, Canvas, Draw, Penalties

if TYPE_CHECKING:
    from maskdiff.languages import Language
    from maskdiff.training.loop import Trainer

ROUNDS = 5
STEPS_A_ROUND = 4
STRINGS = 4096  # of the training set of both loops
ALL_CONTROLS = ControlConfig(
    repetition_penalty=1.1, presence_penalty=0.1, frequency_penalty=0.1, no_repeat_ngram=8,
    dry_multiplier=0.8, min_p=0.02, top_k=15,
)  # fmt: skip
TOP_P = 0.95  # beside them


def speed_suite(run: SuiteRun) -> None:
    """Add sampling with the subject's model, training with its configuration, and controls."""
    add_sampling(run)
    with run.progress("speed, training"):
        add_training(run, run.subject.loaded.config)
    with run.progress("speed, controls"):
        add_controls(run)


def _over_rounds(values: list[float], count: int, plan: Plan, unit: Unit = Unit.NUMBER) -> Estimate:
    """The mean over rounds, with an interval if there are two; `count` is all that was
    processed."""
    if len(values) == 1:
        return Estimate(values[0], math.nan, math.nan, count, unit)
    return replace(metrics.mean(values, plan.rng(50), unit), count=count)


def add_sampling(run: SuiteRun) -> None:
    """Add strings per second of every sampler, after one warm-up pass."""
    plan, denoiser = run.plan, run.subject.loaded.denoiser
    count = min(plan.num_samples, plan.batch_size)
    lengths = sorted_lengths(run.language, count, plan.lengths, plan.rng(51))
    for config in plan.samplers:
        with run.progress(f"speed, {config.sampler}"):
            sampler = run.subject.sampler(config)
            sample_texts(denoiser, sampler, lengths[:8], plan.seed, plan.batch_size)
            speeds: list[float] = []
            while len(speeds) < ROUNDS and sum(count / s for s in speeds) < plan.speed_seconds:
                seed = plan.seed + len(speeds)
                made = sample_texts(denoiser, sampler, lengths, seed, plan.batch_size)
                speeds.append(count / max(made.seconds, 1e-9))
            settings = run.subject.settings(**sampler_settings(config), batch=count)
            speed = _over_rounds(speeds, count * len(speeds), plan, Unit.PER_SECOND)
            run.group(config.sampler, settings).add("strings_per_second", speed)


def add_controls(run: SuiteRun) -> None:
    """Add the time of a decoding step of the causal mode with all controls over that without.

    The batch has `batch_size` strings of the language's mean length.
    """
    plan, denoiser, vocabulary = (
        run.plan,
        run.subject.loaded.denoiser,
        run.subject.loaded.vocabulary,
    )
    lengths = np.arange(run.language.max_symbols + 1)
    mean = round(float(run.language.length_probs() @ lengths))
    device = getattr(denoiser, "device", "cpu")
    canvas = Canvas.blank([mean] * plan.batch_size, vocabulary, None, device)
    draw = Draw(top_p=TOP_P, penalties=Penalties.of(ALL_CONTROLS, vocabulary))
    samplers = Autoregressive(), Autoregressive(draw=draw)
    ratios: list[float] = []
    for index in range(2 * ROUNDS + 1):
        without, with_controls = (timed_call(sampler, denoiser, canvas)[1] for sampler in samplers)
        ratios += [with_controls / without] * (index > 0)
    values = np.array(ratios)
    median = metrics.bootstrap(values, lambda rows: float(np.median(values[rows])), plan.rng(52))
    rows = run.group("autoregressive", run.subject.settings(batch=plan.batch_size, symbols=mean))
    rows.add("time_with_all_controls", median, 1.0)


# ----------------------------------------------------------------------------------------- training


def make_loops(
    config: Config, language: Language, folder: Path, seed: int
) -> tuple[Trainer, PaddedLoop]:
    """Return our trainer and the padded loop on the same strings.

    Our trainer does not validate, draw samples or write files while it is timed.
    """
    from maskdiff.training.loop import Trainer

    quiet = replace(
        config.train, checkpoint_dir=str(folder), threads=0, device="cpu", eval_interval=10**9,
        live_samples=0, num_samples=STRINGS, length_tilt=0.0, seed=seed,
    )  # fmt: skip
    trainer = Trainer(replace(config, train=quiet), folder)
    return trainer, PaddedLoop(language, trainer.batches.texts(), passes=config.model.k_iter)


def add_training(run: SuiteRun, config: Config) -> None:
    """Add training tokens per second beside the padded loop, and the share spent on corruption."""
    plan = run.plan
    with tempfile.TemporaryDirectory() as folder:
        trainer, padded = make_loops(config, run.language, Path(folder), plan.seed)
        loops = {"ours": _trainer_round(trainer), "padded loop": _padded_round(padded)}
        tokens: dict[str, list[float]] = {name: [] for name in loops}
        shares: dict[str, list[float]] = {name: [] for name in loops}
        for i in range(ROUNDS + 1):
            for name, round_ in loops.items():
                seconds, corruption, count = round_()
                if i:  # the first round warms up
                    tokens[name].append(count / seconds)
                    shares[name].append(corruption / seconds)
        if trainer.monitor:
            trainer.monitor.close()

    done, base = ROUNDS * STEPS_A_ROUND, tokens["padded loop"]
    for name in loops:
        rows = run.group("-", {"loop": name})
        speed = _over_rounds(tokens[name], done, plan, Unit.PER_SECOND)
        rows.add("training_tokens_per_second", speed, float(np.mean(base)))
        share = _over_rounds(shares[name], done, plan, Unit.SHARE)
        rows.add("corruption_share", share, float(np.mean(shares["padded loop"])))
    ratios = [ours / theirs for ours, theirs in zip(tokens["ours"], base, strict=True)]
    speedup = _over_rounds(ratios, done, plan)
    run.group("-", {"loop": "ours"}).add("training_speedup", speedup, 1.0)


def _trainer_round(trainer: Trainer) -> Callable[[], tuple[float, float, int]]:
    """A round of our trainer without its producer thread: seconds, those of corruption, and
    tokens."""

    def round_() -> tuple[float, float, int]:
        seconds = corruption = 0.0
        tokens = 0
        for _ in range(STEPS_A_ROUND):
            start = time.perf_counter()
            strings = trainer.batches.batch(trainer.progress.step)
            drawn = time.perf_counter()
            batch, inner = trainer.noised(strings, trainer.progress.step)
            corruption += time.perf_counter() - drawn
            trainer.step(batch, inner)
            trainer.progress.step += 1
            seconds += time.perf_counter() - start
            tokens += int(strings.length.sum())
        return seconds, corruption, tokens

    return round_


def _padded_round(loop: PaddedLoop) -> Callable[[], tuple[float, float, int]]:
    """The same of the padded loop."""

    def round_() -> tuple[float, float, int]:
        seconds = corruption = 0.0
        tokens = 0
        for _ in range(STEPS_A_ROUND):
            start = time.perf_counter()
            batch = loop.noised()
            corruption += time.perf_counter() - start
            tokens += loop.step(batch)
            seconds += time.perf_counter() - start
        return seconds, corruption, tokens

    return round_
