"""The completion suite: its rows for methods that are known to be right or wrong, and for
models that it cannot compare."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from maskdiff.decoding import CausalModel, condition
from maskdiff.decoding.histories import Goal
from maskdiff.errors import ConfigError
from maskdiff.evaluation import completion as suite
from maskdiff.evaluation import suites
from maskdiff.evaluation.completion_baselines import (
    ConditionedBaseline,
    Reading,
    leaves,
    total_variation,
)
from maskdiff.evaluation.completion_methods import (
    BASELINES,
    next_token,
    next_token_rows,
    text_log_prob,
    true_next,
)
from maskdiff.evaluation.report import Report, tables
from maskdiff.evaluation.rows import Plan, Row, Subject
from tests.helpers.evaluation import pick, rows_of
from tests.helpers.tiny import PIECES, tiny_loaded

PLAN = Plan(num_samples=1, typed=(5, 12))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "TABLES": 3,
        "TABLE_DRAWS": 500,
        "SCORED": 1,
        "COMPARED": 1,
        "REJECTIONS": 1,
        "MOST": 64,
    }.items():
        monkeypatch.setattr(suite, name, value)


@pytest.fixture(scope="module")
def subject() -> Subject:
    loaded = tiny_loaded(**PIECES)
    loaded.denoiser.model.double()
    return Subject(replace(loaded, token_lengths=loaded.lengths[:33]))


def of(rows: list[Row], method: str, metric: str, **settings: object) -> Row:
    return pick([row for row in rows if row.sampler == method], metric, **settings)


@pytest.mark.slow
def test_completion_rows_of_a_model_with_pieces(subject: Subject) -> None:
    rows = rows_of(suite.completion_suite, subject, PLAN)
    assert of(rows, "exact", "total_variation", on="random tables").value < 1e-9
    for name in BASELINES:
        assert of(rows, name, "total_variation", on="random tables").value > 1e-3
    for method in ("exact", "beam", "canonical", *BASELINES):
        assert of(rows, method, "starts_as_typed", typed=5).value == 1.0
        assert of(rows, method, "milliseconds", typed=12).value > 0
    assert of(rows, "exact", "prefix_calls", typed=12).value == 1.0
    assert of(rows, "exact", "dropped_worst", typed=12).value == 0.0
    assert of(rows, "beam", "log_z", typed=12).value == pytest.approx(
        of(rows, "exact", "log_z", typed=12).value, abs=1e-6
    )
    assert of(rows, "free", "starts_as_typed", typed=0).value == 1.0
    assert of(rows, "rejection", "times_exact_median", typed=12).value > 1.0
    again = rows_of(suite.completion_suite, subject, replace(PLAN, typed=(5,)))
    kept = [r for r in rows if r.metric != "milliseconds" and r.settings.get("typed") != 12]
    assert kept == [r for r in again if r.metric != "milliseconds"]
    assert len(tables(Report(rows))) > 5


@pytest.mark.slow
def test_a_length_conditioned_model_is_measured_without_baselines() -> None:
    rows = rows_of(suite.completion_suite, Subject(tiny_loaded()), Plan(num_samples=2, typed=(5,)))
    assert {row.sampler for row in rows if row.settings.get("typed") == 5} == {
        "exact",
        "beam",
        "canonical",
    }


@pytest.mark.slow
def test_other_suites_refuse_pieces(subject: Subject) -> None:
    with pytest.raises(ConfigError, match="give --suite completion"):
        suites.check_subjects([subject], PLAN, (), ("generation", "completion"))
    assert suites.check_subjects([subject], PLAN, (), ("completion",)) == []


@pytest.mark.slow
def test_text_probability_equals_the_conditional_probability(subject: Subject) -> None:
    """Check log q(text

     prefix) = log p(text) - log Z(prefix).|The two terms on the right are computed by conditioning
    on a text and on a prefix.
    """
    model, text, prefix = (
        CausalModel(subject.loaded.denoiser, subject.loaded.lengths),
        b"(+3(*24))=1",
        b"(+3(",
    )
    goal, read = Goal(model.table, model.latent_states, prefix), Reading(model)
    conditioned = condition(model, prefix, "exact")
    found = text_log_prob(next_token_rows(ConditionedBaseline(conditioned), goal, read), goal, text)
    exact = (
        condition(model, text, "exact", budget=10**5, whole=True).summary.log_z
        - conditioned.summary.log_z
    )
    assert found == pytest.approx(exact, abs=1e-3)
    assert found <= exact + 1e-9  # only the most likely cuts
    naive = text_log_prob(
        next_token_rows(BASELINES["naive_mask"](model, prefix), goal, read), goal, text
    )
    assert naive != pytest.approx(exact, abs=1e-3)


@pytest.mark.slow
def test_next_token_is_the_one_that_crosses_the_cursor(subject: Subject) -> None:
    model = CausalModel(subject.loaded.denoiser, subject.loaded.lengths)
    text = b"(+(*75)10)=45"
    cut = model.encode([text])[0]
    assert cut is not None
    ends = np.cumsum([len(model.table.texts[token] or b"") for token in cut])
    for size in range(len(text)):
        start, token = true_next(model, text, size) or (-1, -1)
        index = int(np.searchsorted(ends, size, side="right"))
        assert (start, token) == (ends[index] - len(model.table.texts[token] or b""), cut[index])
    goal = Goal(model.table, model.latent_states, b"(+(")
    found = next_token(
        next_token_rows(
            ConditionedBaseline(condition(model, b"(+(", "exact")), goal, Reading(model)
        ),
        goal,
        60,
    )
    assert found is not None
    start, token = found
    assert start + len(model.table.texts[token] or b"") > 3 or token in model.table.ends


@pytest.mark.slow
def test_a_pruned_beam_lacks_the_mass_of_its_pruned_histories(subject: Subject) -> None:
    model, prefix = CausalModel(subject.loaded.denoiser, subject.loaded.lengths), b"(+(*75)1"
    goal = Goal(model.table, model.latent_states, prefix)
    exact, narrow = condition(model, prefix, "exact"), condition(model, prefix, "canonical")
    away = total_variation(leaves(narrow, goal), leaves(exact, goal))
    assert 0 < away <= narrow.summary.dropped + 1e-9
    assert away == pytest.approx(1 - math.exp(narrow.summary.log_z - exact.summary.log_z), abs=1e-6)
