"""The repetition suite: its cuts equal decoding under the limit; its figures are correct."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from maskdiff.checkpoint import Loaded
from maskdiff.config import ControlConfig
from maskdiff.decoding import CausalModel, Decoding, SharedTree, condition
from maskdiff.drawing.random import new_keys
from maskdiff.drawing.settings import Draw
from maskdiff.evaluation import diagnosis, plots, repetition, suites
from maskdiff.evaluation import outputs as drawn_outputs
from maskdiff.evaluation.outputs import (
    Output,
    PromptTask,
    draw_outputs,
    extracted,
    limited,
    make_tasks,
    output_figures,
    stopped,
    unlooped,
)
from maskdiff.evaluation.report import Report, tables
from maskdiff.evaluation.rows import Plan, Subject
from maskdiff.languages import make_language
from maskdiff.sampling import Stopping
from tests.helpers.evaluation import pick
from tests.helpers.tiny import PIECES, tiny_loaded

LANGUAGE = make_language()


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    made = tiny_loaded(causal_length=False)
    made.denoiser.model.double()
    return made


@pytest.fixture(scope="module")
def pieces() -> Loaded:
    made = tiny_loaded(**PIECES)
    made.denoiser.model.double()
    return made


def output(prompt: str, answer: str | None, generated: str, reason: str = "eos") -> Output:
    return Output(PromptTask(prompt, answer, prompt + (answer or "")), (prompt, *generated), reason)


def test_tasks_have_one_correct_answer() -> None:
    for task in make_tasks(LANGUAGE, 50, 0):
        assert task.prompt.endswith("=")
        assert LANGUAGE.holds(task.prompt + (task.answer or ""))
        assert task.text == task.prompt + (task.answer or "")


@pytest.mark.slow
def test_prompts_drawn_in_a_batch_equal_those_drawn_alone(loaded: Loaded, pieces: Loaded) -> None:
    for one in (loaded, pieces):
        model = CausalModel(one.denoiser, one.lengths, 40)
        prompts = [b"(+(*75)8)=", b"", b"(+1", b"(*(+47)9)", b"", b"(+1"]
        keys = new_keys(len(prompts), torch.Generator().manual_seed(3))
        for control in (
            ControlConfig(),
            ControlConfig(repetition_penalty=1.3, no_repeat_ngram=3, dry_multiplier=0.8),
        ):
            draw = Draw(1.0, 1.0, penalties=drawn_outputs.Penalties.of(control, one.vocabulary))
            together = SharedTree(model)
            given = [condition(together, prompt, "exact") for prompt in prompts]
            made = Decoding(given, keys, draw=draw).run()
            assert [
                string.data[: len(prompt)] for string, prompt in zip(made, prompts, strict=True)
            ] == prompts
            for string, prompt, key in zip(made, prompts, keys, strict=True):
                alone = Decoding(condition(model, prompt, "exact"), key[None], draw=draw).run()[0]
                assert (alone.data, alone.tokens, alone.reason) == (
                    string.data,
                    string.tokens,
                    string.reason,
                )
                assert alone.log_p == pytest.approx(string.log_p, abs=1e-9)


@pytest.mark.slow
def test_strings_may_be_longer_than_training_strings(loaded: Loaded) -> None:
    """Long strings begin like those under the usual limit."""
    tasks = [PromptTask("", None, "")] * 100
    long = draw_outputs(loaded, tasks, 90, 1.0, ControlConfig(), 0)
    assert max(len(item.pieces) for item in long) > 64
    assert all(len(item.pieces) <= 90 for item in long)
    short = draw_outputs(loaded, tasks, 63, 1.0, ControlConfig(), 0)
    assert [limited(item, 63) for item in long] == short


@pytest.mark.slow
def test_stop_texts_applied_afterwards_equal_those_of_decoding(pieces: Loaded) -> None:
    tasks = make_tasks(LANGUAGE, 30, 1)
    whole = draw_outputs(pieces, tasks, 40, 1.0, ControlConfig(), 5)
    model, stops = CausalModel(pieces.denoiser, pieces.lengths, 40), ("(1", ")", "((")
    stopping = Stopping(tuple(stop.encode() for stop in stops))
    keys, hits = new_keys(len(tasks), torch.Generator().manual_seed(5)), 0
    for task, plain, key in zip(tasks, whole, keys, strict=True):
        done = Decoding(
            condition(model, task.prompt.encode(), "canonical"), key[None], stopping=stopping
        ).run()[0]
        cut = stopped(plain, stops)
        assert (cut.text, cut.reason) == (done.data.decode(), done.reason)
        hits += done.reason == "stop"
    assert hits > 5


@pytest.mark.slow
def test_given_controls_end_the_outputs_of_the_suite(pieces: Loaded) -> None:
    tasks = make_tasks(LANGUAGE, 40, 1)
    whole = draw_outputs(pieces, tasks, 60, 1.0, ControlConfig(), 5)
    control = ControlConfig(
        stop=("((",), loop_period=drawn_outputs.PERIOD, loop_repeats=drawn_outputs.REPEATS
    )
    ended = draw_outputs(pieces, tasks, 60, 1.0, control, 5)
    reasons = set()
    for plain, made in zip(whole, ended, strict=True):
        assert plain.text.startswith(made.text)
        assert all(a.startswith(b) for a, b in zip(plain.pieces, made.pieces, strict=False))
        if made.reason == "stop":
            assert made == stopped(plain, ("((",))
        elif made.reason == "repetition":
            assert made == unlooped(plain)
        else:
            assert made == plain == unlooped(plain) == stopped(plain, ("((",))
        reasons.add(made.reason)
    assert "stop" in reasons


def test_figures_of_known_outputs() -> None:
    right = output("(+12)=", "3", "3")
    runs = output("(+12)=", "3", "3(+11)=2", "length")
    wrong = output("(+12)=", "3", "4")
    digits = output("(+12)=", "3", "3333333333333333", "length")
    rng = np.random.default_rng(0)
    found = {
        name: output_figures([item], LANGUAGE, rng)
        for name, item in (("right", right), ("runs", runs), ("wrong", wrong))
    }
    assert [found[name]["accuracy"].value for name in found] == [1, 0, 0]
    assert [found[name]["starts_right"].value for name in found] == [1, 1, 0]
    assert [found[name]["run_on"].value for name in found] == [0, 1, 0]
    assert [found[name]["tokens_after"].value for name in found] == [0, 7, 0]
    assert [found[name]["answers"].value for name in found] == [1, 2, 1]
    assert extracted(runs, LANGUAGE).text == "(+12)=3"
    assert extracted(right, LANGUAGE) is right
    assert stopped(runs, ["("]).generated == "3"
    assert stopped(runs, ["("]).reason == "stop"
    late = stopped(output("(+12)=", "3", "3)1(+11)=2", "length"), ["("])
    assert late.generated == "3)1"
    assert (
        output_figures([late], LANGUAGE, rng)["tokens_after"].value == 2
    )  # what a stop text leaves behind the answer counts
    looping = output_figures([digits], LANGUAGE, rng)
    assert looping["periodic_tail"].value == 1
    assert looping["run_on"].value == 1
    assert looping["cap_hit"].value == 1
    assert (
        looping["tokens_after"].value == 0
    )  # (+12)=333… is one string of the language: no output alone shows that it ran on


@pytest.mark.slow
def test_rows_of_a_model_that_ends_its_strings(
    pieces: Loaded, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(repetition, "TIMES", 2)
    monkeypatch.setattr(drawn_outputs, "COUNTED", 1)
    monkeypatch.setattr(diagnosis, "COUNTED", 1)
    plan = Plan(num_samples=2, control=ControlConfig(top_k=3))
    whole = repetition.control_sweep(plan.control)
    few = [s for s in whole if (s.name, s.temperature) in (("none", 1.0), ("top_k 3", 0.0))]
    monkeypatch.setattr(repetition, "control_sweep", lambda given: few)
    (rows,) = suites.iter_suites([Subject(pieces)], plan, ["repetition"])
    sweep = [row for row in rows if row.sampler == "autoregressive"]
    both = {"on": "prompts", "temperature": 1.0, "control": "none", "cut": "stop, extraction"}
    assert pick(sweep, "tokens_after", **both, limit="2x").value == 0.0
    assert (
        pick(
            sweep, "accuracy", on="prompts", temperature=0.0, control="top_k 3", limit="1x"
        ).ceiling
        == 1.0
    )
    assert {row.settings["on"] for row in sweep} == {"prompts", "free"}
    assert sum(row.value for row in rows if row.metric.startswith("is_")) == 1.0
    assert len(tables(Report(rows))) == 4
    monkeypatch.setattr(plots, "LONG", "2x")
    drawn = plots.write_plots(Report(rows, {"samples": 3}), tmp_path)
    assert [path.name for path in drawn] == ["accuracy_by_control.png", "run_on_by_control.png"]


def test_sweep_varies_every_control_without_duplicates() -> None:
    given = ControlConfig(top_k=3)
    sweep = repetition.control_sweep(given)
    assert len({(s.name, s.temperature) for s in sweep}) == len(sweep)
    assert {(s.name, s.temperature) for s in sweep} >= {("none", 0.0), ("top_k 3", 1.0)}
    controls = [s.control for s in sweep]
    for name in ("repetition_penalty", "frequency_penalty", "no_repeat_ngram", "dry_multiplier"):
        assert len({getattr(control, name) for control in controls}) > 1, name
    measured = repetition.count_repetition(Plan(control=given))
    assert measured > len(sweep)


@pytest.mark.slow
def test_rows_of_a_length_conditioned_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(repetition, "PRESETS_SWEPT", ("entropy", "naive", "coupled"))
    monkeypatch.setattr(repetition, "STEPS", (1, 0))
    plan = Plan(num_samples=3, lengths=(9, 15))
    (rows,) = suites.iter_suites([Subject(tiny_loaded())], plan, ["repetition"])
    assert {row.sampler for row in rows} == {"entropy", "naive"}  # this model has no noise input
    at_once = pick(
        [row for row in rows if row.sampler == "entropy"],
        "committed_at_once",
        steps=1,
        temperature=0.0,
    )
    one_by_one = pick(
        [row for row in rows if row.sampler == "entropy"],
        "committed_at_once",
        steps=0,
        temperature=0.0,
    )
    assert at_once.value > 5
    assert one_by_one.value == 1.0
    assert pick(rows, "parses", steps=1, temperature=1.0, grammar=True).value == 1.0
    assert [path.name for path in plots.write_plots(Report(rows, {"samples": 3}), tmp_path)] == [
        "collapse.png"
    ]
