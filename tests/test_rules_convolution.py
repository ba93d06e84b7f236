"""Convolutions, pooling and the columns of an image, against torch.autograd."""

import pytest
import torch
import torch.nn.functional as F
from compare import assert_same_gradients
from torch.nn import grad as gradients_of_torch

aten = torch.ops.aten

TOLERANCES = {
    torch.float64: {},
    torch.float32: {"rtol": 1e-3, "atol": 1e-4},
    torch.complex128: {},
}


def random(*shapes, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes
    ]


# --------------------------------------------------------------------- convolutions

#: A function, the shapes of input, weight and perhaps bias, and options.
CONVOLUTIONS = [
    (F.conv1d, [(2, 4, 9), (6, 4, 3), (6,)], {"padding": "same", "dilation": 2}),
    (F.conv2d, [(2, 4, 7, 6), (6, 2, 3, 2), (6,)],
     {"stride": 2, "padding": 1, "dilation": 2, "groups": 2}),
    (F.conv2d, [(2, 4, 7, 6), (8, 1, 3, 3), (8,)], {"padding": "same", "groups": 4}),
    (F.conv2d, [(2, 4, 7, 6), (8, 1, 3, 3)], {"padding": "same", "groups": 4}),
    (F.conv2d, [(4, 7, 6), (3, 4, 3, 3), (3,)], {"padding": "valid"}),
    (F.conv2d, [(2, 3, 6, 5), (4, 3, 1, 1), (4,)], {"stride": (2, 1)}),
    (F.conv2d, [(2, 3, 3, 3), (4, 3, 3, 3), (4,)], {}),
    (F.conv3d, [(1, 2, 4, 5, 4), (3, 2, 2, 3, 2), (3,)], {"padding": 1}),
    (F.conv_transpose1d, [(2, 4, 5), (4, 3, 3), (3,)], {"stride": 3, "output_padding": 2}),
    (F.conv_transpose2d, [(2, 4, 5, 4), (4, 3, 3, 2), (6,)],
     {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2, "dilation": 2}),
    (F.conv_transpose3d, [(1, 2, 3, 3, 3), (2, 2, 2, 2, 2), (2,)], {"stride": 2}),
]  # fmt: skip


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(("function", "shapes", "options"), CONVOLUTIONS)
def test_convolutions(function, shapes, options, dtype):
    assert_same_gradients(function, random(*shapes, dtype=dtype), options, **TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_convolution_of_time_batch_and_channels(dtype):
    args = (*random((7, 2, 3), (3, 3, 4), (4,), dtype=dtype), 1)
    assert_same_gradients(torch.conv_tbc, args, **TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("wanted", [(0, 1, 1), (1, 0, 0), (0, 0, 1), (0, 1, 0)], ids=str)
def test_gradients_of_some_of_the_operands(wanted, dtype):
    operands = random((2, 3, 8, 8), (4, 3, 3, 3), (4,), dtype=dtype)
    args = [x.detach().requires_grad_(bool(w)) for x, w in zip(operands, wanted)]
    assert_same_gradients(F.conv2d, args, **TOLERANCES[dtype])


@pytest.mark.parametrize(
    ("function", "shapes", "options"),
    [
        (F.conv2d, [(2, 4, 7, 6), (6, 2, 3, 2), (6,)],
         {"stride": 2, "padding": 1, "dilation": 2, "groups": 2}),
        (F.conv_transpose2d, [(2, 4, 3, 4), (4, 3, 3, 2), (6,)], {"stride": 2, "groups": 2}),
    ],
)  # fmt: skip
def test_convolutions_to_the_third_order(function, shapes, options):
    assert_same_gradients(function, random(*shapes), options, order=3)


def channels_last(x):
    return x.detach().to(memory_format=torch.channels_last).requires_grad_()


@pytest.mark.parametrize("change", [(True, False), (False, True), (True, True)], ids=str)
def test_channels_last_in_memory(change):
    """Of the input, of the weight, or of both."""
    x, weight, bias = random((2, 4, 7, 6), (6, 4, 3, 3), (6,))
    x, weight = (channels_last(t) if changed else t for t, changed in zip((x, weight), change))
    assert_same_gradients(F.conv2d, (x, weight, bias))
    assert_same_gradients(F.max_pool2d, (x, 2))
    assert_same_gradients(F.avg_pool2d, (x, 3), {"padding": 1})


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("mask", [(1, 1, 1), (1, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 1)], ids=str)
def test_kernel_of_the_gradients(mask, transposed):
    """A program may call it by itself; a mask says which of the three gradients it gives."""

    def wanted(g, x, weight):
        results = aten.convolution_backward(
            g, x, weight, [5], [1, 1], [1, 1], [1, 1], transposed, [0, 0], 1, list(map(bool, mask))
        )
        assert [result is not None for result in results] == list(map(bool, mask))
        return [result for result in results if result is not None]

    weight = (4, 5, 3, 3) if transposed else (5, 4, 3, 3)
    assert_same_gradients(wanted, random((2, 5, 6, 6), (2, 4, 6, 6), weight))


def test_gradients_of_convolutions_by_their_names_in_torch():
    g, x, weight = random((2, 5, 6, 6), (2, 4, 6, 6), (5, 4, 3, 3))
    assert_same_gradients(
        lambda g, w: gradients_of_torch.conv2d_input((2, 4, 6, 6), w, g, padding=1), (g, weight)
    )
    assert_same_gradients(
        lambda g, x: gradients_of_torch.conv2d_weight(x, (5, 4, 3, 3), g, padding=1), (g, x)
    )


# -------------------------------------------------------------------------- pooling

#: A function, the shape of its input, and options.
POOLS = [
    (F.avg_pool1d, (2, 3, 8), {"kernel_size": 3, "stride": 2, "padding": 1}),
    (F.avg_pool2d, (2, 3, 7, 8), {"kernel_size": 2}),
    (F.avg_pool2d, (3, 7, 8), {"kernel_size": 2}),
    (F.avg_pool2d, (2, 3, 7, 8),
     {"kernel_size": (3, 2), "stride": 1, "padding": 1, "ceil_mode": True,
      "count_include_pad": False}),
    (F.avg_pool2d, (2, 3, 7, 8), {"kernel_size": 3, "divisor_override": 5}),
    (F.avg_pool3d, (2, 3, 4, 5, 6), {"kernel_size": 2, "padding": 1, "ceil_mode": True}),
    (F.adaptive_avg_pool1d, (2, 3, 7), {"output_size": 4}),
    (F.adaptive_avg_pool2d, (2, 3, 7, 8), {"output_size": 1}),
    (F.adaptive_avg_pool2d, (2, 3, 7, 8), {"output_size": (3, None)}),
    (F.adaptive_avg_pool3d, (2, 3, 7, 8, 4), {"output_size": (1, 5, 2)}),
    (F.max_pool1d, (3, 8), {"kernel_size": 2}),
    (F.max_pool2d, (3, 7, 8), {"kernel_size": 2, "dilation": 2}),
    (F.max_pool2d, (2, 3, 7, 8),
     {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True, "return_indices": True}),
    (F.max_pool3d, (2, 3, 4, 5, 6), {"kernel_size": 2}),
    (F.adaptive_max_pool1d, (2, 3, 7), {"output_size": 3}),
    (F.adaptive_max_pool2d, (2, 3, 7, 8), {"output_size": (3, 5)}),
    (F.adaptive_max_pool3d, (2, 3, 7, 8, 4), {"output_size": (3, 5, 2)}),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("function", "shape", "options"), POOLS)
def test_pooling(function, shape, options, dtype):
    assert_same_gradients(function, random(shape, dtype=dtype), options, **TOLERANCES[dtype])


@pytest.mark.parametrize("function", [F.avg_pool2d, F.max_pool2d, F.adaptive_avg_pool2d])
def test_pooling_to_the_third_order(function):
    assert_same_gradients(lambda x: function(x, 2) ** 3, random((1, 2, 5, 6)), order=3)


def test_windows_that_overlap_at_their_maximum():
    """One element collects the gradients of all windows that it is the largest of."""
    x = torch.zeros(1, 1, 5, 5, dtype=torch.float64)
    x[0, 0, 2, 2] = 1
    assert_same_gradients(F.max_pool2d, (x.requires_grad_(), 3, 1))


def test_pooling_of_powers():
    (x,) = random((2, 3, 7, 8))
    assert_same_gradients(F.lp_pool2d, (x.detach().sigmoid().requires_grad_(), 2.0, 3))


def test_pooling_undone():
    def undone(x):
        y, indices = F.max_pool2d(x, 2, return_indices=True)
        return F.max_unpool2d(y, indices, 2) * x

    assert_same_gradients(undone, random((2, 3, 6, 8)))


@pytest.mark.parametrize(("pool", "dims"), [(F.max_pool2d, 2), (F.max_pool3d, 3)])
def test_kernel_of_the_gradient_of_a_maximum(pool, dims):
    x, g = random((2, 3, *[6] * dims), (2, 3, *[3] * dims))
    _, indices = pool(x.detach(), 2, return_indices=True)
    kernel = getattr(aten, f"max_pool{dims}d_with_indices_backward")
    zeros, ones = [0] * dims, [1] * dims
    assert_same_gradients(kernel, (g, x, [2] * dims, [2] * dims, zeros, ones, False, indices))


# -------------------------------------------------------------------------- columns


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(
    ("function", "shape", "options"),
    [
        (F.unfold, (2, 3, 5, 6), {"kernel_size": 2}),
        (F.unfold, (3, 5, 6), {"kernel_size": (2, 3)}),
        (F.unfold, (2, 3, 5, 6),
         {"kernel_size": (2, 3), "dilation": 2, "padding": 1, "stride": 2}),
        (F.fold, (2, 12, 6), {"output_size": (4, 3), "kernel_size": (2, 2)}),
        (F.fold, (12, 6), {"output_size": (4, 3), "kernel_size": 2}),
        (F.fold, (2, 12, 6),
         {"output_size": (4, 6), "kernel_size": (2, 2), "stride": 2}),
    ],
)  # fmt: skip
def test_columns(function, shape, options, dtype):
    assert_same_gradients(function, random(shape, dtype=dtype), options, **TOLERANCES[dtype])


def test_columns_to_the_third_order():
    options = {"kernel_size": (2, 3), "padding": 1, "stride": 2}
    (x,) = random((2, 3, 5, 6))
    assert_same_gradients(lambda x: F.unfold(x, **options) ** 3, (x,), order=3)
