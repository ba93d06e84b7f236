"""One eager training step of a multilayer perceptron: time and peak memory."""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import tinygrad_ee559 as tg
from benchmarks.floors import by_hand, kernels_alone
from benchmarks.pinned import output
from benchmarks.report import Result, microseconds
from benchmarks.timing import medians

DISK = (2, 25, 25, 25, 2)
MNIST = (784, 512, 512, 512, 10)
SMALL, LARGE = "2-25-25-25-2", "784-512-512-512-10"
NETWORKS = {SMALL: (DISK, "MSELoss"), LARGE: (MNIST, "CrossEntropyLoss")}
LIBRARIES = {"here": tg, "there": torch}
BATCH = 100
Step = Callable[[], object]


def network(layers: object, sizes: Sequence[int], activation: str = "ReLU") -> object:
    """A network of `layers` (torch.nn or tinygrad_ee559.nn), linear ones and activations."""
    modules: list[object] = []
    for fan_in, fan_out in zip(sizes, sizes[1:]):
        modules += [layers.Linear(fan_in, fan_out), getattr(layers, activation)()]
    return layers.Sequential(*modules[:-1])


def training_step(library: object, model: object, loss: str, rate: object) -> Callable:
    """A training step, written the same way for both libraries."""
    criterion = getattr(library.nn, loss)()
    optimizer = library.optim.SGD(model.parameters(), lr=rate)

    def step(x: object, y: object) -> object:
        optimizer.zero_grad()
        value = criterion(model(x), y)
        value.backward()
        optimizer.step()
        return value

    return step


def batch_of(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What one of the `NETWORKS` is trained on."""
    sizes, loss = NETWORKS[name]
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(BATCH, sizes[0], generator=generator)
    y = torch.randint(0, sizes[-1], (BATCH,), generator=generator)
    return x, nn.functional.one_hot(y).float() if loss == "MSELoss" else y


def model_of(library: object, name: str) -> object:
    torch.manual_seed(0)
    return network(library.nn, NETWORKS[name][0])


def step_of(library: object, name: str) -> Step:
    """A training step of one of the `NETWORKS`, on one batch."""
    x, y = batch_of(name)
    if library is tg:
        x, y = tg.Tensor(x), tg.Tensor(y)
    step = training_step(library, model_of(library, name), NETWORKS[name][1], 0.01)
    return lambda: step(x, y)


def together(name: str, target: float, rounds: int) -> list[Result]:
    """The same step here and in PyTorch, in one process and alternating rounds."""
    sides = {side: step_of(library, name) for side, library in LIBRARIES.items()}
    x, y = batch_of(name)
    sides["alone"] = kernels_alone(model_of(torch, name), NETWORKS[name][1], x, y)
    if name == SMALL:
        sides["by hand"] = by_hand(model_of(tg, name), tg.Tensor(x), tg.Tensor(y))
    repeats = 10 if name == LARGE else 500  # rounds long enough not to measure cold caches
    times = medians(rounds, repeats, **sides)
    names = {
        "here": f"eager step, {name}, batch {BATCH}",
        "alone": "its kernels, no engine",
        "by hand": "the engine's work written by hand",
    }
    return [
        Result(
            names[side],
            "PyTorch's time",
            seconds / times["there"],
            target if side == "here" else None,
            microseconds(seconds),
            microseconds(times["there"]),
        )
        for side, seconds in times.items()
        if side != "there"
    ]


def apart(name: str, target: float, rounds: int) -> Result:
    """The same step where each library has a process of its own, in alternating rounds.

    Two libraries in one process share what the C library keeps of freed memory: a step that makes
    the system hand its pages over anew, every time, does not show it beside another.
    """
    times: dict[str, list[float]] = {"here": [], "there": []}
    for _ in range(rounds):
        for side, values in times.items():
            values.append(float(output("benchmarks.steps", [name, side], 1)))
    here, there = (statistics.median(values) for values in times.values())
    text = [microseconds(seconds) for seconds in (here, there)]
    work = f"eager step, {name}, batch {BATCH}, in a process of its own"
    return Result(work, "PyTorch's time", here / there, target, *text)


def main() -> None:
    """The median time of a step of one library, for `apart`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("library", choices=LIBRARIES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    step = step_of(LIBRARIES[options.library], options.network)
    gc.collect()
    times = []
    for _ in range(300):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    print(statistics.median(times[20:]))


def peak_memory(step: Step) -> int:
    """The most bytes in tensors that a step adds to the least that it holds before.

    It begins by freeing the last one's gradients, of which the profiler may not know.
    """
    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = least = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        least = min(least, held)
        peak = max(peak, held - least)
    return peak


def run(quick: bool) -> list[Result]:
    rounds = 10 if quick else 30
    results = [
        *together(SMALL, 0.50, rounds),
        *together(LARGE, 0.90, rounds),
        apart(LARGE, 0.90, rounds // 2),
    ]
    here, there = (peak_memory(step_of(library, LARGE)) for library in LIBRARIES.values())
    name = f"peak memory of the step, {LARGE}"
    text = [f"{n / 1e6:.3f} MB" for n in (here, there)]
    return [*results, Result(name, "PyTorch's", here / there, 1.0, *text)]


if __name__ == "__main__":
    main()
