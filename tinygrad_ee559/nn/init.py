"""Initial values of parameters, set in place, from torch's global random generator.

With the same seed they are those of `torch.nn.init`, bit for bit.
"""

from __future__ import annotations

import math
from typing import Literal

import torch

from tinygrad_ee559.tensor import Tensor

Mode = Literal["fan_in", "fan_out"]

#: The factors that keep the variance of activations from layer to layer, by nonlinearity.
GAINS = {
    "linear": 1.0,
    "conv1d": 1.0,
    "conv2d": 1.0,
    "sigmoid": 1.0,
    "tanh": 5 / 3,
    "relu": math.sqrt(2.0),
    "selu": 3 / 4,
}


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Draw every element from the uniform distribution on [a, b)."""
    tensor.data.uniform_(a, b)
    return tensor


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Draw every element from the normal distribution."""
    tensor.data.normal_(mean, std)
    return tensor


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Set every element to `val`."""
    tensor.data.fill_(val)
    return tensor


def zeros_(tensor: Tensor) -> Tensor:
    """Set every element to 0."""
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    """Set every element to 1."""
    return constant_(tensor, 1.0)


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The gain recommended for a nonlinearity, as PyTorch defines it.

    Args:
        nonlinearity: "linear", "conv1d", "conv2d", "sigmoid", "tanh", "relu", "leaky_relu" or
            "selu".
        param: the negative slope of "leaky_relu", 0.01 if None.

    Raises:
        ValueError: the nonlinearity is another one.

    >>> calculate_gain("tanh")
    1.6666666666666667
    """
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        return math.sqrt(2.0 / (1 + slope**2))
    if nonlinearity not in GAINS:
        known = ", ".join((*GAINS, "leaky_relu"))
        raise ValueError(f"no gain is known for {nonlinearity!r}; known are {known}")
    return GAINS[nonlinearity]


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Draw from the uniform distribution of standard deviation gain * sqrt(2 / (fan_in + fan_out)).

    Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks,
    2010.

    Args:
        tensor: weights, with at least two dimensions.
        gain: the factor for the nonlinearity that follows, see `calculate_gain`.

    Raises:
        ValueError: the tensor has fewer than two dimensions.
    """
    fan_in, fan_out = fans(tensor)
    std = gain * math.sqrt(2.0 / float(fan_in + fan_out))
    bound = math.sqrt(3.0) * std
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Draw from the normal distribution of standard deviation gain * sqrt(2 / (fan_in + fan_out)).

    Arguments and source are those of `xavier_uniform_`.
    """
    fan_in, fan_out = fans(tensor)
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / float(fan_in + fan_out)))


def kaiming_uniform_(
    tensor: Tensor, a: float = 0, mode: Mode = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Draw from the uniform distribution of standard deviation gain / sqrt(fan).

    He et al., Delving deep into rectifiers, 2015.

    Args:
        tensor: weights, with at least two dimensions.
        a: the negative slope, where the nonlinearity is "leaky_relu".
        mode: "fan_in" keeps the variance of activations, "fan_out" that of gradients.
        nonlinearity: what follows, see `calculate_gain`.

    Raises:
        ValueError: the tensor has fewer than two dimensions, or `mode` is another word.
    """
    bound = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(
    tensor: Tensor, a: float = 0, mode: Mode = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Draw from the normal distribution of standard deviation gain / sqrt(fan).

    Arguments and source are those of `kaiming_uniform_`.
    """
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity))


def orthogonal_(tensor: Tensor, gain: float = 1) -> Tensor:
    """Make rows, or columns if there are more rows, orthogonal to each other and of length `gain`.

    Saxe et al., Exact solutions to the nonlinear dynamics of learning in deep linear neural
    networks, 2013.

    Args:
        tensor: weights, with at least two dimensions; those after the first count as one.
        gain: a factor.

    Raises:
        ValueError: the tensor has fewer than two dimensions.
    """
    fans(tensor)  # for the error
    data = tensor.data
    if data.numel():
        normal = torch.empty_like(data.flatten(1)).normal_()
        wide = len(normal) < normal[0].numel()
        q, r = torch.linalg.qr(normal.T if wide else normal)
        q = q * r.diagonal().sign()  # all orthogonal matrices are equally likely then
        data.copy_((q.T if wide else q).reshape(data.shape)).mul_(gain)
    return tensor


def fans(tensor: Tensor) -> tuple[int, int]:
    """How many inputs one output element is computed from, and how many outputs use one input.

    Raises:
        ValueError: the tensor has fewer than two dimensions.
    """
    if tensor.ndim < 2:
        raise ValueError(
            "fan-in and fan-out need a tensor of at least two dimensions (outputs, inputs, ...), "
            f"not one of shape {list(tensor.shape)}"
        )
    field = tensor.shape[2:].numel()
    return tensor.shape[1] * field, tensor.shape[0] * field


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode must be 'fan_in' or 'fan_out', not {mode!r}")
    fan = fans(tensor)[mode == "fan_out"]
    gain = calculate_gain(nonlinearity, a)
    return gain / math.sqrt(fan) if fan else 0.0
