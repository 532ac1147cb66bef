"""A checkpoint with a mixture: its file, its completions, and the end of a training run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from maskdiff import checkpoint, tasks
from maskdiff.checkpoint import Loaded, Payload, denoiser_from
from maskdiff.config import CompletionConfig, SamplerConfig
from maskdiff.errors import CheckpointError, ConfigError
from maskdiff.models.causal import CausalModel
from maskdiff.models.mixture import MixtureModel
from maskdiff.models.ngram import NGram
from maskdiff.models.prior import Prior
from maskdiff.tasks.completing import causal_prior
from maskdiff.training import comparison
from tests.helpers.fits import fitted
from tests.helpers.tiny import PIECES, tiny_loaded, tiny_payload

PREFIXES = ["(+12", "(*4"]
SHARE = 0.7


def with_ngram(**model: object) -> Loaded:
    """A neural model and an n-gram, of the default language."""
    loaded = tiny_loaded(**model)
    characters = loaded.language.vocabulary
    strings = characters.encode_many(["(+12)=3", "(*45)=20"])
    return replace(loaded, ngram=NGram.fit(strings, characters, 3))


@pytest.fixture(scope="module")
def mixed() -> Loaded:
    return replace(with_ngram(), mixture=SHARE)


@pytest.fixture(scope="module")
def drawn(mixed: Loaded) -> list[str]:
    """The completions of the mixture."""
    return texts(mixed)


def texts(loaded: Loaded, batch_size: int = 64, **settings: object) -> list[str]:
    config = CompletionConfig(**settings)  # type: ignore[arg-type]
    made = tasks.complete(loaded, PREFIXES, num=2, settings=config, batch_size=batch_size)
    return [result.text for result in made]


def test_the_share_survives_a_file_and_a_folder(mixed: Loaded, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    checkpoint.save(tmp_path / "a.pt", mixed)
    checkpoint.save_pretrained(tmp_path / "folder", mixed)
    for again in (
        checkpoint.load_denoiser(tmp_path / "a.pt"),
        checkpoint.from_pretrained(tmp_path / "folder"),
    ):
        assert again.mixture == mixed.mixture


def test_completions_are_drawn_from_the_mixture_unless_it_is_left_out(
    mixed: Loaded, drawn: list[str]
) -> None:
    alone = texts(replace(mixed, mixture=0.0))
    assert drawn != alone
    assert texts(mixed, prior="model") == alone
    for made in (drawn, alone):
        assert all(text.startswith(PREFIXES[i // 2]) for i, text in enumerate(made))


def test_completions_do_not_depend_on_the_size_of_a_batch(mixed: Loaded, drawn: list[str]) -> None:
    assert texts(mixed, batch_size=1) == drawn


def test_the_modes_that_condition_on_a_prefix_agree(mixed: Loaded, drawn: list[str]) -> None:
    """Symbols are tokens, so that one history explains a prefix in every mode."""
    assert texts(mixed, mode="canonical") == drawn


def test_a_suffix_is_completed_by_the_bidirectional_mode(mixed: Loaded) -> None:
    plain = replace(mixed, mixture=0.0)
    first, second = (tasks.complete(x, ["(+1"], num=2, suffix="=3") for x in (mixed, plain))
    assert [result.text for result in first] == [result.text for result in second]


@pytest.mark.slow
def test_generated_strings_are_those_of_the_model() -> None:
    """A model that ends its strings itself generates by completing nothing."""
    loaded = with_ngram(causal_length=False)
    sampler = SamplerConfig()
    mixed = replace(loaded, mixture=SHARE)
    made = [tasks.generate(one, 3, sampler=sampler, seed=1) for one in (loaded, mixed)]
    assert made[0] == made[1]
    assert texts(mixed) != texts(loaded)


def test_an_unknown_prior_is_refused(mixed: Loaded) -> None:
    with pytest.raises(ConfigError, match="prior"):
        texts(mixed, prior="ngram")


def payload(**changes: object) -> Payload:
    made: Payload = {"format": "maskdiff", "version": 1, **with_ngram().payload()}
    return {**made, "mixture": SHARE, **changes}


DAMAGE: dict[str, Payload] = {
    "no number": payload(mixture={"ngram": 0.1}),
    "an integer": payload(mixture=1),
    "below 0": payload(mixture=-0.1),
    "above 1": payload(mixture=1.1),
    "not a number": payload(mixture=float("nan")),
    "no n-gram": {**tiny_payload(), "mixture": SHARE},
    "no neural model": payload(weights={}),
    "no next token": {**with_ngram(head="aligned").payload(), "mixture": SHARE},
}


@pytest.mark.parametrize("damaged", DAMAGE.values(), ids=DAMAGE)
def test_damaged_shares_are_refused(damaged: Payload) -> None:
    with pytest.raises(CheckpointError) as refused:
        whole = {"format": "maskdiff", "version": 1, **damaged}
        denoiser_from(checkpoint.payload.check_payload(whole, "x.pt"))
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.slow
def test_a_mixture_with_a_model_of_pieces_is_refused() -> None:
    damaged = {**with_ngram(**PIECES).payload(), "mixture": SHARE}
    with pytest.raises(CheckpointError, match="next character"):
        denoiser_from(damaged)


# -------------------------- the end of a training run


def test_a_run_fits_the_share_on_validation_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """An untrained model is mixed with the n-gram of the strings; the n-gram alone with nothing."""
    monkeypatch.setattr(comparison, "fit_priors", lambda *given: (Prior(), Prior()))
    loaded = with_ngram()
    lines = ["(+12)=3", "(*45)=20"] * 20
    monkeypatch.setattr(comparison, "held_lines", lambda language, split: lines)
    comparison.fit_checkpoint_prior(loaded, loaded.language, symbols=40)  # too few strings
    assert loaded.mixture == 0.0
    comparison.fit_checkpoint_prior(loaded, loaded.language, symbols=300)
    assert loaded.mixture > 0.0
    assert isinstance(causal_prior(loaded), MixtureModel)
    assert isinstance(causal_prior(loaded, prior="model"), CausalModel)
    alone = fitted()
    monkeypatch.setattr(comparison, "held_lines", lambda language, split: ["a=17;b=4"] * 40)
    comparison.fit_checkpoint_prior(alone, alone.language, symbols=100)
    assert alone.mixture == 0.0
