"""The rule table: how every torch function is differentiated, by family."""

from tinygrad_ee559.rules import neural, pointwise, reductions

__all__ = ["neural", "pointwise", "reductions"]
