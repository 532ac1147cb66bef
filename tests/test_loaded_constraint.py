"""`Loaded.constraint` is created once and uses the deadline of the running task."""

from __future__ import annotations

import pytest

from maskdiff.errors import ConfigError
from maskdiff.sampling import Canvas
from maskdiff.utils.deadline import Deadline, TimedOut
from tests.helpers.tiny import tiny_loaded


def test_a_constraint_is_made_once() -> None:
    loaded = tiny_loaded()
    assert loaded.constraint() is loaded.constraint("cpu") is loaded.constraint(loaded.device)
    assert loaded.constraint() is not tiny_loaded().constraint()


def test_a_constraint_has_the_deadline_of_the_task() -> None:
    loaded = tiny_loaded()
    canvas = Canvas.template(["(+1?)=3"], loaded.vocabulary)
    arguments = canvas.tokens, ~canvas.known, canvas.length
    with loaded.denoiser.until(Deadline(1e-9)), pytest.raises(TimedOut):
        loaded.constraint().check(*arguments)
    loaded.constraint().check(*arguments)


def test_a_language_without_a_grammar_has_no_constraint() -> None:
    loaded = tiny_loaded()
    loaded.language.lark_grammar = lambda: None  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="no grammar"):
        loaded.constraint()
