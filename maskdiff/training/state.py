"""What a run is at one moment: weights, their moving average, optimisers, counters; to a file and back.

For: making "interrupted and resumed" the same as "never interrupted", bit for bit on a CPU.  Not for: deciding when to
save.  Easy to get wrong: data and noise are functions of (seed, step) alone, so the step is all there is to keep of them;
a moving average, a best figure or a token count that is forgotten changes the result as surely as a lost momentum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from maskdiff.config import Config
from maskdiff.configio import DERIVED, to_dict
from maskdiff.errors import CheckpointError, ConfigError, folded, quote


@dataclass
class Progress:
    """Counters of a run; ``step`` is the number of updates made."""

    step: int = 0
    tokens: int = 0  # inner tokens of clean strings seen
    strings: int = 0
    seconds: float = 0.0  # spent training, over all sittings, validation not counted
    best: float = float("inf")  # validation loss of best.pt, nats per inner token
    best_step: int = 0
    validated: int = -1  # step of the last validation: a run that was cut off before a validation makes it when it resumes
    metrics: dict[str, float] = field(default_factory=dict)  # of the last validation
    parent_tokens: int = 0  # behind the weights that the run started from, their own parents' included
    parent_seconds: float = 0.0


# What may change when a run resumes: its length, where and how it runs, what is shown of it, and the learning rate and its
# schedule, without which a run that diverged could not be saved. With anything else it would be another run.
FREE = {
    "max_iters", "checkpoint_dir", "name", "device", "threads", "amp", "compile", "log_interval", "save_interval",
    "eval_interval", "eval_samples", "live_samples", "lr", "muon_lr", "weight_decay", "grad_clip", "warmup_iters",
    "decay_share", "decay", "min_lr_ratio", "validity", "validity_timeout",
}  # fmt: skip


def check_unchanged(old: Config, new: Config, shown: str) -> None:
    """That ``new`` continues the run made with ``old``; ConfigError names the first key that must not change."""
    for section, values in to_dict(new).items():
        before = to_dict(old)[section]
        for key, value in values.items():
            if key not in FREE and key not in (*DERIVED, "vocab_size") and value != before[key]:
                raise ConfigError(
                    f"{key} is {quote(value)}, but {shown} was trained with {quote(before[key])}; "
                    "resume without it, or start a new run (with --init, from these weights)"
                )


class Ema:
    """Exponential moving average of the weights; with decay 0 it is the weights themselves.

    The decay grows as (1 + step) / (10 + step) until it reaches the one asked for, so that a short run is not averaged with
    its initial weights.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.live = {name: w.detach() for name, w in model.named_parameters()}
        self.average = {name: w.clone() for name, w in self.live.items()} if decay > 0 else self.live

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after update number ``step``."""
        if self.decay > 0:
            decay = min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(self.average.values()), list(self.live.values()), 1 - decay)

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take over the averaged ``weights``."""
        for name, average in self.average.items():
            average.copy_(weights[name])


def capture(model: nn.Module, optimizers: list[torch.optim.Optimizer], progress: Progress) -> dict[str, Any]:
    """Everything that resuming needs beside the averaged weights, as plain values and tensors."""
    return {
        "model": {name: w.detach().cpu().clone() for name, w in model.named_parameters()},
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "progress": dict(vars(progress)),
    }


@torch.no_grad()
def restore(
    payload: Mapping[str, Any], model: nn.Module, ema: Ema, optimizers: list[torch.optim.Optimizer], config: Config
) -> Progress:
    """Put a run back to where ``payload`` left it and return its counters.

    The peak learning rates and weight decay are those of ``config``, so that a resumed run may change them on purpose.

    Raises:
        CheckpointError: the payload has no training state, or one of another model or optimiser.
    """
    state = payload.get("training")
    if not isinstance(state, dict):
        raise CheckpointError("this checkpoint holds no training state: resume from a run's last.pt, or start with --init")
    try:
        model.load_state_dict(state["model"])
        ema.load(payload["weights"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
            optimizer.load_state_dict(saved)
            for group, setting in zip(optimizer.param_groups, settings, strict=True):
                group.update(setting)
        return Progress(**state["progress"])
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"the training state does not fit this configuration ({folded(error)}); "
            "resume with its own"
        ) from None
