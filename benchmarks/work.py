"""The work that every side of a comparison does: the same networks, parameters and data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from benchmarks.steps import DISK, MNIST, network

RATE = 0.01


class Side(NamedTuple):
    """One way to do the work."""

    lap: Callable[[], object]  # trains on all of the data once, and returns when that is done
    steps: int  # how many (model-)steps a lap makes
    parameters: Callable[[], list[np.ndarray]]  # as they are now, weights laid out as PyTorch's


@dataclass(frozen=True)
class Work:
    """Training by plain gradient descent, in float32, on another batch at every step."""

    sizes: tuple[int, ...]
    batch: int
    steps: int
    members: int | None = None  # how many models, each with its own data and learning rate

    @property
    def loss(self) -> str:
        return "MSELoss" if self.sizes is DISK else "CrossEntropyLoss"

    def model(self, member: int = 0) -> nn.Sequential:
        """The model, or one of the models, before training."""
        torch.manual_seed(member)
        return network(nn, self.sizes)

    def rates(self) -> torch.Tensor:
        """The learning rate of each member."""
        return torch.linspace(0.2 * RATE, 2 * RATE, self.members)

    def data(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets, whose axes are steps, members (if there are any), batch, features."""
        generator = torch.Generator().manual_seed(1)
        lead = [n for n in (self.steps, self.members, self.batch) if n is not None]
        x = torch.rand(*lead, self.sizes[0], generator=generator)
        if self.loss == "CrossEntropyLoss":
            return x, torch.randint(0, self.sizes[-1], lead, generator=generator)
        inside = ((x - 0.5).square().sum(-1) < 0.5 / torch.pi).long()
        return x, nn.functional.one_hot(inside, 2).float()

    def batches(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(zip(*self.data()))


def disk(batch: int, steps: int, members: int | None = None) -> Work:
    """Is a point of the unit square in the disk? 2-25-25-25-2, mean squared error."""
    return Work(DISK, batch, steps, members)


def mnist(batch: int, steps: int) -> Work:
    """Something as large as handwritten digits: 784-512-512-512-10, cross-entropy."""
    return Work(MNIST, batch, steps)
