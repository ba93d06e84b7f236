"""What bounds an eager step: its kernels without any engine, and an engine written out by hand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

import tinygrad_ee559 as tg
from tinygrad_ee559.rules.registry import ops
from tinygrad_ee559.tape import Node, next_order
from tinygrad_ee559.tensor import Tensor

_linear, _mse_loss = torch._C._nn.linear, torch._C._nn.mse_loss
_MEAN = 1


def _squared_error(scores: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The gradient of the loss, which is computed on the way."""
    loss = _mse_loss(scores, y, _MEAN)
    return ops.mse_loss_backward(torch.ones_like(loss), scores, y, _MEAN)


def _cross_entropy(scores: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    scores = torch.log_softmax(scores, 1)
    loss, total = ops.nll_loss_forward(scores, y, None, _MEAN, -100)
    g = ops.nll_loss_backward(torch.ones_like(loss), scores, y, None, _MEAN, -100, total)
    return ops._log_softmax_backward_data(g, scores, 1, scores.dtype)


def kernels_alone(
    model: nn.Module, loss: str, x: torch.Tensor, y: torch.Tensor
) -> Callable[[], None]:
    """The kernels of a step, one after the other."""
    parameters = [p.data for p in model.parameters()]
    weights, biases = parameters[::2], parameters[1::2]
    gradient = {"MSELoss": _squared_error, "CrossEntropyLoss": _cross_entropy}[loss]
    gradients: list[torch.Tensor | None] = [None] * len(parameters)

    def step() -> None:
        gradients[:] = [None] * len(parameters)
        inputs = [x]
        for weight, bias in zip(weights[:-1], biases):
            inputs.append(torch.relu(_linear(inputs[-1], weight, bias)))
        g = gradient(_linear(inputs[-1], weights[-1], biases[-1]), y)
        for i in reversed(range(len(weights))):
            before = torch.mm(g, weights[i]) if i else g
            gradients[2 * i], gradients[2 * i + 1] = torch.mm(g.T, inputs[i]), torch.sum(g, 0)
            g = ops.threshold_backward(before, inputs.pop(), 0) if i else before
        torch._foreach_add_(parameters, gradients, alpha=-0.01)

    return step


_LINEAR = (
    lambda g, _y, _x, weight, _bias: torch.mm(g, weight) if g.ndim == 2 else g @ weight,
    lambda g, _y, x, _weight, _bias: torch.mm(g.T, x),
    lambda g, _y, _x, _weight, _bias: torch.sum(g, 0),
)
_RELU = (lambda g, y, _x: ops.threshold_backward(g, y, 0),)
_LOSS = (lambda g, _y, x, target, reduction: ops.mse_loss_backward(g, x, target, reduction),)


def by_hand(model: tg.nn.Module, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    """A step with the squared error, for networks of linear layers and ReLUs alone.

    It makes the nodes and tensors that the engine makes, and looks at all that the engine looks at:
    versions of what was saved, shapes and dtypes of gradients, hooks, whether a graph was used
    before. But no function of the engine is called, the order of the nodes is known, and other
    kinds of arguments, nodes and losses are not there.
    """
    layers, parameters = list(model), list(model.parameters())
    linear = set(layers[::2])

    def step() -> Tensor:
        for p in parameters:
            p.node.grad = None
        nodes: list[Node] = []
        h = x
        for layer in layers:
            start = next_order()
            raw, edge = h._data, h.node
            if not torch.is_grad_enabled():
                raise RuntimeError
            if layer in linear:
                weight, bias = layer.weight, layer.bias
                w = weight._data
                out = _linear(raw, w, bias._data)
                if edge is None:
                    node = Node((weight.node, bias.node))
                    node.plan, node.saved = _LINEAR[1:], (None, raw, None, None)
                    node.guards = [(raw, raw._version)]
                else:
                    node = Node((edge, weight.node, bias.node))
                    node.plan, node.saved = _LINEAR, (None, raw, w, None)
                    node.guards = [(raw, raw._version), (w, w._version)]
            else:
                out = torch.relu(raw)
                node = Node((edge,))
                node.plan, node.saved = _RELU, (out, None)
                node.guards = [(out, out._version)]
            node.order, node.hooks, node.scope = next_order(), None, (layer, start, None)
            node.shape, node.dtype = out.shape, out.dtype
            h = object.__new__(Tensor)
            h._data, h.node = out, node
            nodes.append(node)
        node.scope = (model, start, node.scope)
        scores, target = h._data, y._data
        if scores.shape != target.shape:
            raise RuntimeError
        out = _mse_loss(scores, target, _MEAN)
        node = Node((h.node,))
        node.plan, node.saved = _LOSS, (None, scores, target, _MEAN)
        node.guards = [(scores, scores._version), (target, target._version)]
        node.order, node.hooks, node.scope = next_order(), None, None
        node.shape, node.dtype = out.shape, out.dtype
        loss = object.__new__(Tensor)
        loss._data, loss.node = out, node
        nodes.append(node)
        gradients = {node: torch.ones_like(out)}
        for node in reversed(nodes):
            g = gradients.pop(node)
            if node.hooks is not None or node.saved is None:
                raise RuntimeError
            for tensor, version in node.guards:
                if tensor._version != version:
                    raise RuntimeError
            given = (g, *node.saved)
            for formula, edge in zip(node.plan, node):
                d = formula(*given)
                if d.shape != edge.shape or d.dtype is not edge.dtype:
                    raise RuntimeError
                gradients[edge] = gradients[edge] + d if edge in gradients else d
            node.saved, node.guards = None, ()
        for leaf, g in gradients.items():
            if leaf.hooks is not None or leaf.frozen or leaf.grad is not None:
                raise RuntimeError
            leaf.grad = object.__new__(Tensor)
            leaf.grad._data, leaf.grad.node = g, None
        values = [p._data for p in parameters if p.node.grad is not None]
        found = [p.node.grad._data for p in parameters if p.node.grad is not None]
        torch._foreach_add_(values, found, alpha=-0.01)
        return loss

    return step
