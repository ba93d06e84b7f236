"""Functions that reduce."""
from __future__ import annotations
import torch
from tinygrad_ee559.rules.registry import rule
rule(torch.sum, lambda g, _y, x_shape, dim=None, keepdim=False: g.expand(x_shape))
rule(torch.Tensor.expand, lambda g, _y, x_shape, _size: g.sum_to_size(x_shape))
rule(torch.Tensor.sum_to_size, lambda g, _y, x_shape, _size: g.expand(x_shape))
