"""Why a model repeats itself or runs on: its training, its decoding, and its own behaviour.

`probe_endings` looks at a model alone, blind to its configuration. `diagnose` compares two
configurations, with a probe where there is a model. A symptom is no cause: a loop at temperature 0,
a limit that is hit and a penalty that seems to help are all seen of a model that was never taught
to end. So the first question is which probability it gives to end-of-string after a whole string.
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
from maskdiff.evaluation.outputs import COUNTED, PromptTask, draw_outputs
from maskdiff.languages import make_language, model_vocabulary
from maskdiff.metrics import Estimate, Unit
from maskdiff.models.continuation import ROOT
from maskdiff.text.answers import all_complete
from maskdiff.text.repetition import first_periodic_tail, periodic_tail, seq_rep

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.languages import Language, Vocabulary

HEALTHY, UNTAUGHT, PACKED = "healthy", "end_not_taught", "packed_answers"
CAUSES = (HEALTHY, UNTAUGHT, PACKED)
LIMIT_FACTOR = 8  # the probe's limit, in units of the longest string of the training
SURE = 0.5  # p(end-of-string) after a whole string, from which a model ends its strings
COVERED = 0.5  # share of further answers in what follows the first, from which answers are packed
ENDS = 0.95  # share of free strings that end, from which a model needs no limit
SAMPLES = 500  # strings of the language that settings are compared with
NEGLIGIBLE = 0.0005  # weight below which a finding is dropped: its evidence would read 0.0%


# ----------------------------------------------------------------------------- behaviour of a model


@dataclass(frozen=True)
class EndingProbe:
    """The behaviour of a model without stop rules or penalties.

    Attributes:
        cause: One of `causes`.
        figures: `end_after_whole`, the mean p(end-of-string) after whole held-out strings; `ended`,
            the share of free strings that it ends within the limit; `answers`, the complete strings
            in each; `covered`, of what follows the first complete string, the share that belongs to
            further ones (0 where nothing follows); `loops`, the share that ends in a loop.
    """

    cause: str
    figures: dict[str, Estimate]
    causes: tuple[str, ...] = CAUSES


def probe_endings(
    loaded: Loaded, num: int = 200, seed: int = 0, times: int = LIMIT_FACTOR
) -> EndingProbe:
    """Probe a model whose causal mode ends its strings itself.

    Nothing but sizes is read from its configuration.

    Raises:
        ConfigError: The model is given the length, so that its strings cannot run on.
    """
    if loaded.length_conditioned:
        raise ConfigError(
            "this model is given the length of its strings, so none can run on; "
            "nothing is to be diagnosed"
        )
    if num < 1:
        raise ConfigError(f"num is {num}; ask the model for 1 string or more")
    rng, language = np.random.default_rng([seed, 70]), loaded.language
    texts = held_out(language, "validation", num, seed)
    limit = times * (loaded.config.model.block_size - 1)
    free = draw_outputs(loaded, [PromptTask("", None, "")] * num, limit, 1.0, ControlConfig(), seed)
    spans = [all_complete(output.text, language) for output in free[:COUNTED]]
    follows = [
        (sum(span.end - span.start for span in found[1:]), len(output.text) - found[0].end)
        for output, found in zip(free, spans, strict=False)
        if found
    ]
    figures = {
        "end_after_whole": metrics.mean(end_probabilities(loaded, texts), rng, Unit.SHARE),
        "ended": metrics.rate(output.reason == "eos" for output in free),
        "answers": metrics.mean([len(found) for found in spans], rng),
        "covered": _share(follows, rng),
        "loops": metrics.rate(periodic_tail(output.text, 20, 4) > 0 for output in free),
    }
    return EndingProbe(_cause(figures), figures)


def _cause(figures: dict[str, Estimate]) -> str:
    """Does it end its strings, and if not, what follows? Without strings nothing is found.

    The thresholds were fixed before the models of the tests were trained again.
    """
    if figures["end_after_whole"].value >= SURE or not figures["end_after_whole"].count:
        return HEALTHY
    return PACKED if figures["covered"].value >= COVERED else UNTAUGHT


def _share(follows: Sequence[tuple[int, int]], rng: np.random.Generator) -> Estimate:
    if not sum(rest for _, rest in follows):
        return Estimate(0.0, math.nan, math.nan, len(follows), Unit.SHARE)
    own, rest = zip(*follows, strict=True)
    return metrics.ratio(own, rest, rng, Unit.SHARE)


@torch.no_grad()
def end_probabilities(loaded: Loaded, texts: Sequence[str]) -> list[float]:
    """Return p(end-of-string) after each whole text, cut into tokens as the vocabulary does."""
    model = CausalModel(loaded.denoiser, loaded.lengths)
    rows = loaded.vocabulary.encode_many(texts)
    tree = model.tree()
    tree.extend(torch.tensor([ROOT]), torch.tensor([0]))
    found = []
    for row in rows:
        nodes = torch.arange(len(row)) + 1  # each the child of the one before
        parents = torch.cat([torch.tensor([0]), nodes[:-1]])
        log_p = tree.extend(parents, torch.tensor(row))[-1]
        found.append(float(log_p[list(model.table.ends)].exp().sum()))
        tree.forget(1)
    return found


# ---------------------------------------------------------------------------------------- diagnosis


@dataclass(frozen=True)
class Cause:
    """A possible cause and its effect.

    Attributes:
        weight: How much it may explain, 0 to 1; findings are ranked by it.
        evidence: What speaks for it, a line each.
        remedy: What to do instead.
    """

    cause: str
    effect: str
    weight: float
    evidence: tuple[str, ...]
    remedy: str


@dataclass(frozen=True)
class Diagnosis:
    """Possible causes, the likeliest first, and the probe of the model where there was one."""

    findings: tuple[Cause, ...]
    probe: EndingProbe | None = field(default=None)


def diagnose(
    train: Config, decode: DecodeConfig, loaded: Loaded | None = None, num: int = 200, seed: int = 0
) -> Diagnosis:
    """Compare the training of a model with its decoding, and with its behaviour if it is given.

    A mistake of the training counts in full only if the model behaves so.
    """
    asked = None
    if loaded is not None:
        language, vocabulary = loaded.language, loaded.vocabulary
        asked = None if loaded.length_conditioned else probe_endings(loaded, num, seed)
    else:
        language = make_language(train.language)
        vocabulary = model_vocabulary(language, train.model)
    found: dict[str, Cause] = {}
    for finding in (
        *_of_model(asked),
        *_of_training(train, asked),
        *_of_decoding(train, decode, language, vocabulary, seed, asked),
    ):
        if not finding.weight >= NEGLIGIBLE:  # NaN, without samples, is no finding either
            continue
        same = found.setdefault(finding.cause, finding)
        if same is not finding:
            weight, evidence = max(same.weight, finding.weight), (*same.evidence, *finding.evidence)
            found[finding.cause] = replace(same, weight=weight, evidence=evidence)
    return Diagnosis(tuple(sorted(found.values(), key=lambda finding: -finding.weight)), asked)


RUN_ON, LOOPS, WRONG, CUT = "run-on", "loops", "wrong answers", "answers that are cut"
REMEDIES = {
    UNTAUGHT: "train with end-of-string as a target of every string (cut_rows 0): "
    "rows with room for it, pads that are not it",
    PACKED: "train one answer a string (strings_in_a_row 1), or end each with end-of-string",
}


def _of_model(asked: EndingProbe | None) -> Iterator[Cause]:
    if asked is None or asked.cause == HEALTHY:
        return
    figures = {name: figure.value for name, figure in asked.figures.items()}
    end, share = figures["end_after_whole"], f"{figures['covered']:.0%} of what follows the first"
    more = {
        UNTAUGHT: f"ends {figures['ended']:.0%} of free strings; {share} answer are further ones",
        PACKED: f"writes {figures['answers']:.1f} answers in a row: {share} are further ones",
    }
    evidence = (
        f"the model gives end-of-string {end:.2g} after a whole string and {more[asked.cause]}"
    )
    yield Cause(asked.cause, RUN_ON, 1.0 - end, (evidence,), REMEDIES[asked.cause])


def _of_training(config: Config, asked: EndingProbe | None) -> Iterator[Cause]:
    train, model = config.train, config.model
    mistakes = {
        UNTAUGHT: (
            train.cut_rows,
            f"cut_rows {train.cut_rows:g}: that share of the training strings loses its "
            "end-of-string",
        ),
        PACKED: (
            1.0 - 1.0 / train.strings_in_a_row,
            f"strings_in_a_row {train.strings_in_a_row}: answers are taught in a row, with one "
            "end-of-string behind the last",
        ),
    }
    for cause, (weight, reason) in mistakes.items():
        evidence: tuple[str, ...] = (reason,)
        if asked is not None and asked.cause != cause:
            weight, evidence = 0.1 * weight, (reason, "but the model does not behave so")
        if weight:
            yield Cause(cause, RUN_ON, weight, evidence, REMEDIES[cause])
    if train.causal_share == 0 or model.head == "aligned" or train.faithful:
        yield Cause(
            "no_causal_mode", LOOPS, 1.0,
            ("the causal mode was not trained: causal_share 0, an aligned head, or faithful",),
            "train with causal_share above 0 and head next, or use a parallel sampler",
        )  # fmt: skip


def _of_decoding(
    train: Config,
    decode: DecodeConfig,
    language: Language,
    vocabulary: Vocabulary,
    seed: int,
    asked: EndingProbe | None,
) -> Iterator[Cause]:
    """What the settings would do to strings of the language itself, cut into tokens."""
    texts = language.sample_many(SAMPLES, np.random.default_rng([seed, 71]))
    rows = vocabulary.encode_many(texts)
    yield from _cut_strings(decode.control, texts, rows)
    yield from _penalties(decode.control, rows)
    once, limit = train.language.max_len - 1, decode.control.max_tokens
    # A model that ends its strings never reaches a limit.
    ends = asked is not None and asked.figures["ended"].value >= ENDS
    if limit > once and not train.model.causal_length and not ends:
        evidence = (
            f"max_tokens {limit} is {limit / once:.1f} times the longest string of the training: "
            "what does not end by itself goes on for long, at positions that were never seen"
        )
        yield Cause("limit_beyond_training", RUN_ON, 0.05, (evidence,), f"max_tokens {once}")
    temperatures = decode.completion.temperature, decode.sampler.temperature
    if min(temperatures) == 0:
        evidence = (
            "temperature 0: what is likely makes itself likelier, so that no loop breaks "
            "(1904.09751)"
        )
        yield Cause("greedy", LOOPS, 0.04, (evidence,), "temperature 0.7 to 1")
    if max(temperatures) > 1:
        hot = max(temperatures)
        evidence = f"temperature {hot:g}: an end is missed more often than the model would"
        yield Cause("hot", RUN_ON, 0.04, (evidence,), "temperature 1 or less")


def _cut_strings(
    control: ControlConfig, texts: Sequence[str], rows: Sequence[Sequence[int]]
) -> Iterator[Cause]:
    """Settings that end right strings too early."""

    def share(is_cut: Callable[[Sequence[int]], bool]) -> float:
        return float(np.mean([is_cut(row) for row in rows]))

    limit, loop = control.max_tokens, (control.loop_period, control.loop_repeats)
    if limit and (part := share(lambda row: len(row) >= limit)):
        evidence = f"max_tokens {limit} cuts {part:.1%} of real strings"
        remedy = f"max_tokens of at least {max(map(len, rows)) + 1}"
        yield Cause("limit_too_low", CUT, part, (evidence,), remedy)
    for stop in filter(None, control.stop):
        if part := float(np.mean([stop in text for text in texts])):
            evidence = f"the stop text {quote(stop)} stands in {part:.1%} of real strings"
            remedy = "a text that stands in none; what was typed is not searched"
            yield Cause("stop_in_answers", CUT, part, (evidence,), remedy)
    if control.loop_period and (
        part := share(lambda row: first_periodic_tail(row, *loop) is not None)
    ):
        period, repeats = loop
        evidence = (
            f"{part:.1%} of real strings have a period of up to {period} tokens {repeats} times "
            "in a row"
        )
        yield Cause("loops_in_answers", CUT, part, (evidence,), "a higher loop_repeats")


def _penalties(control: ControlConfig, rows: Sequence[Sequence[int]]) -> Iterator[Cause]:
    """Settings that forbid or penalise tokens of right strings."""
    again = float(np.mean([1 - len(set(row)) / len(row) for row in rows]))
    lasting = control.presence_penalty, control.frequency_penalty
    if control.repetition_penalty > 1 or max(lasting) > 0:
        evidence = (
            f"penalties, where {again:.1%} of the tokens of real strings repeat earlier ones: "
            "repeated tokens lose against new ones, and end-of-string is always new"
        )
        remedy = "repetition_penalty 1; loop_period ends loops and changes nothing else"
        yield Cause("penalty", WRONG, again, (evidence,), remedy)
    if control.repetition_penalty < 1 or min(lasting) < 0:
        evidence = "a repetition_penalty below 1, or another one below 0, rewards repeated tokens"
        remedy = "repetition_penalty 1, presence_penalty and frequency_penalty 0"
        yield Cause("reward", LOOPS, 1.0, (evidence,), remedy)
    size, dry = control.no_repeat_ngram, control.dry_allowed_length + 1
    if size and (part := float(np.mean([seq_rep(row, size) > 0 for row in rows]))):
        evidence = (
            f"{part:.1%} of real strings have some {size} tokens twice: they cannot be written"
        )
        yield Cause("ngram", WRONG, part, (evidence,), "no_repeat_ngram 0, or a longer one")
    if control.dry_multiplier and (part := float(np.mean([seq_rep(row, dry) > 0 for row in rows]))):
        evidence = f"DRY penalises what {part:.1%} of real strings have twice, {dry} tokens or more"
        remedy = "a longer dry_allowed_length, or dry_breakers"
        yield Cause("dry", WRONG, part / 2, (evidence,), remedy)
