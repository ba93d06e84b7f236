"""Figures, as PNG and as SVG."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tinygrad_ee559 import plots
from tinygrad_ee559.data import Region
from tinygrad_ee559.tensor import Tensor

OUTSIDE, INSIDE = "#2f6db3", "#e07b39"


@contextmanager
def figure(
    path: Path, columns: int = 1, size: tuple[float, float] = (4.5, 3.8)
) -> Iterator[list[Axes]]:
    """The axes of a new figure, side by side; it is written to PATH.png and PATH.svg in the end.

    Args:
        path: without a suffix.
        columns: of axes.
        size: of one of them, in inches.
    """
    drawn = Figure(figsize=(size[0] * columns, size[1]), layout="compressed")
    axes = list(np.ravel(drawn.subplots(1, columns)))
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    yield axes
    for suffix in (".png", ".svg"):
        plots.save(drawn, path.with_suffix(suffix))


def legend(axes: Axes, title: str | None = None, below: bool = False) -> None:
    """What is drawn on the axes, named at the right of the figure or below it."""
    handles, labels = axes.get_legend_handles_labels()
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    place = "outside lower center" if below else "outside right center"
    columns = len(labels) if below else 1
    figure.legend(handles, labels, title=title, loc=place, ncols=columns, frameon=False)


def scatter(axes: Axes, region: Region, points: Tensor, labels: Any, title: str) -> None:
    """Points in the colors of their classes, and the true circles."""
    x, y = points.numpy().T
    ones = np.asarray(labels) == 1
    for shown, name, color in ((~ones, "label 0", OUTSIDE), (ones, "label 1", INSIDE)):
        axes.scatter(x[shown], y[shown], s=7, color=color, linewidths=0, label=name)
    plots.true_boundary(axes, region)
    axes.set(xlim=(region.low, region.high), ylim=(region.low, region.high))
    axes.set(aspect="equal", xlabel="$x_1$", ylabel="$x_2$", title=title)
