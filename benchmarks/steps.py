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


def step_of(library: object, name: str) -> Step:
    """A training step of one of the `NETWORKS`, on one batch."""
    sizes, loss = NETWORKS[name]
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(BATCH, sizes[0], generator=generator)
    y = torch.randint(0, sizes[-1], (BATCH,), generator=generator)
    if loss == "MSELoss":
        y = nn.functional.one_hot(y).float()
    if library is tg:
        x, y = tg.Tensor(x), tg.Tensor(y)
    torch.manual_seed(0)
    step = training_step(library, network(library.nn, sizes), loss, 0.01)
    return lambda: step(x, y)


def kernels_alone(sizes: Sequence[int]) -> Step:
    """The kernels of a step with cross-entropy, one after the other and without an engine."""
    aten = torch.ops.aten
    parameters = [p.data for p in network(nn, sizes).parameters()]
    weights, biases = parameters[::2], parameters[1::2]
    x, y = torch.rand(BATCH, sizes[0]), torch.randint(0, sizes[-1], (BATCH,))
    gradients: list[torch.Tensor | None] = [None] * len(parameters)

    def step() -> None:
        gradients[:] = [None] * len(parameters)
        inputs = [x]
        for weight, bias in zip(weights[:-1], biases):
            inputs.append(torch.relu(nn.functional.linear(inputs[-1], weight, bias)))
        scores = torch.log_softmax(nn.functional.linear(inputs[-1], weights[-1], biases[-1]), 1)
        loss, total = aten.nll_loss_forward(scores, y, None, 1, -100)
        g = aten.nll_loss_backward(torch.ones_like(loss), scores, y, None, 1, -100, total)
        g = aten._log_softmax_backward_data(g, scores, 1, scores.dtype)
        for i in reversed(range(len(weights))):
            before = g @ weights[i] if i else g
            gradients[2 * i], gradients[2 * i + 1] = g.t() @ inputs[i], g.sum(0)
            g = aten.threshold_backward(before, inputs.pop(), 0) if i else before
        torch._foreach_add_(parameters, gradients, alpha=-0.01)

    return step


def together(name: str, target: float, rounds: int) -> list[Result]:
    """The same step here and in PyTorch, in one process and alternating rounds."""
    sides = {side: step_of(library, name) for side, library in LIBRARIES.items()}
    if name == LARGE:
        sides["alone"] = kernels_alone(NETWORKS[name][0])
    repeats = 10 if name == LARGE else 500  # rounds long enough not to measure cold caches
    times = medians(rounds, repeats, **sides)
    names = {"here": f"eager step, {name}, batch {BATCH}", "alone": "its kernels, no engine"}
    return [
        Result(
            names[side],
            "PyTorch's time",
            seconds / times["there"],
            target if side == "here" else 1.0,
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
