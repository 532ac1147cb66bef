"""The command `maskdiff serve`: signals, ports, languages and options."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.forked import PIPE, Forked
from tests.helpers.paths import REPOSITORY

pytest.importorskip("fastapi")

import openai

from maskdiff.checkpoint import make_payload, save
from maskdiff.cli.maskdiff import build_parser, main
from maskdiff.cli.serve import load_model, trimmer
from maskdiff.config import LanguageConfig
from maskdiff.errors import ConfigError
from maskdiff.languages import make_language
from maskdiff.models.universal import UniversalDenoiser
from maskdiff.serving import server
from maskdiff.serving.app import create_app
from maskdiff.serving.server import open_listener, run_in_thread
from tests.helpers.fits import fitted, fitted_payload
from tests.helpers.serving_process import post_half
from tests.helpers.serving_toy import client_of, streamed
from tests.helpers.tiny import tiny_checkpoint, tiny_config

# ------------------------------------------------------------------------------------------ command


@pytest.mark.slow
def test_the_command_serves_until_it_is_ended(tmp_path: Path) -> None:
    path = tiny_checkpoint(tmp_path, causal_length=False)
    words = ["-m", "maskdiff", "serve", "--checkpoint", str(path), "--port", "0", "--threads", "1"]
    with started(words, tmp_path) as (process, client, name):
        assert name == "tiny"
        asked: dict[str, Any] = {
            "model": "tiny",
            "prompt": "(+",
            "seed": 1,
            "max_tokens": 9,
            "n": 2,
        }
        whole = client.completions.create(**asked)
        parts = streamed(client.completions.create(stream=True, **asked))
        assert [choice.text for choice in whole.choices] == [parts[0]["text"], parts[1]["text"]]
        with pytest.raises(openai.BadRequestError, match="unknown symbol"):
            client.completions.create(model="tiny", prompt="@")
        end(process, signal.SIGTERM)


LIGHT = """
import sys
from tests.helpers.serving_toy import Toy, served
from maskdiff.cli import arguments as cli
from maskdiff.cli import serve as serve_cli
from maskdiff.serving import server
toy = Toy()
toy.pause = 0.05
server.GRACE = 1
serve_cli.load_model = lambda args: served(toy, 10_000)
parser = cli.Parser()
serve_cli.add_verb(parser.add_subparsers(dest="verb"))
flags = ["serve", "--port", "0"]
sys.exit(cli.run_cli(lambda argv: serve_cli.serve(parser.parse_args(argv)), flags))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_in_the_middle_of_an_answer(tmp_path: Path, number: signal.Signals) -> None:
    with started(["-c", LIGHT], tmp_path) as (process, client, _):
        stream = client.completions.create(
            model="toy", prompt="?", temperature=0, max_tokens=5000, stream=True
        )
        next(iter(stream))
        end(process, number)
        with pytest.raises(openai.APIError, match="ending"):
            list(stream)


@pytest.mark.slow
def test_signals_end_it_in_the_middle_of_a_slice_and_of_a_body(tmp_path: Path) -> None:
    """The answer is refused at once; the body, which could still come, when the grace is over.
    The server prints nothing else."""
    with (
        started(["-c", LIGHT.replace("0.05", "60")], tmp_path) as (process, client, _),
        ThreadPoolExecutor(2) as pool,
    ):
        asked = [
            pool.submit(client.completions.create, model="toy", prompt="?", seed=seed)
            for seed in range(2)
        ]
        with post_half(str(client.base_url).rstrip("/"), b"{") as slow:
            time.sleep(0.3)
            begun = time.monotonic()
            process.send_signal(signal.SIGTERM)
            for future in asked:
                error = future.exception(10)
                assert isinstance(error, openai.InternalServerError)
                assert (error.status_code, error.code) == (503, "closing")
            assert time.monotonic() - begun < 1
            response = b"".join(iter(lambda: slow.recv(4096), b""))
        assert response.startswith(b"HTTP/1.1 503 ")
        assert b"the server is ending" in response
        assert process.wait(20) == 0
        assert process.stderr.read() == ""


@contextmanager
def started(words: list[str], folder: Path) -> Iterator[tuple[Forked, openai.OpenAI, str]]:
    """The process, a client of its server, and the name of its model."""
    with Forked(words, folder, stderr=PIPE) as process:
        line = process.stderr.readline()
        assert line.startswith("maskdiff: serving "), line
        yield process, client_of(line.split()[-1]), line.split()[2]


def end(process: Forked, number: signal.Signals) -> None:
    """The signal ends it, without another word and as a success."""
    process.send_signal(number)
    assert process.wait(20) == 0
    assert process.stderr.read() == ""


def test_error_messages_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        open_listener("127.0.0.1", 0) as taken,
        pytest.raises(ConfigError, match=r"cannot listen on '127\.0\.0\.1'.* in use"),
    ):
        main(["serve", "--port", str(taken.getsockname()[1])])
    for host, port, message in (
        ("127.0.0.1", "70000", "to 65535"),
        ("", "0", "listen"),
        ("a" * 70, "0", "listen"),
    ):
        with pytest.raises(ConfigError, match=message):
            main(["serve", "--host", host, "--port", port])
    with pytest.raises(ConfigError, match="conditioned on the length"):
        main(["serve", "--port", "0", "--checkpoint", str(tiny_checkpoint(tmp_path))])
    with pytest.raises(ConfigError, match="prefill"):
        main(["serve", "--prefill", "guess"])
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ConfigError, match=r"maskdiff\[serve\]"):
        main(["serve"])


def test_other_addresses_are_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(server.Server, "run", lambda self, sockets: self.ready())
    path = tiny_checkpoint(tmp_path, causal_length=False)
    assert (
        main(
            ["serve", "--host", "0.0.0.0", "--port", "0", "--name", "it", "--checkpoint", str(path)]
        )
        == 0
    )
    first, second = capsys.readouterr().err.splitlines()
    assert "no authentication" in first
    assert second.startswith("maskdiff: serving it on http://0.0.0.0:")


def untrained_steps(folder: Path) -> Path:
    """An untrained checkpoint of a language of steps."""
    config = tiny_config(causal_length=False)
    config = replace(
        config,
        language=LanguageConfig(
            language="arithmetic-steps", operators="+", max_len=48, max_depth=1
        ),
    )
    language = make_language(config.language)
    config = replace(
        config, model=replace(config.model, vocab_size=len(language.vocabulary), block_size=48)
    )
    path = folder / "steps.pt"
    save(
        path,
        make_payload(config, language.vocabulary, UniversalDenoiser(config.model).state_dict()),
    )
    return path


@pytest.mark.slow
def test_a_language_of_steps_makes_prompts_of_problems(tmp_path: Path) -> None:
    plain = load_model(
        build_parser().parse_args(
            ["serve", "--checkpoint", str(tiny_checkpoint(tmp_path, causal_length=False))]
        )
    )
    assert (plain.name, plain.chat_prompt("(+ 1 2)"), plain.count_tokens("(+ 1 2)")) == (
        "tiny",
        "(+ 1 2)",
        5,
    )
    path = untrained_steps(tmp_path)
    steps = load_model(
        build_parser().parse_args(["serve", "--checkpoint", str(path), "--name", "steps"])
    )
    assert (steps.name, steps.chat_prompt("(+ 1 2)"), steps.count_tokens("(+ 1 2)")) == (
        "steps",
        "(+ 1 2)>",
        7,
    )
    with run_in_thread(create_app(steps)) as url:
        messages: Any = [
            {"role": "user", "content": "(+ 1 2)"},
            {"role": "assistant", "content": "(+"},
        ]
        asked: dict[str, Any] = {
            "model": "steps",
            "seed": 3,
            "max_tokens": 20,
            "stop": ["1", ">"],
            "n": 2,
        }
        chat = client_of(url).chat.completions.create(messages=messages, **asked)
        stream = streamed(
            client_of(url).chat.completions.create(messages=messages, stream=True, **asked)
        )
        text = client_of(url).completions.create(prompt="(+ 1 2)>(+", logprobs=0, **asked)
    texts = [choice.text for choice in text.choices]
    assert (
        texts
        == [choice.message.content for choice in chat.choices]
        == [stream[0]["text"], stream[1]["text"]]
    )
    assert text.usage == chat.usage


@pytest.mark.slow
def test_an_ngram_alone_is_served(tmp_path: Path) -> None:
    """The text and its log-probabilities are those of the n-gram."""
    save(tmp_path / "fit.pt", fitted_payload())
    flags = ["serve", "--checkpoint", str(tmp_path / "fit.pt"), "--name", "fit"]
    with run_in_thread(create_app(load_model(build_parser().parse_args(flags)))) as url:
        asked: dict[str, Any] = {"model": "fit", "prompt": "a=", "seed": 3, "max_tokens": 90}
        made = client_of(url).completions.create(**asked, n=2, temperature=1.0, logprobs=0)
    ngram = fitted().ngram
    assert ngram is not None
    for choice in made.choices:
        assert choice.finish_reason == "stop"
        text = "a=" + choice.text
        expected = ngram.symbol_log_probs([ngram.vocabulary.encode(text)])[0][2:]
        assert choice.logprobs is not None
        shown = choice.logprobs.token_logprobs
        assert shown is not None
        assert shown[: len(choice.text)] == pytest.approx(expected[: len(choice.text)], abs=1e-4)


@pytest.mark.slow
def test_white_space_around_a_turn_is_not_read(tmp_path: Path) -> None:
    """Clients send turns that end in a newline, which the model has no symbol for."""
    path = untrained_steps(tmp_path)
    flags = ["serve", "--checkpoint", str(path), "--name", "steps"]
    asked: dict[str, Any] = {"model": "steps", "seed": 3, "max_tokens": 12}
    with run_in_thread(create_app(load_model(build_parser().parse_args(flags)))) as url:

        def answer(*turns: str) -> str | None:
            roles = ("user", "assistant")
            chat: Any = [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]
            made = client_of(url).chat.completions.create(messages=chat, **asked)
            return made.choices[0].message.content

        plain = answer("(+ 1 2)")
        for turn in ("(+ 1 2)\n", "(+ 1 2)\r\n\r\n", "\n\t(+ 1 2) \n ", "(+ 1 2)\u00a0\u2028"):
            assert answer(turn) == plain
        assert answer("(+ 1 2)\n", "(+\n") == answer("(+ 1 2)", "(+")
        made = client_of(url).completions.create(prompt="(+ 1 2)>(+ ", **asked)
        assert answer("(+ 1 2)", "(+ \n") == made.choices[0].text
        with pytest.raises(openai.BadRequestError, match="unknown symbol"):
            answer("(+ 1\n2)")
    assert trimmer(" ")("\n a\n ") == " a\n "
    assert trimmer("")("\x0b a\n ") == "a"


def test_other_commands_need_no_extra() -> None:
    program = (
        "import sys; from maskdiff.cli.maskdiff import build_parser; build_parser().format_help(); "
        "assert not {'fastapi', 'uvicorn', 'openai', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=REPOSITORY, timeout=60)


def test_a_listening_socket_is_not_shared() -> None:
    with open_listener("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ConfigError):
            open_listener("127.0.0.1", port)
        assert isinstance(first, socket.socket)
