"""Code: what names a function's instructions use, and whose code it is."""

from __future__ import annotations

import dis
import functools
import sys
import sysconfig
import types
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

#: Where the modules are that the user has not written himself.
_INSTALLED = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
#: The instructions by which Python gets at variables of a module.
_OF_MODULES = "LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL"
#: Those by which it gets at attributes and methods.
_OF_OBJECTS = "LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"
#: Those by which it gets at fields.
_OF_FIELDS = *_OF_OBJECTS, "STORE_ATTR", "DELETE_ATTR"
#: Functions and attributes through which code may get at fields whose names it does not say.
_COMPUTED = {
    "getattr", "setattr", "hasattr", "delattr", "vars", "dir", "attrgetter", "getmembers",
    "__dict__", "__getattribute__", "__getstate__", "__reduce__", "__reduce_ex__", "asdict",
    "astuple", "fields", "replace", "copy", "deepcopy", "pickle", "eval", "exec",
}  # fmt: skip


class Called(NamedTuple):
    """What a function's code names.

    Attributes:
        methods: the attributes that it reads.
        fields: those, and the ones that it sets.
        computed: whether there may be others.
    """

    methods: tuple[str, ...]
    fields: tuple[str, ...]
    computed: bool


@functools.cache
def names_read(code: types.CodeType) -> tuple[str, ...]:
    """The global variables that a function uses."""
    return _names(code, *_OF_MODULES)


@functools.cache
def names_called(code: types.CodeType) -> Called:
    """The attributes that a function uses."""
    fields = _names(code, *_OF_FIELDS)
    computed = not _COMPUTED.isdisjoint({*fields, *names_read(code)})
    matches = any(i.opname == "MATCH_CLASS" for c in _inside(code) for i in dis.get_instructions(c))
    return Called(_names(code, *_OF_OBJECTS), fields, computed or matches)


@functools.cache
def names_of_fields(kind: type) -> tuple[str, ...]:
    """The attributes that the methods of a class use."""
    functions = [getattr(f, "fget", f) for f in vars(kind).values()]
    codes = [f.__code__ for f in functions if isinstance(f, types.FunctionType)]
    return tuple(name for code in codes for name in _names(code, *_OF_FIELDS))


@functools.cache
def is_users(module: str) -> bool:
    """Whether a module is neither Python's nor installed nor ours."""
    if module == "__main__":
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or module.partition(".")[0] == "tinygrad_ee559":
        return False
    return not any(Path(file).is_relative_to(folder) for folder in _INSTALLED)


def _names(code: types.CodeType, *instructions: str) -> tuple[str, ...]:
    """The names that a function, and the functions inside it, use in such instructions."""
    names = [
        instruction.argval
        for inner in _inside(code)
        for instruction in dis.get_instructions(inner)
        if instruction.opname in instructions
    ]
    return tuple(dict.fromkeys(names))


def _inside(code: types.CodeType) -> Iterator[types.CodeType]:
    """The code of a function and of those inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _inside(constant)
