"""Properties of every preset, and the places to change for a new one."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import maskdiff.sampling.presets as sampling_presets
from maskdiff.config import SamplerConfig
from maskdiff.errors import ConfigError
from maskdiff.sampling import PRESETS, Canvas, Unmask, make_sampler
from maskdiff.sampling.order import ORDERS, Proposal
from maskdiff.sampling.presets import preset
from tests.helpers.dummies import TINY, Exact, Foresighted, Scrambled
from tests.helpers.paths import DOCS

LENGTHS = [3, 9, 1, 6]
CAUSAL = {"autoregressive", "predictive"}  # need as many evaluations as they need
OVER = {"hybrid_reference"}  # steps counts the parallel part only
SHUFFLED = {
    "ancestral",
    "random",
    "remdm_cap",
    "remdm_rescale",
    "remdm_conf",
}  # orders that are random by definition
TOGETHER = {  # may commit dependent tokens in one evaluation even with steps=0
    "naive", "refine", "entropy_bound", "spaced_bound", "self_conditioned", "hybrid",
    "coarse_to_fine", "threshold", "remdm_cap", "remdm_rescale", "remdm_conf",
    "predictor_corrector", "causal_corrector",
}  # fmt: skip


def blank(lengths=LENGTHS, seed: int = 0) -> Canvas:
    return Canvas.blank(lengths, TINY, torch.Generator().manual_seed(seed))


def sampler(name: str, **settings):
    return make_sampler(SamplerConfig(name, **settings))


@cache
def drawn(name, seed=0, **settings):
    """The sample of blanks by a preset, and the rows that its denoiser was asked for."""
    denoiser = Scrambled()
    return sampler(name, **settings)(denoiser, blank(seed=seed)), denoiser.rows


@pytest.mark.parametrize("steps", [12, 5, 0])
@pytest.mark.parametrize("name", PRESETS)
def test_fills_every_blank_with_inner_symbols_in_as_many_evaluations_as_counted(name, steps):
    """The counts add up to the rows that the denoiser was asked for (the causal stream aside), and
    keep the budget."""
    sample, rows = drawn(name, steps=steps)
    for text, length in zip(sample.texts(TINY), LENGTHS, strict=True):
        assert len(text) == length
        assert set(text) <= set("0123()+*=")
    frame = blank()
    assert torch.equal(sample.tokens[frame.known], frame.tokens[frame.known])
    # The uncached stream runs the whole batch.
    if name != "autoregressive" and "hybrid" not in name:
        assert int(sample.evaluations.sum()) == rows
    if steps and name not in CAUSAL | OVER:
        assert int(sample.evaluations.max()) <= steps
    if name in CAUSAL or steps == 0:
        assert (sample.evaluations >= 1).all()


@pytest.mark.parametrize("temperature", [1.0, pytest.param(0.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", PRESETS)
def test_a_string_does_not_depend_on_its_batch(name, temperature):
    """Alone, and in reversed order under extra padding: the same tokens and the same count."""
    run, canvas = sampler(name, temperature=temperature), blank()
    together = run(Scrambled(), canvas)
    backwards = run(Scrambled(), canvas.wider(20, TINY.pad)[list(range(len(LENGTHS)))[::-1]])
    for i, length in enumerate(LENGTHS):
        made = [(backwards, len(LENGTHS) - 1 - i)]
        if length > 5:
            made.append((run(Scrambled(), canvas[[i]].trim()), 0))
        for sample, row in made:
            assert torch.equal(sample.tokens[row, : length + 2], together.tokens[i, : length + 2])
            assert sample.evaluations[row] == together.evaluations[i]


def test_negative_control_batch_dependence_is_noticed():
    """Torch's own generator, shared by a batch, fails the test that the samplers pass."""
    together = torch.rand(3, 5, generator=torch.Generator().manual_seed(0))
    alone = torch.rand(1, 5, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(together[2:], alone)


@pytest.mark.parametrize("name", [n for n in PRESETS if n not in SHUFFLED])
def test_temperature_zero_is_deterministic_where_the_order_is(name):
    """Different keys, same strings."""
    cold, hot = (
        [drawn(name, seed, temperature=heat)[0].tokens for seed in (1, 2)] for heat in (0.0, 1.0)
    )
    assert torch.equal(*cold)
    assert not torch.equal(*hot)


@pytest.mark.parametrize("name", PRESETS)
def test_the_seed_determines_the_strings(name):
    first, _ = drawn(name, 1, temperature=1.0)
    torch.manual_seed(int(torch.randint(2**30, ())))  # another state of torch's own generator
    assert torch.equal(first.tokens, sampler(name)(Scrambled(), blank(seed=1)).tokens)


@settings(max_examples=25, deadline=None)
@given(
    texts=st.lists(st.text("0123()+*=?", min_size=1, max_size=14), min_size=1, max_size=4),
    name=st.sampled_from(sorted(PRESETS)),
    temperature=st.sampled_from([0.0, 1.0, 3.0]),
    steps=st.sampled_from([0, 4, 12]),
)
def test_known_tokens_never_change(texts, name, temperature, steps):
    canvas = Canvas.template(texts, TINY, torch.Generator().manual_seed(0))
    sample = sampler(name, temperature=temperature, steps=steps)(Scrambled(), canvas)
    for given_text, text in zip(texts, sample.texts(TINY), strict=True):
        assert len(text) == len(given_text)
        assert all(a in ("?", b) for a, b in zip(given_text, text, strict=True))
        assert "?" not in text
        assert "#" not in text


@pytest.mark.parametrize("name", PRESETS)
def test_a_full_canvas_costs_nothing_and_stays(name):
    canvas = Canvas.template(["(12)", "0"], TINY)
    sample = sampler(name)(Scrambled(), canvas)
    assert torch.equal(sample.tokens, canvas.tokens)
    assert sample.evaluations.tolist() == [0, 0]


@pytest.mark.parametrize("name", [n for n in PRESETS if n not in TOGETHER])
def test_one_token_an_evaluation_keeps_to_the_support(name):
    """With the exact denoiser and no dependent tokens committed together, nothing outside the
    language is ever made."""
    exact = Foresighted() if name.startswith("coupled") else Exact()
    lengths = [3, 6] * 100
    texts = sampler(name, steps=0)(exact, blank(lengths)).texts(TINY)
    assert not set(texts) - set(exact.strings)


@pytest.mark.parametrize("name", ["naive", "remdm_cap"])
def test_negative_control_dependent_tokens_together_leave_the_support(name):
    exact = Exact()
    texts = sampler(name, steps=0)(exact, blank([6] * 200)).texts(TINY)
    assert set(texts) - set(exact.strings)


def test_unknown_names_name_the_nearest():
    with pytest.raises(ConfigError, match="did you mean maskgit"):
        sampler("maskgti")


def test_settings_that_make_no_sampler_are_refused_with_the_remedy():
    for given_settings, message in (
        ({"name": "hybrid", "steps": 3, "num_ar_tokens": 3}, "steps of at least 4"),
        ({"name": "coarse_to_fine", "steps": 1}, "at least 2"),
    ):
        with pytest.raises(ConfigError, match=message):
            sampler(**given_settings)


def test_every_preset_is_described_and_documented():
    page = (DOCS / "samplers.md").read_text()
    for name in PRESETS:
        assert PRESETS[name].help
        assert f"`{name}`" in page


# ------------------------------------------------------------------ settings that a preset declares

# Other values of each setting, beside steps 12, 3 causal tokens, temperature 1 and top_p 1.
OTHERS = {
    "steps": (5, 6), "num_ar_tokens": (1, 5), "temperature": (0.0, 3.0), "top_p": (0.2, 0.6)
}  # fmt: skip


def outcome(name, **settings):
    """The tokens and evaluations of a preset, or the error that its settings give."""
    try:
        sample, _ = drawn(name, **settings)
    except ConfigError as error:
        return str(error)
    return sample.tokens.tolist(), sample.evaluations.tolist()


def test_declared_settings_are_those_of_the_configuration():
    known = {f.name for f in fields(SamplerConfig)} - {"sampler", "grammar"}
    assert known == set(OTHERS)
    assert all(set(entry.reads) <= known for entry in PRESETS.values())


@pytest.mark.parametrize("name", PRESETS)
def test_presets_read_the_settings_that_they_declare_and_no_others(name):
    """A declared setting changes the sample; an undeclared one changes neither sampler nor
    sample."""
    usual = outcome(name, steps=12)
    for setting, values in OTHERS.items():
        if setting in PRESETS[name].reads:
            assert any(outcome(name, **{"steps": 12, setting: v}) != usual for v in values), setting
        else:
            assert outcome(name, **{"steps": 12, setting: values[0]}) == usual, setting
            assert all(sampler(name) == sampler(name, **{setting: value}) for value in values)


def test_negative_control_a_wrong_declaration_is_noticed(monkeypatch):
    entry = PRESETS["entropy"]
    for reads in ((*entry.reads, "num_ar_tokens"), ("steps", "temperature")):
        monkeypatch.setitem(PRESETS, "entropy", replace(entry, reads=reads))
        with pytest.raises(AssertionError):
            test_presets_read_the_settings_that_they_declare_and_no_others("entropy")


def test_an_order_and_a_preset_are_added_in_one_place_each(monkeypatch):
    """An entry of `ORDERS` and a registered factory: names, errors, reports and samples know
    both."""
    monkeypatch.setitem(ORDERS, "rightmost", rightmost_first)
    monkeypatch.setattr("maskdiff.sampling.presets.PRESETS", dict(PRESETS))
    registered = sampling_presets.PRESETS

    @preset("from_the_right", "bidirectional mode, last blanks first", reads=("steps",))
    def _from_the_right(config):
        return Unmask(order="rightmost", steps=config.steps)

    assert registered["from_the_right"].help.startswith("bidirectional")
    canvas = blank([6]).traced()
    sample = sampler("from_the_right", steps=0)(Scrambled(), canvas)
    committed = sample.trace.committed(0).int().argmax(1)[1:]
    assert committed.tolist() == [6, 5, 4, 3, 2, 1]
    with pytest.raises(ConfigError, match="did you mean from_the_right"):
        sampler("from_the_righ")


def rightmost_first(proposal: Proposal) -> torch.Tensor:
    return -ORDERS["left_to_right"](proposal)
