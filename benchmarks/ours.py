"""This library's side of the comparisons with `benchmarks.peers`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import tinygrad_ee559 as tg
from benchmarks.steps import network, training_step
from benchmarks.work import RATE, Side, Work


def model_of(work: Work, member: int = 0) -> tg.nn.Module:
    """The model with PyTorch's initial parameters."""
    model = network(tg.nn, work.sizes)
    for mine, theirs in zip(model.parameters(), work.model(member).parameters()):
        mine.data.copy_(theirs.detach())
    return model


def arrays(model: tg.nn.Module) -> list[np.ndarray]:
    return [p.detach().data.numpy().copy() for p in model.parameters()]


def data(work: Work) -> tuple[tg.Tensor, tg.Tensor]:
    x, y = work.data()
    return tg.Tensor(x), tg.Tensor(y)


def called(work: Work, change: Callable[[Callable], Callable]) -> Side:
    """A step, changed or not, called from a Python loop."""
    model = model_of(work)
    step = change(training_step(tg, model, work.loss, RATE))
    batches = [(tg.Tensor(x), tg.Tensor(y)) for x, y in work.batches()]

    def lap() -> None:
        for x, y in batches:
            step(x, y)

    return Side(lap, work.steps, lambda: arrays(model))


def eager(work: Work) -> Side:
    return called(work, lambda step: step)


def compiled(work: Work) -> Side:
    return called(work, tg.compile)


def loop(work: Work) -> Side:
    """All steps as one program."""
    model = model_of(work)
    fast = tg.compile(training_step(tg, model, work.loss, RATE))
    xs, ys = data(work)
    return Side(lambda: fast.loop(xs, ys), work.steps, lambda: arrays(model))


def ensemble(work: Work) -> Side:
    """All steps of all models as one program."""
    models = [model_of(work, m) for m in range(work.members)]
    rates = work.rates().unbind()  # members differ in tensors
    together = tg.ensemble(
        [training_step(tg, m, work.loss, rate) for m, rate in zip(models, rates)]
    )
    xs, ys = data(work)

    def parameters() -> list[np.ndarray]:
        return [np.stack(same) for same in zip(*map(arrays, models))]

    return Side(lambda: together.loop(xs, ys), work.steps * work.members, parameters)
