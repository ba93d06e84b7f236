"""Optimizers: they change parameters in place by what backward passes have gathered."""

from tinygrad_ee559.optim import lr_scheduler
from tinygrad_ee559.optim.adam import Adam, AdamW
from tinygrad_ee559.optim.optimizer import Optimizer
from tinygrad_ee559.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "lr_scheduler"]
