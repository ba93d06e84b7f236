"""The training loop, and what it measures.

    history = fit(model, loss, optimizer, train, epochs=10, test=test)

`train_epoch` and `evaluate` are the two halves of `fit`, for loops of one's own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from tinygrad_ee559.data import Batches
from tinygrad_ee559.nn import Module
from tinygrad_ee559.optim import SGD
from tinygrad_ee559.tensor import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
Item = TypeVar("Item")

_REFRESH_SECONDS = 0.1


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training data came to.

    Losses are means over batches. The training loss is gathered while the parameters change; the
    test loss and the test accuracy, a fraction, belong to the parameters after the epoch.
    """

    number: int
    train_loss: float
    test_loss: float
    test_accuracy: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"epoch {self.number:3}: train loss {self.train_loss:.4f}, "
            f"test loss {self.test_loss:.4f}, test accuracy {self.test_accuracy:.2%}, "
            f"{self.seconds:.2f} s"
        )


def fit(
    model: Module,
    loss: Loss,
    optimizer: SGD,
    train: Batches,
    epochs: int,
    *,
    test: Batches,
    after_epoch: Sequence[Callable[[Epoch], object]] = (),
    console: Console | None = None,
) -> list[Epoch]:
    """Train a model, and test it after every epoch.

    Args:
        model: what is trained, in place.
        loss: of the model's outputs and the targets; its mean over a batch is minimized.
        optimizer: holds the model's parameters.
        train: the batches to learn from.
        epochs: how many times.
        test: the batches to test on.
        after_epoch: functions called with each `Epoch`, in order, such as `linear_decay(...)`.
        console: where a progress bar is shown; nowhere if None.

    Returns:
        One `Epoch` after the other.

    Raises:
        FloatingPointError: the loss became infinite or NaN.
    """
    history: list[Epoch] = []
    with _progress(console) as progress:
        task = progress.add_task("training", total=epochs * len(train), result="")
        for number in range(1, epochs + 1):
            start = time.perf_counter()
            train_loss = train_epoch(model, loss, optimizer, _shown(train, progress, task))
            seconds = time.perf_counter() - start
            if not math.isfinite(train_loss):
                raise FloatingPointError(
                    f"the loss became {train_loss} in epoch {number}; try a smaller learning rate"
                )
            epoch = Epoch(number, train_loss, *evaluate(model, loss, test), seconds)
            history.append(epoch)
            for function in after_epoch:
                function(epoch)
            result = f"loss {epoch.train_loss:.4f}, test accuracy {epoch.test_accuracy:.2%}"
            progress.update(task, completed=number * len(train), result=result)
    return history


def train_epoch(
    model: Module, loss: Loss, optimizer: SGD, batches: Iterable[tuple[Tensor, Tensor]]
) -> float:
    """Take one optimizer step per batch; returns the mean of the batches' losses."""
    model.train()
    losses = []
    for inputs, targets in batches:
        optimizer.zero_grad()
        value = loss(model(inputs), targets)
        value.backward()
        optimizer.step()
        losses.append(value.data)
    return torch.stack(losses).mean().item()


def evaluate(
    model: Module, loss: Loss, batches: Iterable[tuple[Tensor, Tensor]]
) -> tuple[float, float]:
    """The mean of the batches' losses, and the fraction of right answers."""
    model.eval()
    losses = []
    right = []
    with torch.no_grad():
        for inputs, targets in batches:
            outputs = model(inputs)
            losses.append(loss(outputs, targets).data)
            right.append(correct(outputs, targets))
    return torch.stack(losses).mean().item(), torch.cat(right).double().mean().item()


def correct(outputs: Tensor, targets: Tensor) -> torch.Tensor:
    """Whether the largest output of each row is that of the target.

    Args:
        outputs: `[rows, classes]`.
        targets: class indices, `[rows]`, or rows that are largest at the class, `[rows, classes]`.

    Returns:
        Booleans, `[rows]`.

    >>> correct(Tensor([[0.9, 0.1], [0.6, 0.4]]), Tensor([0, 1]))
    tensor([ True, False])
    """
    labels = targets.as_torch()
    if labels.ndim == 2:
        labels = labels.argmax(1)
    return outputs.as_torch().argmax(1) == labels


def linear_decay(optimizer: SGD, epochs: int) -> Callable[[Epoch], None]:
    """For `after_epoch` of `fit`: lowers the learning rates epoch by epoch, along a line to 0."""
    initial = [group["lr"] for group in optimizer.param_groups]

    def decay(epoch: Epoch) -> None:
        for group, lr in zip(optimizer.param_groups, initial):
            group["lr"] = lr * (1 - epoch.number / epochs)

    return decay


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's random numbers begin at `seed`; afterwards the caller's go on undisturbed.

    >>> from tinygrad_ee559 import nn
    >>> with seeded(0):
    ...     nn.Linear(1, 1).bias
    Parameter([0.5364], requires_grad=True)
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _progress(console: Console | None) -> Progress:
    return Progress(
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[result]}"),
        console=console,
        disable=console is None,
    )


def _shown(items: Iterable[Item], progress: Progress, task: TaskID) -> Iterator[Item]:
    """The items, shown as progress; not at each one, as rich takes longer than a small step."""
    unseen = 0
    due = time.perf_counter() + _REFRESH_SECONDS
    for item in items:
        yield item
        unseen += 1
        if time.perf_counter() > due:
            progress.advance(task, unseen)
            unseen = 0
            due = time.perf_counter() + _REFRESH_SECONDS
