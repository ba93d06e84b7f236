"""Losses. What PyTorch composes of other functions is composed of the same ones here.

Kernels that compute a gradient at once have rules of their own: they are linear in the gradient
that they are given, so that by this one they are differentiated by themselves.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from tinygrad_ee559.errors import operand_error
from tinygrad_ee559.rules.registry import composed, rule

aten = torch.ops.aten
#: The kernels behind torch.nn.functional.
kernels: Any = torch._C._nn

#: The numbers by which the kernels know the ways to reduce.
REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}
_MEAN = REDUCTIONS["mean"]

Elementwise = Callable[..., Any]


def _reduction(reduction: str, size_average: bool | None, reduce: bool | None) -> str:
    """How to reduce, which older programs say by `size_average` and `reduce`."""
    if size_average is not None or reduce is not None:
        if reduce is False:
            return "none"
        return "sum" if size_average is False else "mean"
    if reduction not in REDUCTIONS:
        raise ValueError(f"a loss is reduced by none, mean or sum, not by {reduction!r}")
    return reduction


def _reduced(loss: Any, reduction: str) -> Any:
    return loss if reduction == "none" else loss.mean() if reduction == "mean" else loss.sum()


def _before_mean(g: Any, shape: torch.Size, reduction: int) -> Any:
    """The gradient of every element's loss, given that of all."""
    return g / shape.numel() if reduction == _MEAN else g


def _loss(function: Any) -> Callable[[Elementwise], Elementwise]:
    """Decorator: the decorated function is what the loss `function` reduces."""

    def register(elementwise: Elementwise) -> Elementwise:
        @composed(function)
        def loss(
            *args: Any,
            size_average: bool | None = None,
            reduce: bool | None = None,
            reduction: str = "mean",
            **options: Any,
        ) -> Any:
            reduction = _reduction(reduction, size_average, reduce)
            return _reduced(elementwise(*args, **options), reduction)

        return elementwise

    return register


# ----------------------------------------------------------- losses of a difference


def _broadcast(input: Any, target: Any) -> Any:
    """Both in the same shape, in which they should have been given."""
    if input.shape == target.shape:
        return input, target
    warnings.warn(
        f"a target of shape {list(target.shape)} is broadcast against an input of shape "
        f"{list(input.shape)}; it is likely that the same shape was meant",
        stacklevel=7,  # above the loss, its dispatch and torch's own function
    )
    return torch.broadcast_tensors(input, target)  # type: ignore[no-untyped-call]


@composed(F.mse_loss)
def _mse_loss(
    input: Any,
    target: Any,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Any = None,
) -> Any:
    """With `weight`, the mean is the weighted one."""
    input, target = _broadcast(input, target)
    reduction = _reduction(reduction, size_average, reduce)
    if weight is None:
        return kernels.mse_loss(input, target, REDUCTIONS[reduction])
    loss = kernels.mse_loss(input, target, REDUCTIONS["none"]) * weight
    return loss.sum() / weight.sum() if reduction == "mean" else _reduced(loss, reduction)


@composed(F.huber_loss)
def _huber_loss(
    input: Any, target: Any, reduction: str = "mean", delta: float = 1.0, weight: Any = None
) -> Any:
    input, target = _broadcast(input, target)
    reduction = _reduction(reduction, None, None)
    if weight is None:
        return kernels.huber_loss(input, target, REDUCTIONS[reduction], delta)
    loss = kernels.huber_loss(input, target, REDUCTIONS["none"], delta)
    return _reduced(loss * weight, reduction)


@composed(F.smooth_l1_loss)
def _smooth_l1_loss(
    input: Any,
    target: Any,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Any:
    input, target = _broadcast(input, target)
    reduction = _reduction(reduction, size_average, reduce)
    if beta == 0:
        return _reduced(torch.abs(input - target), reduction)
    return kernels.smooth_l1_loss(input, target, REDUCTIONS[reduction], beta)


@composed(F.l1_loss)
def _l1_loss(
    input: Any,
    target: Any,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Any:
    input, target = _broadcast(input, target)
    return _reduced(torch.abs(input - target), _reduction(reduction, size_average, reduce))


rule(
    kernels.mse_loss,
    lambda g, _y, x, target, reduction=_MEAN: aten.mse_loss_backward(g, x, target, reduction),
    lambda g, _y, x, target, reduction=_MEAN: aten.mse_loss_backward(g, target, x, reduction),
)
rule(
    kernels.smooth_l1_loss,
    lambda g, _y, x, target, reduction=_MEAN, beta=1.0: (
        aten.smooth_l1_loss_backward(g, x, target, reduction, beta)
    ),
    lambda g, _y, x, target, reduction=_MEAN, beta=1.0: (
        aten.smooth_l1_loss_backward(g, target, x, reduction, beta)
    ),
)
rule(
    kernels.huber_loss,
    lambda g, _y, x, target, reduction=_MEAN, delta=1.0: (
        aten.huber_loss_backward(g, x, target, reduction, delta)
    ),
    lambda g, _y, x, target, reduction=_MEAN, delta=1.0: (
        aten.huber_loss_backward(g, target, x, reduction, delta)
    ),
)

# z = g f'(x - target), of which the second derivatives f'' are 2; 1 / beta and 1 near 0.
rule(
    aten.mse_loss_backward,
    lambda d, _z, _g, x, target, reduction: aten.mse_loss_backward(d, x, target, reduction),
    lambda d, _z, g, x_shape, _target, reduction: _before_mean(2 * d * g, x_shape, reduction),
    lambda d, _z, g, x_shape, _target, reduction: _before_mean(-2 * d * g, x_shape, reduction),
)


def _near(d: Any, x: Any, target: Any, limit: float, reduction: int) -> Any:
    return _before_mean(d * (torch.abs(x - target) < limit), x.shape, reduction)


rule(
    aten.smooth_l1_loss_backward,
    lambda d, _z, _g, x, target, reduction, beta: (
        aten.smooth_l1_loss_backward(d, x, target, reduction, beta)
    ),
    lambda d, _z, g, x, target, reduction, beta: _near(d * g / beta, x, target, beta, reduction),
    lambda d, _z, g, x, target, reduction, beta: _near(-d * g / beta, x, target, beta, reduction),
)
rule(
    aten.huber_loss_backward,
    lambda d, _z, _g, x, target, reduction, delta: (
        aten.huber_loss_backward(d, x, target, reduction, delta)
    ),
    lambda d, _z, g, x, target, reduction, delta: _near(d * g, x, target, delta, reduction),
    lambda d, _z, g, x, target, reduction, delta: _near(-d * g, x, target, delta, reduction),
)

# ---------------------------------------------------------------------- likelihoods


def _nll_gradient(
    g: Any, x: Any, target: Any, weight: Any, reduction: int, ignore_index: int
) -> Any:
    """-g times the target's weight, at the target.

    A mean is over the sum of the weights, which the forward kernel adds up once more: so it is
    the same to the bit, and is not kept.
    """
    shape = x.shape
    if len(shape) > 2:  # the kernels know images, and any other shape is brought into theirs
        x, target = x.flatten(2).unsqueeze(2), target.flatten(1).unsqueeze(1)
        g = g.flatten(1).unsqueeze(1) if g.ndim else g
        forward, backward = aten.nll_loss2d_forward, aten.nll_loss2d_backward
    else:
        forward, backward = aten.nll_loss_forward, aten.nll_loss_backward
    scores = x.data
    raw_weight = None if weight is None else weight.data
    total = forward(scores, target.data, raw_weight, reduction, ignore_index)[1]
    d = backward(g, scores, target, weight, reduction, ignore_index, total)
    return d.reshape(shape) if len(shape) > 2 else d


rule(
    kernels.nll_loss_nd,
    lambda g, _y, x, target, weight=None, reduction=_MEAN, ignore_index=-100: (
        _nll_gradient(g, x, target, weight, reduction, ignore_index)
    ),
)
for _function in (aten.nll_loss_backward, aten.nll_loss2d_backward):
    rule(
        _function,
        lambda d, _z, _g, _x, target, weight, reduction, ignore_index, _total_weight: (
            kernels.nll_loss_nd(d, target, weight, reduction, ignore_index)
        ),
    )


@composed(F.nll_loss)
def _nll_loss(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Any:
    how = REDUCTIONS[_reduction(reduction, size_average, reduce)]
    return kernels.nll_loss_nd(input, target, weight, how, ignore_index)


@composed(F.cross_entropy)
def _cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    """The negative log-likelihood of classes, or the mean over their probabilities."""
    reduction = _reduction(reduction, size_average, reduce)
    class_dim = 0 if input.ndim == 1 else 1
    scores = torch.log_softmax(input, class_dim)
    if target.shape == input.shape and target.is_floating_point():
        return _soft_cross_entropy(scores, target, weight, reduction, label_smoothing, class_dim)
    loss = kernels.nll_loss_nd(scores, target, weight, REDUCTIONS[reduction], ignore_index)
    if not label_smoothing:
        return loss
    even = -_weighted(scores, weight, class_dim).sum(class_dim)
    kept = target != ignore_index
    even = torch.where(kept, even, 0)
    if reduction == "mean":
        weights = kept if weight is None else weight[target[kept]]
        even = even.sum() / weights.sum()
    elif reduction == "sum":
        even = even.sum()
    return (1 - label_smoothing) * loss + label_smoothing / input.shape[class_dim] * even


def _soft_cross_entropy(
    scores: Any, target: Any, weight: Any, reduction: str, label_smoothing: float, class_dim: int
) -> Any:
    """The cross-entropy of a target that has a probability for every class."""
    classes = scores.shape[class_dim]
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / classes
    loss = -_weighted(scores * target, weight, class_dim)
    if reduction == "mean":
        return loss.sum() / (scores.numel() / classes)
    return loss.sum() if reduction == "sum" else loss.sum(class_dim)


def _weighted(scores: Any, weight: Any, class_dim: int) -> Any:
    if weight is None:
        return scores
    return scores * weight.reshape([-1] + [1] * (scores.ndim - 1 - class_dim))


def _bce_target_gradient(g: Any, x: Any, weight: Any, reduction: int) -> Any:
    g = g if weight is None else g * weight
    return _before_mean(g, x.shape, reduction) * (torch.log1p(-x) - torch.log(x))


rule(
    kernels.binary_cross_entropy,
    lambda g, _y, x, target, weight=None, reduction=_MEAN: (
        aten.binary_cross_entropy_backward(g, x, target, weight, reduction)
    ),
    lambda g, _y, x, _target, weight=None, reduction=_MEAN: (
        _bce_target_gradient(g, x, weight, reduction)
    ),
)


def _bce_curvature(d: Any, g: Any, x: Any, target: Any, weight: Any, reduction: int) -> Any:
    d = d * g if weight is None else d * g * weight
    return _before_mean(d, x.shape, reduction) * (target / x**2 + (1 - target) / (1 - x) ** 2)


def _bce_twist(d: Any, g: Any, x: Any, weight: Any, reduction: int) -> Any:
    d = d * g if weight is None else d * g * weight
    return -_before_mean(d, x.shape, reduction) / (x * (1 - x))


# z = g (x - target) / (x (1 - x))
rule(
    aten.binary_cross_entropy_backward,
    lambda d, _z, _g, x, target, weight, reduction: (
        aten.binary_cross_entropy_backward(d, x, target, weight, reduction)
    ),
    lambda d, _z, g, x, target, weight, reduction: (
        _bce_curvature(d, g, x, target, weight, reduction)
    ),
    lambda d, _z, g, x, _target, weight, reduction: _bce_twist(d, g, x, weight, reduction),
)


def _logits_gradient(
    g: Any, x: Any, target: Any, weight: Any, pos_weight: Any, reduction: int
) -> Any:
    if pos_weight is None:
        d = torch.sigmoid(x) - target
    else:
        positive = pos_weight * target
        d = (positive + 1 - target) * torch.sigmoid(x) - positive
    d = d * g if weight is None else d * g * weight
    return _before_mean(d, x.shape, reduction)


def _logits_target_gradient(g: Any, x: Any, weight: Any, pos_weight: Any, reduction: int) -> Any:
    d = -x if pos_weight is None else F.logsigmoid(-x) - pos_weight * F.logsigmoid(x)
    d = d * g if weight is None else d * g * weight
    return _before_mean(d, x.shape, reduction)


rule(
    torch.binary_cross_entropy_with_logits,
    lambda g, _y, x, target, weight=None, pos_weight=None, reduction=_MEAN: (
        _logits_gradient(g, x, target, weight, pos_weight, reduction)
    ),
    lambda g, _y, x, _target, weight=None, pos_weight=None, reduction=_MEAN: (
        _logits_target_gradient(g, x, weight, pos_weight, reduction)
    ),
)


@composed(F.binary_cross_entropy)
def _binary_cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Any:
    _check_same_shape("binary_cross_entropy", input, target)
    if weight is not None:
        weight = weight.expand(target.shape)
    how = REDUCTIONS[_reduction(reduction, size_average, reduce)]
    return kernels.binary_cross_entropy(input, target, weight, how)


@composed(F.binary_cross_entropy_with_logits)
def _binary_cross_entropy_with_logits(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Any = None,
) -> Any:
    _check_same_shape("binary_cross_entropy_with_logits", input, target)
    how = REDUCTIONS[_reduction(reduction, size_average, reduce)]
    return torch.binary_cross_entropy_with_logits(input, target, weight, pos_weight, how)


def _check_same_shape(name: str, input: Any, target: Any) -> None:
    if input.shape != target.shape:
        raise operand_error(
            ValueError(),
            f"functional.{name}: the target has shape {list(target.shape)}, and the input "
            f"{list(input.shape)}; they must be the same",
        )


@composed(F.kl_div)
def _kl_div(
    input: Any,
    target: Any,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Any:
    if log_target:
        loss = torch.exp(target) * (target - input)
    else:
        loss = torch.xlogy(target, target) - target * input
    if reduction == "batchmean":
        return loss.sum() / (input.shape[0] if input.ndim else 1)
    return _reduced(loss, _reduction(reduction, size_average, reduce))


@_loss(F.poisson_nll_loss)
def _poisson_nll(
    input: Any, target: Any, log_input: bool = True, full: bool = False, eps: float = 1e-8
) -> Any:
    """With `full`, Stirling's approximation of log(target!) is added where target > 1."""
    if log_input:
        loss = torch.exp(input) - target * input
    else:
        loss = input - target * torch.log(input + eps)
    if full:
        stirling = target * torch.log(target) - target + 0.5 * torch.log(2 * math.pi * target)
        loss = loss + torch.where(target > 1, stirling, 0)
    return loss


@_loss(F.gaussian_nll_loss)
def _gaussian_nll(input: Any, target: Any, var: Any, full: bool = False, eps: float = 1e-6) -> Any:
    """The variance is at least `eps`, which its gradient does not notice."""
    if isinstance(var, float):
        var = torch.full_like(input, var)
    if (var < 0).any():
        raise operand_error(ValueError(), "functional.gaussian_nll_loss: a variance is negative")
    if input.shape[:-1] == var.shape:
        var = var.unsqueeze(-1)
    others = [m for n, m in zip(input.shape, var.shape) if n != m]
    if input.ndim != var.ndim or others not in ([], [1]):
        raise operand_error(
            ValueError(),
            f"functional.gaussian_nll_loss: a variance of shape {list(var.shape)} does not fit an "
            f"input of shape {list(input.shape)}, of which it may lack the last dimension, or have "
            "one as 1",
        )
    var = var + (eps - var).detach().clamp_min(0)
    loss = 0.5 * (torch.log(var) + (input - target) ** 2 / var)
    return loss + 0.5 * math.log(2 * math.pi) if full else loss


# -------------------------------------------------------------------------- margins


@_loss(F.hinge_embedding_loss)
def _hinge_embedding(input: Any, target: Any, margin: float = 1.0) -> Any:
    apart = torch.where(target != 1, (margin - input).clamp_min(0), 0)
    return apart + torch.where(target != -1, input, 0)


@_loss(F.margin_ranking_loss)
def _margin_ranking(input1: Any, input2: Any, target: Any, margin: float = 0) -> Any:
    return (-target * (input1 - input2) + margin).clamp_min(0)


@_loss(F.soft_margin_loss)
def _soft_margin(input: Any, target: Any) -> Any:
    return torch.log1p(torch.exp(-target * input))


@_loss(F.multilabel_soft_margin_loss)
def _multilabel_soft_margin(input: Any, target: Any, weight: Any = None) -> Any:
    loss = -(target * F.logsigmoid(input) + (1 - target) * F.logsigmoid(-input))
    return (loss if weight is None else loss * weight).mean(-1)


@_loss(F.cosine_embedding_loss)
def _cosine_embedding(input1: Any, input2: Any, target: Any, margin: float = 0) -> Any:
    eps = 1e-12  # torch's, inside the root
    squares = ((input1 * input1).sum(-1) + eps) * ((input2 * input2).sum(-1) + eps)
    cosine = (input1 * input2).sum(-1) / torch.sqrt(squares)
    alike = torch.where(target == 1, 1 - cosine, 0)
    return alike + torch.where(target == -1, (cosine - margin).clamp_min(0), 0)


@_loss(F.triplet_margin_loss)
def _triplet_margin(
    anchor: Any, positive: Any, negative: Any,
    margin: float = 1.0, p: float = 2, eps: float = 1e-6, swap: bool = False,
) -> Any:  # fmt: skip
    near = F.pairwise_distance(anchor, positive, p, eps)
    far = F.pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = torch.minimum(far, F.pairwise_distance(positive, negative, p, eps))
    return (margin + near - far).clamp_min(0)
