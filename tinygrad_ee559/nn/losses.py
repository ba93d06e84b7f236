"""Losses: how far predictions are from what they should be."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F

from tinygrad_ee559.nn.module import Module
from tinygrad_ee559.record import recorded
from tinygrad_ee559.rules.losses import REDUCTIONS, kernels

Reduction = Literal["mean", "sum", "none"]

#: What F.mse_loss and F.cross_entropy come down to in the plain case; the way there costs as much
#: again where networks are small.
_squared_error = recorded(kernels.mse_loss)
_log_softmax = recorded(torch.log_softmax)
_nll_loss = recorded(kernels.nll_loss)


class MSELoss(Module):
    """The squared differences of input and target: their mean, their sum, or all of them.

    Args:
        reduction: "mean", "sum" or "none".

    Raises:
        ValueError: `reduction` is another word.

    >>> from tinygrad_ee559 import Tensor
    >>> MSELoss()(Tensor([1.0, 2.0]), Tensor([1.0, 4.0]))
    Tensor(2.)
    """

    def __init__(self, reduction: Reduction = "mean") -> None:
        self.reduction = _checked(reduction)

    def forward(self, input: Any, target: Any) -> Any:
        if input.shape != target.shape:
            return F.mse_loss(input, target, reduction=self.reduction)
        return _squared_error(input, target, REDUCTIONS[self.reduction])


class CrossEntropyLoss(Module):
    """-log softmax(input)[target]: how unlikely the input, as logits, makes the right class.

    Args:
        weight: a weight per class, of shape (classes).
        ignore_index: samples with this target count for nothing.
        reduction: "mean" (weighted by `weight`), "sum" or "none".
        label_smoothing: the part of every target, from 0 to 1, that is spread over all classes.

    Called with an input of shape (classes), (batch, classes) or (batch, classes, ...), and a target
    that has class indices in place of the dimension of classes, or class probabilities in it.

    Raises:
        ValueError: `reduction` is another word, or `label_smoothing` lies outside 0 to 1.
    """

    def __init__(
        self,
        weight: Any = None,
        *,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        if not 0.0 <= label_smoothing <= 1.0:
            raise ValueError(f"label_smoothing must be between 0 and 1, not {label_smoothing}")
        self.weight = weight
        self.ignore_index = ignore_index
        self.reduction = _checked(reduction)
        self.label_smoothing = label_smoothing

    def forward(self, input: Any, target: Any) -> Any:
        how = REDUCTIONS[self.reduction]
        if input.ndim == 2 and not (self.label_smoothing or target.is_floating_point()):
            scores = _log_softmax(input, 1)
            return _nll_loss(scores, target, self.weight, how, self.ignore_index)
        return F.cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )


def _checked(reduction: Reduction) -> Reduction:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', not {reduction!r}")
    return reduction
