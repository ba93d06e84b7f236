"""Functions of neural networks: linear maps, softmax, dropout. The losses are in `losses.py`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from tinygrad_ee559.rules.registry import composed, ops, rule

aten = torch.ops.aten

# -------------------------------------------------------------------- linear maps


def _input_gradient(g: Any, weight: Any) -> Any:
    """Also where the weight is a vector, and each sample has one result."""
    return g @ weight if weight.ndim == 2 else g.unsqueeze(-1) * weight


def _weight_gradient(g: Any, x: Any) -> Any:
    """The sum over all samples, however they are laid out."""
    if g.ndim < x.ndim:  # the weight is a vector
        return torch.tensordot(g, x, g.ndim) if g.ndim else g * x
    return torch.outer(g, x) if x.ndim == 1 else g.flatten(0, -2).t() @ x.flatten(0, -2)


rule(
    F.linear,
    lambda g, _y, _x, weight, _bias=None: (
        torch.mm(g, weight) if g.ndim == 2 == weight.ndim else _input_gradient(g, weight)
    ),
    # in the order of PyTorch's kernel, to have the same bits
    lambda g, _y, x, _weight, _bias=None: (
        torch.mm(g.T, x) if x.ndim == 2 == g.ndim else _weight_gradient(g, x)
    ),
    lambda g, _y, _x, _weight, _bias=None: torch.sum(g, 0) if g.ndim == 2 else g,
)


@composed(torch.bilinear)
def _bilinear(input1: Any, input2: Any, weight: Any, bias: Any = None) -> Any:
    """y[k] = x1ᵀ weight[k] x2 + bias[k]."""
    with torch.autocast(input1.device.type, enabled=False):  # which does not convert these
        y = torch.einsum("...i,kij,...j->...k", input1, weight, input2)
    return y if bias is None else y + bias


# ------------------------------------------------------------------------ softmax


def _with_dim(function: Any, kernel: Any) -> None:
    """Lead `function` straight to its kernel, unless torch has to choose the dimension."""

    @composed(function)
    def either(input: Any, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> Any:
        return NotImplemented if dim is None else kernel(input, dim, dtype=dtype)


for _function in (torch.softmax, aten._softmax, aten._safe_softmax):
    rule(
        _function,
        lambda g, y, _x, dim, _dtype=None: ops._softmax_backward_data(g, y, dim, y.dtype),
    )
for _function in (torch.log_softmax, aten._log_softmax):
    rule(
        _function,
        lambda g, y, _x, dim, _dtype=None: ops._log_softmax_backward_data(g, y, dim, y.dtype),
    )
_with_dim(F.softmax, torch.softmax)
_with_dim(F.log_softmax, torch.log_softmax)

# ------------------------------------------------------- bags of embedded words


def _bag_gradient(
    g: Any, y: Any, weight_shape: Any, indices: Any, offsets: Any, scale_grad_by_freq: bool = False,
    mode: int = 0, _sparse: bool = False, per_sample_weights: Any = None,
    _include_last_offset: bool = False, padding_idx: int = -1,
) -> Any:  # fmt: skip
    """A bag's gradient goes to its words; of the largest one (mode 2), only to that word."""
    if mode == 2:
        d = torch.where(y[2].unsqueeze(1) > 0, g[0], 0)
        return g[0].new_zeros(weight_shape).scatter_add(0, y[3], d)
    d = g[0] / y[2].clamp_min(1).unsqueeze(1) if mode == 1 else g[0]
    d = d[_bag_of_words(indices, offsets)]
    d = d if per_sample_weights is None else d * per_sample_weights.unsqueeze(1)
    rows = weight_shape[0]
    return ops.embedding_dense_backward(d, indices, rows, padding_idx, scale_grad_by_freq)


def _bag_of_words(indices: Any, offsets: Any) -> Any:
    words = torch.arange(len(indices), dtype=offsets.dtype, device=offsets.device)
    return torch.searchsorted(offsets, words, right=True) - 1


def _word_weights_gradient(
    g: Any, _y: Any, weight: Any, indices: Any, offsets: Any, _scale_grad_by_freq: bool = False,
    _mode: int = 0, _sparse: bool = False, _per_sample_weights: Any = None,
    _include_last_offset: bool = False, padding_idx: int = -1,
) -> Any:  # fmt: skip
    d = (g[0][_bag_of_words(indices, offsets)] * weight[indices]).sum(1)
    return torch.where(indices == padding_idx, 0, d)


for _function in (aten._embedding_bag, aten._embedding_bag_forward_only):
    rule(_function, _bag_gradient, *[None] * 5, _word_weights_gradient, first_only=True)

# ------------------------------------------------------------- recurrent networks

# a GRU changes the pieces in place, which views could not be
rule(torch.unsafe_split, lambda g, _y, _x, _split_size, dim=0: torch.cat(g, dim))


@composed(aten.mkldnn_rnn_layer)
def _lstm_layer(
    input: Any, weight_ih: Any, weight_hh: Any, bias_ih: Any, bias_hh: Any, h: Any, c: Any,
    reverse: bool, _batch_sizes: Any, _mode: int, _hidden_size: int, _num_layers: int,
    has_biases: bool, *_options: Any,
) -> Any:  # fmt: skip
    """One direction of a layer, by the equations of torch.nn.LSTM."""
    steps = F.linear(input, weight_ih, bias_ih + bias_hh if has_biases else None).unbind()
    outputs = []
    for step in reversed(steps) if reverse else steps:
        i, f, g, o = torch.chunk(step + F.linear(h, weight_hh), 4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        outputs.append(h)
    return torch.stack(outputs[::-1] if reverse else outputs), h, c, c.new_empty(0)


# ------------------------------------------------------------------------ dropout


rule(
    torch.native_dropout,
    lambda g, y, _x, p, train: ops.native_dropout_backward(
        g[0], y[1], 0 if p == 1 else 1 / (1 - p) if train else 1
    ),
)


@composed(torch.dropout)
def _dropout(input: Any, p: float, train: bool) -> Any:
    """By the kernel that draws the random numbers that torch draws."""
    if p == 1:  # of which torch draws nothing
        return NotImplemented
    return torch.native_dropout(input, p, True)[0] if train and p else input


@composed(F.dropout)
def _functional_dropout(
    input: Any, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Any:
    return NotImplemented if inplace or not 0 <= p <= 1 else torch.dropout(input, p, training)


rule(torch.bernoulli, lambda g, _y, _x, _p=None, _generator=None: torch.zeros_like(g))
