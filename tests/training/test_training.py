"""Training: exact resumption, interruption, shards, and failures."""

from __future__ import annotations

import math
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from maskdiff import checkpoint
from maskdiff.cli.train import run_folder
from maskdiff.config_io import load_config
from maskdiff.errors import CheckpointError, ConfigError, UserError
from maskdiff.training.distributed import World
from maskdiff.training.loop import Trainer
from tests.helpers.training import assert_same_run, curves, same_tensors, tiny

RUNS: dict[str, dict[str, object]] = {
    "plain": {"live_samples": 4},
    "random": {  # all that draws random numbers
        "use_self_cond": True, "use_coupling": True, "dropout": 0.2, "num_samples": 0,
        "length_tilt": 0.3,
    },
    "faithful": {
        "faithful": True, "head": "aligned", "positions": "learned", "end_positions": False,
    },
    "adamw": {"optimizer": "adamw", "ema": 0.0},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path: Path, name: str) -> None:
    config = tiny(**RUNS[name])
    Trainer(config, tmp_path / "whole").run()
    first = Trainer(config, tmp_path / "parts")
    original = first.step
    first.step = lambda *args: (
        setattr(first, "stop_signal", 15) if first.progress.step == 7 else None,
        original(*args),
    )[1]  # type: ignore[method-assign]
    assert first.run().step == 8
    assert Trainer(config, tmp_path / "parts", resume=True).run().step == 12
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert curves(tmp_path / "whole") == curves(tmp_path / "parts")


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    """Negative control of the test above."""
    Trainer(tiny(max_iters=2), tmp_path / "a").run()
    Trainer(tiny(max_iters=2, seed=1), tmp_path / "b").run()
    a, b = (checkpoint.load(tmp_path / name / "last.pt")["weights"] for name in "ab")
    assert not same_tensors(a, b)


@pytest.mark.slow
def test_other_shards_are_the_same_run_up_to_rounding(tmp_path: Path) -> None:
    """Rounding differs (the negative control of the test above) and stays small at first."""
    for shards in (1, 5):
        Trainer(tiny(shards=shards, max_iters=8), tmp_path / str(shards)).run()
    one, five = (checkpoint.load(tmp_path / name / "last.pt")["weights"] for name in "15")
    assert not same_tensors(one, five)
    for name, weight in one.items():
        torch.testing.assert_close(five[name], weight, atol=1e-5, rtol=0)


def test_shards_are_added_in_order() -> None:
    """In float32, 1e8 + 1 - 1e8 is 0 in this order and 1 in another."""
    parts = torch.tensor([[1e8, 1.0], [1.0, 2.0], [-1e8, 3.0]])
    assert World().sum_shards(parts).tolist() == [0.0, 6.0]
    assert World().sum_shards(parts[[0, 2, 1]]).tolist() == [1.0, 6.0]
    assert list(World(1, 3).shard_numbers(6)) == [1, 4]
    with pytest.raises(ConfigError, match="3 processes need a multiple of 3"):
        World(1, 3).shard_numbers(4)


def test_a_signal_that_a_launcher_repeats_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(tiny(), tmp_path)
    with trainer.interruptible():
        try:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            pytest.fail("the echo of a signal ended the run at once")
        assert trainer.stop_signal == signal.SIGINT
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + 2.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.slow
@pytest.mark.parametrize("save_interval", [2, 500])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(
    tmp_path: Path, save_interval: int
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    settings: dict[str, object] = {"save_interval": save_interval, "eval_interval": 100}
    Trainer(tiny(**settings), whole).run()
    trainer = Trainer(tiny(**settings), parts)
    original = trainer.token_losses
    trainer.losses = lambda *args: (
        original(*args) * (math.nan if trainer.progress.step == 5 else 1.0)
    )
    with pytest.raises(UserError, match=r"at step 5; .*last.pt holds the state before it"):
        trainer.run()
    assert checkpoint.load(parts / "last.pt")["training"]["progress"]["step"] == 5
    Trainer(tiny(**settings), parts, resume=True).run()
    assert_same_run(whole, parts)


@pytest.mark.parametrize("value", [math.inf, 3e38])  # finite weights give NaN logits, too
@pytest.mark.parametrize(
    "save_interval, message", [(2, "last.pt holds an earlier one"), (500, "nothing was saved")]
)
def test_ruined_weights_do_not_replace_good_ones(
    tmp_path: Path, save_interval: int, message: str, value: float
) -> None:
    trainer = Trainer(tiny(save_interval=save_interval, eval_interval=100), tmp_path)
    original = trainer.step

    def ruined(*args: object) -> object:
        if trainer.progress.step == 5:
            with torch.no_grad():
                trainer.model.head.weight.fill_(value)
        return original(*args)  # type: ignore[arg-type]

    trainer.step = ruined  # type: ignore[method-assign, assignment]
    with pytest.raises(UserError, match=message):
        trainer.run()
    assert (tmp_path / "last.pt").exists() == (save_interval == 2)
    if save_interval == 2:
        assert checkpoint.load(tmp_path / "last.pt")["training"]["progress"]["step"] == 4


def record_validation_steps(trainer: Trainer) -> list[int]:
    """Return a list that receives the steps at which `trainer` validates."""
    assert trainer.monitor is not None
    steps: list[int] = []
    original = trainer.monitor.validate
    trainer.monitor.validate = lambda weights, progress: (
        steps.append(progress.step),
        original(weights, progress),
    )[1]  # type: ignore[method-assign]
    return steps


@pytest.mark.slow
def test_a_run_interrupted_in_validation_resumes_without_loss(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    Trainer(tiny(save_interval=500), whole).run()
    first = Trainer(tiny(save_interval=500), parts)
    first.monitor.validate = lambda *_: 1 // 0  # type: ignore[union-attr, method-assign]
    with pytest.raises(ZeroDivisionError):
        first.run()
    assert checkpoint.load(parts / "last.pt")["training"]["progress"]["step"] == 6
    assert not (parts / "best.pt").exists()
    second = Trainer(tiny(save_interval=500), parts, resume=True)
    steps = record_validation_steps(second)
    second.run()
    assert steps == [6, 12]
    assert_same_run(whole, parts)
    assert same_tensors(
        *(checkpoint.load(folder / "best.pt")["weights"] for folder in (whole, parts))
    )


def test_a_validation_is_not_repeated_on_resume(tmp_path: Path) -> None:
    first = Trainer(tiny(), tmp_path)
    original = first.validate

    def validate() -> None:
        original()
        first.stop_signal = 15

    first.validate = validate  # type: ignore[method-assign]
    assert first.run().step == 6
    second = Trainer(tiny(), tmp_path, resume=True)
    steps = record_validation_steps(second)
    second.run()
    third = Trainer(tiny(), tmp_path, resume=True)
    nothing = record_validation_steps(third)
    third.run()
    assert (steps, nothing) == ([12], [])


@pytest.mark.slow
def test_best_is_chosen_by_validation_and_tensorboard_has_all_metrics(tmp_path: Path) -> None:
    trainer = Trainer(tiny(max_iters=24, live_samples=4), tmp_path)
    seen = []
    validate = trainer.monitor.validate  # type: ignore[union-attr]

    def recorded(*args: object) -> dict[str, float]:
        metrics = validate(*args)  # type: ignore[arg-type]
        metrics["validation_loss"] += 10.0 if len(seen) == 3 else 0.0  # the last one is made worse
        seen.append(metrics["validation_loss"])
        return metrics

    trainer.monitor.validate = recorded  # type: ignore[union-attr, method-assign]
    progress = trainer.run()
    best = checkpoint.load(tmp_path / "best.pt")
    assert len(seen) == 4
    assert best["metrics"]["validation_loss"] == min(seen) == progress.best
    assert best["provenance"]["step"] == 6 * (1 + seen.index(min(seen))) < 24
    events = EventAccumulator(
        str(tmp_path / "tensorboard"), size_guidance={"images": 0, "tensors": 0}
    )
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    assert "validation/parses_spaced_bound_12" in scalars
    training = {"loss", "loss_mask", "loss_causal", "lr_scale"}
    validation = {"elbo", "floor", "next_token", "elbo_sigma_0.9", "parses_autoregressive"}
    assert {f"train/{name}" for name in training} <= scalars
    assert {f"validation/{name}" for name in validation} <= scalars
    assert events.Tags()["images"] == ["samples/token_grid"]
    assert any(tag.startswith("samples/autoregressive") for tag in events.Tags()["tensors"])


@pytest.mark.slow
def test_training_learns_and_validation_stays_above_the_entropy_floor(tmp_path: Path) -> None:
    config = tiny(max_iters=80, eval_interval=80, n_embd=32, batch_size=32)
    progress = Trainer(config, tmp_path).run()
    assert progress.metrics["floor"] < progress.metrics["elbo"] < 2.0 < math.log(15)
    assert progress.metrics["floor"] < progress.metrics["next_token"] < 2.0


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of two steps; tests copy it or leave it unchanged."""
    folder = tmp_path_factory.mktemp("finished")
    Trainer(tiny(max_iters=2), folder).run()
    return folder


@pytest.mark.parametrize("name", ["", ".", "..", "../../..", "a/b", "/tmp", "a\\b", "a\nb"])
def test_a_run_name_is_one_folder_name(name: str) -> None:
    for resume in (False, True):
        with pytest.raises(ConfigError, match="must name one folder"):
            run_folder(tiny(name=name).train, resume)


def test_run_folder_is_new_unless_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_folder(tiny().train, resume=False) == Path("runs/run")
    for folder in ("runs/run", "runs/mine"):
        Path(folder).mkdir(parents=True)
        (Path(folder) / "last.pt").write_bytes(b"")
    assert run_folder(tiny().train, resume=False) == Path("runs/run-2")
    assert run_folder(tiny().train, resume=True) == Path("runs/run")
    with pytest.raises(ConfigError, match="--resume"):
        run_folder(tiny(name="mine").train, resume=False)
    with pytest.raises(ConfigError, match=r"last\.pt"):
        run_folder(tiny(name="nothing").train, resume=True)


@pytest.mark.parametrize(
    "change",
    [
        {"operators": "+"}, {"max_int": 9}, {"sigma_max": 0.8}, {"n_embd": 32}, {"seed": 9},
        {"batch_size": 3}, {"num_samples": 65}, {"length_tilt": 0.5}, {"causal_share": 0.4},
        {"repair_share": 0.1}, {"skeleton_share": 0.0}, {"coupling_prob": 0.1},
        {"self_cond_prob": 0.1}, {"optimizer": "adamw"}, {"ema": 0.9}, {"faithful": True},
    ],
)  # fmt: skip
def test_a_run_resumes_as_the_same_run(finished: Path, change: dict[str, object]) -> None:
    ((key, value),) = change.items()
    with pytest.raises(
        ConfigError,
        match=rf"^{key} is '{re.escape(str(value))}', but .*last.pt' was trained with '.*'; ",
    ):
        Trainer(tiny(max_iters=4, **change), finished, resume=True)


def test_what_may_change_when_a_run_resumes(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    free = {"lr": 1e-3, "grad_clip": 0.5, "eval_interval": 3, "log_interval": 1, "name": "other"}
    assert Trainer(tiny(max_iters=4, **free), folder, resume=True).run().step == 4
    assert load_config(folder / "config.yaml").train.lr == 1e-3


def test_a_finished_run_is_left_unchanged(finished: Path) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    Trainer(tiny(max_iters=1, lr=1.0, name="other"), finished, resume=True).run()
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_sizes_follow_from_the_language(tmp_path: Path) -> None:
    trainer = Trainer(tiny(max_len=80, separator=",", max_iters=0), tmp_path)
    assert (trainer.config.model.block_size, trainer.config.model.vocab_size) == (
        80,
        len(trainer.language.vocabulary),
    )


def test_parent_checkpoints_are_recorded(finished: Path, tmp_path: Path) -> None:
    first = checkpoint.load(finished / "last.pt")["provenance"]
    assert (first["parent_tokens"], first["parent_seconds"]) == (0, 0.0)
    Trainer(tiny(max_iters=1), tmp_path / "child", init=finished / "last.pt").run()
    Trainer(tiny(max_iters=2), tmp_path / "child", resume=True).run()
    child = checkpoint.load(tmp_path / "child" / "last.pt")["provenance"]
    assert (child["parent_tokens"], child["parent_seconds"]) == (
        first["tokens"],
        first["train_seconds"],
    )
    Trainer(tiny(max_iters=1), tmp_path / "grandchild", init=tmp_path / "child" / "last.pt").run()
    grandchild = checkpoint.load(tmp_path / "grandchild" / "best.pt")["provenance"]
    assert grandchild["parent_tokens"] == first["tokens"] + child["tokens"]


def test_a_checkpoint_without_a_training_state_is_refused(finished: Path, tmp_path: Path) -> None:
    shutil.copy(finished / "best.pt", tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match="training state"):
        Trainer(tiny(), tmp_path, resume=True)


@pytest.mark.parametrize(
    "part",
    [{}, {"model": []}, {"model": {"head.weight": 1}}, {"optimizers": [1, 2]}, {"progress": 5}],
)
def test_a_damaged_training_state_gives_one_line(
    finished: Path, tmp_path: Path, part: dict[str, object]
) -> None:
    payload = checkpoint.load(finished / "last.pt")
    damaged = {**payload["training"], **part} if part else {}
    checkpoint.save(tmp_path / "last.pt", {**payload, "training": damaged})
    with pytest.raises(CheckpointError, match="training state does not fit"):
        Trainer(tiny(max_iters=2), tmp_path, resume=True)


def test_weights_without_the_coupling_input_start_an_equal_model(
    tmp_path: Path, finished: Path
) -> None:
    payload = checkpoint.load(finished / "best.pt")
    coupled = Trainer(tiny(use_coupling=True), tmp_path, init=finished / "best.pt")
    weights = coupled.model.state_dict()
    assert set(weights) - set(payload["weights"]) == {"coupling.weight"}
    assert not weights["coupling.weight"].any()
    assert same_tensors(coupled.ema.average, dict(weights))
    plain = checkpoint.denoiser_from(payload).denoiser.model
    tokens, length, sigma = torch.tensor([[2, 8, 1, 1, 5, 3]]), torch.tensor([6]), torch.zeros(1)
    noise = torch.randn(1, 6, len(coupled.language.vocabulary))
    coupled.model.eval()
    noisy = coupled.model.forward_strings(tokens, length, sigma, False, noise=noise)
    assert torch.equal(noisy, plain.forward_strings(tokens, length, sigma, False))
    assert coupled.run().step == 12
    assert coupled.model.state_dict()["coupling.weight"].any()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"n_layer": 3}, "do not fit this model"),
        ({"n_embd": 32}, "do not fit this model"),
        ({"end_positions": False}, "do not fit this model"),
        (
            {"operators": "+-"},
            "another vocabulary",
        ),  # of equal size: no other check would detect it
    ],
)
def test_foreign_weights_are_refused(
    finished: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        Trainer(tiny(use_coupling=True, **changes), tmp_path, init=finished / "best.pt")


def test_inconsistent_settings_are_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="either resume or init"):
        Trainer(tiny(), finished, resume=True, init=finished / "best.pt")
    with pytest.raises(ConfigError, match="even multiple"):
        Trainer(tiny(n_embd=18, positions="learned"), tmp_path / "odd")
