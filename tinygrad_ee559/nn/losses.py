"""Losses: how far predictions are from what they should be."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F

from tinygrad_ee559.nn.module import Buffer, Module
from tinygrad_ee559.record import recorded
from tinygrad_ee559.rules.losses import REDUCTIONS, kernels

aten = torch.ops.aten
Reduction = Literal["mean", "sum", "none"]

#: What F.mse_loss and F.cross_entropy come down to in the plain case; the way there costs as much
#: again where networks are small.
_squared_error = recorded(kernels.mse_loss)
_log_softmax = recorded(torch.log_softmax)
_nll_loss = recorded(kernels.nll_loss)
_smooth_l1_loss = recorded(aten.smooth_l1_loss)
_huber_loss = recorded(aten.huber_loss)
_binary_cross_entropy = recorded(aten.binary_cross_entropy)
_binary_cross_entropy_with_logits = recorded(aten.binary_cross_entropy_with_logits)

# ------------------------------------------------------------------------ of numbers


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


class L1Loss(Module):
    """The absolute differences of input and target: their mean, their sum, or all of them.

    Args:
        reduction: "mean", "sum" or "none".

    Raises:
        ValueError: `reduction` is another word.

    >>> from tinygrad_ee559 import Tensor
    >>> L1Loss()(Tensor([1.0, 2.0]), Tensor([1.0, 4.0]))
    Tensor(1.)
    """

    def __init__(self, reduction: Reduction = "mean") -> None:
        self.reduction = _checked(reduction)

    def forward(self, input: Any, target: Any) -> Any:
        if input.shape != target.shape:
            return F.l1_loss(input, target, reduction=self.reduction)
        errors = (input - target).abs()
        if self.reduction == "none":
            return errors
        return errors.mean() if self.reduction == "mean" else errors.sum()


class SmoothL1Loss(Module):
    """d * d / (2 * beta) for differences d smaller than beta, abs(d) - beta / 2 for larger ones.

    Args:
        reduction: "mean", "sum" or "none".
        beta: the bound; with 0 this is `L1Loss`.

    Raises:
        ValueError: `reduction` is another word, or `beta` is negative.

    Girshick, Fast R-CNN, 2015.

    >>> from tinygrad_ee559 import Tensor
    >>> SmoothL1Loss("none")(Tensor([0.5, 2.0]), Tensor([0.0, 0.0]))
    Tensor([0.1250, 1.5000])
    """

    def __init__(self, reduction: Reduction = "mean", beta: float = 1.0) -> None:
        if beta < 0:
            raise ValueError(f"beta must not be negative, and is {beta}")
        self.reduction = _checked(reduction)
        self.beta = beta

    def forward(self, input: Any, target: Any) -> Any:
        if input.shape != target.shape:
            return F.smooth_l1_loss(input, target, reduction=self.reduction, beta=self.beta)
        return _smooth_l1_loss(input, target, REDUCTIONS[self.reduction], self.beta)


class HuberLoss(Module):
    """d * d / 2 for differences d smaller than delta, delta * (abs(d) - delta / 2) for larger.

    Args:
        reduction: "mean", "sum" or "none".
        delta: the bound.

    Raises:
        ValueError: `reduction` is another word, or `delta` is not positive.

    Huber, Robust estimation of a location parameter, 1964.

    >>> from tinygrad_ee559 import Tensor
    >>> HuberLoss("none", delta=2.0)(Tensor([1.0, 4.0]), Tensor([0.0, 0.0]))
    Tensor([0.5000, 6.0000])
    """

    def __init__(self, reduction: Reduction = "mean", delta: float = 1.0) -> None:
        if delta <= 0:
            raise ValueError(f"delta must be positive, and is {delta}")
        self.reduction = _checked(reduction)
        self.delta = delta

    def forward(self, input: Any, target: Any) -> Any:
        if input.shape != target.shape:
            return F.huber_loss(input, target, reduction=self.reduction, delta=self.delta)
        return _huber_loss(input, target, REDUCTIONS[self.reduction], self.delta)


# ------------------------------------------------------------------------ of classes


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
        self.weight = _buffer(weight)
        self.ignore_index = ignore_index
        self.reduction = _checked(reduction)
        self.label_smoothing = label_smoothing

    def forward(self, input: Any, target: Any) -> Any:
        how = REDUCTIONS[self.reduction]
        plain = input.ndim == 2 and target.shape == input.shape[:1]
        if plain and not (self.label_smoothing or target.is_floating_point()):
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


class NLLLoss(Module):
    """-input[target]: how unlikely the input, as log-probabilities, makes the right class.

    Args:
        weight: a weight per class, of shape (classes).
        ignore_index: samples with this target count for nothing.
        reduction: "mean" (weighted by `weight`), "sum" or "none".

    Called with an input of shape (classes), (batch, classes) or (batch, classes, ...), such as
    `LogSoftmax` gives, and a target that has class indices in place of the dimension of classes.

    Raises:
        ValueError: `reduction` is another word.

    >>> from tinygrad_ee559 import Tensor
    >>> NLLLoss()(Tensor([[-0.5, -0.9], [-3.0, -0.1]]), Tensor([0, 1]))
    Tensor(0.3000)
    """

    def __init__(
        self, weight: Any = None, *, ignore_index: int = -100, reduction: Reduction = "mean"
    ) -> None:
        self.weight = _buffer(weight)
        self.ignore_index = ignore_index
        self.reduction = _checked(reduction)

    def forward(self, input: Any, target: Any) -> Any:
        return F.nll_loss(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )


# ------------------------------------------------------------------ of probabilities


class BCELoss(Module):
    """-(target * log(input) + (1 - target) * log(1 - input)), for probabilities as inputs.

    Args:
        weight: a factor for the elements, of a shape that broadcasts to theirs.
        reduction: "mean", "sum" or "none".

    `BCEWithLogitsLoss` is the same behind a sigmoid, and safe where it comes close to 0 or 1; here
    logarithms are not let below -100.

    Raises:
        ValueError: `reduction` is another word; when called, if the shapes differ.

    >>> from tinygrad_ee559 import Tensor
    >>> BCELoss()(Tensor([0.5, 0.5]), Tensor([0.0, 1.0]))
    Tensor(0.6931)
    """

    def __init__(self, weight: Any = None, *, reduction: Reduction = "mean") -> None:
        self.weight = _buffer(weight)
        self.reduction = _checked(reduction)

    def forward(self, input: Any, target: Any) -> Any:
        if input.shape == target.shape and self.weight is None:
            return _binary_cross_entropy(input, target, None, REDUCTIONS[self.reduction])
        return F.binary_cross_entropy(input, target, weight=self.weight, reduction=self.reduction)


class BCEWithLogitsLoss(Module):
    """`BCELoss` of sigmoid(input), computed without overflow.

    Args:
        weight: a factor for the elements, of a shape that broadcasts to theirs.
        reduction: "mean", "sum" or "none".
        pos_weight: a factor for what positive targets add, such as one per class.

    Raises:
        ValueError: `reduction` is another word; when called, if the shapes differ.

    >>> from tinygrad_ee559 import Tensor
    >>> BCEWithLogitsLoss()(Tensor([0.0, 100.0]), Tensor([0.0, 1.0]))
    Tensor(0.3466)
    """

    def __init__(
        self, weight: Any = None, *, reduction: Reduction = "mean", pos_weight: Any = None
    ) -> None:
        self.weight = _buffer(weight)
        self.pos_weight = _buffer(pos_weight)
        self.reduction = _checked(reduction)

    def forward(self, input: Any, target: Any) -> Any:
        if input.shape == target.shape:
            how = REDUCTIONS[self.reduction]
            return _binary_cross_entropy_with_logits(
                input, target, self.weight, self.pos_weight, how
            )
        return F.binary_cross_entropy_with_logits(
            input, target, self.weight, pos_weight=self.pos_weight, reduction=self.reduction
        )


class KLDivLoss(Module):
    """target * (log(target) - input): the divergence of the input from the target.

    Args:
        reduction: "mean", "sum", "none", or "batchmean", the sum divided by the number of samples,
            which is what the divergence is by definition.
        log_target: targets are logarithms too.

    Called with logarithms of probabilities as the input, and probabilities as the target.

    Raises:
        ValueError: `reduction` is another word.

    Kullback and Leibler, On information and sufficiency, 1951.

    >>> from tinygrad_ee559 import Tensor
    >>> KLDivLoss("sum")(Tensor([0.5, 0.5]).log(), Tensor([1.0, 0.0]))
    Tensor(0.6931)
    """

    def __init__(
        self,
        reduction: Literal["mean", "sum", "none", "batchmean"] = "mean",
        log_target: bool = False,
    ) -> None:
        self.reduction = reduction if reduction == "batchmean" else _checked(reduction)
        self.log_target = log_target

    def forward(self, input: Any, target: Any) -> Any:
        return F.kl_div(input, target, reduction=self.reduction, log_target=self.log_target)


def _checked(reduction: Reduction) -> Reduction:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', not {reduction!r}")
    return reduction


def _buffer(weight: Any) -> Any:
    return None if weight is None else Buffer(weight)
