"""Functions of functions, as in `torch.func`: derivatives, batches, and modules as functions."""

from tinygrad_ee559.func.batches import vmap
from tinygrad_ee559.func.derivatives import (
    grad,
    grad_and_value,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    vjp,
)
from tinygrad_ee559.func.modules import functional_call, stack_module_state

__all__ = [
    "functional_call",
    "grad",
    "grad_and_value",
    "hessian",
    "jacfwd",
    "jacrev",
    "jvp",
    "stack_module_state",
    "vjp",
    "vmap",
]
