"""The training loop, and what it measures.

    history = fit(model, loss, optimizer, train, epochs=10, test=test)
    history.test_accuracy

`train_epoch` and `evaluate` are the two halves of `fit`, for loops of one's own.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from tinygrad_ee559.data import Batches
from tinygrad_ee559.history import Epoch, History, shown
from tinygrad_ee559.metrics import accuracy
from tinygrad_ee559.nn import Module
from tinygrad_ee559.optim import Optimizer
from tinygrad_ee559.resuming import Kept, Resumable
from tinygrad_ee559.tensor import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
Metric = Callable[[Tensor, Tensor], float]
Item = TypeVar("Item")

_REFRESH_SECONDS = 0.1


def fit(
    model: Module,
    loss: Loss,
    optimizer: Optimizer,
    train: Batches,
    epochs: int,
    *,
    test: Batches | None = None,
    metrics: Sequence[Metric] = (accuracy,),
    callbacks: Sequence[Callable[[Epoch], object]] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    keep: Kept | None = None,
    console: Console | None = None,
) -> History:
    """Train a model, and test it after every epoch.

    With `checkpoint`, a training that was interrupted, even killed, is continued by running the
    same program again, and ends as if nothing had happened, equal in every bit. The file holds the
    model, the optimizer, the state of torch's global generator and of those of `train` and `test`,
    the history, and what is in `keep`. It is written after epochs, at most every five seconds, and
    at the end.

    Args:
        model: what is trained, in place.
        loss: of the model's outputs and the targets; its mean over a batch is minimized.
        optimizer: holds the model's parameters.
        train: the batches to learn from.
        epochs: how many times, those in `checkpoint` included.
        test: the batches to test on.
        metrics: functions of all outputs and targets of `test`, from `tinygrad_ee559.metrics` or
            your own; the history has them by their names, as in "test_accuracy".
        callbacks: functions called with each `Epoch`, in order, such as `print` or
            `lambda epoch: scheduler.step()`. When one returns True, Python's or NumPy's, this epoch
            is the last; other answers, such as those of `file.write`, mean nothing.
        checkpoint: the file from which the training is continued, if it exists, and to which it is
            written.
        keep: by name, what else changes on the way, to be in `checkpoint` too: learning-rate
            schedulers, further generators, anything with `state_dict` and `load_state_dict`.
        console: where a progress bar is shown; nowhere if None.

    Returns:
        One `Epoch` after the other, those before an interruption included.

    Raises:
        FloatingPointError: the loss became infinite or NaN.
        CheckpointError: the file is damaged or belongs to another training, and nothing was
            changed; or it cannot be written.
        ValueError: a learning-rate scheduler changes the optimizer, and `keep` does not have it;
            or two metrics have one name, or one has none.
        TypeError: something in `keep` cannot become again what it was.
    """
    names = ["loss", *(_name(metric) for metric in metrics)]
    if len({*names}) < len(names):
        raise ValueError(f"metrics need names of their own, and these are {', '.join(names)}")
    saved = None
    history, stopped = History(), False
    if checkpoint is not None:
        batches = {"train": train, "test": test}
        saved = Resumable(checkpoint, model, optimizer, batches, keep or {})
        history, stopped = saved.load(epochs)
        if history:  # as its last epoch left the model
            model.train(test is None)
    with _progress(console) as progress:
        task = progress.add_task(
            "training", total=epochs * len(train), completed=len(history) * len(train), result=""
        )
        while len(history) < epochs and not stopped:
            number = len(history) + 1
            start = time.perf_counter()
            train_loss = train_epoch(model, loss, optimizer, _watched(train, progress, task))
            seconds = time.perf_counter() - start
            if not math.isfinite(train_loss):
                raise FloatingPointError(
                    f"the loss became {train_loss} in epoch {number}; try a smaller learning rate"
                )
            epoch = Epoch(number, seconds, {"train_loss": train_loss})
            if test is not None:
                measured = evaluate(model, loss, test, metrics)
                epoch.values.update({f"test_{name}": x for name, x in zip(names, measured)})
            history.append(epoch)
            answers = [callback(epoch) for callback in callbacks]
            stopped = any(isinstance(answer, (bool, np.bool_)) and answer for answer in answers)
            if saved is not None:
                saved.save(history, stopped, last=stopped or number == epochs)
            last = list(epoch.values.items())[-2:]
            result = ", ".join(shown(name, value) for name, value in last)
            progress.update(task, completed=number * len(train), result=result)
    return history


def train_epoch(
    model: Module, loss: Loss, optimizer: Optimizer, batches: Iterable[tuple[Tensor, Tensor]]
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
    model: Module,
    loss: Loss,
    batches: Iterable[tuple[Tensor, Tensor]],
    metrics: Sequence[Metric] = (accuracy,),
) -> tuple[float, ...]:
    """The mean of the batches' losses, then the metrics of all outputs and targets together."""
    model.eval()
    losses = []
    outputs = []
    targets = []
    with torch.no_grad():
        for inputs, expected in batches:
            output = model(inputs)
            losses.append(loss(output, expected).data)
            outputs.append(output.as_torch())
            targets.append(expected.as_torch())
        together = Tensor(torch.cat(outputs)), Tensor(torch.cat(targets))
        measured = [float(metric(*together)) for metric in metrics]
    return torch.stack(losses).mean().item(), *measured


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


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch computes on one thread: small matrices gain nothing from a second one, and on a
    busy machine each waits for the other.

    >>> with one_thread():
    ...     torch.get_num_threads()
    1
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _name(metric: Metric) -> str:
    name: str | None = getattr(metric, "__name__", None)
    if name is None:
        raise ValueError(f"a metric needs a name, and {metric!r} has none; define it with def")
    return name


def _progress(console: Console | None) -> Progress:
    return Progress(
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[result]}"),
        console=console,
        disable=console is None,
    )


def _watched(items: Iterable[Item], progress: Progress, task: TaskID) -> Iterator[Item]:
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
