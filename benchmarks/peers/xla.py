"""JAX: one jitted step, a scan over steps, and an ensemble by vmap."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import Array, lax

from benchmarks.work import RATE, Side, Work

Parameters = list[tuple[Array, Array]]
UNROLLS = (1, 4, 16)
# A weight's axes, for `x @ w` or for `x @ w.T`: which of them is faster depends on the sizes.
LAYOUTS = ("in, out", "out, in")


def parameters_of(model: torch.nn.Module, layout: str) -> Parameters:
    values = [p.detach().numpy() for p in model.parameters()]
    if layout == "in, out":
        values = [value.T for value in values]
    values = [jnp.array(value) for value in values]
    return list(zip(values[::2], values[1::2]))


def arrays(parameters: Parameters, layout: str) -> list[np.ndarray]:
    """The parameters in PyTorch's layout, with or without a leading axis of members."""
    axes = (-1, -2) if layout == "in, out" else (-1, -1)
    flat = [(np.asarray(w).swapaxes(*axes), np.asarray(b)) for w, b in parameters]
    return [value for layer in flat for value in layer]


def data(work: Work) -> tuple[Array, Array]:
    x, y = work.data()
    return jnp.array(x.numpy()), jnp.array(y.numpy())


def loss_of(parameters: Parameters, x: Array, y: Array, layout: str, cross_entropy: bool) -> Array:
    def linear(x: Array, w: Array, b: Array) -> Array:
        return x @ (w if layout == "in, out" else w.T) + b

    *hidden, last = parameters
    for w, b in hidden:
        x = jax.nn.relu(linear(x, w, b))
    x = linear(x, *last)
    if cross_entropy:
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(x), y[:, None], 1))
    return jnp.mean((x - y) ** 2)


def stepper(work: Work, layout: str):
    """A step: parameters, batch and learning rate to new parameters and the loss."""
    cross_entropy = work.loss == "CrossEntropyLoss"
    differentiate = jax.value_and_grad(
        partial(loss_of, layout=layout, cross_entropy=cross_entropy)
    )

    def step(parameters: Parameters, x: Array, y: Array, rate: float | Array = RATE):
        loss, gradients = differentiate(parameters, x, y)
        return jax.tree.map(lambda p, g: p - rate * g, parameters, gradients), loss

    return step


def steps(work: Work) -> dict[str, Side]:
    """A jitted step, called from a Python loop."""
    return {
        f"{layout}; donate={donate}": single_steps(work, layout, donate)
        for layout in LAYOUTS
        for donate in (False, True)
    }


def single_steps(work: Work, layout: str, donate: bool) -> Side:
    parameters = parameters_of(work.model(), layout)
    batches = list(zip(*data(work)))
    step = jax.jit(stepper(work, layout), donate_argnums=(0,) if donate else ())

    def lap() -> None:
        nonlocal parameters
        for x, y in batches:
            parameters, _ = step(parameters, x, y)
        jax.block_until_ready(parameters)

    return Side(lap, work.steps, lambda: arrays(parameters, layout))


def epoch(work: Work, layout: str, unroll: int):
    """All steps, by `lax.scan`: parameters, data and learning rate to parameters and losses."""
    step = stepper(work, layout)

    def run(parameters: Parameters, xs: Array, ys: Array, rate: float | Array = RATE):
        def body(parameters: Parameters, batch: tuple[Array, Array]):
            return step(parameters, *batch, rate)

        return lax.scan(body, parameters, (xs, ys), unroll=unroll)

    return run


def scans(work: Work) -> dict[str, Side]:
    """All steps as one program."""
    return {
        f"{layout}; unroll={unroll}": scan(work, layout, unroll)
        for layout in LAYOUTS
        for unroll in UNROLLS
    }


def scan(work: Work, layout: str, unroll: int) -> Side:
    parameters = parameters_of(work.model(), layout)
    xs, ys = data(work)
    run = jax.jit(epoch(work, layout, unroll), donate_argnums=0)

    def lap() -> None:
        nonlocal parameters
        parameters, losses = run(parameters, xs, ys)
        jax.block_until_ready((parameters, losses))

    return Side(lap, work.steps, lambda: arrays(parameters, layout))


def ensembles(work: Work) -> dict[str, Side]:
    """All steps of all models as one program.

    A scan of the vmapped step becomes the same loop, and measures the same.
    """
    return {
        f"{layout}; unroll={unroll}": ensemble(work, layout, unroll)
        for layout in LAYOUTS
        for unroll in UNROLLS
    }


def ensemble(work: Work, layout: str, unroll: int) -> Side:
    members = [parameters_of(work.model(m), layout) for m in range(work.members)]
    parameters = jax.tree.map(lambda *same: jnp.stack(same), *members)
    rates = jnp.array(work.rates().numpy())
    xs, ys = data(work)
    together = jax.vmap(epoch(work, layout, unroll), in_axes=(0, 1, 1, 0))
    run = jax.jit(together, donate_argnums=0)

    def lap() -> None:
        nonlocal parameters
        parameters, losses = run(parameters, xs, ys, rates)
        jax.block_until_ready((parameters, losses))

    return Side(lap, work.steps * work.members, lambda: arrays(parameters, layout))
