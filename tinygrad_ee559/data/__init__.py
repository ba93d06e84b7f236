"""Data to learn from, its preparation, and mini-batches of it."""

from tinygrad_ee559.data.batches import Batches
from tinygrad_ee559.data.disks import (
    CENTERED_DISK,
    DISK,
    RING,
    Circle,
    Region,
    centered_disk,
    disk,
    ring,
)
from tinygrad_ee559.data.mnist import fetch_mnist, mnist, read_idx
from tinygrad_ee559.data.prepare import mean_and_std, normalize, one_hot

__all__ = [
    "CENTERED_DISK",
    "DISK",
    "RING",
    "Batches",
    "Circle",
    "Region",
    "centered_disk",
    "disk",
    "fetch_mnist",
    "mean_and_std",
    "mnist",
    "normalize",
    "one_hot",
    "read_idx",
    "ring",
]
