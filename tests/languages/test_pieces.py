"""Vocabularies of pieces: lossless cutting, checks of untrusted merges, checkpoints."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskdiff import tasks
from maskdiff.checkpoint import Loaded, Payload, denoiser_from, load_denoiser
from maskdiff.config import Config, LanguageConfig, ModelConfig, SamplerConfig, TrainConfig
from maskdiff.data import Batches, Store
from maskdiff.errors import CheckpointError, ConfigError, ParseError
from maskdiff.languages import (
    Vocabulary,
    make_language,
    model_vocabulary,
    piece_vocabulary,
    split_of,
    token_lengths,
)
from maskdiff.languages.pieces import training_strings
from maskdiff.training.loop import Trainer
from tests.helpers.tiny import PIECES, tiny_payload

LANGUAGE = make_language()


@cache
def pieced() -> Vocabulary:
    """Return a vocabulary of pieces."""
    return piece_vocabulary(LANGUAGE, 120)


@pytest.fixture(scope="module")
def pieced_payload() -> Payload:
    """The checkpoint of a tiny model of pieces; copy it before a change."""
    return tiny_payload(**PIECES)


@pytest.fixture(scope="module")
def loaded(pieced_payload: Payload) -> Loaded:
    return denoiser_from(deepcopy(pieced_payload))


def merged_naively(text: str, merges: tuple[tuple[str, str], ...]) -> list[str]:
    """Byte-pair encoding by definition: the earliest merge, leftmost first, until none applies."""
    parts, rank = list(text), {merge: i for i, merge in enumerate(merges)}
    while pairs := [
        (rank[a, b], i)
        for i, (a, b) in enumerate(zip(parts, parts[1:], strict=False))
        if (a, b) in rank
    ]:
        _, i = min(pairs)
        parts[i : i + 2] = ["".join(parts[i : i + 2])]
    return parts


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="0123456789()+*=", max_size=40))
def test_encoding_follows_the_merges_and_decoding_inverts_it(text: str) -> None:
    ids = pieced().encode(text)
    assert pieced().decode(ids) == text
    assert [pieced().symbols[i] for i in ids] == merged_naively(text, pieced().merges)
    assert pieced().encode_many([text, text[:3]]) == [ids, pieced().encode(text[:3])]


@pytest.mark.slow
def test_the_vocabulary_has_the_size_asked_for_and_all_characters() -> None:
    assert len(pieced()) == 120
    assert set("0123456789()+*=") <= set(pieced().symbols)
    assert pieced().digit is None
    assert piece_vocabulary(LANGUAGE, 120) == pieced()
    assert len(pieced().encode("(+(*75)10)=45")) < 13
    assert all(split_of(text) == "train" for text in training_strings(LANGUAGE)[:500])


def test_blanks_stay_apart_and_foreign_symbols_are_named() -> None:
    mask, text = pieced().mask, "(+(*7?)10)=4?"
    ids = pieced().encode(text, blanks=True)
    assert ids.count(mask) == 2
    assert pieced().decode(ids) == text
    with pytest.raises(ParseError, match="'z' at position 2"):
        pieced().encode("(+z")
    with pytest.raises(ParseError, match="'z' at position 0"):
        pieced().encode_many(["(+", "z"])


@pytest.mark.parametrize(
    "symbols, merges, message",
    [
        (("1", "2", "12"), (("1", "3"),), "before one of its parts"),
        (("1", "2", "21"), (("1", "2"),), "not those that the merges make"),
        (("1", "2", "12", "121"), (("1", "2"),), "not those that the merges make"),
        (("1", "12", "2"), (("1", "2"),), "not those that the merges make"),
        (("1", "2", "12"), (), "single characters"),
    ],
)
def test_untrusted_pieces_are_checked(
    symbols: tuple[str, ...], merges: tuple[tuple[str, str], ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Vocabulary((*LANGUAGE.vocabulary.symbols[:4], *symbols), merges)


def test_fingerprints_depend_on_merges() -> None:
    """Two orders of merges make the same pieces here and cut `123` differently."""
    plain = Vocabulary.of("123", digit=False)
    one, two = (
        plain.with_merges([("1", "2"), ("2", "3")]),
        plain.with_merges([("1", "2"), ("2", "3"), ("12", "3")]),
    )
    assert len({plain.fingerprint(), one.fingerprint(), two.fingerprint()}) == 3
    assert two.encode("123") == [two.ids["123"]]
    assert one.encode("123") == [one.ids["12"], one.ids["3"]]


def test_vocabulary_sizes_are_checked() -> None:
    with pytest.raises(ConfigError, match="pieces need 20 or more"):
        model_vocabulary(LANGUAGE, ModelConfig(vocabulary="bpe", vocab_size=19))
    with pytest.raises(ConfigError, match="leave it out, or give --vocabulary bpe"):
        model_vocabulary(LANGUAGE, ModelConfig(vocab_size=100))
    assert model_vocabulary(LANGUAGE, ModelConfig()) is LANGUAGE.vocabulary


def test_lengths_in_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskdiff.languages.pieces.DRAWS", 4000)
    probs = token_lengths(LANGUAGE, pieced())
    assert probs.sum() == pytest.approx(1.0)
    counts = [len(row) for row in pieced().encode_many(training_strings(LANGUAGE))]
    assert probs @ np.arange(len(probs)) == pytest.approx(np.mean(counts))
    assert np.array_equal(token_lengths(LANGUAGE, LANGUAGE.vocabulary), LANGUAGE.length_probs())


def test_batches_of_pieces_are_the_strings_themselves() -> None:
    texts = training_strings(LANGUAGE)[:300]
    store = Store(texts, pieced())
    assert [pieced().decode(row.tolist()) for row in store.rows(np.arange(300))] == texts
    plain, in_pieces = (
        Batches(LANGUAGE, 100, 20, seed=0, vocabulary=v).texts() for v in (None, pieced())
    )
    assert plain == in_pieces


# Checkpoints


@pytest.mark.slow
def test_a_checkpoint_carries_its_pieces(loaded: Loaded) -> None:
    assert len(loaded.vocabulary) == 60
    assert loaded.vocabulary.merges
    assert not loaded.length_conditioned
    assert not loaded.language.vocabulary.merges
    assert loaded.lengths.sum() == pytest.approx(1.0)


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("merges", [["(", "+"], "x"], "not pairs of texts"),
        ("merges", [["(", 3]], "not pairs of texts"),
        ("merges", None, "not pairs of texts"),
        ("merges", [["(", "?"]], "merges do not make"),
        ("merges", [["(", "+"]], "another vocabulary"),
        ("lengths", [0.0, 0.5], "not probabilities"),
        ("lengths", [1.0], "not probabilities"),
        ("lengths", ["a"], "not probabilities"),
        ("lengths", [0.0] + [1 / 100] * 100, "not probabilities"),
        (
            "lengths",
            [0.0] * 63 + [1.0],
            "not probabilities",
        ),  # 63 tokens do not fit beside BOS and EOS
        ("lengths", [0.0, float("nan")], "not probabilities"),
    ],
)
def test_damaged_pieces_are_one_line(
    key: str, value: object, message: str, pieced_payload: Payload
) -> None:
    payload = deepcopy(pieced_payload)
    payload["vocabulary"][key] = value
    with pytest.raises(CheckpointError, match=message) as caught:
        denoiser_from(payload)
    assert "\n" not in str(caught.value)


def test_verbs_that_need_symbols_refuse_pieces(loaded: Loaded) -> None:
    for verb in (tasks.repair, tasks.edit, tasks.fill):
        with pytest.raises(ConfigError, match="go by symbols"):
            verb(loaded, ["(+(*7?)10)=45"])
    with pytest.raises(ConfigError, match="takes no length, grammar or trace"):
        tasks.generate(loaded, 1, length=12)
    with pytest.raises(ConfigError, match="conditions characters"):
        tasks.generate(loaded, 1, sampler=SamplerConfig("maskgit", grammar=True))
    with pytest.raises(ConfigError, match="a character for every token"):
        tasks.generate(loaded, 1, trace=True, sampler=SamplerConfig("maskgit"))
    with pytest.raises(ConfigError, match="a length counts symbols"):
        tasks.generate(loaded, 1, length=12, sampler=SamplerConfig("maskgit"))


@pytest.mark.slow
def test_generating_pieces(loaded: Loaded) -> None:
    free = tasks.generate(loaded, 5, seed=1)
    assert [r.text for r in free] == [
        r.text for r in tasks.generate(loaded, 5, seed=1, batch_size=2)
    ]
    assert all(r.finish_reason in ("eos", "length") and r.score is not None for r in free)
    parallel = tasks.generate(loaded, 5, sampler=SamplerConfig("maskgit"))
    assert all(set(r.text) <= set("0123456789()+*=") and r.score is None for r in parallel)


@pytest.mark.slow
def test_an_aligned_head_is_validated_without_a_causal_mode(tmp_path: Path) -> None:
    model = ModelConfig(
        n_layer=1, k_iter=1, n_embd=16, n_head=2, causal_length=False, head="aligned"
    )
    config = Config(
        model=model,
        train=TrainConfig(
            max_iters=1, eval_samples=8, live_samples=4, num_samples=50, batch_size=8
        ),
    )
    Trainer(config, tmp_path).run()
    assert "parses_autoregressive" not in load_denoiser(tmp_path / "last.pt").metrics


@pytest.mark.slow
def test_a_run_of_pieces_from_the_first_step_to_a_completion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps, resumed for one more: the checkpoint is complete and its model completes text."""
    monkeypatch.setattr("maskdiff.languages.pieces.DRAWS", 2000)
    model = ModelConfig(
        n_layer=1,
        k_iter=1,
        n_embd=16,
        n_head=2,
        vocabulary="bpe",
        vocab_size=60,
        causal_length=False,
    )
    quick = {
        "eval_samples": 8,
        "live_samples": 4,
        "batch_size": 8,
        "num_samples": 50,
        "threads": 1,
        "device": "cpu",
    }
    config = Config(language=LanguageConfig(), model=model)
    for steps, resume in ((2, False), (3, True)):
        train = replace(config.train, max_iters=steps, **quick)  # type: ignore[arg-type]
        Trainer(replace(config, train=train), tmp_path, resume=resume).run()
    loaded = load_denoiser(tmp_path / "last.pt")
    assert len(loaded.vocabulary) == 60
    assert "floor" not in loaded.metrics
    assert "parses_autoregressive" in loaded.metrics
    assert json.dumps(loaded.provenance["step"]) == "3"
    assert all(r.text.startswith("(+3") for r in tasks.complete(loaded, ["(+ 3"], num=3))
