"""Scalar expressions and long chains of scalar operations."""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import sys
import time

import torch
from micrograd.engine import Value

import tinygrad_ee559 as tg
from benchmarks.report import Result, microseconds
from benchmarks.timing import medians

CHAIN = 1_000_000


def expression(make):
    """The test expression of micrograd's own test suite, forward and backward."""
    a, b = make(-4.0), make(2.0)
    c = a + b
    d = a * b + b**3
    c = c + c + 1
    c = c + 1 + c + (-a)
    d = d + d * 2 + (b + a).relu()
    d = d + 3 * d + (b - a).relu()
    e = c - d
    f = e**2
    g = f / 2.0
    g = g + 10.0 / f
    g.backward()
    return a.grad


MAKERS = {
    "numbers": lambda value: tg.Tensor(value, requires_grad=True),
    "tensors": lambda value: tg.Tensor(torch.tensor(value), requires_grad=True),
    "torch": lambda value: torch.tensor(value, requires_grad=True),
}


def chain(kind: str, length: int) -> tuple[float, float]:
    """Seconds per node of a chain, forward and backward, and bytes per node that it holds."""
    x = MAKERS[kind](1.0)
    gc.collect()
    before = resident()
    start = time.perf_counter()
    y = x
    for _ in range(length // 2):
        y = y * 1.0000001
        y = y + 1e-9
    forward = time.perf_counter() - start
    held = (resident() - before) / length
    start = time.perf_counter()
    y.backward()
    return (forward + time.perf_counter() - start) / length, held


def resident() -> int:
    """The bytes of memory that this process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def chains(length: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Medians of `chain` of each kind, each in a fresh process, in alternating rounds."""
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in MAKERS}
    for _ in range(rounds):
        for kind, values in found.items():
            command = [sys.executable, "-m", "benchmarks.scalars", kind, str(length)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            seconds, held = map(float, output.split())
            values.append((seconds, held))
    return {
        kind: (statistics.median(v[0] for v in values), statistics.median(v[1] for v in values))
        for kind, values in found.items()
    }


def run(quick: bool) -> list[Result]:
    times = medians(
        20 if quick else 100,
        100,
        here=lambda: expression(MAKERS["numbers"]),
        micrograd=lambda: expression(Value),
        torch=lambda: expression(MAKERS["torch"]),
    )
    results = [
        Result(
            "micrograd's test expression",
            f"{name}'s time",
            times["here"] / times[other],
            target,
            microseconds(times["here"]),
            microseconds(times[other]),
        )
        for name, other, target in [("micrograd", "micrograd", 0.8), ("PyTorch", "torch", 0.2)]
    ]
    length = CHAIN // 10 if quick else CHAIN
    measured = chains(length, 3)
    seconds, held = measured["torch"]
    for kind, target in (("numbers", 0.5), ("tensors", 1.0)):
        name = "numbers" if kind == "numbers" else "0-dimensional tensors"
        results.append(
            Result(
                f"chain of {length:,} {name}, per node",
                "PyTorch's time",
                measured[kind][0] / seconds,
                target,
                microseconds(measured[kind][0]),
                microseconds(seconds),
            )
        )
    bytes_here = measured["numbers"][1]
    text = [f"{n:,.0f} B" for n in (bytes_here, held)]
    name = f"chain of {length:,} numbers, per node"
    return [*results, Result(name, "PyTorch's memory", bytes_here / held, 0.6, *text)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(*chain(sys.argv[1], int(sys.argv[2])))
