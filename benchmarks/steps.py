"""One eager training step of a multilayer perceptron: time and peak memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import tinygrad_ee559 as tg
from benchmarks.report import Result, microseconds
from benchmarks.timing import medians

DISK = (2, 25, 25, 25, 2)
MNIST = (784, 512, 512, 512, 10)
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


def step_of(library: object, sizes: Sequence[int], loss: str, x: object, y: object) -> Step:
    """A training step on one batch."""
    torch.manual_seed(0)
    step = training_step(library, network(library.nn, sizes), loss, 0.01)
    return lambda: step(x, y)


def both(sizes: Sequence[int], loss: str) -> tuple[Step, Step]:
    """The same step here and in PyTorch."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(BATCH, sizes[0], generator=generator)
    if loss == "CrossEntropyLoss":
        y = torch.randint(0, sizes[-1], (BATCH,), generator=generator)
    else:
        y = nn.functional.one_hot(torch.randint(0, 2, (BATCH,), generator=generator)).float()
    return step_of(tg, sizes, loss, tg.Tensor(x), tg.Tensor(y)), step_of(torch, sizes, loss, x, y)


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


def timed(name: str, sizes: Sequence[int], loss: str, target: float, rounds: int) -> list[Result]:
    here, there = both(sizes, loss)
    repeats = 500 if sizes is DISK else 10  # rounds long enough not to measure cold caches
    sides = {"here": here, "there": there}
    if loss == "CrossEntropyLoss":
        sides["alone"] = kernels_alone(sizes)
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


def peak_memory(step: Step) -> int:
    """The most bytes that a step holds in tensors beyond what was there before."""
    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def run(quick: bool) -> list[Result]:
    rounds = 10 if quick else 30
    results = [
        *timed("2-25-25-25-2", DISK, "MSELoss", 0.50, rounds),
        *timed("784-512-512-512-10", MNIST, "CrossEntropyLoss", 0.90, rounds),
    ]
    here, there = (peak_memory(step) for step in both(MNIST, "CrossEntropyLoss"))
    name = "peak memory of the step, 784-512-512-512-10"
    text = [f"{n / 1e6:.3f} MB" for n in (here, there)]
    return [*results, Result(name, "PyTorch's", here / there, 1.0, *text)]
