"""A define-by-run automatic differentiation engine that can be read, and that is fast.

    import torch, tinygrad_ee559 as tg

    x = tg.Tensor([1.0, 2.0], requires_grad=True)
    torch.tanh(x * x).sum().backward()
    x.grad

A `Tensor` wraps a torch tensor or a number and speaks PyTorch's vocabulary. Recording is switched
by PyTorch's own grad mode, so `tg.no_grad()` and `torch.no_grad()` mean the same.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from torch import enable_grad, is_grad_enabled, no_grad, set_grad_enabled

from tinygrad_ee559 import func, methods, nn, optim
from tinygrad_ee559.bridge import from_torch, to_torch
from tinygrad_ee559.draw import draw
from tinygrad_ee559.gradcheck import gradcheck, gradgradcheck
from tinygrad_ee559.gradients import grad
from tinygrad_ee559.overriding import override_rule
from tinygrad_ee559.recompute import checkpoint
from tinygrad_ee559.record import rule
from tinygrad_ee559.tensor import Tensor

if TYPE_CHECKING:
    from tinygrad_ee559.compiling import compile, ensemble
    from tinygrad_ee559.profiling import profile

methods.complete()

#: What most programs do without is loaded when it is first used.
_LATER = {"compile": "compiling", "ensemble": "compiling", "profile": "profiling"}

__all__ = [
    "Tensor",
    "checkpoint",
    "compile",
    "draw",
    "enable_grad",
    "ensemble",
    "from_torch",
    "func",
    "grad",
    "gradcheck",
    "gradgradcheck",
    "is_grad_enabled",
    "nn",
    "no_grad",
    "optim",
    "override_rule",
    "profile",
    "rule",
    "set_grad_enabled",
    "to_torch",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
