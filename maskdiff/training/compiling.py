"""``torch.compile`` where it works.

For: the functions of a step.  Not for: sampling, whose shapes change with every call.  Easy to get wrong: a machine without
a C++ compiler fails at the first call, not when the function is wrapped, and that is no reason to end a run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from maskdiff.training.console import tell


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``function`` through ``torch.compile`` for any number of rows; as it is, with one line said, where that fails."""
    fast: Callable[..., Tensor] | None = torch.compile(function, dynamic=True)

    def call(*args: Any) -> Tensor:
        nonlocal fast
        if fast is not None:
            try:
                return fast(*args)
            except Exception as error:  # no C++ compiler, say: the inductor raises many types
                if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                    raise
                fast = None
                tell(f"torch.compile failed ({type(error).__name__}); training goes on without it")
        return function(*args)

    return call
