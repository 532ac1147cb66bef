"""Batches of `--input`: unchanged results, time of output, and time limits."""

from __future__ import annotations

import functools
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from maskdiff import tasks
from maskdiff.checkpoint import Loaded, load_denoiser
from maskdiff.cli import inference
from maskdiff.cli.arguments import run_cli
from maskdiff.config import CompletionConfig, SamplerConfig
from maskdiff.errors import ConfigError
from maskdiff.utils.deadline import Deadline, TimedOut
from tests.helpers.forked import PIPE, Forked
from tests.helpers.fuzz import FIXED_SEED, FRESH_SEED, cases
from tests.helpers.paths import REPOSITORY
from tests.helpers.streams import closed_pipe
from tests.helpers.tiny import tiny_checkpoint, tiny_loaded

GOOD = "(+(*75)10)=45"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_checkpoint(tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture(scope="module")
def loaded(checkpoint: str) -> Loaded:
    return load_denoiser(checkpoint, "cpu")


def rows(
    capsys: pytest.CaptureFixture[str], checkpoint: str, *argv: str, status: int = 0
) -> list[dict[str, Any]]:
    flags = ["--json", "--checkpoint", checkpoint, "--threads", "1"]
    assert run_cli(inference.main, [*argv, *flags]) == status
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


SAMPLER = SamplerConfig("maskgit", steps=3)
VERBS: dict[str, tuple[list[str], Callable[[Loaded, list[str]], list[tasks.Result]]]] = {
    "edit": (
        ["edit", "--sampler", "maskgit", "--steps", "3", "--mask", "1:4", "--seed", "5"],
        lambda loaded, texts: tasks.edit(loaded, texts, sampler=SAMPLER, masks=[(1, 4)], seed=5),
    ),
    "rewrite": (
        [
            "edit",
            "--sampler",
            "maskgit",
            "--steps",
            "3",
            "--replace",
            "1:3",
            "--length",
            "1..3",
            "--seed",
            "5",
        ],
        lambda loaded, texts: tasks.rewrite(
            loaded, texts, replace=(1, 3), length=(1, 3), sampler=SAMPLER, seed=5
        ),
    ),
    "draft": (
        ["repair", "--method", "draft", "--seed", "5"],
        lambda loaded, texts: tasks.repair(loaded, texts, method="draft", seed=5),
    ),
    "repair": (
        ["repair", "--beam", "2"],
        lambda loaded, texts: tasks.repair(loaded, texts, beam=2),
    ),
    "complete": (
        ["complete", "--num", "2", "--seed", "5"],
        lambda loaded, texts: tasks.complete(loaded, texts, num=2, seed=5),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_batch_size_does_not_change_the_results(
    capsys: pytest.CaptureFixture[str], checkpoint: str, loaded: Loaded, tmp_path: Path, verb: str
) -> None:
    """Results of the lines of a file equal those of one call over all lines, with bad lines."""
    texts = [f"(+{i % 10}{i // 10})={i:02d}" for i in range(10)]
    if verb != "complete":
        texts[4], texts[8] = "bad", ""
    flags, call = VERBS[verb]
    status = 0 if verb == "complete" else 2
    (tmp_path / "in").write_text("\n".join(texts) + "\n")
    found = rows(capsys, checkpoint, *flags, "--input", str(tmp_path / "in"), status=status)
    expected = call(loaded, texts)
    assert [(row["input"], row["text"]) for row in found] == [
        (result.input, None if result.error else result.text) for result in expected
    ]
    assert len({row["text"] for row in found}) > 2


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["edit", "draft", "complete"])
def test_equal_lines_have_equal_answers_and_do_not_change_others(
    capsys: pytest.CaptureFixture[str], checkpoint: str, tmp_path: Path, verb: str
) -> None:
    """Repeated lines have the answers of the first; other lines have those without a repeat."""
    texts = [f"(+{i}{i + 1})=1{i}" for i in range(4)]
    (tmp_path / "apart").write_text("\n".join(texts) + "\n")
    repeated = [texts[0], texts[1], texts[1], texts[3], texts[0], texts[3]]
    (tmp_path / "repeated").write_text("\n".join(repeated) + "\n")
    flags, _ = VERBS[verb]
    apart = rows(capsys, checkpoint, *flags, "--input", str(tmp_path / "apart"))
    equal = rows(capsys, checkpoint, *flags, "--input", str(tmp_path / "repeated"))
    by_text: dict[str, list[str]] = {}
    for row in apart:
        by_text.setdefault(row["input"], []).append(row["text"])
    each = len(apart) // 4
    found = [[row["text"] for row in equal[i * each : (i + 1) * each]] for i in range(6)]
    assert [row["index"] for row in equal] == [i for i in range(1, 7) for _ in range(each)]
    assert found == [by_text[text] for text in repeated]


@pytest.mark.slow
def test_a_repeated_stream_shows_its_characters(
    capsys: pytest.CaptureFixture[str], checkpoint: str
) -> None:
    """With --stream an equal string is printed again without another draw."""
    argv = ["complete", "(+", "(+", "--num", "2", "--stream", "--checkpoint", checkpoint]
    assert run_cli(inference.main, argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == lines[2:]
    assert all(line.startswith("(+") for line in lines)
    found = rows(capsys, checkpoint, "complete", "(+", "(+", "--stream")
    deltas = {
        i: "".join(row["delta"] for row in found if "delta" in row and row["index"] == i)
        for i in (1, 2)
    }
    assert [row["text"] for row in found if "text" in row] == [deltas[1], deltas[2]]


def test_a_message_names_the_line(
    capsys: pytest.CaptureFixture[str], checkpoint: str, tmp_path: Path
) -> None:
    (tmp_path / "in").write_text("(+12)=3\n\nbad\n")
    argv = [
        "edit",
        "(+??)=12",
        "--mask",
        "1",
        "--input",
        str(tmp_path / "in"),
        "--checkpoint",
        checkpoint,
    ]
    assert run_cli(inference.main, argv) == 2
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 4
    assert [line.split(": ")[1] for line in err.splitlines()] == [
        "string 3 (line 2 of the input)", "string 4 (line 3 of the input)"
    ]  # fmt: skip


# -------------------------- other processes


@pytest.mark.slow
def test_a_slow_producer_is_answered_line_by_line_and_interrupted(checkpoint: str) -> None:
    """Every answer appears before the next line is written.

    Ctrl-C then keeps the finished answers and prints one line.
    """
    words = [str(REPOSITORY / "inference.py"), "repair", "--input", "-", "--beam", "2", "--json"]
    words += ["--checkpoint", checkpoint, "--threads", "1"]
    with Forked(words, stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        for number, text in enumerate([GOOD, "", f"{GOOD}1", GOOD], start=1):
            process.stdin.write(text + "\r\n")
            process.stdin.flush()
            row = json.loads(process.stdout.readline())
            assert (row["index"], row["input"], "error" in row) == (number, text, number == 2)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stdout.read() == ""
        assert process.stderr.read() == "inference.py: interrupted\n"


def test_a_reader_that_leaves_ends_a_batch_quietly(
    capsys: pytest.CaptureFixture[str], checkpoint: str, tmp_path: Path
) -> None:
    (tmp_path / "in").write_text("".join(f"(+{i % 10}{i // 10 % 10})={i}\n" for i in range(400)))
    argv = ["repair", "--input", str(tmp_path / "in"), "--beam", "2", "--checkpoint", checkpoint]
    with closed_pipe():
        assert run_cli(inference.main, argv) == 141
    assert capsys.readouterr().err == ""


# -------------------------- time limits


class Steps:
    """A clock that advances by a second at every read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


TIMED: dict[str, Callable[[Loaded], list[tasks.Result]]] = {
    "generate": lambda loaded: tasks.generate(loaded, 2, length=13),
    "edit": lambda loaded: tasks.edit(loaded, ["(+??)=12"]),
    "grammar": lambda loaded: tasks.edit(loaded, ["(+??)=12"], grammar=True, sampler=SAMPLER),
    "rewrite": lambda loaded: tasks.rewrite(loaded, [GOOD], replace=(1, 4), length=(2, 4)),
    "repair": lambda loaded: tasks.repair(loaded, [f"{GOOD}1"], beam=2),
    "holds": lambda loaded: tasks.repair(loaded, ["(+(*75)10=46"], beam=2, holds=True),
    "least_edits": lambda loaded: tasks.repair(loaded, ["(+(*75)10=45"], method="least_edits"),
    "complete": lambda loaded: tasks.complete(loaded, ["(+(*7"], num=2),
    "candidates": lambda loaded: tasks.complete(
        loaded, ["(+(*7"], num=2, settings=CompletionConfig(candidates=4)
    ),
    "suffix": lambda loaded: tasks.complete(loaded, ["(+("], suffix="=45"),
    "solve": lambda loaded: tasks.fill(loaded, ["(+?(*?4))=1?"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("verb", TIMED)
def test_a_time_limit_at_any_moment_keeps_finished_results(loaded: Loaded, verb: str) -> None:
    """A time limit gives a valid result or `TimedOut`.

    With enough time the result equals that without a limit.
    """
    call = TIMED[verb]
    whole, clock = call(loaded), Steps()
    with loaded.denoiser.until(Deadline(1e9, clock=clock)):
        assert [result.text for result in call(loaded)] == [result.text for result in whole]
    assert loaded.denoiser.deadline.seconds is None
    steps = int(clock.now)
    assert steps > 3
    with (
        loaded.denoiser.until(Deadline(0.5, clock=Steps())),
        pytest.raises(TimedOut, match="no answer within"),
    ):
        call(loaded)
    for rng in (*cases(3, FIXED_SEED), *cases(3, FRESH_SEED)):
        given = rng.randrange(1, steps)
        with loaded.denoiser.until(Deadline(given, clock=Steps())):
            try:
                results = call(loaded)
            except TimedOut:
                continue
        for result in results:
            assert result.finish_reason in ("timeout", "eos", "incomplete")
            if verb in ("complete", "candidates"):
                assert result.text.startswith("(+(*7")
            if verb == "solve" and result.error is None:
                assert result.holds
            if verb == "solve" and result.error is not None:
                assert "found in time" in result.error
                assert result.finish_reason == "timeout"


@pytest.mark.slow
def test_candidates_end_with_the_last_complete_draw() -> None:
    """At any deadline an invalid answer equals that of fewer candidates without a limit."""
    loaded = tiny_loaded()

    def drawn(candidates: int) -> list[tasks.Result]:
        settings = CompletionConfig("exact", candidates=candidates)
        return tasks.complete(loaded, ["(+(*7"], num=3, seed=1, settings=settings)

    without = {1: tasks.complete(loaded, ["(+(*7"], num=3, seed=1)}
    without |= {count: drawn(count) for count in range(2, 5)}
    seen = set()
    for given in range(20, 260, 60):
        with loaded.denoiser.until(Deadline(given, clock=Steps())):
            try:
                results = drawn(4)
            except TimedOut:
                continue
        for i, result in enumerate(results):
            count = result.candidates or 0
            late = result.finish_reason == "timeout"
            assert late or result.parses or count == 4
            if count > 1:
                assert result.text == without[count][i].text
            seen.add((count > 1, late))
    assert (True, True) in seen


@pytest.mark.parametrize("verb", ["edit", "draft", "rewrite"])
def test_a_source_continues_where_the_last_call_ended(loaded: Loaded, verb: str) -> None:
    """Texts of several calls have the keys of one call; other values are refused as a source."""
    calls: dict[str, Callable[..., list[tasks.Result]]] = {
        "edit": functools.partial(tasks.edit, loaded, sampler=SAMPLER, masks=[(1, 4)]),
        "draft": functools.partial(tasks.repair, loaded, method="draft"),
        "rewrite": functools.partial(tasks.rewrite, loaded, sampler=SAMPLER, replace=(1, 4)),
    }
    call, texts = calls[verb], [GOOD, "(+12)=3", GOOD, "(+(*75)10)=46"]
    whole = [result.text for result in call(texts, seed=5)]
    source = torch.Generator().manual_seed(5)
    parts = [result.text for part in (texts[:1], texts[1:]) for result in call(part, source=source)]
    assert parts == whole
    assert whole != [result.text for result in call(texts, seed=6)] or verb == "draft"
    for wrong in (3, "5", torch.Generator):
        with pytest.raises(ConfigError, match="a whole number is a seed"):
            call(texts, source=wrong)
    with pytest.raises(ConfigError, match="seed is"):
        call(texts, seed=source)


@pytest.mark.slow
def test_a_time_limit_ends_a_completion_at_its_current_token() -> None:
    """Unfinished strings are returned with their prefix; strings not started are not returned."""
    loaded = tiny_loaded()
    ends = set()
    for given in range(3, 40, 4):
        with loaded.denoiser.until(Deadline(given, clock=Steps())):
            try:
                results = tasks.complete(
                    loaded, ["(+(*7"], num=3, settings=CompletionConfig("exact")
                )
            except TimedOut:
                continue
        ends |= {result.finish_reason for result in results}
        assert all(result.text.startswith("(+(*7") and result.error is None for result in results)
    assert "timeout" in ends


@pytest.mark.slow
@pytest.mark.parametrize(
    "argv",
    [
        ["generate", "--num", "2"],
        ["edit", "(+??)=12", "bad"],
        ["edit", "(+??)=12", "--holds"],
        ["repair", f"{GOOD}1", "(+12)=33"],
        ["complete", "(+", "--suffix", "=45"],
    ],
)
def test_the_command_reports_a_time_limit(
    capsys: pytest.CaptureFixture[str], checkpoint: str, argv: list[str]
) -> None:
    """Exit status is 124 without bad input; JSON rows have the finish reason `timeout`."""
    bad = "bad" in argv
    found = rows(capsys, checkpoint, *argv, "--timeout", "0.000001", status=2 if bad else 124)
    assert [row["finish_reason"] for row in found] == (
        ["timeout", "error"] if bad else ["timeout"] * len(found)
    )
    assert all(row["text"] is None and row["error"] for row in found)
    limit = ["--timeout", "0.000001", "--checkpoint", checkpoint]
    assert run_cli(inference.main, [*argv, *limit]) == (2 if bad else 124)
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", len(found))
    assert run_cli(inference.main, [*argv, "--timeout", "600", "--checkpoint", checkpoint]) == (
        2 if bad else 0
    )


@pytest.mark.parametrize("limit", ["0", "-1", "nan", "inf", "1e9", "x", ""])
def test_time_limits_out_of_range_are_refused(
    capsys: pytest.CaptureFixture[str], checkpoint: str, limit: str
) -> None:
    assert (
        run_cli(inference.main, ["repair", GOOD, f"--timeout={limit}", "--checkpoint", checkpoint])
        == 2
    )
    assert "is no number above 0 and at most 86400" in capsys.readouterr().err
