"""The rule table: how every torch function is differentiated, by family."""

from tinygrad_ee559.rules import (  # noqa: F401 - importing a family fills the table
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
