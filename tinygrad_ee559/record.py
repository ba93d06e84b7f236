"""Recording: what happens when a torch function is called on a `Tensor`.

`call` runs the function on the raw values and leaves a node; `dispatch` finds out what is to
be called. `short` builds a shorter way for tensors alone, `unary` and `binary` build one for plain
numbers; they fall back on `call`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor as TorchTensor

from tinygrad_ee559.errors import MixedGraphError, operand_error
from tinygrad_ee559.rules import registry
from tinygrad_ee559.rules.registry import COMPOSED, RULES, Formula, Plan, Rule
from tinygrad_ee559.tape import (
    NUMBERS,
    ForkNode,
    ListNode,
    Node,
    NumbersNode,
    Part,
    carries_gradient,
    number_node,
)
from tinygrad_ee559.tensor import Tensor, View, lift

_new = object.__new__
_grad_enabled = torch.is_grad_enabled


def rule(
    function: Any, *formulas: Formula | None, number: Callable[..., Any] | None = None
) -> Callable[..., Any]:
    """Register how `function` is differentiated.

    A torch function is recorded wherever it is called on tensors from then on. Of a function of
    your own, call what is returned here: it runs `function` on the raw torch tensors and records
    one node.

    Args:
        function: a torch function, or any function that takes and returns torch tensors.
        formulas: one per argument, in order, None for an argument without a gradient. A formula
            gets the gradient of the result, the result, and the arguments; the parameters whose
            names begin with an underscore are not kept for it. See `rules/registry.py`.
        number: computes the function on plain Python numbers, if that makes sense.

    Raises:
        RuleError: the formulas disagree about the arguments.

    >>> import torch
    >>> cube = rule(lambda x: x**3, lambda g, _y, x: g * 3 * x**2)
    >>> x = Tensor([1.0, 2.0], requires_grad=True)
    >>> cube(x).sum().backward()
    >>> x.grad
    Tensor([ 3., 12.])
    """
    registry.rule(function, *formulas, number=number)
    return partial(call, RULES[function])


def recorded(function: Any) -> Callable[..., Any]:
    """A torch function as it runs on tensors, called without the way through torch's dispatcher.

    That way takes about a microsecond, which counts where layers are small. Arguments are given by
    position.
    """
    return COMPOSED[function] if function in COMPOSED else short(RULES[function])


def short(rule: Rule) -> Callable[..., Any]:
    """A function of tensors and options, which falls back on `call` for anything else."""
    torch_function = rule.function

    def function(*args: Any) -> Any:
        raws: list[Any] = []
        node = Node()
        wanted = 0
        bit = 1
        for arg in args:
            if isinstance(arg, Tensor):
                raw = arg._data
                if raw.__class__ is not TorchTensor:
                    return call(rule, *args)
                raws.append(raw)
                edge = arg.node
                if edge is not None:
                    node.append(edge)
                    wanted += bit
            elif arg is None or arg.__class__ in NUMBERS:
                raws.append(arg)
            else:
                return call(rule, *args)
            bit += bit
        if not wanted or not _grad_enabled():
            return call(rule, *args)
        try:
            out = torch_function(*raws)
        except Exception:
            return call(rule, *args)  # which says what is wrong
        if out.__class__ is not TorchTensor:
            return _fork(rule, wanted, node, raws, out)
        dtype = out.dtype
        if not (dtype.is_floating_point or dtype.is_complex):
            return lift(out, None)
        return _recorded(rule, wanted, node, raws, out)

    return partial(call, rule) if rule.view else function


def call(rule: Rule, /, *args: Any, **kwargs: Any) -> Any:
    """Run a torch function that has a rule, and record it if a gradient may be wanted."""
    bound = rule.bind(args, kwargs) if kwargs else args
    raws: list[Any] = []
    edges: list[Any] = []
    wanted = tensors = 0
    bit = 1
    list_position = -1
    for arg in bound:
        if isinstance(arg, Tensor):
            raw = arg._data
            raws.append(raw)
            if raw.__class__ is TorchTensor:
                tensors += 1
            edge = arg.node
            if edge is not None:
                edges.append(edge)
                wanted += bit
        elif arg.__class__ in NUMBERS or arg is None:
            raws.append(arg)
        elif arg.__class__ is list or arg.__class__ is tuple:
            raw, inner = _unwrapped(rule, arg)
            raws.append(raw)
            if inner is not None:
                tensors += len(inner)
                if any(edge is not None for edge in inner):
                    edges.append(ListNode(inner))
                    wanted += bit
                    list_position = len(raws) - 1
                    raws[-1] = list(raw)
        else:
            raws.append(arg)
            if isinstance(arg, TorchTensor):
                tensors += 1
                if arg.requires_grad:
                    raise _mixed(rule)
        bit += bit
    if wanted and not _grad_enabled():
        wanted = 0
    if not tensors:
        if rule.number is not None:
            return _call_number(rule, bound, raws, edges, wanted)
        raws = [
            torch.tensor(raw) if isinstance(arg, Tensor) else raw for arg, raw in zip(bound, raws)
        ]
    try:
        if kwargs:
            out = rule.function(*raws[: len(args)], **raw_options(kwargs))
        else:
            out = rule.function(*raws)
    except Exception as error:
        out, raws = _retry(rule, bound, raws, len(args), kwargs, error)
    if rule.view:
        return _view(rule, wanted, edges, args, kwargs, raws, out)
    if out.__class__ is not TorchTensor:
        return _fork(rule, wanted, edges, raws, out)
    if not (wanted and carries_gradient(out.dtype)):
        return lift(out, None)
    return _recorded(rule, wanted, Node(edges), raws, out, list_position)


def _recorded(
    rule: Rule,
    wanted: int,
    node: Node,
    raws: list[Any],
    out: torch.Tensor,
    list_position: int = -1,
) -> Tensor:
    """A result with the node that computed it, which has its edges already."""
    count = len(raws)
    plan = rule.plans.get((wanted, count)) or _plan(rule, wanted, count, list_position)
    if plan.operands:
        _scalars_to_tensors(plan, raws)
    tensor: Tensor = _new(Tensor)
    tensor._data = out
    tensor.node = node
    node.record(plan, raws, out)
    return tensor


def _plan(rule: Rule, wanted: int, count: int, list_position: int = -1) -> Plan:
    """What to save of calls of one kind, made for the first of them."""
    return rule.plans.setdefault((wanted, count), Plan(rule, wanted, count, list_position))


def unary(rule: Rule) -> Callable[[Tensor], Any]:
    """A method of a tensor alone, which takes the short way for a plain number."""
    number = rule.number
    assert number is not None
    torch_function = rule.function

    def function(a: Tensor) -> Any:
        x = a._data
        edge = a.node
        if x.__class__ not in NUMBERS:
            out = torch_function(x)
            if edge is None or not _grad_enabled():
                return lift(out, None)
            return _recorded(rule, 1, Node((edge,)), [x], out)
        try:
            z = number(x)
        except (ArithmeticError, ValueError):
            z = in_double(rule, (x,))
        tensor = _new(Tensor)
        tensor._data = z
        if edge is None or not _grad_enabled():
            tensor.node = None
        else:
            tensor.node = number_node(rule, x, None, z, edge, None)
        return tensor

    return function


def binary(rule: Rule, number: Callable[[Any, Any], Any]) -> Callable[[Tensor, Any], Any]:
    """An operator of a tensor and anything, which takes the short way for plain numbers."""
    torch_function = rule.function
    tensors = short(rule)

    def function(a: Tensor, b: Any) -> Any:
        x = a._data
        a_edge = a.node
        if isinstance(b, Tensor):
            y = b._data
            b_edge = b.node
        else:
            y = b
            b_edge = None
        if x.__class__ in NUMBERS and y.__class__ in NUMBERS:
            try:
                out = number(x, y)
            except (ArithmeticError, ValueError):
                out = in_double(rule, (x, y))
            tensor: Tensor = _new(Tensor)
            tensor._data = out
            if (a_edge is None and b_edge is None) or not _grad_enabled():
                tensor.node = None
            else:
                tensor.node = number_node(rule, x, y, out, a_edge, b_edge)
            return tensor
        scaled = a_edge is not None and b_edge is None and y.__class__ in NUMBERS
        if not scaled or not _grad_enabled():
            return tensors(a, b)
        try:
            out = torch_function(x, y)
        except Exception:
            return call(rule, a, b)  # which says what is wrong
        return _recorded(rule, 1, Node((a_edge,)), [x, y], out)

    return function


def in_double(rule: Rule, numbers: tuple[Any, ...]) -> Any:
    """A function of plain numbers computed by torch: infinities and NaNs where Python raises."""
    return rule.function(*(torch.tensor(float(n), dtype=torch.float64) for n in numbers)).item()


def _call_number(
    rule: Rule, bound: tuple[Any, ...], raws: list[Any], edges: list[Any], wanted: int
) -> Any:
    """Run a function on plain numbers alone."""
    assert rule.number is not None
    try:
        z = rule.number(*raws)
    except (ArithmeticError, ValueError):
        z = in_double(rule, tuple(raws))
    if not wanted:
        return lift(z, None)
    plan = rule.plans.get((wanted, len(raws))) or _plan(rule, wanted, len(raws))
    if len(raws) > 2:
        node = NumbersNode(edges)
        node.record(plan, raws, z)
        return lift(z, node)
    a = edges[0] if wanted & 1 else None
    b = edges[-1] if wanted & 2 else None
    return lift(z, number_node(rule, raws[0], raws[1] if len(raws) == 2 else None, z, a, b))


def _fork(rule: Rule, wanted: int, edges: list[Any], raws: list[Any], out: Any) -> Any:
    """The results of a function that has several."""
    if not wanted:
        return lifted(out)
    plan = rule.plans.get((wanted, len(raws))) or _plan(rule, wanted, len(raws))
    fork = ForkNode(plan, edges, raws, tuple(out))
    last = 1 if rule.first_only else len(out)
    return type(out)(
        [
            lift(o, Part(fork, i) if i < last and carries_gradient(o.dtype) else None)
            for i, o in enumerate(out)
        ]
    )


def _view(
    rule: Rule,
    wanted: int,
    edges: list[Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    raws: list[Any],
    out: Any,
) -> Any:
    """The result of a function that shares the memory of its first argument, if it did now."""
    base = args[0] if args else None
    if out is raws[0]:
        return base
    rest = raws[1 : len(args)]
    options = raw_options(kwargs)

    def run(x: Any) -> Any:
        return (partial(call, rule) if isinstance(x, Tensor) else rule.function)(
            x, *rest, **options
        )

    if out.__class__ is TorchTensor:
        tensor = _recorded(rule, wanted, Node(edges), raws, out) if wanted else lift(out, None)
        if not (isinstance(base, Tensor) and out._is_view()):
            return tensor
        return View(out, tensor.node, base, run)
    parts = _fork(rule, wanted, edges, raws, out)
    if not isinstance(base, Tensor):
        return parts
    return type(out)(
        [
            View(part._data, part.node, base, _nth(run, i))
            for i, part in enumerate(parts)
        ]
    )


def _nth(run: Callable[[Any], Any], i: int) -> Callable[[Any], Any]:
    return lambda x: run(x)[i]


def _retry(
    rule: Rule,
    bound: tuple[Any, ...],
    raws: list[Any],
    positional: int,
    kwargs: dict[str, Any],
    error: Exception,
) -> tuple[Any, list[Any]]:
    """Call again with NumPy arrays and numbers as torch tensors, if there are any."""
    converted = [
        as_tensor(raw)
        if isinstance(raw, (np.ndarray, np.generic))
        or (isinstance(arg, Tensor) and raw.__class__ in NUMBERS)
        else raw
        for arg, raw in zip(bound, raws)
    ]
    if isinstance(error, TypeError) and any(c is not r for c, r in zip(converted, raws)):
        try:
            out = rule.function(*converted[:positional], **raw_options(kwargs))
            return out, converted
        except Exception as again:
            error = again
    raise described_error(rule.name, raws, error) from error


def _scalars_to_tensors(plan: Plan, raws: list[Any]) -> None:
    """Make tensors of the Python numbers that a formula calls torch functions on."""
    for i in plan.operands:
        if i < len(raws) and raws[i].__class__ in NUMBERS:
            raws[i] = torch.tensor(float(raws[i]), dtype=torch.float64)


def _unwrapped(rule: Rule, items: Any) -> tuple[Any, list[Any] | None]:
    """A list without `Tensor`s, and the edges of its items if there was a `Tensor` among them."""
    if not any(isinstance(item, (Tensor, torch.Tensor)) for item in items):
        if any(item.__class__ in (list, tuple) for item in items):
            return type(items)([raw_of(item) for item in items]), None
        return items, None
    edges = []
    raws = []
    for item in items:
        raw = item
        edge = None
        if isinstance(item, Tensor):
            raw = as_tensor(item._data)
            edge = item.node
        elif isinstance(item, torch.Tensor) and item.requires_grad:
            raise _mixed(rule)
        raws.append(raw_of(raw))
        edges.append(edge)
    return type(items)(raws), edges


def raw_of(value: Any) -> Any:
    """A value without `Tensor`s, however nested."""
    if isinstance(value, Tensor):
        return value._data
    if value.__class__ in (list, tuple):
        return type(value)([raw_of(item) for item in value])
    return value


def as_tensor(value: Any) -> torch.Tensor:
    return torch.as_tensor(value)


def raw_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {key: raw_of(value) for key, value in kwargs.items()}


def lifted(out: Any) -> Any:
    """A function's results as tensors without gradients."""
    if isinstance(out, torch.Tensor):
        return lift(out, None)
    if isinstance(out, (list, tuple)) and any(isinstance(o, torch.Tensor) for o in out):
        return type(out)([lifted(o) for o in out])
    return out


def _mixed(rule: Rule) -> MixedGraphError:
    return MixedGraphError(
        f"{rule.name} was given a torch.Tensor that requires gradients of torch's own; wrap it "
        "with Tensor(t, requires_grad=True), or pass t.detach()"
    )


def described_error(name: str, raws: list[Any], error: Exception) -> Exception:
    operands = ", ".join(_described(raw) for raw in raws)
    reason = str(error).strip().split("\n")[0]
    return operand_error(error, f"{name} of {operands}: {reason}")


def _described(raw: Any) -> str:
    """One operand as an error message shows it: dtype, shape and an unusual device."""
    if isinstance(raw, torch.Tensor):
        device = "" if raw.device.type == "cpu" else f" on {raw.device}"
        return f"{str(raw.dtype).removeprefix('torch.')}{list(raw.shape)}{device}"
    if isinstance(raw, (list, tuple)):
        return f"[{', '.join(map(_described, raw))}]"
    return repr(raw)
