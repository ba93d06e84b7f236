"""A trial: one network, trained on one set of data, here or in PyTorch.

Both sides begin with the same numbers, see the same batches and are measured alike; what differs is
the library that differentiates.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import torch

import tinygrad_ee559
from reports.base.data import Data, points
from reports.base.model import initialize, perceptron
from tinygrad_ee559.data import DISK, Batches, Region, one_hot
from tinygrad_ee559.metrics import accuracy, f1_score
from tinygrad_ee559.tensor import Tensor
from tinygrad_ee559.training import fit, one_thread, seeded


@dataclass(frozen=True)
class Setup:
    """What is trained on what, and how."""

    region: Region | None = DISK
    normalized: bool = False
    sizes: tuple[int, ...] = (2, 25, 25, 25, 2)
    activations: tuple[str, ...] = ("ReLU", "ReLU", "ReLU")
    bias: bool = True
    start: str = "default"
    loss: str = "MSELoss"
    lr: float = 0.1
    momentum: float = 0.0
    batch_size: int = 100
    epochs: int = 250


class Start(NamedTuple):
    """A trial before its first step."""

    data: Data
    targets: Tensor
    test_targets: Tensor
    model: Any
    order: torch.Generator  # shuffles the batches


def begin(setup: Setup, seed: int, library: ModuleType, data: Data | None = None) -> Start:
    """The data, the model and the order of the batches that belong to a seed.

    Args:
        setup: of the trial.
        seed: of all random numbers.
        library: whose modules the model is made of.
        data: what is given to all trials, if the setup has no region to draw points from.
    """
    order = torch.Generator().manual_seed(seed)
    if setup.region is not None:
        data = points(setup.region, order, setup.normalized)
    assert data is not None
    targets, test_targets = data.labels, data.test_labels
    if setup.loss == "MSELoss":
        targets, test_targets = (one_hot(y, setup.sizes[-1]) for y in (targets, test_targets))
    with seeded(seed):
        model = perceptron(library.nn, setup.sizes, setup.activations, setup.bias)
        initialize(library.nn, model, setup.start)
    return Start(data, targets, test_targets, model, order)


@one_thread()
def learn(
    setup: Setup,
    start: Start,
    library: ModuleType,
    advance: Callable[[float], object],
    **options: Any,
) -> dict[str, Any]:
    """Train a model and measure it.

    Args:
        setup: of the trial.
        start: what `begin` gave.
        library: `tinygrad_ee559` or `torch`.
        advance: called after each epoch with the number of steps that were made.
        options: what `fit` is given beside, for a trial here.

    Returns:
        Accuracy and F1 on both sets by name, the seconds that training took, losses and accuracy by
        epoch (of a trial here), whether it diverged, and the parameters in the end.
    """
    model = start.model
    loss = getattr(library.nn, setup.loss)()
    optimizer = library.optim.SGD(model.parameters(), lr=setup.lr, momentum=setup.momentum)
    batches = Batches(start.data.inputs, start.targets, setup.batch_size, start.order)
    test = Batches(start.data.test_inputs, start.test_targets, len(start.test_targets))
    curves: dict[str, list[float]] = {}
    seconds = math.nan
    try:
        if library is tinygrad_ee559:
            history = fit(
                model, loss, optimizer, batches, setup.epochs, test=test,
                callbacks=[lambda _: advance(len(batches))], **options,
            )  # fmt: skip
            seconds = sum(epoch.seconds for epoch in history)
            curves = history.columns()
        else:
            seconds = fit_pytorch(model, loss, optimizer, batches, setup.epochs, advance)
    except FloatingPointError:
        pass  # it diverged, which is a result too
    return {
        **measure(model, start.data),
        "seconds": seconds,
        "diverged": math.isnan(seconds),
        "curves": curves,
        "parameters": [parameter.data.clone() for parameter in model.parameters()],
    }


def trained(setup: Setup, seed: int, trial: Mapping[str, Any]) -> Start:
    """The data of a trial, and its model as it was in the end."""
    start = begin(setup, seed, tinygrad_ee559)
    for parameter, value in zip(start.model.parameters(), trial["parameters"], strict=True):
        parameter.data.copy_(value)
    return start


def measure(model: Any, data: Data) -> dict[str, float]:
    """How many answers are right on both sets, and how well the classes are found."""
    results = {}
    with torch.no_grad():
        for name, inputs, labels in (
            ("train", data.inputs, data.labels),
            ("test", data.test_inputs, data.test_labels),
        ):
            outputs = model(inputs.data)
            average = "binary" if outputs.shape[1] == 2 else "macro"
            results[f"{name}_accuracy"] = accuracy(outputs, labels)
            results[f"{name}_f1"] = f1_score(outputs, labels, average=average)
    return results


@one_thread()
def fit_pytorch(
    model: Any,
    loss: Any,
    optimizer: Any,
    batches: Batches,
    epochs: int,
    advance: Callable[[float], object],
) -> float:
    """The loop of `fit`, in PyTorch; gives the seconds that training took.

    Raises:
        FloatingPointError: the loss became infinite or NaN.
    """
    seconds = 0.0
    for _ in range(epochs):
        start = time.perf_counter()
        losses = []
        for inputs, targets in batches:
            optimizer.zero_grad()
            value = loss(model(inputs.data), targets.data)
            value.backward()
            optimizer.step()
            losses.append(value.detach())
        mean = torch.stack(losses).mean().item()
        seconds += time.perf_counter() - start
        if not math.isfinite(mean):
            raise FloatingPointError
        advance(len(batches))
    return seconds
