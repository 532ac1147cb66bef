"""The n-gram in the checkpoints of a run: of its training lines alone, also after a resumption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from maskdiff import checkpoint
from maskdiff.config import Config
from maskdiff.errors import CheckpointError
from maskdiff.languages import make_language, split_of
from maskdiff.models.grammar_model import fit_grammar
from maskdiff.models.ngram import NGram
from maskdiff.training import fitting
from maskdiff.training.fitting import fit_corpus, fit_line_grammar, fit_ngram
from maskdiff.training.loop import Trainer
from tests.helpers.corpora import GRAMMAR, folder, lines
from tests.helpers.training import tiny


def config(home: Path, **changes: object) -> Config:
    corpus = folder(home / "pairs", lines(300))
    return tiny(language=corpus.language, **{"max_iters": 2, "eval_interval": 1, **changes})


def test_it_counts_the_training_lines_and_takes_its_order_from_validation(tmp_path: Path) -> None:
    language = make_language(config(tmp_path).language)
    by_split: dict[str, list[list[int]]] = {}
    for text in lines(300):
        by_split.setdefault(split_of(text), []).append(language.vocabulary.encode(text))
    ours = fit_ngram(language)
    assert ours is not None
    likelihood = {}
    for order in range(2, 11):
        theirs = NGram.fit(by_split["train"], language.vocabulary, order)
        likelihood[order] = theirs.log_probs(by_split["validation"]).sum()
        if order == ours.order:
            tested = by_split["test"]
            np.testing.assert_allclose(ours.log_probs(tested), theirs.log_probs(tested))
    assert likelihood[ours.order] == max(likelihood.values())


def test_a_large_corpus_is_thinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "MAX_SYMBOLS", 500)
    ngram = fit_ngram(make_language(config(tmp_path).language))
    assert ngram is not None
    assert 0 < int(ngram.state()["0.totals"][0]) <= 500 + 300  # an end of each line is counted, too


def test_a_generated_language_has_none() -> None:
    assert fit_ngram(make_language("arithmetic")) is None


def test_a_corpus_with_a_grammar_has_a_fitted_grammar_of_its_training_lines(tmp_path: Path) -> None:
    home = folder(tmp_path / "pairs", lines(300), GRAMMAR)
    fit = fit_corpus(home, "pairs")
    assert fit.grammar_model is not None
    encode = fit.language.vocabulary.encode_many
    training = [text for text in lines(300) if split_of(text) == "train"]
    again = fit_grammar(fit.language, training, [t for t in lines(300) if split_of(t) != "train"])
    assert again is not None
    # Digits are uniform, so one alpha is as good as another.
    ours, theirs = (m.log_probs(encode(training)).mean() for m in (fit.grammar_model, again))
    assert ours == pytest.approx(theirs, abs=0.02)
    nats, by_ngram = fit.grammar_nats_per_symbol(), fit.nats_per_symbol()
    assert nats is not None
    assert by_ngram is not None
    assert 0 < nats < by_ngram  # the lines were drawn from such a grammar
    assert fit_line_grammar(make_language("arithmetic")) is None
    without = fit_corpus(folder(tmp_path / "plain", lines(300)), "plain")
    assert without.grammar_model is None
    assert without.grammar_nats_per_symbol() is None


@pytest.mark.slow
def test_every_checkpoint_of_a_run_holds_the_ngram_also_after_resume(tmp_path: Path) -> None:
    home, run = config(tmp_path), tmp_path / "run"
    Trainer(home, run).run()
    longer = config(tmp_path, max_iters=3)
    wanted = fit_ngram(make_language(home.language))
    assert wanted is not None
    for name in ("best.pt", "last.pt"):
        found = checkpoint.load_denoiser(run / name).ngram
        assert found is not None
        assert found.order == wanted.order
    (run / "best.pt").unlink()
    Trainer(longer, run, resume=True).run()
    assert checkpoint.load_denoiser(run / "last.pt").ngram is not None


def test_a_fit_has_no_weights_to_start_from(tmp_path: Path) -> None:
    home = config(tmp_path)
    checkpoint.save(tmp_path / "fit.pt", fit_corpus(home.language, "pairs").payload())
    with pytest.raises(CheckpointError, match="n-gram alone"):
        Trainer(home, tmp_path / "run", init=tmp_path / "fit.pt")
