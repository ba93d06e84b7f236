"""Data: fresh points of a region for every trial, or handwritten digits."""

from __future__ import annotations

import os
from typing import NamedTuple

import torch

from tinygrad_ee559.data import Region, mean_and_std, mnist, normalize
from tinygrad_ee559.tensor import Tensor

POINTS = 1000  # to learn from, and as many to be tested on


class Data(NamedTuple):
    """Inputs with their classes, to learn from and to be tested on."""

    inputs: Tensor
    labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor


def points(region: Region, generator: torch.Generator, normalized: bool = False) -> Data:
    """New points of a region, as they are or with mean 0 and standard deviation 1."""
    inputs, labels = region.sample(POINTS, generator)
    test_inputs, test_labels = region.sample(POINTS, generator)
    if normalized:
        mean, std = mean_and_std(inputs)
        inputs, test_inputs = normalize(inputs, mean, std), normalize(test_inputs, mean, std)
    return Data(inputs, labels, test_inputs, test_labels)


def digits(folder: str | os.PathLike[str] | None, samples: int) -> Data:
    """The first images of MNIST to learn from and all of its test images, normalized alike."""
    images, labels = mnist(folder)
    test_images, test_labels = mnist(folder, train=False)
    rows, test_rows = images[:samples].reshape(-1, 784), test_images.reshape(-1, 784)
    mean, std = rows.data.mean().item(), rows.data.std().item()
    return Data(
        normalize(rows, mean, std), labels[:samples], normalize(test_rows, mean, std), test_labels
    )
