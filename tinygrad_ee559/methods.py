"""Gives `Tensor` its operators and torch's methods, all taken from the rule table."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from tinygrad_ee559.dispatch import call_in_place, dispatch
from tinygrad_ee559.record import binary, unary
from tinygrad_ee559.rules.registry import COMPOSED, CONSTANT, RULES
from tinygrad_ee559.tape import NUMBERS
from tinygrad_ee559.tensor import Tensor, lift

#: Python's operators and the torch functions that they call; each has a reflected form.
OPERATORS = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "truediv": torch.div,
    "floordiv": torch.floor_divide, "mod": torch.remainder, "pow": torch.pow,
    "matmul": torch.matmul, "and": torch.bitwise_and, "or": torch.bitwise_or,
    "xor": torch.bitwise_xor,
}  # fmt: skip
COMPARISONS = {
    "eq": torch.eq, "ne": torch.ne, "lt": torch.lt, "le": torch.le, "gt": torch.gt, "ge": torch.ge,
}  # fmt: skip
UNARY_OPERATORS = {"neg": torch.neg, "abs": torch.abs, "invert": torch.bitwise_not}

#: Methods that take a shape, or dimensions, as one tuple or one by one.
VARIADIC = frozenset({"view", "reshape", "expand", "permute", "repeat", "tile", "flip"})

#: Methods that torch has and that mean the conversion to one dtype.
DTYPES = {
    "float": torch.float32, "double": torch.float64, "half": torch.float16,
    "bfloat16": torch.bfloat16, "cfloat": torch.complex64, "cdouble": torch.complex128,
    "chalf": torch.complex32, "int": torch.int32, "long": torch.int64, "short": torch.int16,
    "char": torch.int8, "byte": torch.uint8, "bool": torch.bool,
}  # fmt: skip

#: Names that `Tensor` defines itself, or that mean something else in Python.
_OWN = frozenset(vars(Tensor))


def add_methods() -> None:
    """Make every known function that torch has as a tensor method a method of `Tensor` too."""
    for table in (RULES, COMPOSED, CONSTANT):
        for function in table:
            name = getattr(function, "__name__", "")
            if getattr(torch.Tensor, name, None) is not function or name in _OWN:
                continue
            if inspect.isroutine(function):
                setattr(Tensor, name, _method(name, function))
    for name, dtype in DTYPES.items():
        setattr(Tensor, name, _conversion(dtype))
    for name in dir(torch.Tensor):
        if not name.startswith("_") and not hasattr(Tensor, name):
            setattr(Tensor, name, _OfTorch(name))


def add_operators() -> None:
    """Define Python's operators on `Tensor`."""
    for name, function in OPERATORS.items():
        plain = binary(RULES[function], _number_operator(name)) if function in RULES else None
        forward = plain or _dispatched(function)
        setattr(Tensor, f"__{name}__", forward)
        setattr(Tensor, f"__r{name}__", _reflected(forward))
        setattr(Tensor, f"__i{name}__", _in_place(function, forward))
    for name, function in (*COMPARISONS.items(), *UNARY_OPERATORS.items()):
        setattr(Tensor, f"__{name}__", _dispatched(function))
    Tensor.__neg__ = unary(RULES[torch.neg])  # type: ignore[method-assign]
    Tensor.__getitem__ = _dispatched(torch.Tensor.__getitem__)  # type: ignore[method-assign]
    Tensor.__setitem__ = _set_item  # type: ignore[method-assign]
    Tensor.__torch_function__ = classmethod(_torch_function)  # type: ignore[attr-defined]


class _OfTorch:
    """What torch's tensors have by some name, and `Tensor` has not: a method, or a property.

    Not a `__getattr__` of `Tensor`, as Python then looks every attribute up the slow way.
    """

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, tensor: Tensor | None, owner: type[Tensor]) -> Any:
        function: Any = getattr(torch.Tensor, self._name)
        is_property = inspect.isdatadescriptor(function)  # .H, .real, .layout
        if callable(function):
            method = _method(self._name, function)
            return method if tensor is None else partial(method, tensor)
        if is_property and tensor is not None:
            return dispatch(function if function in RULES else function.__get__, (tensor,), {})
        raise AttributeError(f"Tensor has no attribute {self._name!r}")


def _torch_function(
    _cls: Any, function: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
) -> Any:
    return dispatch(function, args, kwargs or {})


def _method(name: str, function: Any) -> Callable[..., Any]:
    rule = RULES.get(function)
    if rule is not None and rule.pointwise and len(rule.parameters) == 1:
        return unary(rule)
    if name in VARIADIC:
        return lambda self, *sizes, **kwargs: dispatch(
            function, (self, *_as_one(sizes)), kwargs
        )
    return lambda self, *args, **kwargs: dispatch(function, (self, *args), kwargs)


def _as_one(sizes: tuple[Any, ...]) -> tuple[Any, ...]:
    """Sizes given one by one as one argument."""
    return (sizes,) if sizes and not isinstance(sizes[0], (tuple, list, torch.dtype)) else sizes


def _conversion(dtype: torch.dtype) -> Callable[[Tensor], Any]:
    def convert(self: Tensor, memory_format: Any = None) -> Any:
        return self.to(dtype, memory_format=memory_format)

    return convert


def _dispatched(function: Any) -> Callable[..., Any]:
    return lambda *args: dispatch(function, args, {})


def _reflected(forward: Callable[[Any, Any], Any]) -> Callable[[Tensor, Any], Any]:
    def reflected(self: Tensor, other: Any) -> Any:
        return forward(other if isinstance(other, Tensor) else lift(other, None), self)

    return reflected


def _set_item(self: Tensor, index: Any, value: Any) -> None:
    call_in_place("__setitem__", (self, index, value), {})


def _number_operator(name: str) -> Callable[[Any, Any], Any]:
    """Python's operator for plain numbers; a power is never complex."""
    if name == "pow":
        return RULES[torch.pow].number  # type: ignore[return-value]
    return getattr(operator, name)  # type: ignore[no-any-return]


def _in_place(function: Any, forward: Callable[[Any, Any], Any]) -> Callable[[Tensor, Any], Any]:
    """`x += y` and the like; of a number, which cannot change, a new tensor is made."""
    name = f"{function.__name__}_"

    def assign(self: Tensor, other: Any) -> Any:
        number = self._data.__class__ in NUMBERS
        if number and self.node is not None and torch.is_grad_enabled():
            return forward(self, other)
        return call_in_place(name, (self, other), {})

    return assign


def complete() -> None:
    """Make `Tensor` whole."""
    add_methods()
    add_operators()
