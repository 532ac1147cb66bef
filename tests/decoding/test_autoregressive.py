"""The causal mode: exact distribution, forced tokens, caches, and fixed points that equal it
token for token."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from maskdiff.config import ModelConfig, SamplerConfig
from maskdiff.drawing.settings import Draw
from maskdiff.errors import ConfigError
from maskdiff.models import denoiser as denoiser_module
from maskdiff.models.denoiser import CausalStream, FullCausalStream
from maskdiff.models.universal import UniversalDenoiser
from maskdiff.sampling import (
    Autoregressive,
    Canvas,
    EntropyBound,
    ModelDenoiser,
    Predictive,
    Speculate,
    Unmask,
    causal_log_prob,
    certain_prefix,
    hybrid,
    make_sampler,
    one_shot,
    verified,
)  # fmt: skip
from maskdiff.sampling import autoregressive as autoregressive_module
from tests.helpers.dummies import TINY, Exact, Foresighted, Scrambled, chi_square

LENGTHS = [3, 17, 1, 8, 30, 6, 12]


def blank(lengths=LENGTHS, seed: int = 0) -> Canvas:
    return Canvas.blank(lengths, TINY, torch.Generator().manual_seed(seed))


def model_denoiser(**settings) -> ModelDenoiser:
    """A small untrained model with a head that is not zero."""
    torch.manual_seed(0)
    model = UniversalDenoiser(ModelConfig(vocab_size=len(TINY), n_embd=32, n_head=2, **settings))
    torch.nn.init.normal_(model.head.weight, std=0.5)
    return ModelDenoiser(model, TINY)


@pytest.mark.slow
def test_autoregressive_is_exact():
    exact = Exact()
    texts = Autoregressive()(exact, blank([3, 6] * 4000)).texts(TINY)
    assert (
        max(chi_square(texts[0::2], exact.truth(3)), chi_square(texts[1::2], exact.truth(6))) < 3.5
    )
    hot = Autoregressive(draw=Draw(temperature=1.3))(exact, blank([3, 6] * 4000)).texts(TINY)
    assert chi_square(hot[0::2], exact.truth(3)) > 5  # negative control


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("make", [Exact, Scrambled, model_denoiser])
def test_predictive_equals_autoregressive_token_for_token(make, temperature):
    """From blanks, from a parallel draft, and by speculation.

    Never more evaluations than tokens.
    """
    lengths = [3, 6] * 20 if make is Exact else LENGTHS
    canvas = blank(lengths)
    expected = Autoregressive(draw=Draw(temperature=temperature))(make(), canvas)
    draft = Unmask(steps=3, draw=Draw(temperature=temperature))
    for sampler in (
        Predictive(draw=Draw(temperature=temperature)),
        one_shot(draft).then(Predictive(draw=Draw(temperature=temperature))),
        verified(draft, 0, draw=Draw(temperature)),
        Speculate(draft, steps=0),
    ):
        sample = sampler(make(), canvas)
        assert torch.equal(sample.tokens, expected.tokens)
    plain = Predictive(draw=Draw(temperature=temperature))(make(), canvas)
    assert (plain.evaluations <= torch.tensor(lengths)).all()


def test_predictive_saves_evaluations_where_the_language_is_predictable():
    canvas = blank([6] * 200)
    plain = Predictive()(Exact(), canvas).evaluations.double().mean()
    speculated = Speculate(Unmask(), steps=0)(Exact(), canvas).evaluations.double().mean()
    assert plain < 5.5
    assert speculated < 5.0


def test_negative_control_other_noise_is_another_sample():
    canvas = blank([30] * 4)
    shifted = blank([30] * 4, seed=9)
    assert not torch.equal(
        Predictive()(Scrambled(), canvas).tokens, Autoregressive()(Scrambled(), shifted).tokens
    )


def test_predictive_out_of_budget_has_a_final_prefix_of_the_true_sample():
    canvas = blank([40] * 8)
    truth = Autoregressive()(Scrambled(), canvas).tokens
    for steps in (1, 5, 17):
        tail = Predictive(steps=steps)(Scrambled(), canvas)
        final = Predictive(steps=steps, keep="final")(Scrambled(), canvas)
        blanks = final.tokens == TINY.mask
        assert (tail.tokens != TINY.mask).all()
        assert blanks.any()
        assert torch.equal(final.tokens[~blanks], truth[~blanks])
        assert ((~blanks).sum(1) - 2 >= steps).all()
        assert (final.evaluations == steps).all()


def test_a_perfect_draft_costs_one_evaluation():
    canvas = blank()
    expected = Autoregressive()(Scrambled(), canvas)
    draft = replace(canvas, tokens=expected.tokens)
    sample = Predictive()(Scrambled(), draft)
    assert torch.equal(sample.tokens, expected.tokens)
    assert (sample.evaluations == 1).all()


def test_known_tokens_are_forced_and_cost_nothing():
    canvas = Canvas.template(["(1?2)?", "((((", "?"], TINY, torch.Generator().manual_seed(0))
    sample = Autoregressive()(Scrambled(), canvas)
    assert sample.evaluations.tolist() == [2, 0, 1]
    assert sample.texts(TINY)[0][:2] == "(1"
    assert sample.texts(TINY)[0][3:5] == "2)"
    assert torch.equal(Predictive()(Scrambled(), canvas).tokens, sample.tokens)


def test_warm_start_stops_and_the_rest_stays_blank():
    sample = Autoregressive(3)(Scrambled(), blank([5, 2, 9]))
    assert [text.count("?") for text in sample.texts(TINY)] == [2, 0, 6]
    assert sample.evaluations.tolist() == [3, 2, 3]
    full = Autoregressive()(Scrambled(), blank([5, 2, 9]))
    assert torch.equal(sample.tokens[:, :4], full.tokens[:, :4])


def test_hybrid_of_three_and_twelve_is_three_plus_nine():
    sample = hybrid(3, Unmask(steps=12))(Scrambled(), blank([40, 5]).traced())
    assert sample.evaluations.tolist() == [12, 5]
    causal = Autoregressive()(Scrambled(), blank([40, 5]))
    assert torch.equal(sample.tokens[:, :4], causal.tokens[:, :4])
    own = hybrid(3, Unmask(steps=0, stage_steps=12))(Scrambled(), blank([40, 5]))
    assert own.evaluations.tolist() == [15, 5]
    with pytest.raises(ConfigError, match="at least 4"):
        hybrid(3, Unmask(steps=3))


def test_certain_prefix_begins_with_the_causal_sample():
    canvas = blank([40] * 6)
    truth = Autoregressive()(Scrambled(), canvas).tokens
    sample = certain_prefix(6, Unmask(order="entropy", schedule=EntropyBound(0.1), steps=12))(
        Scrambled(), canvas
    )
    assert torch.equal(sample.tokens[:, :7], truth[:, :7])
    assert (sample.evaluations == 12).all()


def test_chunks_change_nothing(monkeypatch):
    canvas = blank([5, 30, 2, 11, 7, 1, 19])
    whole = Autoregressive()(Scrambled(), canvas)
    monkeypatch.setattr(autoregressive_module, "CHUNK", 2)
    parts = Autoregressive()(Scrambled(), canvas)
    assert torch.equal(whole.tokens, parts.tokens)
    assert torch.equal(whole.evaluations, parts.evaluations)


def test_the_cache_of_the_model_equals_the_full_pass():
    denoiser, canvas = model_denoiser(), blank()
    cached, full = denoiser.causal_stream(canvas.length), FullCausalStream(denoiser, canvas.length)
    assert isinstance(cached, CausalStream)
    assert not isinstance(cached, FullCausalStream)
    tokens = Autoregressive()(denoiser, canvas).tokens
    for position in range(8):
        a, b = cached.step(tokens[:, position]), full.step(tokens[:, position])
        alive = canvas.length > position + 1
        assert torch.allclose(a[alive], b[alive], atol=1e-4)


def test_an_aligned_head_falls_back_to_full_passes():
    denoiser = model_denoiser(head="aligned", block_size=32)
    assert isinstance(denoiser.causal_stream(torch.tensor([32])), FullCausalStream)
    assert "?" not in Autoregressive()(denoiser, blank([30])).texts(TINY)[0]


@pytest.mark.slow
def test_batch_mates_do_not_matter_to_a_real_model():
    denoiser, canvas = model_denoiser(), blank()
    for sampler in (Unmask(), Autoregressive(), Predictive()):
        together = sampler(denoiser, canvas)
        for i, length in enumerate(LENGTHS):
            alone = sampler(denoiser, canvas[[i]].trim())
            assert torch.equal(alone.tokens[0, : length + 2], together.tokens[i, : length + 2])


def test_the_adapter_groups_strings_without_changing_their_logits(monkeypatch):
    denoiser, canvas = model_denoiser(use_self_cond=True), blank()
    torch.nn.init.normal_(denoiser.model.previous.weight, std=0.5)
    inside = torch.arange(canvas.tokens.shape[1]) < canvas.length[:, None]
    previous = torch.rand(
        *canvas.tokens.shape, len(TINY), generator=torch.Generator().manual_seed(0)
    )
    for causal in (False, True):
        whole = denoiser(canvas.tokens, canvas.length, canvas.suspect, causal, previous)
        with monkeypatch.context() as patch:
            patch.setattr(denoiser_module, "GROUP", 40)
            grouped = denoiser(canvas.tokens, canvas.length, canvas.suspect, causal, previous)
        assert torch.allclose(whole[inside], grouped[inside], atol=1e-4)
    assert not torch.allclose(
        whole[inside],
        denoiser(canvas.tokens, canvas.length, canvas.suspect, causal)[inside],
        atol=1e-3,
    )


def test_causal_log_prob_is_the_chain_rule():
    exact = Exact()
    truth = exact.truth(6)
    canvas = Canvas.template(list(truth), TINY)
    scores = causal_log_prob(exact, canvas.tokens, canvas.length)
    assert torch.allclose(
        scores.exp().double(), torch.tensor(list(truth.values()), dtype=torch.float64), atol=1e-5
    )
    other = Canvas.template(["((((((", "(1)"], TINY)
    outside = causal_log_prob(exact, other.tokens, other.length)
    assert outside[0] == -torch.inf or outside[0] < -5
    assert float(outside[1].exp()) == pytest.approx(exact.truth(3)["(1)"], rel=1e-4)


@pytest.mark.parametrize(
    "name", ["coupled", "speculative", "hybrid", "certain_prefix", "spaced_bound"]
)
def test_a_denoiser_that_reads_the_noise_draws_the_causal_sample_at_once(name):
    """Coupled presets with perfect foresight equal the causal mode.

    One that ignores the noise does not (negative control).
    """
    canvas, denoiser = blank([3, 6] * 20), Foresighted()
    causal = Autoregressive()(denoiser, canvas)
    sample = make_sampler(SamplerConfig(name, steps=4, num_ar_tokens=1))(denoiser, canvas)
    assert torch.equal(sample.tokens, causal.tokens) == (name != "spaced_bound")
    if name == "coupled":
        assert int(sample.evaluations.max()) == 1


def test_coupling_needs_the_input_and_the_whole_distribution():
    with pytest.raises(ConfigError, match="use_coupling"):
        make_sampler(SamplerConfig("coupled"))(Exact(), blank([3]))
    with pytest.raises(ConfigError, match="top_p"):
        make_sampler(SamplerConfig("coupled", top_p=0.9))
    with pytest.raises(ConfigError, match="use_self_cond"):
        make_sampler(SamplerConfig("self_conditioned"))(Foresighted(), blank([3]))


def test_coupling_gives_up_where_it_was_not_trained():
    """Nucleus sampling and temperature 0 are those of the same settings without coupling."""
    canvas = blank([3, 6] * 10)
    for draw in (Draw(top_p=0.8), Draw(0.0)):
        plain, able = (
            Unmask(order="entropy", coupled=coupled, draw=draw) for coupled in ("off", "able")
        )
        assert torch.equal(plain(Exact(), canvas).tokens, able(Foresighted(), canvas).tokens)


def test_a_model_without_the_input_is_not_coupled():
    canvas = blank()
    plain, able = (Unmask(order="entropy", coupled=coupled) for coupled in ("off", "able"))
    denoiser = model_denoiser()
    assert torch.equal(plain(denoiser, canvas).tokens, able(denoiser, canvas).tokens)
    reader = model_denoiser(use_coupling=True)
    torch.nn.init.normal_(reader.model.coupling.weight)
    assert not torch.equal(plain(reader, canvas).tokens, able(reader, canvas).tokens)
