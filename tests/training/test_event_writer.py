"""TensorBoard events, a log that fails without ending the run, and the token grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from maskdiff.config import Config
from maskdiff.config_io import config_from_dict
from maskdiff.languages import make_language
from maskdiff.sampling.trace import Trace, palette
from maskdiff.training.event_writer import EventWriter
from maskdiff.training.live_samples import live_samplers
from maskdiff.training.token_grid import CELL, FONT, FRAME, INK, dots, letter, token_grid

VOCABULARY = make_language(Config().language).vocabulary


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0, "scalars": 0})
    events.Reload()
    return events


def test_written_events_are_read_back_and_a_resumed_run_replaces_later_steps(
    tmp_path: Path,
) -> None:
    first = EventWriter(tmp_path)
    for step in range(6):
        first.scalar("loss", step / 2, step)
    first.text("samples", "(+12)=3", 5)
    first.image("grid", np.zeros((4, 6, 3), np.uint8), 5)
    first.close()
    read_before = read(tmp_path).Tags()
    second = EventWriter(tmp_path, start=4)
    second.scalar("loss", 9.0, 4)
    second.flush()
    events = read(tmp_path)
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (0, 0),
        (1, 0.5),
        (2, 1),
        (3, 1.5),
        (4, 9),
    ]
    assert read_before["images"] == ["grid"]
    assert read_before["tensors"] == ["samples/text_summary"]
    second.close()


def test_no_file_is_created_before_the_first_event(tmp_path: Path) -> None:
    EventWriter(tmp_path / "tensorboard").close()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_reported_once_without_an_exception(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = EventWriter(tmp_path)
    board.scalar("loss", 1.0, 0)
    board.file = open("/dev/full", "wb")  # noqa: SIM115 - closed by the board
    for step in range(3):
        board.scalar("loss", 1.0, step)
        board.flush()
    board.close()
    out, err = capsys.readouterr()
    assert out == ""
    assert (
        err == f"cannot write to {tmp_path}: No space left on device; "
        "training goes on without TensorBoard\n"
    )


def test_a_folder_that_cannot_be_created_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    EventWriter(tmp_path / "file" / "tensorboard").scalar("loss", 1.0, 0)
    assert capsys.readouterr().err.endswith("training goes on without TensorBoard\n")


def test_samplers_are_named_by_their_settings() -> None:
    plain = live_samplers(Config(), 128)
    assert {name: s.sampler for name, s in plain.items()} == {
        "autoregressive": "autoregressive", "left_to_right": "left_to_right",
        "spaced_bound_12": "spaced_bound",
    }  # fmt: skip
    assert plain["spaced_bound_12"].steps == 12
    coupled = live_samplers(config_from_dict({"use_coupling": True}), 128)
    assert coupled["coupled_12"].sampler == "coupled"
    assert list(live_samplers(Config(), 129)) == ["autoregressive", "spaced_bound_12"]


def test_every_symbol_has_a_unique_letter() -> None:
    letters = [letter(token, VOCABULARY) for token in range(len(VOCABULARY))]
    assert set(letters) - {" "} <= set(FONT)
    assert set("+-*()=,_0123456789#") <= set(FONT)
    assert len({dots(character).tobytes() for character in FONT}) == len(FONT)


def test_token_grid_shows_letters_blanks_and_changes() -> None:
    first = [VOCABULARY.bos, *VOCABULARY.encode("(+12)=3"), VOCABULARY.eos]
    blank = [VOCABULARY.mask if i in (3, 4) else token for i, token in enumerate(first)]
    trace = Trace(
        [torch.tensor([blank]), torch.tensor([first])], [torch.tensor([0]), torch.tensor([1])]
    )
    picture = token_grid(trace, 0, VOCABULARY)
    assert picture.shape == (2 * CELL, len(first) * CELL, 3)

    def inside(y: int, x: int) -> np.ndarray:
        return picture[y * CELL + 1 : (y + 1) * CELL - 1, x * CELL + 1 : (x + 1) * CELL - 1]

    assert (inside(0, 3) == palette(VOCABULARY)[VOCABULARY.mask]).all()  # a blank is empty
    assert (inside(1, 3)[0] == FRAME).all()  # what changed is framed
    assert not (inside(1, 2)[0] == FRAME).any()
    for y, x, character in ((1, 3, "1"), (1, 4, "2"), (0, 1, "("), (1, 2, "+")):
        assert (inside(y, x) == INK).all(-1).sum() == dots(character).sum()
