"""Report 2: the activation and the initial values of a classifier.

Points of the unit square; is a point in the disk that covers half of it? Three hidden layers of 25
units, mean squared error, mini-batches of 100, shuffled in every epoch, a learning rate of 0.15,
250 epochs, ten runs. The report compares Tanh and ReLU, each with PyTorch's default initial values
and with those of Xavier, and then the same network with the same seeds in both libraries: here not
only the errors are compared, but every bit of every parameter.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from reports.base.comparison import LIBRARIES, bits, errors, jobs, trials_of
from reports.base.run import Run
from reports.base.table import Number, Table
from reports.base.trial import Setup

TITLE = "Activation and initialization"

SETUP = Setup(lr=0.15)
RUNS = 10
PARTS = ("train", "test")
#: The report's errors, in percent, on the training set and on the test set.
THEIRS = {
    ("Tanh", "default"): (Number(3.50, 0.41), Number(4.09, 0.77)),
    ("Tanh", "xavier"): (Number(3.41, 0.43), Number(2.47, 0.42)),
    ("ReLU", "default"): (Number(2.98, 1.01), Number(2.98, 0.87)),
    ("ReLU", "xavier"): (Number(3.28, 1.18), Number(5.03, 1.41)),
}
THEIRS_SAME_SEEDS = Number(3.32, 0.46), Number(3.49, 0.62)
#: What the report leaves open: an activation on the output, and normalized inputs. The first choice
#: gives what the report found.
CHOICES: dict[str, dict[str, Any]] = {
    "Tanh on the output": {"output": ("Tanh",), "normalized": False},
    "linear output": {"output": (), "normalized": False},
    "linear output, inputs normalized": {"output": (), "normalized": True},
}
CHOSEN = next(iter(CHOICES))


def name(activation: str, start: str, choice: str = CHOSEN) -> str:
    return f"{activation}, {start}, {choice}"


def reproduce(run: Run) -> None:
    epochs, runs = run.size(SETUP.epochs, 4), run.size(RUNS, 2)
    setups = {
        name(activation, start, choice): replace(
            SETUP,
            activations=(activation,) * 3 + made["output"],
            start=start,
            normalized=made["normalized"],
            epochs=epochs,
        )
        for choice, made in CHOICES.items()
        for activation, start in THEIRS
    }
    results = run.do(jobs(run, setups, runs))

    tables = []
    for choice in CHOICES:
        table = Table(f"Errors in percent, {choice}", ["", "report", *LIBRARIES])
        for kind, theirs in THEIRS.items():
            for part, stated in zip(PARTS, theirs):
                setup = name(*kind, choice)
                measured = (errors(trials_of(results, setup, s), part) for s in LIBRARIES)
                table.rows.append([f"{', '.join(kind)}: {part}", stated, *measured])
        tables.append(table)

    same = Table(
        "The same seeds in both libraries: errors in percent of Tanh with default initial values",
        ["", "report, both sides", *LIBRARIES],
    )
    for part, stated in zip(PARTS, THEIRS_SAME_SEEDS):
        measured = (errors(trials_of(results, name("Tanh", "default"), s), part) for s in LIBRARIES)
        same.rows.append([part, stated, *measured])

    run.finish([*tables, same, bits(results, setups)])
