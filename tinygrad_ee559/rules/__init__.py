"""The rule table: how every torch function is differentiated, by family."""

from tinygrad_ee559.rules import (
    activations,
    complex,
    constants,
    einsum,
    indexing,
    linalg,
    losses,
    neural,
    pointwise,
    reductions,
    shapes,
)

__all__ = [
    "activations",
    "complex",
    "constants",
    "einsum",
    "indexing",
    "linalg",
    "losses",
    "neural",
    "pointwise",
    "reductions",
    "shapes",
]
