"""Why a model repeats itself or runs on: what its training and its decoding say, and what it does when nothing holds it back.

For: `probe` (of a model alone, blind to its configuration), `diagnose` (of two configurations, with a probe where there is one)
and the findings that both make. Not for: comparing controls (`repetition.py`). Easy to get wrong: a symptom is no cause. A loop
at temperature 0, a cap that is hit and a penalty that seems to help are all seen of a model that was never taught to end;
so the model is asked first: what does it think of end-of-string where a whole string stands?
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from maskdiff import metrics
from maskdiff.config import Config, ControlConfig, DecodeConfig
from maskdiff.data import held_out
from maskdiff.decoding import CausalModel
from maskdiff.errors import ConfigError, quote
from maskdiff.evaluation.outputs import COUNTED, Task, draw_outputs
from maskdiff.languages import make_language, model_vocabulary
from maskdiff.metrics import Estimate
from maskdiff.models.continuation import ROOT
from maskdiff.text.answers import all_complete
from maskdiff.text.repetition import first_periodic_tail, periodic_tail, seq_rep

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.languages import Language, Vocabulary

HEALTHY, UNTAUGHT, PACKED = "healthy", "end_not_taught", "packed_answers"
CAUSES = (HEALTHY, UNTAUGHT, PACKED)
TIMES = 8  # the probe's limit, in units of the longest string of the training
SURE = 0.5  # p(end-of-string) after a whole string, from which a model counts as one that ends its strings
COVERED = 0.5  # share of what follows the first answer that further answers make up, from which it counts as packed
ENDS = 0.95  # share of free strings, from which a model that is asked needs no limit
SAMPLES = 500  # strings of the language that settings are held against
NEGLIGIBLE = 0.0005  # weight below which nothing is found: its evidence would read 0.0%


# ------------------------------------------------------------------------------------------------ what a model does


@dataclass(frozen=True)
class Probe:
    """What a model does when nothing holds it back; `cause` is one of `causes`.

    figures: end_after_whole: mean p(end-of-string) after whole held-out strings; ended: share of free strings that it ends
    within the limit; answers: complete strings in each; covered: of what follows the first of them, the share that belongs to
    further ones (0 where nothing follows); loops: share that ends in one.
    """

    cause: str
    figures: dict[str, Estimate]
    causes: tuple[str, ...] = CAUSES


def probe(loaded: Loaded, num: int = 200, seed: int = 0, times: int = TIMES) -> Probe:
    """Ask a model whose causal mode ends its strings itself. Nothing is read from the configuration but sizes.

    Raises ConfigError for a model that is told the length: it ends where its canvas does, and cannot run on.
    """
    if loaded.length_conditioned:
        raise ConfigError(
            "this model is told how long its strings are, so none can run on; nothing is to be diagnosed"
        )
    if num < 1:
        raise ConfigError(f"num is {num}; ask the model for 1 string or more")
    rng, language = np.random.default_rng([seed, 70]), loaded.language
    texts = held_out(language, "validation", num, seed)
    limit = times * (loaded.config.model.block_size - 1)
    free = draw_outputs(loaded, [Task("", None, "")] * num, limit, 1.0, ControlConfig(), seed)
    spans = [all_complete(output.text, language) for output in free[:COUNTED]]
    follows = [
        (sum(span.end - span.start for span in found[1:]), len(output.text) - found[0].end)
        for output, found in zip(free, spans, strict=False)
        if found
    ]
    figures = {
        "end_after_whole": metrics.mean(end_probabilities(loaded, texts), rng),
        "ended": metrics.rate(output.reason == "eos" for output in free),
        "answers": metrics.mean([len(found) for found in spans], rng),
        "covered": _share(follows, rng),
        "loops": metrics.rate(periodic_tail(output.text, 20, 4) > 0 for output in free),
    }
    return Probe(_cause(figures), figures)


def _cause(figures: dict[str, Estimate]) -> str:
    """The rule, fixed before the twins of the test were trained anew: does it end, and if not, what follows?

    Of no strings nothing is found.
    """
    if figures["end_after_whole"].value >= SURE or not figures["end_after_whole"].count:
        return HEALTHY
    return PACKED if figures["covered"].value >= COVERED else UNTAUGHT


def _share(follows: Sequence[tuple[int, int]], rng: np.random.Generator) -> Estimate:
    if not sum(rest for _, rest in follows):
        return Estimate(0.0, math.nan, math.nan, len(follows))
    return metrics.ratio([own for own, _ in follows], [rest for _, rest in follows], rng)


@torch.no_grad()
def end_probabilities(loaded: Loaded, texts: Sequence[str]) -> list[float]:
    """p(end-of-string) after each whole text, cut into tokens as the vocabulary does."""
    model = CausalModel(loaded.denoiser, loaded.lengths)
    rows = loaded.vocabulary.encode_many(texts)
    tree = model.tree()
    tree.extend(torch.tensor([ROOT]), torch.tensor([0]))
    found = []
    for row in rows:
        nodes = torch.arange(len(row)) + 1  # behind the root, each the child of the one before
        parents = torch.cat([torch.tensor([0]), nodes[:-1]])
        log_p = tree.extend(parents, torch.tensor(row))[-1]
        found.append(float(log_p[list(model.table.ends)].exp().sum()))
        tree.forget(1)
    return found


# ------------------------------------------------------------------------------------------------ what is configured


@dataclass(frozen=True)
class Finding:
    """A possible cause and what it leads to. weight: how much it may explain, 0 to 1, by which findings are ranked. evidence:
    what speaks for it, a line each; remedy: what to do instead.
    """

    cause: str
    effect: str
    weight: float
    evidence: tuple[str, ...]
    remedy: str


@dataclass(frozen=True)
class Diagnosis:
    """Findings, the likeliest first; none where nothing speaks for a cause."""

    findings: tuple[Finding, ...]
    probe: Probe | None = field(default=None)


def diagnose(
    train: Config, decode: DecodeConfig, loaded: Loaded | None = None, num: int = 200, seed: int = 0
) -> Diagnosis:
    """Compare how a model was trained with how it is decoded, and with what it does where it is at hand.

    What a training does to a model counts only as far as the model behaves so.
    """
    language = loaded.language if loaded is not None else make_language(train.language)
    vocabulary = (
        loaded.vocabulary if loaded is not None else model_vocabulary(language, train.model)
    )
    asked = (
        probe(loaded, num, seed) if loaded is not None and not loaded.length_conditioned else None
    )
    found: dict[str, Finding] = {}
    for finding in (
        *_of_model(asked),
        *_of_training(train, asked),
        *_of_decoding(train, decode, language, vocabulary, seed, asked),
    ):
        if not finding.weight >= NEGLIGIBLE:  # nor where it is no number, of no samples
            continue
        same = found.setdefault(finding.cause, finding)
        if same is not finding:
            weight, evidence = max(same.weight, finding.weight), (*same.evidence, *finding.evidence)
            found[finding.cause] = replace(same, weight=weight, evidence=evidence)
    return Diagnosis(tuple(sorted(found.values(), key=lambda finding: -finding.weight)), asked)


RUN_ON, LOOPS, WRONG, CUT = "run-on", "loops", "wrong answers", "answers that are cut"
REMEDIES = {
    UNTAUGHT: "train with end-of-string as a target of every string (cut_rows 0): rows with room for it, pads that are not it",
    PACKED: "train one answer a string (strings_in_a_row 1), or end each with end-of-string",
}


def _of_model(asked: Probe | None) -> Iterator[Finding]:
    if asked is None or asked.cause == HEALTHY:
        return
    figures = {name: figure.value for name, figure in asked.figures.items()}
    told = f"the model gives end-of-string {figures['end_after_whole']:.2g} after a whole string"
    more = {
        UNTAUGHT: f"and ends {figures['ended']:.0%} of free strings; {figures['covered']:.0%} of what follows the first answer "
        "are further ones",
        PACKED: f"and writes {figures['answers']:.1f} answers in a row: {figures['covered']:.0%} of what follows the first are "
        "further ones",
    }
    evidence = (f"{told} {more[asked.cause]}",)
    yield Finding(
        asked.cause, RUN_ON, 1.0 - figures["end_after_whole"], evidence, REMEDIES[asked.cause]
    )


def _of_training(config: Config, asked: Probe | None) -> Iterator[Finding]:
    train, model = config.train, config.model
    told = {
        UNTAUGHT: (
            train.cut_rows,
            f"cut_rows {train.cut_rows:g}: that share of the training strings loses its end-of-string",
        ),
        PACKED: (
            1.0 - 1.0 / train.strings_in_a_row,
            f"strings_in_a_row {train.strings_in_a_row}: answers are taught in a row, with one end-of-string behind the last",
        ),
    }
    for cause, (weight, evidence) in told.items():
        if weight and (asked is None or asked.cause == cause):
            yield Finding(cause, RUN_ON, weight, (evidence,), REMEDIES[cause])
        elif weight:
            yield Finding(
                cause,
                RUN_ON,
                0.1 * weight,
                (evidence, "but the model does not behave so"),
                REMEDIES[cause],
            )
    if train.causal_share == 0 or model.head == "aligned" or train.faithful:
        yield Finding(
            "no_causal_mode", LOOPS, 1.0, ("the causal mode was not trained: causal_share 0, an aligned head, or faithful",),
            "train with causal_share above 0 and head next, or use a parallel sampler",
        )  # fmt: skip


def _of_decoding(
    train: Config,
    decode: DecodeConfig,
    language: Language,
    vocabulary: Vocabulary,
    seed: int,
    asked: Probe | None,
) -> Iterator[Finding]:
    """Settings held against strings of the language itself, as the model reads them: what they would do to right answers."""
    texts = language.sample_many(SAMPLES, np.random.default_rng([seed, 71]))
    rows = vocabulary.encode_many(texts)
    yield from _cut_strings(decode.control, texts, rows)
    yield from _penalties(decode.control, rows)
    once, limit = train.language.max_len - 1, decode.control.max_tokens
    ends = (
        asked is not None and asked.figures["ended"].value >= ENDS
    )  # then no limit is ever reached
    if limit > once and not train.model.causal_length and not ends:
        evidence = f"max_tokens {limit} is {limit / once:.1f} times the longest string of the training: what does not end by "
        yield Finding(
            "limit_beyond_training", RUN_ON, 0.05, (f"{evidence}itself goes on for long, at positions that were never seen",),
            f"max_tokens {once}",
        )  # fmt: skip
    temperatures = decode.completion.temperature, decode.sampler.temperature
    if min(temperatures) == 0:
        evidence = "temperature 0: what is likely makes itself likelier, so that no loop breaks (1904.09751)"
        yield Finding("greedy", LOOPS, 0.04, (evidence,), "temperature 0.7 to 1")
    if max(temperatures) > 1:
        evidence = (
            f"temperature {max(temperatures):g}: an end is missed more often than the model would"
        )
        yield Finding("hot", RUN_ON, 0.04, (evidence,), "temperature 1 or less")


def _cut_strings(
    control: ControlConfig, texts: Sequence[str], rows: Sequence[Sequence[int]]
) -> Iterator[Finding]:
    """Settings that end right strings too early."""

    def share(is_cut: Callable[[Sequence[int]], bool]) -> float:
        return float(np.mean([is_cut(row) for row in rows]))

    limit, loop = control.max_tokens, (control.loop_period, control.loop_repeats)
    if limit and (part := share(lambda row: len(row) >= limit)):
        remedy = f"max_tokens of at least {max(map(len, rows)) + 1}"
        yield Finding(
            "limit_too_low",
            CUT,
            part,
            (f"max_tokens {limit} cuts {part:.1%} of real strings",),
            remedy,
        )
    for stop in filter(None, control.stop):
        if part := float(np.mean([stop in text for text in texts])):
            evidence = f"the stop text {quote(stop)} stands in {part:.1%} of real strings"
            yield Finding(
                "stop_in_answers",
                CUT,
                part,
                (evidence,),
                "a text that stands in none; what was typed is not searched",
            )
    if control.loop_period and (
        part := share(lambda row: first_periodic_tail(row, *loop) is not None)
    ):
        evidence = f"{part:.1%} of real strings have a period of up to {loop[0]} tokens {loop[1]} times in a row"
        yield Finding("loops_in_answers", CUT, part, (evidence,), "a higher loop_repeats")


def _penalties(control: ControlConfig, rows: Sequence[Sequence[int]]) -> Iterator[Finding]:
    """Settings that forbid, or make dear, what right strings have to say."""
    again = float(np.mean([1 - len(set(row)) / len(row) for row in rows]))
    lasting = control.presence_penalty, control.frequency_penalty
    if control.repetition_penalty > 1 or max(lasting) > 0:
        said = f"{again:.1%} of the tokens of real strings were said before in them"
        evidence = f"penalties, where {said}: those lose against "
        yield Finding(
            "penalty", WRONG, again, (f"{evidence}all that was not said, and end-of-string never was",),
            "repetition_penalty 1; loop_period ends loops and changes nothing else",
        )  # fmt: skip
    if control.repetition_penalty < 1 or min(lasting) < 0:
        evidence = "a repetition_penalty below 1, or another one below 0, rewards what was said"
        yield Finding(
            "reward",
            LOOPS,
            1.0,
            (evidence,),
            "repetition_penalty 1, presence_penalty and frequency_penalty 0",
        )
    size, dry = control.no_repeat_ngram, control.dry_allowed_length + 1
    if size and (part := float(np.mean([seq_rep(row, size) > 0 for row in rows]))):
        evidence = (
            f"{part:.1%} of real strings say some {size} tokens twice: they cannot be written"
        )
        yield Finding("ngram", WRONG, part, (evidence,), "no_repeat_ngram 0, or a longer one")
    if control.dry_multiplier and (part := float(np.mean([seq_rep(row, dry) > 0 for row in rows]))):
        evidence = f"DRY makes dear what {part:.1%} of real strings say twice, {dry} tokens or more"
        yield Finding(
            "dry", WRONG, part / 2, (evidence,), "a longer dry_allowed_length, or dry_breakers"
        )
