"""Damaged checkpoints load cleanly or are refused in one line; absurd weights give no answer."""

from __future__ import annotations

import copy
import io
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from maskdiff import checkpoint, tasks
from maskdiff.checkpoint import Loaded, Payload
from maskdiff.cli.arguments import run_cli
from maskdiff.config import SamplerConfig
from maskdiff.errors import CheckpointError, LogitsError, UserError, quote
from maskdiff.models.universal import UniversalDenoiser, finite
from maskdiff.training.loop import Trainer
from tests.helpers.fuzz import both_seeds, cases
from tests.helpers.tiny import PIECES, tiny_checkpoint, tiny_payload
from tests.helpers.training import tiny

SETTINGS: dict[str, object] = {"n_embd": 8, "use_self_cond": True, "max_iters": 2}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Payload:
    """Return the content of `last.pt` of a run of two steps."""
    folder = tmp_path_factory.mktemp("whole")
    Trainer(tiny(**SETTINGS), folder).run()
    return checkpoint.load(folder / "last.pt")


# ---------------------------------------------------------------- the state of training


def changed(payload: Payload, path: str, value: object) -> Payload:
    """Return a copy with the value at `path` (keys and numbers joined by slashes) replaced."""
    made = copy.deepcopy(payload)
    *way, last = [int(part) if part.isdecimal() else part for part in path.split("/")]
    holder: Any = made
    for part in way:
        holder = holder[part]
    if value is REMOVED:
        del holder[last]
    else:
        holder[last] = value(holder[last]) if callable(value) else value
    return made


REMOVED = object()
MUON, ADAM = "training/optimizers/0/state/0/momentum", "training/optimizers/1/state/0"
MALFORMED: list[tuple[str, object, str]] = [
    ("training", 5, "holds no training state"),
    ("training/progress", REMOVED, "the state lacks 'progress'"),
    ("training/progress", [], "progress is '[]', not names with values"),
    ("training/progress/step", REMOVED, "progress lacks 'step'"),
    ("training/progress/step", "many", "progress: step is 'many'"),
    ("training/progress/step", -1, "progress: step is '-1'"),
    ("training/progress/step", math.nan, "progress: step is 'nan'"),
    ("training/progress/step", 10**30, "progress: step is '1000000"),
    ("training/progress/step", True, "progress: step is 'True'"),
    ("training/progress/step", torch.tensor(2), "progress: step is 'tensor(2)'"),
    ("training/progress/step", 3, "its step is 2, that of the run 3"),
    ("training/progress/step", 1, "best_step or validated is after step 1"),
    ("training/progress/tokens", 1.5, "progress: tokens is '1.5'"),
    ("training/progress/seconds", math.inf, "progress: seconds is 'inf'"),
    ("training/progress/best", math.nan, "progress: best is 'nan'"),
    ("training/progress/validated", -2, "progress: validated is '-2'"),
    ("training/progress/metrics", {"elbo": "low"}, "progress: metrics is"),
    ("training/progress/parent_tokens", -1, "progress: parent_tokens is '-1'"),
    ("training/progress/extra", 1, "progress has 'extra', which this version does not know"),
    ("training/extra", 1, "the state has 'extra', which this version does not know"),
    ("training/rng", torch.zeros(3, dtype=torch.uint8), "the state has 'rng'"),
    ("training/curve/loss", math.nan, "curve: loss is 'nan'"),
    ("training/curve/logged", 7, "curve: logged is after step 2"),
    ("training/curve/parts", [1.0], "curve: parts is '[1.0]'"),
    ("training/curve/parts", torch.zeros(9, 2), "curve: parts is [9, 2] torch.float32"),
    ("training/model/head.weight", REMOVED, "weights lacks 'head.weight'"),
    ("training/model/head.weight", lambda w: w[:1], "weights: head.weight is [1, 8] torch.float32"),
    ("training/model/head.weight", lambda w: w.double(), "head.weight is [20, 8] torch.float64"),
    ("training/model/head.weight", lambda w: w * math.nan, "infinite or none"),
    ("training/model/head.weight", 1, "weights: head.weight is no tensor stored in full"),
    ("weights/head.weight", lambda w: w[:1], "averaged weights: head.weight is [1, 8]"),
    ("weights/head.weight", REMOVED, "averaged weights lacks 'head.weight'"),
    ("training/optimizers", [], "optimizers is '[]', not a list of 2"),
    ("training/optimizers/1", {}, "optimizer AdamW lacks"),
    ("training/optimizers/0/state", {}, "optimizer Muon: its state lacks '0'"),
    ("training/optimizers/1/state", {}, "optimizer AdamW: its state lacks '0'"),
    ("training/optimizers/1/state/99", {}, "its state has '99'"),
    ("training/optimizers/0/param_groups/0/params", [1, 0], "its groups hold other weights"),
    ("training/optimizers/0/param_groups/0/params", torch.ones(2), "its groups hold other weights"),
    ("training/optimizers/0/param_groups", 5, "param_groups is '5', not a list of groups"),
    (MUON, lambda m: m[:1], "weight 'blocks.0.attention.qkv.weight': momentum is [1, 8]"),
    (MUON, lambda m: m.bfloat16(), "momentum is [24, 8] torch.bfloat16, not [24, 8] torch.float32"),
    (MUON, lambda m: m.to_sparse(), "momentum is no tensor stored in full"),
    (MUON, lambda m: m.to("meta"), "momentum is no tensor stored in full"),
    (f"{ADAM}/exp_avg", REMOVED, "lacks 'exp_avg'"),
    (f"{ADAM}/exp_avg", lambda m: m * math.inf, "exp_avg has numbers that are infinite or none"),
    (f"{ADAM}/exp_avg_sq", lambda m: -m - 1, "exp_avg_sq is negative"),
    (f"{ADAM}/step", lambda s: s - 1, "its step is 1, that of the run 2"),
    (f"{ADAM}/step", lambda s: s * math.nan, "step has numbers that are infinite or none"),
    (f"{ADAM}/step", 2, "step is no tensor stored in full"),
    ("config/train/seed", 5, "seed is '0', but"),
    ("config/model/n_layer", 2, "n_layer is '1', but"),
    ("config/train/lr", "fast", "configuration that this program cannot use"),
    ("language", {"lengths": torch.ones(2)}, "language is"),
    ("provenance/tokens", -1, "provenance is"),
    ("provenance/train_seconds", math.nan, "provenance is"),
    ("metrics/elbo", 10**300, "metrics is"),
]  # fmt: skip


@pytest.mark.parametrize(
    "path, value, message", MALFORMED, ids=[message for _, _, message in MALFORMED]
)
def test_a_malformed_training_state_is_refused_in_one_line(
    tmp_path: Path, whole: Payload, path: str, value: object, message: str
) -> None:
    checkpoint.save(tmp_path / "last.pt", changed(whole, path, value))
    with pytest.raises(UserError) as caught:
        Trainer(tiny(**SETTINGS), tmp_path, resume=True)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_saved_optimiser_groups_have_no_effect(tmp_path: Path, whole: Payload) -> None:
    path = "training/optimizers/1/param_groups/0"
    odd = {"lr": "high", "betas": None, "maximize": True, "differentiable": True, "other": object}
    made = changed(
        whole, path, lambda group: {**group, **{k: v for k, v in odd.items() if k != "other"}}
    )
    checkpoint.save(tmp_path / "last.pt", made)
    trainer = Trainer(tiny(**{**SETTINGS, "max_iters": 4}), tmp_path, resume=True)
    assert trainer.optimizers[1].param_groups[0]["maximize"] is False
    assert trainer.run().step == 4


def test_tensors_that_share_memory_are_copied(tmp_path: Path, whole: Payload) -> None:
    """Check an expanded scalar, which no update can write, and two moments in one tensor."""
    made = changed(whole, MUON, lambda m: torch.zeros(1).expand_as(m))
    moments = made["training"]["optimizers"][1]["state"][0]
    moments["exp_avg"] = moments["exp_avg_sq"]
    checkpoint.save(tmp_path / "last.pt", made)
    trainer = Trainer(tiny(**{**SETTINGS, "max_iters": 4}), tmp_path, resume=True)
    state = trainer.optimizers[1].state[trainer.optimizers[1].param_groups[0]["params"][0]]
    assert state["exp_avg"].data_ptr() != state["exp_avg_sq"].data_ptr()
    assert trainer.run().step == 4


# ---------------------------------------------------------------- fuzzing

VALUES: list[object] = [
    None, True, -1, 0, 10**30, 10**5000, math.nan, -math.inf, 1e300, "", "x", "\x00\n", b"", [], {},
    [[]], {"a": 1}, {1: 2}, (), (1, 2), torch.ones(0), torch.ones(2, 3), torch.tensor(3),
    torch.tensor(math.nan), torch.ones(2).to("meta"), torch.ones(2).to_sparse(),
    torch.ones(1, dtype=torch.complex64), torch.zeros(1).double().expand(10**6, 10**6),
]  # fmt: skip
TENSORS: list[Callable[[torch.Tensor], object]] = [
    lambda t: t.flatten()[:0], lambda t: t.flatten(), lambda t: t.unsqueeze(0),
    lambda t: t.double(),
    lambda t: t.half(), lambda t: t.long(), lambda t: t.bool(), lambda t: t * math.nan,
    lambda t: t * 0 + 3e38, lambda t: -t - 1, lambda t: t.mT if t.dim() > 1 else t,
    lambda t: t.to_sparse(), lambda t: t.tolist(), lambda t: torch.nn.Parameter(t.float()),
    lambda t: t.to("meta"),
]  # fmt: skip


def damage(payload: Payload, rng: random.Random) -> Payload:
    """Return a copy with one to three random replacements, removals, additions or swaps."""
    made = copy.deepcopy(payload)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        holder: Any = made
        while True:
            keys: list[Any] = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not keys:
                break
            key = rng.choice(keys)
            below = holder[key]
            if isinstance(below, (dict, list)) and len(below) and rng.random() < 0.85:
                holder = below
                continue
            _change(holder, key, keys, rng)
            break
    return made


def is_plain(value: object) -> bool:
    """Whether the value is an undamaged tensor."""
    strided = isinstance(value, torch.Tensor) and value.layout is torch.strided
    return strided and value.device.type == "cpu" and value.dtype is torch.float32


def _change(holder: Any, key: Any, keys: list[Any], rng: random.Random) -> None:
    kind = rng.randrange(4)
    if is_plain(holder[key]) and rng.random() < 0.7:
        holder[key] = rng.choice(TENSORS)(holder[key])
    elif kind == 0:
        holder[key] = copy.copy(rng.choice(VALUES))
    elif kind == 1:
        del holder[key]
    elif kind == 2 and isinstance(holder, dict):
        holder[rng.choice(["new", 7, None, (1,), ""])] = copy.copy(rng.choice(VALUES))
    else:
        other = rng.choice(keys)
        holder[key], holder[other] = holder[other], holder[key]


def saved(payload: object) -> bytes:
    """Return the bytes of a file of `payload`, also if parts are missing."""
    buffer = io.BytesIO()
    torch.save(payload, buffer)
    return buffer.getvalue()


def bytes_damaged(data: bytes, rng: random.Random) -> bytes:
    """Return the bytes of a file with some flipped, removed, repeated or set to zero."""
    changed, at = bytearray(data), rng.randrange(len(data))
    kind, size = rng.randrange(4), rng.choice([1, 2, 16, 500, 5000])
    if kind == 0:
        for _ in range(size % 17):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del changed[at : at + size]
    elif kind == 2:
        changed[at:at] = changed[at : at + size]
    else:
        changed[at : at + size] = bytes(len(changed[at : at + size]))
    return bytes(changed)


def uses(folder: Path) -> dict[str, Callable[[], object]]:
    """Return the operations on the checkpoint `folder`/last.pt."""
    last, settings = folder / "last.pt", {**SETTINGS, "max_iters": 3, "eval_interval": 100}
    return {
        "resume": lambda: Trainer(tiny(**settings), folder, resume=True).run(),
        "init": lambda: Trainer(tiny(**settings), folder / "other", init=last),
        "sample": lambda: tasks.generate(
            checkpoint.load_denoiser(last), 2, sampler=SamplerConfig("maskgit", steps=2)
        ),
        "describe": lambda: str(checkpoint.payload_summary(checkpoint.load(last))),
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's, about odd tensors
@both_seeds
def test_any_damage_is_refused_in_one_line_or_harmless(
    tmp_path: Path, whole: Payload, seed: int
) -> None:
    clean, outcomes = checkpoint.to_bytes(whole), {"clean": 0, "refused": 0}
    for rng in cases(150, seed):
        if rng.random() < 0.25:
            data = bytes_damaged(clean, rng)
        else:
            data = saved(damage(whole, rng))
        (tmp_path / "last.pt").write_bytes(data)
        use = rng.choice(["resume", "resume", "resume", "init", "sample", "describe"])
        line = "clean"
        try:
            uses(tmp_path)[use]()
        except UserError as error:
            line = str(error)
        assert "\n" not in line
        outcomes["clean" if line == "clean" else "refused"] += 1
    assert outcomes["refused"] > 0


# ---------------------------------------------------------------- absurd weights


def model_with_huge_weights(name: str, value: float = 3e38, **settings: object) -> Loaded:
    """Return a model whose weights `name` are finite but too large."""
    payload = tiny_payload(**settings)
    payload["weights"][name].fill_(value)
    return checkpoint.denoiser_from(payload)


def plain(sampler: str, **settings: Any) -> Callable[[Loaded], object]:
    return lambda loaded: tasks.generate(loaded, 2, sampler=SamplerConfig(sampler, **settings))


VERBS: dict[str, Callable[[Loaded], object]] = {
    "maskgit": plain("maskgit", steps=2),
    "autoregressive": plain("autoregressive"),
    "grammar": plain("maskgit", steps=2, grammar=True),
    "left_to_right": plain("left_to_right", steps=0),
    "repair": lambda loaded: tasks.repair(loaded, ["(+12=3"]),
    "repair_grammar": lambda loaded: tasks.repair(loaded, ["(+12=3"], grammar=True),
    "edit": lambda loaded: tasks.edit(loaded, ["(+?2)=3"]),
    "solve": lambda loaded: tasks.fill(loaded, ["(+?2)=3"]),
    "complete": lambda loaded: list(tasks.complete(loaded, ["(+1"], num=2)),
}


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "complete"])
def test_a_model_that_gives_nan_gives_no_answer(verb: str) -> None:
    with pytest.raises(LogitsError, match="the model gives NaN or infinite logits"):
        VERBS[verb](model_with_huge_weights("head.weight"))


def test_a_completion_of_a_model_that_gives_nan_is_an_error() -> None:
    (result,) = tasks.complete(model_with_huge_weights("head.weight"), ["(+1"], num=2)
    assert (result.text, result.finish_reason) == ("", "error")
    assert "the model gives NaN or infinite logits" in str(result.error)


@pytest.mark.slow
@both_seeds
def test_absurd_weights_give_no_special_tokens(seed: int) -> None:
    for rng in cases(20, seed):
        settings = rng.choice([{}, PIECES, {"use_self_cond": True}, {"use_coupling": True}])
        names = list(tiny_payload(**settings)["weights"])
        verb = rng.choice([name for name in VERBS if settings != PIECES or name == "complete"])
        try:
            loaded = model_with_huge_weights(
                rng.choice(names), rng.choice([3e38, -3e38, 1e30, 1e-45]), **settings
            )
            answers = str(VERBS[verb](loaded))
        except LogitsError:
            continue
        assert not any(
            special in answers for special in ("<PAD>", "<MASK>", "<BOS>", "<EOS>", "nan")
        )


def test_the_command_reports_nan_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from maskdiff.cli import inference

    path = tiny_checkpoint(tmp_path)
    payload = checkpoint.load(path)
    payload["weights"]["head.weight"].fill_(3e38)
    checkpoint.save(path, payload)
    for words in (["generate", "--num", "2"], ["repair", "(+12=3"], ["edit", "(+?2)=3"]):
        assert run_cli(inference.main, [*words, "--checkpoint", str(path), "--threads", "1"]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert "the model gives NaN or infinite logits" in err


def test_every_model_checks_for_finite_values() -> None:
    good = torch.tensor([1.0, -2.0])
    assert finite(good) is good
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(LogitsError):
            finite(torch.tensor([1.0, bad]))
    model = UniversalDenoiser(tiny().model)
    model.head.weight.data.fill_(math.nan)  # type: ignore[union-attr]
    shape = torch.zeros(1, 3, dtype=torch.int64)
    given = {"segment": shape, "position": shape, "from_end": shape, "causal": shape.bool()}
    model.train()
    assert model(shape, shape.float(), **given).isnan().any()  # a step of training checks its loss
    model.eval()
    with pytest.raises(LogitsError):
        model(shape, shape.float(), **given)


def test_numbers_of_any_length_are_quoted() -> None:
    assert quote({"a": 10**5000}) == "'{'a': a number of about 5000 digits}'"
    assert issubclass(LogitsError, CheckpointError)  # for a server this is an internal error
