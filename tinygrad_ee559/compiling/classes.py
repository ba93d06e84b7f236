"""Classes: what objects of the user's have, and which functions attributes of classes stand for."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from tinygrad_ee559.compiling.code import is_users, names_called

#: What `_names_in_library` has found.
_found: WeakKeyDictionary[type, Mapping[str, tuple[str, ...]]] = WeakKeyDictionary()


class Caller:
    """Calls functions; what else it keeps is no state of theirs."""

    functions: Sequence[Callable[..., Any]]


def behind(attribute: Any) -> list[Any]:
    """The functions that an attribute of a class stands for, such as a property; else itself."""
    if isinstance(attribute, property):
        functions = attribute.fget, attribute.fset, attribute.fdel
        return [function for function in functions if function is not None]
    if isinstance(attribute, (classmethod, staticmethod)):
        return [attribute.__func__]
    if isinstance(attribute, (functools.cached_property, functools.partialmethod)):
        return [attribute.func]
    if isinstance(attribute, functools.singledispatchmethod):
        return [attribute.dispatcher]
    if isinstance(attribute, functools._lru_cache_wrapper):
        return [attribute.__wrapped__]
    return [attribute]


def has_fields(value: Any) -> bool:
    """Whether an object has a dict of fields; methods of the user's are not asked."""
    kind = type(value)
    if is_users(kind.__module__):
        return any("__dict__" in vars(base) for base in kind.__mro__)
    return hasattr(value, "__dict__")


def slots_of(kind: Any) -> dict[str, Any]:
    """The slots of a class of the user's, by name."""
    return {
        name: slot
        for base in reversed(kind.__mro__)
        if is_users(base.__module__)
        for name, slot in vars(base).items()
        if isinstance(slot, types.MemberDescriptorType)
    }


def named_by_library(kind: Any, called: Collection[str]) -> set[str]:
    """What methods name that a class of the user's inherits from others, of those methods that are
    called by these names or by each other."""
    methods = _names_in_library(kind)
    names = {*called}
    reached: set[str] = set()
    while not reached.issuperset(new := names & methods.keys()):
        reached |= new
        names.update(*(methods[name] for name in new))
    return names.difference(called) if reached else set()


def _names_in_library(kind: Any) -> Mapping[str, tuple[str, ...]]:
    """What the methods name that a class inherits from others than the user's, by their names."""
    if kind not in _found:
        others = [b for b in kind.__mro__ if not is_users(b.__module__)]
        _found[kind] = {
            name: names_called(function.__code__).fields
            for base in (reversed(others) if len(others) < len(kind.__mro__) else ())
            for name, method in vars(base).items()
            for function in behind(method)
            if isinstance(function, types.FunctionType)
        }
    return _found[kind]
