"""Tables of expressions: tests whose names are the very expressions that they compare."""

import math

import torch
import torch.nn.functional as F
from compare import assert_same_gradients


def split(text, separator=None):
    """The entries of a table, which may have many in one line."""
    return [part.strip() for line in text.strip().split("\n") for part in line.split(separator)]


def check(expression, *inputs, names=None, **options):
    """Compare an expression of x, z and other `names` with torch.autograd."""
    known = {"torch": torch, "F": F, "math": math, **(names or {})}
    function = eval(f"lambda x, z=None: {expression}", known)
    assert_same_gradients(function, [data.clone().requires_grad_() for data in inputs], **options)


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)
