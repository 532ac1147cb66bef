"""Stop rules and penalties on the command line and in files of settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from maskdiff.cli import inference
from maskdiff.cli.arguments import run_cli
from maskdiff.config import ControlConfig, DecodeConfig, LanguageConfig
from maskdiff.config_io import load_decoding
from maskdiff.errors import ConfigError
from maskdiff.languages import make_language
from maskdiff.text.answers import first_complete
from tests.helpers.completion import searched
from tests.helpers.tiny import PIECES, tiny_checkpoint

GENERATE = ("generate", "--num", "6", "--json", "--checkpoint")
COMPLETE = ("complete", "(+1", "1=", "--num", "3", "--json", "--checkpoint")


@pytest.fixture(scope="module")
def length_conditioned(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a length-conditioned checkpoint that reads characters."""
    return str(tiny_checkpoint(tmp_path_factory.mktemp("length_conditioned")))


@pytest.fixture(scope="module", params=["length_conditioned", "self_ending"])
def checkpoint(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    length_conditioned: str,
) -> str:
    """Return that checkpoint, or one that reads pieces and ends its strings itself."""
    return (
        length_conditioned
        if request.param == "length_conditioned"
        else str(tiny_checkpoint(tmp_path_factory.mktemp("self_ending"), **PIECES))
    )


def run_command(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    status = run_cli(inference.main, list(argv))
    return status, *capsys.readouterr()


def rows(capsys: pytest.CaptureFixture[str], *argv: str) -> list[dict[str, Any]]:
    status, out, err = run_command(capsys, *argv)
    assert (status, err) == (0, "")
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(
    "given", [GENERATE, (*GENERATE[:-1], "--sampler", "maskgit", "--checkpoint"), COMPLETE]
)
def test_stop_flag_cuts_every_kind_of_output(
    capsys: pytest.CaptureFixture[str], checkpoint: str, given: tuple[str, ...]
) -> None:
    """In the objects, in the columns, and in the stream."""
    language, stops = (
        make_language(LanguageConfig()),
        ("--stop", "))", "--stop", "41", "--stop", "9*("),
    )
    whole, made = (rows(capsys, *given, checkpoint, *more) for more in ((), stops))
    typed = [row.get("input", "") for row in whole]
    for plain, own, start in zip(whole, made, typed, strict=True):
        expected = (
            start + searched(plain["text"][len(start) :].encode(), (b"))", b"41", b"9*(")).decode()
        )
        cut = expected != plain["text"]
        assert own["text"] == expected
        assert own["finish_reason"] == ("stop" if cut else plain["finish_reason"])
        assert own["parses"] == language.parses(expected)
        assert own["score"] == (None if cut else pytest.approx(plain["score"]))
    assert "stop" in {row["finish_reason"] for row in made}
    _, out, _ = run_command(
        capsys, *(word for word in given if word != "--json"), checkpoint, *stops
    )
    columns = [line.split("\t") for line in out.splitlines()]
    assert [(row[0], row[4], len(row)) for row in columns] == [
        (row["text"], row["finish_reason"], 5) for row in made
    ]
    assert [row[2] == "-" for row in columns] == [row["score"] is None for row in made]
    if given[0] == "complete":
        events = rows(capsys, *given, checkpoint, *stops, "--stream")
        deltas = [
            (event["index"], event["sample"], event["delta"])
            for event in events
            if "delta" in event
        ]
        for own in made:
            assert (
                "".join(text for *which, text in deltas if which == [own["index"], own["sample"]])
                == own["text"]
            )


@pytest.mark.slow
@pytest.mark.parametrize("given", [GENERATE, COMPLETE])
def test_every_finish_reason_is_reported(
    capsys: pytest.CaptureFixture[str], checkpoint: str, given: tuple[str, ...]
) -> None:
    flags = (
        "--loop_period",
        "3",
        "--loop_repeats",
        "2",
        "--max_tokens",
        "12",
        "--stop_token",
        "7",
        "--seed",
        "5",
    )
    made = rows(capsys, *given, checkpoint, "--num", "25", *flags)
    reasons = [row["finish_reason"] for row in made]
    assert set(reasons) == {"eos", "stop", "length", "repetition"}
    for row in made:
        assert not row["text"].endswith("7") or row["finish_reason"] != "stop"
        assert row["text"].startswith(row.get("input", ""))
    for row in rows(capsys, *given, checkpoint, "--max_tokens", "3"):
        assert row["text"].startswith(row.get("input", ""))
        assert row["finish_reason"] in ("length", "eos")


@pytest.mark.slow
def test_first_complete_string_ends_the_output(
    capsys: pytest.CaptureFixture[str], checkpoint: str
) -> None:
    language, changed = make_language(LanguageConfig()), 0
    for given in (GENERATE, COMPLETE):
        whole, made = (
            rows(capsys, *given, checkpoint, *more) for more in ((), ("--first_complete",))
        )
        for plain, own in zip(whole, made, strict=True):
            found = first_complete(plain["text"], language)
            cut = found is not None and found.text != plain["text"]
            assert own["text"] == (found.text if found else plain["text"])
            assert own["finish_reason"] == ("stop" if cut else plain["finish_reason"])
            assert own["parses"] == (found is not None)
            changed += cut
    assert changed >= 2


@pytest.mark.slow
def test_flags_override_a_settings_file(
    capsys: pytest.CaptureFixture[str], checkpoint: str, tmp_path: Path
) -> None:
    path = tmp_path / "decode.yaml"
    path.write_text(
        "temperature: 0.8\nstop: ['7']\ncontrol:\n  max_tokens: 30\n"
        "  no_repeat_ngram: 4\ncompletion:\n"
    )
    flags = ["--temperature", "0.8", "--no_repeat_ngram", "4"]
    for given in (GENERATE, COMPLETE):
        both = (*given, checkpoint, "--config", str(path))
        assert rows(capsys, *both) == rows(
            capsys, *given, checkpoint, *flags, "--max_tokens", "30", "--stop", "7"
        )
        over = ("--max_tokens", "9", "--stop", "1", "--stop", "=")  # instead of those of the file
        made = rows(capsys, *both, *over)
        assert made == rows(capsys, *given, checkpoint, *flags, *over)
        assert made != rows(capsys, *given, checkpoint, *over)


@pytest.mark.parametrize(
    "text, message",
    [
        ("stpo: x", "unknown key 'stpo'; the nearest valid one is 'stop'"),
        (
            "control: {max_tokns: 3}",
            "unknown key 'max_tokns'; the nearest valid one is 'max_tokens'",
        ),
        ("sampler: {stop: x}", "unknown key 'stop'"),
        (
            "stop: x\ncontrol: {stop: y}",
            "key 'stop' stands twice, in section 'control' and outside",
        ),
        (
            "control: {stop: y}\nstop: x",
            "key 'stop' stands twice, in section 'control' and outside",
        ),
        (
            "completion: {temperature: 1}\ntemperature: 1",
            "key 'temperature' stands twice, in section 'completion'",
        ),
        ("stop: x\nstop: y", "key 'stop' stands twice"),
        ("stop: yes", "put it in quotes"),
        ("control: {stop: [a, ~]}", "put it in quotes"),
        ("stop_token: {a: b}", "a text or a list of texts"),
        ("control: 5", "section 'control' is '5'; it must map keys to values"),
        ("loop_repeats: 1", "loop_repeats is '1'; allowed is 2 to 1024"),
        ("stop: ['']", "stop is an empty text"),
    ],
)
def test_bad_settings_files_are_refused(
    capsys: pytest.CaptureFixture[str],
    length_conditioned: str,
    tmp_path: Path,
    text: str,
    message: str,
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    status, out, err = run_command(
        capsys, "complete", "(", "--config", str(path), "--checkpoint", length_conditioned
    )
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
    if "empty" not in message:
        with pytest.raises(ConfigError):
            load_decoding(path)


def test_settings_files_with_and_without_sections_are_equal(tmp_path: Path) -> None:
    path = tmp_path / "decode.yaml"
    for text in (
        "stop: [a, '5']\ntop_p: 0.5\nsampler: hybrid\ncontrol:\n",
        "control: {stop: [a, '5']}\nsampler: {sampler: hybrid, top_p: 0.5}\n"
        "completion: {top_p: 0.5}",
    ):
        path.write_text(text)
        found = load_decoding(path)
        assert found.control == ControlConfig(stop=("a", "5"))
        assert (found.sampler.sampler, found.sampler.top_p, found.completion.top_p) == (
            "hybrid",
            0.5,
            0.5,
        )
    path.write_text("")
    assert load_decoding(path) == DecodeConfig()
    path.write_text("stop: one text")
    assert load_decoding(path).control.stop == ("one text",)


@pytest.mark.slow
@pytest.mark.parametrize(
    "argv, message",
    [
        (["--stop", ""], "give one or more characters"),
        (["--stop_token", "++"], "is no token of the model; the nearest is"),
        (["--max_tokens", "-1"], "allowed is 0 to 16384"),
        (["--loop_repeats", "1"], "allowed is 2 to 1024"),
        (["--min_p", "2"], "allowed is 0 to 1"),
        (["--repetition_penalty", "0"], "allowed is 0.01 to 100"),
        (["--no_repeat_ngrams", "2"], "the nearest valid one is --no_repeat_ngram"),
    ],
)
def test_bad_control_flags_give_one_line(
    capsys: pytest.CaptureFixture[str], length_conditioned: str, argv: list[str], message: str
) -> None:
    for given in (GENERATE, COMPLETE):
        status, out, err = run_command(capsys, *given, length_conditioned, *argv)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert message in err


@pytest.mark.slow
def test_stream_refuses_controls_that_need_the_whole_string(
    capsys: pytest.CaptureFixture[str], length_conditioned: str, tmp_path: Path
) -> None:
    (tmp_path / "first.yaml").write_text("first_complete: true")
    for how in (["--first_complete"], ["--config", str(tmp_path / "first.yaml")]):
        status, out, err = run_command(capsys, *COMPLETE, length_conditioned, "--stream", *how)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert "--first_complete needs a whole string" in err
    off = ("--config", str(tmp_path / "first.yaml"), "--no_first_complete")
    assert run_command(capsys, *COMPLETE, length_conditioned, "--stream", *off)[0] == 0
    status, _, err = run_command(
        capsys, *GENERATE, length_conditioned, "--sampler", "coupled", "--top_k", "3"
    )
    assert (status, err.count("\n")) == (2, 1)
