"""PyTorch: eager, compiled, and as many models at once."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from benchmarks.work import RATE, Side, Work


def arrays(model: nn.Module) -> list[np.ndarray]:
    return [p.detach().numpy().copy() for p in model.parameters()]


def own_code(function: Callable) -> Callable:
    """The function with a code object of its own.

    Dynamo keeps what it compiled, and the guards it has to try, with the code object: variants of
    one function would slow each other down, and after eight of them none would be compiled.
    """
    code = function.__code__.replace()
    return FunctionType(code, function.__globals__, closure=function.__closure__)


def stepper(work: Work, options: dict | None, optimizer_too: bool, whole: bool) -> Side:
    """A training step as PyTorch's tutorials write it; eager if there are no options."""
    model = work.model()
    criterion = getattr(nn, work.loss)()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    update = optimizer.step
    batches = work.batches()

    def forward(x: Tensor, y: Tensor) -> Tensor:
        return criterion(model(x), y)

    if options is not None and not whole:
        forward = torch.compile(own_code(forward), fullgraph=True, **options)
    if optimizer_too:
        update = torch.compile(own_code(lambda: optimizer.step()), **options)

    def step(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = forward(x, y)
        loss.backward()
        update()
        return loss

    if whole:  # Dynamo leaves the graph at `backward`
        step = torch.compile(own_code(step), **options)

    def lap() -> None:
        for x, y in batches:
            step(x, y)

    return Side(lap, work.steps, lambda: arrays(model))


def eager(work: Work) -> Side:
    return stepper(work, None, optimizer_too=False, whole=False)


OPTIONS: dict[str, dict] = {
    "default": {},
    "cpp_wrapper": {"options": {"cpp_wrapper": True}},
    "max-autotune": {"mode": "max-autotune"},
}


def compiled(work: Work) -> dict[str, Side]:
    """torch.compile of the model and its loss, in the ways that may be the fastest."""
    sides = {}
    for name, options in OPTIONS.items():
        sides[name] = stepper(work, options, optimizer_too=False, whole=False)
        sides[f"{name}, optimizer too"] = stepper(work, options, optimizer_too=True, whole=False)
    return {**sides, "whole step": stepper(work, {}, optimizer_too=False, whole=True)}


def functional(work: Work) -> dict[str, Side]:
    """torch.compile of a whole step, for which it has to be written without `backward`."""
    return {name: functional_step(work, options) for name, options in OPTIONS.items()}


def functional_step(work: Work, options: dict) -> Side:
    model = work.model()
    criterion = getattr(nn, work.loss)()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    batches = work.batches()

    def loss_of(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return criterion(functional_call(model, parameters, (x,)), y)

    def step(x: Tensor, y: Tensor) -> Tensor:
        gradients, loss = grad_and_value(loss_of)(parameters, x, y)
        for name, parameter in parameters.items():
            parameter.sub_(gradients[name], alpha=RATE)
        return loss

    step = torch.compile(own_code(step), fullgraph=True, **options)

    def lap() -> None:
        for x, y in batches:
            step(x, y)

    return Side(lap, work.steps, lambda: arrays(model))


def models(work: Work) -> Side:
    """A loop over models, each with its own optimizer."""
    members = [work.model(m) for m in range(work.members)]
    optimizers = [
        torch.optim.SGD(model.parameters(), lr=rate)
        for model, rate in zip(members, work.rates().tolist())
    ]
    criterion = getattr(nn, work.loss)()
    batches = [list(zip(x, y)) for x, y in work.batches()]

    def lap() -> None:
        for batch in batches:
            for model, optimizer, (x, y) in zip(members, optimizers, batch):
                optimizer.zero_grad()
                criterion(model(x), y).backward()
                optimizer.step()

    def parameters() -> list[np.ndarray]:
        return [np.stack(same) for same in zip(*map(arrays, members))]

    return Side(lap, work.steps * work.members, parameters)


def vmapped(work: Work) -> Side:
    """All models at once with torch.func, not compiled."""
    members = [work.model(m) for m in range(work.members)]
    parameters = {k: p.detach() for k, p in stack_module_state(members)[0].items()}
    criterion = getattr(nn, work.loss)()
    rates = {k: work.rates().view(-1, *[1] * (p.dim() - 1)) for k, p in parameters.items()}
    batches = work.batches()

    def loss_of(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return criterion(functional_call(members[0], parameters, (x,)), y)

    differentiate = vmap(grad_and_value(loss_of))

    def lap() -> None:
        for x, y in batches:
            gradients, _ = differentiate(parameters, x, y)
            for name, parameter in parameters.items():
                parameter.sub_(rates[name] * gradients[name])

    def now() -> list[np.ndarray]:
        return [p.numpy().copy() for p in parameters.values()]

    return Side(lap, work.steps * work.members, now)
