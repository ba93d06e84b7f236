"""Models: perceptrons of many layers, made of this library's modules or of PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: The gain of the reports' Xavier initialization, the one recommended for tanh.
GAIN = 5 / 3


def perceptron(nn: Any, sizes: Sequence[int], activations: Sequence[str], bias: bool = True) -> Any:
    """Linear layers with activations between them, and after the last one if there is one more.

    Args:
        nn: `tinygrad_ee559.nn` or `torch.nn`; either draws the same numbers from the same seed.
        sizes: of the input, of each hidden layer and of the output.
        activations: names of modules in `nn`, one for each linear layer that is followed by one.
        bias: of the linear layers.
    """
    layers = []
    for i, (fan_in, fan_out) in enumerate(zip(sizes, sizes[1:])):
        layers.append(nn.Linear(fan_in, fan_out, bias=bias))
        if i < len(activations):
            layers.append(getattr(nn, activations[i])())
    return nn.Sequential(*layers)


def initialize(nn: Any, model: Any, how: str) -> None:
    """Draw the parameters anew, layer by layer.

    Args:
        nn: where the model's modules are from.
        model: a perceptron.
        how: "default", as the layers were made: uniform up to 1 / sqrt(fan_in); "xavier", weights
            uniform up to GAIN * sqrt(6 / (fan_in + fan_out)), biases as they were made; or
            "normal", weights and biases of variance 1.
    """
    for layer in model:
        if how == "xavier" and isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight, gain=GAIN)
        elif how == "normal":
            for parameter in layer.parameters():
                nn.init.normal_(parameter)
