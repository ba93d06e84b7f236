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
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

import tinygrad_ee559 as tg
from reports.base.figure import figure, legend, scatter
from reports.base.run import Job, Run
from reports.base.table import Number, Table, over
from reports.base.trial import Setup, Start, begin
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
#: Loss and accuracy in percent on the test set, at the best learning rate of the report.
THEIRS = {
    ("ReLU", 1): ("0.0189", "98.82"), ("Tanh", 1): ("0.0191", "98.78"),
    ("ReLU", 5): ("0.0187 ± 0.0043", "98.88 ± 0.27"),
    ("ReLU", 10): ("0.0220", "98.61"), ("Tanh", 10): ("0.0292", "98.56"),
    ("ReLU", 20): ("0.0339", "98.39"), ("Tanh", 20): ("0.0704", "96.63"),
    ("ReLU", 50): ("0.1071", "96.28"), ("Tanh", 50): ("0.1270", "94.89"),
    ("ReLU", 100): ("0.1812", "90.48"), ("Tanh", 100): ("0.2736", "81.74"),
    ("ReLU", 200): ("0.3598", "72.76"), ("Tanh", 200): ("0.3865", "75.93"),
}  # fmt: skip
#: A loss that sums over the two outputs, where this one takes the mean, has twice the gradient: at
#: a learning rate of 0.01 it does what this one does at 0.02.
SUMMED = 2e-2
TRIED = (*RATES, SUMMED)


def run(run: Run) -> None:
    setup = replace(SETUP, epochs=run.size(SETUP.epochs, 2 * EVERY))
    runs = run.size(RUNS, 2)
    batch_sizes = BATCH_SIZES[-run.size(len(BATCH_SIZES), 2) :]
    configurations = list(itertools.product(batch_sizes, ACTIVATIONS))
    swept = run.do(
        Job(
            f"{activation}, batch {batch_size}",
            len(TRIED) * runs * setup.epochs * 1000 // batch_size,
            lambda advance, kind=(activation, batch_size): sweep(setup, *kind, runs, advance),
        )
        for batch_size, activation in reversed(configurations)
    )
    best = {kind: best_of(swept[name(kind)]["tests"]) for kind in configurations}
    limit = run.size(SLICE, 50)
    sliced = run.do(
        Job(
            f"PyTorch, {name(kind)}",
            limit,
            lambda advance, kind=kind, rate=rate: plain_loop(setup, *kind, rate, limit, advance),
        )
        for kind, rate in best.items()
    )
    draw(run, setup, {kind: swept[name(kind)]["tests"] for kind in configurations}, best)
    run.finish(*tabulated(setup, swept, best, sliced, runs))


def name(kind: tuple[int, str]) -> str:
    return f"{kind[1]}, batch {kind[0]}"


def seed_of(activation: str, batch_size: int, rate: float, run: int) -> int:
    """Every one of the models has data, initial values and an order of its own."""
    every = itertools.product(ACTIVATIONS, BATCH_SIZES, TRIED)
    return RUNS * list(every).index((activation, batch_size, rate)) + run


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
    members = [(rate, run) for rate in TRIED for run in range(runs)]
    starts = [begin(setup, seed_of(activation, batch_size, *m), tg) for m in members]
    together = tg.ensemble([step_of(start, rate) for start, (rate, _) in zip(starts, members)])
    inputs, targets, test_inputs, test_targets = (
        torch.stack([tensor.data for tensor in tensors])
        for tensors in zip(
            *((s.data.inputs, s.targets, s.data.test_inputs, s.test_targets) for s in starts)
        )
    )
    tests = []
    for _ in range(setup.epochs // EVERY):
        order = torch.stack([
            torch.stack([torch.randperm(len(s.targets), generator=s.order) for _ in range(EVERY)])
            for s in starts
        ])  # fmt: skip
        losses = together.loop(*(batches(data, order, batch_size) for data in (inputs, targets)))
        tests.append(
            {
                f"{part}_{what}": values
                for part, data in (
                    ("train", (inputs, targets)),
                    ("test", (test_inputs, test_targets)),
                )
                for what, values in tested([s.model for s in starts], *data).items()
            }
        )
        advance(losses.numel())
    return {
        "tests": {
            key: torch.stack([test[key] for test in tests]).view(-1, len(TRIED), runs)
            for key in tests[0]
        },
        "seconds": time.perf_counter() - began,
    }


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


def tested(
    models: list[Any], inputs: torch.Tensor, targets: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The squared error per point and the fraction of right answers of each model, on its data."""
    parameters, _ = tg.func.stack_module_state(models)
    with torch.no_grad():
        outputs = tg.func.vmap(
            lambda values, x: tg.func.functional_call(models[0], values, x)
        )(parameters, tg.Tensor(inputs)).data  # fmt: skip
    right = outputs.argmax(-1) == targets.argmax(-1)
    return {
        "loss": (outputs - targets).square().sum(-1).mean(1),
        "accuracy": right.double().mean(1),
    }


def best_of(found: dict[str, torch.Tensor]) -> float:
    """The learning rate with the lowest mean test loss in the end; one that diverged has none."""
    losses = found["test_loss"][-1, : len(RATES)].double().mean(1)
    return RATES[int(losses.nan_to_num(math.inf).argmin())]


def plain_loop(
    setup: Setup,
    batch_size: int,
    activation: str,
    rate: float,
    limit: int,
    advance: Callable[[float], object],
) -> dict[str, Any]:
    """The first of the runs in PyTorch, as far as `limit` steps go."""
    setup = replace(setup, activations=(activation,) * 3, batch_size=batch_size)
    start = begin(setup, seed_of(activation, batch_size, rate, 0), torch)
    loss = torch.nn.MSELoss()
    optimizer = torch.optim.SGD(start.model.parameters(), lr=rate)
    order = Batches(start.data.inputs, start.targets, batch_size, start.order)
    epochs = min(setup.epochs, max(1, limit // len(order) // EVERY) * EVERY)
    began = time.perf_counter()
    for _ in range(epochs):
        for inputs, targets in order:
            optimizer.zero_grad()
            loss(start.model(inputs.data), targets.data).backward()
            optimizer.step()
        advance(limit / epochs)
    seconds = (time.perf_counter() - began) / (epochs * len(order))
    with torch.no_grad():
        outputs = start.model(start.data.test_inputs.data)
        error = (outputs - start.test_targets.data).square().sum(-1).mean().item()
    return {"epochs": epochs, "seconds per step": seconds, "test_loss": error}


def tabulated(
    setup: Setup,
    swept: dict[str, Any],
    best: dict[tuple[int, str], float],
    sliced: dict[str, Any],
    runs: int,
) -> tuple[list[Table], list[Table]]:
    """The best learning rates, the agreement with PyTorch; and what it took."""
    main = {
        what: Table(
            f"{title}, at the learning rate with the lowest mean test loss",
            ["", "learning rate", "report", "here", "here, training set", "here, summed at 0.01"],
        )
        for what, title in (("loss", "Test loss"), ("accuracy", "Test accuracy in percent"))
    }
    same = Table(
        "The first run in PyTorch, as far as it was made: test loss",
        ["", "after epochs", "here", "PyTorch here"],
    )
    plain = 0.0
    for kind, rate in best.items():
        found = {key: value[-1] for key, value in swept[name(kind)]["tests"].items()}
        column = RATES.index(rate)
        for (what, table), stated in zip(main.items(), THEIRS.get(kind[::-1], ("", ""))):
            shown = {"scale": 1, "digits": 4} if what == "loss" else {"scale": 100}
            table.rows.append([
                name(kind), f"{rate:g}", stated,
                over(found[f"test_{what}"][column].tolist(), **shown),
                over(found[f"train_{what}"][column].tolist(), **shown),
                over(found[f"test_{what}"][-1].tolist(), **shown),
            ])  # fmt: skip
        there = sliced[f"PyTorch, {name(kind)}"]
        here = swept[name(kind)]["tests"]["test_loss"][there["epochs"] // EVERY - 1, column, 0]
        same.rows.append([
            name(kind), str(there["epochs"]), Number(here.item(), digits=5),
            Number(there["test_loss"], digits=5),
        ])  # fmt: skip
        plain += there["seconds per step"] * len(TRIED) * runs * setup.epochs * 1000 / kind[0]
    seconds = sum(found["seconds"] for found in swept.values())
    count = sum(len(TRIED) * runs * setup.epochs * 1000 // size for size, _ in best)
    took = Table("What it took", ["", "here", "PyTorch's plain loop, from a slice"])
    took.rows.append([
        f"seconds for {count:,} steps", Number(seconds, digits=0), Number(plain, digits=0)
    ])  # fmt: skip
    took.rows.append(["hours", Number(seconds / 3600, digits=3), Number(plain / 3600)])
    return [*main.values(), same], [took]


def draw(
    run: Run,
    setup: Setup,
    swept: dict[tuple[int, str], Any],
    best: dict[tuple[int, str], float],
) -> None:
    """The data, the losses of every learning rate, and those of every batch size at its best."""
    with figure(run.folder / "data", size=(4.6, 5.4)) as (axes,):
        data = begin(SETUP, 0, tg).data
        scatter(axes, RING, data.inputs, data.labels, "Training set of the first run")
        legend(axes, below=True)
    epochs = range(EVERY, setup.epochs + 1, EVERY)
    shown = 5 if (5, "ReLU") in swept else min(swept)[0]
    for activation in ACTIVATIONS:
        with figure(run.folder / f"rates-{activation}", columns=2) as beside:
            for axes, part in zip(beside, ("train", "test")):
                for i, rate in enumerate(RATES):
                    losses = swept[shown, activation][f"{part}_loss"][:, i].T
                    plots.curves(axes, epochs, losses, f"{rate:g}")
                axes.set(title=f"{activation}, batch {shown}: {part} loss", xlabel="epoch")
                axes.set(yscale="log")
            beside[1].sharey(beside[0])
            legend(beside[0], "learning rate")
        with figure(run.folder / f"batches-{activation}", columns=2) as beside:
            for axes, part in zip(beside, ("train", "test")):
                for (size, kind), found in swept.items():
                    if kind == activation:
                        losses = found[f"{part}_loss"][:, RATES.index(best[size, kind])].T
                        plots.curves(axes, epochs, losses, f"{size}, {best[size, kind]:g}")
                axes.set(title=f"{activation}: {part} loss", xlabel="epoch", yscale="log")
            beside[1].sharey(beside[0])
            legend(beside[0], "batch size, rate")
