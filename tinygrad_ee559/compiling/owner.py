"""The owner: the object whose method a function is."""

from __future__ import annotations

import types
from typing import Any

from tinygrad_ee559.compiling.classes import Caller, has_fields
from tinygrad_ee559.compiling.code import is_users, names_on_first


class Owner:
    """The object whose method a function is.

    If it is private, what counts of it is what that method and those that it calls name of `self`:
    not its method `step` because the code calls that of an optimizer. It is as long as

    - its classes are all the user's, whose methods can be read;
    - its methods do no more with `self` than to get at its attributes;
    - no other way leads to it, nor to an object of its class, or a proxy, that has its methods.
    """

    def __init__(self, function: Any) -> None:
        self.object = getattr(function, "__self__", None)
        self.kind = type(self.object)
        self.names: set[str] = set()
        bases = [base for base in self.kind.__mro__ if base is not object]
        self.is_private = isinstance(function, types.MethodType) and all(
            is_users(base.__module__) for base in bases
        )
        self._arrived = False
        if self.is_private:
            self.read(function.__func__)

    def arrive(self) -> None:
        """Note that a way leads to it, of which the first is that of the function."""
        self.is_private &= not self._arrived
        self._arrived = True

    def meet(self, value: Any) -> None:
        """Note an object that was found: another one of its class, or a proxy, has its methods."""
        is_like = type(value) is self.kind or (
            has_fields(value) and vars(value) is getattr(self.object, "__dict__", None)
        )
        self.is_private &= value is self.object or not is_like

    def read(self, method: Any) -> None:
        """Note what a method of it names."""
        if isinstance(method, Caller):
            for function in method.functions:
                self.read(function)
            return
        code = getattr(method, "__code__", None)
        names = None if code is None else names_on_first(code)
        if names is None or {*method.__code__.co_freevars} - {"__class__"}:
            self.is_private = False  # somebody else may get at it
        else:
            self.names |= names
