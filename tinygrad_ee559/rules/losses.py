"""Losses: the kernels that they come down to, and short ways there for the most common ones."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F

from tinygrad_ee559.rules.registry import composed, ops, rule

aten = torch.ops.aten
#: The kernels behind torch.nn.functional.
kernels: Any = torch._C._nn

#: The numbers by which the kernels know the ways to reduce.
REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}
_MEAN = REDUCTIONS["mean"]


def _before_mean(g: Any, x: Any, reduction: int) -> Any:
    """The gradient of every element's loss, given that of all."""
    return g / x.numel() if reduction == _MEAN else g


def _is_plain(size_average: Any, reduce: Any, reduction: str) -> bool:
    """Whether the older options for reductions are not used, nor an unknown reduction."""
    return size_average is None and reduce is None and reduction in REDUCTIONS


# ----------------------------------------------------------- losses of a difference

# torch calls operators without options that have their default; `kernels` have other ones
for _function in (kernels.mse_loss, aten.mse_loss):
    rule(
        _function,
        lambda g, _y, x, target, reduction=_MEAN: ops.mse_loss_backward(g, x, target, reduction),
        lambda g, _y, x, target, reduction=_MEAN: ops.mse_loss_backward(g, target, x, reduction),
    )
rule(
    aten.smooth_l1_loss,
    lambda g, _y, x, target, reduction=_MEAN, beta=1.0: ops.smooth_l1_loss_backward(
        g, x, target, reduction, beta
    ),
    lambda g, _y, x, target, reduction=_MEAN, beta=1.0: ops.smooth_l1_loss_backward(
        g, target, x, reduction, beta
    ),
)
rule(
    aten.huber_loss,
    lambda g, _y, x, target, reduction=_MEAN, delta=1.0: ops.huber_loss_backward(
        g, x, target, reduction, delta
    ),
    lambda g, _y, x, target, reduction=_MEAN, delta=1.0: ops.huber_loss_backward(
        g, target, x, reduction, delta
    ),
)


@composed(F.mse_loss)
def _mse_loss(
    input: Any, target: Any, size_average: Any = None, reduce: Any = None,
    reduction: str = "mean", weight: Any = None,
) -> Any:  # fmt: skip
    """Straight to the kernel, if there is nothing else to do on the way."""
    if weight is not None or input.shape != target.shape:
        return NotImplemented
    if not _is_plain(size_average, reduce, reduction):
        return NotImplemented
    return kernels.mse_loss(input, target, REDUCTIONS[reduction])


# ---------------------------------------------------------------- losses of classes


def _converted(g: Any, x: Any, weight: Any) -> tuple[Any, Any]:
    """As autocast has converted them on the way in; no gradient depends on their history."""
    return x.detach().to(g.dtype), None if weight is None else weight.detach().to(g.dtype)


def _nll_gradient(
    g: Any, _y: Any, x: Any, target: Any,
    weight: Any = None, reduction: int = _MEAN, ignore_index: int = -100,
) -> Any:  # fmt: skip
    """A mean is over the sum of the weights, which is cheaper added up again than kept."""
    x, weight = _converted(g, x, weight)
    total = ops.nll_loss_forward(x, target, weight, reduction, ignore_index)[1]
    return ops.nll_loss_backward(g, x, target, weight, reduction, ignore_index, total)


def _nll_backward(
    kernel: Any, g: Any, x: Any, target: Any, weight: Any, reduction: int, ignore: int, total: Any
) -> Any:
    x, weight = _converted(g, x, weight)
    return kernel(g, x, target, weight, reduction, ignore, total.detach())


rule(kernels.nll_loss, _nll_gradient)
rule(
    aten.nll_loss_forward,
    lambda g, y, x, target, weight, reduction, ignore_index: _nll_backward(
        ops.nll_loss_backward, g[0], x, target, weight, reduction, ignore_index, y[1]
    ),
    first_only=True,
)
rule(
    aten.nll_loss2d_forward,  # of images
    lambda g, y, x, target, weight, reduction, ignore_index: _nll_backward(
        ops.nll_loss2d_backward, g[0], x, target, weight, reduction, ignore_index, y[1]
    ),
    first_only=True,
)


@composed(F.nll_loss)
def _nll_loss(
    input: Any, target: Any, weight: Any = None, size_average: Any = None,
    ignore_index: int = -100, reduce: Any = None, reduction: str = "mean",
) -> Any:  # fmt: skip
    if input.ndim > 2 or not _is_plain(size_average, reduce, reduction):
        return NotImplemented
    return kernels.nll_loss(input, target, weight, REDUCTIONS[reduction], ignore_index)


@composed(F.cross_entropy)
def _cross_entropy(
    input: Any, target: Any, weight: Any = None, size_average: Any = None,
    ignore_index: int = -100, reduce: Any = None, reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:  # fmt: skip
    """Straight to the kernels, where classes are given by their numbers."""
    if not _is_plain(size_average, reduce, reduction):
        return NotImplemented
    how = REDUCTIONS[reduction]
    if label_smoothing or input.ndim > 2 or target.is_floating_point():
        options = weight, how, ignore_index, label_smoothing
        return kernels.cross_entropy_loss(input, target, *options)
    scores = torch.log_softmax(input, -1)
    return kernels.nll_loss(scores, target, weight, how, ignore_index)


if hasattr(F, "linear_cross_entropy"):  # from torch 2.13 on

    @composed(F.linear_cross_entropy)
    def _linear_cross_entropy(*args: Any, options: Any = None, **kwargs: Any) -> Any:
        """Without `options`, which say how to save memory by computing piece by piece."""
        return F.linear_cross_entropy(*args, **kwargs) if options else NotImplemented


# ------------------------------------------------------- losses of probabilities

rule(
    aten.binary_cross_entropy,
    lambda g, _y, x, target, weight=None, reduction=_MEAN: ops.binary_cross_entropy_backward(
        g, x, target, weight, reduction
    ),
    lambda g, _y, x, _target, weight=None, reduction=_MEAN: (
        _before_mean(_times(g, weight), x, reduction) * (torch.log1p(-x) - torch.log(x))
    ),
)


def _times(g: Any, weight: Any) -> Any:
    return g if weight is None else g * weight


def _logits_gradient(
    g: Any, x: Any, target: Any, weight: Any, pos_weight: Any, reduction: int
) -> Any:
    if pos_weight is None:
        d = torch.sigmoid(x) - target
    else:
        positive = pos_weight * target
        d = (positive + 1 - target) * torch.sigmoid(x) - positive
    return _before_mean(_times(d * g, weight), x, reduction)


def _logits_target_gradient(g: Any, x: Any, weight: Any, pos_weight: Any, reduction: int) -> Any:
    d = -x if pos_weight is None else F.logsigmoid(-x) - pos_weight * F.logsigmoid(x)
    return _before_mean(_times(d * g, weight), x, reduction)


rule(
    aten.binary_cross_entropy_with_logits,
    lambda g, _y, x, target, weight=None, pos_weight=None, reduction=_MEAN: _logits_gradient(
        g, x, target, weight, pos_weight, reduction
    ),
    lambda g, _y, x, _target, weight=None, pos_weight=None, reduction=_MEAN: (
        _logits_target_gradient(g, x, weight, pos_weight, reduction)
    ),
)


@composed(aten.multilabel_margin_loss_forward)
def _multilabel_margin_loss(input: Any, target: Any, reduction: int) -> Any:
    """By how much classes that are wanted are not 1 above the others, for all such pairs.

    The targets end at the first -1. (What torch's own decomposition gives is not this.)
    """
    if input.shape != target.shape or input.ndim > 2 or target.dtype is not torch.int64:
        raise ValueError("the target has no classes, or not one for each score")  # torch says more
    input, target = (t if t.ndim else t.unsqueeze(0) for t in (input, target))
    classes = torch.arange(input.shape[-1], device=target.device)
    given = (target >= 0).cumprod(-1).bool()
    others = ~(target.where(given, -1).unsqueeze(-1) == classes).any(-2)
    wanted = input.gather(-1, target.where(given, 0))
    short = torch.relu(1 - wanted.unsqueeze(-1) + input.unsqueeze(-2))
    pairs = given.unsqueeze(-1) & others.unsqueeze(-2)
    loss = torch.where(pairs, short, 0).sum((-2, -1)) / len(classes)
    if reduction != REDUCTIONS["none"]:
        loss = loss.mean() if reduction == _MEAN else loss.sum()
    return loss, (~others).to(input.dtype)


# ------------------------------------------------- connectionist temporal classification

rule(
    aten._ctc_loss,
    lambda g, y, log_probs, targets, input_lengths, target_lengths, blank=0, zero_infinity=False: (
        ops._ctc_loss_backward(
            g[0], log_probs, targets, input_lengths, target_lengths, *y, blank, zero_infinity
        )
    ),
    first_only=True,
)

_NEVER = -1e30  # the logarithm of 0, so far as to be finite


@composed(aten._ctc_loss_backward)
def _ctc_loss_backward(
    g: Any, log_probs: Any, targets: Any, input_lengths: Any, target_lengths: Any,
    loss: Any, _log_alpha: Any, blank: int, zero_infinity: bool = False,
) -> Any:  # fmt: skip
    """The gradient behind a log_softmax: the probabilities less how often a class is passed.

    Source: Graves et al., Connectionist Temporal Classification, ICML 2006, equations 5 to 16.
    """
    labels = _with_blanks(targets, [int(n) for n in target_lengths], blank)
    steps = labels.new_tensor([[int(n)] for n in input_lengths])
    places = labels.new_tensor([[2 * int(n) + 1] for n in target_lengths])
    time = torch.arange(len(log_probs), device=labels.device).view(-1, 1, 1)
    place = torch.arange(labels.shape[1], device=labels.device)
    last_time, last_place = (steps - 1 - time).clamp_min(0), (places - 1 - place).clamp_min(0)

    def turned(x: Any) -> Any:
        """From the end of each sequence and target to their beginning."""
        return x.gather(0, last_time.expand(x.shape)).gather(2, last_place.expand(x.shape))

    scores = log_probs.gather(2, labels.expand(len(log_probs), -1, -1))
    to = _log_of_paths(scores, labels, blank)
    onward = turned(_log_of_paths(turned(scores), labels.gather(1, last_place), blank))
    inside = (time < steps) & (place < places)
    through = torch.where(inside, to + onward - scores, _NEVER)
    impossible = torch.isinf(loss).unsqueeze(1)
    total = torch.where(impossible, 0, torch.logsumexp(through[0], 1, keepdim=True))
    passed = torch.zeros_like(log_probs).scatter_add(
        2, labels.expand(scores.shape), torch.exp(through - total)
    )
    d = g.unsqueeze(1) * (torch.exp(log_probs) - passed)
    d = torch.where(impossible, 0 if zero_infinity else math.nan, d)
    return torch.where(time < steps, d, 0)


def _with_blanks(targets: Any, lengths: list[int], blank: int) -> torch.Tensor:
    """A row per target, with blanks around each class; they come in rows or one after another."""
    following = iter(targets.tolist())
    rows = []
    for n in lengths:
        row = next(following)[:n] if targets.ndim == 2 else islice(following, n)
        spaced = [blank, *(label for c in row for label in (c, blank))]
        rows.append(spaced + [blank] * (2 * (max(lengths) - n)))
    return torch.tensor(rows, device=targets.device)


def _log_of_paths(scores: Any, labels: Any, blank: int) -> Any:
    """The logarithm of how likely the paths are that lead to each label at each time.

    A path stays, or goes on to the next label, or skips a blank between two different ones.
    """
    others = F.pad(labels, (2, 0), value=blank)[:, :-2]
    may_skip = (labels != blank) & (labels != others)
    first = torch.arange(labels.shape[1], device=labels.device) < 2
    paths = [torch.where(first, scores[0], _NEVER)]
    for score in scores[1:]:
        before = F.pad(paths[-1], (2, 0), value=_NEVER)
        skipping = torch.where(may_skip, before[:, :-2], _NEVER)
        ways = torch.stack([paths[-1], before[:, 1:-1], skipping])
        paths.append(score + torch.logsumexp(ways, 0))
    return torch.stack(paths)
