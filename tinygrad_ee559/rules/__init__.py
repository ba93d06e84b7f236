"""The rule table: how every torch function is differentiated, by family."""

from tinygrad_ee559.rules import (
    activations,
    complex,
    constants,
    convolution,
    decompositions,
    fourier,
    indexing,
    linalg,
    losses,
    neural,
    normalization,
    pointwise,
    pooling,
    reductions,
    sampling,
    shapes,
)

__all__ = [
    "activations",
    "complex",
    "constants",
    "convolution",
    "decompositions",
    "fourier",
    "indexing",
    "linalg",
    "losses",
    "neural",
    "normalization",
    "pointwise",
    "pooling",
    "reductions",
    "sampling",
    "shapes",
]
