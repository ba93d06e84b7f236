"""Runs: a function is run as it is, and watched, until two runs did the same."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Sequence
from typing import Any

import torch

from tinygrad_ee559.compiling.capture import Capture
from tinygrad_ee559.compiling.places import Place
from tinygrad_ee559.compiling.state import Change, State
from tinygrad_ee559.errors import CaptureError
from tinygrad_ee559.private import is_transformed, is_watched
from tinygrad_ee559.tensor import Tensor

#: After so many runs in which a function changed the same thing that is no tensor, it will go on.
PATIENCE = 4
#: After so many runs one after the other of which no two did the same, users should hear of it; and
#: after so many that changed one such thing or another, the function will go on.
MANY = 16
#: A run is compared with so many before it.
COMPARED = 256
#: After so many runs that did the same and had to be watched, users should hear of it.
WATCHED = 32

#: How a tensor is described that is known by where it is kept, or by itself.
_WHERE = re.compile(r"(?:(?P<path>.+) of|tensor) \d+(?: at \d+)? (?P<look>torch\..+)")


class Runs:
    """The runs of one function.

    Attributes:
        function: the function.
        rested: whether a program has run in its place since.
    """

    def __init__(self, function: Any) -> None:
        self.function = function
        self.rested = False
        self._name = getattr(function, "__name__", type(function).__name__)
        #: What runs did of which no other did the same, and tensors that it names by their id.
        self._alone: dict[str, list[torch.Tensor]] = {}
        #: How many of these there were one after the other, with no program in between.
        self._in_a_row = 0
        #: How many runs have changed something besides tensors, by where, one after the other too.
        self._restless: dict[Place, int] = {}
        self._restless_runs = 0

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Capture, bool]:
        """Run the function; what it did, and whether an earlier run did the same.

        Raises:
            CaptureError: it goes on changing more than tensors.
        """
        capture = Capture(self.function, args, kwargs)
        if self.rested:
            self.rested = False
            self._in_a_row = 0
            self._settle()
        if capture.changes:
            self._restless_runs += 1
            for place in {change.where for change in capture.changes}:
                self._restless[place] = self._restless.get(place, 0) + 1
            if max(self._restless.values()) >= PATIENCE or self._restless_runs >= MANY:
                raise CaptureError(
                    f"{self._name} changes more than tensors in every call, and that is not part "
                    f"of a program: {_in_words(capture.changes)}. Do it outside, or keep it in a "
                    "tensor"
                )
            return capture, False
        self._settle()
        if capture.text in self._alone:
            self._in_a_row = 0
            return capture, True
        self._alone[capture.text] = [t for t in capture.sources if isinstance(t, torch.Tensor)]
        self._in_a_row += 1
        if self._in_a_row == MANY:
            warnings.warn(
                f"{self._name} did something else in each of {MANY} calls, so it was not compiled. "
                f"{_difference(*list(self._alone)[-2:])}",
                stacklevel=4,
            )
        if len(self._alone) > COMPARED:
            del self._alone[next(iter(self._alone))]
        return capture, False

    def _settle(self) -> None:
        self._restless.clear()
        self._restless_runs = 0

    def forget(self, capture: Capture) -> None:
        """There is a program for what was done twice."""
        self._alone.pop(capture.text, None)


class Admissions:
    """How many runs did what a program does, and had to be watched all the same."""

    def __init__(self) -> None:
        self._count = 0

    def note(self, found: State) -> None:
        """Note one more, and what it found; says why there are many, if there are."""
        self._count += 1
        if self._count == WATCHED - 1:
            self._before = found
        elif self._count == WATCHED:
            _warn_of_watching(self._before, found)
            del self._before


def _warn_of_watching(before: State, now: State) -> None:
    """Say why runs that do the same are watched: what one of them found, and what the next."""
    changed = _in_words(before.changes(now)) or "something that it is given"
    warnings.warn(
        f"the compiled function did the same in {WATCHED} calls and still had to be watched, as "
        f"what it may depend on was another each time: {changed}. Have it out of "
        "the function's reach, or in a tensor",
        stacklevel=6,
    )


def _in_words(changes: Sequence[Change]) -> str:
    return "; ".join(change.words for change in changes[:3])


def must_be_seen(leaves: Sequence[Any]) -> bool:
    """Whether somebody watches, from whom a program would hide what it does: a capture, or one of
    torch's transformations."""
    for leaf in leaves:
        if is_transformed(leaf._data if isinstance(leaf, Tensor) else leaf):
            return True
    return is_watched()


def counted(programs: Collection[Any]) -> str:
    """How many programs there are, in words."""
    return f"{len(programs)} program{'s' * (len(programs) != 1)}"


def _difference(one: str, other: str) -> str:
    """Where two runs part."""
    for a, b in zip(one.splitlines(), other.splitlines()):
        if a == b:
            continue
        now, before = map(_WHERE.fullmatch, (b, a))
        if now and before and now["look"] == before["look"] and now["path"] == before["path"]:
            if now["path"] is None:
                return (
                    f"It gets another tensor in each call, {now['look']}, from where its variables "
                    "do not lead; pass it as an argument"
                )
            return (
                f"{now['path']} is another tensor in each call; change it in place, as an "
                "optimizer does"
            )
        return f"The last two part here: {a.strip()}, and then {b.strip()}"
    return "One of the last two did more than the other"
