"""Functions of neural networks: linear maps, softmax, losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tinygrad_ee559.rules.registry import rule

rule(
    F.linear,
    lambda g, _y, _x, weight, _bias=None: g @ weight,
    lambda g, _y, x, _weight, _bias=None: g.t() @ x,
    lambda g, _y, _x, _weight, _bias=None: g.sum(0),
)
_REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}
rule(
    F.mse_loss,
    lambda g, _y, x, target, _size_average=None, _reduce=None, reduction="mean": (
        torch.ops.aten.mse_loss_backward(g, x, target, _REDUCTIONS[reduction])
    ),
    lambda g, _y, x, target, _size_average=None, _reduce=None, reduction="mean": (
        torch.ops.aten.mse_loss_backward(g, target, x, _REDUCTIONS[reduction])
    ),
)
