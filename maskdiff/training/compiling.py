"""`torch.compile` with a fallback to the uncompiled function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from maskdiff.training.console import write_line


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`function` through `torch.compile`, for any number of rows.

    Compilation happens at the first call. If it fails, for example without a C++ compiler, one line
    is printed and the function runs uncompiled.
    """
    fast: Callable[..., Tensor] | None = torch.compile(function, dynamic=True)

    def call(*args: Any) -> Tensor:
        nonlocal fast
        if fast is not None:
            try:
                return fast(*args)
            except Exception as error:  # the inductor raises many types
                if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                    raise
                fast = None
                name = type(error).__name__
                write_line(f"torch.compile failed ({name}); training goes on without it")
        return function(*args)

    return call
