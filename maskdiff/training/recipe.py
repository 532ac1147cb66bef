"""The options of a run on a user's own lines, chosen from the lines and the use of the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from maskdiff.config import Config
from maskdiff.config_io import SECTIONS, load_config, options
from maskdiff.languages import LANGUAGES, fitted_length, split_of
from maskdiff.languages.corpus_file import numbered_lines

MINUTES = 10.0  # of a run on a folder, if neither `minutes` nor `max_iters` is given
STEP_TOKENS = 2500  # about the tokens of a step
BATCHES = (16, 256)  # least and greatest number of strings of a step
FEW, MANY = 1000, 10_000  # lines to train on below which they are few, and from which they are many

# The mixture of objectives by use; masking takes what the shares leave. The criterion chooses
# best.pt and ends a run that gets worse.
PURPOSES: dict[str, dict[str, Any]] = {
    "repair": {"causal_share": 0.85, "length_tilt": 0.0, "criterion": "next_token"},
    "complete": {"causal_share": 0.85, "length_tilt": 0.0, "criterion": "next_token"},
    "generate": {"causal_share": 0.85, "length_tilt": 0.2, "criterion": "next_token"},
    "edit": {"causal_share": 0.4, "length_tilt": 0.0, "criterion": "elbo"},
}
# Options that depend on nothing.
ALWAYS: dict[str, Any] = {
    "repair_share": 0.0, "skeleton_share": 0.0, "num_samples": 0, "lr": 3e-3, "muon_lr": 0.02,
    "ema": 0.998, "warmup_iters": 50, "decay_share": 0.7, "sigma_min": 0.0, "sigma_max": 1.0,
    "eval_interval": 0, "eval_samples": 512, "live_samples": 16, "patience": 5, "k_iter": 1,
    # A corpus is usually large enough to learn where a string ends, but too small to learn what
    # each given length means.
    "causal_length": False,
}  # fmt: skip
# Options by the number of distinct lines to train on: the last row whose number is reached.
SIZES: tuple[tuple[int, dict[str, Any]], ...] = (
    (0, {"n_embd": 96, "n_layer": 3, "weight_decay": 0.1}),
    (FEW, {"n_embd": 128, "n_layer": 4, "weight_decay": 0.05}),
    (50_000, {"n_embd": 192, "n_layer": 4, "weight_decay": 0.01}),
)
# The more often a run sees its lines, the more dropout: 0.05 for each doubling of the epochs.
SPEED = 350_000  # tokens a minute that a run sees on two cores, roughly
SEEN = 4.0  # epochs without dropout
MOST_DROPOUT = 0.3
# The largest `n_embd` by the minutes of the run: the last row whose number is reached.
LARGEST: tuple[tuple[float, int], ...] = ((0.0, 64), (1.5, 96), (4.0, 128), (20.0, 192))
COMPILED = 5.0  # minutes from which compiling the step is worth its time
# What to expect, by the number of distinct lines to train on.
VERDICTS = (
    (0, "few: expect a model that knows the frequent patterns and guesses the rest"),
    (FEW, "enough for a simple language: expect more from more lines"),
    (MANY, "many: expect that the time limits the model, not the lines"),
)


@dataclass(frozen=True)
class CorpusFacts:
    """What the choice of options depends on.

    Attributes:
        lines: lines of the corpus that fit `max_len`.
        distinct: different ones.
        train: different ones of the training split.
        validation: of the validation split.
        test: of the test split.
        symbols: different characters.
        longest: symbols of the longest line.
        tokens: symbols of the distinct lines of the training split.
    """

    lines: int
    distinct: int
    train: int
    validation: int
    test: int
    symbols: int
    longest: int
    tokens: int


def corpus_facts(lines: list[str]) -> CorpusFacts:
    """Count the lines of a corpus."""
    distinct = list(dict.fromkeys(lines))
    splits = [split_of(line) for line in distinct]
    train = [line for line, split in zip(distinct, splits, strict=True) if split == "train"]
    return CorpusFacts(
        lines=len(lines),
        distinct=len(distinct),
        train=len(train),
        validation=splits.count("validation"),
        test=splits.count("test"),
        symbols=len(set().union(*distinct)),
        longest=max(map(len, distinct), default=0),
        tokens=sum(map(len, train)),
    )


def chosen_options(corpus: CorpusFacts, purpose: str, minutes: float) -> dict[str, Any]:
    """Return the options of a run by name: the one place that decides them.

    Args:
        corpus: the lines.
        purpose: one of `PURPOSES`.
        minutes: of the run; 0 if steps limit it.
    """
    size = max((row for row in SIZES if row[0] <= corpus.train), key=lambda row: row[0])[1]
    largest = max(width for least, width in LARGEST if least <= (minutes or MINUTES))
    mean = corpus.tokens / max(1, corpus.train) + 2
    batch = max(BATCHES[0], min(BATCHES[1], round(STEP_TOKENS / mean)))
    epochs = SPEED * (minutes or MINUTES) / max(1, corpus.tokens)
    dropout = min(MOST_DROPOUT, 0.05 * math.log2(max(1.0, epochs / SEEN)))
    return {
        **ALWAYS,
        **PURPOSES[purpose],
        **size,
        "dropout": round(dropout, 2),
        "n_embd": min(size["n_embd"], largest),
        "compile": minutes >= COMPILED,
        "batch_size": batch,
    }


def with_recipe(
    config: Config, given: Mapping[str, Any], fixed_model: bool = False
) -> tuple[Config, list[str]]:
    """Choose the options of a run on a folder that the user did not set.

    Args:
        config: the options of the run.
        given: those that the user set, by `config_io.explicit`.
        fixed_model: whether the shape of the model follows from initial weights.

    Returns:
        The options, and lines that say what to expect. For a language that is no folder they are
        `config` itself and no line.

    Raises:
        DataError: the corpus cannot be read.
        ConfigError: chosen and given options do not fit each other.
    """
    corpus_path = Path(config.language.language)
    if config.language.language in LANGUAGES or not corpus_path.exists():  # refused elsewhere
        return config, []
    if "max_len" not in given and not fixed_model:
        config = replace(config, language=fitted_length(config.language))
    lines = [line for _, line in numbered_lines(config.language)]
    longest = config.language.max_len
    corpus = corpus_facts([line for line in lines if len(line) <= longest - 2])
    limits = {} if given.keys() & {"minutes", "max_iters"} else {"minutes": MINUTES, "max_iters": 0}
    minutes = limits.get("minutes", config.train.minutes)
    chosen = chosen_options(corpus, config.train.purpose, minutes)
    if fixed_model:
        shape = {*options(SECTIONS["model"])}
        chosen = {name: value for name, value in chosen.items() if name not in shape}
    shares = config.train.mode_shares()
    left = max(0.0, 1.0 - sum(share for name, share in shares.items() if name in given))
    for name in shares.keys() & chosen.keys() - given.keys():
        chosen[name] = min(chosen[name], left)
    complete = load_config(None, {"max_len": longest, **chosen, **limits, **given})
    return complete, expectations(corpus_path.resolve().name, corpus, complete)


def expectations(name: str, corpus: CorpusFacts, config: Config) -> list[str]:
    """Return four lines that say what to expect of a run."""
    minutes = config.train.minutes
    verdict = [text for least, text in VERDICTS if least <= corpus.train][-1]
    steps = f"{config.train.max_iters:,} steps (--max_iters)"
    time = f"{minutes:g} min (--minutes)" if minutes else steps
    return [
        f"{name}: {corpus.lines:,} lines ({corpus.distinct:,} distinct), {corpus.symbols} symbols, "
        f"longest line {corpus.longest}",
        f"split: {corpus.train:,} lines to train on, {corpus.validation:,} to validate, "
        f"{corpus.test:,} to test",
        f"purpose: {config.train.purpose} (--for); {time}",
        f"{corpus.distinct:,} lines are {verdict}",
    ]
