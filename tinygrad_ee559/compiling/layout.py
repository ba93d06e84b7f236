"""Layouts: how the tensors of an ensemble's members lie in stacks.

Where batches are large, one model after the other runs, which then stays in the nearest cache; a
stack has a first dimension of members. Where they are small, `LANES` models run side by side; a
stack has a first dimension of blocks of so many, and a last one of lanes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class Layout(NamedTuple):
    """How so many members lie in blocks of so many lanes, each member in its own if that is 1."""

    members: int
    lanes: int

    @property
    def blocks(self) -> int:
        return -(-self.members // self.lanes)

    def stack(self, like: torch.Tensor) -> torch.Tensor:
        """New memory for all members, in the places of tensors like this."""
        one = self.block(like)
        stack = torch.empty(self.blocks, one.numel(), dtype=one.dtype, device=one.device)
        return stack.as_strided((self.blocks, *one.shape), (one.numel(), *one.stride()))

    def block(self, like: torch.Tensor) -> torch.Tensor:
        """New memory for the members of one block."""
        return dense(like, self.lanes)

    def left_over(self, stack: torch.Tensor) -> torch.Tensor | None:
        """The lanes of a stack that belong to no member, as a view, None if there are none."""
        count = self.blocks * self.lanes - self.members
        return stack[-1, ..., -count:] if count else None

    def spread(self, tensor: torch.Tensor, room: torch.Tensor) -> torch.Tensor:
        """A stack that shows one tensor to all members: itself, or a copy in the memory of a block
        if it is laid out in another way."""
        tensor = tensor.resolve_conj().resolve_neg()
        if self.lanes > 1 or tensor.stride() != room.stride():
            tensor = room.copy_(tensor.unsqueeze(-1) if self.lanes > 1 else tensor)
        return tensor.expand(self.blocks, *tensor.shape)

    def parts(self, stack: torch.Tensor) -> list[torch.Tensor]:
        """Each member's part of a stack, as views."""
        parts = list(stack.unbind(0))
        if self.lanes > 1:
            parts = [part for block in parts for part in block.unbind(-1)]
        return parts[: self.members]

    def by_member(self, results: torch.Tensor) -> torch.Tensor:
        """The results of all steps with a dimension of members in place of blocks and lanes."""
        if self.lanes > 1:
            results = results.movedim(-1, 2).flatten(1, 2)
        return results[:, : self.members]

    def by_block(self, stream: torch.Tensor) -> torch.Tensor:
        """A stream of arguments with blocks and lanes in place of members."""
        if self.lanes == 1:
            return stream.contiguous()
        missing = self.blocks * self.lanes - self.members
        if missing:
            stream = torch.cat([stream, stream[:, :1].expand(-1, missing, *stream.shape[2:])], 1)
        steps, _, *shape = stream.shape
        stream = stream.reshape(steps, self.blocks, self.lanes, *shape)
        return stream.movedim(2, -1).contiguous()


def dense(like: torch.Tensor, lanes: int = 1) -> torch.Tensor:
    """New memory for a tensor, or for one in each lane: without gaps, and with the dimensions in
    the same order, so that it can be viewed in the same ways."""
    order = sorted(range(like.ndim), key=like.stride, reverse=True)
    shape = [*(like.shape[d] for d in order), *([lanes] if lanes > 1 else [])]
    room = torch.empty(shape, dtype=like.dtype, device=like.device)
    return room.permute([*map(order.index, range(like.ndim)), *range(like.ndim, room.ndim)])
