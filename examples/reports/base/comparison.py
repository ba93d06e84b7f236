"""Trials here and in PyTorch: as the jobs of a run, and side by side."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch

import tinygrad_ee559
from reports.base.data import POINTS, Data
from reports.base.run import Job, Run
from reports.base.table import Number, Table, mean_of
from reports.base.trial import Setup, begin, learn

#: The libraries that are compared, by the names of their columns in the tables.
LIBRARIES: dict[str, ModuleType] = {"here": tinygrad_ee559, "PyTorch here": torch}


def jobs(
    run: Run, setups: Mapping[str, Setup], count: int, data: Data | None = None
) -> list[Job]:
    """Trials of several setups, each `count` times with other seeds, here and in PyTorch in turn.

    Args:
        run: that they belong to.
        setups: by name.
        count: how many of each, on either side.
        data: as `begin` takes it.
    """
    return [
        _job(run, name, setup, seed, side, data)
        for name, setup in setups.items()
        for seed in range(count)
        for side in LIBRARIES
    ]


def trials_of(results: Mapping[str, Any], setup: str, side: str) -> list[Any]:
    """What the trials of one setup found on one side, seed by seed."""
    return [result for name, result in results.items() if name.startswith(f"{setup} | {side} | ")]


def _job(
    run: Run, setup_name: str, setup: Setup, seed: int, side: str, data: Data | None
) -> Job:
    """One trial; one here goes on where it was interrupted, one in PyTorch begins anew."""
    name = f"{setup_name} | {side} | {seed}"
    # What a step costs grows with the network, and with the overhead that even the least one has.
    cost = 1 + sum(a * b for a, b in zip(setup.sizes, setup.sizes[1:])) / 30_000

    def work(advance: Callable[[float], object]) -> dict[str, Any]:
        library = LIBRARIES[side]
        start = begin(setup, seed, library, data)
        options = {"checkpoint": run.training_of(name)} if side == "here" else {}
        return learn(setup, start, library, lambda steps: advance(cost * steps), **options)

    samples = POINTS if data is None else len(data.labels)
    return Job(name, cost * setup.epochs * math.ceil(samples / setup.batch_size), work)


def equal_bits(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two trials ended with the same parameters, bit for bit."""
    pairs = zip(one["parameters"], other["parameters"], strict=True)
    return all(torch.equal(a.view(torch.int32), b.view(torch.int32)) for a, b in pairs)


def bits(results: Mapping[str, Any], setups: Iterable[str]) -> Table:
    """In how many pairs of trials, here and in PyTorch, all parameters are equal in the end."""
    table = Table(
        "The parameters after the last epoch, here and in PyTorch",
        ["", "numbers", "diverged", "equal to the last bit"],
    )
    for setup in setups:
        here, there = (trials_of(results, setup, side) for side in LIBRARIES)
        numbers = sum(parameter.numel() for parameter in here[0]["parameters"])
        counts = sum(trial["diverged"] for trial in here), sum(map(equal_bits, here, there))
        shares = (f"{count} of {len(here)} runs" for count in counts)
        table.rows.append([setup, f"{numbers:,}", *shares])
    return table


def errors(trials: Iterable[Mapping[str, Any]], part: str) -> Number:
    """Wrong answers on the training set or the test set, in percent."""
    return mean_of((1 - trial[f"{part}_accuracy"] for trial in trials), 100)


def ratio_of_medians(ones: Sequence[float], others: Sequence[float]) -> float:
    """How much less or more the ones are than the others."""
    return statistics.median(ones) / statistics.median(others)
