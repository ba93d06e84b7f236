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
        """Zeros for all members, in the places of tensors like this."""
        lanes = (self.lanes,) if self.lanes > 1 else ()
        return torch.zeros(self.blocks, *like.shape, *lanes, dtype=like.dtype)

    def fill(self, stack: torch.Tensor, tensor: torch.Tensor) -> None:
        """Let a stack hold one tensor for all members, and in the lanes that are left over."""
        stack.copy_(tensor.unsqueeze(-1) if self.lanes > 1 else tensor)

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
