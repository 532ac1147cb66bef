"""Samplers under a grammar return strings of the language from the exact posterior."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import pytest
import torch
from torch import Tensor

from maskdiff.config import SamplerConfig
from maskdiff.constraints.grammar import GrammarConstraint
from maskdiff.drawing.settings import Draw
from maskdiff.errors import CanvasError, ConfigError
from maskdiff.languages.cfg import compile_grammar
from maskdiff.sampling import (
    PRESETS,
    Autoregressive,
    Canvas,
    Linear,
    Predictive,
    Sampler,
    Unmask,
    constrained,
    make_sampler,
)
from tests.helpers.dummies import TINY, Scrambled, Table, chi_square
from tests.helpers.grammars import CALCULATION, PAIRED, accepts, strings

SYMBOLS = "0123()+*="
DRAWS = 2000
LENGTHS = [3, 8, 7]


@lru_cache
def constraint(text: str = CALCULATION) -> GrammarConstraint:
    return GrammarConstraint(compile_grammar(text, SYMBOLS), TINY)


def blank(lengths: list[int], seed: int = 0) -> Canvas:
    return Canvas.blank(lengths, TINY, torch.Generator().manual_seed(seed))


def needed(name: str) -> int:
    """Fewest evaluations that a preset takes."""
    return {"hybrid": 4, "hybrid_speculative": 4, "coarse_to_fine": 2}.get(name, 1)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 4, 0])
@pytest.mark.parametrize("name", PRESETS)
def test_every_sampler_returns_strings_that_parse(name: str, steps: int) -> None:
    steps = max(steps, needed(name)) if steps else 0
    plain = make_sampler(SamplerConfig(name, steps=steps))
    sample = constrained(plain, constraint())(Scrambled(), blank(LENGTHS))
    for text, length in zip(sample.texts(TINY), LENGTHS, strict=True):
        assert len(text) == length
        assert accepts(CALCULATION, text), text
    if steps == 4:  # the control: without the grammar no longer string parses
        free = plain(Scrambled(), blank(LENGTHS)).texts(TINY)
        assert not any(accepts(CALCULATION, text) for text in free[1:])
    if steps and name not in ("autoregressive", "predictive", "hybrid_reference"):
        assert int(sample.evaluations.max()) <= steps


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["maskgit", "autoregressive", "speculative", "coarse_to_fine", "remdm_conf"]
)
def test_known_tokens_stay_and_batches_change_nothing(name: str) -> None:
    template = ["(?+?)=?", "(???????)=2", "?=????"]
    canvas = Canvas.template(template, TINY, torch.Generator().manual_seed(3))
    sampler = constrained(make_sampler(SamplerConfig(name, steps=6)), constraint())
    together = sampler(Scrambled(), canvas).texts(TINY)
    for row, (text, shape) in enumerate(zip(together, template, strict=True)):
        assert accepts(CALCULATION, text)
        assert all(b in ("?", a) for a, b in zip(text, shape, strict=True))
        assert sampler(Scrambled(), canvas[[row]].trim()).texts(TINY) == [text]


def exact(table: Table, text: str, length: int, temperature: float = 1.0) -> dict[str, float]:
    """The posterior of a product of the table's distributions, by enumeration."""
    inner = list(TINY.inner_ids)
    log_probs = table.logits[1 : length + 1, inner].double().log_softmax(-1) / temperature
    used = "()+*"
    found = ["".join(used[i] for i in row) for row in strings(text, used, length)]
    weights = {
        s: math.exp(sum(log_probs[i, SYMBOLS.index(c)].item() for i, c in enumerate(s)))
        for s in found
    }
    return {s: weight / sum(weights.values()) for s, weight in weights.items()}


def table() -> Table:
    return Table(torch.randn(8, len(TINY), generator=torch.Generator().manual_seed(1)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampler",
    [
        Unmask(steps=1),
        Unmask(order="random", schedule=Linear(), steps=2),
        Unmask(order="random", schedule=Linear(), steps=0),
        Unmask(order="left_to_right", schedule=Linear(), steps=3),
        Unmask(order="entropy", schedule=Linear(), steps=0, fresh=True),
        Unmask(order="random", schedule=Linear(), steps=2, draw=Draw(temperature=0.7)),
    ],
)
def test_a_product_is_conditioned_exactly_in_any_number_of_evaluations(sampler: Unmask) -> None:
    """After a joint draw the posterior is the same, so order and steps change no probability.

    Power: a temperature that is off by 20% fails, which is asserted.
    """
    made = constrained(sampler, constraint(PAIRED))(table(), blank([6] * DRAWS, 5)).texts(TINY)
    truth = exact(table(), PAIRED, 6, sampler.draw.temperature)
    assert len(truth) == 40
    assert abs(chi_square(made, truth)) < 3.5
    assert chi_square(made, exact(table(), PAIRED, 6, sampler.draw.temperature * 0.8)) > 4


@dataclass
class Independent:
    """The negative control: exact posteriors, but every position drawn for itself."""

    inner: GrammarConstraint

    def condition(
        self, log_probs: Tensor, tokens: Tensor, free: Tensor, *rest: object
    ) -> tuple[Tensor, Tensor]:
        canvas = log_probs, tokens, free, *rest
        marginals, _ = self.inner.condition(*canvas)  # type: ignore[arg-type]
        noise = -torch.log(
            -torch.log(torch.rand(marginals.shape, generator=torch.Generator().manual_seed(0)))
        )
        return marginals, torch.where(free, (marginals + noise).argmax(-1), tokens)

    def mask(self, *canvas: Tensor) -> object:
        return self.inner.mask(*canvas)

    def check(self, *canvas: Tensor) -> None:
        self.inner.check(*canvas)


def test_committing_independent_draws_runs_into_dead_ends() -> None:
    wrong: Sampler = Unmask(
        order="random",
        schedule=Linear(),
        steps=1,
        draw=Draw(constraint=Independent(constraint(PAIRED))),
    )  # type: ignore[arg-type]
    made = wrong(table(), blank([6] * 500, 5)).texts(TINY)
    assert sum(not accepts(PAIRED, text) for text in made) > 100
    with pytest.raises(CanvasError, match="no string of the grammar"):
        replace(wrong, steps=3)(table(), blank([6] * 500, 5))  # type: ignore[type-var]


def test_strings_with_unequal_evaluations_are_independent() -> None:
    """Two strings of one batch with unequal numbers of evaluations."""
    canvas = replace(blank([17, 17]), spent=torch.tensor([0, 3]))
    sampler = Predictive(steps=5, draw=Draw(constraint=constraint()))
    together = sampler(Scrambled(), canvas).texts(TINY)
    assert together == [sampler(Scrambled(), canvas[[row]]).texts(TINY)[0] for row in range(2)]
    assert all(accepts(CALCULATION, text) for text in together)


def test_the_best_skeleton_counts_a_digit_in_full() -> None:
    logits = torch.full((5, len(TINY)), -20.0)
    for place, (symbol, share) in enumerate(
        (("<DIGIT>", 0.6), ("=", 0.6), ("<DIGIT>", 0.6)), start=1
    ):
        logits[place, TINY.ids[symbol]] = math.log(share)
        logits[place, TINY.ids["(+)"[place - 1]]] = math.log(1 - share)
    grammar = constraint('start: "1" "=" "1" | "(" "+" ")"')
    sampler = Unmask(steps=1, draw=Draw(temperature=0.0, symbols="skeleton", constraint=grammar))
    assert sampler(Table(logits), blank([3])).texts(TINY) == ["#=#"]
    filled = sampler.then(
        Unmask(steps=2, draw=Draw(temperature=0.0, symbols="fill", constraint=grammar))
    )
    assert filled(Table(logits), blank([3])).texts(TINY) == ["1=1"]


def test_low_temperatures_go_to_the_likelier_string() -> None:
    logits = torch.full((4, len(TINY)), -5.0)
    logits[1:3, TINY.ids["*"]] = 0.0  # likely at both positions, but in no string
    logits[1, TINY.ids["1"]] = -4.7
    grammar = constraint('start: "0" "0" | "1" "1"')
    for temperature in (0.02, 0.003, 0.001):
        made = Unmask(steps=1, draw=Draw(temperature=temperature, constraint=grammar))(
            Table(logits), blank([2] * 50)
        ).texts(TINY)
        assert made == ["11"] * 50


def test_a_denoiser_that_excludes_every_string_gets_one() -> None:
    logits = torch.full((5, len(TINY)), -math.inf)
    logits[:, TINY.ids["*"]] = 0.0
    made = constrained(Unmask(steps=2), constraint())(Table(logits), blank([3] * 4)).texts(TINY)
    assert all(accepts(CALCULATION, text) for text in made)


def test_temperature_zero_is_the_most_probable_string() -> None:
    made = constrained(Unmask(steps=1, draw=Draw(temperature=0.0)), constraint(PAIRED))(
        table(), blank([6, 4, 2])
    ).texts(TINY)
    for text in made:
        truth = exact(table(), PAIRED, len(text))
        assert text == max(truth, key=truth.__getitem__)


def test_a_nucleus_without_a_string_is_ignored() -> None:
    """top_p leaves one symbol a position, and no string is made of those."""
    sampler = constrained(Unmask(steps=2, draw=Draw(top_p=1e-6)), constraint())
    assert all(
        accepts(CALCULATION, text) for text in sampler(Scrambled(), blank([3, 7, 12])).texts(TINY)
    )


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_the_causal_modes_agree_under_a_grammar(temperature: float) -> None:
    grammar = constraint()
    wanted = Autoregressive(draw=Draw(temperature=temperature, constraint=grammar))(
        Scrambled(), blank(LENGTHS)
    ).texts(TINY)
    assert (
        Predictive(draw=Draw(temperature=temperature, constraint=grammar))(
            Scrambled(), blank(LENGTHS)
        ).texts(TINY)
        == wanted
    )
    speculative = constrained(
        make_sampler(SamplerConfig("speculative", steps=0, temperature=temperature)), grammar
    )
    assert speculative(Scrambled(), blank(LENGTHS)).texts(TINY) == wanted


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("????", None),
        ("??", "has 2 symbols; the nearest length is 3"),
        ("(?+?)=?", None),
        ("??)", "like '??)': with 3 symbols and those known before it, symbol 2 cannot be ')'"),
        ("(?=??+?", "symbol 2 cannot be '='"),
        ("0=0?", "symbol 2 cannot be '0'"),
        ("))))", "symbol 0 cannot be ')'"),
    ],
)
def test_an_impossible_canvas_is_refused(template: str, message: str | None) -> None:
    canvas = Canvas.template(["?=?", template], TINY)
    grammar = constraint()
    if message is None:
        grammar.check(canvas.tokens, ~canvas.known, canvas.length)
        return
    with pytest.raises(CanvasError) as caught:
        grammar.check(canvas.tokens, ~canvas.known, canvas.length)
    assert message in str(caught.value)
    for name in (
        "maskgit",
        "autoregressive",
        "predictive",
        "hybrid",
        "speculative",
        "coarse_to_fine",
    ):
        denoiser = Scrambled()
        with pytest.raises(CanvasError) as again:
            constrained(make_sampler(SamplerConfig(name)), grammar)(denoiser, canvas)
        assert str(again.value) == str(caught.value)
        assert (
            denoiser.calls == 0 or "?" not in template
        )  # before any sampling; what is full may wait for the last stage


def test_lengths_around_an_impossible_one() -> None:
    grammar = constraint('start: "(" start ")" | "1"')
    canvas = blank([5, 6])
    with pytest.raises(CanvasError, match="has 6 symbols; the nearest lengths are 5 and 7"):
        grammar.check(canvas.tokens, ~canvas.known, canvas.length)


def test_a_grammar_of_other_symbols_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot constrain"):
        GrammarConstraint(compile_grammar('start: "1" "+"', "1+"), TINY)


def test_a_foreign_sampler_takes_no_constraint() -> None:
    with pytest.raises(ConfigError, match="takes no constraint"):
        constrained(
            lambda denoiser, canvas: None,  # type: ignore[arg-type, return-value]
            constraint(),
        )
