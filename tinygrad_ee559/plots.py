"""Pictures of training: learning curves, decision boundaries, the digits that are still wrong.

Figures are made without pyplot, so neither its backend nor its list of open figures changes. A
picture is written in the format that its name ends in, such as PNG or SVG; the same picture is the
same file.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from tinygrad_ee559.data import Region
from tinygrad_ee559.files import replace
from tinygrad_ee559.tensor import Tensor

Array = np.ndarray[Any, Any]

_BLUE, _ORANGE, _RED, _GRAY = "#2f6db3", "#e07b39", "#c01f2e", "#444444"
_OUT_TO_IN = LinearSegmentedColormap.from_list("out_to_in", ["#9fc1e8", "#ffffff", "#f6c199"])
_DPI = 150
_SIDE = 301  # points, of the grid on which a classifier is asked
_COLORS = {"train": _BLUE, "test": _ORANGE, "": _GRAY}


def curves(
    axes: Axes,
    epochs: Sequence[int],
    runs: Sequence[Sequence[float]] | Array,
    label: str,
    color: str | None = None,
) -> None:
    """Draw the mean of several runs, and a band of one standard deviation around it.

    Args:
        axes: what is drawn on. On a logarithmic scale, the band ends at the lowest of the runs.
        epochs: their numbers, `[epochs]`.
        runs: what each run came to, `[runs, epochs]`; a single one has no band.
        label: for the legend.
        color: of line and band; the next one of the axes if None.
    """
    values = np.asarray(runs, dtype=float)
    mean = values.mean(0)
    (line,) = axes.plot(epochs, mean, color=color, label=label, marker="." * (len(epochs) == 1))
    if len(values) > 1:
        spread = values.std(0, ddof=1)
        low = mean - spread
        if axes.get_yscale() == "log":
            low = np.maximum(low, values.min(0))
        axes.fill_between(
            epochs, low, mean + spread, color=line.get_color(), alpha=0.2, linewidth=0
        )


def learning_curves(
    path: str | os.PathLike[str], epochs: Sequence[int], columns: Mapping[str, Sequence[float]]
) -> None:
    """Draw what a run came to, epoch by epoch: the losses, on a logarithmic scale, and the metrics.

    Args:
        path: the picture.
        epochs: their numbers, `[epochs]`.
        columns: numbers by name, `[epochs]` each. Those of one thing, such as "train_loss" and
            "test_loss", are drawn together.
    """
    things: dict[str, dict[str, Sequence[float]]] = {}
    for name, column in columns.items():
        where, _, thing = name.partition("_")
        if where not in _COLORS:
            where, thing = "", name
        things.setdefault(thing, {})[where] = column
    figure = Figure(figsize=(4.5 * len(things), 3.8), layout="constrained")
    beside = figure.subplots(1, len(things), squeeze=False)[0]
    for axes, (thing, lines) in zip(beside, things.items()):
        if thing == "loss" and all(min(column) > 0 for column in lines.values()):
            axes.set_yscale("log")
        for where in (where for where in _COLORS if where in lines):
            curves(axes, epochs, [lines[where]], where, _COLORS[where])
        if any(lines):
            axes.legend(frameon=False)
        if thing == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set(title=thing.replace("_", " ").capitalize(), xlabel="epoch")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    save(figure, path)


def decision_boundary(
    path: str | os.PathLike[str],
    region: Region,
    predict: Callable[[Tensor], Tensor],
    points: Tensor,
    labels: Tensor,
) -> None:
    """Draw what a classifier learned about a region, the true circles, and test points.

    Args:
        path: the picture.
        region: what there was to be learned, such as `data.DISK`.
        predict: gives two outputs for each of `[n, 2]` points of the region's square.
        points: test points, `[n, 2]`.
        labels: of the points, `[n]`, 0 or 1.
    """
    figure = Figure(figsize=(6, 6.6), layout="compressed")
    axes = figure.subplots()
    right = decision_on(axes, region, predict, points, labels)
    axes.set_title(f"Decision boundary: {right:.1%} of {len(points):,} test points are right")
    figure.legend(loc="outside lower center", ncols=3, columnspacing=0.9, frameon=False)
    save(figure, path)


def decision_on(
    axes: Axes,
    region: Region,
    predict: Callable[[Tensor], Tensor],
    points: Tensor,
    labels: Tensor,
) -> float:
    """Draw a decision boundary on axes that may stand beside others.

    Args:
        axes: what is drawn on; title and legend are left to the caller.
        region: as `decision_boundary` takes it, like all that follows.
        predict: gives two outputs for each point.
        points: test points, `[n, 2]`.
        labels: of the points, `[n]`.

    Returns:
        The fraction of the points that are right.
    """
    side = torch.linspace(region.low, region.high, _SIDE)
    with torch.no_grad():
        grid = Tensor(torch.cartesian_prod(side, side))
        score = _score(predict(grid)).reshape(_SIDE, _SIDE).T
        ones = labels.numpy() == 1
        wrong = (_score(predict(points)) > 0) != ones
    square = (region.low, region.high)
    axes.imshow(
        score, extent=square * 2, origin="lower", interpolation="bilinear",
        cmap=_OUT_TO_IN, vmin=-1, vmax=1,
    )  # fmt: skip
    if score.min() < 0 < score.max():
        axes.contour(side.numpy(), side.numpy(), score, levels=[0], colors=_GRAY, linewidths=2)
    x, y = points.numpy().T
    for shown, label, color in ((~ones, "label 0", _BLUE), (ones, "label 1", _ORANGE)):
        axes.scatter(x[shown], y[shown], s=9, color=color, linewidths=0, label=label)
    axes.plot([], [], color=_GRAY, linewidth=2, label="learned boundary")
    true_boundary(axes, region)
    axes.scatter(
        x[wrong], y[wrong], s=60, facecolors="none", edgecolors=_RED, linewidths=1.3, label="wrong"
    )
    axes.set(xlim=square, ylim=square, aspect="equal", xlabel="$x_1$", ylabel="$x_2$")
    return float(1 - wrong.mean())


def true_boundary(axes: Axes, region: Region) -> None:
    """Draw the circles of a region."""
    turn = np.linspace(0, 2 * np.pi, 361)
    circle = np.stack([np.cos(turn), np.sin(turn)])
    for i, (center, radius) in enumerate(region.circles):
        around = np.reshape(center, (2, 1)) + radius * circle
        label = None if i else "true boundary"
        axes.plot(*around, color=_GRAY, linewidth=1.2, linestyle=(0, (4, 3)), label=label)


def wrong_digits(
    path: str | os.PathLike[str],
    images: Tensor,
    labels: Tensor,
    predictions: Tensor,
    rows: int = 6,
    columns: int = 10,
) -> None:
    """Draw the first images that were mistaken, each with what it is and what it was taken for.

    Args:
        path: the picture.
        images: `[n, 28, 28]`, from 0 (paper) to 1 (ink).
        labels: the true digits, `[n]`.
        predictions: the answers, `[n]`.
        rows: of the picture.
        columns: of the picture.
    """
    truths, answers = labels.numpy(), predictions.numpy()
    (wrong,) = (truths != answers).nonzero()
    shown = wrong[: rows * columns]
    rows = max(1, math.ceil(len(shown) / columns))
    figure = Figure(figsize=(0.95 * columns, 1.2 * rows + 0.6), layout="constrained")
    figure.suptitle(
        f"{len(wrong):,} of {len(labels):,} digits are wrong; {len(shown)} of them: truth → answer"
    )
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid:
        axes.set_axis_off()
    for axes, index in zip(grid, shown):
        axes.imshow(images.numpy()[index], cmap="gray_r", vmin=0, vmax=1)
        axes.set_title(f"{truths[index]} → {answers[index]}", fontsize=10, color=_GRAY)
    save(figure, path)


def _score(outputs: Tensor) -> Array:
    """How much more the second output says than the first."""
    zero, one = outputs.numpy().T
    score: Array = one - zero
    return score


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a picture, in the format of its suffix; the same picture gives the same file.

    Args:
        figure: what is drawn.
        path: the file, which appears complete or not at all.

    Raises:
        ValueError: Matplotlib does not know the format.
        OSError: the file cannot be written; what was there before is unchanged.
    """
    suffix = Path(path).suffix.lower().removeprefix(".")
    content = io.BytesIO()
    # SVG files get a date and random names by default.
    with rc_context({"svg.hashsalt": "tinygrad_ee559"}):
        metadata = {"Date": None} if suffix == "svg" else None
        figure.savefig(content, format=suffix or "png", dpi=_DPI, metadata=metadata)
    replace(path, content.getvalue())
