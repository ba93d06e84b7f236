"""Report 5: momentum.

The disk that covers half of the unit square; two layers with ReLU and two with Tanh, mean squared
error, gradient descent with a momentum of 0.9, mini-batches of 100, 100 epochs. Xavier's initial
values train, and those of the standard normal distribution do not. The parameters can be reset, and
the training repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

import tinygrad_ee559 as tg
from reports.base.classes import diagram
from reports.base.comparison import LIBRARIES, equal_bits, errors, jobs, trials_of
from reports.base.figure import figure, legend, scatter
from reports.base.model import initialize
from reports.base.run import Job, Run
from reports.base.table import Table
from reports.base.trial import Setup, begin, learn, trained
from tinygrad_ee559.data import DISK
from tinygrad_ee559.metrics import predicted
from tinygrad_ee559.training import seeded

TITLE = "Momentum"

SETUP = Setup(
    activations=("ReLU", "ReLU", "Tanh", "Tanh"), start="xavier", lr=0.05, momentum=0.9, epochs=100
)
#: What the report found, in words: errors on the test set.
THEIRS = {"xavier": "2 to 5", "normal": "does not train"}
RUNS = 10
AGAIN = "reset and trained again"


def reproduce(run: Run) -> None:
    epochs = run.size(SETUP.epochs, 4)
    setups = {start: replace(SETUP, start=start, epochs=epochs) for start in THEIRS}
    again = Job(AGAIN, 20 * epochs, partial(repeated, setups["xavier"], 0))
    results = run.do([*jobs(run, setups, run.size(RUNS, 2)), again])

    table = Table("Errors in percent", ["", "report", *LIBRARIES])
    for start, stated in THEIRS.items():
        for part, known in (("train", ""), ("test", stated)):
            measured = (errors(trials_of(results, start, side), part) for side in LIBRARIES)
            table.rows.append([f"{start} initial values: {part}", known, *measured])

    first, second = results[AGAIN]["first"], results[AGAIN]["second"]
    repeat = Table("Reset and trained again", ["", "first", "again"])
    for part in ("train", "test"):
        repeat.rows.append([f"{part} error %", errors([first], part), errors([second], part)])
    repeat.rows.append(["equal to the last bit", "", "yes" if equal_bits(first, second) else "NO"])

    draw(run, setups["xavier"], trials_of(results, "xavier", "here")[0])
    run.finish([table, repeat])


def repeated(setup: Setup, seed: int, advance: Callable[[float], object]) -> dict[str, Any]:
    """Train a model, reset its parameters, and train it once more in the same order."""
    start = begin(setup, seed, tg)
    order = start.order.get_state()
    first = learn(setup, start, tg, advance)
    with seeded(seed):
        start.model.reset_parameters()
        initialize(tg.nn, start.model, setup.start)
    start.order.set_state(order)
    return {"first": first, "second": learn(setup, start, tg, advance)}


def draw(run: Run, setup: Setup, trial: dict[str, Any]) -> None:
    """True and estimated classes side by side, and the classes that the framework is made of."""
    start = trained(setup, 0, trial)
    with torch.no_grad():
        estimated = predicted(start.model(start.data.test_inputs))
    with figure(run.folder / "classes", columns=2, size=(4.4, 4.7)) as (left, right):
        points, labels = start.data.test_inputs, start.data.test_labels
        scatter(left, DISK, points, labels.data, "True classes of the test points")
        scatter(right, DISK, points, estimated, "Estimated classes")
        legend(left, below=True)
    nn, optim = tg.nn, tg.optim
    framework = diagram([
        tg.Tensor, nn.Parameter, nn.Module, nn.Sequential, nn.Linear, nn.ReLU, nn.Tanh, nn.MSELoss,
        optim.Optimizer, optim.SGD,
    ])  # fmt: skip
    for suffix in (".png", ".svg"):
        framework.save(run.folder / f"framework{suffix}")
