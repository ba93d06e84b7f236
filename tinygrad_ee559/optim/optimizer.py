"""`Optimizer`: groups of parameters, and what is remembered of each; what optimizers share."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from tinygrad_ee559.errors import StateDictError
from tinygrad_ee559.tensor import Tensor, leaf_of

Number = float | Tensor | torch.Tensor
_TENSORS = (Tensor, torch.Tensor)
#: What learning-rate schedules keep in groups.
SCHEDULED = frozenset(["initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum"])
#: By which of its implementations PyTorch computes; the numbers are the same.
_SWITCHES = frozenset(["foreach", "fused", "capturable", "differentiable"])


class Optimizer:
    """The base class of optimizers: groups of parameters, each with its hyper-parameters.

    Subclasses define `step` and `_check_hyper_parameters`, and name in `_kept` what they remember
    of each parameter; if not all of that is always there, `_names` says what is.

    Args:
        params: tensors that you made (leaves), or dicts with such tensors under "params" and with
            hyper-parameters of their own, one dict for each group.
        defaults: the hyper-parameters of groups that have none of their own.

    Raises:
        ValueError: a hyper-parameter is out of range, there are no parameters, one is given twice,
            or one is not a leaf.
        TypeError: one of the parameters is no `Tensor`.
    """

    #: What is kept for parameters: PyTorch's name, and the attribute that has it by parameter.
    _kept: dict[str, str] = {}
    #: Whether a learning-rate schedule changes the groups.
    scheduled = False

    def __init__(
        self, params: Iterable[Tensor] | Iterable[dict[str, Any]], defaults: dict[str, Any]
    ) -> None:
        self.defaults = defaults
        self._check_hyper_parameters(defaults)
        self.param_groups: list[dict[str, Any]] = []
        for attribute in self._kept.values():
            setattr(self, attribute, {})
        if isinstance(params, (Tensor, torch.Tensor)):
            raise TypeError("params must be a list of tensors or dicts; put this tensor in a list")
        given: list[Any] = list(params)
        if not given:
            raise ValueError(f"{type(self).__name__} was given no parameters")
        groups = given if isinstance(given[0], dict) else [{"params": given}]
        for group in groups:
            self.add_param_group(group)
        _keep_freed_memory()

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Optimize further parameters, those under "params", with hyper-parameters of their own.

        Raises:
            ValueError, TypeError: as the optimizer itself.
        """
        params = param_group["params"]
        params = [params] if isinstance(params, Tensor) else list(params)
        group = {**self.defaults, **param_group, "params": params}
        unknown = sorted(group.keys() - {"params", *self.defaults} - SCHEDULED)
        if unknown:
            raise ValueError(
                f"{type(self).__name__} has no hyper-parameter {', '.join(unknown)}; it has "
                f"{', '.join(self.defaults)}"
            )
        self._check_hyper_parameters(group)
        seen = {p for other in self.param_groups for p in other["params"]}
        for position, p in enumerate(params):
            _check_parameter(p, position)
            if p in seen:
                raise ValueError(f"parameter {position}, of shape {list(p.shape)}, is given twice")
            seen.add(p)
        self.param_groups.append(group)

    def _check_hyper_parameters(self, given: Mapping[str, Any]) -> None:
        """Raise a ValueError if one is out of range."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients: every `grad` becomes None, or zeros if not `set_to_none`."""
        for group in self.param_groups:
            for p in group["params"]:
                leaf = p.node
                if leaf is None:  # frozen, as few are
                    leaf = leaf_of(p)
                    if leaf is None:
                        continue
                if set_to_none:
                    leaf.grad = None
                elif leaf.grad is not None:
                    data = p._data
                    leaf.grad = Tensor(torch.zeros_like(data) if leaf.shape is not None else 0.0)

    def step(self) -> None:
        """Update all parameters that have a gradient, in place."""
        raise NotImplementedError(f"{type(self).__name__} does not define step()")

    def _with_gradients(
        self, group: Mapping[str, Any]
    ) -> tuple[list[Tensor], list[Any], Any, bool]:
        """What has a gradient, as torch tensors: parameters, values, gradients; any numbers?"""
        params, values, grads = [], [], []
        for p in group["params"]:
            leaf = p.node
            if leaf is None:
                leaf = leaf_of(p)
            if leaf is not None and leaf.grad is not None:
                params.append(p)
                values.append(p._data)
                grads.append(leaf.grad._data)
        numbers = float in map(type, values)  # they cannot be changed in place
        if numbers:
            values = [p.as_torch() for p in params]
            grads = [p.grad.as_torch() for p in params if p.grad is not None]
        return params, values, grads, numbers

    def _put_in_order(self) -> None:
        """Have what is kept in the order of the parameters, whichever of them was the first to
        learn: members of an ensemble are alike then."""
        order = [p for group in self.param_groups for p in group["params"]]
        for attribute in self._kept.values():
            kept = getattr(self, attribute)
            found = {**{p: kept[p] for p in order if p in kept}, **kept}
            kept.clear()
            kept.update(found)

    def _names(self, group: Mapping[str, Any]) -> Iterable[str]:
        """What is kept for each parameter of a group, once it was updated."""
        return self._kept

    def state_dict(self) -> dict[str, Any]:
        """Hyper-parameters and what is kept, laid out as in PyTorch: parameters are numbered.

        What is kept is torch tensors, which share memory with the optimizer's, so that PyTorch's
        optimizers take it too.
        """
        numbers: dict[Tensor, int] = {}
        for group in self.param_groups:
            for p in group["params"]:
                numbers[p] = len(numbers)
        kept = {name: getattr(self, attribute) for name, attribute in self._kept.items()}
        states = {
            number: {name: values[p] for name, values in kept.items() if p in values}
            for p, number in numbers.items()
        }
        return {
            "state": {number: state for number, state in states.items() if state},
            "param_groups": [
                {
                    **{name: raw(value) for name, value in group.items()},
                    "params": [numbers[p] for p in group["params"]],
                }
                for group in self.param_groups
            ],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over hyper-parameters and what is kept, of this class or PyTorch's.

        Raises:
            StateDictError: the groups, the numbers of parameters or the shapes differ, something is
                missing, or PyTorch's optimizer used an option that this one does not have; nothing
                was changed.
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
        kept: dict[str, dict[Tensor, torch.Tensor]] = {name: {} for name in self._kept}
        problems = []
        for group, saved in zip(self.param_groups, saved_groups):
            names = dict.fromkeys((*group, *saved))  # in the order that this group has
            options = {name: saved[name] for name in names if name in saved and name != "params"}
            problems += [f"{name} is missing" for name in self.defaults if name not in options]
            ours = self.defaults.keys() | SCHEDULED
            needed = self._names({**group, **options})
            problems += [
                f"{name}={value!r} is not supported"
                for name, value in options.items()
                if name not in ours | _SWITCHES and value
            ]
            known = {name: value for name, value in options.items() if name in ours}
            loaded = {**copy.deepcopy(known), "params": group["params"]}
            groups.append({name: loaded[name] for name in names if name in loaded})
            for p, number in zip(group["params"], saved["params"]):
                state = {
                    name: Tensor(value).as_torch()
                    for name, value in state_dict["state"].get(number, {}).items()
                    if name in kept and value is not None
                }
                problems += [
                    f"the {name} of parameter {number} is missing"
                    for name in needed
                    if state and name not in state
                ]
                for name, value in state.items():
                    shape, dtype, device = _look(name, p)
                    if value.shape != shape:
                        problems.append(
                            f"the {name.removesuffix('_buffer')} of parameter {number} has shape "
                            f"{list(value.shape)}, expected {list(shape)}"
                        )
                    kept[name][p] = value.detach().to(device=device, dtype=dtype, copy=True)
        if problems:
            raise StateDictError(
                f"this state dict does not fit {type(self).__name__}; {'; '.join(problems)}"
            )
        for group, loaded in zip(self.param_groups, groups):  # the same dicts: programs know them
            group.clear()
            group.update(loaded)
        for name, attribute in self._kept.items():
            values = getattr(self, attribute)
            values.clear()
            values.update(kept[name])


def acts(factor: Any) -> bool:
    """Whether a hyper-parameter does anything; of a tensor, its value is not asked for."""
    return isinstance(factor, _TENSORS) or bool(factor)


def raw(factor: Any) -> Any:
    return factor._data if isinstance(factor, Tensor) else factor


def scaled(tensors: list[torch.Tensor], factor: Any) -> dict[str, Any]:
    """The arguments with which torch._foreach_add adds tensors times a factor."""
    if factor.__class__ is float or factor.__class__ is int:
        return {"other": tensors, "alpha": factor}
    return {"other": [tensor * raw(factor) for tensor in tensors]}


def check_not_negative(given: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if not given[name] >= 0.0:  # NaN is refused too
            raise ValueError(f"{name} must be 0 or more, not {given[name]}")


def _keep_freed_memory() -> None:
    """Let the process keep what one step frees, which the next one wants again.

    The GNU C library returns free memory to the system once there is more than twice as much as the
    largest block that it has seen freed, of up to 32 MB; then every page costs a microsecond when
    it comes back, a quarter of the step of a network of 784-512-512-512-10. So it is shown such a
    block. Nobody writes to it, and it takes no memory.

    Source: mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


def _look(name: str, p: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    """The shape, dtype and device of what is kept for a parameter."""
    if name == "step":
        return torch.Size(), torch.float32, torch.device("cpu")
    return p.shape, p.dtype, p.device


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
