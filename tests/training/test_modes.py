"""A new objective needs only an entry in the table of modes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from maskdiff import checkpoint
from maskdiff.config import Config
from maskdiff.languages import Vocabulary
from maskdiff.noise import MODES, Canvases, Mode, Strings, make_canvases
from maskdiff.training.loop import Trainer
from tests.helpers.training import curves, same_tensors, tiny


def last_half(
    strings: Strings, config: Config, vocabulary: Vocabulary, generator: torch.Generator | None
) -> Canvases:
    """Mask the last half of every string; the weights of a string sum to its length."""
    inner = strings.inner()
    symbols = inner.sum(1, keepdim=True)
    hidden = inner & (inner.cumsum(1) > symbols // 2)
    weights = symbols / hidden.sum(1, keepdim=True)
    tokens = strings.tokens.masked_fill(hidden, vocabulary.mask)
    return make_canvases(strings, tokens, hidden, weights, torch.zeros(len(strings)))


@pytest.mark.slow
def test_a_registered_mode_is_trained_and_reported_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new model predicts uniformly, so its first loss is the entropy of a token."""
    Trainer(tiny(max_iters=3), tmp_path / "before").run()
    monkeypatch.setitem(MODES, "last_half", Mode(lambda config, vocabulary: 0.5, last_half))
    trainer = Trainer(tiny(max_iters=20, log_interval=1), tmp_path / "run")
    trainer.run()
    losses = [loss for _, loss in curves(tmp_path / "run")["train/loss_last_half"]]
    assert len(losses) == 20
    assert math.isclose(losses[0], math.log(len(trainer.vocabulary)), rel_tol=1e-5)
    assert sum(losses[-3:]) < 0.95 * sum(losses[:3])

    Trainer(tiny(max_iters=4), tmp_path / "before", resume=True).run()  # an older training state
    assert len(curves(tmp_path / "before")["train/loss_last_half"]) == 1


def test_a_mode_without_share_is_not_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Trainer(tiny(max_iters=3), tmp_path / "without").run()
    monkeypatch.setitem(MODES, "last_half", Mode(lambda config, vocabulary: 0.0, last_half))
    Trainer(tiny(max_iters=3), tmp_path / "with").run()
    one, two = (curves(tmp_path / name) for name in ("without", "with"))
    assert one == two
    assert "train/loss_last_half" not in two
    weights = (checkpoint.load(tmp_path / name / "last.pt") for name in ("without", "with"))
    assert same_tensors(*(payload["training"]["model"] for payload in weights))
