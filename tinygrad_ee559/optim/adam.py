"""`Adam` and `AdamW`: steps as long as the gradient's mean is large beside its spread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from tinygrad_ee559.optim.optimizer import (
    Number,
    Optimizer,
    acts,
    check_not_negative,
    raw,
    scaled,
)
from tinygrad_ee559.private import is_watched
from tinygrad_ee559.tensor import Tensor, put_back

#: From so many numbers on, one parameter is updated after the other.
LARGE = 2**20
_ONE = torch.tensor(1.0, dtype=torch.float32)


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, https://arxiv.org/abs/1412.6980), to the bit as PyTorch's.

    With the gradient g of a parameter p, and averages m and v that begin at 0, in p's step t::

        g = g + weight_decay * p
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        p = p - lr / (1 - beta1**t) * m / (sqrt(v / (1 - beta2**t)) + eps)

    A parameter without a gradient stays as it is, and so does its t.

    Args:
        params: tensors that you made (leaves), or dicts with such tensors under "params" and with
            hyper-parameters of their own, one dict for each group.
        lr: the learning rate; `optimizer.param_groups[0]["lr"] = ...` changes it on the way.
        betas: how much of the averages goes into the next ones, beta1 and beta2.
        eps: keeps the denominator away from 0.
        weight_decay: the factor of an L2 penalty.
        amsgrad: divide by the largest v so far (https://openreview.net/forum?id=ryQu7f-RZ).
        decoupled_weight_decay: shrink p by the factor 1 - lr * weight_decay instead of adding to
            g, as `AdamW` does.

    The learning rate and the weight decay may be tensors with one element; then programs that
    `tinygrad_ee559.compile` makes read them anew in every step.

    Raises:
        ValueError: a hyper-parameter is out of range, there are no parameters, one is given twice,
            or one is not a leaf.
        TypeError: one of the parameters is no `Tensor`.

    >>> x = Tensor(3.0, requires_grad=True)
    >>> optimizer = Adam([x], lr=0.5)
    >>> for _ in range(3):
    ...     optimizer.zero_grad()
    ...     (x * x).backward()
    ...     optimizer.step()
    >>> round(x.item(), 3)
    1.518
    """

    _kept = {
        "step": "steps",
        "exp_avg": "averages",
        "exp_avg_sq": "squares",
        "max_exp_avg_sq": "largest",
    }
    steps: dict[Tensor, torch.Tensor]
    averages: dict[Tensor, torch.Tensor]
    squares: dict[Tensor, torch.Tensor]
    largest: dict[Tensor, torch.Tensor]

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: Number = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Number = 0.0,
        amsgrad: bool = False,
        *,
        decoupled_weight_decay: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults)

    def _check_hyper_parameters(self, given: Mapping[str, Any]) -> None:
        check_not_negative(given, "lr", "eps", "weight_decay")
        for beta in given["betas"]:
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"betas must be from 0 to below 1, not {given['betas']}")

    def _names(self, group: Mapping[str, Any]) -> Iterable[str]:
        return [name for name in self._kept if group["amsgrad"] or name != "max_exp_avg_sq"]

    def step(self) -> None:
        """Update all parameters that have a gradient, in place."""
        for group in self.param_groups:
            params, values, grads, numbers = self._with_gradients(group)
            if not params:
                continue
            lists = [values, grads, *self._gather(params, values, group["amsgrad"])]
            if any(map(torch.is_complex, values)):
                lists = [[_as_real(t) for t in tensors] for tensors in lists]
            update = _update_by_tensors if is_watched() else _update
            if sum([value.numel() for value in values]) < LARGE:
                update(group, *lists)
            else:  # what is computed on the way never lies in memory for all at once
                for one in zip(*lists):
                    update(group, *([tensor] for tensor in one))
            if numbers:
                put_back(params, values)

    def _gather(
        self, params: list[Tensor], values: list[torch.Tensor], amsgrad: bool
    ) -> list[list[torch.Tensor]]:
        """Steps, averages, squares and, for amsgrad, the largest; made where there were none."""
        steps, averages, squares, largest = self.steps, self.averages, self.squares, self.largest
        before = len(steps), len(largest)
        for p, value in zip(params, values):
            if p not in steps:
                steps[p] = torch.zeros_like(_ONE)
                averages[p], squares[p] = torch.zeros_like(value), torch.zeros_like(value)
            if amsgrad and p not in largest:
                largest[p] = torch.zeros_like(value)
        if (len(steps), len(largest)) != before:
            self._put_in_order()
        kept = [steps, averages, squares, largest] if amsgrad else [steps, averages, squares]
        return [[values_of[p] for p in params] for values_of in kept]


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    All is as in `Adam`, but for the first line of the rule. In place of the gradient it changes the
    parameter, p = p - lr * weight_decay * p (https://arxiv.org/abs/1711.05101), so that decay is
    not divided by the gradient's spread.

    Args:
        params, lr, betas, eps, weight_decay, amsgrad: as in `Adam`.

    Raises:
        ValueError, TypeError: as `Adam`.

    >>> x = Tensor([1.0], requires_grad=True)
    >>> optimizer = AdamW([x], lr=0.5, weight_decay=0.1)
    >>> (0 * x).sum().backward()
    >>> optimizer.step()
    >>> x
    Tensor([0.9500], requires_grad=True)
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: Number = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Number = 1e-2,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, decoupled_weight_decay=True)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """As in `Adam`, whose state dicts are taken too; the decay stays decoupled."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True


def _as_real(tensor: torch.Tensor) -> torch.Tensor:
    """Real and imaginary parts as numbers of their own."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _update(
    group: Mapping[str, Any],
    values: list[torch.Tensor],
    grads: Any,
    steps: list[torch.Tensor],
    averages: list[torch.Tensor],
    squares: list[torch.Tensor],
    largest: list[torch.Tensor] | None = None,
) -> None:
    """One step, by foreach functions, which take half the time of a loop and round alike."""
    lr, (beta1, beta2), decay = raw(group["lr"]), group["betas"], raw(group["weight_decay"])
    torch._foreach_add_(steps, _ONE, alpha=1)
    counts = [step.item() for step in steps]
    times = list(dict.fromkeys(counts))  # one, unless gradients were missing
    # Tensors of the parameters' dtype: of numbers, torch would make some for each parameter.
    dtype = torch.float64 if torch.float64 in {v.dtype for v in values} else torch.float32
    numbers = [float(1 - lr * decay), beta2, group["eps"], *((1 - beta2**t) ** 0.5 for t in times)]
    shrinking, keeping, eps, *roots = torch.tensor(numbers, dtype=dtype).unbind()
    if acts(decay):
        if group["decoupled_weight_decay"]:
            torch._foreach_mul_(values, shrinking)
        else:
            grads = torch._foreach_add(grads, **scaled(values, decay))
    torch._foreach_lerp_(averages, grads, 1 - beta1)
    torch._foreach_mul_(squares, keeping)
    torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
    if largest:
        torch._foreach_maximum_(largest, squares)
    spreads = torch._foreach_sqrt(largest or squares)
    root_at, size_at = dict(zip(times, roots)), {t: -float(lr / (1 - beta1**t)) for t in times}
    torch._foreach_div_(spreads, [root_at[t] for t in counts])
    torch._foreach_add_(spreads, eps, alpha=1)
    torch._foreach_addcdiv_(values, averages, spreads, [size_at[t] for t in counts])


def _update_by_tensors(
    group: Mapping[str, Any],
    values: list[torch.Tensor],
    grads: Any,
    steps: list[torch.Tensor],
    averages: list[torch.Tensor],
    squares: list[torch.Tensor],
    largest: list[torch.Tensor] | None = None,
) -> None:
    """The same for programs, in which nobody asks for the value of t."""
    lr, (beta1, beta2), decay = raw(group["lr"]), group["betas"], raw(group["weight_decay"])
    for i, (p, g, step, m, v) in enumerate(zip(values, grads, steps, averages, squares)):
        t = step.add_(1).double()
        if acts(decay):
            if group["decoupled_weight_decay"]:
                p.mul_(1 - lr * decay)
            else:
                g = g + decay * p
        m.lerp_(g, 1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        if largest:
            v = largest[i].clamp_(min=v)
        bias, root = 1 - beta1**t, (1 - beta2**t).sqrt()
        if isinstance(lr, torch.Tensor):
            bias = bias.to(lr.dtype)  # as a number would be
        p.sub_((lr / bias).to(p.dtype) * m / (v.sqrt() / root.to(p.dtype) + group["eps"]))
