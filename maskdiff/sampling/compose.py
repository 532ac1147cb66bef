"""Samplers made of samplers: warm starts, coarse-to-fine, predictor-corrector, verified drafts.

Every function returns a chain of `Unmask`, `Autoregressive`, `Predictive` and `Reconsider`. `steps`
is the total of the chain; a stage that should stop earlier gets a smaller total.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from maskdiff.drawing.logits import is_blank
from maskdiff.drawing.penalties import Penalties
from maskdiff.drawing.settings import Constraint, Draw
from maskdiff.errors import ConfigError
from maskdiff.models.denoiser import Denoiser
from maskdiff.sampling.autoregressive import Autoregressive
from maskdiff.sampling.canvas import Canvas, Sample
from maskdiff.sampling.predictive import Predictive
from maskdiff.sampling.remask import Reconsider
from maskdiff.sampling.schedule import Everything
from maskdiff.sampling.stage import Chain, Sampler, Stage
from maskdiff.sampling.unmask import Unmask


def hybrid(num_ar_tokens: int, parallel: Unmask) -> Sampler:
    """`num_ar_tokens` causal tokens, then `parallel`, whose `steps` is the total of both."""
    if num_ar_tokens == 0:
        return parallel
    if 0 < parallel.steps <= num_ar_tokens:
        raise ConfigError(
            f"{parallel.steps} evaluations in all do not suffice for {num_ar_tokens} causal tokens "
            "and one parallel step; "
            f"give steps of at least {num_ar_tokens + 1} or fewer num_ar_tokens"
        )
    return Autoregressive(num_ar_tokens, parallel.draw).then(parallel)


def coarse_to_fine(skeleton: Unmask, fill: Unmask) -> Chain:
    """Operators, brackets and `<DIGIT>` first, then a digit for every `<DIGIT>`."""
    first = replace(skeleton, draw=replace(skeleton.draw, symbols="skeleton"))
    return first.then(replace(fill, draw=replace(fill.draw, symbols="fill")))


def predictor_corrector(
    fill: Unmask, corrector: Reconsider, rounds: int = 1, refill: int = 1
) -> Chain:
    """Fill, then `rounds` times score, hide and refill in at most `refill` evaluations.

    All within `fill.steps`; with `fill.steps=0` only the refills are limited. A string that is full
    before its share of the evaluations is used begins its corrections earlier.
    """
    cost = 2 if corrector.score == "leave_out" else 1
    if 0 < fill.steps <= rounds * (cost + refill):
        raise ConfigError(
            f"{rounds} corrections of {cost + refill} evaluations leave none of {fill.steps} "
            f"to fill the canvas; give steps of at least {rounds * (cost + refill) + 1}"
        )
    chain = Chain((replace(fill, steps=max(fill.steps - rounds * (cost + refill), 0)),))
    for _ in range(rounds):
        chain = chain.then(replace(corrector, steps=fill.steps)).then(
            replace(fill, stage_steps=refill)
        )
    return chain


def verified(draft: Sampler, steps: int, draw: Draw | None = None) -> Chain:
    """A parallel draft, then causal fixed-point iterations on it with the same noise.

    Within `steps` in all (0: until final). Where draft and causal mode agree on a prefix, it is
    final after one evaluation.
    """
    return Chain((draft,)).then(Predictive(steps, draw=draw or Draw()))


def certain_prefix(causal: int, finish: Unmask) -> Chain:
    """A bidirectional draft, `causal` fixed-point evaluations of it, and `finish` for the rest.

    The hybrid with an adaptive prefix: k causal evaluations make k tokens final, or more.
    """
    if 0 < finish.steps <= causal + 1:
        raise ConfigError(
            f"{finish.steps} evaluations in all do not suffice for a draft, {causal} causal ones "
            f"and one parallel step; give steps of at least {causal + 2}"
        )
    first = Predictive(stage_steps=causal, draw=finish.draw, keep="final")
    return one_shot(finish).then(first).then(finish)


def constrained(sampler: Sampler, constraint: Constraint) -> Sampler:
    """The sampler under a constraint, in all of its stages; ConfigError for a foreign sampler."""
    return _with_draw(sampler, "constraint", constraint)


def penalised(sampler: Sampler, penalties: Penalties) -> Sampler:
    """The sampler with penalties, in all of its stages; ConfigError for a foreign sampler."""
    return _with_draw(sampler, "penalties", penalties)


def _with_draw(sampler: Sampler, name: str, value: object) -> Sampler:
    """The sampler with a setting of the draw in all of its stages that write tokens."""
    if isinstance(sampler, Chain):
        return Chain(tuple(_with_draw(stage, name, value) for stage in sampler.stages))
    if isinstance(sampler, (Unmask, Autoregressive, Predictive)):
        draw = replace(sampler.draw, **{name: value})  # type: ignore[arg-type]
        return replace(sampler, draw=draw)
    if isinstance(sampler, Speculate):
        draw = replace(sampler.finish.draw, **{name: value})  # type: ignore[arg-type]
        return replace(sampler, finish=replace(sampler.finish, draw=draw))
    if isinstance(sampler, Reconsider):
        return sampler  # hides tokens, writes none
    raise ConfigError(f"a sampler of type {type(sampler).__name__} takes no {name}")


def one_shot(style: Unmask) -> Unmask:
    """All blanks in one evaluation, with the causal mode's noise (unless constrained): a draft."""
    return replace(
        style,
        schedule=Everything(),
        steps=0,
        stage_steps=1,
        fresh=False,
        remask=None,
        choice_temperature=0.0,
    )


@dataclass(frozen=True)
class Speculate(Stage):
    """Rounds of a bidirectional draft of all blanks and a causal evaluation that verifies it.

    A round makes final as many tokens as draft and causal mode agree on, and one more. The last
    `reserve` evaluations of `steps` fill what is left with `finish`. With `steps=0` rounds continue
    until every string is full, and the result equals `Autoregressive` token for token.
    """

    finish: Unmask
    steps: int = 12
    reserve: int = 2

    def __call__(self, denoiser: Denoiser, canvas: Canvas) -> Sample:
        """Rounds while a string has blanks and evaluations for another one, then the finish."""
        finish = self.finish
        verify = Predictive(stage_steps=1, draw=finish.draw, keep="final")
        round_ = one_shot(self.finish).then(verify)
        while True:
            blank = is_blank(canvas.tokens, denoiser.vocabulary).any(1)
            if self.steps:
                blank = blank & (canvas.spent + 2 + self.reserve <= self.steps)
            rows = blank.nonzero()[:, 0]
            if not len(rows):
                break
            canvas = canvas.put(rows, round_(denoiser, canvas[rows]).canvas).recorded()
        return (
            replace(self.finish, steps=self.steps)(denoiser, canvas)
            if self.steps
            else Sample(canvas)
        )
