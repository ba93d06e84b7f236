"""Code: what names a function's instructions use, and whose code it is."""

from __future__ import annotations

import dis
import functools
import inspect
import re
import sys
import sysconfig
import types
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

#: Where the modules are that the user has not written himself.
_INSTALLED = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
#: The instructions by which Python gets at variables of a module.
_OF_MODULES = "LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL"
#: Those by which it gets at attributes: fields, methods, and variables of other modules.
_OF_FIELDS = (
    "LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "STORE_ATTR", "DELETE_ATTR", "IMPORT_FROM",
)  # fmt: skip
#: Those that make or hand on a cell.
_OF_CELLS = "COPY_FREE_VARS", "MAKE_CELL", "LOAD_CLOSURE"
#: Those that neither load a variable nor do anything with it.
_NEITHER = "COPY", "DUP_TOP", "EXTENDED_ARG"
#: Functions and attributes through which code may get at others whose names it does not say.
_COMPUTED = {
    "getattr", "setattr", "hasattr", "delattr", "vars", "dir", "attrgetter", "methodcaller",
    "getmembers", "__dict__", "__getattribute__", "__getstate__", "__reduce__", "__reduce_ex__",
    "asdict", "astuple", "deepcopy", "eval", "exec",
}  # fmt: skip
#: The same where they are no methods, as lists and strings have.
_COMPUTED_IF_VARIABLES = {"copy", "fields", "replace", "pickle", "dataclasses", "inspect"}
#: Functions and methods that ask objects for words.
_WORDS = {"str", "repr", "ascii", "format", "format_map", "__str__", "__repr__", "__format__"}
#: The instructions that do.
_OF_WORDS = (
    "FORMAT_VALUE", "FORMAT_SIMPLE", "FORMAT_WITH_SPEC", "CONVERT_VALUE", "BINARY_MODULO",
)  # fmt: skip
#: Those that go elsewhere with what was computed, by how they begin.
_ELSEWHERE = "STORE_", "POP_TOP", "RETURN_", "YIELD_", "JUMP_", "POP_JUMP_"


class Called(NamedTuple):
    """What a function's code names.

    Attributes:
        fields: the attributes that it reads or sets.
        computed: whether there may be others.
        describes: whether it may ask an object for words.
        makes: whether it gets at the class of an object, to make another one.
    """

    fields: tuple[str, ...]
    computed: bool
    describes: bool
    makes: bool


@functools.cache
def names_read(code: types.CodeType) -> tuple[str, ...]:
    """The global variables that a function uses."""
    return _operands(code, *_OF_MODULES)


@functools.cache
def names_called(code: types.CodeType) -> Called:
    """The attributes that a function uses."""
    fields = _operands(code, *_OF_FIELDS)
    variables = {*names_read(code), *_operands(code, "IMPORT_NAME", "IMPORT_FROM")}
    computed = not _COMPUTED.isdisjoint({*fields, *variables})
    computed |= not _COMPUTED_IF_VARIABLES.isdisjoint(variables)
    matches = any(i.opname == "MATCH_CLASS" for c in _inside(code) for i in dis.get_instructions(c))
    describes = not _WORDS.isdisjoint({*fields, *variables}) or any(map(_formats, _inside(code)))
    makes = "__class__" in fields or "type" in variables
    return Called(fields, computed or matches, describes, makes)


@functools.cache
def names_imported(code: types.CodeType) -> tuple[str, ...]:
    """The modules that a function imports, and all packages that they are in."""
    names = _operands(code, "IMPORT_NAME")
    parts = [name.split(".") for name in names]
    return tuple(dict.fromkeys(".".join(p[:i]) for p in parts for i in range(1, len(p) + 1)))


@functools.cache
def names_on_first(code: types.CodeType) -> frozenset[str] | None:
    """The attributes of its first parameter that a method uses; None if it uses that otherwise, so
    that others may get at it."""
    if not code.co_argcount:
        return None if code.co_flags & inspect.CO_VARARGS else frozenset()
    first = code.co_varnames[0]
    names: set[str] = set()
    for inner in _inside(code):
        if inner is not code and first in inner.co_varnames:
            continue  # another variable of that name
        for (opname, value), (following, name) in pairwise(_steps(inner)):
            if value == first and opname in ("LOAD_FAST", "LOAD_DEREF"):
                if following not in _OF_FIELDS:
                    return None
                names.add(name)
            elif value == first and opname not in _OF_CELLS:
                return None
        if "super" in _operands(inner, "LOAD_GLOBAL"):
            names.update(_operands(inner, *_OF_FIELDS))
    return frozenset(names)


def _steps(code: types.CodeType) -> list[tuple[str, Any]]:
    """The instructions of a function, named as in Python 3.11, each with what it is about.

    Later ones have some for two variables, and get at cells (where variables are kept that inner
    functions use) like at variables.
    """
    steps: list[tuple[str, Any]] = []
    cells = code.co_cellvars + code.co_freevars
    for instruction in dis.get_instructions(code):
        opnames = re.findall(r"(?:LOAD|STORE|DELETE)_FAST", instruction.opname)
        if opnames:
            values = instruction.argval if len(opnames) > 1 else [instruction.argval]
            steps += [("LOAD_CLOSURE" if v in cells else o, v) for o, v in zip(opnames, values)]
        elif instruction.opname not in _NEITHER:
            steps.append((instruction.opname, instruction.argval))
    return steps


@functools.cache
def names_of_fields(kind: type) -> tuple[str, ...]:
    """The attributes that the methods of a class use."""
    functions = [getattr(f, "fget", f) for f in vars(kind).values()]
    codes = [f.__code__ for f in functions if isinstance(f, types.FunctionType)]
    return tuple(name for code in codes for name in _operands(code, *_OF_FIELDS))


@functools.cache
def is_users(module: str) -> bool:
    """Whether a module is neither Python's nor installed nor ours.

    One that nobody knows belongs to who has what it is in, or else was made by the user.
    """
    if module.partition(".")[0] in ("__main__", "tinygrad_ee559"):
        return module == "__main__"
    found = sys.modules.get(module)
    file = getattr(found, "__file__", None) or next(iter(getattr(found, "__path__", ())), None)
    if file is not None:
        return not any(Path(file).is_relative_to(folder) for folder in _INSTALLED)
    package = module.rpartition(".")[0]
    return is_users(package) if package else module not in sys.stdlib_module_names


def _formats(code: types.CodeType) -> bool:
    """Whether a function puts objects into texts, by f"{x}" or, as far as one sees, text % x; not
    for the message of an error, which ends all."""
    steps = [*dis.get_instructions(code)]
    asking = (k for k, s in enumerate(steps) if s.opname in _OF_WORDS or s.argrepr == "%")
    return not all(_is_raised(steps[k:]) for k in asking)


def _is_raised(steps: Sequence[dis.Instruction]) -> bool:
    """Whether what the first instruction computes goes into an error that is raised."""
    for step in steps:
        if step.opname == "RAISE_VARARGS" or step.opname.startswith(_ELSEWHERE):
            return step.opname == "RAISE_VARARGS"
    return False


def _operands(code: types.CodeType, *instructions: str) -> tuple[str, ...]:
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
