"""Functions of which one node is kept, and which are computed again for their gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch

from tinygrad_ee559.errors import ChangedInPlaceError, GradientDtypeError
from tinygrad_ee559.private import is_batched, is_watched, tree_flatten, tree_map, tree_unflatten
from tinygrad_ee559.record import call, lifted
from tinygrad_ee559.rules.registry import Plan, Rule
from tinygrad_ee559.tape import (
    ForkNode,
    Leaf,
    ListNode,
    Part,
    carries_gradient,
    next_order,
    propagate,
)
from tinygrad_ee559.tensor import Tensor, lift

_SAME = Rule(lambda x: x, (lambda g, _y, _x: g,))


def checkpoint(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`function(*args, **kwargs)`, of which only the arguments are kept for the backward pass.

    What was computed on the way is computed again when its gradient is wanted, with the same random
    numbers: less memory for more time. Tensors that the function finds outside of its arguments,
    such as the parameters of a module, get their gradients too.

    >>> import torch
    >>> x = Tensor([1.0, 2.0], requires_grad=True)
    >>> y = checkpoint(lambda x: torch.sin(torch.exp(x)), x)
    >>> y.sum().backward()
    >>> bool(x.grad.allclose(torch.cos(torch.exp(x)) * torch.exp(x)))
    True
    """
    tensors, flat = flattened(function, (args, kwargs))
    return segment(function, flat, tensors, Once())


def flattened(
    function: Callable[..., Any], arguments: tuple[tuple[Any, ...], dict[str, Any]]
) -> tuple[list[Tensor], Callable[[list[Tensor]], Any]]:
    """The tensors among the arguments, and `function` as a function of these alone."""
    leaves, structure = tree_flatten(arguments)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, (Tensor, torch.Tensor))]

    def flat(tensors: list[Tensor]) -> Any:
        given = list(leaves)
        for i, tensor in zip(places, tensors):
            given[i] = tensor
        args, kwargs = tree_unflatten(given, structure)
        return function(*args, **kwargs)

    return [as_tensor(leaves[i]) for i in places], flat


def as_tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else Tensor(value)


class Once:
    """How a segment is run: as it stands."""

    def run(self, function: Callable[..., Any], raws: Sequence[Any]) -> Any:
        return function(*raws)

    def backwards(self, _wanted: Sequence[int], _results: Sequence[int], _captured: int) -> Once:
        """How the function that gives the gradients of a segment is run.

        Args:
            wanted: which inputs want gradients.
            results: which results, in the order in which they are nested, have gradients.
            captured: the number of further gradients, those of tensors found outside.
        """
        return self

    def settled(self, gradients: list[Tensor]) -> list[Tensor]:
        """The gradients of all runs, of what was the same in all."""
        return gradients


def segment(
    function: Any, flat: Callable[[list[Tensor]], Any], inputs: Sequence[Tensor], how: Any
) -> Any:
    """`flat(inputs)`, run as `how` says, as one node named after `function`."""
    recording = torch.is_grad_enabled()
    edges = [tensor.node if recording else None for tensor in inputs]
    random = torch.get_rng_state() if recording else None
    cast = _autocast(inputs)
    outside: dict[Any, None] = {}

    def once(*raws: torch.Tensor) -> Any:
        start = next_order()
        places = [
            lift(raw, None if edge is None else Leaf(raw)) for raw, edge in zip(raws, edges)
        ]
        result = flat(places)
        own = {place.node for place in places}
        found = frontier((t.node for t in _tensors(result)), start)
        outside.update((edge, None) for edge in found if edge not in own)
        return tree_map(_raw, result)

    raws = [tensor.as_torch() for tensor in inputs]
    leaves, structure = tree_flatten(how.run(once, raws))
    wanted = [i for i, edge in enumerate(edges) if edge is not None]
    results = [i for i, leaf in enumerate(leaves) if _has_gradient(leaf)]
    if not recording or not results or not (outside or wanted):
        return tree_unflatten([lifted(leaf) for leaf in leaves], structure)
    captured = list(outside)
    how_back = how.backwards(wanted, results, len(captured))

    def back(tensors: list[Tensor]) -> list[Tensor]:
        record = torch.is_grad_enabled()
        values, gradients = list(tensors[: len(inputs)]), tensors[len(inputs) :]
        with torch.enable_grad():
            for i in wanted:
                values[i] = fresh(values[i])
            targets = [values[i].node for i in wanted] + captured
            with cast():
                again = tree_flatten(flat(values))[0]
        outputs = [as_tensor(again[i]) for i in results]
        found = pulled(outputs, gradients, targets, record)
        return [*found, *(output.detach() for output in outputs)]

    def formula(g: Any, _y: Any, inputs: Any) -> list[Any]:
        arrived = [gradient for gradient in g if gradient is not None]
        record = any(isinstance(gradient, Tensor) for gradient in arrived)
        tensors = [v if isinstance(v, Tensor) else lift(v, None) for v in (*inputs, *arrived)]
        with torch.set_grad_enabled(record), random_numbers(random):
            found_again = segment(function, back, tensors, how_back)
        for (t, version), again in zip(first, found_again[len(wanted) + len(captured) :]):
            if t._version != version or is_batched(t):  # changed since, or in a batch of vmap's
                continue
            if is_watched():  # by a capture, to which values must make no difference
                continue
            if not torch.allclose(t, again.data, equal_nan=True):
                raise ChangedInPlaceError(
                    f"{rule.name} was run again for its gradient, and gave something else: what "
                    "it uses besides its arguments has changed since"
                )
        gradients = how_back.settled(found_again)
        found = iter(gradients if record else [gradient.data for gradient in gradients])
        return [None if edge is None else next(found) for edge in (*edges, *captured)]

    rule = Rule(function, (formula,), holomorphic=False)
    out = tuple(leaves[i] for i in results)
    first = [(t, t._version) for t in out]
    fork = ForkNode(Plan(rule, 1, 1, 0), [ListNode([*edges, *captured])], [raws], out)
    found = [edge.data for edge in captured if isinstance(edge, Leaf)]
    fork.guards = [*fork.guards, *((t, t._version) for t in found if _has_gradient(t))]
    for number, i in enumerate(results):
        leaves[i] = lift(leaves[i], Part(fork, number))
    return tree_unflatten([lifted(leaf) for leaf in leaves], structure)


def _autocast(inputs: Sequence[Tensor]) -> Callable[[], Any]:
    """Makes contexts in which autocast is as it is now, on the device of the inputs."""
    device = next((tensor.as_torch().device.type for tensor in inputs), "cpu")
    if not torch.amp.is_autocast_available(device):
        return nullcontext
    enabled = torch.is_autocast_enabled(device)
    return partial(torch.autocast, device, torch.get_autocast_dtype(device), enabled)


def fresh(tensor: Tensor) -> Tensor:
    """The same value on a node of its own, to which gradients can be stopped."""
    if not carries_gradient(tensor.dtype):
        raise GradientDtypeError(
            f"gradients of {tensor.dtype} were asked for; only floating-point and complex numbers "
            "have any"
        )
    if tensor.node is None:
        return lift(tensor._data, Leaf(tensor._data))
    with torch.enable_grad():
        return call(_SAME, tensor)  # type: ignore[no-any-return]


def pulled(
    outputs: Sequence[Tensor], gradients: Sequence[Any], targets: Sequence[Any], record: bool
) -> list[Tensor]:
    """The gradients of `outputs` with respect to nodes, and not what lies behind these."""
    roots: dict[Any, Any] = {}
    for output, gradient in zip(outputs, gradients):
        if output.node is not None:
            g = gradient if record else gradient.data
            roots[output.node] = roots[output.node] + g if output.node in roots else g
    found = propagate(roots, lift, record=record, retain=True, targets=targets, stop=True)
    some = gradients[0].as_torch()
    return [
        as_tensor(found[node]) if node in found else lift(_zeros(node, some), None)
        for node in targets
    ]


def frontier(nodes: Iterable[Any], start: int) -> list[Any]:
    """The edges that lead from `nodes` to what was there before `start`."""
    edges: dict[Any, None] = {}
    waiting = list(nodes)
    seen = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.order >= start or node.__class__ is Leaf:
            edges[node] = None
        else:
            waiting.extend(node)
    return list(edges)


@contextmanager
def random_numbers(state: Any) -> Iterator[None]:
    """Inside, torch's random numbers on a CPU go on from `state`."""
    if state is None:
        yield
        return
    now = torch.get_rng_state()
    torch.set_rng_state(state)
    try:
        yield
    finally:
        torch.set_rng_state(now)


def _zeros(node: Any, some: torch.Tensor) -> Any:
    return 0.0 if node.shape is None else some.new_zeros(node.shape, dtype=node.dtype)


def _tensors(result: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(result)[0] if isinstance(leaf, Tensor)]


def _raw(value: Any) -> Any:
    return value.as_torch() if isinstance(value, Tensor) else value


def _has_gradient(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and carries_gradient(value.dtype)
