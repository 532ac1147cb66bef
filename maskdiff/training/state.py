"""The state of a run: weights, their moving average, optimizers and counters; saved and restored.

An interrupted and resumed run equals an uninterrupted one, bit for bit on a CPU. Data and noise are
functions of (seed, step), so that the step is all that is kept of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from maskdiff.checkpoint.payload import are_numbers, is_amount, is_count, is_printable
from maskdiff.config import Config, TrainConfig
from maskdiff.config_io import DERIVED, to_dict
from maskdiff.errors import CheckpointError, ConfigError, GrammarError, quote
from maskdiff.languages import LANGUAGES
from maskdiff.languages.cfg import GrammarSource, restore_source
from maskdiff.languages.cfg.references import LIBRARY
from maskdiff.models.universal import LATE_INPUTS
from maskdiff.noise import MODES
from maskdiff.training.optimizers import KEPT

LARGEST_STEP = 2**24  # the largest count of steps of an optimizer in float32
PATHS = ("language", "attempts")  # keys that may be paths of the user's files


@dataclass
class RunProgress:
    """Counters of a run; `step` is the number of updates made."""

    step: int = 0
    tokens: int = 0  # inner tokens of the clean strings
    strings: int = 0
    seconds: float = 0.0  # of training, resumptions included, validation not
    best: float = float("inf")  # validation loss of best.pt, nats per inner token
    best_step: int = 0
    validated: int = -1  # step of the last validation: a resumed run makes one that it missed
    metrics: dict[str, float] = field(default_factory=dict)  # of the last validation
    parent_tokens: int = 0  # of the initial weights, those of their own parents included
    parent_seconds: float = 0.0
    budget: float = 0.0  # the option `minutes` from which `max_iters` was set; 0 if it was not

    def open_ended(self, train: TrainConfig) -> bool:
        """Whether the run has a time limit from which its number of steps is not yet set."""
        return train.minutes not in (0.0, self.budget)

    def length(self, train: TrainConfig) -> float:
        """The number of steps of the run; infinite as long as it is not known."""
        unknown = self.open_ended(train) and not train.max_iters
        return math.inf if unknown else train.max_iters

    def stale(self, train: TrainConfig) -> bool:
        """Whether the run ends because no validation was better for as long as `patience`."""
        return 0 < train.patience * train.eval_interval <= self.validated - self.best_step


@dataclass
class Curve:
    """The sums for the next entry of the training curve; equal in all processes of a run.

    Attributes:
        parts: (modes, 2) float32, nats and inner tokens since the last entry.
        loss: of the last step, in nats per inner token.
        logged: step of the last entry.
    """

    parts: Tensor = field(default_factory=lambda: torch.zeros(len(MODES), 2))
    loss: float = 0.0
    logged: int = 0


# Options that may change when a run resumes: its length, its place, its reports, and the learning
# rate with its schedule, so that a run that diverged can be continued. Others make another run.
FREE = {
    "max_iters", "minutes", "patience", "checkpoint_dir", "name", "device", "threads", "amp",
    "compile", "log_interval", "save_interval", "eval_interval", "eval_samples", "live_samples",
    "lr", "muon_lr",
    "weight_decay", "grad_clip", "warmup_iters", "decay_share", "decay", "min_lr_ratio",
    "validity", "validity_timeout", "skip_invalid", "accept_ambiguous",
}  # fmt: skip


def check_unchanged(old: Config, new: Config, shown: str) -> None:
    """Check that a run with the options `old` may resume with `new`.

    Paths of the user's files may change: `check_same_language` compares the contents.

    Raises:
        ConfigError: an option differs.
    """
    for section, values in to_dict(new).items():
        before = to_dict(old)[section]
        for key, value in values.items():
            if key in FREE or key in (*DERIVED, "vocab_size"):
                continue
            paths = key in PATHS and _is_path(value) and _is_path(before[key])
            if value != before[key] and not paths:
                raise ConfigError(
                    f"{key} is {quote(value)}, but {shown} was trained with {quote(before[key])}; "
                    "resume without it, or start a new run (with --init, from these weights)"
                )


def check_same_language(
    before: Mapping[str, Any], now: Mapping[str, Any], where: str, shown: str
) -> str:
    """Check that the language in `where` is that of the run in `shown`, by `Language.state`.

    The name of a folder and the order of its lines may differ.

    Returns:
        A note for the user if the run was started by a version that drew lines in the order of the
        file, else an empty text.

    Raises:
        ConfigError: the symbols, the grammar or the strings differ.
    """
    strings = "digest" if before.get("digest") else "lengths"  # of generated strings: lengths alone
    parts = {"symbols": "symbols", "grammar": "grammar", strings: "strings"}
    changed = [
        what
        for name, what in parts.items()
        if name in before and not same_plain(before[name], now.get(name))
        and (name != "grammar" or not _same_grammar(before[name], now.get(name)))
    ]  # fmt: skip
    if changed:
        raise ConfigError(
            f"the {' and '.join(changed)} of {quote(where)} changed since {shown} was saved; give "
            "the language that it was trained on, or start a new run"
        )
    if before.get("order", "") == now.get("order", ""):
        return ""
    return (
        f"{shown} was made by an earlier version, which drew lines by their order in the file; "
        "from here on they are sorted"
    )


def _same_grammar(one: object, other: object) -> bool:
    """Whether two stored grammars have the same files, apart from line ends and Lark's own library.

    Earlier versions stored the text alone.
    """
    if one is None or other is None:
        return one is other
    try:
        sources = [restore_source(grammar, "the grammar") for grammar in (one, other)]
    except GrammarError:
        return False
    return _own_files(sources[0]) == _own_files(sources[1])


def _own_files(source: GrammarSource) -> tuple[object, ...]:
    files = [(name, text) for name, text in source.files if not name.startswith(LIBRARY)]
    texts = [text.replace("\r\n", "\n") for text in (source.text, *(text for _, text in files))]
    return source.start, source.spacing, [name for name, _ in files], texts


def _is_path(value: str) -> bool:
    return bool(value) and value not in LANGUAGES


def with_absolute_paths(config: Config) -> Config:
    """`config` with absolute paths of the user's files, which any working directory can read."""
    language = config.language

    def absolute(path: str) -> str:
        return str(Path(path).absolute()) if _is_path(path) else path

    name, attempts = absolute(language.language), absolute(language.attempts)
    return replace(config, language=replace(language, language=name, attempts=attempts))


class Ema:
    """Exponential moving average of the weights; with decay 0 it is the weights themselves.

    The decay grows as (1 + step) / (10 + step) up to its final value, so that the average of a
    short run does not contain its initial weights.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.live = {name: w.detach() for name, w in model.named_parameters()}
        self.average = (
            {name: w.clone() for name, w in self.live.items()} if decay > 0 else self.live
        )

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Include the weights after update number `step`."""
        if self.decay > 0:
            decay = min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(self.average.values()), list(self.live.values()), 1 - decay)

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Copy the averaged `weights`."""
        for name, average in self.average.items():
            average.copy_(weights[name])


def provenance(progress: RunProgress, seed: int) -> dict[str, Any]:
    """What a checkpoint tells of the training of its weights, apart from the machine."""
    return {
        "step": progress.step,
        "tokens": progress.tokens,
        "strings": progress.strings,
        "train_seconds": round(progress.seconds, 1),
        "parent_tokens": progress.parent_tokens,
        "parent_seconds": round(progress.parent_seconds, 1),
        "threads": torch.get_num_threads(),
        "seed": seed,
    }


def capture(
    model: nn.Module, optimizers: list[Optimizer], progress: RunProgress, curve: Curve
) -> dict[str, Any]:
    """The training state, without the averaged weights, as plain values and tensors."""
    return {
        "model": {name: w.detach().cpu().clone() for name, w in model.named_parameters()},
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "progress": dict(vars(progress)),
        "curve": {**vars(curve), "parts": curve.parts.clone()},
    }


@torch.no_grad()
def restore(
    payload: Mapping[str, Any], model: nn.Module, ema: Ema, optimizers: list[Optimizer], shown: str
) -> tuple[RunProgress, Curve]:
    """Restore the run of `payload`, and return its counters and its curve.

    Learning rates and weight decay are not restored: a resumed run may change them.

    Raises:
        CheckpointError: there is no training state, or it does not fit; nothing is changed.
    """
    state = payload.get("training")
    if not isinstance(state, dict):
        raise CheckpointError(
            f"{shown} holds no training state: resume from a run's last.pt, or start with --init"
        )
    try:
        progress, curve, kept = check_state(state, model, optimizers)
        named = dict(model.named_parameters())
        _check_tensors("averaged weights", payload["weights"], named, exact=False)
    except _Unfit as error:
        raise CheckpointError(
            f"{shown} cannot be resumed: its training state does not fit: {error}; "
            "start with --init"
        ) from None
    for name, weight in named.items():
        weight.copy_(state["model"][name])
    ema.load(payload["weights"])
    for optimizer, values in zip(optimizers, kept, strict=True):
        groups = optimizer.state_dict()["param_groups"]  # not those of the file
        optimizer.load_state_dict({"state": values, "param_groups": groups})
    return progress, curve


class _Unfit(ValueError):
    """A training state that does not fit this run; the text gives the reason."""


PROGRESS: dict[str, Callable[[Any], bool]] = {
    "step": is_count,
    "tokens": is_count,
    "strings": is_count,
    "seconds": is_amount,
    "best": lambda value: is_printable(value) and not math.isnan(value),  # perhaps infinite
    "best_step": is_count,
    "validated": lambda value: is_count(value) or (type(value) is int and value == -1),
    "metrics": are_numbers,
    "parent_tokens": is_count,
    "parent_seconds": is_amount,
    "budget": is_amount,
}
CURVE: dict[str, Callable[[Any], bool]] = {
    "loss": lambda value: is_printable(value) and math.isfinite(value),
    "logged": is_count,
    "parts": lambda value: isinstance(value, Tensor),  # checked further by `_all_modes`
}


def check_state(
    state: Mapping[str, Any], model: nn.Module, optimizers: list[Optimizer]
) -> tuple[RunProgress, Curve, list[dict[int, Any]]]:
    """The counters, the curve and the state of each optimizer by weight. Raises _Unfit."""
    _check_keys("the state", state, {"model", "optimizers", "progress"}, {"curve"})
    named = dict(model.named_parameters())
    _check_tensors("weights", state["model"], named)
    # Missing in earlier versions.
    later = {"validated", "parent_tokens", "parent_seconds", "budget"}
    progress = RunProgress(**_checked("progress", state["progress"], PROGRESS, later))
    if max(progress.best_step, progress.validated) > progress.step:
        raise _Unfit(f"best_step or validated is after step {progress.step}")
    curve = Curve(logged=progress.step)  # earlier versions wrote each entry before the state
    if "curve" in state:
        curve = Curve(**_checked("curve", state["curve"], CURVE, set()))
        curve.parts = _all_modes(curve.parts)
    if curve.logged > progress.step:
        raise _Unfit(f"curve: logged is after step {progress.step}")
    saved = state["optimizers"]
    if not isinstance(saved, list) or len(saved) != len(optimizers):
        raise _Unfit(f"optimizers is {quote(saved)}, not a list of {len(optimizers)}")
    names = {id(weight): name for name, weight in named.items()}
    pairs = zip(optimizers, saved, strict=True)
    kept = [_kept(optimizer, item, names, progress.step) for optimizer, item in pairs]
    return progress, Curve(curve.parts.cpu().clone(), curve.loss, curve.logged), kept


def _all_modes(parts: Tensor) -> Tensor:
    """The `parts` of a curve; modes that its run did not know get zeros. Raises _Unfit."""
    known = min(len(MODES), parts.size(0)) if parts.dim() else 0
    _check_tensors("curve", {"parts": parts}, {"parts": torch.zeros(known, 2)})
    return F.pad(parts, (0, 0, 0, len(MODES) - known))


def _kept(optimizer: Optimizer, saved: Any, names: Mapping[int, str], step: int) -> dict[int, Any]:
    """The state of an optimizer by number of the weight, copied. Raises _Unfit."""
    kind = f"optimizer {type(optimizer).__name__}"
    _check_keys(kind, saved, {"state", "param_groups"})
    order = [group["params"] for group in optimizer.state_dict()["param_groups"]]
    groups = saved["param_groups"]
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        raise _Unfit(f"{kind}: param_groups is {quote(groups)}, not a list of groups")
    if not same_plain([group.get("params") for group in groups], order):
        raise _Unfit(f"{kind}: its groups hold other weights")
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    numbered = dict(zip([number for numbers in order for number in numbers], weights, strict=True))
    late = {number for number, weight in numbered.items() if names[id(weight)] in LATE_INPUTS}
    needed = set(numbered) - late if step else set()  # an input that no step used has no state
    _check_keys(f"{kind}: its state", saved["state"], needed, late if step else set())
    kept: dict[int, Any] = {}
    for number, values in saved["state"].items():
        what, weight = f"{kind}, weight {quote(names[id(numbered[number])])}", numbered[number]
        names_kept = KEPT[type(optimizer)]
        wanted = {name: torch.zeros(()) if name == "step" else weight for name in names_kept}
        _check_tensors(what, values, wanted)
        steps = values["step"].item() if "step" in values else step
        if not 1 <= steps <= step or (number not in late and steps < min(step, LARGEST_STEP)):
            raise _Unfit(f"{what}: its step is {steps:g}, that of the run {step}")
        if "exp_avg_sq" in values and bool((values["exp_avg_sq"] < 0).any()):
            raise _Unfit(f"{what}: exp_avg_sq is negative")
        kept[number] = {
            name: value.detach().clone(memory_format=torch.contiguous_format)
            for name, value in values.items()
        }
    return kept


def _checked(
    what: str, values: Any, fields: Mapping[str, Callable[[Any], bool]], optional: set[str]
) -> dict[str, Any]:
    """`values` themselves, if they are those of `fields`. Raises _Unfit."""
    _check_keys(what, values, fields.keys() - optional, optional)
    for name, value in values.items():
        if not fields[name](value):
            raise _Unfit(f"{what}: {name} is {quote(value)}")
    return dict(values)


def _check_keys(
    what: str, values: Any, needed: AbstractSet[Any], optional: AbstractSet[Any] = frozenset()
) -> None:
    if not isinstance(values, dict):
        raise _Unfit(f"{what} is {quote(values)}, not names with values")
    if missing := sorted(needed - values.keys()):
        raise _Unfit(f"{what} lacks {quote(missing[0])}")
    if more := [key for key in values if key not in needed | optional]:
        raise _Unfit(f"{what} has {quote(more[0])}, which this version does not know")


def _check_tensors(
    what: str, tensors: Any, wanted: Mapping[str, Tensor], exact: bool = True
) -> None:
    """Check the names, shapes and, if `exact`, types of `tensors`, and that they are finite."""
    _check_keys(what, tensors, wanted.keys())
    for name, like in wanted.items():
        tensor = tensors[name]
        whole = isinstance(tensor, Tensor) and tensor.layout is torch.strided
        if not whole or tensor.device.type == "meta":
            raise _Unfit(f"{what}: {name} is no tensor stored in full")
        if tensor.shape != like.shape or (exact and tensor.dtype != like.dtype):
            have, want = (f"{list(one.shape)} {one.dtype}" for one in (tensor, like))
            raise _Unfit(f"{what}: {name} is {have}, not {want}")
        if not bool(tensor.isfinite().all()):
            raise _Unfit(f"{what}: {name} has numbers that are infinite or none")


def same_plain(one: object, other: object) -> bool:
    """Whether two plain values are equal; other objects, tensors among them, equal nothing."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_plain, one, other))
    plain = isinstance(one, (str, int, float, type(None)))
    return plain and type(one) is type(other) and one == other
