"""Verbs of a model of characters whose causal mode draws the end of its strings."""

from __future__ import annotations

import itertools
import math
import sys
from dataclasses import replace

import pytest
import torch

from maskdiff import tasks
from maskdiff.checkpoint import Loaded
from maskdiff.config import ControlConfig, SamplerConfig
from maskdiff.errors import CanvasError
from maskdiff.languages import Vocabulary
from maskdiff.models.ngram import NGram
from maskdiff.noise import pad
from maskdiff.repair import Damage
from maskdiff.sampling import Autoregressive, causal_log_prob
from maskdiff.tasks.candidates import CandidateScorer, Damaged, RepairConstraints
from maskdiff.tasks.proposing import channel_candidates
from maskdiff.tasks.running import log_probs
from tests.helpers.tiny import tiny_loaded


@pytest.fixture(scope="module")
def ending() -> Loaded:
    return tiny_loaded(causal_length=False)


class _Fixed:
    """A causal mode with one distribution of the next token everywhere, its end included."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        torch.manual_seed(1)
        self.logits = torch.randn(len(vocabulary))

    def __call__(self, tokens: torch.Tensor, *_: object) -> torch.Tensor:
        return self.logits.expand(*tokens.shape, -1)


def test_probabilities_of_strings_with_their_ends_add_up_to_one() -> None:
    """Up to those of the strings that are not enumerated; without the ends they do not."""
    vocabulary = Vocabulary.of("ab")
    model, longest = _Fixed(vocabulary), 12
    strings = [
        list(string)
        for size in range(1, longest + 1)
        for string in itertools.product(vocabulary.inner_ids, repeat=size)
    ]
    clean = pad(strings, vocabulary)
    whole = causal_log_prob(model, clean.tokens, clean.length, ends=True).double().exp().sum()
    outcomes = [*vocabulary.inner_ids, vocabulary.eos]
    end = model.logits[outcomes].softmax(0)[-1].double()
    assert float(whole) == pytest.approx(float((1 - end) - (1 - end) ** (longest + 1)), rel=1e-4)
    given = causal_log_prob(model, clean.tokens, clean.length).double().exp().sum()
    assert float(given) == pytest.approx(longest, rel=1e-4)  # one for each length


def test_candidates_are_scored_with_their_ends_and_without_a_prior_of_lengths(
    ending: Loaded,
) -> None:
    """Those of the beam, and those that other searches propose."""
    damage, vocabulary = Damage(), ending.language.vocabulary
    channel = damage.channel(vocabulary)
    scorer = CandidateScorer(ending, channel, RepairConstraints(), wide=True)
    text = "(+12)=4"
    (pool,) = channel_candidates(scorer, [Damaged(vocabulary.encode(text), text)], 4, 1, False)
    found = [*pool.candidates.values()]
    assert len({len(candidate.text) for candidate in found}) > 1
    expected = log_probs(ending, [vocabulary.encode(c.text) for c in found])
    assert [c.log_model for c in found] == pytest.approx(expected, abs=1e-4)
    assert {c.log_length for c in found} == {0.0}


def test_a_filling_has_the_score_of_its_whole_string(ending: Loaded) -> None:
    (result,) = tasks.edit(ending, ["(+1?)=3"])
    (expected,) = log_probs(ending, [ending.language.vocabulary.encode(result.text)])
    assert result.score == pytest.approx(expected / len(result.text), abs=1e-4)


def test_a_rewritten_span_has_the_likeliest_length(ending: Loaded) -> None:
    """Without log p(n), which log p(x) includes."""
    text, span = "(+12)=3", (2, 4)
    (chosen,) = tasks.rewrite(ending, [text], replace=span, length=(2, 4))
    single = [
        tasks.rewrite(ending, [text], replace=span, length=size)[0].text for size in range(2, 5)
    ]
    scores = log_probs(ending, [ending.language.vocabulary.encode(made) for made in single])
    assert chosen.text == single[max(range(3), key=lambda i: scores[i])]


@pytest.mark.slow
def test_lengths_are_drawn_until_they_fit(ending: Loaded) -> None:
    made = tasks.generate(ending, 3, length=(3, 20), seed=1)
    assert all(3 <= len(result.text) <= 20 for result in made)
    again = tasks.generate(ending, 3, length=(3, 20), seed=1, batch_size=1)
    assert [result.text for result in again] == [result.text for result in made]
    free = tasks.generate(ending, 40, seed=1)
    fitting = [result.text for result in free if 3 <= len(result.text) <= 20]
    assert [result.text for result in made] == fitting[:3]


@pytest.mark.slow
def test_lengths_that_are_hardly_drawn_are_filled(
    ending: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The strings that end themselves come first; those that a limit cuts do not count."""
    monkeypatch.setattr(sys.modules["maskdiff.tasks.generating"], "TRIES", 1)
    monkeypatch.setattr(sys.modules["maskdiff.tasks.generating"], "LEAST_TRIES", 2)
    made = tasks.generate(ending, 2, length=62)
    assert [len(result.text) for result in made] == [62, 62]
    assert made == tasks.generate(ending, 2, length=62, sampler=Autoregressive())
    cut = tasks.generate(ending, 2, length=3, control=ControlConfig(max_tokens=3))
    assert all(result.finish_reason != "length" for result in cut)
    with pytest.raises(CanvasError, match="impossible"):
        tasks.generate(ending, 2, length=500)


@pytest.mark.slow
def test_a_grammar_and_a_trace_draw_on_canvases(ending: Loaded) -> None:
    grammar = SamplerConfig("autoregressive", grammar=True)
    (parsed,) = tasks.generate(ending, 1, sampler=grammar, length=(5, 9))
    assert parsed.parses
    (traced,) = tasks.generate(ending, 1, trace=True, length=(5, 9))
    assert traced.trace


@pytest.mark.slow
def test_the_prior_of_such_a_model_is_fitted(ending: Loaded) -> None:
    """Its candidates have finite scores, so that the model gets a weight."""
    from maskdiff.tasks.calibrating import fit_priors

    texts = ["(+12)=3", "(*45)=20"]
    vocabulary = ending.language.vocabulary
    strings = [vocabulary.encode(text) for text in texts]
    both = replace(ending, ngram=NGram.fit(strings, vocabulary, 3))
    prior, _ = fit_priors(both, texts)
    assert math.isfinite(prior.neural)
    assert prior.neural + prior.ngram > 0
