"""Report 1: batch size and learning rate.

Points of the unit square; is a point inside the quarter of a ring around the origin? Three hidden
layers of 25 units, mean squared error, 500 epochs. Two activations, five learning rates and seven
batch sizes are 70 models, each trained ten times on newly drawn data: 69.25 million steps of
gradient descent. All learning rates and runs of one activation and one batch size train together,
as one compiled ensemble, each member with its own data, learning rate and initial values.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

import tinygrad_ee559 as tg
from reports.base.data import POINTS
from reports.base.figure import figure, legend, scatter
from reports.base.run import Job, Run
from reports.base.table import Number, Table, mean_of
from reports.base.trial import Setup, Start, begin, fit_pytorch
from tinygrad_ee559 import plots
from tinygrad_ee559.data import RING, Batches

TITLE = "Batch size and learning rate"

SETUP = Setup(region=RING, epochs=500)
ACTIVATIONS = ("ReLU", "Tanh")
RATES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
BATCH_SIZES = (1, 5, 10, 20, 50, 100, 200)
RUNS = 10
EVERY = 5  # epochs, from one test to the next
SLICE = 25_000  # steps that PyTorch makes of the first run, at most
#: What the report has on the test set at its best learning rates: loss, and accuracy in percent.
THEIRS = {
    kind: {"loss": loss, "accuracy": accuracy}
    for kind, loss, accuracy in (
        (("ReLU", 1), "0.0189", "98.82"),
        (("Tanh", 1), "0.0191", "98.78"),
        (("ReLU", 5), "0.0187 ± 0.0043", "98.88 ± 0.27"),
        (("ReLU", 10), "0.0220", "98.61"),
        (("Tanh", 10), "0.0292", "98.56"),
        (("ReLU", 20), "0.0339", "98.39"),
        (("Tanh", 20), "0.0704", "96.63"),
        (("ReLU", 50), "0.1071", "96.28"),
        (("Tanh", 50), "0.1270", "94.89"),
        (("ReLU", 100), "0.1812", "90.48"),
        (("Tanh", 100), "0.2736", "81.74"),
        (("ReLU", 200), "0.3598", "72.76"),
        (("Tanh", 200), "0.3865", "75.93"),
    )
}
#: A loss that sums over the two outputs, where this one takes the mean, has twice the gradient: at
#: a learning rate of 0.01 it does what this one does at 0.02.
SUMMED = 2e-2
TRIED = (*RATES, SUMMED)

Kind = tuple[str, int]  # an activation and a batch size


def reproduce(run: Run) -> None:
    setup = replace(SETUP, epochs=run.size(SETUP.epochs, 2 * EVERY))
    runs = run.size(RUNS, 2)
    shown = BATCH_SIZES[-run.size(len(BATCH_SIZES), 2) :]
    kinds = [(activation, size) for size in shown for activation in ACTIVATIONS]
    # An epoch of an ensemble takes about as long at every batch size.
    epochs = len(TRIED) * runs * setup.epochs
    swept = run.do(
        Job(name(*kind), epochs, partial(sweep, setup, *kind, runs)) for kind in reversed(kinds)
    )
    tests = {kind: swept[name(*kind)]["tests"] for kind in kinds}
    best = {kind: best_of(tests[kind]) for kind in kinds}
    limit = run.size(SLICE, 50)
    sliced = run.do(
        Job(f"PyTorch, {name(*kind)}", limit, partial(plain_loop, setup, *kind, rate, limit))
        for kind, rate in best.items()
    )
    there = {kind: sliced[f"PyTorch, {name(*kind)}"] for kind in kinds}
    draw(run, setup, tests, best)
    seconds = sum(found["seconds"] for found in swept.values())
    tables = [*best_rates(tests, best), first_runs(tests, best, there)]
    run.finish(tables, [took(setup, runs, seconds, there)])


def name(activation: str, batch_size: int) -> str:
    return f"{activation}, batch {batch_size}"


def seed_of(activation: str, batch_size: int, rate: float, number: int) -> int:
    """Every one of the models has data, initial values and an order of its own."""
    every = itertools.product(ACTIVATIONS, BATCH_SIZES, TRIED)
    return RUNS * list(every).index((activation, batch_size, rate)) + number


def sweep(
    setup: Setup, activation: str, batch_size: int, runs: int, advance: Callable[[float], object]
) -> dict[str, Any]:
    """Train the models of all learning rates and runs together, and test them on the way.

    Returns:
        What the tests found: loss and accuracy on both sets by name, `[tests, rates, runs]`; and
        the seconds that all of it took.
    """
    began = time.perf_counter()
    setup = replace(setup, activations=(activation,) * 3, batch_size=batch_size)
    members = [(rate, number) for rate in TRIED for number in range(runs)]
    starts = [begin(setup, seed_of(activation, batch_size, *member), tg) for member in members]
    together = tg.ensemble([step_of(start, rate) for start, (rate, _) in zip(starts, members)])
    train = stacked([(s.data.inputs, s.targets) for s in starts])
    test = stacked([(s.data.test_inputs, s.test_targets) for s in starts])
    sets = [torch.stack(pair) for pair in zip(train, test)]
    examiners = tg.ensemble([examiner_of(start.model) for start in starts])
    tests = []
    for _ in range(setup.epochs // EVERY):
        order = torch.stack([
            torch.stack([torch.randperm(len(s.targets), generator=s.order) for _ in range(EVERY)])
            for s in starts
        ])  # fmt: skip
        together.loop(*(batches(data, order, batch_size) for data in train))
        tests.append(tested(examiners, sets))
        advance(EVERY * len(members))
    together_tested = {key: torch.stack([test[key] for test in tests]) for key in tests[0]}
    return {
        "tests": {key: t.view(-1, len(TRIED), runs) for key, t in together_tested.items()},
        "seconds": time.perf_counter() - began,
    }


def stacked(pairs: list[tuple[tg.Tensor, tg.Tensor]]) -> tuple[torch.Tensor, ...]:
    """The inputs of all members, and the targets of all."""
    return tuple(torch.stack([tensor.data for tensor in tensors]) for tensors in zip(*pairs))


def step_of(start: Start, rate: float) -> Callable[[Any, Any], Any]:
    """One step of gradient descent on one batch, for one model; nothing here knows of others."""
    loss = tg.nn.MSELoss()
    optimizer = tg.optim.SGD(start.model.parameters(), lr=torch.tensor(rate))

    def step(inputs: Any, targets: Any) -> Any:
        optimizer.zero_grad()
        value = loss(start.model(inputs), targets)
        value.backward()
        optimizer.step()
        return value

    return step


def batches(data: torch.Tensor, order: torch.Tensor, size: int) -> torch.Tensor:
    """Each member's data in its own order: `[members, epochs, rows]` to steps, members, size, 2."""
    members, epochs, rows = order.shape
    picked = data[torch.arange(members).view(-1, 1, 1), order]
    return picked.view(members, epochs * rows // size, size, 2).transpose(0, 1)


def examiner_of(model: Any) -> Callable[[Any, Any], Any]:
    """Finds the squared error per point and the fraction of right answers of one model."""

    def examine(inputs: Any, targets: Any) -> Any:
        with tg.no_grad():
            outputs = model(inputs)
            right = outputs.argmax(-1) == targets.argmax(-1)
            return (outputs - targets).square().sum(-1).mean(), right.double().mean()

    return examine


def tested(examiners: Any, sets: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """What each model has on its training set and on its test set."""
    losses, accuracies = (found.data for found in examiners.loop(*sets))
    return {
        f"{part}_{measure}": values[i]
        for i, part in enumerate(("train", "test"))
        for measure, values in (("loss", losses), ("accuracy", accuracies))
    }


def best_of(found: Mapping[str, torch.Tensor]) -> float:
    """The learning rate with the lowest mean test loss in the end; one that diverged has none."""
    losses = found["test_loss"][-1, : len(RATES)].double().mean(1)
    return RATES[int(losses.nan_to_num(math.inf).argmin())]


def plain_loop(
    setup: Setup,
    activation: str,
    batch_size: int,
    rate: float,
    limit: int,
    advance: Callable[[float], object],
) -> dict[str, Any]:
    """The first of the runs in PyTorch, as far as `limit` steps go."""
    setup = replace(setup, activations=(activation,) * 3, batch_size=batch_size)
    start = begin(setup, seed_of(activation, batch_size, rate, 0), torch)
    order = Batches(start.data.inputs, start.targets, batch_size, start.order)
    epochs = min(setup.epochs, max(1, limit // len(order) // EVERY) * EVERY)
    share = limit / (epochs * len(order))
    seconds = fit_pytorch(
        start.model,
        torch.nn.MSELoss(),
        torch.optim.SGD(start.model.parameters(), lr=rate),
        order,
        epochs,
        lambda steps: advance(share * steps),
    )
    with torch.no_grad():
        outputs = start.model(start.data.test_inputs.data)
        error = (outputs - start.test_targets.data).square().sum(-1).mean().item()
    return {"epochs": epochs, "step": seconds / (epochs * len(order)), "test_loss": error}


def best_rates(tests: Mapping[Kind, Any], best: Mapping[Kind, float]) -> list[Table]:
    """Losses and accuracies at the best learning rates, beside the report's."""
    tables = []
    for what, title, scale, digits in (
        ("loss", "Test loss", 1, 4),
        ("accuracy", "Test accuracy in percent", 100, 2),
    ):
        table = Table(
            f"{title}, at the learning rate with the lowest mean test loss",
            ["", "learning rate", "report", "here", "here, training set", "here, summed at 0.01"],
        )
        for kind, rate in best.items():
            test, train = (tests[kind][f"{part}_{what}"][-1] for part in ("test", "train"))
            column = RATES.index(rate)
            measured = (
                mean_of(values.tolist(), scale, digits)
                for values in (test[column], train[column], test[-1])
            )
            stated = THEIRS.get(kind, {}).get(what, "")
            table.rows.append([name(*kind), f"{rate:g}", stated, *measured])
        tables.append(table)
    return tables


def first_runs(
    tests: Mapping[Kind, Any], best: Mapping[Kind, float], there: Mapping[Kind, Any]
) -> Table:
    """The test loss of one run of each kind, here and in PyTorch after the same epoch."""
    table = Table(
        "The first run in PyTorch, as far as it was made: test loss",
        ["", "after epochs", "here", "PyTorch here"],
    )
    for kind, rate in best.items():
        epochs = there[kind]["epochs"]
        here = tests[kind]["test_loss"][epochs // EVERY - 1, RATES.index(rate), 0].item()
        losses = (Number(loss, digits=5) for loss in (here, there[kind]["test_loss"]))
        table.rows.append([name(*kind), str(epochs), *losses])
    return table


def took(setup: Setup, runs: int, seconds: float, there: Mapping[Kind, Any]) -> Table:
    """The time of all steps, and what PyTorch's plain loop would take for them."""
    steps = {kind: len(TRIED) * runs * setup.epochs * POINTS // kind[1] for kind in there}
    plain = sum(there[kind]["step"] * count for kind, count in steps.items())
    table = Table("What it took", ["", "here", "PyTorch's plain loop, from a slice"])
    table.rows.append([
        f"seconds for {sum(steps.values()):,} steps", Number(seconds, digits=0),
        Number(plain, digits=0),
    ])  # fmt: skip
    table.rows.append(["hours", Number(seconds / 3600, digits=3), Number(plain / 3600)])
    return table


def draw(
    run: Run, setup: Setup, tests: Mapping[Kind, Any], best: Mapping[Kind, float]
) -> None:
    """The data, the losses of every learning rate, and those of every batch size at its best."""
    with figure(run.folder / "data", size=(4.6, 4.9)) as (axes,):
        data = begin(SETUP, 0, tg).data
        scatter(axes, RING, data.inputs, data.labels, "Training set of the first run")
        legend(axes, below=True)
    size = 5 if ("ReLU", 5) in tests else min(size for _, size in tests)
    for activation in ACTIVATIONS:
        rates = {
            f"{rate:g}": (tests[activation, size], i) for i, rate in enumerate(RATES)
        }  # fmt: skip
        curves(run, setup, f"rates-{activation}", name(activation, size), "learning rate", rates)
        sizes = {
            f"{size}, {rate:g}": (tests[kind, size], RATES.index(rate))
            for (kind, size), rate in best.items()
            if kind == activation
        }
        curves(run, setup, f"batches-{activation}", activation, "batch size, rate", sizes)


def curves(
    run: Run, setup: Setup, file: str, title: str, key: str, lines: Mapping[str, tuple[Any, int]]
) -> None:
    """Losses by epoch, of the training set beside those of the test set.

    Args:
        run: whose figure it is.
        setup: of the trainings.
        file: the figure's name, without a suffix.
        title: of both sides.
        key: what the names of the lines are.
        lines: by name, the tests of one kind and the position of the learning rate in them.
    """
    epochs = range(EVERY, setup.epochs + 1, EVERY)
    with figure(run.folder / file, columns=2) as beside:
        beside[1].sharey(beside[0])
        beside[0].set_yscale("log")
        for axes, part in zip(beside, ("train", "test")):
            for label, (found, column) in lines.items():
                plots.curves(axes, epochs, found[f"{part}_loss"][:, column].T, label)
            axes.set(title=f"{title}: {part} loss", xlabel="epoch")
        legend(beside[0], key)
