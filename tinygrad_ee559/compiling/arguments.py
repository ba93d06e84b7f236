"""Arguments: what a function is given, and what it may not do to that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tinygrad_ee559.compiling.histories import has_new_history
from tinygrad_ee559.compiling.places import SCALARS, Look, Place, has_frozen_gradient
from tinygrad_ee559.compiling.state import State
from tinygrad_ee559.errors import CaptureError, MixedGraphError
from tinygrad_ee559.tape import Leaf
from tinygrad_ee559.tensor import Tensor


class Arguments:
    """What a run was given, however nested.

    Attributes:
        leaves: the tensors and numbers.
        raws: the same as torch tensors.
        looks: how they looked before the run.
        numbers: the number of each torch tensor, by its id.
        owners: the number of the argument whose gradient gathers in a leaf, by the leaf's id.

    Raises:
        CaptureError, MixedGraphError: programs could not know what is given.
    """

    def __init__(self, leaves: Sequence[Any]) -> None:
        for leaf in leaves:
            _check(leaf)
        self.leaves = leaves
        self.raws = [leaf._data if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self.looks = [Look(leaf) for leaf in leaves]
        raws = enumerate(self.raws)
        self.numbers = {id(raw): i for i, raw in raws if isinstance(raw, torch.Tensor)}
        nodes = [leaf.node if isinstance(leaf, Tensor) else None for leaf in leaves]
        self.owners = {id(node): i for i, node in enumerate(nodes) if isinstance(node, Leaf)}
        self._gathering = [_gathering(leaf) for leaf in leaves]

    def check_same(self, leaves: Sequence[Any], start: int) -> None:
        """Raise an error if a run has changed what it was given other than in place.

        Args:
            leaves: what is given after the run.
            start: the run began after this node.
        """
        if len(leaves) != len(self.leaves) or any(
            one is not other for one, other in zip(self.leaves, leaves)
        ):
            raise CaptureError(
                "a compiled function changed a list or dict that it was given, which programs do "
                "not do; return what is new, or hold the list or dict as a closure or in self"
            )
        for i, (leaf, raw, look) in enumerate(zip(leaves, self.raws, self.looks)):
            if isinstance(raw, torch.Tensor) and raw.requires_grad != look.requires_grad:
                raise required(raw)
            if not isinstance(leaf, Tensor):
                continue
            if _gathering(leaf) != self._gathering[i]:
                raise CaptureError(
                    f"argument {i} of a compiled function was let require gradients, or frozen, "
                    "inside it, which programs do not do; have it work on "
                    "x.detach().requires_grad_(), or do that before the call"
                )
            if has_new_history(leaf, start):
                raise CaptureError(
                    f"argument {i} of a compiled function was changed in place by what gradients "
                    "go through, and programs do not keep such a history; return what is new, or "
                    "change the argument under no_grad()"
                )
            if leaf._data is not raw:
                raise CaptureError(
                    f"argument {i} of a compiled function was given another tensor by `.data =`, "
                    "which programs do not do; change it in place, as by x.data.copy_(y), or "
                    "return it"
                )

    def check_not_kept(self, exchanges: Sequence[tuple[Place, Tensor]]) -> None:
        """Raise an error if a run has put an argument in which gradients gather into a place."""
        for place, tensor in exchanges:
            if any(tensor is leaf for leaf in self.leaves):
                raise CaptureError(
                    f"{place} was given an argument of a compiled function, in which gradients "
                    "gather; programs would put there what this call was given: keep "
                    "tensor.detach()"
                )


def required(tensor: torch.Tensor) -> CaptureError:
    """Says that a torch tensor was let require gradients inside."""
    return CaptureError(
        f"a torch.Tensor, of shape {list(tensor.shape)}, was let require gradients of torch's own "
        "inside of a compiled function, or no more, which programs do not do; do it outside, or "
        "use Tensor(t, requires_grad=True)"
    )


def _gathering(value: Any) -> tuple[bool, bool]:
    """Whether gradients gather in an argument, and whether one is left there from before."""
    if not isinstance(value, Tensor):
        return False, False
    return isinstance(value.node, Leaf), has_frozen_gradient(value)


def _check(value: Any) -> None:
    """Raise an error that says what else to do, where programs could not know what is given."""
    if isinstance(value, torch.Tensor) and value.requires_grad:
        raise MixedGraphError(
            f"a compiled function was given a torch.Tensor, of shape {list(value.shape)}, that "
            "requires gradients of torch's own; wrap it with Tensor(t, requires_grad=True), or "
            "pass t.detach()"
        )
    if isinstance(value, Tensor) and has_frozen_gradient(value):
        raise CaptureError(
            f"a compiled function was given a tensor, of shape {list(value.shape)}, that is frozen "
            "and has a gradient, at which programs do not look; pass tensor.detach(), or have the "
            "function itself hold the tensor"
        )
    if isinstance(value, (Tensor, torch.Tensor, *SCALARS)):
        return
    if isinstance(value, np.ndarray) or State(value).tensors:
        raise CaptureError(
            "a compiled function is given tensors and numbers, in lists, tuples and dicts, and not "
            f"a {type(value).__name__}; make an array a tensor, and have the function itself hold "
            "what has tensors, as a closure or a method"
        )
