"""`SGD`: stochastic gradient descent with momentum, Nesterov momentum and weight decay."""

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
from tinygrad_ee559.tensor import Tensor, put_back


class SGD(Optimizer):
    """Stochastic gradient descent, with PyTorch's update rule to the bit.

    With the gradient g of a parameter p, and its momentum buffer b, which begins as the first g::

        g = g + weight_decay * p
        b = momentum * b + (1 - dampening) * g
        g = g + momentum * b  if nesterov else  b        (both lines only where momentum is not 0)
        p = p - lr * g

    A parameter without a gradient stays as it is.

    Args:
        params: tensors that you made (leaves), or dicts with such tensors under "params" and with
            hyper-parameters of their own, one dict for each group.
        lr: the learning rate; `optimizer.param_groups[0]["lr"] = ...` changes it on the way.
        momentum: how much of the last update goes into the next one.
        dampening: takes this part of the gradient out of the momentum.
        weight_decay: the factor of an L2 penalty.
        nesterov: look ahead along the momentum.

    The learning rate, the momentum, the dampening and the weight decay may be tensors with one
    element; then programs that `tinygrad_ee559.compile` makes read them anew in every step.

    Raises:
        ValueError: a hyper-parameter is out of range, there are no parameters, one is given twice,
            or one is not a leaf.
        TypeError: one of the parameters is no `Tensor`.

    >>> x = Tensor(3.0, requires_grad=True)
    >>> optimizer = SGD([x], lr=0.25)
    >>> for _ in range(3):
    ...     optimizer.zero_grad()
    ...     (x * x).backward()
    ...     optimizer.step()
    >>> x
    Tensor(0.375, requires_grad=True)
    """

    _kept = {"momentum_buffer": "momentum_buffers"}
    momentum_buffers: dict[Tensor, torch.Tensor]

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: Number = 1e-3,
        momentum: Number = 0.0,
        dampening: Number = 0.0,
        weight_decay: Number = 0.0,
        nesterov: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
        }
        super().__init__(params, defaults)

    def _check_hyper_parameters(self, given: Mapping[str, Any]) -> None:
        check_not_negative(given, "lr", "momentum", "weight_decay")
        momentum, dampening = given["momentum"], given["dampening"]
        if given["nesterov"] and (momentum == 0 or dampening != 0):
            raise ValueError(
                "nesterov needs a momentum above 0 and a dampening of 0, not "
                f"momentum={momentum} and dampening={dampening}"
            )

    def step(self) -> None:
        """Update all parameters that have a gradient, in place."""
        # One call of a foreach function takes half the time of a loop in Python, and rounds alike.
        # The fused kernel, torch._fused_sgd_, would be faster still but rounds otherwise.
        for group in self.param_groups:
            params, values, grads, numbers = self._with_gradients(group)
            if not params:
                continue
            momentum, decay = group["momentum"], group["weight_decay"]
            if acts(decay):
                grads = torch._foreach_add(grads, **scaled(values, decay))
            if acts(momentum):
                buffers = self._gather_momentum(params, grads, momentum, group["dampening"])
                if group["nesterov"]:
                    grads = torch._foreach_add(grads, **scaled(buffers, momentum))
                else:
                    grads = buffers
            torch._foreach_add_(values, **scaled(grads, -group["lr"]))
            if numbers:
                put_back(params, values)

    def _gather_momentum(
        self, params: list[Tensor], grads: list[torch.Tensor], momentum: Any, dampening: Any
    ) -> list[torch.Tensor]:
        """The momentum buffers with the gradients taken in; made where there was none."""
        known = self.momentum_buffers
        old = [i for i, p in enumerate(params) if p in known]
        if old:
            buffers = [known[params[i]] for i in old]
            for buffer in buffers:  # torch._foreach_mul_ rounds otherwise in 16-bit dtypes
                buffer.mul_(raw(momentum))
            torch._foreach_add_(buffers, **scaled([grads[i] for i in old], 1 - dampening))
        for p, g in zip(params, grads):
            if p not in known:
                known[p] = g.clone()
        if len(old) < len(params):
            self._put_in_order()
        return [known[p] for p in params]
