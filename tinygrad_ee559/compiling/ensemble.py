"""`ensemble`: many models trained at once, each by its own step, as one program."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch

from tinygrad_ee559.compiling.alike import check_alike, most_apart
from tinygrad_ee559.compiling.capture import Capture
from tinygrad_ee559.compiling.classes import Caller
from tinygrad_ee559.compiling.runs import Runs, counted, must_be_seen
from tinygrad_ee559.compiling.state import State
from tinygrad_ee559.compiling.streams import (
    as_stack,
    as_tensors,
    contiguous,
    entry,
    joined,
    streams_of,
)
from tinygrad_ee559.compiling.together import Together
from tinygrad_ee559.errors import CompilerError
from tinygrad_ee559.private import tree_flatten
from tinygrad_ee559.tensor import Tensor

#: An ensemble has so many programs, those that were made last.
PROGRAMS = 32


class Ensemble(Caller):
    """Steps of several members that run together. `ensemble` says more."""

    def __init__(self, steps: Sequence[Callable[..., Any]]) -> None:
        self.steps = self.functions = list(steps)
        if not self.steps:
            raise ValueError("an ensemble needs at least one step")
        self._runs = [Runs(step) for step in self.steps]
        self._captured = 0  # the member that is watched
        self._together: list[Together] = []
        self._lock = threading.RLock()
        self._failure: CompilerError | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Programs stay where they are."""
        return Ensemble, (self.steps,)

    def __repr__(self) -> str:
        return f"<ensemble of {len(self)}, {counted(self._together)}>"

    def __len__(self) -> int:
        return len(self.steps)

    def __call__(self, *args: Any) -> Any:
        """One step of every member; arguments and results have a first dimension of members."""
        return entry(self.loop(*as_stack(as_tensors(args))), 0)

    def loop(self, *args: Any) -> Any:
        """Many steps of every member.

        Args:
            args: tensors whose first two dimensions are those of the steps and of the members.

        Returns:
            what the steps returned, with the same first two dimensions.

        Raises:
            ValueError: these dimensions are not the same for all, or the members not as many.
            CaptureError: an argument is no tensor or requires gradients, or for the reasons of
                `ensemble`.

        >>> totals = [torch.zeros(()), torch.tensor(10.0)]
        >>> add = ensemble([lambda x, total=total: total.add_(x) * 1 for total in totals])
        >>> add.loop(torch.ones(3, 2))  # three steps of two members
        tensor([[ 1., 11.],
                [ 2., 12.],
                [ 3., 13.]])
        """
        args = as_tensors(args)
        streams = streams_of(args, ("steps", "members"))
        leaves, nesting = tree_flatten(args)
        structure = nesting, [isinstance(leaf, Tensor) for leaf in leaves]
        steps, members = streams[0].shape[:2]
        if members != len(self):
            raise ValueError(
                f"the second dimension is that of the members, of which there are {len(self)}; "
                f"these tensors have the shapes {[list(s.shape) for s in streams]}"
            )
        returned = []
        seen = must_be_seen(streams)
        with self._lock:
            for step in range(steps):
                now = [s[step, 0] for s in streams]
                together = None if seen else self._program(now, structure)
                if together is not None and together.carries:
                    returned.append(together.loop([s[step : step + 1] for s in streams]))
                elif together is not None:
                    returned.append(together.loop([s[step:] for s in streams]))
                    break
                else:
                    returned.append(self._one_by_one(args, step, structure, seen))
        return joined(returned)

    def _program(self, arguments: list[torch.Tensor], structure: Any) -> Together | None:
        """What may run now."""
        shapes = [(a.shape, a.dtype) for a in arguments]
        for together in self._together:
            if together.shapes == shapes and together.structure == structure and together.ready():
                self._runs[self._captured].rested = True
                return together
        return None

    def _one_by_one(self, args: Any, step: int, structure: Any, seen: bool) -> Any:
        """One step of each member by itself; compiles what one of them did if it did so before."""
        arguments = [entry(args, step, i) for i in range(len(self))]
        if seen:
            results = [f(*a) for f, a in zip(self.steps, arguments)]
        else:
            if self._failure is not None:
                raise self._failure
            # In the layout that arguments of programs have.
            one = self._captured
            capture, again = self._runs[one].run(contiguous(arguments[one]), {})
            results = [
                capture.returned if i == one else step(*argument)
                for i, (step, argument) in enumerate(zip(self.steps, arguments))
            ]
            self._learn(capture, again, structure)
        return joined([as_stack(result, 2) for result in results], 1)

    def _learn(self, capture: Capture, again: bool, structure: Any) -> None:
        """Compile what a member did, if it did so before and nothing is compiled for it."""
        same = (t for t in self._together if t.text == capture.text and t.structure == structure)
        known = next(same, None)
        if capture.changes or not (known or again):
            return
        states = [State(step) for step in self.steps]
        check_alike(states)
        most = most_apart(states)
        if len(states[most].by_tensor()) > len(states[self._captured].by_tensor()):
            self._captured = most  # what it does is right for all
        elif known is not None:
            known.admit(capture, states, self._captured)
        else:
            try:
                self._together.append(Together(capture, states, self._captured, structure))
                self._runs[self._captured].forget(capture)
                del self._together[:-PROGRAMS]
            except CompilerError as error:  # for the next call: this one has done its work
                self._failure = error


def ensemble(steps: Sequence[Callable[..., Any]]) -> Ensemble:
    """Train many models at once, each by the step that was written for one.

    Args:
        steps: one function per member. Each has a model and an optimizer of its own, which differ
            in the values of tensors: parameters, and hyper-parameters given as tensors.

    The first steps run one by one, until two did the same. Then one program runs all, which is
    compiled and loops over steps and members by itself, on as many threads as torch is set to use.
    Parameters, gradients and momenta of the members become views into stacks, and can be used as
    before.

    Raises:
        ValueError: there are no steps.
        CaptureError: when called, if the members differ in more than tensors or share some that
            they change, or for the reasons of `compile`.

    >>> from tinygrad_ee559 import nn, optim
    >>> def member(lr):
    ...     model = nn.Linear(2, 1)
    ...     optimizer = optim.SGD(model.parameters(), lr=torch.tensor(lr))
    ...     def step(x, y):
    ...         optimizer.zero_grad()
    ...         loss = ((model(x) - y) ** 2).mean()
    ...         loss.backward()
    ...         optimizer.step()
    ...         return loss
    ...     return step
    >>> train = ensemble([member(lr) for lr in (0.1, 0.01, 0.001)])
    >>> losses = train.loop(torch.ones(20, 3, 5, 2), torch.zeros(20, 3, 5, 1))
    >>> losses.shape
    torch.Size([20, 3])
    """
    return Ensemble(steps)
