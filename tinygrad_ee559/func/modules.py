"""Modules as functions of their parameters and buffers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tinygrad_ee559.errors import StateDictError
from tinygrad_ee559.nn.module import Module
from tinygrad_ee559.tensor import Tensor


def functional_call(
    module: Module,
    parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    args: Any = None,
    kwargs: Mapping[str, Any] | None = None,
) -> Any:
    """What `module` gives with other parameters and buffers; the module stays as it is.

    Args:
        module: any module.
        parameters: tensors by the paths of the parameters and buffers whose place they take, or
            several such mappings. The others stay. What the module changes in place, such as a
            running mean, changes in the tensor that was given.
        args: the arguments, as a tuple, or one argument.
        kwargs: the keyword arguments.

    Raises:
        StateDictError: the module has no parameter or buffer of such a path.

    >>> from tinygrad_ee559 import nn
    >>> module = nn.Linear(2, 1, bias=False)
    >>> functional_call(module, {"weight": Tensor([[1.0, 10.0]])}, Tensor([3.0, 4.0]))
    Tensor([43.])
    """
    given: dict[str, Any] = {}
    for mapping in [parameters] if isinstance(parameters, Mapping) else parameters:
        given.update(mapping)
    own: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    own.update(module.named_buffers(remove_duplicate=False))
    unknown = sorted(given.keys() - own.keys())
    if unknown:
        raise StateDictError(
            f"{module._get_name()} has no parameter or buffer {', '.join(unknown)}; it has "
            f"{', '.join(own)}"
        )
    before = [(own[path], own[path]._data, own[path].node) for path in given]
    positional = () if args is None else args if isinstance(args, tuple) else (args,)
    try:
        for path, value in given.items():
            value = value if isinstance(value, Tensor) else Tensor(value)
            own[path]._data, own[path].node = value._data, value.node
        return module(*positional, **(kwargs or {}))
    finally:
        for parameter, data, node in before:
            parameter._data, parameter.node = data, node


def stack_module_state(models: Sequence[Module]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The state of several modules of one kind as one set, with a first dimension of modules.

    Args:
        models: modules whose parameters and buffers have the same paths and shapes.

    Returns:
        The stacked parameters by path, as tensors that require gradients where the modules' do;
        and the stacked buffers by path.

    Raises:
        StateDictError: there are no modules, or paths or shapes differ.

    >>> from tinygrad_ee559 import nn
    >>> parameters, _ = stack_module_state([nn.Linear(2, 3) for _ in range(5)])
    >>> parameters["weight"].shape
    torch.Size([5, 3, 2])
    """
    if not models:
        raise StateDictError("stack_module_state needs at least one module")
    parameters = _stacked([dict(model.named_parameters()) for model in models], "parameters")
    return parameters, _stacked([dict(model.named_buffers()) for model in models], "buffers")


def _stacked(states: Sequence[Mapping[str, Tensor]], kind: str) -> dict[str, Tensor]:
    """The tensors of several modules by path, stacked."""
    shapes = [{path: tensor.shape for path, tensor in state.items()} for state in states]
    for number, other in enumerate(shapes):
        if other != shapes[0]:
            raise StateDictError(
                f"module {number} has {kind} {other}, and module 0 has {shapes[0]}"
            )
    return {
        path: Tensor(
            torch.stack([state[path].as_torch() for state in states]),
            requires_grad=first.requires_grad,
        )
        for path, first in states[0].items()
    }
