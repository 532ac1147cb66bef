"""A checkpoint that holds an n-gram alone: every verb works with it; damaged ones are refused."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from maskdiff import checkpoint, tasks
from maskdiff.checkpoint import Loaded, Payload, denoiser_from
from maskdiff.config import SamplerConfig
from maskdiff.errors import CheckpointError, ConfigError
from maskdiff.evaluation.rows import Plan, Subject
from maskdiff.evaluation.suites import check_subjects
from maskdiff.languages.cfg import compile_grammar
from maskdiff.models.denoiser import ModelDenoiser
from maskdiff.models.grammar_model import FittedGrammar
from maskdiff.models.ngram_denoiser import NGramDenoiser
from maskdiff.models.prior import Prior
from maskdiff.repair import Damage
from maskdiff.sampling import Autoregressive
from maskdiff.sampling.presets import PRESETS
from maskdiff.tasks import calibrating
from maskdiff.tasks.candidates import (
    CandidatePool,
    CandidateScorer,
    Damaged,
    RepairConstraints,
    positions,
)
from maskdiff.text.edits import edit_cost, edit_script
from tests.helpers.corpora import GRAMMAR
from tests.helpers.fits import fitted, fitted_payload
from tests.helpers.tiny import tiny_loaded, tiny_payload


@pytest.fixture(scope="module")
def fit() -> Loaded:
    return fitted()


def is_line(text: str) -> bool:
    return bool(text) and set(text) <= set("abc=;0123456789")


# Samplers that need an input of a neural model, or `<DIGIT>`.
UNFIT = ("coupled", "coupled_left_to_right", "self_conditioned", "coarse_to_fine")


@pytest.mark.parametrize("sampler", [name for name in PRESETS if name not in UNFIT])
def test_generates_with_every_sampler(fit: Loaded, sampler: str) -> None:
    results = tasks.generate(fit, 2, length=(5, 9), sampler=SamplerConfig(sampler), seed=1)
    assert all(is_line(result.text) and 5 <= len(result.text) <= 9 for result in results)


@pytest.mark.parametrize(
    "sampler", [name for name, made in PRESETS.items() if made.verified and name not in UNFIT]
)
def test_verified_drafts_are_causal_draws(fit: Loaded, sampler: str) -> None:
    """Lines of more symbols than the usual budget has evaluations; none is left unverified."""
    causal, verified = (
        tasks.generate(fit, 3, length=(16, 17), sampler=made, seed=1)
        for made in (Autoregressive(), SamplerConfig(sampler))
    )
    assert [result.text for result in verified] == [result.text for result in causal]


@pytest.mark.parametrize("sampler", [name for name in PRESETS if name in UNFIT])
def test_other_samplers_are_refused(fit: Loaded, sampler: str) -> None:
    with pytest.raises(ConfigError, match="choose another sampler"):
        tasks.generate(fit, 1, length=(5, 9), sampler=SamplerConfig(sampler))


def test_completes_exactly_with_a_prefix_and_with_a_suffix(fit: Loaded) -> None:
    for result in tasks.complete(fit, ["a=1"], num=5):
        assert result.text.startswith("a=1")
        assert is_line(result.text)
    for result in tasks.complete(fit, ["a="], num=3, suffix=";b=7"):
        assert result.text.startswith("a=")
        assert result.text.endswith(";b=7")


def test_repairs_to_lines_of_the_corpus(fit: Loaded) -> None:
    """What no line has: a field without its sign, two signs."""
    for result in tasks.repair(fit, ["a17;b=4", "a=17;b==4"]):
        assert re.fullmatch(r"[abc]=\d+(;[abc]=\d+)*", result.text)


def test_certain_symbols_stay_where_other_symbols_are_likelier(fit: Loaded) -> None:
    text = "aa1==;;b74c"
    for certain in ([(0, len(text))], [(0, 7)], [(4, len(text))]):
        (result,) = tasks.repair(fit, [text], certain=certain)
        assert not result.error
        assert edit_script(text, result.text, certain=positions(certain)) is not None


@pytest.mark.parametrize("most", [0, 1, 2])
def test_few_edits_of_a_text_that_needs_many(fit: Loaded, most: int) -> None:
    (result,) = tasks.repair(fit, ["aa1==;;b74c"], max_edits=most)
    assert not result.error
    assert result.edits is not None
    assert edit_cost(result.edits) <= most


def test_edits_blanks_from_both_sides(fit: Loaded) -> None:
    (result,) = tasks.edit(fit, ["a?17?b=4"])
    assert result.text == "a=17;b=4"


# -------------------------- checkpoints


def test_a_fit_survives_a_file_and_a_folder(fit: Loaded, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    checkpoint.save(tmp_path / "a.pt", fit)
    checkpoint.save_pretrained(tmp_path / "folder", fit)
    lines = [fit.vocabulary.encode("a=17;b=4")]
    assert fit.ngram is not None
    for again in (
        checkpoint.load_denoiser(tmp_path / "a.pt"),
        checkpoint.from_pretrained(tmp_path / "folder"),
    ):
        assert isinstance(again.denoiser, NGramDenoiser)
        assert again.ngram is again.denoiser.ngram
        assert again.ngram.log_probs(lines) == fit.ngram.log_probs(lines)
        assert again.lengths.tolist() == fit.lengths.tolist()


def test_old_checkpoints_have_no_ngram() -> None:
    loaded = tiny_loaded()
    assert loaded.ngram is None
    assert isinstance(loaded.denoiser, ModelDenoiser)
    assert "ngram" not in loaded.payload()


def with_both() -> Loaded:
    """A neural model and an n-gram, of the default language."""
    from maskdiff.models.ngram import NGram

    loaded = tiny_loaded()
    strings = [loaded.vocabulary.encode(text) for text in ("(+12)=3", "(*45)=20")]
    return replace(loaded, ngram=NGram.fit(strings, loaded.language.vocabulary, 3))


def test_a_neural_model_carries_an_ngram_beside_it(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    both = with_both()
    checkpoint.save(tmp_path / "a.pt", both)
    checkpoint.save_pretrained(tmp_path / "folder", both)
    for again in (
        checkpoint.load_denoiser(tmp_path / "a.pt"),
        checkpoint.from_pretrained(tmp_path / "folder"),
    ):
        assert isinstance(again.denoiser, ModelDenoiser)
        assert again.ngram is not None
        assert again.ngram.order == 3


def with_grammar() -> Loaded:
    """The fit, with the fitted grammar of lines of one or two fields."""
    fit = fitted()
    vocabulary = fit.language.vocabulary
    strings = vocabulary.encode_many(["a=17;b=4", "c=5"])
    made = compile_grammar(GRAMMAR, vocabulary.inner_symbols)
    return replace(fit, grammar_model=FittedGrammar.fit(made, strings, [], vocabulary))


def test_a_fitted_grammar_survives_a_file_and_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    fit = replace(with_grammar(), fitted_prior=Prior(0.0, 0.7, 0.2))
    checkpoint.save(tmp_path / "a.pt", fit)
    checkpoint.save_pretrained(tmp_path / "folder", fit)
    lines = fit.vocabulary.encode_many(["a=17;b=4", "b==4"])
    assert fit.grammar_model is not None
    for again in (
        checkpoint.load_denoiser(tmp_path / "a.pt"),
        checkpoint.from_pretrained(tmp_path / "folder"),
    ):
        assert again.grammar_model is not None
        assert again.prior == fit.prior
        found = again.grammar_model.log_probs(lines)
        assert found.tolist() == fit.grammar_model.log_probs(lines).tolist()
        assert found[1] == -math.inf


def test_the_weight_of_the_grammar_is_that_of_its_log_probability() -> None:
    """A string that it does not derive stays possible; without a weight it does not matter."""
    fit, damage = with_grammar(), Damage()
    vocabulary = fit.language.vocabulary
    strings = [tuple(tokens) for tokens in vocabulary.encode_many(["a=17;b=4", "a17;b=4", "b=="])]
    item = Damaged(vocabulary.encode("a17;b=4"), "a17;b=4")
    pools = []
    for weight in (0.0, 2.0):
        scorer = CandidateScorer(
            replace(fit, fitted_prior=Prior(0.0, 0.5, weight)),
            damage.channel(vocabulary),
            RepairConstraints(),
            damage.weights(len(vocabulary.inner_ids)),
        )
        pool = CandidatePool(item)
        scorer.add_proposed([pool], [strings])
        pools.append(pool.candidates)
    assert fit.grammar_model is not None
    by_grammar = fit.grammar_model.smoothed_log_probs(strings)
    for text, log_p in zip(map(vocabulary.decode, strings), by_grammar, strict=True):
        without, weighted = (candidates[text] for candidates in pools)
        assert (without.log_grammar, weighted.log_grammar) == (0.0, log_p)
        assert weighted.total == pytest.approx(without.total + 2.0 * log_p)
        assert math.isfinite(weighted.total)


def test_the_fitted_weight_of_the_grammar_is_0_unless_it_helps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The original is the first of two candidates that the n-gram finds equally likely."""
    fit = with_grammar()
    for gain, helps in ((5.0, True), (-5.0, False)):
        features = np.array([[0.0, -9.0, gain], [0.0, -9.0, 0.0]])
        pools = [(features, np.zeros(2), 0)] * 50
        monkeypatch.setattr(calibrating, "_pools", lambda *given, made=pools: iter(made))
        weight = calibrating.fit_priors(fit, ["a=1"])[0].grammar
        assert weight > 0.5 if helps else weight == 0.0
        alone, _ = calibrating.fit_priors(replace(fit, grammar_model=None), ["a=1"])
        assert (alone.neural, alone.grammar) == (0.0, 0.0)


@pytest.mark.parametrize(
    "values", [[1], {"escape": [1]}, {}, {"log_rules": torch.ones(2, dtype=torch.float16)}]
)
def test_a_damaged_grammar_is_refused(values: object) -> None:
    with pytest.raises(CheckpointError, match="gramma"):
        denoiser_from({**fitted_payload(), "grammar_model": values})


def without(payload: Payload, *names: str) -> Payload:
    return {name: value for name, value in payload.items() if name not in names}


def counts(name: str, values: object) -> Callable[[Payload], Payload]:
    return lambda payload: {**payload, "ngram": {**payload["ngram"], name: values}}


DAMAGE: dict[str, Callable[[Payload], Payload]] = {
    "nothing to predict with": lambda payload: without(payload, "ngram"),
    "no names": lambda payload: {**payload, "ngram": [1]},
    "no counts": lambda payload: {**payload, "ngram": {}},
    "a name that is no text": lambda payload: {**payload, "ngram": {1: torch.zeros(1)}},
    "a list": counts("0.counts", [1, 2]),
    "floats": counts("0.counts", torch.ones(3)),
    "sparse": counts("0.counts", torch.ones(3, dtype=torch.int64).to_sparse()),
    "a view of one number": counts("0.counts", torch.ones(1, dtype=torch.int64).expand(10**12)),
    "without storage": counts("0.counts", torch.ones(3, dtype=torch.int64, device="meta")),
    "other counts": counts("0.counts", torch.ones(3, dtype=torch.int64)),
    "an impossible configuration": lambda payload: {
        **payload,
        "config": {**payload["config"], "model": {**payload["config"]["model"], "head": "x"}},
    },
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_fits_are_refused(damage: Callable[[Payload], Payload]) -> None:
    with pytest.raises(CheckpointError) as refused:
        denoiser_from(checkpoint.payload.check_payload(damage(fitted_payload()), "x.pt"))
    assert len(str(refused.value).splitlines()) == 1


def test_an_ngram_of_another_vocabulary_is_refused() -> None:
    payload = {**tiny_payload(), "ngram": fitted_payload()["ngram"]}
    with pytest.raises(CheckpointError, match="counts"):
        denoiser_from(payload)


def test_what_needs_a_neural_model_says_so(fit: Loaded) -> None:
    with pytest.raises(ConfigError, match="the suite speed needs a neural model"):
        check_subjects([Subject(fit)], Plan(), names=("speed",))
    assert tiny_loaded().neural("x") is not None


def test_a_model_without_a_weight_excludes_no_string(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit whose causal mode gives a string no probability still repairs by its n-gram."""
    fit, damage = with_grammar(), Damage()
    vocabulary = fit.language.vocabulary
    monkeypatch.setattr(
        "maskdiff.tasks.candidates.log_probs", lambda loaded, rows: [-math.inf] * len(rows)
    )
    scorer = CandidateScorer(
        replace(fit, fitted_prior=Prior(0.0, 0.5)),
        damage.channel(vocabulary),
        RepairConstraints(),
        damage.weights(len(vocabulary.inner_ids)),
    )
    pool = CandidatePool(Damaged(vocabulary.encode("a17;b=4"), "a17;b=4"))
    scorer.add_proposed([pool], [[tuple(vocabulary.encode("a=17;b=4"))]])
    assert math.isfinite(pool.candidates["a=17;b=4"].total)
