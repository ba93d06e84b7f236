"""Runs: a function is run as it is, and watched, until two runs did the same."""

from __future__ import annotations

import warnings
from typing import Any

from tinygrad_ee559.compiling.capture import Capture
from tinygrad_ee559.errors import CaptureError

#: After so many runs in which a function changed more than tensors, it will go on to do so.
PATIENCE = 4
#: After so many runs of which no two did the same, users should hear of it.
MANY = 16


class Runs:
    """The runs of one function."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self._name = getattr(function, "__name__", type(function).__name__)
        self._captures: list[Capture] = []
        self._restless = 0

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Capture, Capture | None]:
        """Run the function; what it did, and an earlier run in which it did the same.

        Raises:
            CaptureError: it goes on changing more than tensors.
        """
        capture = Capture(self.function, args, kwargs)
        if capture.changes:
            self._restless += 1
            if self._restless == PATIENCE:
                raise CaptureError(
                    f"{self._name} changes more than tensors in every call, and that is not part "
                    f"of a program: {'; '.join(capture.changes[:3])}. Do it outside, or keep it in "
                    "a tensor"
                )
            return capture, None
        self._restless = 0
        for earlier in self._captures:
            if earlier.text == capture.text:
                self._captures.remove(earlier)
                return capture, earlier
        self._captures.append(capture)
        if len(self._captures) == MANY:
            warnings.warn(
                f"{self._name} did something else in each of {MANY} calls, so it was not compiled. "
                f"{_difference(*self._captures[-2:])}",
                stacklevel=4,
            )
        return capture, None


def _difference(one: Capture, other: Capture) -> str:
    """Where two runs part."""
    for a, b in zip(one.text.splitlines(), other.text.splitlines()):
        if a != b:
            return f"The last two part here: {a.strip()}, and then {b.strip()}"
    return "One of the last two did more than the other"
