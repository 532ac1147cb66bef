"""Optimizers and the learning-rate schedule.

A fused qkv weight is three matrices, and each is orthogonalised by itself. Newton-Schulz runs in
fp32: a CPU emulates the bf16 of the original at a quarter of the speed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from maskdiff.config import TrainConfig

# The quintic of Muon: steep at zero, singular values end within about [0.7, 1.2].
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


def lr_scale(step: int, config: TrainConfig) -> float:
    """The learning rate at `step` (0-based) in units of its peak, in [0, 1].

    After a linear warm-up it is constant, and then decays, linearly or as a cosine, over the last
    `decay_share` of `max_iters` steps to `min_lr_ratio`. As long as `max_iters` is not known (0) it
    does not decay.
    """
    if step < config.warmup_iters:
        return (step + 1) / config.warmup_iters
    start = config.max_iters * (1 - config.decay_share)
    if step <= start or not config.max_iters:
        return 1.0
    # 1 at the start of the decay, 0 at its end.
    left = max(0.0, (config.max_iters - step) / (config.max_iters - start))
    shape = left if config.decay == "linear" else 0.5 * (1 - math.cos(math.pi * left))
    return config.min_lr_ratio + (1 - config.min_lr_ratio) * shape


def orthogonalise(matrices: Tensor) -> Tensor:
    """Approximate orthogonal polar factors of (batch, rows, cols) matrices, rows >= cols."""
    a, b, c = NEWTON_SCHULZ
    x = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x.mT @ x  # (batch, cols, cols): on the small side
        x = torch.baddbmm(x, x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), beta=a)
    return x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised by Newton-Schulz [Jordan et al. 2024, 2502.16982], for matrices.

    A group with `splits` s consists of weights of s blocks of rows, each of which is orthogonalised
    by itself. Matrices of one shape go through one batched iteration.
    """

    def __init__(
        self,
        params: Iterable[dict[str, object]],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ):
        super().__init__(
            params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "splits": 1}
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            # Updates with Nesterov momentum, grouped by the shape of their matrices.
            by_shape: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                momentum = state.setdefault("momentum", torch.zeros_like(weight))
                momentum.lerp_(weight.grad, 1 - group["momentum"])
                update = weight.grad.lerp(momentum, group["momentum"])
                blocks = update.view(group["splits"], -1, weight.size(1))
                tall = blocks if blocks.size(1) >= blocks.size(2) else blocks.mT
                by_shape[tuple(tall.shape[1:])].append((weight, tall))

            # One iteration a shape, then the steps.
            for (rows, cols), items in by_shape.items():
                orthogonal = orthogonalise(torch.cat([tall for _, tall in items]))
                parts = orthogonal.split([tall.size(0) for _, tall in items])
                for (weight, _), block in zip(items, parts, strict=True):
                    wide = weight.size(0) // group["splits"] < weight.size(1)
                    scale = 1.0 if wide else math.sqrt(rows / cols)
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    step = (block.mT if wide else block).reshape(weight.shape)
                    weight.add_(step, alpha=-group["lr"] * scale)


# The state of each optimizer by weight: tensors of its shape, and `step`, a number.
KEPT: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    Muon: ("momentum",),
    torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"),
}


def make_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """The optimizers of a run; each group keeps its peak rate under `peak_lr`.

    Muon takes the matrices of the blocks; AdamW (betas 0.9, 0.95) takes embeddings, head and
    vectors. Only matrices of the blocks have weight decay.
    """
    named = dict(model.named_parameters())
    blocks = {n: w for n, w in named.items() if n.startswith("blocks.") and w.dim() == 2}
    rest = [w for name, w in named.items() if name not in blocks]
    optimizers: list[torch.optim.Optimizer] = []
    adam_groups: list[dict[str, object]] = [{"params": rest, "weight_decay": 0.0}]
    if config.optimizer == "muon":
        fused = [w for name, w in blocks.items() if name.endswith("qkv.weight")]
        single = [w for name, w in blocks.items() if not name.endswith("qkv.weight")]
        groups = [{"params": fused, "splits": 3}, {"params": single, "splits": 1}]
        optimizers.append(Muon(groups, lr=config.muon_lr, weight_decay=config.weight_decay))
    else:
        adam_groups.append({"params": list(blocks.values()), "weight_decay": config.weight_decay})
    adam = torch.optim.AdamW(adam_groups, lr=config.lr, betas=(0.9, 0.95), eps=1e-8, fused=False)
    optimizers.append(adam)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def set_lr(optimizers: list[torch.optim.Optimizer], scale: float) -> None:
    """Set the rate of every group to `scale` times its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = scale * group["peak_lr"]
