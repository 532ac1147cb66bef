"""Lines of 500 symbols with an n-gram and with a tiny neural model."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from maskdiff import tasks
from maskdiff.checkpoint import Loaded, load_denoiser
from maskdiff.cli.maskdiff import main

pytestmark = pytest.mark.slow
WORDS = ("alpha", "bravo", "gamma", "delta")


def line(rng: random.Random) -> str:
    """Return words with commas between them, of 497 to 502 symbols."""
    return ",".join(rng.choice(WORDS) for _ in range(83)) + ",end."


@pytest.fixture(scope="module")
def lines() -> list[str]:
    rng = random.Random(0)
    return [line(rng) for _ in range(60)]


@pytest.fixture(scope="module")
def fitted(lines: list[str], tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder: Path = tmp_path_factory.mktemp("long")
    (folder / "corpus.txt").write_text("\n".join(lines) + "\n")
    path = folder / "fit.pt"
    assert main(["fit", str(folder), "--out", str(path)]) == 0
    return load_denoiser(path, "cpu")


def test_one_edit_is_repaired(fitted: Loaded, lines: list[str]) -> None:
    """A replacement near the start, and a deletion in the second half."""
    original = lines[3]
    for broken in (original[:7] + "." + original[8:], original[:301] + original[302:]):
        (result,) = tasks.repair(fitted, [broken])
        assert result.text == original


def test_two_edits_are_repaired(fitted: Loaded, lines: list[str]) -> None:
    original = lines[5]
    (result,) = tasks.repair(fitted, [original[:50] + original[51:400] + "." + original[400:]])
    assert result.text == original


def test_blanks_are_filled(fitted: Loaded, lines: list[str]) -> None:
    original = lines[7]
    text = original[:120] + "?" + original[121:]
    (result,) = tasks.edit(fitted, [text])
    assert len(result.text) == len(text)
    assert "?" not in result.text
    assert result.text[:120] + result.text[121:] == text.replace("?", "")


def test_long_strings_end_as_the_lines_do(fitted: Loaded, lines: list[str]) -> None:
    """Those that the n-gram does not end within the limit are cut, and say so."""
    made = tasks.generate(fitted, 6)
    ended = [result.text for result in made if result.finish_reason == "eos"]
    assert ended
    assert all(text.endswith(lines[0][-4:]) for text in ended)
    assert all(len(result.text) <= 513 for result in made)
    assert {result.finish_reason for result in made} <= {"eos", "length"}


def test_a_beginning_is_completed(fitted: Loaded, lines: list[str]) -> None:
    beginning = lines[9][:470]
    (result,) = tasks.complete(fitted, [beginning])
    assert result.text.startswith(beginning)
    assert len(result.text) > len(beginning)
