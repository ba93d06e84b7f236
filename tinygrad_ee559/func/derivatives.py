"""Derivatives of functions: gradients, products with Jacobians, Jacobians, Hessians."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch

from tinygrad_ee559.errors import GradientShapeError, NotDifferentiableError
from tinygrad_ee559.func.batches import vmap
from tinygrad_ee559.private import tree_flatten, tree_map, tree_unflatten
from tinygrad_ee559.recompute import as_tensor, fresh, frontier, pulled
from tinygrad_ee559.tape import as_number, next_order
from tinygrad_ee559.tensor import Tensor, lift

Function = Callable[..., Any]
Argnums = int | tuple[int, ...]


def grad(func: Function, argnums: Argnums = 0, has_aux: bool = False) -> Function:
    """The function that gives the gradient of `func`.

    Args:
        func: gives one real number.
        argnums: the argument, or a tuple of arguments, with respect to which to differentiate. An
            argument may be tensors nested in lists, tuples and dicts.
        has_aux: `func` gives a pair, of which the second part is handed through.

    Raises:
        GradientShapeError: the result has more than one element.

    >>> import torch
    >>> grad(torch.sin)(torch.tensor(0.0))
    Tensor(1.)
    >>> grad(grad(lambda x: x**3))(Tensor(2.0))
    Tensor(12.0)
    """
    both = grad_and_value(func, argnums, has_aux)

    @wraps(func)
    def gradient(*args: Any, **kwargs: Any) -> Any:
        gradients, value = both(*args, **kwargs)
        return (gradients, value[1]) if has_aux else gradients

    return gradient


def grad_and_value(func: Function, argnums: Argnums = 0, has_aux: bool = False) -> Function:
    """Like `grad`; gives the gradient, and the value or the pair that `func` gave.

    >>> grad_and_value(lambda x: x * x)(Tensor(3.0))
    (Tensor(6.0), Tensor(9.0))
    """

    @wraps(func)
    def gradient_and_value(*args: Any, **kwargs: Any) -> Any:
        values, back = _chosen(args, argnums)
        value, pull, *aux = vjp(lambda *xs: func(*back(xs), **kwargs), *values, has_aux=has_aux)
        if not isinstance(value, Tensor) or value.shape.numel() != 1:
            what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise GradientShapeError(
                f"grad takes a function that gives one number, and this one gave {what}; sum it, "
                "or use vjp or jacrev"
            )
        gradients = pull(_ones(value))
        gradients = gradients if isinstance(argnums, tuple) else gradients[0]
        return gradients, (value, *aux) if has_aux else value

    return gradient_and_value


def vjp(func: Function, *primals: Any, has_aux: bool = False) -> tuple[Any, ...]:
    """The value of `func`, and the function that multiplies by its Jacobian from the left.

    Args:
        func: any function of tensors.
        primals: where it is taken; tensors nested in lists, tuples and dicts.
        has_aux: `func` gives a pair, of which the second part is handed through.

    Returns:
        The value; a function that takes the gradient of the value, nested as the value is, and
        gives a tuple with the gradient of each primal; and what is handed through, if anything is.

    >>> value, pull = vjp(lambda x: x * x, Tensor([1.0, 2.0]))
    >>> pull(Tensor([1.0, 1.0]))
    (Tensor([2., 4.]),)
    """
    start = next_order()
    record = torch.is_grad_enabled()
    leaves, structure = tree_flatten(primals)
    places = [fresh(as_tensor(leaf)) for leaf in leaves]
    nodes = [place.node for place in places]  # the function may change them in place
    with torch.enable_grad():
        result = func(*tree_unflatten(places, structure))
    value, *aux = result if has_aux else (result,)
    outputs, layout = tree_flatten(value)
    for output in outputs:
        if not isinstance(output, Tensor):
            raise TypeError(f"the function to differentiate gave {output!r}, which is no tensor")
    own = set(nodes)
    found = frontier((output.node for output in outputs), start)
    record = record and any(edge not in own for edge in found)

    def pull(*gradients: Any) -> Any:
        given = gradients[0] if len(gradients) == 1 else gradients
        arrived, given_layout = tree_flatten(given)
        if given_layout != layout:
            raise GradientShapeError(f"the gradient is laid out as {given_layout}, not as {layout}")
        arrived = [_like(as_tensor(g), output) for g, output in zip(arrived, outputs)]
        again = torch.is_grad_enabled() and (record or any(g.node is not None for g in arrived))
        found = pulled(outputs, arrived, nodes, again)
        return tree_unflatten(found, structure)

    value = value if record else tree_map(_detached, value)
    return value, pull, *(tree_map(_detached, aux) if not record else aux)


def jvp(
    func: Function,
    primals: tuple[Any, ...],
    tangents: tuple[Any, ...],
    *,
    has_aux: bool = False,
) -> tuple[Any, ...]:
    """The value of `func`, and its change along `tangents`: the Jacobian times these.

    The gradient of `func` is linear in the gradient that it starts with; the derivative of this
    linear function is the Jacobian's transpose transposed.

    >>> jvp(lambda x: x * x, (Tensor([1.0, 2.0]),), (Tensor([1.0, 10.0]),))
    (Tensor([1., 4.]), Tensor([ 2., 40.]))
    """
    if len(primals) != len(tangents):
        raise ValueError(f"jvp got {len(primals)} primals and {len(tangents)} tangents")
    with torch.enable_grad():
        value, pull, *aux = vjp(func, *primals, has_aux=has_aux)
        outputs, layout = tree_flatten(value)
        starts = [fresh(lift(torch.zeros_like(o.as_torch()), None)) for o in outputs]
        gradients = tree_flatten(pull(tree_unflatten(starts, layout)))[0]
    along = [_like(as_tensor(t), g) for t, g in zip(tree_flatten(tangents)[0], gradients)]
    outer = any(t.node is not None for t in along) or any(o.node is not None for o in outputs)
    record = torch.is_grad_enabled() and outer
    changes = pulled(gradients, along, [start.node for start in starts], record)
    return value, tree_unflatten(changes, layout), *aux


def jacrev(
    func: Function, argnums: Argnums = 0, has_aux: bool = False, *, chunk_size: int | None = None
) -> Function:
    """The function that gives the Jacobian of `func`, computed row by row.

    Args:
        func: any function of tensors.
        argnums: the argument, or a tuple of arguments, with respect to which to differentiate.
        has_aux: `func` gives a pair, of which the second part is handed through.
        chunk_size: how many rows are computed at once, all of them if None.

    Returns:
        A function whose result has the shape of the result of `func`, and then of the argument.

    >>> jacrev(lambda x: x * x)(Tensor([1.0, 2.0]))
    Tensor([[2., 0.],
            [0., 4.]])
    """

    @wraps(func)
    def jacobian(*args: Any, **kwargs: Any) -> Any:
        values, back = _chosen(args, argnums)
        value, pull, *aux = vjp(lambda *xs: func(*back(xs), **kwargs), *values, has_aux=has_aux)
        outputs, layout = tree_flatten(value)
        units = _units(outputs)
        rows = vmap(
            lambda *gs: pull(tree_unflatten(list(gs), layout)), chunk_size=chunk_size
        )(*units)
        flat, inner = tree_flatten(rows)
        per_output = zip(*(row.split([o.shape.numel() for o in outputs]) for row in flat))
        blocks = [
            tree_unflatten(
                [part.reshape(output.shape + part.shape[1:]) for part in parts], inner
            )
            for output, parts in zip(outputs, per_output)
        ]
        blocks = [b if isinstance(argnums, tuple) else b[0] for b in blocks]
        result = tree_unflatten(blocks, layout)
        return (result, *aux) if has_aux else result

    return jacobian


def jacfwd(
    func: Function,
    argnums: Argnums = 0,
    has_aux: bool = False,
    *,
    randomness: str = "error",
) -> Function:
    """The function that gives the Jacobian of `func`, computed column by column.

    Arguments and result are those of `jacrev`.

    >>> jacfwd(lambda x: x * x)(Tensor([1.0, 2.0]))
    Tensor([[2., 0.],
            [0., 4.]])
    """

    @wraps(func)
    def jacobian(*args: Any, **kwargs: Any) -> Any:
        values, back = _chosen(args, argnums)
        inputs, structure = tree_flatten(tuple(values))
        inputs = [as_tensor(leaf) for leaf in inputs]

        def column(*tangents: Tensor) -> Any:
            return jvp(
                lambda *xs: func(*back(xs), **kwargs),
                tree_unflatten(inputs, structure),
                tree_unflatten(list(tangents), structure),
                has_aux=has_aux,
            )[1:]

        units = _units(inputs)
        columns, *aux = vmap(column, randomness=randomness)(*units)
        aux = [tree_map(lambda x: x[0], part) for part in aux]  # the same in all columns
        outputs, layout = tree_flatten(columns)
        outputs = [output.movedim(0, -1) for output in outputs]
        sizes = [leaf.shape.numel() for leaf in inputs]
        blocks = []
        for output in outputs:
            parts = [
                part.reshape(part.shape[:-1] + leaf.shape)
                for part, leaf in zip(output.split(sizes, -1), inputs)
            ]
            block = tree_unflatten(parts, structure)
            blocks.append(block if isinstance(argnums, tuple) else block[0])
        result = tree_unflatten(blocks, layout)
        return (result, *aux) if has_aux else result

    return jacobian


def hessian(func: Function, argnums: Argnums = 0) -> Function:
    """The function that gives the second derivatives of `func`.

    >>> hessian(lambda x: (x**3).sum())(Tensor([1.0, 2.0]))
    Tensor([[ 6.,  0.],
            [ 0., 12.]])
    """
    return jacfwd(jacrev(func, argnums), argnums)


def _chosen(args: tuple[Any, ...], argnums: Argnums) -> tuple[list[Any], Function]:
    """The chosen arguments, and the function that puts others in their places."""
    chosen = argnums if isinstance(argnums, tuple) else (argnums,)
    for i in chosen:
        if not -len(args) <= i < len(args):
            raise ValueError(f"argnums has {i}, and there are {len(args)} arguments")
    places = [i % len(args) for i in chosen]

    def back(values: Sequence[Any]) -> list[Any]:
        given = list(args)
        for i, value in zip(places, values):
            given[i] = value
        return given

    return [args[i] for i in places], back


def _units(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Of every element of all tensors, a batch of tensors with 1 there and 0 elsewhere."""
    sizes = [tensor.shape.numel() for tensor in tensors]
    some = tensors[0].as_torch()
    units = torch.split(torch.eye(sum(sizes), dtype=some.dtype, device=some.device), sizes, 1)
    return [
        Tensor(unit.reshape(-1, *tensor.shape).to(tensor.dtype))
        for unit, tensor in zip(units, tensors)
    ]


def _ones(value: Tensor) -> Tensor:
    if value.dtype.is_complex:
        raise NotDifferentiableError("grad takes a function that gives a real number")
    data = value._data
    return lift(torch.ones_like(data) if isinstance(data, torch.Tensor) else 1.0, None)


def _like(gradient: Tensor, output: Tensor) -> Tensor:
    """A gradient in the form of what it belongs to: a number's is a number."""
    if gradient.shape != output.shape:
        raise GradientShapeError(
            f"the gradient has shape {tuple(gradient.shape)}, and what it belongs to has shape "
            f"{tuple(output.shape)}"
        )
    if isinstance(output._data, torch.Tensor) and not isinstance(gradient._data, torch.Tensor):
        return lift(torch.as_tensor(gradient._data, dtype=output.dtype), gradient.node)
    if not isinstance(output._data, torch.Tensor) and isinstance(gradient._data, torch.Tensor):
        return lift(as_number(gradient._data), gradient.node)
    return gradient


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value
