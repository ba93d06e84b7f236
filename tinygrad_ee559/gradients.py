"""Derivatives as functions of tensors: `grad`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tinygrad_ee559.errors import UnusedInputError
from tinygrad_ee559.tape import propagate
from tinygrad_ee559.tensor import Tensor, edge_of, lift, root_gradient


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients of `outputs` with respect to `inputs`; the leaves' own `grad` stay as they are.

    Args:
        outputs: what to differentiate.
        inputs: tensors that require gradients, leaves or not.
        grad_outputs: for every output, what to start with; 1 for outputs with one element.
        retain_graph: keep the saved values for another pass; `create_graph` if None.
        create_graph: record the pass itself, to differentiate again.
        allow_unused: give None for an input that the outputs do not depend on.

    Returns:
        One gradient per input, of its shape and dtype.

    Raises:
        UnusedInputError: an input is not used, and `allow_unused` is False.

    >>> x = Tensor(3.0, requires_grad=True)
    >>> dx, = grad(x**3, x, create_graph=True)
    >>> grad(dx, x)
    (Tensor(18.0),)
    """
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    if grad_outputs is None or isinstance(grad_outputs, (Tensor, torch.Tensor)):
        grad_outputs = [grad_outputs] * len(outputs) if grad_outputs is None else [grad_outputs]
    roots: dict[Any, Any] = {}
    for output, gradient in zip(outputs, grad_outputs, strict=True):
        edge = edge_of(output, "outputs")
        g = root_gradient(output, gradient, create_graph)
        roots[edge] = roots[edge] + g if edge in roots else g
    targets = [edge_of(tensor, "inputs") for tensor in inputs]
    retain = create_graph if retain_graph is None else retain_graph
    found = propagate(roots, lift, record=create_graph, retain=retain, targets=targets)
    gradients: list[Tensor | None] = []
    for position, target in enumerate(targets):
        g = found.get(target)
        if g is None and not allow_unused:
            raise UnusedInputError(
                f"the outputs do not depend on input {position}, of shape "
                f"{list(inputs[position].shape)}; pass allow_unused=True to get None for it"
            )
        gradients.append(g if g is None or isinstance(g, Tensor) else lift(g, None))
    return tuple(gradients)
