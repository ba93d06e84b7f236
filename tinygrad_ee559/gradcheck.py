"""Checking gradients against finite differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from tinygrad_ee559.errors import GradcheckError
from tinygrad_ee559.gradients import grad
from tinygrad_ee559.tensor import Tensor

Function = Callable[..., Any]


def gradcheck(
    func: Function,
    inputs: Tensor | Sequence[Any],
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
) -> bool:
    """Whether the gradients of `func` agree with central differences, as in PyTorch.

    Every entry of the Jacobian is compared: of each floating-point result with respect to each
    input that requires gradients. Results of lower precision than float64 rarely pass.

    Args:
        func: takes `inputs`, returns a tensor or several.
        inputs: what to call it with; the tensors among it that require gradients are varied.
        eps: the step of the differences.
        atol: absolute tolerance.
        rtol: relative tolerance.
        raise_exception: raise instead of returning False.

    Raises:
        GradcheckError: the gradients differ; names the result, the input and both Jacobians.
        ValueError: no input requires gradients.

    >>> x = Tensor([0.5, -1.0], dtype=torch.float64, requires_grad=True)
    >>> gradcheck(torch.sin, x)
    True
    """
    args = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    outputs = _results(func(*args))
    for position in _varied(args):
        columns = _numerical(func, args, position, eps)
        for result, (output, numerical) in enumerate(zip(outputs, columns, strict=True)):
            analytical = _analytical(output, args[position])
            if not torch.allclose(analytical, numerical, rtol=rtol, atol=atol, equal_nan=True):
                if not raise_exception:
                    return False
                raise GradcheckError(
                    f"the gradient of result {result} with respect to input {position} is wrong; "
                    f"by the rules its Jacobian is\n{analytical}\n"
                    f"and by differences of {eps}\n{numerical}"
                )
    return True


def gradgradcheck(
    func: Function,
    inputs: Tensor | Sequence[Any],
    grad_outputs: Sequence[Any] | None = None,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
) -> bool:
    """Whether the gradients of the gradients of `func` agree with central differences.

    Args:
        func: takes `inputs`, returns a tensor or several.
        inputs: what to call it with.
        grad_outputs: what the first backward pass starts with, random numbers from a generator
            seeded with 0 if None.
        eps: the step of the differences.
        atol: absolute tolerance.
        rtol: relative tolerance.
        raise_exception: raise instead of returning False.

    Raises:
        GradcheckError: the second derivatives differ.

    >>> x = Tensor([0.5, -1.0], dtype=torch.float64, requires_grad=True)
    >>> gradgradcheck(torch.sin, x)
    True
    """
    args = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    if grad_outputs is None:
        generator = torch.Generator().manual_seed(0)
        grad_outputs = [_random_like(y, generator) for y in _results(func(*args))]

    def gradients(*everything: Any) -> list[Tensor]:
        """The gradients of `func` as a function of its inputs and of what the pass starts with."""
        given = everything[: len(args)]
        wanted = [given[i] for i in _varied(given)]
        found = grad(
            [y for y in _results(func(*given)) if y.requires_grad],
            wanted,
            everything[len(args) :],
            create_graph=True,
            allow_unused=True,
        )
        return [g for g in found if g is not None]

    return gradcheck(
        gradients,
        (*args, *grad_outputs),
        eps=eps,
        atol=atol,
        rtol=rtol,
        raise_exception=raise_exception,
    )


def _varied(args: Sequence[Any]) -> list[int]:
    """The positions of the tensors that require gradients."""
    positions = [i for i, a in enumerate(args) if isinstance(a, Tensor) and a.requires_grad]
    if not positions:
        raise ValueError("none of the inputs requires gradients, so there is nothing to check")
    return positions


def _results(returned: Any) -> list[Tensor]:
    """The floating-point tensors among what a function returned."""
    returned = (returned,) if isinstance(returned, Tensor) else returned
    return [y for y in returned if isinstance(y, Tensor) and y.is_floating_point()]


def _analytical(output: Tensor, x: Tensor) -> torch.Tensor:
    """The Jacobian by the rules: a row per element of the output, a column per element of x."""
    rows = torch.zeros(output.numel(), x.numel(), dtype=torch.float64)
    if output.requires_grad:
        for i, row in enumerate(rows):
            start = torch.zeros(output.numel(), dtype=output.dtype)
            start[i] = 1
            (g,) = grad(output, x, Tensor(start.reshape(output.shape)), True, allow_unused=True)
            if g is not None:
                row.copy_(g.as_torch().reshape(-1))
    return rows


def _numerical(
    func: Function, args: tuple[Any, ...], position: int, eps: float
) -> list[torch.Tensor]:
    """The Jacobian of each result by central differences."""
    x = args[position]
    columns = []
    for j in range(x.numel()):
        above, below = (
            _results(func(*args[:position], _moved(x, j, step), *args[position + 1 :]))
            for step in (eps, -eps)
        )
        columns.append([
            (a.as_torch() - b.as_torch()).reshape(-1).double() / (2 * eps)
            for a, b in zip(above, below, strict=True)
        ])
    return [torch.stack(of_result, dim=1) for of_result in zip(*columns)]


def _moved(x: Tensor, j: int, step: float) -> Tensor:
    """A copy of x with `step` added to its element j."""
    data = x.data
    if not isinstance(data, torch.Tensor):
        return Tensor(data + step, requires_grad=True)
    moved = data.clone()
    moved.view(-1)[j] += step
    return Tensor(moved, requires_grad=True)


def _random_like(y: Tensor, generator: torch.Generator) -> Tensor:
    random = torch.randn(y.shape, generator=generator, dtype=y.dtype)
    return Tensor(random if isinstance(y.data, torch.Tensor) else random.item(), requires_grad=True)
