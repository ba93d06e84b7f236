"""Report 4: LeakyReLU, Sigmoid and the cost of readability.

The disk that covers half of the unit square, one-hot targets, inputs of mean 0 and standard
deviation 1, ReLU on the hidden layers and Tanh on the output, 250 epochs, a learning rate of 0.05,
mini-batches of 100, ten runs. The report measures how right its framework is and how long it takes,
beside PyTorch, and was a little slower. Networks with LeakyReLU, with Sigmoid and with layers that
have no bias join the table here.
"""

from __future__ import annotations

from dataclasses import replace

from matplotlib.ticker import PercentFormatter

from reports.base.comparison import LIBRARIES, bits, jobs, ratio_of_medians, trials_of
from reports.base.figure import figure, legend
from reports.base.run import Run
from reports.base.table import Number, Table, mean_of
from reports.base.trial import Setup
from tinygrad_ee559 import plots

TITLE = "LeakyReLU, Sigmoid and the cost of readability"

RELU = Setup(normalized=True, activations=("ReLU", "ReLU", "ReLU", "Tanh"), lr=0.05)
SETUPS = {
    "ReLU": RELU,
    "LeakyReLU": replace(RELU, activations=("LeakyReLU",) * 3 + ("Tanh",)),
    "Sigmoid": replace(RELU, activations=("Sigmoid",) * 3 + ("Tanh",)),
    "ReLU, no bias": replace(RELU, bias=False),
    "ReLU, inputs as drawn": replace(RELU, normalized=False),
    "ReLU, no bias, inputs as drawn": replace(RELU, bias=False, normalized=False),
}
RUNS = 10
#: Accuracies in percent and milliseconds: the report's framework, and PyTorch in the report.
THEIRS = {
    "train": (Number(97.00, 1.84), Number(97.60, 1.98)),
    "test": (Number(96.10, 2.10), Number(96.20, 2.23)),
}
MILLISECONDS = Number(236, 19, 0), Number(227, 22, 0)


def reproduce(run: Run) -> None:
    epochs = run.size(RELU.epochs, 5)
    setups = {name: replace(setup, epochs=epochs) for name, setup in SETUPS.items()}
    results = run.do(jobs(run, setups, run.size(RUNS, 2)))

    sides = ("report", "PyTorch in the report", *LIBRARIES)
    accuracy = Table("Right answers in percent", ["", *sides])
    timings = Table("Milliseconds of one training", ["", *sides, "here / PyTorch here"])
    for name in setups:
        reported = name == "ReLU"
        for part, stated in THEIRS.items():
            measured = (
                mean_of((t[f"{part}_accuracy"] for t in trials_of(results, name, side)), 100)
                for side in LIBRARIES
            )
            theirs = stated if reported else ("", "")
            accuracy.rows.append([f"{name}: {part}", *theirs, *measured])
        here, there = ([t["seconds"] for t in trials_of(results, name, s)] for s in LIBRARIES)
        timings.rows.append([
            name, *(MILLISECONDS if reported else ("", "")),
            mean_of(here, 1000, 0), mean_of(there, 1000, 0), Number(ratio_of_medians(here, there)),
        ])  # fmt: skip

    with figure(run.folder / "curves", columns=2) as (losses, accuracies):
        losses.set_yscale("log")
        for name in setups:
            curves = [trial["curves"] for trial in trials_of(results, name, "here")]
            numbers = range(1, epochs + 1)
            plots.curves(losses, numbers, [c["train_loss"] for c in curves], name)
            plots.curves(accuracies, numbers, [c["test_accuracy"] for c in curves], name)
        losses.set(title="Training loss", xlabel="epoch")
        accuracies.set(title="Right answers on the test set", xlabel="epoch")
        accuracies.yaxis.set_major_formatter(PercentFormatter(1))
        legend(losses)
    run.finish([accuracy, bits(results, setups)], [timings])
