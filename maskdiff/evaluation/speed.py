"""Speed: strings per second of each sampler, training beside an ordinary loop, and what corruption and controls cost.

For: figures of one machine in one run.  Not for: comparing machines.  Easy to get wrong: rounds of the two training loops
alternate, so that a slow spell of the machine hits both; the first round of everything is thrown away.  Tokens are real
ones: BOS, symbols and EOS, no padding.  Both loops train on the same strings, of the language's own lengths: longer ones (a
``length_tilt``) would flatter the loop that gets them, because a padded row costs the same however full it is.
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
from maskdiff.evaluation.generation import draw
from maskdiff.evaluation.padded import PaddedLoop
from maskdiff.evaluation.rows import (
    Ledger,
    Plan,
    Row,
    Subject,
    Watch,
    draw_lengths,
    sampler_settings,
    unwatched,
)
from maskdiff.metrics import Estimate
from maskdiff.sampling import Autoregressive, Canvas, Draw, Penalties

if TYPE_CHECKING:
    from maskdiff.languages import Language
    from maskdiff.training.loop import Trainer

ROUNDS = 5
STEPS_A_ROUND = 4
STRINGS = 4096  # of the training set of both loops


def _over_rounds(values: list[float], count: int, plan: Plan) -> Estimate:
    """The mean over rounds with the bootstrap interval over rounds, if there are two; ``count`` is all that was processed."""
    if len(values) == 1:
        return Estimate(values[0], math.nan, math.nan, count)
    estimate = metrics.mean(values, plan.rng(50))
    return Estimate(estimate.value, estimate.low, estimate.high, count)


def sampling_speed(subject: Subject, plan: Plan, watch: Watch = unwatched) -> list[Row]:
    """Strings per second of every sampler of the plan, lengths as in the language; one warm-up pass is not timed."""
    ledger = Ledger("speed")
    lengths = draw_lengths(
        subject.language, min(plan.num_samples, plan.batch_size), plan.lengths, plan.rng(51)
    )
    for config in plan.samplers:
        with watch(f"speed, {config.sampler}"):
            sampler = subject.sampler(config)
            draw(subject.loaded.denoiser, sampler, lengths[:8], plan.seed, plan.batch_size)
            speeds: list[float] = []
            while (
                len(speeds) < ROUNDS and sum(len(lengths) / s for s in speeds) < plan.speed_seconds
            ):
                made = draw(
                    subject.loaded.denoiser,
                    sampler,
                    lengths,
                    plan.seed + len(speeds),
                    plan.batch_size,
                )
                speeds.append(len(lengths) / max(made.seconds, 1e-9))
            settings = subject.settings(**sampler_settings(config), batch=len(lengths))
            ledger.add(
                config.sampler,
                settings,
                "strings_per_second",
                _over_rounds(speeds, len(lengths) * len(speeds), plan),
            )
    return ledger.rows


ALL_CONTROLS = ControlConfig(
    repetition_penalty=1.1, presence_penalty=0.1, frequency_penalty=0.1, no_repeat_ngram=8, dry_multiplier=0.8, min_p=0.02,
    top_k=15,
)  # fmt: skip
TOP_P = 0.95  # beside them


def controls_cost(subject: Subject, plan: Plan) -> list[Row]:
    """What every processor together adds to a decoding step of the causal mode: seconds with them over seconds without.

    ``batch_size`` strings of the language's mean length; rounds alternate, and the first is thrown away.
    """
    loaded, vocabulary = subject.loaded, subject.loaded.vocabulary
    mean = round(
        float(subject.language.length_probs() @ np.arange(subject.language.max_symbols + 1))
    )
    canvas = Canvas.blank(
        [mean] * plan.batch_size, vocabulary, None, getattr(loaded.denoiser, "device", "cpu")
    )
    plain = Autoregressive()
    controlled = Autoregressive(
        draw=Draw(top_p=TOP_P, penalties=Penalties.of(ALL_CONTROLS, vocabulary))
    )
    ratios: list[float] = []
    for index in range(2 * ROUNDS + 1):
        seconds = []
        for sampler in (plain, controlled):
            start = time.perf_counter()
            sampler(loaded.denoiser, canvas)
            seconds.append(time.perf_counter() - start)
        ratios += [seconds[1] / seconds[0]] * (index > 0)
    settings = subject.settings(batch=plan.batch_size, symbols=mean)
    median = metrics.bootstrap(
        np.array(ratios), lambda rows: float(np.median(np.array(ratios)[rows])), plan.rng(52)
    )
    ledger = Ledger("speed")
    ledger.add("autoregressive", settings, "time_with_all_controls", median, baseline=1.0)
    return ledger.rows


def make_loops(
    config: Config, language: Language, folder: Path, seed: int
) -> tuple[Trainer, PaddedLoop]:
    """Our trainer and the padded loop on the same strings, ours without what is not to be timed: validation, files, draws."""
    from maskdiff.training.loop import Trainer

    quiet = replace(
        config.train, checkpoint_dir=str(folder), threads=0, device="cpu", eval_interval=10**9, live_samples=0,
        num_samples=STRINGS, length_tilt=0.0, seed=seed,
    )  # fmt: skip
    trainer = Trainer(replace(config, train=quiet), folder)
    return trainer, PaddedLoop(language, trainer.batches.texts(), passes=config.model.k_iter)


def training_speed(config: Config, language: Language, plan: Plan) -> list[Row]:
    """Training tokens per second of ``config`` beside the padded loop, and the share of a step spent on corruption."""
    with tempfile.TemporaryDirectory() as folder:
        trainer, padded = make_loops(config, language, Path(folder), plan.seed)
        counters = {"ours": _trainer_round(trainer), "padded loop": _padded_round(padded)}
        tokens: dict[str, list[float]] = {name: [] for name in counters}
        shares: dict[str, list[float]] = {name: [] for name in counters}
        for i in range(ROUNDS + 1):
            for name, run in counters.items():
                seconds, corruption, count = run()
                if i:  # the first round warms up
                    tokens[name].append(count / seconds)
                    shares[name].append(corruption / seconds)
        if trainer.monitor:
            trainer.monitor.close()
    ledger, done = Ledger("speed"), ROUNDS * STEPS_A_ROUND
    slow = float(np.mean(tokens["padded loop"]))
    ours = [value / base for value, base in zip(tokens["ours"], tokens["padded loop"], strict=True)]
    for name in counters:
        settings = {"loop": name}
        ledger.add(
            "-",
            settings,
            "training_tokens_per_second",
            _over_rounds(tokens[name], done, plan),
            baseline=slow,
        )
        ledger.add(
            "-",
            settings,
            "corruption_share",
            _over_rounds(shares[name], done, plan),
            baseline=float(np.mean(shares["padded loop"])),
        )
    ledger.add(
        "-", {"loop": "ours"}, "training_speedup", _over_rounds(ours, done, plan), baseline=1.0
    )
    return ledger.rows


def _trainer_round(trainer: Trainer) -> Callable[[], tuple[float, float, int]]:
    """Seconds, seconds of corruption and real tokens of a few steps of our own trainer, without its producer thread."""

    def run() -> tuple[float, float, int]:
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

    return run


def _padded_round(loop: PaddedLoop) -> Callable[[], tuple[float, float, int]]:
    def run() -> tuple[float, float, int]:
        seconds = corruption = 0.0
        tokens = 0
        for _ in range(STEPS_A_ROUND):
            start = time.perf_counter()
            batch = loop.noised()
            corruption += time.perf_counter() - start
            tokens += loop.step(batch)
            seconds += time.perf_counter() - start
        return seconds, corruption, tokens

    return run


def speed(subject: Subject, plan: Plan, watch: Watch = unwatched) -> list[Row]:
    """Rows of the speed suite: sampling with the subject's model, training with its configuration."""
    rows = sampling_speed(subject, plan, watch)
    with watch("speed, training"):
        rows += training_speed(subject.loaded.config, subject.language, plan)
    with watch("speed, controls"):
        return rows + controls_cost(subject, plan)
