"""What a call of any torch function on tensors amounts to.

A function with a rule leaves a node. A function that changes its first argument in place is the
function that does not, and an assignment. Any other function is given to torch with stand-ins for
the tensors: torch takes it apart, as it does for its own tensors, and each operator it comes to is
called on the tensors again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import torch

from tinygrad_ee559.errors import InPlaceError, NoRuleError, NotDifferentiableError, RuleError
from tinygrad_ee559.inplace import assign, before_change
from tinygrad_ee559.private import (
    decomposition,
    hollow,
    overriding,
    taking_apart,
    unmasked,
    written_arguments,
)
from tinygrad_ee559.record import as_tensor, call, described_error, lifted, raw_of, raw_options
from tinygrad_ee559.rules import registry
from tinygrad_ee559.rules.indexing import set_at
from tinygrad_ee559.rules.registry import COMPOSED, CONSTANT, RULES
from tinygrad_ee559.tape import NUMBERS, carries_gradient
from tinygrad_ee559.tensor import Tensor, View, leaf_of, lift

#: Functions that fill their first argument with random numbers, whatever was there.
_RANDOM = frozenset({
    "bernoulli_", "cauchy_", "exponential_", "geometric_", "log_normal_", "normal_", "random_",
    "uniform_",
})  # fmt: skip
#: Functions that give their first argument another shape, and leave the memory as it is.
_RESHAPING = frozenset({
    "squeeze_", "unsqueeze_", "transpose_", "swapaxes_", "swapdims_", "t_", "as_strided_",
})  # fmt: skip


def dispatch(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a torch function on tensors, recording it where a gradient may be wanted.

    Raises:
        NoRuleError: a gradient is wanted, and nothing is known of the function.
    """
    rule = RULES.get(function)
    if rule is not None and "out" not in kwargs:
        return call(rule, *args, **kwargs)
    if function in CONSTANT:
        return call_constant(function, args, kwargs)
    name = getattr(function, "__name__", "")
    if _changes_first(name):
        return call_in_place(name, args, kwargs)
    recording = torch.is_grad_enabled() and _any_tensor(_has_history, (args, kwargs))
    if recording and kwargs.get("out") is not None:
        raise RuleError(
            f"{registry.function_name(function)} with out= writes over a tensor, and a gradient "
            "is wanted; use what it returns, or call it inside tinygrad_ee559.no_grad()"
        )
    if not recording and not _any_tensor(_is_number, (args, kwargs)):
        result = call_constant(function, args, kwargs)
        for operand in (*args, *kwargs.values()):
            if _is_tensor(operand) and _is_tensor(result) and operand._data is result._data:
                return operand  # perhaps changed in place
        if not _any_tensor(partial(_shares_memory, (args, kwargs)), result):
            return result
    try:
        result = COMPOSED[function](*args, **kwargs) if function in COMPOSED else NotImplemented
        return taken_apart(function, args, kwargs) if result is NotImplemented else result
    except Exception as error:
        raise _as_torch_says(function, args, kwargs, error) from error


def _shares_memory(operands: Any, result: Any) -> bool:
    """Whether a result is an operand or a view of one, so that changes in place are of both."""
    return isinstance(result, Tensor) and _any_tensor(
        lambda operand: isinstance(operand, Tensor) and _memory(operand) is _memory(result),
        operands,
    )


def _memory(tensor: Tensor) -> Any:
    """The torch tensor whose memory it is, or the number."""
    data = tensor._data
    return data._base if isinstance(data, torch.Tensor) and data._is_view() else data


def _as_torch_says(function: Any, args: Any, kwargs: Any, error: Exception) -> Exception:
    """What torch itself complains of in such a call, if it does, and not what came of it here."""
    if isinstance(error, (NoRuleError, InPlaceError, RuleError)):
        return error
    if getattr(function, "__module__", None) == "torch.autograd":
        return NotDifferentiableError(
            f"torch.autograd.{function.__name__} knows what torch has recorded, and not what this "
            "library has; call tinygrad_ee559.grad, or backward() of the tensor"
        )
    raws = [raw_of(arg) for arg in args]
    try:
        with torch.random.fork_rng(devices=[]):
            function(*raws, **raw_options(kwargs))
    except Exception as torchs:
        described = described_error(registry.function_name(function), raws, torchs)
        described.__cause__ = torchs
        return described
    return error


def _changes_first(name: str) -> bool:
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


def call_constant(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a function whose result carries no gradient."""
    number = CONSTANT.get(function)
    raws = [raw_of(arg) for arg in args]
    if number is not None and not kwargs and all(raw.__class__ in NUMBERS for raw in raws):
        return lift(number(*raws), None)
    raws = [as_tensor(raw) if isinstance(raw, np.ndarray) else raw for raw in raws]
    if raws and raws[0].__class__ in NUMBERS and isinstance(args[0], Tensor):
        raws[0] = as_tensor(raws[0])  # torch takes a scalar only after a tensor
    try:
        out = function(*raws, **raw_options(kwargs))
    except Exception as error:
        raise described_error(registry.function_name(function), raws, error) from error
    return lifted(out)


def call_in_place(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a function such as `add_`, that changes its first argument.

    Raises:
        InPlaceError: the change of a leaf would have to be recorded.
    """
    target = args[0]
    if not (torch.is_grad_enabled() and _any_tensor(_has_history, (args, kwargs))):
        return _unrecorded(name, args, kwargs)
    if not isinstance(target, Tensor):
        raise _no_history(name)
    if name == "detach_" and not isinstance(target, View):
        if target.is_leaf:
            target.requires_grad = False
        else:
            target.node = None
        return target
    if name in _RESHAPING or name == "detach_":
        raise InPlaceError(
            f"{name} would change what a tensor is, and views of it, or its base, would not know; "
            f"use {name.removesuffix('_')}, which makes a new tensor"
        )
    old = before_change(target, name)
    arguments, options = _map(lambda t: old if t is target else t, (args, kwargs))
    assign(target, _counterpart(name)(arguments, options), name)
    return target


def _no_history(name: str) -> NoRuleError:
    return NoRuleError(
        f"{name} would put a tensor with a history into a torch.Tensor, which cannot have one; "
        "wrap it first: tinygrad_ee559.Tensor(t)"
    )


def _unrecorded(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    target = args[0]
    raws = [raw_of(arg) for arg in args]
    if raws[0].__class__ in NUMBERS:
        target.data = getattr(target, name.rstrip("_"))(*args[1:], **kwargs)
        return target
    try:
        getattr(torch.Tensor, name)(*raws, **raw_options(kwargs))
    except Exception as error:
        raise described_error(f"Tensor.{name}", raws, error) from error
    leaf = leaf_of(target) if isinstance(target, Tensor) else None
    if leaf is not None:
        leaf.hold(target._data)
    return target


def _counterpart(name: str) -> Callable[..., Any]:
    """The function that computes what `name` would put into its first argument."""
    if name == "__setitem__":
        return partial(dispatch, set_at)
    if name == "fill_diagonal_":
        return lambda args, kwargs: _diagonal_filled(*args, **kwargs)
    if name in _RANDOM:
        return partial(_overwritten, name)
    plain = name.removesuffix("_")
    for space in (torch.Tensor, torch, torch.ops.aten):
        function = getattr(space, plain, None)
        if function is not None:
            return partial(dispatch, function)
    raise _no_rule(f"torch.Tensor.{name}")


def _overwritten(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """A tensor with other contents, which have nothing to do with those that it had."""
    fresh = args[0].data.clone()
    getattr(fresh, name)(*args[1:], **kwargs)
    return lift(fresh, None)


def _diagonal_filled(x: Tensor, value: Any, wrap: bool = False) -> Any:
    place = torch.zeros(x.shape, dtype=torch.bool, device=x.device).fill_diagonal_(True, wrap)
    return x.masked_fill(place, value)


# ------------------------------------------------------ functions that have no rule


class StandIn(torch.Tensor):
    """What torch takes for one of its own tensors, in the place of a `Tensor`."""

    tensor: Tensor

    @staticmethod
    def __new__(cls, tensor: Tensor) -> StandIn:
        new: StandIn = hollow(cls, tensor.as_torch())
        new.tensor = tensor
        return new

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"StandIn({self.tensor!r})"

    def __format__(self, spec: str) -> str:
        return format(self.tensor, spec)

    @classmethod
    def __torch_function__(
        cls, function: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in RULES or function in COMPOSED:
            real_args, real_kwargs = _real((args, kwargs))
            if hasattr(function, "__objclass__") and isinstance(args[0], StandIn):
                method = getattr(real_args[0], function.__name__)  # sizes may come one by one
                return stand_in(method(*real_args[1:], **real_kwargs))
            return stand_in(dispatch(function, real_args, real_kwargs))
        if function is torch.Tensor.requires_grad.__get__:  # type: ignore[attr-defined]
            return args[0].tensor.requires_grad
        with overriding(False):
            return function(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, operator: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        with unmasked():
            return run_operator(operator, args, kwargs or {})


def stand_in(value: Any) -> Any:
    """`value` with a stand-in for every tensor in it."""
    return _map(StandIn, value)


def _real(value: Any) -> Any:
    """`value` with the tensors that the stand-ins in it stand for."""
    return _map(lambda t: t.tensor if isinstance(t, StandIn) else t, value)


def taken_apart(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a function without a rule gives, from the operators that torch makes of it."""
    inner_args, inner_kwargs = stand_in((args, kwargs))
    try:
        with taking_apart():
            return _real(function(*inner_args, **inner_kwargs))
    except NoRuleError as error:
        raise _no_rule(registry.function_name(function)) from error


def run_operator(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One operator of torch's library, called on stand-ins; gives stand-ins."""
    written = written_arguments(operator)
    if written and operator not in RULES:
        return _run_mutable(operator, written, args, kwargs)
    real_args, real_kwargs = _real((args, kwargs))
    function = _known(operator)
    if function is not None:
        with overriding(True):
            return stand_in(dispatch(function, real_args, real_kwargs))
    body = None
    if torch.is_grad_enabled() and _any_tensor(_has_history, (real_args, real_kwargs)):
        body = decomposition(operator)
    if body is not None:
        with taking_apart():
            return body(*args, **kwargs)
    result = call_constant(operator, real_args, real_kwargs)
    if _any_tensor(_has_history, (real_args, real_kwargs)) and _any_tensor(_differentiable, result):
        raise _no_rule(str(operator))
    return stand_in(result)


def _known(operator: Any) -> Any:
    """The function with a rule, if there is one, that is `operator` by another name."""
    for function in _names(operator):
        if function in RULES or function in COMPOSED or function in CONSTANT:
            return function
    return None


@cache
def _names(operator: Any) -> list[Any]:
    """The functions by which an operator of torch's library may be known, itself first."""
    packet = getattr(operator, "overloadpacket", operator)
    name: str = packet.__name__
    candidates = [operator, packet]
    for space, prefix in (
        (torch, ""), (torch.Tensor, ""), (torch._C._nn, ""), (torch.linalg, "linalg_"),
        (torch.special, "special_"), (torch.fft, "fft_"), (torch.nn.functional, ""),
    ):  # fmt: skip
        if name.startswith(prefix):
            candidates.append(getattr(space, name.removeprefix(prefix), None))
    return candidates


def _run_mutable(operator: Any, written: list[str], args: Any, kwargs: Any) -> Any:
    """An operator that writes into its first argument, or into `out`."""
    name = operator.overloadpacket.__name__
    if "out" in kwargs and written == ["out"]:
        out = kwargs.pop("out")
        function = _known(operator) or operator.overloadpacket
        with overriding(True):
            result = dispatch(function, *_real((args, kwargs)))
        if isinstance(out, StandIn):
            assign(out.tensor, result, name)
        elif _has_history(result):
            raise _no_history(name)
        else:
            out.copy_(result.as_torch())
        return out
    with overriding(True):
        if name in _RESHAPING:
            args[0].tensor = _counterpart(name)(*_real((args, kwargs)))
        else:
            call_in_place(name, *_real((args, kwargs)))
    return args[0]


def _no_rule(name: str) -> NoRuleError:
    return NoRuleError(
        f"{name} has no gradient rule; register one with tinygrad_ee559.rule({name}, "
        "lambda g, y, x: ...), or call it on tensor.data if no gradient is wanted"
    )


# ------------------------------------------------------ tensors in nested arguments


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _has_history(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and tensor.node is not None


def _is_number(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and tensor._data.__class__ in NUMBERS


def _differentiable(value: Any) -> bool:
    return isinstance(value, Tensor) and carries_gradient(value.dtype)


def _any_tensor(test: Callable[[Any], bool], value: Any) -> bool:
    if isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            if _any_tensor(test, item):
                return True
        return False
    return test(value)


def _map(change: Callable[[Any], Any], value: Any) -> Any:
    """`value` with every tensor in it changed."""
    if isinstance(value, (Tensor, StandIn)):
        return change(value)
    if isinstance(value, (list, tuple)):
        items = [_map(change, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        return {key: _map(change, item) for key, item in value.items()}
    return value
