"""The rule table: how every torch function is differentiated, by family."""

from tinygrad_ee559.rules import activations, constants, neural, pointwise, reductions

__all__ = ["activations", "constants", "neural", "pointwise", "reductions"]
