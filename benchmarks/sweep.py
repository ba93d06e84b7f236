"""The sweep: 70 configurations of the disk network, ten members of each, as compiled ensembles.

ReLU and Tanh, five learning rates, seven batch sizes; 500 epochs over 1,000 points that each member
draws for itself and shuffles in every epoch: 69.25 million steps of gradient descent.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

import tinygrad_ee559 as tg
from benchmarks import report
from benchmarks.report import Result
from benchmarks.steps import DISK, network, training_step

RATES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
BATCHES = (200, 100, 50, 20, 10, 5, 1)
ACTIVATIONS = ("ReLU", "Tanh")
MEMBERS = 10
POINTS = 1000
EPOCHS = 500
TOGETHER = 10  # epochs in one call


def step_of(library: object, activation: str, rate: object) -> Callable:
    """The training step of a new network."""
    return training_step(library, network(library.nn, DISK, activation), "MSELoss", rate)


def points(members: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points of the unit square for each member; is it in the quarter ring around the origin?"""
    x = torch.rand(members, POINTS, 2)
    ring = (x.norm(dim=-1) > (2 * torch.pi) ** -0.5) & (x.norm(dim=-1) < 1)
    return x, nn.functional.one_hot((~ring).long(), 2).float()


def epochs(data: torch.Tensor, order: torch.Tensor, batch: int) -> torch.Tensor:
    """Epochs of mini-batches, each member's data in its own order: steps, members, batch, 2."""
    count, members, _ = order.shape
    index = order.unsqueeze(-1).expand(-1, -1, -1, 2)
    shuffled = data.expand(count, -1, -1, -1).gather(2, index)
    return shuffled.view(count, members, -1, batch, 2).transpose(1, 2).flatten(0, 1)


def train(activation: str, batch: int, count: int) -> Iterator[int]:
    """Train all members of all rates with one batch size; gives the steps made, call by call."""
    rates = [rate for rate in RATES for _ in range(MEMBERS)]
    together = tg.ensemble([step_of(tg, activation, torch.tensor(rate)) for rate in rates])
    x, y = points(len(rates))
    for start in range(0, count, TOGETHER):
        orders = torch.rand(min(TOGETHER, count - start), len(rates), POINTS).argsort(-1)
        losses = together.loop(epochs(x, orders, batch), epochs(y, orders, batch))
        yield losses.numel()


def sweep(count: int) -> tuple[int, float]:
    """All configurations: the steps made and the seconds that it took."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    every = [
        (activation, batch, len(RATES) * MEMBERS * count * POINTS // batch)
        for batch, activation in itertools.product(BATCHES, ACTIVATIONS)
    ]
    start = time.perf_counter()
    with Progress(*columns) as progress:
        task = progress.add_task("", total=sum(steps for _, _, steps in every))
        for activation, batch, _ in every:
            progress.update(task, description=f"{activation}, batch {batch}")
            for steps in train(activation, batch, count):
                progress.advance(task, steps)
    return sum(steps for _, _, steps in every), time.perf_counter() - start


def plain_loop() -> float:
    """Seconds that PyTorch's plain loop would take for the sweep, from a slice of each batch."""
    total = 0.0
    for batch, activation in itertools.product(BATCHES, ACTIVATIONS):
        step = step_of(torch, activation, 1e-3)
        x, y = (t[0, :batch] for t in points(1))
        for _ in range(100):
            step(x, y)
        slices = 300
        start = time.perf_counter()
        for _ in range(slices):
            step(x, y)
        each = (time.perf_counter() - start) / slices
        total += each * len(RATES) * MEMBERS * EPOCHS * POINTS / batch
    return total


def run(quick: bool) -> list[Result]:
    """The whole sweep on all cores; `quick`, a hundredth of its epochs."""
    count = EPOCHS // 100 if quick else EPOCHS
    alone = plain_loop() * count / EPOCHS
    steps, seconds = sweep(count)
    name = f"the sweep, {steps / 1e6:.2f} million steps, {torch.get_num_threads()} threads"
    return [
        Result(name, "6 minutes", seconds / 360, 1.0, f"{seconds:.0f} s", "360 s"),
        Result(name, "PyTorch's plain loop, from a slice", seconds / alone, None,
               f"{seconds:.0f} s", f"{alone / 3600:.1f} h"),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a hundredth of the epochs")
    parser.add_argument("--out", type=Path, default=Path("build/sweep.json"))
    options = parser.parse_args()
    results = run(options.quick)
    report.show(results)
    report.write(results, options.out)


if __name__ == "__main__":
    main()
