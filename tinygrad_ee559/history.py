"""What a training came to: numbers by name, epoch by epoch."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import SupportsIndex, overload

from tinygrad_ee559 import plots


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training data came to.

    Args:
        number: of the epoch, from 1.
        seconds: that training took, without tests and callbacks.
        values: what was measured, by name; each is an attribute as well.

    >>> epoch = Epoch(1, 0.5, {"train_loss": 0.25, "test_accuracy": 0.875})
    >>> epoch.test_accuracy
    0.875
    >>> print(epoch)
    epoch   1: train loss 0.2500, test accuracy 87.50%, 0.50 s
    """

    number: int
    seconds: float
    values: dict[str, float]

    def __getattr__(self, name: str) -> float:
        values: dict[str, float] = vars(self).get("values", {})
        if name not in values:
            raise _not_measured(name, values)
        return values[name]

    def __str__(self) -> str:
        values = ", ".join(shown(name, value) for name, value in self.values.items())
        return f"epoch {self.number:3}: {values}, {self.seconds:.2f} s"


class History(list[Epoch]):
    """The epochs of a training. What was measured in all of them is an attribute, as a list.

    >>> history = History([Epoch(1, 0.5, {"train_loss": 0.5}), Epoch(2, 0.5, {"train_loss": 0.25})])
    >>> history.train_loss
    [0.5, 0.25]
    >>> history[1:].train_loss
    [0.25]
    """

    @overload
    def __getitem__(self, index: SupportsIndex) -> Epoch: ...

    @overload
    def __getitem__(self, index: slice) -> History: ...

    def __getitem__(self, index: SupportsIndex | slice) -> Epoch | History:
        if isinstance(index, slice):
            return History(super().__getitem__(index))
        return super().__getitem__(index)

    def columns(self) -> dict[str, list[float]]:
        """What was measured in all epochs, by name."""
        names = self[0].values if self else {}
        return {
            name: [epoch.values[name] for epoch in self]
            for name in names
            if all(name in epoch.values for epoch in self)
        }

    def __getattr__(self, name: str) -> list[float]:
        columns = self.columns()
        if name not in columns:
            raise _not_measured(name, columns)
        return columns[name]

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the losses, on a logarithmic scale, and the metrics.

        Args:
            path: the picture, PNG or SVG by its suffix.

        Raises:
            ValueError: there are no epochs yet.
        """
        if not self:
            raise ValueError("this history has no epochs, and nothing to draw")
        plots.learning_curves(path, [epoch.number for epoch in self], self.columns())


def shown(name: str, value: float) -> str:
    """A number with its name, in words; an accuracy in percent.

    >>> shown("test_accuracy", 0.5)
    'test accuracy 50.00%'
    """
    number = f"{value:.2%}" if name.endswith("accuracy") else f"{value:.4f}"
    return f"{name.replace('_', ' ')} {number}"


def _not_measured(name: str, known: Iterable[str]) -> AttributeError:
    return AttributeError(f"{name} was not measured; known are {', '.join(known) or 'no values'}")
