"""Optimizers: they change parameters in place by what backward passes have gathered."""

from tinygrad_ee559.optim.sgd import SGD

__all__ = ["SGD"]
