"""Mini-batches: the samples in an order, so many at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tinygrad_ee559.tensor import Tensor, lift


class Batches:
    """Mini-batches of inputs and targets; every loop over it is one epoch.

    The generator alone decides the order: whoever saves `generator.get_state()` between two epochs
    and later gives it to `generator.set_state` goes on with the same batches.

    Args:
        inputs: what the model sees, one sample per row; a tensor of either kind, of any rank.
        targets: what it should answer, one per row of `inputs`.
        batch_size: rows per batch; the last batch has what is left.
        generator: shuffles anew in every epoch; without one, rows come in their order.
        drop_last: leave out the last batch if it is smaller than the others.

    Yields:
        Pairs of tensors without gradients, which share no memory with the samples.

    Raises:
        ValueError: there are no rows, their numbers differ, or there would be no batch or an
            empty one.

    >>> batches = Batches(torch.arange(5), torch.arange(5), batch_size=2)
    >>> len(batches)
    3
    >>> [inputs.tolist() for inputs, targets in batches]
    [[0, 1], [2, 3], [4]]

    >>> generator = torch.Generator().manual_seed(0)
    >>> batches = Batches(torch.arange(5), torch.arange(5), 2, generator)
    >>> state = generator.get_state()
    >>> [inputs.tolist() for inputs, targets in batches]
    [[4, 0], [1, 3], [2]]
    >>> _ = generator.set_state(state)
    >>> [inputs.tolist() for inputs, targets in batches]
    [[4, 0], [1, 3], [2]]
    """

    def __init__(
        self,
        inputs: Tensor | torch.Tensor,
        targets: Tensor | torch.Tensor,
        batch_size: int,
        generator: torch.Generator | None = None,
        *,
        drop_last: bool = False,
    ) -> None:
        if len(inputs) != len(targets) or len(inputs) == 0:
            raise ValueError(
                f"batches need as many inputs as targets, at least one, and there are "
                f"{len(inputs)} inputs and {len(targets)} targets"
            )
        if batch_size < 1:
            raise ValueError(f"a batch needs at least one sample, and batch_size is {batch_size}")
        if drop_last and batch_size > len(inputs):
            raise ValueError(
                f"drop_last leaves no batch: {len(inputs)} samples do not fill one of {batch_size}"
            )
        self.inputs = Tensor(inputs).as_torch()
        self.targets = Tensor(targets).as_torch()
        self.batch_size = batch_size
        self.generator = generator
        self.drop_last = drop_last

    def __len__(self) -> int:
        full, left = divmod(len(self.inputs), self.batch_size)
        return full + (left > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        used = min(len(self) * self.batch_size, len(self.inputs))
        if self.generator is None:
            in_order = (
                torch.split(rows[:used], self.batch_size) for rows in (self.inputs, self.targets)
            )
            for inputs, targets in zip(*in_order):  # as copies, which may be changed in place
                yield lift(inputs.clone(), None), lift(targets.clone(), None)
            return
        order = torch.randperm(
            len(self.inputs), generator=self.generator, device=self.generator.device
        )
        for picked in torch.split(order[:used].to(self.inputs.device), self.batch_size):
            inputs = self.inputs.index_select(0, picked)
            targets = self.targets.index_select(0, picked)
            yield lift(inputs, None), lift(targets, None)
