"""Fourier transforms, against torch.autograd."""

import pytest
import torch
from compare import assert_same_gradients

NORMS = ["backward", "ortho", "forward"]


def random(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("n", [None, 1, 2, 5, 6, 9])
@pytest.mark.parametrize(
    ("function", "dtype"),
    [
        (torch.fft.fft, torch.complex128), (torch.fft.ifft, torch.complex128),
        (torch.fft.fft, torch.float64), (torch.fft.rfft, torch.float64),
        (torch.fft.irfft, torch.complex128), (torch.fft.irfft, torch.float64),
        (torch.fft.hfft, torch.complex128), (torch.fft.ihfft, torch.float64),
    ],
)  # fmt: skip
def test_sizes_that_cut_and_that_fill_up(function, dtype, n, norm):
    """Even and odd ones: only even ones have a frequency that is its own mirror image."""
    assert_same_gradients(function, (random(3, 6, dtype=dtype),), {"n": n, "norm": norm})


@pytest.mark.parametrize(
    ("function", "dtype"),
    [
        (torch.fft.fft, torch.complex64), (torch.fft.rfft, torch.float32),
        (torch.fft.irfft, torch.complex64), (torch.fft.ihfft, torch.float32),
    ],
)  # fmt: skip
def test_single_precision(function, dtype):
    x = random(3, 6, dtype=dtype)
    assert_same_gradients(function, (x,), {"dim": 0}, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"s": (4, 9)}, {"dim": (2, 0)}, {"norm": "ortho"}],
                         ids=str)  # fmt: skip
@pytest.mark.parametrize(
    ("function", "dtype"),
    [
        (torch.fft.fft2, torch.complex128), (torch.fft.ifftn, torch.complex128),
        (torch.fft.rfft2, torch.float64), (torch.fft.rfftn, torch.float64),
        (torch.fft.irfft2, torch.complex128), (torch.fft.irfftn, torch.complex128),
        (torch.fft.hfft2, torch.complex128), (torch.fft.ihfft2, torch.float64),
    ],
)  # fmt: skip
def test_several_dimensions(function, dtype, options):
    assert_same_gradients(function, (random(2, 3, 4, dtype=dtype),), options)


@pytest.mark.parametrize(
    ("function", "dtype", "options"),
    [
        (torch.fft.fft, torch.complex128, {}),
        (torch.fft.rfft, torch.float64, {"n": 5}),
        (torch.fft.irfft2, torch.complex128, {"s": (4, 9)}),
    ],
)
def test_third_order(function, dtype, options):
    """Of what is not linear any more."""
    x = random(3, 6, dtype=dtype)
    assert_same_gradients(function, (x,), options, order=3)
    assert_same_gradients(lambda x: function(x, **options) ** 3, (x,), order=3)


@pytest.mark.parametrize("shift", [torch.fft.fftshift, torch.fft.ifftshift])
def test_shifts(shift):
    assert_same_gradients(lambda x: shift(torch.fft.fft(x)), (random(3, 5),))


@pytest.mark.parametrize("onesided", [True, False])
@pytest.mark.parametrize("center", [True, False])
def test_spectrogram_and_back(center, onesided):
    window = torch.hann_window(8, dtype=torch.float64) + 0.1
    options = {"n_fft": 8, "hop_length": 4, "center": center, "onesided": onesided}

    def spectrogram(x, window):
        return torch.stft(x, window=window, return_complex=True, **options)

    x = random(2, 32)
    assert_same_gradients(spectrogram, (x, window.requires_grad_()))
    assert_same_gradients(lambda x, w: spectrogram(x, w).abs(), (x, window), order=1)
    assert_same_gradients(
        lambda x, w: torch.istft(spectrogram(x, w) ** 2, window=w, **options), (x, window)
    )
