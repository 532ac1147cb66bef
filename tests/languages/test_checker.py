"""A user's checker, whatever it does: verdicts, or one line with the text it was at."""

from __future__ import annotations

import copy
import json
import os
import pickle
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from maskdiff import checkpoint
from maskdiff.checkpoint import LanguageOverride
from maskdiff.config import LanguageConfig
from maskdiff.errors import ConfigError
from maskdiff.languages.checker import CheckerProcess, load_checker
from tests.helpers.tiny import tiny_config

MODULE = """
import os, re, signal, sys, time

class Many:
    def __bool__(self):
        raise ValueError("ambiguous")

class Unspeakable(Exception):
    def __str__(self):
        raise SystemExit

class Parser:
    def __init__(self, text):
        if text != "ab":
            raise ValueError

def raising(error):
    def check(text):
        raise error
    return check

many = lambda text: Many()
pair = lambda text: (False, "no")
async def later(text): return True
async def streamed(text): yield True
def lazy(text): yield True
base, leaves, interrupts = map(raising, (BaseException("x"), SystemExit(3), KeyboardInterrupt()))
closes, unspeakable, plain = map(raising, (GeneratorExit(), Unspeakable(), KeyError("k")))
def deep(text): return deep(text)
def greedy(text): return [0] * 10**15
def ends(text): os._exit(7)
def crashes(text): os.kill(os.getpid(), signal.SIGSEGV)
def deaf(text): os.closerange(0, 100)
def python(text):
    while True:
        pass
def sleeps(text): time.sleep(100)
def backtracks(text): return re.fullmatch("(a|aa)+", "a" * 99 + "b") is None
def native(text): return int("9" * 4000) ** 2000000 > 0
def stubborn(text):
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    python(text)
def subprocesses(text): return os.system("sleep 100")
def loud(text):
    print("noise")
    os.system("echo noise")
    os.write(1, b"noise")
    return len(text) % 2 == 0
def long(text): return len(text) > 1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checked")
    (path / "mine.py").write_text(MODULE)
    (path / "corpus.txt").write_text("ab\nba\naabb\n")
    return path


def load(name: str, folder: Path | None = None, timeout: float = 30.0) -> CheckerProcess:
    checker = load_checker(name, folder, timeout)
    assert checker is not None
    return checker


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("many?", "returns a Many, which is no verdict (ValueError: ambiguous)"),
        ("pair?", "returns a tuple, which is true whatever is in it; return True or False"),
        ("later?", "returns a coroutine, which has not looked at the text yet"),
        ("later", "returns a coroutine"),
        ("streamed", "returns a async_generator"),
        ("lazy?", "returns a generator"),
        ("lazy", "returns a generator"),
        ("base?", "BaseException: x"),
        ("leaves", "SystemExit: 3"),
        ("interrupts", "KeyboardInterrupt"),
        ("closes", "GeneratorExit"),
        ("unspeakable", "Unspeakable"),
        ("plain", "KeyError: 'k'"),
        ("deep?", "RecursionError"),
        ("greedy?", "MemoryError"),
        ("ends?", "ended its process (exit status 7)"),
        ("crashes?", "ended its process (signal 11)"),
        ("deaf?", "ended its process"),
    ],
)
def test_checker_errors_are_one_line_with_the_text(folder: Path, name: str, message: str) -> None:
    checker = load(f"mine:{name}", folder)
    for _ in range(2):  # a process that has ended is started again
        with pytest.raises(ConfigError) as caught:
            checker("it is\n here")
        assert str(caught.value).startswith(f"checker mine:{name} fails on 'it is\\n here': ")
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["python", "sleeps", "backtracks", "native", "stubborn", "subprocesses"]
)
def test_a_checker_that_hangs_is_stopped(folder: Path, name: str) -> None:
    """In Python, in C, behind a handled signal or in a child; from any thread."""
    messages: list[str] = []

    def ask() -> None:
        with pytest.raises(ConfigError) as caught:
            load(f"mine:{name}?", folder, 0.2)("ab")
        messages.append(str(caught.value))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join(60)
    expected = f"checker mine:{name}? fails on 'ab': it takes more than 0.2 s (validity_timeout)"
    assert messages == [expected]


def test_a_class_as_checker_parses_without_a_verdict(folder: Path) -> None:
    parser = load("mine:Parser", folder)
    assert (parser("ab"), parser("ba")) == (True, False)
    with pytest.raises(ConfigError, match="it is a class; a verdict is what a function returns"):
        load("mine:Parser?", folder)


def test_checker_prints_do_not_reach_the_output(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    checker = load("mine:loud?", folder)
    assert (checker("ab"), checker("a")) == (True, False)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("noise") == 6


def test_a_checker_serves_threads_copies_and_forks(folder: Path) -> None:
    """Replies are never mixed up; a fork gets a process of its own."""
    checker, wrong = load("mine:long?", folder), []

    def ask(text: str) -> None:
        wrong.extend(text for _ in range(200) if checker(text) != (len(text) > 1))

    threads = [threading.Thread(target=ask, args=("ab"[: 1 + i % 2],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    for other in (copy.deepcopy(checker), pickle.loads(pickle.dumps(checker))):
        assert (other("ab"), other("a")) == (True, False)
    child = os.fork()
    if not child:
        os._exit(0 if (checker("ab"), checker("a")) == (True, False) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert (checker("a"), checker("ab")) == (False, True)


def test_texts_of_any_kind_reach_a_checker() -> None:
    """Against the function itself, in this process."""
    checker = load("json:loads")
    for text in ('"\u00e9"', '"\ud800"', '"a\nb"', "\0", "", "[" * 50, '"' + "x" * 200_000 + '"'):
        try:
            json.loads(text)
            valid = True
        except ValueError:
            valid = False
        assert checker(text) == valid


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan"), float("inf"), 3601.0])
def test_time_limits_out_of_range_are_refused(timeout: float) -> None:
    with pytest.raises(ConfigError, match="above 0 and at most 3600"):
        load_checker("json:loads", timeout=timeout)


def test_the_time_limit_is_not_read_from_a_checkpoint(folder: Path) -> None:
    """The caller that names the checker sets the time limit."""
    import torch

    from maskdiff.languages import make_language
    from maskdiff.models.universal import UniversalDenoiser

    config = LanguageConfig(language=str(folder), validity_timeout=0.001)
    language = make_language(config)
    whole = tiny_config(vocab_size=len(language.vocabulary))
    whole = replace(whole, language=config)
    torch.manual_seed(0)
    weights = UniversalDenoiser(whole.model).state_dict()
    payload = checkpoint.make_payload(
        whole, language.vocabulary, weights, language=language.state()
    )
    override = LanguageOverride(str(folder), "mine:long?", validity_timeout=20.0)
    loaded = checkpoint.denoiser_from(payload, override=override)
    assert loaded.config.language.validity_timeout == 20.0
    assert loaded.language.parses("ab")
    assert not loaded.language.parses("a")


def test_a_checker_that_fails_on_a_sample_ends_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    from types import SimpleNamespace

    from maskdiff.training import live_samples as live

    def parses(text: str) -> bool:
        if text == "c":
            raise ConfigError("checker mine:ok? fails on 'c'")
        return True

    language = SimpleNamespace(parses=parses)
    assert live._valid(language, ["a", "b"]) == [True, True]  # type: ignore[arg-type]
    assert live._valid(language, ["a", "c"]) == []  # type: ignore[arg-type]
    assert "not judged: checker mine:ok? fails on 'c'" in capsys.readouterr().err
