"""The registry: which rule belongs to which torch function, and what each rule needs.

A rule holds one *formula* per differentiable argument of its function, in the order of the
arguments. A formula receives the gradient `g` of the result, the result `y`, and then the
arguments, and returns the gradient of its argument:

    rule(torch.mul, lambda g, _y, _a, b: g * b,
                    lambda g, _y, a, _b: g * a)

The names of a formula's parameters say what is kept for the backward pass:

    x          the value
    x_shape    only its shape, a torch.Size (a list of shapes where x is a list of tensors)
    x_like     only an empty tensor of its dtype and device
    _x         nothing

and in the same way `y` or `_y` for the result; of several results, `y_rest` are all but the first,
which is None.

Apart from the first operands (`input`, `self`, `other`), parameters carry torch's own names, so
that keyword arguments find their place. Broadcasting and type promotion are undone by the engine.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from types import FunctionType, ModuleType
from typing import Any

import torch

from tinygrad_ee559.errors import RuleError

Formula = Callable[..., Any]

#: What runs when a torch function meets a `Tensor`, by torch function.
RULES: dict[Any, Rule] = {}
#: Torch functions that are written in terms of others.
COMPOSED: dict[Any, Callable[..., Any]] = {}
#: Torch functions whose results carry no gradient, with their form on plain numbers, if any.
CONSTANT: dict[Any, Callable[..., Any] | None] = {}
_TABLES: tuple[dict[Any, Any], ...] = (RULES, COMPOSED, CONSTANT)

#: Torch's operators as C functions, for formulas; those of torch.ops.aten are inside Python's.
ops: Any = ModuleType("ops")
ops.__getattr__ = lambda name: vars(ops).setdefault(name, getattr(torch.ops.aten, name).op)

_FIRST_OPERANDS = {"input": 0, "self": 0, "other": 1}
_NUMPY_NAMES = {"axis": "dim", "keepdims": "keepdim"}  # torch takes either


class Rule:
    """How one torch function is differentiated.

    `number` computes the function on plain Python numbers, `number_formulas` its gradients (made
    from the formulas when first needed). `pointwise` says that operands broadcast, `view` that the
    result may share memory with the first argument. The gradient of a complex number is that of
    PyTorch, so a function with a complex derivative (`holomorphic`) multiplies by the conjugate of
    it; the engine conjugates what goes in and what comes out, so that formulas stay those of
    calculus. The formulas of other functions are written for complex numbers too. `first_only` says
    that of several results only the first has a gradient.
    """

    __slots__ = (
        "function", "name", "formulas", "parameters", "defaults",
        "number", "number_formulas", "pointwise", "view", "holomorphic", "first_only", "keeps",
        "others", "plans",
    )  # fmt: skip

    def __init__(
        self,
        function: Any,
        formulas: Sequence[Formula | None],
        number: Callable[..., Any] | None = None,
        pointwise: bool = False,
        view: bool = False,
        holomorphic: bool = True,
        first_only: bool = False,
    ) -> None:
        self.function = function
        self.name: str = function_name(function)
        self.formulas = tuple(formulas)
        self.number = number
        self.pointwise = pointwise
        self.view = view
        self.holomorphic = holomorphic
        self.first_only = first_only
        self.parameters, self.defaults = _signature(self.name, self.formulas)
        self.number_formulas: tuple[Formula | None, ...] | None = None
        #: The rules that stand in for this one somewhere.
        self.others: tuple[Rule, ...] = ()
        self.keeps = any(
            Plan(self, 1 << i, len(self.parameters)).keeps
            for i, formula in enumerate(formulas)
            if formula is not None
        )
        #: By which arguments want a gradient, and how many there are.
        self.plans: dict[tuple[int, int], Plan] = {}

    def __repr__(self) -> str:
        return f"<rule of {self.name}({', '.join(self.parameters)})>"

    def keep_for(self, *others: Rule) -> None:
        """From now on, keep also what other rules of the same function need, and only these."""
        self.others = others
        self.plans.clear()

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """All arguments by position, up to the last one given."""
        given = dict(enumerate(args))
        for name, value in kwargs.items():
            key = _NUMPY_NAMES.get(name, name)
            if key in self.parameters:
                given[self.parameters.index(key)] = value
            elif key in _FIRST_OPERANDS:
                given[_FIRST_OPERANDS[key]] = value
            elif value is not None and value is not False and not key.startswith("_"):
                raise RuleError(
                    f"{self.name}: the gradient rule does not know the option {key}={value!r}; "
                    f"it knows {', '.join(self.parameters)}"
                )
        try:
            return tuple(
                given[i] if i in given else self.defaults[self.parameters[i]]
                for i in range(max(given) + 1)
            )
        except KeyError as missing:
            raise TypeError(f"{self.name}() is missing the argument {missing}") from None


class Plan:
    """What one call saves and computes, given which of its arguments want a gradient.

    Args:
        rule: the rule.
        wanted: bit i says that argument i wants a gradient.
        count: how many arguments there are.
        list_position: which argument is a list of tensors, -1 if none is.
    """

    __slots__ = (
        "rule", "positions", "formulas", "values", "shapes", "output", "rest", "keeps",
        "operands", "kept", "dropped", "reduced", "nothing", "list_position",
    )  # fmt: skip

    def __init__(self, rule: Rule, wanted: int, count: int, list_position: int = -1) -> None:
        self.rule = rule
        self.positions = tuple(i for i in range(wanted.bit_length()) if wanted >> i & 1)
        formulas: list[Formula] = []
        needed: set[str] = set()
        for i in self.positions:
            formula = rule.formulas[i] if i < len(rule.formulas) else None
            if formula is None:
                name = rule.parameters[i] if i < len(rule.parameters) else f"number {i + 1}"
                raise RuleError(f"{rule.name}: no gradient is defined for the argument {name}")
            formulas.append(formula)
            needed.update(_parameter_names(formula))
            for other in rule.others:
                formula = other.formulas[i] if i < len(other.formulas) else None
                needed.update(_parameter_names(formula) if formula else ())
        places = list(enumerate(rule.parameters))
        self.values = frozenset(i for i, name in places if name in needed)
        self.formulas = tuple(_given_values(f, rule.parameters, self.values) for f in formulas)
        self.shapes = frozenset(i for i, name in places if f"{name}_shape" in needed)
        likes = frozenset(i for i, name in places if f"{name}_like" in needed)
        self.output = "y" in needed or "y_rest" in needed
        self.rest = "y" not in needed
        self.kept = tuple(i for i in sorted(self.values) if i < count)
        self.reduced = tuple(i for i in sorted((self.shapes | likes) - self.values) if i < count)
        used = self.values.union(self.reduced)
        self.dropped = tuple(i for i, _ in places if i not in used and i < count)
        #: What is saved where no formula needs anything, in place of a tuple for each call.
        self.nothing: tuple[None, ...] = ()
        if not self.output and len(self.dropped) == count:
            self.nothing = (None,) * (1 + count)
        self.list_position = list_position
        #: Whether a second backward pass would miss something; options are always kept.
        self.keeps = self.output or any(i < len(rule.formulas) for i in self.values)
        #: Operands that may be Python scalars, and must not be as a formula calls torch on them.
        self.operands: tuple[int, ...] = ()
        if rule.pointwise and not all(map(_is_arithmetic, formulas)):
            self.operands = tuple(
                i for i, formula in enumerate(rule.formulas) if formula and i in self.values
            )


def rule(
    function: Any,
    *formulas: Formula | None,
    number: Callable[..., Any] | None = None,
    holomorphic: bool = True,
    first_only: bool = False,
) -> None:
    """Register how `function` is differentiated.

    Args:
        function: the torch function, or any function of your own that works on torch tensors.
        formulas: one per argument, in order; `None` for an argument without a gradient.
        number: computes the function on plain Python numbers, if it can.
        holomorphic: whether the engine conjugates complex numbers for the formulas.
        first_only: whether of several results only the first has a gradient.

    Raises:
        RuleError: the formulas' parameters do not agree.
    """
    _enter(RULES, function, Rule(function, formulas, number, False, False, holomorphic, first_only))


def view(function: Any, formula: Formula, holomorphic: bool = True) -> None:
    """Like `rule`, for a function whose result may share memory with its first argument."""
    _enter(RULES, function, Rule(function, (formula,), view=True, holomorphic=holomorphic))


def pointwise(
    function: Any,
    *formulas: Formula | None,
    number: Callable[..., Any] | None = None,
    holomorphic: bool = True,
) -> None:
    """Like `rule`, for a function that works element by element and broadcasts its operands.

    On plain numbers such a function gives a plain number: computed by `number`, or else by torch
    in double precision.
    """
    if number is None:

        def number(x: Any, *options: Any) -> Any:
            x = torch.tensor(x, dtype=torch.float64)
            return function(x, *map(_as_double, options)).item()

    _enter(
        RULES, function, Rule(function, formulas, number, pointwise=True, holomorphic=holomorphic)
    )


def constant(function: Any, number: Callable[..., Any] | None = None) -> None:
    """Register a function whose result does not carry a gradient: a comparison, an index."""
    _enter(CONSTANT, function, number)


def composed(*functions: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: the decorated function writes torch's `functions` in terms of other functions.

    For a call that it leaves to torch, it returns NotImplemented.
    """

    def register(body: Callable[..., Any]) -> Callable[..., Any]:
        for function in functions:
            _enter(COMPOSED, function, body)
        return body

    return register


def alias(function: Any, *others: Any) -> None:
    """Register `others` as further names of `function`, which must have been registered."""
    for table in _TABLES:
        if function in table:
            for other in others:
                _enter(table, other, table[function])


def _enter(table: dict[Any, Any], function: Any, entry: Any) -> None:
    """Put an entry under a function of torch's, its C function, and the tensor method of its name.

    What was registered there before, in whichever table, no longer counts.
    """
    name = getattr(function, "__name__", "")
    operator = isinstance(function, type(torch.ops.aten.relu))
    keys = [function, function.op] if operator else [function]
    if getattr(torch, name, None) is function and hasattr(torch.Tensor, name):
        keys.append(getattr(torch.Tensor, name))
    for key in keys:
        for other in _TABLES:
            other.pop(key, None)
        table[key] = entry


def function_name(function: Any) -> str:
    """What users call a torch function: `torch.tanh`, `Tensor.expand`, `functional.linear`."""
    name: str = getattr(function, "__name__", repr(function))
    owner = getattr(function, "__objclass__", None)
    if owner is not None:
        return f"Tensor.{name}"
    module = (getattr(function, "__module__", None) or "torch").removeprefix("torch.")
    if module in ("torch", "_tensor", "functional") and hasattr(torch, name):
        return f"torch.{name}"
    if module == "_ops.aten":
        return f"aten.{name}"
    if hasattr(torch.nn.functional, name):
        return f"functional.{name}"
    return name if module.startswith(("_", "torch")) else f"{module}.{name}"


def _as_double(value: Any) -> Any:
    return torch.tensor(value, dtype=torch.float64) if isinstance(value, float) else value


def _is_arithmetic(formula: Formula) -> bool:
    code = getattr(formula, "__code__", None)
    return code is not None and not code.co_names and not code.co_freevars


def _parameters(formula: Formula) -> dict[str, Any]:
    """A formula's parameters as they are written, with their defaults."""
    plain = isinstance(formula, FunctionType) and not hasattr(formula, "__wrapped__")
    if not plain or formula.__code__.co_kwonlyargcount:
        return {p.name: p.default for p in inspect.signature(formula).parameters.values()}
    # The same, without the time that `signature` takes, which for hundreds of formulas adds up.
    code = formula.__code__
    count = code.co_argcount
    names = code.co_varnames[: count + bool(code.co_flags & inspect.CO_VARARGS)]
    defaults = formula.__defaults__ or ()
    return {
        **dict.fromkeys(names, inspect.Parameter.empty),
        **dict(zip(names[count - len(defaults) : count], defaults)),
    }


def _parameter_names(formula: Formula) -> Iterator[str]:
    """A formula's parameters after the gradient, as they are written."""
    return islice(_parameters(formula), 1, None)


def _given_values(formula: Formula, parameters: Sequence[str], values: frozenset[int]) -> Formula:
    """`formula`, which may find values where it wants shapes: another formula had them kept."""
    names = set(_parameter_names(formula))
    positions = [i for i in values if f"{parameters[i]}_shape" in names]
    if not positions:
        return formula

    def given_values(g: Any, y: Any, *args: Any) -> Any:
        as_wanted = list(args)
        for i in positions:
            value = args[i]
            as_wanted[i] = [v.shape for v in value] if isinstance(value, list) else value.shape
        return formula(g, y, *as_wanted)

    return given_values


def _signature(
    name: str, formulas: Sequence[Formula | None]
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The argument names that all formulas of a rule share, and their defaults."""
    shared: tuple[str, ...] | None = None
    defaults: dict[str, Any] = {}
    for formula in formulas:
        if formula is None:
            continue
        names = []
        for name, default in islice(_parameters(formula).items(), 2, None):
            plain = name.removeprefix("_").removesuffix("_shape").removesuffix("_like")
            names.append(plain)
            if default is not inspect.Parameter.empty:
                defaults[plain] = default
        if shared is not None and tuple(names) != shared:
            raise RuleError(
                f"the formulas of {name} disagree about its arguments: "
                f"({', '.join(shared)}) and ({', '.join(names)})"
            )
        shared = tuple(names)
    return shared or (), defaults
