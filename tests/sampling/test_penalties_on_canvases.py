"""Penalties on canvases: tokens on either side, grammars, and defaults that change nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from maskdiff import tasks
from maskdiff.checkpoint import Loaded
from maskdiff.config import ControlConfig, SamplerConfig
from maskdiff.drawing.settings import Draw
from maskdiff.errors import ConfigError
from maskdiff.languages.cfg import compile_grammar
from maskdiff.sampling import (
    NO_PENALTIES,
    PRESETS,
    Autoregressive,
    Everything,
    GrammarConstraint,
    Penalties,
    Predictive,
    Unmask,
    constrained,
    make_sampler,
    one_shot,
    penalised,
)
from tests.helpers.dummies import TINY, Foresighted, Scrambled, Table
from tests.helpers.grammars import CALCULATION, accepts
from tests.helpers.penalties import EVERYTHING, PROMPTS, SETTINGS, SYMBOLS, controls, prompts
from tests.helpers.tiny import tiny_loaded


def shaped_by_hand(
    logits: list[float],
    row: list[int],
    counts: list[bool],
    drawn: list[bool],
    at: int,
    shaper: Penalties,
    allowed: set[int],
) -> list[float]:
    """The logits of a blank position, by the definitions.

    Counts of the whole canvas, matches of what stands left of it.
    """
    there = [token if ok else None for token, ok in zip(row, counts, strict=True)]
    c, breakers = shaper.config, set(shaper.breakers)
    out, n = list(logits), c.no_repeat_ngram

    def match(end: int) -> int:
        size = 0
        while (
            size < min(at, end)
            and there[at - 1 - size] is not None
            and there[at - 1 - size] == there[end - 1 - size]
        ):
            size += 1
        return size

    banned, longest = set(), [0] * len(logits)
    for place, token in enumerate(there):
        if token is None or place == at:
            continue
        size = min(match(place), 50)
        banned |= {token} if n and size >= n - 1 else set()
        inside = size if not c.dry_range else max(min(size, place - (at - c.dry_range)), 0)
        broken = next((k for k in range(inside) if there[at - 1 - k] in breakers), inside)
        longest[token] = max(longest[token], 0 if token in breakers else broken)
    for token in range(len(out)):
        if token in there:
            out[token] = (
                out[token] * c.repetition_penalty
                if out[token] < 0
                else out[token] / c.repetition_penalty
            )
        times = sum(own == token and mine for own, mine in zip(there, drawn, strict=True))
        out[token] -= c.presence_penalty * (times > 0) + c.frequency_penalty * times
    if allowed - banned:
        out = [-math.inf if token in banned else own for token, own in enumerate(out)]
    over = [size - c.dry_allowed_length for size in longest]
    return [
        own - c.dry_multiplier * c.dry_base**k if k >= 0 else own
        for own, k in zip(out, over, strict=True)
    ]


HAND_MADE = [
    "(1+2)?(1+2)*(1?2)",
    "?1+1?1+1?1+1",
    "+1+1?",
    "1212?1212",
    "?",
    "=1=1=1?1=1=0=1",
    "(?)(?)(?)(0)(0)",
]


@pytest.mark.parametrize("setting", SETTINGS)
def test_penalties_count_committed_tokens_on_either_side(setting: str) -> None:
    """Checks the logits of hand-made canvases, partly known and partly drawn, and the tokens that
    `Unmask` draws from them.
    """
    shaper, inner = controls(setting), set(TINY.inner_ids)
    generator = torch.Generator().manual_seed(1)
    table = Table(2 * torch.randn(19, len(TINY), generator=generator, dtype=torch.float64))
    canvas = prompts(HAND_MADE)
    known = canvas.known & (
        (torch.rand(canvas.known.shape, generator=generator) < 0.5) | (canvas.tokens < 4)
    )
    canvas = replace(canvas, known=known & (canvas.tokens != TINY.mask))
    visible = canvas.tokens != TINY.mask
    allowed = torch.zeros(len(TINY), dtype=torch.bool)
    allowed[list(TINY.inner_ids)] = True
    whole = allowed.expand(*canvas.tokens.shape, -1)
    logits = table.logits[: canvas.tokens.shape[1]]
    shaped = shaper.shape_canvas(logits.expand(len(canvas), -1, -1), canvas, visible, whole)
    filled = penalised(one_shot(Unmask(draw=Draw(temperature=0.0))), shaper)(table, canvas).tokens
    changed = 0
    for row, at in (canvas.tokens == TINY.mask).nonzero().tolist():
        symbol = torch.arange(canvas.tokens.shape[1]) < canvas.length[row] - 1
        symbol[0] = False
        counts = visible[row] & symbol & ~(canvas.known[row] & shaper.config.exempt_prompt)
        own = logits[at].tolist()
        expected = torch.tensor(
            shaped_by_hand(
                own,
                canvas.tokens[row].tolist(),
                counts.tolist(),
                (~canvas.known[row]).tolist(),
                at,
                shaper,
                inner,
            ),
            dtype=torch.float64,
        )
        assert torch.allclose(shaped[row, at][allowed], expected[allowed], rtol=1e-12)
        assert int(filled[row, at]) == int(expected.masked_fill(~allowed, -math.inf).argmax())
        changed += not torch.allclose(expected, logits[at])
    assert changed >= 7


def test_a_token_does_not_count_against_itself() -> None:
    """With every token regenerated, those that differ from all others stay as they are."""
    texts = ["?" * 6, "3?????"]
    table = Table(
        torch.nn.functional.one_hot(torch.tensor([2, *TINY.encode("3210(+"), 3]), len(TINY)).float()
    )
    for setting in SETTINGS:
        for steps in (1, 2, 3):
            sampler = Unmask(
                order="top",
                schedule=Everything(),
                rewrite=True,
                steps=steps,
                draw=Draw(temperature=0.0),
            )
            made = penalised(sampler, controls(setting))(table, prompts(texts)).texts(TINY)
            assert made == ["3210(+"] * 2


def test_exempt_prompts_are_no_part_of_the_history() -> None:
    best = torch.full((12, len(TINY)), 0.5)
    best[:, TINY.encode("1")] = 1.0
    sampler = Autoregressive(draw=Draw(temperature=0.0))
    for config in (
        ControlConfig(repetition_penalty=100.0),
        ControlConfig(no_repeat_ngram=1),
        ControlConfig(no_repeat_ngram=2),
    ):
        for made in (
            sampler,
            one_shot(Unmask(draw=Draw(temperature=0.0))),
            Predictive(draw=Draw(temperature=0.0)),
        ):
            (counted,) = penalised(made, Penalties(config))(Table(best), prompts(["0111?"])).texts(
                TINY
            )
            exempt = Penalties(replace(config, exempt_prompt=True))
            assert counted != "01111"
            assert penalised(made, exempt)(Table(best), prompts(["0111?"])).texts(TINY) == ["01111"]
    twice = penalised(
        sampler, Penalties(ControlConfig(repetition_penalty=100.0, exempt_prompt=True))
    )
    assert (
        twice(Table(best), prompts(["0111??"])).texts(TINY)[0][4:] != "11"
    )  # the second of them sees the first


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_fills_every_canvas_and_keeps_known_tokens(name: str) -> None:
    """Also if no token may repeat and 12 places exist for 9 symbols."""
    plain = make_sampler(SamplerConfig(name, steps=6, num_ar_tokens=2))
    if name.startswith("coupled"):
        with pytest.raises(ConfigError, match="no penalties"):
            penalised(plain, controls("tokens"))
        return
    canvas = prompts([*PROMPTS, "?" * 12])
    made = penalised(plain, Penalties(replace(EVERYTHING, no_repeat_ngram=1)))(Scrambled(), canvas)
    assert torch.equal(made.tokens[canvas.known], canvas.tokens[canvas.known])
    assert all(set(text) <= set(SYMBOLS) for text in made.texts(TINY))
    assert torch.equal(made.tokens >= 4, (canvas.tokens >= 4) | (canvas.tokens == TINY.mask))


@pytest.mark.slow
@pytest.mark.parametrize("setting, temperature", [("n-grams", 1.0), ("tokens", 0.0), ("all", 0.7)])
def test_under_a_grammar_everything_still_parses(setting: str, temperature: float) -> None:
    """The grammar forces repetitions that are banned.

    Bans give way, to the grammar and not to anything.
    """
    grammar = GrammarConstraint(compile_grammar(CALCULATION, SYMBOLS), TINY)
    canvas = prompts(["?" * 9, "(???????)=2", "(0+(0+?))=0"])
    for name in (
        "autoregressive",
        "predictive",
        "spaced_bound",
        "remdm_conf",
        "naive",
        "causal_corrector",
        "coarse_to_fine",
    ):
        sampler = make_sampler(SamplerConfig(name, steps=5, temperature=temperature))
        made = penalised(constrained(sampler, grammar), controls(setting))(Scrambled(), canvas)
        for text in made.texts(TINY):
            assert accepts(CALCULATION, text), (name, text)
        assert torch.equal(made.tokens[canvas.known], canvas.tokens[canvas.known])


def test_a_ban_that_the_grammar_overrides_keeps_the_other_probabilities() -> None:
    """The grammar requires a repeated bracket in the middle.

    The probabilities of the two digits do not change.
    """
    grammar = GrammarConstraint(compile_grammar(CALCULATION, SYMBOLS), TINY)
    canvas, seen = prompts(["(0+(1+??)=1?"]), []

    class Recorded(Unmask):
        def _propose(self, *args: Any) -> Tensor:
            seen.append(super()._propose(*args))
            return seen[-1]

    free = canvas.tokens == TINY.mask
    posteriors = []
    for config in (ControlConfig(), ControlConfig(no_repeat_ngram=1)):
        draw = Draw(constraint=grammar, penalties=Penalties(config))
        sampler = Recorded(steps=1, draw=draw)
        sampler(Scrambled(), canvas)
        posteriors.append(
            grammar.condition(seen[-1], canvas.tokens, free, canvas.length, None, Draw())[0]
        )
    repeated = sorted({TINY.ids[symbol] for symbol in "01"})
    digits = [token for token in TINY.digit_ids if token not in repeated]
    plain, banned = (p[0, free[0]][:, digits].double().log_softmax(-1) for p in posteriors)
    torch.testing.assert_close(banned[[0, -1]], plain[[0, -1]], rtol=0, atol=1e-5)
    assert (
        float(posteriors[1][0, free[0]][-1, repeated].exp().sum()) < 1e-6
    )  # banned unless the grammar requires them


# -------------------------------------------------------------------------------------- no controls


def test_the_defaults_are_not_active() -> None:
    assert not NO_PENALTIES.active
    assert not NO_PENALTIES.penalise
    assert not Penalties.of(ControlConfig(), TINY).active
    harmless = ControlConfig(
        dry_base=3.0,
        dry_allowed_length=1,
        dry_breakers="=",
        exempt_prompt=True,
        stop=("x",),
        max_tokens=3,
    )
    assert not Penalties.of(harmless, TINY).active
    assert all(Penalties.of(config, TINY).active for config in SETTINGS.values())
    assert Penalties.of(harmless, TINY).breakers == (TINY.ids["="],)


@pytest.mark.parametrize("temperature", [1.0, pytest.param(0.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", PRESETS)
def test_the_defaults_change_nothing(name: str, temperature: float) -> None:
    plain = make_sampler(SamplerConfig(name, steps=6, temperature=temperature))
    for denoiser in (Scrambled(), Foresighted()):
        canvas = prompts() if isinstance(denoiser, Scrambled) else prompts(["???", "??????"])
        if "previous" in getattr(denoiser, "inputs", ()) or name != "self_conditioned":
            a, b = (
                sampler(denoiser, canvas)
                for sampler in (plain, penalised(plain, Penalties(ControlConfig())))
            )
            assert torch.equal(a.tokens, b.tokens)
            assert torch.equal(a.evaluations, b.evaluations)


@pytest.mark.slow
def test_the_defaults_change_nothing_in_the_tasks(plain: Loaded, pieced: Loaded) -> None:
    both = SamplerConfig(), SamplerConfig("autoregressive")
    for loaded, samplers in ((plain, both), (pieced, both[1:])):
        for sampler in samplers:
            made = [
                tasks.generate(loaded, 2, sampler=sampler, control=control)
                for control in (None, ControlConfig())
            ]
            assert made[0] == made[1]
            assert made[0] != tasks.generate(loaded, 2, sampler=sampler, control=EVERYTHING)
        ended = [
            tasks.complete(loaded, ["(+1"], num=3, control=control)
            for control in (None, ControlConfig())
        ]
        assert ended[0] == ended[1]
        assert ended[0] != tasks.complete(loaded, ["(+1"], num=3, control=EVERYTHING)


def test_cuts_of_the_draw_leave_the_length_alone() -> None:
    """A length-conditioned model first draws a length, which is no token.

    Top-k and min-p apply to tokens.
    """
    loaded = tiny_loaded()
    lengths = []
    for control in (ControlConfig(), ControlConfig(top_k=1, min_p=0.9)):
        made = tasks.complete(loaded, ["("], num=60, control=control, seed=4)
        lengths.append([len(result.text) for result in made])
    assert lengths[0] == lengths[1]
    assert len(set(lengths[0])) > 10
