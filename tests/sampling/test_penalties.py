"""Penalties of samplers: padding and batches do not matter, and fixed points are causal samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from maskdiff.checkpoint import Loaded
from maskdiff.config import CompletionConfig, ControlConfig
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
from maskdiff.drawing.settings import Draw
from maskdiff.sampling import (
    Autoregressive,
    Canvas,
    Penalties,
    Predictive,
    Speculate,
    Stopping,
    Unmask,
    one_shot,
    penalised,
)
from tests.helpers.completion import random_table
from tests.helpers.dummies import TINY, Scrambled, Table
from tests.helpers.penalties import (
    EVERYTHING,
    SAMPLERS,
    SETTINGS,
    UNMASK,
    controls,
    disagreements,
    prompts,
)

# A sampler of each kind; the others, which differ in order or schedule, are slow.
QUICK = ("confidence", "autoregressive", "predictive", "short of budget")


@pytest.mark.parametrize(
    "name, setting",
    [
        *(
            pytest.param(name, "all", marks=() if name in QUICK else pytest.mark.slow)
            for name in SAMPLERS
        ),
        *(
            pytest.param(name, setting, marks=pytest.mark.slow)
            for name, setting in (("bound", "tokens"), ("cap", "exempt"), ("hybrid", "exempt"))
        ),
    ],
)
def test_a_prompt_gives_the_same_string_alone_and_in_a_padded_batch(
    name: str, setting: str
) -> None:
    """Whatever stands behind the end; and the controls do something."""
    sampler = penalised(SAMPLERS[name], controls(setting))
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


@pytest.mark.slow
def test_negative_control_pads_that_count_change_the_string() -> None:
    """As where the pad is an ordinary token, or the one that ends a string.

    The sampler must not draw it where there is padding.
    """
    best = torch.zeros(40, len(TINY))
    best[:, TINY.encode("0")] = 1.0
    for name in ("confidence", "cap", "refinement"):
        for shaper, padding_matters in (
            (Careless(SETTINGS["tokens"]), True),
            (controls("tokens"), False),
        ):
            sampler = penalised(replace(UNMASK[name], draw=Draw(0.0)), shaper)
            different = disagreements(sampler, Table(best), TINY.encode("0")[0])
            assert (different > 0) == padding_matters, name


def test_negative_control_counting_the_pads_of_a_batch_changes_the_logits() -> None:
    """Prompts of two lengths, padded on the left by an ordinary token.

    The mask `counted` excludes the padding.
    """
    short, long = torch.tensor([[1, 2, 1]]), torch.tensor([[2, 2, 1, 1, 2, 1]])
    batch = torch.cat((torch.nn.functional.pad(short, (3, 0)), long))
    inside = torch.tensor([[False] * 3 + [True] * 3, [True] * 6])
    logits, shaper = (
        torch.tensor([[2.0, 1.0, 0.5]]).expand(2, -1),
        Penalties(replace(EVERYTHING, no_repeat_ngram=1)),
    )

    def read(tokens: Tensor, counted: Tensor) -> Tensor:
        history = TokenHistory.nothing(len(tokens), 3)
        for at in range(tokens.shape[1]):
            history.write(tokens[:, at], counted[:, at], counted[:, at])
        return shaper.shape(logits[: len(tokens)], history)

    alone = read(short, torch.ones_like(short, dtype=torch.bool))
    assert torch.equal(read(batch, inside)[:1], alone)
    assert not torch.equal(read(batch, torch.ones_like(inside))[:1], alone)


@pytest.mark.slow
def test_batch_mates_do_not_matter_to_a_real_model(plain: Loaded) -> None:
    canvas = Canvas.template(
        ["(1?2)??1+1??=?", "????", "1+1=1+???"], plain.vocabulary, torch.Generator().manual_seed(0)
    )
    shaper = Penalties.of(EVERYTHING, plain.vocabulary)
    for name in ("bound", "cap", "autoregressive", "predictive", "hybrid"):
        sampler = penalised(SAMPLERS[name], shaper)
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


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_completion_does_not_depend_on_its_batch(
    setting: str, plain: Loaded, pieced: Loaded
) -> None:
    """Keys together and one by one: tables, both kinds of causal model, and canvases with an
    end."""
    keys, differ = new_keys(3, torch.Generator().manual_seed(0)), 0
    shaper = Penalties(SETTINGS[setting], (1,))
    cases = [
        of_table(0),
        of_table(1),
        (CausalModel(plain.denoiser, plain.lengths[:20]), b"(+1"),
        (CausalModel(pieced.denoiser, pieced.lengths, 14), b"(+(*7"),
        (
            ending_with(plain.denoiser, plain.lengths[:9], b"=4", CompletionConfig("beam", beam=2)),
            b"(+",
        ),
    ]
    for model, prefix in cases:
        given = condition(model, prefix, "beam" if isinstance(model, CausalModel) else "exact")
        together = [
            made.tokens for made in Decoding(given, keys, draw=Draw(penalties=shaper)).run()
        ]
        alone = [
            Decoding(given, key, draw=Draw(penalties=shaper)).run()[0].tokens
            for key in keys.split(1)
        ]
        assert together == alone
        differ += together != [made.tokens for made in Decoding(given, keys).run()]
    assert differ >= 3


@pytest.mark.slow
def test_prompts_that_are_drawn_together_do_not_matter_to_each_other(pieced: Loaded) -> None:
    """The prompts have different lengths in tokens; one is empty.

    Each string has its own history and its own end.
    """
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
            [condition(both, text) for text in prefixes],
            keys,
            stopping=stopping,
            draw=Draw(penalties=shaper),
        ).run()
        for text, key, made in zip(prefixes, keys.split(1), many, strict=True):
            (alone,) = Decoding(
                condition(model, text), key, stopping=stopping, draw=Draw(penalties=shaper)
            ).run()
            assert (alone.data, alone.tokens, alone.reason) == (made.data, made.tokens, made.reason)
            reasons.add(made.reason)
    assert {"stop", "length", "repetition"} <= reasons


# ------------------------------------------------------------------------------------- fixed points


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting, temperature",
    [
        ("penalties", 1.0),
        ("n-grams", 0.8),
        ("tokens", 1.0),
        ("DRY", 0.0),
        ("all", 0.8),
        ("exempt", 1.0),
    ],
)
def test_fixed_points_are_the_causal_sample(setting: str, temperature: float) -> None:
    """From blanks, from a parallel draft, and by speculation: token for token."""
    canvas, shaper = prompts(), controls(setting)
    causal = penalised(Autoregressive(draw=Draw(temperature=temperature)), shaper)(
        Scrambled(), canvas
    ).tokens
    draft = Unmask(steps=3, draw=Draw(temperature=temperature))
    for sampler in (
        Predictive(draw=Draw(temperature=temperature)),
        one_shot(draft).then(Predictive(draw=Draw(temperature=temperature))),
        draft.then(Predictive(draw=Draw(temperature=temperature))),
        Speculate(draft, steps=0),
    ):
        assert torch.equal(penalised(sampler, shaper)(Scrambled(), canvas).tokens, causal)
    assert not torch.equal(
        Predictive(draw=Draw(temperature=temperature))(Scrambled(), canvas).tokens, causal
    )


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_fixed_points_of_a_real_model(setting: str, plain: Loaded) -> None:
    shaper = Penalties.of(SETTINGS[setting], plain.vocabulary)
    canvas = Canvas.prefix(
        ["(+1", "", "1=1=1=1="], [10, 5, 12], plain.vocabulary, torch.Generator().manual_seed(0)
    )
    causal = penalised(Autoregressive(), shaper)(plain.denoiser, canvas).tokens
    for sampler in (Predictive(), Speculate(Unmask(), steps=0)):
        assert torch.equal(penalised(sampler, shaper)(plain.denoiser, canvas).tokens, causal)


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_completion_is_the_causal_sample(
    setting: str, plain: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model's reader and its stream, with the same noise.

    What was typed counts alike, and penalties see real logits.
    """
    shaper, size = Penalties.of(SETTINGS[setting], plain.vocabulary), 16
    lengths = np.eye(size + 1)[size]
    canvas = Canvas.prefix(
        ["(+1+1"] * 6, [size] * 6, plain.vocabulary, torch.Generator().manual_seed(0)
    )
    causal = penalised(Autoregressive(), shaper)(plain.denoiser, canvas).tokens[:, 1:-1].tolist()

    def completed() -> list[list[int]]:
        given = condition(CausalModel(plain.denoiser, lengths), b"(+1+1")
        return [
            list(made.tokens)
            for made in Decoding(given, canvas.keys, draw=Draw(penalties=shaper)).run()
        ]

    assert completed() == causal
    if SETTINGS[setting].repetition_penalty != 1.0:  # alone depends on where 0 is
        nowhere = property(lambda _: torch.zeros(6), lambda *_: None)
        monkeypatch.setattr("maskdiff.models.causal.CausalTree.norm", nowhere, raising=False)
        assert completed() != causal
