"""Sampling of images and volumes, on another grid and anywhere, against torch.autograd."""

import pytest
import torch
import torch.nn.functional as F
from compare import assert_same_gradients

import tinygrad_ee559 as tg

aten = torch.ops.aten


def random(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()


# ------------------------------------------------------------------- on another grid

LINE, IMAGE, VOLUME = (2, 3, 7), (2, 3, 7, 5), (1, 2, 3, 4, 5)
NEAREST = ["nearest", "nearest-exact"]
#: A shape and options of F.interpolate.
RESIZED = [
    *((LINE, {"scale_factor": 1.7, "mode": mode}) for mode in (*NEAREST, "linear", "area")),
    *((IMAGE, {"size": (4, 9), "mode": mode})
      for mode in (*NEAREST, "bilinear", "bicubic", "area")),
    *((IMAGE, {**options, "mode": mode})
      for mode in ("bilinear", "bicubic")
      for options in (
          {"size": (4, 9), "align_corners": True},
          {"scale_factor": (0.6, 1.3), "antialias": True},
          {"scale_factor": 0.6, "recompute_scale_factor": True},
      )),
    *((VOLUME, {"size": (4, 3, 7), "mode": mode}) for mode in (*NEAREST, "trilinear", "area")),
    (VOLUME, {"scale_factor": 2, "mode": "trilinear", "align_corners": True}),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "options"), RESIZED)
def test_interpolate(shape, options):
    assert_same_gradients(F.interpolate, (random(*shape),), options)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic", "area"])
def test_single_precision(mode):
    options = {"size": (4, 9), "mode": mode}
    x = random(*IMAGE, dtype=torch.float32)
    assert_same_gradients(F.interpolate, (x,), options, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_channels_last_in_memory(mode):
    x = random(*IMAGE).detach().to(memory_format=torch.channels_last).requires_grad_()
    assert_same_gradients(F.interpolate, (x,), {"scale_factor": 2, "mode": mode})


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_interpolate_to_the_third_order(mode):
    options = {"size": (4, 9), "mode": mode}
    assert_same_gradients(
        lambda x: F.interpolate(x, **options) ** 3, (random(1, 2, 3, 5),), order=3
    )


@pytest.mark.parametrize(
    ("kernel", "dims", "options"),
    [
        ("upsample_nearest1d", 1, ()), ("_upsample_nearest_exact1d", 1, ()),
        ("upsample_linear1d", 1, (False,)),
        ("upsample_nearest2d", 2, ()), ("_upsample_nearest_exact2d", 2, ()),
        ("upsample_bilinear2d", 2, (False,)), ("upsample_bilinear2d", 2, (True,)),
        ("upsample_bicubic2d", 2, (False,)), ("_upsample_bilinear2d_aa", 2, (False,)),
        ("_upsample_bicubic2d_aa", 2, (False,)), ("_upsample_lanczos2d_aa", 2, (False,)),
        ("upsample_nearest3d", 3, ()), ("_upsample_nearest_exact3d", 3, ()),
        ("upsample_trilinear3d", 3, (True,)),
    ],
)  # fmt: skip
def test_kernels(kernel, dims, options):
    """A program may call them by themselves, and those of their gradients."""
    if not hasattr(aten, kernel):
        pytest.skip(f"torch {torch.__version__} has no {kernel}")
    before, after = [7, 5, 3][:dims], [4, 9, 2][:dims]
    forward, backward = getattr(aten, kernel), getattr(aten, f"{kernel}_backward")
    assert_same_gradients(forward, (random(2, 3, *before), after, *options))
    g = random(2, 3, *after)
    assert_same_gradients(backward, (g, after, [2, 3, *before], *options))


@pytest.mark.parametrize("function", [F.pixel_shuffle, F.pixel_unshuffle])
def test_pixels_in_place_of_channels(function):
    assert_same_gradients(function, (random(1, 8, 4, 6), 2))


# ---------------------------------------------------------------------- at any place

SIZES = [(4, 5, 3), (1, 6, 2)]
MODES = [(2, "bilinear"), (2, "nearest"), (2, "bicubic"), (3, "bilinear"), (3, "nearest")]


def grids(dims, align_corners):
    """Places inside and outside of the image; and some at its very edges."""
    generator = torch.Generator().manual_seed(1)
    anywhere = torch.rand(1, *(3, 2, 2)[:dims], dims, generator=generator, dtype=torch.float64)
    same = torch.eye(dims, dims + 1, dtype=torch.float64)[None]
    edges = F.affine_grid(same, (1, 1, *(6, 4, 5)[:dims]), align_corners=align_corners)
    return [(anywhere * 3 - 1.5).requires_grad_(), edges.clone().requires_grad_()]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize(("dims", "mode"), MODES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_grid_sample(size, dims, mode, padding_mode, align_corners):
    """Of the second derivatives PyTorch has none."""
    options = {"mode": mode, "padding_mode": padding_mode, "align_corners": align_corners}
    x = random(1, 2, *size[:dims])
    for grid in grids(dims, align_corners):
        assert_same_gradients(F.grid_sample, (x, grid), options, order=1)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize(("dims", "mode"), MODES)
def test_second_derivatives_of_grid_sample(dims, mode, padding_mode, align_corners):
    anywhere, _ = grids(dims, align_corners)
    two_places = anywhere.reshape(1, -1, *[1] * (dims - 1), dims)[:, :2]
    x = random(1, 1, *(3, 4, 2)[:dims])
    inputs = [tg.Tensor(t.detach(), requires_grad=True) for t in (x, two_places)]
    assert tg.gradgradcheck(
        lambda x, grid: F.grid_sample(
            x, grid, mode=mode, padding_mode=padding_mode, align_corners=align_corners
        ),
        inputs,
    )


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_grid_sample_in_single_precision(mode):
    x = random(1, 2, 4, 5, dtype=torch.float32)
    grid = grids(2, False)[0].detach().float().requires_grad_()
    options = {"mode": mode, "align_corners": False}
    assert_same_gradients(F.grid_sample, (x, grid), options, order=1, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(2, 3, 4, 5), (2, 1, 3, 4, 2)], ids=str)
def test_affine_grid(size, align_corners):
    dims = len(size) - 2
    options = {"size": size, "align_corners": align_corners}
    assert_same_gradients(F.affine_grid, (random(2, dims, dims + 1),), options)
