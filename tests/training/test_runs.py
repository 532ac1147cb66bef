"""Folders of runs: locks, leftovers, whole curves, and corpora that move."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from maskdiff import checkpoint
from maskdiff.cli import train as train_universal
from maskdiff.cli.arguments import run_cli
from maskdiff.cli.train import run_config, run_folder
from maskdiff.config import Config, LanguageConfig, ModelConfig
from maskdiff.data import Batches, held_out
from maskdiff.errors import CheckpointError, ConfigError, UserError
from maskdiff.languages import make_language, model_vocabulary
from maskdiff.languages.arithmetic_corrections import ArithmeticCorrections
from maskdiff.training.folder import LOCK, FolderError, RunFolder
from maskdiff.training.loop import Trainer
from maskdiff.training.state import check_same_language, check_unchanged
from maskdiff.utils.files import lock, remove_leftovers, write_atomic
from tests.helpers.corrections import BASE
from tests.helpers.forked import PIPE, Forked
from tests.helpers.fuzz import both_seeds, cases
from tests.helpers.training import assert_same_run, command, curves, same_tensors, tiny

QUICK: dict[str, object] = {"max_iters": 8, "eval_interval": 8}


# ---------------------------------------------------------------- corpora


def some_lines(rng: random.Random, count: int = 300) -> list[str]:
    return [f"{rng.choice('ab')}={rng.randrange(40)};" for _ in range(count)]


def write_corpus(folder: Path, lines: list[str], rng: random.Random) -> None:
    """Write the lines in random order, with random line ends, blank lines and byte-order mark."""
    folder.mkdir(parents=True, exist_ok=True)
    end = rng.choice(["\n", "\r\n", "\r"])
    lines = rng.sample(lines, len(lines))
    for _ in range(rng.randrange(4)):
        lines.insert(rng.randrange(len(lines)), "")
    mark = rng.choice([b"", b"\xef\xbb\xbf"])
    (folder / "corpus.txt").write_bytes(mark + (end.join(lines) + rng.choice(["", end])).encode())
    (folder / "notes.txt").write_text(str(rng.random()))


def corpus(folder: Path) -> LanguageConfig:
    return LanguageConfig(language=str(folder), max_len=24)


@pytest.mark.slow
@both_seeds
def test_draws_depend_on_the_lines_and_not_on_their_order(tmp_path: Path, seed: int) -> None:
    for rng in cases(20, seed):
        lines = some_lines(rng)
        languages = []
        for name in ("one", "two"):
            write_corpus(tmp_path / name, lines, rng)
            languages.append(make_language(corpus(tmp_path / name)))
        one, two = languages
        assert one.texts() == two.texts()
        assert one.state() == {**two.state(), "name": "one"}
        draws = [language.sample_many(50, np.random.default_rng(1)) for language in languages]
        assert draws[0] == draws[1]
        assert held_out(one, "validation", 9, 1) == held_out(two, "validation", 9, 1)
        texts = [Batches(language, 40, 8, 0).texts() for language in languages]
        assert texts[0] == texts[1]
        pieces = ModelConfig(vocabulary="bpe", vocab_size=30)
        assert model_vocabulary(one, pieces).merges == model_vocabulary(two, pieces).merges
        more = rng.choice(lines)  # a repeated line changes the corpus
        write_corpus(tmp_path / "two", [*lines, more], rng)
        assert make_language(corpus(tmp_path / "two")).state()["digest"] != one.state()["digest"]


def corpus_config(folder: Path | str, **changes: object) -> Config:
    return tiny(**{**QUICK, "language": str(folder), **changes})


def stopped(trainer: Trainer, step: int) -> None:
    """Run and stop as if a signal arrived in the step before `step`."""
    original = trainer.step

    def wrapped(*args: object) -> object:
        if trainer.progress.step == step - 1:
            trainer.stop_signal = signal.SIGTERM
        return original(*args)  # type: ignore[arg-type]

    trainer.step = wrapped  # type: ignore[method-assign, assignment]
    assert trainer.run().step == step


@pytest.mark.slow
def test_a_run_resumes_with_its_corpus_at_another_path_or_in_another_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(3)
    lines = some_lines(rng)
    write_corpus(tmp_path / "home" / "pairs", lines, rng)
    monkeypatch.chdir(tmp_path / "home")
    Trainer(corpus_config("pairs"), tmp_path / "whole").run()
    stopped(Trainer(corpus_config("pairs"), tmp_path / "parts"), 2)
    (tmp_path / "link").symlink_to("home/pairs")
    for step, path in enumerate(("./pairs/", tmp_path / "link", "../home/pairs"), 3):
        stopped(Trainer(corpus_config(path), tmp_path / "parts", resume=True), step)
    write_corpus(Path("pairs"), lines, rng)  # in another order
    assert run_config(tmp_path / "parts", {}).language.language == "../home/pairs"  # as given last
    (tmp_path / "elsewhere" / "pairs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = run_config(tmp_path / "parts", {})
    assert Path(found.language.language).samefile(tmp_path / "home" / "pairs")
    stopped(Trainer(found, tmp_path / "parts", resume=True), 6)
    (tmp_path / "home" / "pairs").rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match="is no folder; give it with --language"):
        run_config(tmp_path / "parts", {})
    moved = run_config(tmp_path / "parts", {"language": str(tmp_path / "moved")})
    Trainer(moved, tmp_path / "parts", resume=True).run()
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


GRAMMAR = 'start: ("a" | "b") "=" NUMBER ";"\nNUMBER: /[0-9]+/\n'


@pytest.mark.slow
def test_a_changed_corpus_is_refused_on_resume(tmp_path: Path) -> None:
    rng = random.Random(4)
    lines, folder, run = some_lines(rng), tmp_path / "x", tmp_path / "run"
    write_corpus(folder, lines, rng)
    (folder / "grammar.lark").write_bytes(GRAMMAR.encode())
    Trainer(corpus_config(folder, max_iters=2), run).run()

    def resumed(**changes: object) -> Trainer:
        return Trainer(corpus_config(folder, max_iters=2, **changes), run, resume=True)

    (folder / "grammar.lark").write_bytes(GRAMMAR.replace("\n", "\r\n").encode())
    resumed()
    for changed in (
        [*lines, lines[0]],
        lines[1:],
        [lines[0][:-1] + "9;", *lines[1:]],
        ["a=777;", *lines],
    ):
        write_corpus(folder, changed, rng)
        with pytest.raises(ConfigError, match=r"the strings of .* changed since"):
            resumed()
    write_corpus(folder, ["a=777", *lines], rng)  # an invalid line more, which is left out
    resumed(skip_invalid=True)
    write_corpus(folder, lines, rng)
    (folder / "grammar.lark").write_text(GRAMMAR.replace("[0-9]+", "[0-9][0-9]?"))
    with pytest.raises(ConfigError, match=r"the grammar of .* changed since"):
        resumed()
    (folder / "grammar.lark").unlink()
    with pytest.raises(ConfigError, match=r"the grammar of .* changed since"):
        resumed()
    with pytest.raises(UserError, match=r"language is 'arithmetic', but|another vocabulary"):
        Trainer(tiny(**QUICK), run, resume=True)


def test_attempts_may_move_but_not_change(tmp_path: Path) -> None:
    problem = "(+ (- 3 1) (* 2 4))"
    lines = [f"{problem};(+ 2 (* 2 4))>(+ 2 9)>11", f"{problem};(+ 2 (* 2 4))>(+ 2 8)>10"]

    def language(name: str, lines: list[str]) -> ArithmeticCorrections:
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
        lengths = [0] * 9 + [1]  # counting them would take seconds
        return ArithmeticCorrections(replace(BASE, attempts=str(tmp_path / name)), lengths)

    first = language("a.txt", lines)
    moved = language("b.txt", lines)
    assert check_same_language(first.state(), moved.state(), "it", "last.pt") == ""
    for changed in (lines[:1], lines[::-1]):
        other = language("c.txt", changed).state()
        with pytest.raises(ConfigError, match="the strings of 'it' changed since"):
            check_same_language(first.state(), other, "it", "last.pt")
    config = replace(tiny(), language=first.config)
    check_unchanged(config, replace(config, language=moved.config), "last.pt")
    with pytest.raises(ConfigError, match="attempts is ''"):
        check_unchanged(config, replace(config, language=BASE), "last.pt")


def test_a_run_of_an_earlier_version_resumes(tmp_path: Path) -> None:
    rng = random.Random(5)
    write_corpus(tmp_path / "x", some_lines(rng), rng)
    Trainer(corpus_config(tmp_path / "x", max_iters=4), tmp_path / "run").run()
    payload = checkpoint.load(tmp_path / "run" / "last.pt")
    del payload["language"]["order"], payload["training"]["curve"]
    checkpoint.save(tmp_path / "run" / "last.pt", payload)
    trainer = Trainer(corpus_config(tmp_path / "x", max_iters=8), tmp_path / "run", resume=True)
    assert "made by an earlier version, which drew lines by their order in the file" in trainer.note
    assert trainer.run().step == 8


# ---------------------------------------------------------------- locks


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.exists()


@pytest.mark.slow
def test_a_second_training_in_a_folder_is_refused_and_the_first_ends_when_it_is_moved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, rare = tmp_path / "run", 10**6
    settings: dict[str, object] = {"max_iters": rare, "save_interval": rare, "eval_interval": rare}
    long = command(folder, **{**QUICK, **settings, "log_interval": 20})
    with Forked(long, stderr=PIPE) as first:
        wait_for(folder / "config.yaml")
        before = files(folder)
        message = f"another training runs in '{folder}' (process {first.pid} on "
        with pytest.raises(FolderError, match=re.escape(message)):
            Trainer(tiny(**QUICK), folder).run()
        for words in (["--resume"], ["--max_iters", "5"]):
            assert run_cli(train_universal.main, ["--checkpoint_dir", str(folder), *words]) == 2
            out, err = capsys.readouterr()
            assert (out, err.count("\n")) == ("", 1)
            assert message in err
        after = files(folder)
        assert {path: after[path] for path in before} == before
        assert not any(path.suffix == ".pt" for path in after)
        folder.rename(tmp_path / "gone")
        errors = first.stderr.read()
        status = first.wait()
    line = f"train_universal.py: '{folder}' was removed or moved during the run, which ends"
    assert (status, errors.splitlines()[-1]) == (2, line)
    assert "Traceback" not in errors
    assert not folder.exists()


def test_a_run_removes_only_the_leftovers_of_killed_runs(tmp_path: Path) -> None:
    corpus_config = (LOCK, ".last.pt.1.tmp", f".best.pt.{os.getpid()}.tmp", ".config.yaml.77.tmp")
    users = (".last.pt.old.tmp", ".notes.txt.1.tmp", "last.pt.1.tmp", ".last.pt.1.tmp~")
    for name in (*corpus_config, *users):
        (tmp_path / name).write_bytes(b"half")
    Trainer(tiny(**QUICK), tmp_path).run()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"best.pt", "last.pt", "config.yaml", "tensorboard", *users}


@pytest.mark.parametrize(
    "text",
    [b"", b"\xff", b"[]", b'{"pid": %d, "host": "vm"}' % os.getpid(), b'{"pid": 1, "host": "x"}'],
    ids=["empty", "no text", "no lock", "of this process", "of another host"],
)
def test_the_text_of_a_lock_file_is_ignored(tmp_path: Path, text: bytes) -> None:
    """A process number may be reused or belong to another host: only the lock counts."""
    (tmp_path / LOCK).write_bytes(text)
    with RunFolder(tmp_path) as folder:
        assert folder.locked
        folder.check()
        with pytest.raises(FolderError, match=f"process {os.getpid()} on "), RunFolder(tmp_path):
            pass
        folder.write("last.pt", b"x")
    assert {path.name for path in tmp_path.iterdir()} == {"last.pt"}


def test_a_lock_path_that_is_no_file_is_left_unchanged(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / LOCK).symlink_to(tmp_path / "mine.txt")
    with pytest.raises(FolderError, match="cannot train in"), RunFolder(tmp_path):
        pass
    (tmp_path / LOCK).unlink()
    (tmp_path / LOCK).mkdir()
    with pytest.raises(FolderError, match="cannot train in"), RunFolder(tmp_path):
        pass
    os.rmdir(tmp_path / LOCK)
    os.mkfifo(tmp_path / LOCK)
    with pytest.raises(FolderError, match="cannot train in"), RunFolder(tmp_path):
        pass
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_default_names_avoid_existing_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with RunFolder(Path("runs/run")):
        assert run_folder(tiny().train, resume=False) == Path("runs/run-2")
        with RunFolder(Path("runs/mine")), pytest.raises(FolderError):
            run_folder(tiny(name="mine").train, resume=False)
    assert run_folder(tiny().train, resume=False) == Path("runs/run")


def test_a_last_pt_written_by_another_run_is_kept(tmp_path: Path) -> None:
    late = Trainer(tiny(**QUICK), tmp_path)
    Trainer(tiny(**QUICK), tmp_path).run()
    before = files(tmp_path)
    with pytest.raises(FolderError, match=r"another training wrote .* while this one started"):
        late.run()
    assert files(tmp_path) == before


def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("maskdiff.utils.files.fcntl", None)
    Trainer(tiny(**QUICK), tmp_path).run()
    assert "has no locks: start no second training there" in capsys.readouterr().err


def test_leftovers_are_removed_and_files_being_written_stay(tmp_path: Path) -> None:
    mine, other = tmp_path / ".a.json.123.tmp", tmp_path / ".a.json.456.tmp"
    mine.write_bytes(b"half")
    with other.open("wb") as file:
        assert lock(file.fileno())
        remove_leftovers(tmp_path / "a.json")
        assert (mine.exists(), other.exists()) == (False, True)
    write_atomic(tmp_path / "a.json", b"{}")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


# ---------------------------------------------------------------- folders that go away


def before_step(trainer: Trainer, step: int, action: object) -> None:
    """Let `action` happen before the update number `step`."""
    original = trainer.step

    def wrapped(*args: object) -> object:
        if trainer.progress.step == step:
            action()  # type: ignore[operator]
        return original(*args)  # type: ignore[arg-type]

    trainer.step = wrapped  # type: ignore[method-assign, assignment]


@pytest.mark.parametrize("interval", ["save_interval", "log_interval", "eval_interval"])
@pytest.mark.parametrize("kind", ["removed", "replaced", "moved", "link"])
def test_a_deleted_folder_ends_the_run_and_is_not_recreated(
    tmp_path: Path, kind: str, interval: str
) -> None:
    folder, other = tmp_path / "real" / "run", tmp_path / "other"
    folder.mkdir(parents=True)
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    (tmp_path / "run").symlink_to(folder)
    rare = {"save_interval": 100, "log_interval": 100, "eval_interval": 100}
    trainer = Trainer(tiny(**{**QUICK, **rare, interval: 3}), tmp_path / "run")

    def remove_folder() -> None:
        if kind == "removed":
            shutil.rmtree(folder)
        elif kind == "link":
            (tmp_path / "run").unlink()
            (tmp_path / "run").symlink_to(other)
        else:
            folder.rename(tmp_path / "away")
            if kind == "replaced":
                other.rename(folder)

    before_step(trainer, 4, remove_folder)
    with pytest.raises(FolderError, match=r"was (removed or moved|replaced) during the run"):
        trainer.run()
    assert folder.exists() == (kind in ("replaced", "link"))
    place = folder if kind == "replaced" else other
    assert [path.name for path in place.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    "number, message",
    [(28, "No space left on device"), (30, "Read-only file system"), (13, "Permission denied")],
)
def test_a_folder_that_cannot_be_written_keeps_the_last_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    trainer = Trainer(tiny(**QUICK, save_interval=3), tmp_path)

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    before_step(trainer, 4, lambda: monkeypatch.setattr(os, "replace", fail))
    with pytest.raises(CheckpointError, match=f"{message}; the previous file is kept"):
        trainer.run()
    monkeypatch.undo()
    assert checkpoint.load(tmp_path / "last.pt")["training"]["progress"]["step"] == 3
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "last.pt", "tensorboard"}


# ---------------------------------------------------------------- curves


class Killed(BaseException):
    """An exception that ends a run like SIGKILL: no cleanup follows."""


def kill_at(trainer: Trainer, rng: random.Random) -> None:
    """End the process in a step, an entry of the curve, a validation or a save."""
    assert trainer.monitor is not None
    owner, name = rng.choice(
        [(trainer, "step"), (trainer, "record"), (trainer.monitor, "log_step"),
         (trainer.monitor, "validate"), (trainer, "save"), (trainer.monitor.events, "scalar")]
    )  # fmt: skip
    original, calls, after = getattr(owner, name), rng.randrange(1, 12), rng.random() < 0.5

    def wrapped(*args: object, **named: object) -> object:
        nonlocal calls
        calls -= 1
        if calls == 0 and not after:
            raise Killed
        result = original(*args, **named)
        if calls == 0:
            raise Killed
        return result

    setattr(owner, name, wrapped)


@pytest.mark.slow
@both_seeds
def test_curves_of_killed_runs_have_no_gaps_and_no_duplicates(tmp_path: Path, seed: int) -> None:
    changes = {
        **QUICK,
        "max_iters": 20,
        "log_interval": 4,
        "eval_interval": 10,
        "save_interval": 3,
        "n_embd": 8,
    }
    Trainer(tiny(**changes), tmp_path / "whole").run()
    expected = curves(tmp_path / "whole")
    assert [step for step, _ in expected["train/loss_causal"]] == [4, 8, 12, 16, 20]
    for number, rng in enumerate(cases(4, seed)):
        folder = tmp_path / str(number)
        for _ in range(3):
            trainer = Trainer(tiny(**changes), folder, resume=(folder / "last.pt").exists())
            kill_at(trainer, rng)
            with pytest.raises(Killed):
                trainer.run()
                raise Killed
        Trainer(tiny(**changes), folder, resume=(folder / "last.pt").exists()).run()
        assert curves(folder) == expected
        assert_same_run(tmp_path / "whole", folder)


@pytest.mark.slow
def test_the_curve_is_wrong_if_running_means_are_lost(tmp_path: Path) -> None:
    """Negative control: without the saved sums the next entry differs."""
    changes = {**QUICK, "log_interval": 8}
    Trainer(tiny(**changes), tmp_path / "whole").run()
    stopped(Trainer(tiny(**changes), tmp_path / "parts"), 5)
    payload = checkpoint.load(tmp_path / "parts" / "last.pt")
    payload["training"]["curve"]["parts"].zero_()
    checkpoint.save(tmp_path / "parts" / "last.pt", payload)
    Trainer(tiny(**changes), tmp_path / "parts", resume=True).run()
    whole, parts = (curves(tmp_path / name) for name in ("whole", "parts"))
    assert whole["train/loss"] == parts["train/loss"]
    assert whole["train/loss_causal"] != parts["train/loss_causal"]
    weights = (
        checkpoint.load(tmp_path / name / "last.pt")["weights"] for name in ("whole", "parts")
    )
    assert same_tensors(*weights)


@pytest.mark.slow
def test_a_log_cut_inside_an_entry_is_continued(tmp_path: Path) -> None:
    changes = {**QUICK, "log_interval": 2, "save_interval": 3}
    Trainer(tiny(**changes), tmp_path / "whole").run()
    first = Trainer(tiny(**changes), tmp_path / "parts")
    before_step(first, 5, lambda: (_ for _ in ()).throw(Killed()).__next__())
    with pytest.raises(Killed):
        first.run()
    (events,) = (tmp_path / "parts" / "tensorboard").iterdir()
    events.write_bytes(events.read_bytes()[:-20])
    Trainer(tiny(**changes), tmp_path / "parts", resume=True).run()
    assert curves(tmp_path / "parts") == curves(tmp_path / "whole")
