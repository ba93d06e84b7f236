"""`compile`: a function on tensors as one program."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any

import torch

from tinygrad_ee559.compiling.classes import Caller
from tinygrad_ee559.compiling.program import Program
from tinygrad_ee559.compiling.runs import Runs, counted, must_be_seen
from tinygrad_ee559.compiling.streams import (
    as_stack,
    as_tensors,
    contiguous,
    entry,
    give_back,
    joined,
    streams_of,
)
from tinygrad_ee559.errors import CompilerError
from tinygrad_ee559.private import tree_flatten
from tinygrad_ee559.tensor import Tensor

#: A function has so many programs, those that ran last.
PROGRAMS = 256


class Compiled(Caller):
    """A function that runs as one program once two runs did the same. `compile` says more."""

    def __init__(self, function: Callable[..., Any]) -> None:
        if isinstance(function, (staticmethod, classmethod)):
            raise TypeError(
                f"a {type(function).__name__} cannot be compiled, but its function can; write "
                f"@{type(function).__name__} above @compile"
            )
        self.functions = [function]
        self.programs: list[Program] = []
        self._runs = Runs(function)
        self._lock = threading.RLock()
        self._failure: CompilerError | None = None
        #: Of a method: whose it is, and by what name.
        self._owner: tuple[Any, str] | None = None
        self.__name__ = type(function).__name__  # if it has none
        functools.update_wrapper(self, function, updated=())
        self._name_it(self.__name__)

    def __set_name__(self, owner: type, name: str) -> None:
        self._name_it(name)

    def _name_it(self, attribute: str) -> None:
        """Note the name of the attribute that it is, and the one under which instances keep it."""
        where = getattr(self.functions[0], "__qualname__", "")  # an override has another one
        self._attribute = attribute
        self._key = f"compiled {attribute}, {self.__module__}.{where}"

    def __get__(self, instance: Any, owner: type | None = None) -> Compiled:
        """The method of one instance, which is compiled for itself, and kept by the instance."""
        if instance is None:
            return self
        fields = getattr(instance, "__dict__", None)
        if fields is None:
            raise TypeError(
                f"a compiled method is kept in its instance, and a {type(instance).__name__} has "
                "no __dict__; add that to its __slots__"
            )
        function = self.functions[0]
        bound: Compiled | None = fields.get(self._key)
        if bound is None or not bound._is(function, instance):
            bound = Compiled(MethodType(function, instance))
            bound._owner = instance, self._attribute
            if isinstance(instance, type):
                setattr(instance, self._key, bound)
            else:
                fields[self._key] = bound
        return bound

    def _is(self, function: Any, instance: Any) -> bool:
        """Whether it is that method of that instance: not of one it is a copy of, and not one whose
        class has another by now."""
        method: Any = self.functions[0]
        return self._owner is not None and (
            method.__self__ is instance and method.__func__ is function
        )

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Programs stay where they are."""
        if self._owner is not None:
            return getattr, self._owner
        name = getattr(self, "__qualname__", "")
        if getattr(sys.modules.get(self.__module__), name, None) is self:
            return name
        return Compiled, (self.functions[0],)

    def __repr__(self) -> str:
        return f"<compiled {self.__name__}, {counted(self.programs)}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        leaves, structure = _flat(args, kwargs)
        if must_be_seen(leaves):
            return self.functions[0](*args, **kwargs)  # a program would hide what it does
        with self._lock:
            found = self._program(leaves, structure)
            if found is not None:
                program, inputs = found
                return program.run(leaves, inputs)
            return self._watched(args, kwargs, leaves, structure)

    def loop(self, *args: Any) -> Any:
        """Call the function once for each entry of the arguments' first dimension.

        Returns:
            what the calls returned, stacked.

        Raises:
            ValueError: the arguments are not as many.
            CaptureError: one of them requires gradients, or for the reasons of a call.

        >>> total = torch.zeros(2)
        >>> add = compile(lambda x: total.add_(x).sum())
        >>> add.loop(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
        tensor([ 3., 10., 21.])
        >>> total
        tensor([ 9., 12.])
        """
        given = as_tensors(args)
        originals = streams_of(given, ("steps",))
        args = contiguous(given)
        streams = streams_of(args, ("steps",))
        hidden = not must_be_seen(streams)
        returned = []
        with self._lock:
            try:
                for step in range(len(streams[0])):
                    now = entry(args, step)
                    leaves, structure = _flat(now, {})
                    found = self._program(leaves, structure) if hidden else None
                    rest = [stream[step:] for stream in streams]
                    if found is not None and args is not given:  # but copies
                        found[0].check_apart([stream[step:] for stream in originals], found[1])
                    if found is not None and found[0].may_loop(rest, found[1]):
                        returned.append(found[0].loop(rest, found[1]))
                        break
                    returned.append(joined([as_stack(self(*now))]))  # a copy
            finally:
                give_back(originals, streams)
        return joined(returned)

    def _program(
        self, leaves: Sequence[Any], structure: Any
    ) -> tuple[Program, list[torch.Tensor]] | None:
        """The program that may run now, and what it computes with."""
        for i, program in enumerate(self.programs):
            inputs = program.inputs(leaves, structure)
            if inputs is not None:
                if i:
                    self.programs.insert(0, self.programs.pop(i))
                self._runs.rested = True
                return program, inputs
        return None

    def _watched(self, args: Any, kwargs: Any, leaves: Sequence[Any], structure: Any) -> Any:
        """Run the function itself, and compile what it did if it did so before."""
        if self._failure is not None:
            raise self._failure
        capture, again = self._runs.run(args, kwargs)
        for program in self.programs:
            if program.text == capture.text and not capture.changes:
                program.admit(capture, leaves, structure)
                return capture.returned
        if again:
            try:
                self.programs.insert(0, Program(capture, leaves, structure))
                self._runs.forget(capture)
            except CompilerError as error:  # for the next call: this one has done its work
                self._failure = error
            del self.programs[PROGRAMS:]
        return capture.returned


def _flat(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Sequence[Any], Any]:
    """The leaves of arguments, and how these are nested, None if they are not."""
    if kwargs:
        return tree_flatten((args, kwargs))
    for argument in args:
        if not isinstance(argument, (Tensor, torch.Tensor)):
            return tree_flatten((args, kwargs))
    return args, None


def compile(function: Callable[..., Any]) -> Compiled:
    """A function on tensors as one program: forward, backward and update, with the same results.

    The function may be a closure over modules, optimizers and anything else that holds tensors; it
    may change these in place or replace them, as a training step does. It runs as it is until two
    runs did the same, which are usually the first two or the second and the third. From then on a
    program runs in its place, compiled by TorchInductor; the two can take turns. Other shapes,
    dtypes or settings lead to another program.

    Args:
        function: takes tensors, numbers, and lists, tuples and dicts of them, and returns such.
            What it returns has no history.

    Raises:
        CaptureError: when called, if what the function does depends on the values of tensors, or
            changes more than tensors, or returns a tensor with a history, or if gradients go
            further than it reaches.
        CompilerError: when called, before anything is done, if there is no C++ compiler.

    >>> from tinygrad_ee559 import nn, optim
    >>> model = nn.Linear(2, 1)
    >>> optimizer = optim.SGD(model.parameters(), lr=0.1)
    >>> def step(x, y):
    ...     optimizer.zero_grad()
    ...     loss = ((model(x) - y) ** 2).mean()
    ...     loss.backward()
    ...     optimizer.step()
    ...     return loss
    >>> fast = compile(step)
    >>> losses = [fast(torch.ones(5, 2), torch.zeros(5, 1)) for _ in range(10)]
    >>> losses[9].item() < losses[0].item()
    True
    >>> fast.loop(torch.ones(20, 5, 2), torch.zeros(20, 5, 1)).shape
    torch.Size([20])
    """
    return Compiled(function)
