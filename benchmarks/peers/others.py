"""Engines made to be read: HIPS autograd, MyGrad and micrograd."""

from __future__ import annotations

import mygrad as mg
import numpy as np
from autograd import grad
from autograd import numpy as anp
from micrograd.engine import Value
from micrograd.nn import MLP

from benchmarks.work import RATE, Side, Work


def initial(work: Work) -> list[np.ndarray]:
    return [p.detach().numpy().copy() for p in work.model().parameters()]


def numbers(work: Work) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(x.numpy(), y.numpy()) for x, y in work.batches()]


def hips(work: Work) -> Side:
    parameters, batches = initial(work), numbers(work)

    def loss_of(parameters, x, y):
        *hidden, (weight, bias) = zip(parameters[::2], parameters[1::2])
        for w, b in hidden:
            x = anp.maximum(anp.dot(x, w.T) + b, 0)
        return anp.mean((anp.dot(x, weight.T) + bias - y) ** 2)

    differentiate = grad(loss_of)

    def lap() -> None:
        for x, y in batches:
            for parameter, gradient in zip(parameters, differentiate(parameters, x, y)):
                parameter -= RATE * gradient

    return Side(lap, work.steps, lambda: [p.copy() for p in parameters])


def mygrad(work: Work) -> Side:
    mg.turn_memory_guarding_off()  # what its documentation advises where time matters
    parameters, batches = [mg.tensor(p) for p in initial(work)], numbers(work)

    def lap() -> None:
        *hidden, (weight, bias) = zip(parameters[::2], parameters[1::2])
        for inputs, y in batches:
            x = inputs
            for w, b in hidden:
                x = mg.maximum(mg.matmul(x, w.T) + b, 0)
            loss = mg.mean((mg.matmul(x, weight.T) + bias - y) ** 2)
            loss.backward()
            for parameter in parameters:
                parameter.data -= np.float32(RATE) * parameter.grad
                parameter.null_grad()

    return Side(lap, work.steps, lambda: [p.data.copy() for p in parameters])


def micrograd(work: Work) -> Side:
    """micrograd's own network. It computes in double precision, a number at a time."""
    model, values = MLP(work.sizes[0], list(work.sizes[1:])), initial(work)
    for layer, weight, bias in zip(model.layers, values[::2], values[1::2]):
        for neuron, row, b in zip(layer.neurons, weight, bias):
            neuron.w, neuron.b = [Value(float(w)) for w in row], Value(float(b))
    batches = [(x.tolist(), y.tolist()) for x, y in work.batches()]

    def lap() -> None:
        for xs, ys in batches:
            model.zero_grad()
            terms = [(o - t) ** 2 for x, y in zip(xs, ys) for o, t in zip(model(x), y)]
            (sum(terms) * (1 / len(terms))).backward()
            for parameter in model.parameters():
                parameter.data -= RATE * parameter.grad

    def parameters() -> list[np.ndarray]:
        layers = [layer.neurons for layer in model.layers]
        found = []
        for neurons in layers:
            found.append(np.array([[w.data for w in neuron.w] for neuron in neurons]))
            found.append(np.array([neuron.b.data for neuron in neurons]))
        return found

    return Side(lap, work.steps, parameters)
