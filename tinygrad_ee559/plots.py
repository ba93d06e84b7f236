"""Pictures of training: the loss curve, the decision boundary, the digits that are still wrong.

Figures are made without pyplot, so neither its backend nor its list of open figures changes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from tinygrad_ee559.data import DISK_CENTER, DISK_RADIUS
from tinygrad_ee559.tensor import Tensor
from tinygrad_ee559.training import Epoch

_BLUE, _ORANGE, _RED, _GRAY = "#2f6db3", "#e07b39", "#c01f2e", "#444444"
_OUT_TO_IN = LinearSegmentedColormap.from_list("out_to_in", ["#9fc1e8", "#ffffff", "#f6c199"])
_DPI = 150


def loss_curve(path: str | os.PathLike[str], history: Sequence[Epoch]) -> None:
    """Draw the losses, on a logarithmic scale, and the test accuracy, epoch by epoch."""
    epochs = [epoch.number for epoch in history]
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    losses, accuracy = figure.subplots(1, 2)
    losses.plot(epochs, [epoch.train_loss for epoch in history], color=_BLUE, label="train")
    losses.plot(epochs, [epoch.test_loss for epoch in history], color=_ORANGE, label="test")
    losses.set(title="Loss", xlabel="epoch", ylabel="mean loss", yscale="log")
    losses.legend(frameon=False)
    accuracy.plot(epochs, [epoch.test_accuracy for epoch in history], color=_ORANGE)
    last = history[-1].test_accuracy
    accuracy.set(
        title=f"Test accuracy: {last:.2%} in the end", xlabel="epoch", ylabel="right answers"
    )
    accuracy.yaxis.set_major_formatter(PercentFormatter(1))
    for axes in (losses, accuracy):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.savefig(path, dpi=_DPI)


def decision_boundary(
    path: str | os.PathLike[str],
    predict: Callable[[Tensor], Tensor],
    points: Tensor,
    labels: Tensor,
) -> None:
    """Draw what a classifier learned about the disk, the true circle, and test points.

    Args:
        path: the picture.
        predict: gives two outputs for each of `[n, 2]` points of the unit square.
        points: test points, `[n, 2]`.
        labels: 1 where a point is inside the disk, `[n]`.
    """
    side = torch.linspace(0, 1, 301)
    grid = Tensor(torch.cartesian_prod(side, side))
    with torch.no_grad():
        score = _score(predict(grid)).reshape(301, 301).T
        inside = labels.numpy() == 1
        wrong = (_score(predict(points)) > 0) != inside
    figure = Figure(figsize=(6, 6.4), layout="constrained")
    axes = figure.subplots()
    scale = side.numpy()
    axes.contourf(scale, scale, score.clip(-1, 1), levels=41, cmap=_OUT_TO_IN, vmin=-1, vmax=1)
    axes.contour(scale, scale, score, levels=[0], colors=_GRAY, linewidths=2)
    x, y = points.numpy().T
    for shown, name, color in ((~inside, "outside", _BLUE), (inside, "inside", _ORANGE)):
        axes.scatter(x[shown], y[shown], s=9, color=color, linewidths=0, label=name)
    axes.plot([], [], color=_GRAY, linewidth=2, label="learned boundary")
    turn = np.linspace(0, 2 * np.pi, 361)
    circle = DISK_CENTER + DISK_RADIUS * np.stack([np.cos(turn), np.sin(turn)])
    axes.plot(*circle, color=_GRAY, linewidth=1.2, linestyle=(0, (4, 3)), label="true circle")
    axes.scatter(
        x[wrong], y[wrong], s=60, facecolors="none", edgecolors=_RED, linewidths=1.3, label="wrong"
    )
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="$x_1$", ylabel="$x_2$")
    right = 1 - wrong.mean()
    axes.set_title(f"Decision boundary: {right:.1%} of {len(points):,} test points are right")
    figure.legend(loc="outside lower center", ncols=5, columnspacing=0.9, frameon=False)
    figure.savefig(path, dpi=_DPI)


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
    figure.savefig(path, dpi=_DPI)


def _score(outputs: Tensor) -> np.ndarray[Any, Any]:
    """How much more the second output says than the first."""
    outside, inside = outputs.numpy().T
    score: np.ndarray[Any, Any] = inside - outside
    return score
