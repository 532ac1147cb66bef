"""Samplers under controls of repetition: what counts as said, batches and padding, fixed points, grammars, and no controls."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from maskdiff import tasks
from maskdiff.checkpoint import Loaded
from maskdiff.config import CompletionConfig, ControlConfig, SamplerConfig
from maskdiff.constraints.grammar import Shaping
from maskdiff.decoding import (
    CausalModel,
    Continuation,
    Decoding,
    SharedTree,
    TableModel,
    condition,
    ending_with,
)
from maskdiff.drawing.history import TokenHistory
from maskdiff.drawing.random import new_keys
from maskdiff.errors import ConfigError
from maskdiff.languages.cfg import compile_grammar
from maskdiff.models.denoiser import Denoiser
from maskdiff.sampling import (
    PLAIN,
    PRESETS,
    Ancestral,
    Autoregressive,
    Canvas,
    Cap,
    Confidence,
    EntropyBound,
    Everything,
    GrammarConstraint,
    Linear,
    Penalties,
    Predictive,
    Rescale,
    Sampler,
    Speculate,
    Stopping,
    Unmask,
    constrained,
    controlled,
    hybrid,
    make_sampler,
    one_shot,
)
from tests.helpers.completion import random_table
from tests.helpers.dummies import TINY, Foresighted, Scrambled, Table
from tests.helpers.grammars import accepts
from tests.helpers.tiny import PIECES, tiny_loaded

EVERYTHING = ControlConfig(
    repetition_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.2, no_repeat_ngram=3, dry_multiplier=0.8,
    dry_breakers="=", dry_range=15, top_k=6, min_p=0.05,
)  # fmt: skip
SETTINGS = {
    "penalties": ControlConfig(repetition_penalty=1.7, presence_penalty=0.7, frequency_penalty=0.3),
    "n-grams": ControlConfig(no_repeat_ngram=2),
    "tokens": ControlConfig(no_repeat_ngram=1),
    "DRY": ControlConfig(
        dry_multiplier=4.0, dry_base=1.4, dry_allowed_length=1, dry_breakers="(", dry_range=9
    ),
    "all": EVERYTHING,
    "exempt": replace(EVERYTHING, exempt_prompt=True),
}
UNMASK = {
    "confidence": Unmask(steps=5),
    "left to right": Unmask(order="left_to_right", schedule=Linear(), steps=0),
    "bound": Unmask(order="entropy", schedule=EntropyBound(0.1), spacing=2, steps=6),
    "ancestral": Unmask(order="random", schedule=Ancestral(), steps=6),
    "cap": Unmask(order="random", schedule=Linear(), steps=8, remask=Cap(0.3)),
    "rescale": Unmask(order="random", schedule=Linear(), steps=8, remask=Rescale(0.3)),
    "least confident": Unmask(order="margin", schedule=Linear(), steps=8, remask=Confidence()),
    "refinement": Unmask(order="top", schedule=Everything(), rewrite=True, steps=4),
    "self-conditioned": Unmask(order="entropy", schedule=Linear(), steps=5, self_condition=True),
}
SAMPLERS: dict[str, Sampler] = {
    **UNMASK,
    "autoregressive": Autoregressive(),
    "predictive": Predictive(),
    "speculative": Speculate(Unmask(), steps=0),
    "short of budget": Speculate(Unmask(), steps=8),
    "hybrid": hybrid(3, Unmask(steps=8)),
}
PROMPTS = ["(1?2)??1+1??=??", "????", "?" * 16, "?0?0?0?0"]
SYMBOLS = "0123()+*="
GRAMMAR = 'start: e "=" NUMBER\ne: DIGIT | "(" e OP e ")"\nDIGIT: "0".."3"\nNUMBER: /0|[1-3][0-3]*/\nOP: "+" | "*"'


def controls(name: str) -> Penalties:
    return Penalties.of(SETTINGS[name], TINY)


def prompts(texts: list[str] = PROMPTS) -> Canvas:
    return Canvas.template(texts, TINY, torch.Generator().manual_seed(0))


def padded(canvas: Canvas, width: int, token: int) -> Canvas:
    """Wider, with a token of our choice behind every string."""
    wide = canvas.wider(width, TINY.pad)
    outside = torch.arange(width) >= canvas.length[:, None]
    return replace(wide, tokens=torch.where(outside, token, wide.tokens))


def disagreements(sampler: Sampler, denoiser: Denoiser, token: int = TINY.pad) -> int:
    """Prompts that become another string alone than in the batch of all of them, with some padding more."""
    canvas = prompts()
    together, different = sampler(denoiser, padded(canvas, 40, token)).tokens, 0
    for i, length in enumerate(canvas.length.tolist()):
        alone = sampler(denoiser, canvas[[i]].trim()).tokens
        different += not torch.equal(alone[0, :length], together[i, :length])
    return different


# -------------------------------------------------------------------------------------------------------- pads and batches


@pytest.mark.parametrize(
    "name, setting",
    [
        *((name, "all") for name in SAMPLERS),
        ("bound", "tokens"),
        ("cap", "exempt"),
        ("hybrid", "exempt"),
    ],
)
def test_a_prompt_gives_the_same_string_alone_and_in_a_padded_batch(
    name: str, setting: str
) -> None:
    """Whatever stands behind the end; and the controls do something."""
    sampler = controlled(SAMPLERS[name], controls(setting))
    assert (
        disagreements(
            sampler, Scrambled(), TINY.encode("0")[0] if setting != "exempt" else TINY.pad
        )
        == 0
    )
    made = sampler(Scrambled(), prompts()).tokens
    assert not torch.equal(made, SAMPLERS[name](Scrambled(), prompts()).tokens)


class Careless(Penalties):
    """The negative control: everything that is visible counts, whatever it is."""

    def countable(self, canvas: Canvas) -> Tensor:
        return torch.ones_like(canvas.known)


def test_negative_control_pads_that_count_change_the_string() -> None:
    """As where the pad is an ordinary token, or the one that ends a string: it must not be said, wherever there is padding."""
    best = torch.zeros(40, len(TINY))
    best[:, TINY.encode("0")] = 1.0
    for name in UNMASK:
        for shaper, padding_matters in (
            (Careless(SETTINGS["tokens"]), True),
            (controls("tokens"), False),
        ):
            sampler = controlled(replace(UNMASK[name], temperature=0.0), shaper)
            different = disagreements(sampler, Table(best), TINY.encode("0")[0])
            assert (different > 0) == padding_matters, name


def test_negative_control_counting_the_pads_of_a_batch_changes_the_logits() -> None:
    """Prompts of two lengths, padded on the left by an ordinary token: what counts says that it was not said."""
    short, long = torch.tensor([[1, 2, 1]]), torch.tensor([[2, 2, 1, 1, 2, 1]])
    batch = torch.cat((torch.nn.functional.pad(short, (3, 0)), long))
    inside = torch.tensor([[False] * 3 + [True] * 3, [True] * 6])
    logits, shaper = (
        torch.tensor([[2.0, 1.0, 0.5]]).expand(2, -1),
        Penalties(replace(EVERYTHING, no_repeat_ngram=1)),
    )

    def read(tokens: Tensor, counted: Tensor) -> Tensor:
        said = TokenHistory.nothing(len(tokens), 3)
        for at in range(tokens.shape[1]):
            said.write(tokens[:, at], counted[:, at], counted[:, at])
        return shaper.shape(logits[: len(tokens)], said)

    alone = read(short, torch.ones_like(short, dtype=torch.bool))
    assert torch.equal(read(batch, inside)[:1], alone)
    assert not torch.equal(read(batch, torch.ones_like(inside))[:1], alone)


@pytest.fixture(scope="module")
def plain() -> Loaded:
    """A model that reads characters and is told the length."""
    return tiny_loaded()


@pytest.fixture(scope="module")
def pieced() -> Loaded:
    """A model that reads pieces and ends its strings itself."""
    loaded = tiny_loaded(**PIECES)
    loaded.denoiser.model.double()
    return loaded


def test_batch_mates_do_not_matter_to_a_real_model(plain: Loaded) -> None:
    canvas = Canvas.template(
        ["(1?2)??1+1??=??", "????", "1+1=1+1=????"],
        plain.vocabulary,
        torch.Generator().manual_seed(0),
    )
    shaper = Penalties.of(EVERYTHING, plain.vocabulary)
    for name in ("bound", "cap", "autoregressive", "predictive", "hybrid"):
        sampler = controlled(SAMPLERS[name], shaper)
        together = sampler(plain.denoiser, canvas.wider(40, plain.vocabulary.pad)).tokens
        for i, length in enumerate(canvas.length.tolist()):
            alone = sampler(plain.denoiser, canvas[[i]].trim()).tokens
            assert torch.equal(alone[0, :length], together[i, :length])
        assert not torch.equal(
            together[:, : canvas.tokens.shape[1]], SAMPLERS[name](plain.denoiser, canvas).tokens
        )


def of_table(number: int) -> tuple[Continuation, bytes]:
    rng = np.random.default_rng(number)
    return TableModel(random_table(rng, b"abc", 4, silent=number % 2 == 0), 14, number, 1.0), b"ab"


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_completion_does_not_depend_on_its_batch(
    setting: str, plain: Loaded, pieced: Loaded
) -> None:
    """Keys together and one by one: tables, both kinds of causal model, and canvases with an end."""
    keys, differ = new_keys(4, torch.Generator().manual_seed(0)), 0
    shaper = Penalties(SETTINGS[setting], (1,))
    cases = [
        of_table(0), of_table(1), (CausalModel(plain.denoiser, plain.lengths[:20]), b"(+1"),
        (CausalModel(pieced.denoiser, pieced.lengths, 14), b"(+(*7"),
        (ending_with(plain.denoiser, plain.lengths[:9], b"=4", CompletionConfig("beam", beam=2)), b"(+"),
    ]  # fmt: skip
    for model, prefix in cases:
        given = condition(model, prefix, "beam" if isinstance(model, CausalModel) else "exact")
        together = [made.tokens for made in Decoding(given, keys, controls=shaper).run()]
        alone = [Decoding(given, key, controls=shaper).run()[0].tokens for key in keys.split(1)]
        assert together == alone
        differ += together != [made.tokens for made in Decoding(given, keys).run()]
    assert differ >= 3


def test_prompts_that_are_drawn_together_do_not_matter_to_each_other(pieced: Loaded) -> None:
    """Of different lengths in tokens, one of them empty: what was said, and what ends a string, is each one's own."""
    prefixes, keys = (
        [b"(+1", b"1=", b"", b"(+(*7", b"3"],
        new_keys(5, torch.Generator().manual_seed(0)),
    )
    model, reasons = CausalModel(pieced.denoiser, pieced.lengths, 16), set()
    shaper = Penalties(
        ControlConfig(repetition_penalty=1.2, dry_multiplier=0.2, exempt_prompt=True)
    )
    for stopping in (
        Stopping(period=3, repeats=2),
        Stopping((b"))", b"1(")),
        Stopping(max_tokens=6),
    ):
        both = SharedTree(model)
        many = Decoding(
            [condition(both, text) for text in prefixes], keys, controls=shaper, stopping=stopping
        ).run()
        for text, key, made in zip(prefixes, keys.split(1), many, strict=True):
            (alone,) = Decoding(
                condition(model, text), key, controls=shaper, stopping=stopping
            ).run()
            assert (alone.data, alone.tokens, alone.reason) == (made.data, made.tokens, made.reason)
            reasons.add(made.reason)
    assert {"stop", "length", "repetition"} <= reasons


# -------------------------------------------------------------------------------------------------------- fixed points


@pytest.mark.parametrize(
    "setting, temperature",
    [
        ("penalties", 1.0),
        ("n-grams", 0.8),
        ("tokens", 1.0),
        ("DRY", 0.0),
        ("all", 0.0),
        ("all", 0.8),
        ("exempt", 1.0),
    ],
)
def test_fixed_points_are_the_causal_sample(setting: str, temperature: float) -> None:
    """From blanks, from a parallel draft, and by speculation: token for token."""
    canvas, shaper = prompts(), controls(setting)
    causal = controlled(Autoregressive(temperature=temperature), shaper)(Scrambled(), canvas).tokens
    draft = Unmask(steps=3, temperature=temperature)
    for sampler in (
        Predictive(temperature=temperature),
        one_shot(draft).then(Predictive(temperature=temperature)),
        draft.then(Predictive(temperature=temperature)),
        Speculate(draft, steps=0),
    ):
        assert torch.equal(controlled(sampler, shaper)(Scrambled(), canvas).tokens, causal)
    assert not torch.equal(Predictive(temperature=temperature)(Scrambled(), canvas).tokens, causal)


@pytest.mark.parametrize("setting", SETTINGS)
def test_fixed_points_of_a_real_model(setting: str, plain: Loaded) -> None:
    shaper = Penalties.of(SETTINGS[setting], plain.vocabulary)
    canvas = Canvas.prefix(
        ["(+1", "", "1=1=1=1="], [16, 7, 15], plain.vocabulary, torch.Generator().manual_seed(0)
    )
    causal = controlled(Autoregressive(), shaper)(plain.denoiser, canvas).tokens
    for sampler in (Predictive(), Speculate(Unmask(), steps=0)):
        assert torch.equal(controlled(sampler, shaper)(plain.denoiser, canvas).tokens, causal)


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_completion_is_the_causal_sample(
    setting: str, plain: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model's reader and its stream, with the same noise: what was typed counts alike, and penalties see real logits."""
    shaper, size = Penalties.of(SETTINGS[setting], plain.vocabulary), 16
    lengths = np.eye(size + 1)[size]
    canvas = Canvas.prefix(
        ["(+1+1"] * 6, [size] * 6, plain.vocabulary, torch.Generator().manual_seed(0)
    )
    causal = controlled(Autoregressive(), shaper)(plain.denoiser, canvas).tokens[:, 1:-1].tolist()

    def completed() -> list[list[int]]:
        given = condition(CausalModel(plain.denoiser, lengths), b"(+1+1")
        return [list(made.tokens) for made in Decoding(given, canvas.keys, controls=shaper).run()]

    assert completed() == causal
    if SETTINGS[setting].repetition_penalty != 1.0:  # alone depends on where 0 is
        nowhere = property(lambda _: torch.zeros(6), lambda *_: None)
        monkeypatch.setattr("maskdiff.models.causal.CausalReader.norm", nowhere, raising=False)
        assert completed() != causal


# ---------------------------------------------------------------------------------------------- so far, in a canvas


def shaped_by_hand(
    logits: list[float],
    row: list[int],
    counts: list[bool],
    drawn: list[bool],
    at: int,
    shaper: Penalties,
    allowed: set[int],
) -> list[float]:
    """The logits of a blank position, by the definitions: counts of the whole canvas, matches of what stands left of it."""
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
def test_so_far_is_what_is_committed_on_either_side(setting: str) -> None:
    """The logits of hand-made canvases, some of it known and some drawn; and the tokens that ``Unmask`` makes of them."""
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
    filled = controlled(one_shot(Unmask(temperature=0.0)), shaper)(table, canvas).tokens
    changed = 0
    for row, at in (canvas.tokens == TINY.mask).nonzero().tolist():
        symbol = torch.arange(canvas.tokens.shape[1]) < canvas.length[row] - 1
        symbol[0] = False
        counts = visible[row] & symbol & ~(canvas.known[row] & shaper.config.exempt_prompt)
        own = logits[at].tolist()
        expected = torch.tensor(
            shaped_by_hand(
                own, canvas.tokens[row].tolist(), counts.tolist(), (~canvas.known[row]).tolist(), at, shaper, inner
            ), dtype=torch.float64,
        )  # fmt: skip
        assert torch.allclose(shaped[row, at][allowed], expected[allowed], rtol=1e-12)
        assert int(filled[row, at]) == int(expected.masked_fill(~allowed, -math.inf).argmax())
        changed += not torch.allclose(expected, logits[at])
    assert changed >= 7


def test_a_token_does_not_count_against_itself() -> None:
    """Where every token is written anew, those that differ from all others stay as they are."""
    texts = ["?" * 6, "3?????"]
    table = Table(
        torch.nn.functional.one_hot(torch.tensor([2, *TINY.encode("3210(+"), 3]), len(TINY)).float()
    )
    for setting in SETTINGS:
        for steps in (1, 2, 3):
            sampler = Unmask(
                order="top", schedule=Everything(), rewrite=True, steps=steps, temperature=0.0
            )
            made = controlled(sampler, controls(setting))(table, prompts(texts)).texts(TINY)
            assert made == ["3210(+"] * 2


def test_exempt_prompts_are_no_part_of_what_was_said() -> None:
    best = torch.full((12, len(TINY)), 0.5)
    best[:, TINY.encode("1")] = 1.0
    sampler = Autoregressive(temperature=0.0)
    for config in (
        ControlConfig(repetition_penalty=100.0),
        ControlConfig(no_repeat_ngram=1),
        ControlConfig(no_repeat_ngram=2),
    ):
        for made in (sampler, one_shot(Unmask(temperature=0.0)), Predictive(temperature=0.0)):
            (counted,) = controlled(made, Penalties(config))(Table(best), prompts(["0111?"])).texts(
                TINY
            )
            exempt = Penalties(replace(config, exempt_prompt=True))
            assert counted != "01111"
            assert controlled(made, exempt)(Table(best), prompts(["0111?"])).texts(TINY) == [
                "01111"
            ]
    twice = controlled(
        sampler, Penalties(ControlConfig(repetition_penalty=100.0, exempt_prompt=True))
    )
    assert (
        twice(Table(best), prompts(["0111??"])).texts(TINY)[0][4:] != "11"
    )  # the second of them sees the first


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_fills_every_canvas_and_keeps_what_is_known(name: str) -> None:
    """Also where no token may be said twice and there are 25 places for 9 symbols."""
    plain = make_sampler(SamplerConfig(name, steps=6, num_ar_tokens=2))
    if name.startswith("coupled"):
        with pytest.raises(ConfigError, match="no penalties"):
            controlled(plain, controls("tokens"))
        return
    canvas = prompts([*PROMPTS, "?" * 25])
    made = controlled(plain, Penalties(replace(EVERYTHING, no_repeat_ngram=1)))(Scrambled(), canvas)
    assert torch.equal(made.tokens[canvas.known], canvas.tokens[canvas.known])
    assert all(set(text) <= set(SYMBOLS) for text in made.texts(TINY))
    assert torch.equal(made.tokens >= 4, (canvas.tokens >= 4) | (canvas.tokens == TINY.mask))


@pytest.mark.parametrize(
    "setting, temperature", [("n-grams", 1.0), ("n-grams", 0.7), ("tokens", 0.0), ("all", 0.7)]
)
def test_under_a_grammar_everything_still_parses(setting: str, temperature: float) -> None:
    """The grammar forces repetitions that are banned: bans give way, to the grammar and not to anything."""
    grammar = GrammarConstraint(compile_grammar(GRAMMAR, SYMBOLS), TINY)
    canvas = prompts(["?" * 17, "(???????)=??2", "(0+(0+(0+?)))=0"])
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
        made = controlled(constrained(sampler, grammar), controls(setting))(Scrambled(), canvas)
        for text in made.texts(TINY):
            assert accepts(GRAMMAR, text), (name, text)
        assert torch.equal(made.tokens[canvas.known], canvas.tokens[canvas.known])


def test_a_ban_that_the_grammar_breaks_costs_the_other_symbols_nothing() -> None:
    """The bracket in the middle has to be said again; what the model says of the two digits stays what it is."""
    grammar = GrammarConstraint(compile_grammar(GRAMMAR, SYMBOLS), TINY)
    canvas, seen = prompts(["(0+(1+??)=1?"]), []

    class Watched(Unmask):
        def _propose(self, *args: Any) -> Tensor:
            seen.append(super()._propose(*args))
            return seen[-1]

    free = canvas.tokens == TINY.mask
    posteriors = []
    for config in (ControlConfig(), ControlConfig(no_repeat_ngram=1)):
        sampler = Watched(steps=1, constraint=grammar, controls=Penalties(config))
        sampler(Scrambled(), canvas)
        posteriors.append(
            grammar.condition(seen[-1], canvas.tokens, free, canvas.length, None, Shaping())[0]
        )
    said = sorted({TINY.ids[symbol] for symbol in "01"})
    digits = [token for token in TINY.digit_ids if token not in said]
    plain, banned = (p[0, free[0]][:, digits].double().log_softmax(-1) for p in posteriors)
    torch.testing.assert_close(banned[[0, -1]], plain[[0, -1]], rtol=0, atol=1e-5)
    assert (
        float(posteriors[1][0, free[0]][-1, said].exp().sum()) < 1e-6
    )  # where nothing needs them, they stay banned


# --------------------------------------------------------------------------------------------------------- no controls


def test_the_defaults_are_not_active() -> None:
    assert not PLAIN.active
    assert not PLAIN.penalise
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


@pytest.mark.parametrize("temperature", [1.0, 0.0])
@pytest.mark.parametrize("name", PRESETS)
def test_the_defaults_change_nothing(name: str, temperature: float) -> None:
    plain = make_sampler(SamplerConfig(name, steps=6, temperature=temperature))
    for denoiser in (Scrambled(), Foresighted()):
        canvas = prompts() if isinstance(denoiser, Scrambled) else prompts(["???", "??????"])
        if "previous" in getattr(denoiser, "inputs", ()) or name != "self_conditioned":
            a, b = (
                sampler(denoiser, canvas)
                for sampler in (plain, controlled(plain, Penalties(ControlConfig())))
            )
            assert torch.equal(a.tokens, b.tokens)
            assert torch.equal(a.evaluations, b.evaluations)


def test_the_defaults_change_nothing_in_the_verbs(plain: Loaded, pieced: Loaded) -> None:
    for loaded in (plain, pieced):
        for sampler in (SamplerConfig(), SamplerConfig("autoregressive")):
            made = [
                tasks.generate(loaded, 5, sampler=sampler, control=control)
                for control in (None, ControlConfig())
            ]
            assert made[0] == made[1]
            assert made[0] != tasks.generate(loaded, 5, sampler=sampler, control=EVERYTHING)
        ended = [
            tasks.complete(loaded, ["(+1"], num=5, control=control)
            for control in (None, ControlConfig())
        ]
        assert ended[0] == ended[1]
        assert ended[0] != tasks.complete(loaded, ["(+1"], num=5, control=EVERYTHING)


def test_cuts_of_the_draw_leave_the_length_alone() -> None:
    """A model that is told its length begins with a length, which is no token: top-k and min-p are of tokens."""
    loaded = tiny_loaded()
    lengths = []
    for control in (ControlConfig(), ControlConfig(top_k=1, min_p=0.9)):
        made = tasks.complete(loaded, ["("], num=60, control=control, seed=4)
        lengths.append([len(result.text) for result in made])
    assert lengths[0] == lengths[1]
    assert len(set(lengths[0])) > 10
