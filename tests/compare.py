"""Comparing this library with torch.autograd: values, gradients, and gradients of gradients."""

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

import tinygrad_ee559 as tg


class TorchCannotError(Exception):
    """torch.autograd fails where it should give what ours is compared with."""


def assert_same_gradients(
    function: Callable[..., Any],
    args: Any,
    kwargs: dict[str, Any] | None = None,
    order: int = 2,
    seed: int = 0,
    rtol: float = 1e-7,
    atol: float = 1e-9,
    process: Callable[[Any], Any] = lambda outputs: outputs,
) -> None:
    """Assert that `function` and its derivatives are the same here as in torch.autograd.

    The function is called once with torch tensors and once with `Tensor`s in their place. Of every
    order, the gradients are computed both ways, by formulas on raw torch tensors and by formulas
    on `Tensor`s. From the second order on, the cotangents are differentiated too.

    Args:
        function: a torch function, or one made of torch functions; may give several results.
        args: its arguments. Tensors may be nested in lists and tuples, and be torch tensors (those
            that require gradients are differentiated) or plain numbers in a `tg.Tensor`, for which
            torch gets a float64 tensor without dimensions.
        kwargs: its keyword arguments, in which there may be tensors too.
        order: the order of the highest derivatives that are compared.
        seed: of the cotangents, and of torch's generator in both calls.
        rtol, atol: the tolerances of `torch.testing.assert_close`.
        process: makes of the results what is compared and differentiated.
    """
    arguments = (args, kwargs or {})
    our_args, our_kwargs = map_tensors(_our_twin, arguments)
    their_args, their_kwargs = map_tensors(_their_twin, arguments)
    our_inputs = _with_gradient(tensors((our_args, our_kwargs)))
    their_inputs = _with_gradient(tensors((their_args, their_kwargs)))
    assert their_inputs or not order, "nothing to compare: no argument requires gradients"

    torch.manual_seed(seed)
    their_outputs = list(tensors(process(function(*their_args, **their_kwargs))))
    torch.manual_seed(seed)
    our_outputs = list(tensors(process(function(*our_args, **our_kwargs))))
    _assert_close(our_outputs, their_outputs, "value", rtol, atol)
    for our, their in zip(our_outputs, their_outputs):
        assert our.requires_grad == their.requires_grad, "requires_grad differs from torch's"

    generator = torch.Generator().manual_seed(seed)
    for level in range(1, order + 1):
        cotangents = [_cotangent(their, generator) for their in their_outputs]
        their_cotangents = [_their_twin(cotangent) for cotangent in cotangents]
        our_cotangents = [
            _our_twin(cotangent if isinstance(our.data, torch.Tensor) else _as_number(cotangent))
            for our, cotangent in zip(our_outputs, cotangents)
        ]
        try:
            expected = _gradients(
                torch.autograd.grad,
                their_outputs,
                their_inputs,
                their_cotangents,
                create_graph=level < order,
                retain_graph=True,
            )
        except RuntimeError as error:
            raise TorchCannotError(f"order {level}: {error}") from error
        for how in ({"retain_graph": True}, {"create_graph": True}):
            found = _gradients(tg.grad, our_outputs, our_inputs, our_cotangents, **how)
            _assert_close(found, expected, f"gradient of order {level}, {how}", rtol, atol)
        our_outputs, their_outputs = found, expected
        our_inputs += _with_gradient(our_cotangents)
        their_inputs += _with_gradient(their_cotangents)


def assert_second_order_by_differences(
    function: Callable[..., Any],
    args: Any,
    kwargs: dict[str, Any],
    seed: int = 0,
    process: Callable[[Any], Any] = lambda outputs: outputs,
) -> None:
    """Assert that the second derivative, in a random direction, is the change of the first."""
    generator = torch.Generator().manual_seed(seed)
    arguments = map_tensors(_our_twin, (args, kwargs))
    inputs = _with_gradient(tensors(arguments))

    def like(xs: list[tg.Tensor]) -> list[torch.Tensor]:
        return [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in xs]

    def gradients(**how: bool) -> list[tg.Tensor]:
        torch.manual_seed(seed)
        outputs = _with_gradient(tensors(process(function(*arguments[0], **arguments[1]))))
        return _gradients(tg.grad, outputs, inputs, [tg.Tensor(c) for c in starts], **how)

    torch.manual_seed(seed)
    results = _with_gradient(tensors(process(function(*arguments[0], **arguments[1]))))
    starts, weights, direction = like(results), like(inputs), like(inputs)
    first = gradients(create_graph=True)
    second = _gradients(tg.grad, first, inputs, [tg.Tensor(w) for w in weights])
    found = sum((g.data * v).sum().item() for g, v in zip(second, direction))
    step = 1e-5
    sides = []
    for sign in (1, -1):
        for x, v in zip(inputs, direction):
            x.data.add_(v, alpha=sign * step)
        there = gradients()
        sides.append(sum((g.data * w).sum().item() for g, w in zip(there, weights)))
        for x, v in zip(inputs, direction):
            x.data.sub_(v, alpha=sign * step)
    expected = (sides[0] - sides[1]) / (2 * step)
    assert abs(found - expected) <= 1e-5 * max(1.0, abs(expected)), (found, expected)


def _our_twin(tensor: Any) -> tg.Tensor:
    data = tensor.data
    if isinstance(data, torch.Tensor):
        data = _copy(data)
    return tg.Tensor(data, requires_grad=tensor.requires_grad)


def _their_twin(tensor: Any) -> torch.Tensor:
    data = tensor.as_torch() if isinstance(tensor, tg.Tensor) else tensor
    return _copy(data.detach()).requires_grad_(tensor.requires_grad)


def _copy(data: torch.Tensor) -> torch.Tensor:
    """A copy with the memory around it, which functions of memory can see."""
    return copy.deepcopy(data) if data.layout == torch.strided else data.clone()


def _cotangent(output: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    dtype = torch.complex128 if output.is_complex() else torch.float64
    random = torch.randn(output.shape, generator=generator, dtype=dtype)
    return random.to(output.dtype).requires_grad_(differentiable(output))


def differentiable(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _as_number(cotangent: torch.Tensor) -> tg.Tensor:
    return tg.Tensor(cotangent.item(), requires_grad=cotangent.requires_grad)


def _with_gradient(tensors: Iterable[Any]) -> list[Any]:
    return [tensor for tensor in tensors if tensor.requires_grad]


def _gradients(
    grad: Any, outputs: list[Any], inputs: list[Any], cotangents: list[Any], **how: bool
) -> list[Any]:
    """One gradient per input, zeros where the outputs do not depend on it."""
    used = [i for i, output in enumerate(outputs) if output.requires_grad]
    found: Any = [None] * len(inputs)
    if used:
        found = grad(
            [outputs[i] for i in used],
            inputs,
            [cotangents[i] for i in used],
            allow_unused=True,
            **how,
        )
    return [
        type(x)(torch.zeros(x.shape, dtype=x.dtype)) if g is None else g
        for g, x in zip(found, inputs, strict=True)
    ]


def _assert_close(
    ours: list[tg.Tensor], theirs: list[torch.Tensor], what: str, rtol: float, atol: float
) -> None:
    assert len(ours) == len(theirs), f"{what}: {len(ours)} results instead of {len(theirs)}"
    for i, (our, their) in enumerate(zip(ours, theirs)):
        assert isinstance(our, tg.Tensor), f"{what} {i} is a {type(our).__name__}"
        torch.testing.assert_close(
            our.as_torch().detach(),
            their.detach(),
            rtol=rtol,
            atol=atol,
            equal_nan=True,
            msg=lambda text, i=i: f"{what}, number {i}: {text}",
        )


def map_tensors(change: Callable[[Any], Any], value: Any) -> Any:
    """`value` with every tensor in it changed."""
    if isinstance(value, (torch.Tensor, tg.Tensor)):
        return change(value)
    if isinstance(value, dict):
        return {key: map_tensors(change, item) for key, item in value.items()}
    if value.__class__ in (list, tuple):
        return type(value)([map_tensors(change, item) for item in value])
    return value


def tensors(value: Any) -> Iterator[Any]:
    """The tensors in a value, however nested."""
    if isinstance(value, (torch.Tensor, tg.Tensor)):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors(item)
