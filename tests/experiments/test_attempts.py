"""A model's own attempts: written to a file, made into records, and learnt from without losing the
model's pieces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskdiff import checkpoint
from maskdiff.config_io import load_config
from maskdiff.errors import DataError
from maskdiff.experiments.distillation.attempts import main, write_attempts
from maskdiff.languages import make_language, model_vocabulary, pieces, restore_language, split_of
from maskdiff.languages import text as text_languages
from maskdiff.languages.arithmetic_corrections import ArithmeticCorrections, judge
from maskdiff.training.loop import Trainer
from tests.helpers.corrections import BASE
from tests.helpers.distillation_policies import policy_of
from tests.helpers.paths import CHECKPOINTS

PROBLEM = "(+ (- 3 1) (* 2 4))"
SHIPPED = CHECKPOINTS / "arithmetic-corrections.pt"
WRONG, RIGHT = "(+ 2 (* 2 4))>(+ 2 9)>11", "(+ 2 (* 2 4))>(+ 2 8)>10"


def with_attempts(where: Path, *lines: str) -> ArithmeticCorrections:
    where.write_text("".join(f"{line}\n" for line in lines))
    language = make_language(replace(BASE, attempts=str(where)))
    assert isinstance(language, ArithmeticCorrections)
    return language


def test_most_records_are_made_of_the_file(tmp_path: Path) -> None:
    """2,000 draws, of which 1,300 are records: three of four of the file has a standard deviation
    of 0.012."""
    assert split_of(PROBLEM) != "test"
    language = with_attempts(tmp_path / "a.txt", f"{PROBLEM};{WRONG}", f"{PROBLEM};{RIGHT}")
    drawn = language.sample_many(2000, np.random.default_rng(0))
    assert drawn[:50] == language.sample_many(50, np.random.default_rng(0))
    assert all(map(language.holds, drawn))
    records = [text for text in drawn if "|" in text]
    ours = [text for text in records if text.startswith(PROBLEM)]
    assert len(ours) / len(records) == pytest.approx(0.75, abs=0.06)
    shown = [text for text in ours if ";" in text]
    assert {text.partition(";")[2].partition("|")[0] for text in shown} == {WRONG, RIGHT}
    quoted = [text for text in ours if "@2=(+ 2 9)" in text]
    assert len(quoted) > 100
    assert not any(text.startswith(PROBLEM + ";" + RIGHT) for text in quoted)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"{PROBLEM}>{WRONG}", "line 2"),
        (f"{PROBLEM};(+ 2 9)", "line 2"),
        (f"{PROBLEM};{WRONG}|@2", "line 2"),
        ("", "line 2"),
    ],
)
def test_a_line_that_is_no_attempt_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        with_attempts(tmp_path / "a.txt", f"{PROBLEM};{WRONG}", line).sample(
            np.random.default_rng(0)
        )


def test_held_out_problems_and_missing_files_are_refused(tmp_path: Path) -> None:
    language: Any = make_language(BASE)
    held_out = language.problems(1, np.random.default_rng(0))[0]
    with pytest.raises(DataError, match="may be trained on"):
        with_attempts(tmp_path / "a.txt", f"{held_out};0").sample(np.random.default_rng(0))
    for name, text in (("none.txt", None), ("empty.txt", "")):
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match="attempts"):
            make_language(replace(BASE, attempts=str(tmp_path / name))).sample(
                np.random.default_rng(0)
            )


def test_a_checkpoint_needs_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint trained with a file restores a language without the file; only drawing
    strings needs it."""
    monkeypatch.setattr(text_languages, "DRAWS", 2000)
    language = with_attempts(tmp_path / "a.txt", f"{PROBLEM};{WRONG}")
    state, config = language.state(), language.config
    (tmp_path / "a.txt").unlink()
    again = restore_language(config, state)
    assert isinstance(again, ArithmeticCorrections)
    assert again.length_probs().tolist() == language.length_probs().tolist()
    assert len(again.problems(3, np.random.default_rng(0))) == 3


@pytest.mark.slow
def test_attempts_are_written_for_problems_that_may_be_trained_on(tmp_path: Path) -> None:
    """A random model writes few well-formed answers: all kept attempts must be well-formed and
    readable."""
    policy = policy_of()
    lines = write_attempts(policy, 100, 3)
    assert lines == write_attempts(policy, 100, 3)
    for line in lines:
        problem, _, attempt = line.rstrip("\n").partition(";")
        assert policy.language.parses(f"{problem}>{attempt}")
        assert split_of(problem) != "test"
    assert (
        main(
            [
                "--checkpoint",
                str(SHIPPED),
                "--num",
                "64",
                "--threads",
                "1",
                "--out",
                str(tmp_path / "out.txt"),
            ]
        )
        == 0
    )
    made = (tmp_path / "out.txt").read_text().splitlines()
    marks = [judge(*line.split(";", 1)) for line in made]
    failed = [mark for mark in marks if mark.first_wrong is not None or not mark.final]
    assert len(made) > 10
    assert len(failed) // 2 >= len(made) - len(failed)  # at most half as many right ones
    language = with_attempts(tmp_path / "again.txt", *made)
    assert all(map(language.parses, language.sample_many(20, np.random.default_rng(0))))


@pytest.mark.slow
def test_a_run_from_other_weights_keeps_their_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other strings give other merges; the weights are those of the first."""
    monkeypatch.setattr(pieces, "DRAWS", 2000)  # strings that merges and lengths are made of
    source = checkpoint.load(SHIPPED)
    attempts = tmp_path / "a.txt"
    attempts.write_text(f"{PROBLEM};{WRONG}\n")
    config = load_config(
        None,
        {**flat(source), "attempts": str(attempts), "max_iters": 0, "threads": 1, "name": "next"},
    )
    trainer = Trainer(config, tmp_path / "next", init=SHIPPED)
    assert list(trainer.vocabulary.symbols) == list(source["vocabulary"]["symbols"])
    assert (
        model_vocabulary(make_language(config.language), config.model).symbols
        != trainer.vocabulary.symbols
    )


def flat(payload: checkpoint.Payload) -> dict[str, object]:
    """The options of a checkpoint's configuration that shape strings and model."""
    sections = payload["config"]
    model = {name: value for name, value in sections["model"].items() if name != "block_size"}
    return {
        **sections["language"],
        **model,
        "compile": False,
        "num_samples": 64,
        "eval_samples": 8,
        "live_samples": 0,
    }
