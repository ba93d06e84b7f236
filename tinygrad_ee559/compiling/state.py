"""State: what a function keeps between its calls, found by walking from the function itself.

A training step is a closure over a model, an optimizer and perhaps more. `State` looks through all
that the function can reach in Python: its variables, the fields of objects, lists and dicts, and
the methods that it may call. What it finds are places. Tensors may be read, changed in place or
replaced by a run; anything else is constant for a program.
"""

from __future__ import annotations

import dis
import functools
import os
import sys
import sysconfig
import types
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tinygrad_ee559.tape import Leaf
from tinygrad_ee559.tensor import Tensor, lift

#: Values that are compared; of all others it counts which object they are.
SCALARS = (
    int, float, complex, bool, str, bytes, type(None), range, slice, np.generic,
    torch.dtype, torch.device,
)  # fmt: skip
#: Where the modules are that the user has not written himself.
_INSTALLED = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
#: Where those of torch and of this library are.
_TORCH = f"{Path(torch.__file__).parent}{os.sep}"
_OURS = f"{Path(__file__).parent.parent}{os.sep}"
#: The instructions by which Python gets at attributes and methods.
_OF_OBJECTS = "LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"
#: Methods that run where instances are made.
_MAKING = "__init__", "__new__", "__post_init__"


class Caller:
    """Calls functions; what else it keeps is no state of theirs."""

    functions: Sequence[Callable[..., Any]]


class Place:
    """Where something is kept: an entry of a dict or list, a variable, a tensor's value."""

    __slots__ = ("holder", "key", "path")

    def __init__(self, holder: Any, key: Any, path: str) -> None:
        self.holder = holder
        self.key = key
        self.path = path

    def __repr__(self) -> str:
        return self.path

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Place) or self.holder is not other.holder:
            return False
        return self.key is other.key or (isinstance(self.key, SCALARS) and self.key == other.key)

    def __hash__(self) -> int:
        return hash((id(self.holder), self.key))

    def identity(self) -> str:
        """What tells it from all other places, as long as all are there."""
        key = "" if isinstance(self.key, SCALARS) else f" at {id(self.key)}"
        return f"{self.path} of {id(self.holder)}{key}"

    def get(self) -> Any:
        """What is there, None if nothing is."""
        holder = self.holder
        if holder.__class__ is Leaf:
            return holder.grad
        if isinstance(holder, Tensor):
            return holder._data
        if isinstance(holder, dict):
            return holder.get(self.key)
        if isinstance(holder, types.CellType):
            try:
                return holder.cell_contents
            except ValueError:  # the variable has no value any more
                return None
        return holder[self.key] if self.key < len(holder) else None

    def tensor(self) -> torch.Tensor | None:
        """The torch tensor that is there, None if there is none."""
        holder = self.holder
        value = holder._data if isinstance(holder, Tensor) else self.get()
        if value.__class__ is torch.Tensor:  # as nearly all, at every call of a program
            return value
        if isinstance(value, Tensor):  # one in which gradients gather has a place of its own
            value = None if isinstance(value.node, Leaf) else value._data
        return value if isinstance(value, torch.Tensor) else None

    def number(self) -> Any:
        """The number that is wrapped there."""
        value = self.get()
        return value._data if isinstance(value, Tensor) else value

    def put(self, value: torch.Tensor | None, wrapped: bool, inside: bool = False) -> None:
        """Put another tensor there, wrapped as a `Tensor` or not, or None.

        Args:
            value: the tensor.
            wrapped: whether it is wrapped.
            inside: let the `Tensor` that is there hold it.
        """
        holder = self.holder
        if inside:
            self.get().data = value
            return
        if holder.__class__ is Leaf:
            holder.grad = None if value is None else lift(value, None)
        elif isinstance(holder, Tensor):
            holder.data = value
        elif isinstance(holder, types.CellType):
            holder.cell_contents = lift(value, None) if wrapped else value
        else:
            holder[self.key] = lift(value, None) if wrapped else value


class State:
    """All places that a function can reach.

    Attributes:
        tensors: the places that hold tensors, or gradients that are not there yet.
        found: what was in each of them.
        values: the other places, with what is in them.
        containers: the dicts, lists and queues, with their lengths and paths.
        wrappers: the places of `Tensor`s in which gradients gather, with these.
        leaves: where these gather.
        kinds: what else was found, in order, by path: of functions the code, of objects the class.
        own: so many of the first places of tensors were found without the arguments.
    """

    def __init__(self, function: Any, arguments: Sequence[Any] = ()) -> None:
        self.tensors: list[Place] = []
        self.found: list[Any] = []
        self.values: list[tuple[Place, Any]] = []
        self.containers: list[tuple[Any, int, str]] = []
        self.wrappers: list[tuple[Place, Tensor]] = []
        self.leaves: list[Leaf] = []
        self.kinds: list[tuple[str, Any]] = []
        self._seen: dict[int, Any] = {}
        self._classes: dict[type, str] = {}  # of the objects that were found
        self._makers: dict[type, str] = {}  # of objects that may be made
        self._called = {"__call__", "forward"}
        self._object(function, getattr(function, "__name__", type(function).__name__))
        while self._methods():
            pass
        self.own = len(self.tensors)
        for i, argument in enumerate(arguments):
            if isinstance(argument, Tensor):
                self._leaf(argument, f"argument {i}")
            elif not isinstance(argument, (torch.Tensor, *SCALARS)):
                self._object(argument, f"argument {i}")
        while self._methods():
            pass

    def by_tensor(self) -> dict[int, Place]:
        """The place of each torch tensor, by the tensor's id."""
        found: dict[int, Place] = {}
        for place in self.tensors:
            tensor = place.tensor()
            if tensor is not None:
                found.setdefault(id(tensor), place)
        return found

    def changes(self, after: State) -> list[str]:
        """What a run has changed besides tensors, in words."""
        before = dict(self.values)
        found = [
            f"{place} ({before[place]!r}, then {value!r})"
            if isinstance(value, SCALARS)
            else f"{place} (another {type(value).__name__})"
            for place, value in after.values
            if place in before and not same(before[place], value)
        ]
        lengths = {id(holder): size for holder, size, _ in self.containers}
        found += [
            f"{path} ({lengths[id(holder)]} entries, then {size})"
            for holder, size, path in after.containers
            if lengths.get(id(holder), size) != size
        ]
        return found

    # ---------------------------------------------------------------- walking

    def _visit(self, value: Any, place: Place) -> None:
        if isinstance(value, Tensor) and isinstance(value.node, Leaf):
            self.wrappers.append((place, value))
            self._leaf(value, place.path)
        elif isinstance(value, Tensor) and not isinstance(value._data, torch.Tensor):
            self.values += [(place, value), (Place(value, "data", place.path), value._data)]
        elif isinstance(value, (Tensor, torch.Tensor)):
            self.tensors.append(place)
            self.found.append(value)
        else:
            self.values.append((place, value))
            if not isinstance(value, SCALARS):
                self._object(value, place.path)

    def _leaf(self, tensor: Tensor, path: str) -> None:
        if self._is_new(tensor) and isinstance(tensor.node, Leaf):
            self.leaves.append(tensor.node)
            data, grad = Place(tensor, "data", path), Place(tensor.node, "grad", f"{path}.grad")
            for place in (data, grad):
                number = place.number()
                if number is None or isinstance(number, torch.Tensor):
                    self.tensors.append(place)
                    self.found.append(place.get())
                else:
                    self.values.append((place, number))

    def _is_new(self, value: Any) -> bool:
        if id(value) in self._seen:
            return False
        self._seen[id(value)] = value
        return True

    def _object(self, value: Any, path: str) -> None:
        if not self._is_new(value):
            return
        self.kinds.append((path, _kind(value)))
        if isinstance(value, functools.partial):
            self._object(value.func, path)
            self._object(value.args, f"{path}.args")
            self._object(value.keywords, f"{path}.keywords")
        elif isinstance(value, types.MethodType):
            self._object(value.__self__, path)
            self._object(value.__func__, path)
        elif isinstance(value, types.FunctionType):
            self._function(value, path)
        elif isinstance(value, Caller):
            self._object(value.functions, path)
        elif isinstance(value, dict):
            self._dict(value, path, "[{!r}]")
        elif isinstance(value, (list, tuple, deque)):
            self.containers.append((value, len(value), path))
            for i, item in enumerate(value):
                self._visit(item, Place(value, i, f"{path}[{i}]"))
        elif isinstance(value, type):
            self._makers.setdefault(value, path)
        elif not isinstance(value, types.ModuleType) and hasattr(value, "__dict__"):
            self._dict(vars(value), path, ".{}")
            self._classes.setdefault(type(value), path)

    def _dict(self, fields: dict[Any, Any], path: str, style: str) -> None:
        self.containers.append((fields, len(fields), path))
        for key, value in list(fields.items()):
            name = path + (style.format(key) if isinstance(key, SCALARS) else "[...]")
            self._visit(value, Place(fields, key, name))
            if isinstance(key, Tensor):
                self._leaf(key, name)

    def _function(self, function: types.FunctionType, path: str) -> None:
        file = function.__code__.co_filename
        if file.startswith(_TORCH):
            return
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
            try:
                self._visit(cell.cell_contents, Place(cell, 0, name))
            except ValueError:  # the variable has no value yet
                continue
        if file.startswith(_OURS):  # keeps nothing in global variables
            return
        variables = function.__globals__
        for name in _names(function.__code__, "LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL"):
            if name in variables:
                self._visit(variables[name], Place(variables, name, name))
        self._dict(vars(function), path, ".{}")
        self._called.update(_names(function.__code__, *_OF_OBJECTS))
        self._object(function.__defaults__, f"{path}.__defaults__")
        self._object(function.__kwdefaults__, f"{path}.__kwdefaults__")

    def _methods(self) -> bool:
        """Look at methods that have a name which was called, or that Python calls by itself, as for
        operators; whether there were new ones."""
        methods = [
            (method, f"{path}.{name}")
            for kind, path in {**self._classes, **self._makers}.items()
            for base in kind.__mro__
            if _is_users(base.__module__)
            for name, method in vars(base).items()
            if name in self._called
            or (name.startswith("__") and (kind in self._makers or name not in _MAKING))
        ]
        before = len(self._seen)
        for method, path in methods:
            if isinstance(method, property):
                method = method.fget
            elif isinstance(method, (classmethod, staticmethod)):
                method = method.__func__
            if isinstance(method, types.FunctionType):
                self._object(method, path)
        return len(self._seen) > before


def same(one: Any, other: Any) -> bool:
    """Whether programs may take one value for the other."""
    if one is other:
        return True
    return isinstance(one, SCALARS) and type(one) is type(other) and one == other


def _kind(value: Any) -> Any:
    """What two objects have in common that do the same: the code, or the class."""
    if isinstance(value, types.FunctionType):
        return value.__code__
    if isinstance(value, (type, types.ModuleType, types.BuiltinFunctionType)):
        return value
    return type(value)


@functools.cache
def _names(code: types.CodeType, *instructions: str) -> tuple[str, ...]:
    """The names that a function, and the functions inside it, use in such instructions."""
    names = [i.argval for i in dis.get_instructions(code) if i.opname in instructions]
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names += _names(constant, *instructions)
    return tuple(dict.fromkeys(names))


@functools.cache
def _is_users(module: str) -> bool:
    """Whether a module is neither Python's nor installed nor ours."""
    if module == "__main__":
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or module.partition(".")[0] == "tinygrad_ee559":
        return False
    return not any(Path(file).is_relative_to(folder) for folder in _INSTALLED)
