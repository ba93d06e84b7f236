"""Points of a square, labeled by the circles that they are in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from tinygrad_ee559.tensor import Tensor

_RADIUS = 1 / math.sqrt(2 * math.pi)  # of a disk of area 1/2


class Circle(NamedTuple):
    """A circle in the plane, by its center and its radius."""

    center: tuple[float, float]
    radius: float


@dataclass(frozen=True)
class Region:
    """A square, and circles where the labels of its points change.

    What is inside all circles has label 1, and each circle on the way out changes the label. There
    are `DISK`, `RING` and `CENTERED_DISK`.

    Args:
        low: the least value of either coordinate.
        high: the greatest.
        circles: the curves between the labels.

    >>> DISK
    Region(low=0.0, high=1.0, circles=(Circle(center=(0.5, 0.5), radius=0.398...),))
    """

    low: float
    high: float
    circles: tuple[Circle, ...]

    def label(self, points: Tensor | torch.Tensor) -> Tensor:
        """The labels of points.

        Args:
            points: `[..., 2]`, of the square or not.

        Returns:
            int64 `[...]`, 1 where a point is outside of an even number of circles, and 0 elsewhere.

        >>> RING.label(Tensor([[0.1, 0.1], [0.5, 0.5], [0.9, 0.9]]))
        Tensor([1, 0, 1])
        """
        values = Tensor(points).as_torch()
        values = values.to(torch.result_type(values, 0.5))  # centers are no integers
        labels = torch.ones(values.shape[:-1], dtype=torch.int64, device=values.device)
        for center, radius in self.circles:
            inside = (values - values.new_tensor(center)).square().sum(-1) < radius**2
            labels = torch.where(inside, labels, 1 - labels)
        return Tensor(labels)

    def sample(
        self, count: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Points drawn uniformly from the square, and their labels.

        Args:
            count: the number of points.
            generator: draws them; torch's global one if None.

        Returns:
            Points, `[count, 2]` of torch's default dtype; labels, int64 `[count]`. Neither requires
            gradients.

        >>> points, labels = RING.sample(1000, torch.Generator().manual_seed(0))
        >>> points.shape, labels.sum()
        (torch.Size([1000, 2]), Tensor(346))
        """
        points = self.low + (self.high - self.low) * torch.rand(count, 2, generator=generator)
        return Tensor(points), self.label(points)


#: The unit square, and in its middle a disk that covers half of it.
DISK = Region(0.0, 1.0, (Circle((0.5, 0.5), _RADIUS),))
#: The unit square, and between two circles around its corner a quarter of a ring.
RING = Region(0.0, 1.0, (Circle((0.0, 0.0), _RADIUS), Circle((0.0, 0.0), 1.0)))
#: The square of side 2 around the origin, and in its middle a disk that covers an eighth of it.
CENTERED_DISK = Region(-1.0, 1.0, (Circle((0.0, 0.0), _RADIUS),))


def disk(count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Points of the unit square and whether they are inside the disk that covers half of it.

    Args:
        count: the number of points.
        generator: draws them; torch's global one if None.

    Returns:
        Points, `[count, 2]`, uniform in [0, 1]; labels, int64 `[count]`, 1 inside the disk of
        radius 1/√(2π) around (0.5, 0.5) and 0 outside. Neither requires gradients.

    >>> points, labels = disk(1000, torch.Generator().manual_seed(0))
    >>> points.shape, labels.sum()
    (torch.Size([1000, 2]), Tensor(490))
    """
    return DISK.sample(count, generator)


def ring(count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Points of the unit square and whether they are outside of the ring around its corner.

    Args:
        count: the number of points.
        generator: draws them; torch's global one if None.

    Returns:
        Points, `[count, 2]`, uniform in [0, 1]; labels, int64 `[count]`, 0 where the distance from
        (0, 0) is between 1/√(2π) and 1, and 1 elsewhere, which is 34 % of the square. Neither
        requires gradients.

    >>> points, labels = ring(1000, torch.Generator().manual_seed(0))
    >>> points.shape, labels.sum()
    (torch.Size([1000, 2]), Tensor(346))
    """
    return RING.sample(count, generator)


def centered_disk(count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Points around the origin and whether they are inside the disk that covers an eighth of them.

    Args:
        count: the number of points.
        generator: draws them; torch's global one if None.

    Returns:
        Points, `[count, 2]`, uniform in [-1, 1]; labels, int64 `[count]`, 1 inside the disk of
        radius 1/√(2π) around (0, 0), which is the minority, and 0 outside. Neither requires
        gradients.

    >>> points, labels = centered_disk(1000, torch.Generator().manual_seed(0))
    >>> points.shape, labels.sum()
    (torch.Size([1000, 2]), Tensor(129))
    """
    return CENTERED_DISK.sample(count, generator)
