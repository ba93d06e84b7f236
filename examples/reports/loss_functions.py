"""Report 3: mean squared error or cross-entropy, then handwritten digits.

Points of the square from -1 to 1; is a point in the disk around the origin that covers an eighth of
it? The ones are a minority, so that F1 is counted beside accuracy. ReLU, a learning rate of 0.03,
mini-batches of 100, 2,000 epochs, ten runs with either loss. Then MNIST: three hidden layers of 512
units, 10,000 training images, a learning rate of 0.02, 100 epochs, ten runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reports.base.comparison import LIBRARIES, bits, jobs, ratio_of_medians, trials_of
from reports.base.data import digits
from reports.base.figure import figure, legend, scatter
from reports.base.run import Run
from reports.base.table import Number, Table, mean_of
from reports.base.trial import Setup, trained
from tinygrad_ee559 import plots
from tinygrad_ee559.data import CENTERED_DISK

TITLE = "Mean squared error or cross-entropy, then MNIST"

SETUP = Setup(region=CENTERED_DISK, lr=0.03, epochs=2000)
LOSSES = ("MSELoss", "CrossEntropyLoss")
DIGITS = Setup(
    region=None, sizes=(784, 512, 512, 512, 10), loss="CrossEntropyLoss", lr=0.02, epochs=100
)
SAMPLES = 10_000
RUNS = 10
#: What the report measured with its framework: accuracy in percent, and F1.
THEIRS = {
    "MSELoss": {
        "train_accuracy": 99.69, "train_f1": 0.987, "test_accuracy": 98.20, "test_f1": 0.938,
    },
    "CrossEntropyLoss": {
        "train_accuracy": 99.97, "train_f1": 0.998, "test_accuracy": 98.47, "test_f1": 0.948,
    },
    "MNIST": {"train_accuracy": 100.0, "test_accuracy": 95.08},
}  # fmt: skip
#: Seconds in the report: of its framework and of PyTorch.
SECONDS = {"MSELoss": (14.00, 15.63), "CrossEntropyLoss": (25.64, 15.17), "MNIST": (96.46, 112.4)}


def reproduce(run: Run) -> None:
    runs = run.size(RUNS, 2)
    points = {loss: replace(SETUP, loss=loss, epochs=run.size(SETUP.epochs, 40)) for loss in LOSSES}
    images = {"MNIST": replace(DIGITS, epochs=run.size(DIGITS.epochs, 2))}
    data = digits(run.data, run.size(SAMPLES, 500))
    results = run.do([*jobs(run, points, runs), *jobs(run, images, runs, data)])

    tables = []
    for name, theirs in THEIRS.items():
        table = Table(
            "MNIST, cross-entropy" if name == "MNIST" else f"A disk of an eighth, {name}",
            ["", "report", *LIBRARIES],
        )
        for measure, stated in theirs.items():
            scale, shown, unit = (1, 3, "") if measure.endswith("f1") else (100, 2, " %")
            measured = (
                mean_of((trial[measure] for trial in trials_of(results, name, side)), scale, shown)
                for side in LIBRARIES
            )
            words = measure.replace("_f1", " F1").replace("_", " ") + unit
            table.rows.append([words, Number(stated, digits=shown), *measured])
        tables.append(table)
    draw(run, points, {loss: trials_of(results, loss, "here")[0] for loss in LOSSES})
    run.finish([*tables, bits(results, [*points, *images])], [timed(results)])


def timed(results: Mapping[str, Any]) -> Table:
    """How long a training took here and in PyTorch."""
    table = Table(
        "Seconds of one training",
        ["", "report", "PyTorch in the report", "ratio", *LIBRARIES, "ratio here"],
    )
    for name, (ours, pytorch) in SECONDS.items():
        here, there = ([t["seconds"] for t in trials_of(results, name, side)] for side in LIBRARIES)
        stated = (Number(ours), Number(pytorch), Number(ours / pytorch))
        ratio = Number(ratio_of_medians(here, there))
        table.rows.append([name, *stated, mean_of(here), mean_of(there), ratio])
    return table


def draw(run: Run, setups: Mapping[str, Setup], trials: Mapping[str, Any]) -> None:
    """The data of the first run, and what its two classifiers answer where."""
    starts = {loss: trained(setups[loss], 0, trial) for loss, trial in trials.items()}
    with figure(run.folder / "data", size=(4.6, 4.9)) as (axes,):
        data = starts[LOSSES[0]].data
        scatter(axes, CENTERED_DISK, data.inputs, data.labels, "Training set of the first run")
        legend(axes, below=True)
    with figure(run.folder / "regions", columns=2, size=(4.6, 4.9)) as beside:
        for axes, (loss, start) in zip(beside, starts.items()):
            points, labels = start.data.test_inputs, start.data.test_labels
            right = plots.decision_on(axes, CENTERED_DISK, start.model, points, labels)
            axes.set_title(f"{loss}: {right:.1%} are right")
        legend(beside[0], below=True)
