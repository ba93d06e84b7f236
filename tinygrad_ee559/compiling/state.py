"""State: what a function keeps between its calls, found by walking from the function itself.

A training step is a closure over a model, an optimizer and perhaps more. `State` looks through all
that the function can reach in Python: its variables, the fields of objects, lists and dicts, and
the methods that it may call. Of objects and modules of the user's it looks at what the code names.
What it finds are places. Tensors may be read, changed in place or replaced by a run; anything else
is constant for a program.
"""

from __future__ import annotations

import builtins
import functools
import logging
import math
import operator
import os
import sys
import types
import weakref
from collections import deque
from collections.abc import Sequence
from datetime import date, time, timedelta
from enum import Enum
from numbers import Number
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import torch

from tinygrad_ee559.compiling.classes import Caller, behind, has_fields, named_by_library, slots_of
from tinygrad_ee559.compiling.code import (
    is_users,
    names_called,
    names_imported,
    names_of_fields,
    names_read,
)
from tinygrad_ee559.compiling.owner import Owner
from tinygrad_ee559.compiling.places import (
    NOTHING,
    SCALARS,
    Place,
    in_words,
    is_value,
    kept,
    same,
)
from tinygrad_ee559.rules.registry import Rule
from tinygrad_ee559.tape import Leaf, overridden
from tinygrad_ee559.tensor import Tensor, leaf_of

#: Where the modules of torch and of this library are.
_LIBRARIES = tuple(
    f"{folder}{os.sep}" for folder in (Path(torch.__file__).parent, Path(__file__).parent.parent)
)
#: Methods that run where instances are made.
_MAKING = "__init__", "__new__", "__post_init__"
#: Functions that ask an object for words, by whatever name.
_ASKING = str, repr, ascii, format
#: Methods that have them.
_DESCRIBING = "__repr__", "__str__", "__format__"
#: Methods that ask for an object's class not to make another one like it, but to compare it, or
#: for its name.
_NOT_MAKING = frozenset([
    "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__setattr__", "__delattr__",
    *_DESCRIBING,
])  # fmt: skip
#: Functions that get at something by its name, which they tell.
_GETTING = operator.attrgetter, operator.itemgetter, operator.methodcaller
#: Methods of classes that are written in C.
_METHODS = types.MethodDescriptorType, types.WrapperDescriptorType, types.ClassMethodDescriptorType
#: Objects that are compared, as nobody can change them.
_CONSTANT = Number, date, time, timedelta, PurePath
#: Objects whose fields say nothing of what a step does, and lead everywhere.
_OPAQUE = logging.Logger, logging.Handler
#: Attributes of classes that may lead to code, besides functions and objects of the user's.
_HOLDERS = type, list, tuple, dict, deque
#: Whose code is known to get at fields by their names, or at all that hold tensors and modules.
_KNOWN = "torch", "tinygrad_ee559"


class _Fields(NamedTuple):
    """The fields of an object or module of the user's, which count as far as code names them.

    Attributes:
        entries: the fields.
        path: the way to them.
        plain: whether that goes for fields without tensors and objects alone: the library's part of
            the object's class looks for these in all fields.
        found: the names of those that were visited.
    """

    entries: dict[str, Any]
    path: str
    plain: bool
    found: set[str]


class _Slots(NamedTuple):
    """An object that has slots for fields, which count as those above.

    Attributes:
        object: the object.
        slots: its slots, by name.
        path: the way to it.
        found: the names of those that were visited.
    """

    object: Any
    slots: dict[str, Any]
    path: str
    found: set[str]


class Change(NamedTuple):
    """What a run has changed besides tensors: where, and in words."""

    where: Place
    words: str


class State:
    """All places that a function can reach.

    Args:
        function: the function.
        arguments: what it is given.
        since: a run began after this node, in which tensors may have required gradients for a time.

    Attributes:
        tensors: the places that hold tensors, or gradients that are not there yet.
        found: what was in each of them.
        values: the other places, with what is in them.
        visited: all places, in the order in which they were found, with what is in them.
        containers: the dicts, lists and queues, with their lengths and paths.
        wrappers: the places of `Tensor`s in which gradients gather, with these.
        frozen: of each of these, by its id, whether it has stopped requiring gradients.
        leaves: where they gather.
        hooks: the hooks of each of these, and its path.
        kinds: what else was found, in order, by path: of functions the code, of objects the class.
        own: so many of the first places of tensors were found without the arguments.
    """

    def __init__(
        self, function: Any, arguments: Sequence[Any] = (), since: float = -math.inf
    ) -> None:
        self._since = since
        self.tensors: list[Place] = []
        self.found: list[Any] = []
        self.values: list[tuple[Place, Any]] = []
        self.visited: list[tuple[Place, Any]] = []
        self.containers: list[tuple[Any, int, str]] = []
        self.wrappers: list[tuple[Place, Tensor]] = []
        self.leaves: list[Leaf] = []
        self.hooks: list[tuple[Leaf, list[Any], str]] = []
        self.frozen: dict[int, bool] = {}
        self.kinds: list[tuple[str, Any]] = []
        self._seen: dict[int, tuple[int, Any]] = {}  # by id, numbered as they were found
        self._keys: list[tuple[Any, str]] = []  # of dicts
        self._classes: dict[type, str] = {}  # of the objects that were found
        self._makers: dict[type, str] = {}  # of objects that may be made
        self._fields: list[_Fields] = []
        self._slots: list[_Slots] = []
        self._called = {"__call__", "forward"}
        self._named: set[str] = set()
        self._any_name = False  # whether code may get at fields by names that it computes
        self._any_words = False  # whether code may ask objects for words
        self._any_class = False  # whether code may make other objects like those that it finds
        self._owner = Owner(function)
        self._object(function, getattr(function, "__name__", type(function).__name__))
        for rule in overridden().values():
            self._object(rule, f"the rule of {rule.name}")
        self._follow_names()
        self.own = len(self.tensors)
        for i, argument in enumerate(arguments):
            if isinstance(argument, Tensor):
                if argument.node is not None:
                    self._leaf(argument, f"argument {i}")
            elif not isinstance(argument, (torch.Tensor, *SCALARS)):
                self._object(argument, f"argument {i}")
        self._follow_names()

    def by_tensor(self) -> dict[int, Place]:
        """The place of each torch tensor, by the tensor's id."""
        found: dict[int, Place] = {}
        for place in self.tensors:
            tensor = place.tensor()
            if tensor is not None:
                found.setdefault(id(tensor), place)
        return found

    def changes(self, after: State) -> list[Change]:
        """What a run has changed besides tensors."""
        before, now = dict(self.values), dict(after.values)
        changed = [
            (place, _replaced(before[place], value, place))
            for place, value in now.items()
            if place in before and not same(before[place], value)
        ]
        lengths = {id(holder): size for holder, size, _ in self.containers}
        changed += [
            (Place(holder, NOTHING, path), f"{lengths[id(holder)]} entries, then {size}")
            for holder, size, path in after.containers
            if lengths.get(id(holder), size) != size
        ]
        hooks = {id(leaf): found for leaf, found, _ in self.hooks}
        changed += [
            (Place(leaf, NOTHING, path), f"{len(hooks[id(leaf)])} hooks, then {len(found)}")
            for leaf, found, path in after.hooks
            if hooks.get(id(leaf), found) != found
        ]
        leaf = "a tensor in which gradients gather"
        gathered, gathering = dict(self.wrappers), dict(after.wrappers)
        changed += [(p, f"{leaf}, then {in_words(v)}") for p, v in now.items() if p in gathered]
        changed += [(p, f"{in_words(v)}, then {leaf}") for p, v in before.items() if p in gathering]
        changed += [
            (place, f"{in_words(value)}, then nothing")
            for place, value in {**before, **gathered}.items()
            if place not in now and place not in gathering and place.get() is NOTHING
        ]
        return [Change(place, f"{place} ({words})") for place, words in changed]

    def exchanges(self, after: State) -> list[tuple[Place, Tensor]]:
        """The places in which a run put others of the tensors in which gradients gather."""
        known = dict(self.wrappers)
        return [
            (place, tensor)
            for place, tensor in after.wrappers
            if known.get(place, tensor) is not tensor
        ]

    def freezes(self, after: State) -> list[tuple[Tensor, bool]]:
        """The tensors that a run has frozen, or let require gradients again, and which of these."""
        now = {id(tensor): tensor for _, tensor in after.wrappers}
        return [
            (now[i], frozen)
            for i, frozen in after.frozen.items()
            if i in now and i in self.frozen and self.frozen[i] != frozen
        ]

    # ---------------------------------------------------------------- walking

    def _visit(self, value: Any, place: Place) -> None:
        self.visited.append((place, value))
        if value is NOTHING:
            self.values.append((place, value))
        elif isinstance(value, Tensor) and self._gathers(value):
            self.wrappers.append((place, value))
            self._leaf(value, place.path)
        elif isinstance(value, Tensor) and not isinstance(value._data, torch.Tensor):
            data = Place(value, "data", place.path)
            self.visited.append((data, value._data))
            self.values += [(place, value), (data, value._data)]
        elif isinstance(value, (Tensor, torch.Tensor)):
            self.tensors.append(place)
            self.found.append(value)
        else:
            self.values.append((place, kept(value)))
            if is_value(value):
                self._note_classes(value, place.path)
            elif not isinstance(value, np.ndarray):
                self._object(value, place.path)

    def _note_classes(self, value: Any, path: str) -> None:
        """Note the class of a number or word, which may be the user's, or those in a tuple."""
        self._classes.setdefault(type(value), path)
        for entry in value if isinstance(value, tuple) else ():
            self._note_classes(entry, path)

    def _gathers(self, tensor: Tensor) -> bool:
        """Whether gradients gather in a tensor, or have done so before it was frozen.

        A leaf that it had during the run alone is taken from it.
        """
        leaf = leaf_of(tensor)
        if leaf is None or not leaf.frozen or leaf.order > self._since:
            return leaf is not None
        if leaf.grad is None and not leaf.hooks:
            del tensor.leaf  # nobody can tell
        return leaf.grad is not None or bool(leaf.hooks)

    def _leaf(self, tensor: Tensor, path: str) -> None:
        leaf = leaf_of(tensor)
        if self._is_new(tensor) and leaf is not None:
            self.leaves.append(leaf)
            self.hooks.append((leaf, [*(leaf.hooks or ())], path))
            self.frozen[id(tensor)] = tensor.node is None
            data, grad = Place(tensor, "data", path), Place(leaf, "grad", f"{path}.grad")
            for place in (data, grad):
                self.visited.append((place, place.get()))
                number = place.number()
                if number is None or isinstance(number, torch.Tensor):
                    self.tensors.append(place)
                    self.found.append(place.get())
                else:
                    self.values.append((place, number))
            for i, hook in enumerate(leaf.hooks or ()):
                self._object(hook, f"hook {i} of {path}")

    def _is_new(self, value: Any) -> bool:
        if id(value) in self._seen:
            return False
        self._seen[id(value)] = len(self._seen), value
        return True

    def number_of(self, identity: int) -> int | None:
        """The number of the object with this id, as they were found, None if it was not."""
        return self._seen.get(identity, (None,))[0]

    def _object(self, value: Any, path: str) -> None:
        if value is self._owner.object:
            self._owner.arrive()
        if not self._is_new(value):
            return
        self.kinds.append((path, _kind(value)))
        self._any_words |= any(value is function for function in _ASKING)
        if isinstance(value, functools.partial):
            self._object(value.func, path)
            self._object(value.args, f"{path}.args")
            self._object(value.keywords, f"{path}.keywords")
        elif isinstance(value, types.MethodType):
            self._object(value.__self__, path)
            self._object(value.__func__, path)
        elif isinstance(value, (operator.attrgetter, operator.methodcaller)):
            self._any_name = True
        elif isinstance(value, weakref.ref):
            self._object(value(), path)
        elif isinstance(value, (types.BuiltinMethodType, types.MethodWrapperType)):
            self._object(value.__self__, f"{path}.__self__")
        elif isinstance(value, types.FunctionType):
            self._function(value, path)
        elif isinstance(value, Caller):
            self._object(value.functions, path)
        elif isinstance(value, Rule):
            for function in (value.function, *value.formulas):
                self._object(function, path)
        elif isinstance(value, type):
            self._makers.setdefault(value, path)
        elif isinstance(value, types.ModuleType):
            if is_users(value.__name__):
                self._fields.append(_Fields(vars(value), path, False, set()))
        else:
            if isinstance(value, dict):
                self._dict(value, path, "[{!r}]")
            elif isinstance(value, (list, tuple, deque)):
                self.containers.append((value, len(value), path))
                for i, item in enumerate(value):
                    self._visit(item, Place(value, i, f"{path}[{i}]"))
            self._instance(value, path)

    def _dict(self, fields: dict[Any, Any], path: str, style: str) -> None:
        self.containers.append((fields, len(fields), path))
        for key, value in list(fields.items()):
            name = path + (style.format(key) if isinstance(key, SCALARS) else "[...]")
            self._visit(value, Place(fields, key, name))
            if not is_value(key) and not isinstance(key, type):
                self._keys.append((key, name))

    def _look_at_keys(self) -> None:
        """Look at tensors and objects that are keys, last of all: others tell which they are."""
        while self._keys:
            key, path = self._keys.pop(0)
            if isinstance(key, Tensor):
                self._leaf(key, path)
            elif not isinstance(key, torch.Tensor):
                self._object(key, path)

    def _instance(self, value: Any, path: str) -> None:
        kind: Any = type(value)
        self._classes.setdefault(kind, path)
        self._owner.meet(value)
        slots = slots_of(kind)
        if slots:
            self._slots.append(_Slots(value, slots, path, set()))
        if not has_fields(value) or isinstance(value, _OPAQUE):
            return
        fields = vars(value)
        others = [base for base in kind.__mro__ if not is_users(base.__module__)]
        known = [base for base in others if base.__module__.partition(".")[0] in _KNOWN]
        if len(others) == len(kind.__mro__) or not all(
            base in known or base.__module__ in ("builtins", "abc", "typing", "collections")
            for base in others
        ):
            self._dict(fields, path, ".{}")
            return
        self.containers.append((fields, len(fields), path))
        self._fields.append(_Fields(fields, path, bool(known), set()))
        for base in known:
            self._named.update(names_of_fields(base))

    def _function(self, function: types.FunctionType, path: str) -> None:
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
            place = Place(cell, 0, name)
            self._visit(place.get(), place)
        if function.__code__.co_filename.startswith(_LIBRARIES):  # keep nothing in variables
            return
        variables = function.__globals__
        for name in names_read(function.__code__):
            if name in variables or not hasattr(builtins, name):
                place = Place(variables, name, name)
                self._visit(place.get(), place)
        for name in names_imported(function.__code__):
            package = variables.get("__package__") or ""
            for module in (name, f"{package}.{name}".rstrip(".")):
                if module in sys.modules:
                    self._object(sys.modules[module], module)
        self._dict(vars(function), path, ".{}")
        called = names_called(function.__code__)
        self._called.update(called.fields)
        self._named.update(called.fields)
        self._any_name |= called.computed
        self._any_words |= called.describes
        self._any_class |= called.makes and _may_make(function)
        self._object(function.__defaults__, f"{path}.__defaults__")
        self._object(function.__kwdefaults__, f"{path}.__kwdefaults__")

    # ------------------------------------------------------------ names in code

    def _follow_names(self) -> None:
        """Look at fields and methods that code names, in which there may be more such code."""
        before: Any = None
        while before != (before := self._extent()):
            self._look_at_methods()
            self._look_at_fields()
            if before == self._extent():
                self._look_at_keys()

    def _extent(self) -> tuple[Any, ...]:
        """How far the search has come."""
        found = len(self._seen), len(self.values), len(self.tensors)
        return *found, self._any_name, self._any_words, self._any_class, self._owner.is_private

    def _names_for(self, kind: type, others: set[str]) -> set[str]:
        """The names by which code gets at an object of a class: `others`, if it is not private."""
        owner = self._owner
        private = kind is owner.kind and owner.is_private and kind not in self._makers
        return owner.names if private else others

    def _look_at_fields(self) -> None:
        for entries, path, plain, found in list(self._fields):
            own = entries is getattr(self._owner.object, "__dict__", None)
            names = self._names_for(self._owner.kind, self._named) if own else self._named
            for name, value in list(entries.items()):
                if name in found:
                    continue
                if self._any_name or name in names or (plain and not _is_plain(value)):
                    found.add(name)
                    self._visit(value, Place(entries, name, f"{path}.{name}"))

        for holder, slots, path, found in list(self._slots):
            for name, slot in slots.items():
                if name not in found and (self._any_name or name in self._named):
                    found.add(name)
                    place = Place(holder, slot, f"{path}.{name}")
                    self._visit(place.get(), place)

    def _look_at_methods(self) -> None:
        """Look at attributes of classes that code may get at."""
        kinds = {**self._classes, **self._makers}
        inherited = {k: named_by_library(k, self._called) for k in kinds}
        reached = [
            (function, f"{path}.{name}", kind)
            for kind, path in kinds.items()
            for base in kind.__mro__
            if is_users(base.__module__)
            for name, attribute in vars(base).items()
            if name in inherited[kind] or self._is_reached(name, kind)
            for function in behind(attribute)
            if not (name.startswith("__") and isinstance(function, _HOLDERS))  # annotations, say
        ]
        for function, path, kind in reached:
            if isinstance(function, (types.FunctionType, Caller)) and kind is self._owner.kind:
                self._owner.read(function)
            if _may_lead_to_code(function):
                self._object(function, path)

    def _is_reached(self, name: str, kind: type) -> bool:
        """Whether code names an attribute of a class, or Python gets at it by itself."""
        if self._any_name or name in self._names_for(kind, self._called):
            return True
        if not name.startswith("__"):
            return False
        if name in _DESCRIBING:
            return self._any_words
        return name not in _MAKING or self._any_class or kind in self._makers


def _may_make(function: types.FunctionType) -> bool:
    """Whether a function that gets at an object's class may make another one like it."""
    return function.__name__ not in _NOT_MAKING and is_users(function.__module__ or "")


def _may_lead_to_code(attribute: Any) -> bool:
    if isinstance(attribute, (types.FunctionType, functools.partial, Caller)):
        return True
    if isinstance(attribute, _HOLDERS):
        return isinstance(attribute, type) or not _is_plain(attribute)
    return is_users(type(attribute).__module__)


def _replaced(before: Any, value: Any, place: Place) -> str:
    """What has replaced something, in words, and what may be done instead."""
    if is_value(value) or value is NOTHING:
        return f"{in_words(before)}, then {in_words(value)}"
    value = place.get()
    what = f"another {type(value).__name__}"
    if isinstance(value, (list, dict, tuple)):
        return f"{what}; replace its entries, or have an attribute for each"
    return what


def _is_plain(value: Any) -> bool:
    """Whether it is a number or the like, or holds nothing else."""
    if isinstance(value, (list, tuple, deque)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return isinstance(value, SCALARS)


def _kind(value: Any) -> Any:
    """What two objects have in common that do the same: the code, the class, what they are."""
    if isinstance(value, types.FunctionType):
        return value.__code__
    if isinstance(value, (type, types.ModuleType, Enum, *_METHODS)):
        return value
    if isinstance(value, (types.BuiltinFunctionType, types.MethodWrapperType)):
        return value.__name__
    if isinstance(value, _GETTING):
        return repr(value)
    constant = isinstance(value, _CONSTANT) and not is_users(type(value).__module__)
    if constant or isinstance(value, SCALARS):
        return type(value), value
    return type(value)
