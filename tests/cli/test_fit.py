"""`maskdiff fit`: the file, the three lines, and what it does not overwrite."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from maskdiff import checkpoint
from maskdiff.cli.inference import main as inference
from maskdiff.cli.maskdiff import main
from maskdiff.cli.train import run_folder
from maskdiff.config import LanguageConfig, TrainConfig
from maskdiff.errors import ConfigError, DataError
from maskdiff.languages import split_of
from maskdiff.models.ngram_denoiser import NGramDenoiser
from tests.helpers.corpora import GRAMMAR, folder, lines
from tests.helpers.tiny import tiny_checkpoint

LINES = 150


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the corpus `pairs`."""
    folder(tmp_path / "pairs", lines(LINES))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_fits_a_folder_and_prints_a_command_that_works(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "pairs"]) == 0
    corpus, model, command = capsys.readouterr().out.splitlines()
    longest = max(map(len, lines(LINES)))
    assert corpus == f"{LINES} lines, 15 different symbols, longest {longest}"
    assert "nats per symbol on" in model
    assert "runs/pairs/best.pt" in model
    loaded = checkpoint.load_denoiser("runs/pairs/best.pt")
    assert isinstance(loaded.denoiser, NGramDenoiser)
    assert loaded.config.language.max_len == max(longest + 2, LanguageConfig.max_len)
    words = shlex.split(command.removeprefix("repair a string: "))
    assert words[:2] == ["python", "inference.py"]
    assert inference(words[2:]) == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.slow
def test_the_file_names_the_checker_and_has_the_weights(home: Path) -> None:
    (home / "pairs" / "check.py").write_text("def ok(text):\n    return '=' in text\n")
    assert main(["fit", "pairs", "--validity", "check:ok?"]) == 0
    payload = checkpoint.load("runs/pairs/best.pt")
    assert payload["config"]["language"]["validity"] == "check:ok?"
    assert payload["prior"]["ngram"] > 0


@pytest.mark.slow
def test_a_grammar_makes_every_answer_parse(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder(home / "pairs", lines(LINES), GRAMMAR)
    assert main(["fit", "pairs", "--accept_ambiguous"]) == 0
    model = capsys.readouterr().out.splitlines()[1]
    assert re.search(r"nats per symbol on \d+ test lines, \d\.\d+ by the fitted grammar", model)
    machine = ["--grammar", "--checkpoint", "runs/pairs/best.pt"]
    for command in (["repair", "a17;b=4"], ["edit", "a?1?;?=4"], ["generate", "--num", "3"]):
        assert inference([*command, *machine]) == 0
        answers = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
        assert answers
        assert all(re.fullmatch(r"[abc]=\d+(;[abc]=\d+)*", answer) for answer in answers)


@pytest.mark.slow
def test_a_long_line_raises_the_longest_length(home: Path) -> None:
    folder(home / "pairs", [*lines(LINES), "a=1;" * 30 + "b=2"])
    assert main(["fit", "pairs"]) == 0
    assert checkpoint.load_denoiser("runs/pairs/best.pt").language.max_symbols == 123


@pytest.mark.slow
def test_a_table_is_fitted_by_its_column(home: Path) -> None:
    rows = "".join(f"{i},{line}\n" for i, line in enumerate(lines(LINES)))
    (home / "rules.csv").write_text("id,rule\n" + rows)
    assert main(["fit", "rules.csv", "--field", "rule"]) == 0
    assert checkpoint.load_denoiser("runs/rules/best.pt").ngram is not None


@pytest.mark.slow
def test_options_of_the_language_hold(home: Path) -> None:
    with pytest.raises(DataError, match="longer than 6 symbols"):
        main(["fit", "pairs", "--max_len", "8"])
    assert main(["fit", "pairs", "--max_len", "8", "--skip_invalid", "--out", "x/y.pt"]) == 0
    assert checkpoint.load_denoiser("x/y.pt").language.max_symbols == 6


@pytest.mark.slow
def test_only_a_fit_is_replaced(home: Path) -> None:
    assert main(["fit", "pairs"]) == 0
    assert main(["fit", "pairs"]) == 0
    trained = tiny_checkpoint(home)
    before = trained.read_bytes()
    (home / "notes.pt").write_text("mine")
    for kept in (trained, home / "notes.pt"):
        with pytest.raises(ConfigError, match="is not a fit"):
            main(["fit", "pairs", "--out", str(kept)])
    assert trained.read_bytes() == before
    assert main(["fit", "pairs", "--out", str(trained), "--overwrite"]) == 0
    assert isinstance(checkpoint.load_denoiser(trained).denoiser, NGramDenoiser)


@pytest.mark.slow
def test_training_may_replace_a_fit(home: Path) -> None:
    assert main(["fit", "pairs"]) == 0
    assert run_folder(TrainConfig(name="pairs"), resume=False) == Path("runs/pairs")
    (home / "runs" / "pairs" / "best.pt").write_bytes(tiny_checkpoint(home).read_bytes())
    with pytest.raises(ConfigError, match="already holds a run"):
        run_folder(TrainConfig(name="pairs"), resume=False)


@pytest.mark.slow
def test_a_fit_is_not_diagnosed(home: Path) -> None:
    assert main(["fit", "pairs"]) == 0
    with pytest.raises(ConfigError, match="diagnose needs a neural model"):
        main(["diagnose", "runs/pairs/best.pt"])


def test_a_missing_folder_is_one_line(home: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        main(["fit", "nowhere"])


def test_a_corpus_without_held_out_lines_is_fitted(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The order is then 6, and no line measures it."""
    few = [text for text in lines(LINES) if split_of(text) == "train"][:5]
    folder(home / "few", few)
    assert main(["fit", "few"]) == 0
    assert "no test lines" in capsys.readouterr().out


def test_the_command_for_lines_of_one_symbol_has_a_text(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder(home / "short", ["a"])
    assert main(["fit", "short"]) == 0
    command = capsys.readouterr().out.splitlines()[-1]
    assert inference(shlex.split(command.removeprefix("repair a string: "))[2:]) == 0
