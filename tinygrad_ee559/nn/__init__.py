"""Modules, losses and initial values: composed of `Tensor` operations alone."""

from tinygrad_ee559.nn import init
from tinygrad_ee559.nn.layers import LeakyReLU, Linear, ReLU, Sequential, Sigmoid, Tanh
from tinygrad_ee559.nn.losses import CrossEntropyLoss, MSELoss
from tinygrad_ee559.nn.module import Module, Parameter

__all__ = [
    "CrossEntropyLoss",
    "LeakyReLU",
    "Linear",
    "MSELoss",
    "Module",
    "Parameter",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Tanh",
    "init",
]
