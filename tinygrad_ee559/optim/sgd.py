"""`SGD`: stochastic gradient descent with momentum, Nesterov momentum and weight decay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from tinygrad_ee559.errors import StateDictError
from tinygrad_ee559.tensor import Tensor, lift

Number = float | Tensor | torch.Tensor
HYPER_PARAMETERS = ("lr", "momentum", "dampening", "weight_decay", "nesterov")


class SGD:
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

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: Number = 1e-3,
        momentum: Number = 0.0,
        dampening: Number = 0.0,
        weight_decay: Number = 0.0,
        nesterov: bool = False,
    ) -> None:
        values = (lr, momentum, dampening, weight_decay, nesterov)
        self.defaults: dict[str, Any] = dict(zip(HYPER_PARAMETERS, values))
        _check_hyper_parameters(self.defaults)
        self.param_groups: list[dict[str, Any]] = []
        self.momentum_buffers: dict[Tensor, torch.Tensor] = {}
        if isinstance(params, (Tensor, torch.Tensor)):
            raise TypeError("params must be a list of tensors or dicts; put this tensor in a list")
        given: list[Any] = list(params)
        if not given:
            raise ValueError("SGD was given no parameters")
        groups = given if isinstance(given[0], dict) else [{"params": given}]
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Optimize further parameters, those under "params", with hyper-parameters of their own.

        Raises:
            ValueError, TypeError: as `SGD` itself.
        """
        params = param_group["params"]
        params = [params] if isinstance(params, Tensor) else list(params)
        group = {**self.defaults, **param_group, "params": params}
        unknown = sorted(group.keys() - {"params", *HYPER_PARAMETERS})
        if unknown:
            raise ValueError(
                f"SGD has no hyper-parameter {', '.join(unknown)}; it has "
                f"{', '.join(HYPER_PARAMETERS)}"
            )
        _check_hyper_parameters(group)
        seen = {p for other in self.param_groups for p in other["params"]}
        for position, p in enumerate(params):
            _check_parameter(p, position)
            if p in seen:
                raise ValueError(f"parameter {position}, of shape {list(p.shape)}, is given twice")
            seen.add(p)
        self.param_groups.append(group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients: every `grad` becomes None, or zeros if not `set_to_none`."""
        for group in self.param_groups:
            for p in group["params"]:
                leaf = p.node
                if leaf is not None and leaf.grad is not None:
                    leaf.grad = None if set_to_none else Tensor(torch.zeros_like(p.as_torch()))

    def step(self) -> None:
        """Update all parameters that have a gradient, in place."""
        for group in self.param_groups:
            params, values, grads = [], [], []
            for p in group["params"]:
                leaf = p.node
                if leaf is not None and leaf.grad is not None:
                    params.append(p)
                    values.append(p._data)
                    grads.append(leaf.grad._data)
            if params:
                self._update(group, params, values, grads)

    def _update(
        self, group: Mapping[str, Any], params: list[Tensor], values: list[Any], grads: Any
    ) -> None:
        # One call of a foreach function takes half the time of a loop in Python, and rounds alike.
        # The fused kernel, torch._fused_sgd_, would be faster still but rounds otherwise.
        momentum, decay = group["momentum"], group["weight_decay"]
        numbers = float in map(type, values)  # they cannot be changed in place
        if numbers:
            values = [p.as_torch() for p in params]
            grads = [p.node.grad.as_torch() for p in params]
        if _acts(decay):
            grads = torch._foreach_add(grads, **_scaled(values, decay))
        if _acts(momentum):
            buffers = self._gather_momentum(params, grads, momentum, group["dampening"])
            if group["nesterov"]:
                grads = torch._foreach_add(grads, **_scaled(buffers, momentum))
            else:
                grads = buffers
        torch._foreach_add_(values, **_scaled(grads, -group["lr"]))
        if numbers:
            for p, value in zip(params, values):
                if value is not p._data:
                    p.data = value.item()

    def _gather_momentum(
        self, params: list[Tensor], grads: list[torch.Tensor], momentum: Any, dampening: Any
    ) -> list[torch.Tensor]:
        """The momentum buffers with the gradients taken in; made where there was none."""
        known = self.momentum_buffers
        old = [i for i, p in enumerate(params) if p in known]
        if old:
            buffers = [known[params[i]] for i in old]
            for buffer in buffers:  # torch._foreach_mul_ rounds otherwise in 16-bit dtypes
                buffer.mul_(_raw(momentum))
            torch._foreach_add_(buffers, **_scaled([grads[i] for i in old], 1 - dampening))
        for p, g in zip(params, grads):
            if p not in known:
                known[p] = g.clone()
        return [known[p] for p in params]

    def state_dict(self) -> dict[str, Any]:
        """Hyper-parameters and momentum, laid out as in PyTorch: parameters are numbered."""
        numbers: dict[Tensor, int] = {}
        for group in self.param_groups:
            for p in group["params"]:
                numbers[p] = len(numbers)
        buffers = self.momentum_buffers
        return {
            "state": {
                number: {"momentum_buffer": lift(buffers[p], None)}
                for p, number in numbers.items()
                if p in buffers
            },
            "param_groups": [
                {**group, "params": [numbers[p] for p in group["params"]]}
                for group in self.param_groups
            ],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over hyper-parameters and momentum from a state dict, of this class or PyTorch's.

        Raises:
            StateDictError: the groups, the numbers of parameters or the shapes differ, or PyTorch's
                optimizer used an option that this one does not have; nothing was changed.
        """
        saved_groups = state_dict["param_groups"]
        sizes = [len(group["params"]) for group in self.param_groups]
        saved_sizes = [len(group["params"]) for group in saved_groups]
        if sizes != saved_sizes:
            raise StateDictError(
                f"this optimizer has groups of {sizes} parameters, and the state dict has groups "
                f"of {saved_sizes}"
            )
        groups = []
        buffers = {}
        problems = []
        for group, saved in zip(self.param_groups, saved_groups):
            options = {name: value for name, value in saved.items() if name != "params"}
            missing = [name for name in HYPER_PARAMETERS if name not in options]
            problems += [f"{name} is missing" for name in missing]
            problems += [
                f"{name}={value!r} is not supported"
                for name, value in options.items()
                if name not in HYPER_PARAMETERS and value
            ]
            known = {name: options[name] for name in HYPER_PARAMETERS if name in options}
            groups.append({**known, "params": group["params"]})
            for p, number in zip(group["params"], saved["params"]):
                buffer = state_dict["state"].get(number, {}).get("momentum_buffer")
                if buffer is None:
                    continue
                if buffer.shape != p.shape:
                    problems.append(
                        f"the momentum of parameter {number} has shape {list(buffer.shape)}, "
                        f"expected {list(p.shape)}"
                    )
                value = buffer.as_torch() if isinstance(buffer, Tensor) else buffer
                buffers[p] = value.detach().to(device=p.device, dtype=p.dtype, copy=True)
        if problems:
            raise StateDictError(f"this state dict does not fit SGD; {'; '.join(problems)}")
        self.param_groups = groups
        self.momentum_buffers = buffers


def _acts(factor: Any) -> bool:
    """Whether a hyper-parameter does anything; of a tensor, its value is not asked for."""
    return isinstance(factor, (Tensor, torch.Tensor)) or bool(factor)


def _raw(factor: Any) -> Any:
    return factor._data if isinstance(factor, Tensor) else factor


def _scaled(tensors: list[torch.Tensor], factor: Any) -> dict[str, Any]:
    """The arguments with which torch._foreach_add adds tensors times a factor."""
    if factor.__class__ is float or factor.__class__ is int:
        return {"other": tensors, "alpha": factor}
    return {"other": [tensor * _raw(factor) for tensor in tensors]}


def _check_hyper_parameters(given: Mapping[str, Any]) -> None:
    for name in ("lr", "momentum", "weight_decay"):
        if not given[name] >= 0.0:  # NaN is refused too
            raise ValueError(f"{name} must be 0 or more, not {given[name]}")
    momentum, dampening = given["momentum"], given["dampening"]
    if given["nesterov"] and (momentum == 0 or dampening != 0):
        raise ValueError(
            "nesterov needs a momentum above 0 and a dampening of 0, not "
            f"momentum={momentum} and dampening={dampening}"
        )


def _check_parameter(parameter: Any, position: int) -> None:
    if not isinstance(parameter, Tensor):
        raise TypeError(
            f"parameter {position} is a {type(parameter).__name__}, not a tinygrad_ee559.Tensor"
        )
    if not parameter.is_leaf:
        raise ValueError(
            f"parameter {position}, of shape {list(parameter.shape)}, was computed by "
            f"{parameter.node.rule.name}; only tensors that you made can be optimized"
        )
