"""Places: where Python keeps something, and what programs depend on in what is there."""

from __future__ import annotations

import types
from typing import Any, NamedTuple

import numpy as np
import torch

from tinygrad_ee559.tape import Leaf
from tinygrad_ee559.tensor import Tensor, leaf_of, lift

#: Values that are compared; of all others it counts which object they are.
SCALARS = (
    int, float, complex, bool, str, bytes, type(None), range, slice, np.generic,
    torch.dtype, torch.device,
)  # fmt: skip


class _Nothing:
    def __repr__(self) -> str:
        return "nothing"


#: What is found where nothing is: in an empty slot or variable, or where an entry is gone.
NOTHING = _Nothing()


def is_value(value: Any) -> bool:
    """Whether it is one of these values, or a tuple of such."""
    tuples = tuple, torch.Size  # others may have fields
    return isinstance(value, SCALARS) or type(value) in tuples and all(map(is_value, value))


class Place:
    """Where something is kept: an entry of a dict or list, a variable, a tensor's value, a slot.

    Args:
        holder: what has it.
        key: the key, or the slot.
        path: how it is called.
    """

    __slots__ = ("holder", "key", "path")

    def __init__(self, holder: Any, key: Any, path: str) -> None:
        self.holder = holder
        self.key = key
        self.path = path

    def __repr__(self) -> str:
        return self.path

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Place) or self.holder is not other.holder:
            return False
        return self.key is other.key or (isinstance(self.key, SCALARS) and self.key == other.key)

    def __hash__(self) -> int:
        return hash((id(self.holder), self.key))

    def identity(self) -> str:
        """What tells it from all other places, as long as all are there."""
        key = "" if isinstance(self.key, SCALARS) else f" at {id(self.key)}"
        return f"{self.path} of {id(self.holder)}{key}"

    def is_slot(self) -> bool:
        """Whether it is a slot of an object, which has no dict of fields."""
        return self.key.__class__ is types.MemberDescriptorType

    def get(self) -> Any:
        """What is there; `NOTHING` if nothing is, not even None."""
        holder = self.holder
        if holder.__class__ is Leaf:
            return holder.grad
        if isinstance(holder, Tensor):
            return holder._data
        try:
            if self.is_slot():
                return self.key.__get__(holder)
            if isinstance(holder, types.CellType):
                return holder.cell_contents
        except (AttributeError, ValueError):
            return NOTHING
        if isinstance(holder, dict):
            return dict.get(holder, self.key, NOTHING)  # whatever the user's `get` does
        return holder[self.key] if self.key < len(holder) else NOTHING

    def tensor(self) -> torch.Tensor | None:
        """The torch tensor that is there, None if there is none."""
        holder = self.holder
        value = holder._data if isinstance(holder, Tensor) else self.get()
        if value.__class__ is torch.Tensor:  # as nearly all, at every call of a program
            return value
        if isinstance(value, Tensor):  # one in which gradients gather has a place of its own
            value = None if leaf_of(value) is not None else value._data
        return value if isinstance(value, torch.Tensor) else None

    def number(self) -> Any:
        """The number that is wrapped there."""
        value = self.get()
        return value._data if isinstance(value, Tensor) else value

    def put(self, value: torch.Tensor | None, wrapped: bool, inside: bool = False) -> None:
        """Put another tensor there, wrapped as a `Tensor` or not, or None.

        Args:
            value: the tensor.
            wrapped: whether it is wrapped.
            inside: let the `Tensor` that is there hold it.
        """
        holder = self.holder
        if inside:
            self.get().data = value
        elif holder.__class__ is Leaf:
            holder.grad = None if value is None else lift(value, None)
        elif isinstance(holder, Tensor):
            holder.data = value
        else:
            self.put_object(lift(value, None) if wrapped else value)

    def put_object(self, value: Any) -> None:
        """Put something else there."""
        if isinstance(self.holder, types.CellType):
            self.holder.cell_contents = value
        elif self.is_slot():
            self.key.__set__(self.holder, value)
        else:
            self.holder[self.key] = value


class Gradient(NamedTuple):
    """The gradient that an argument has gathered."""

    argument: int


class Numbers(NamedTuple):
    """What was in a NumPy array, as it may be changed in place."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    content: bytes


def kept(value: Any) -> Any:
    """A value as it is now: an array's numbers, else the value itself."""
    if isinstance(value, np.ndarray):
        return Numbers(value.shape, value.dtype, value.tobytes())
    return value


def in_words(value: Any) -> str:
    """What something is; methods of the user's are not asked."""
    if is_value(value) or value is NOTHING or isinstance(value, (Tensor, torch.Tensor)):
        return f"{value!r:.80}"
    return f"a {type(value).__name__}"


def same(one: Any, other: Any) -> bool:
    """Whether programs may take one value for the other."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, (float, complex, np.inexact)):  # zeros have signs, and NaN is itself
        return np.array(one).tobytes() == np.array(other).tobytes()
    if isinstance(one, (*SCALARS, Numbers)):
        return bool(one == other)
    return is_value(one) and len(one) == len(other) and all(map(same, one, other))


class Look:
    """What programs depend on in a tensor: its layout and kind, not its numbers.

    Of anything that is no tensor, the value.
    """

    __slots__ = (
        "shape", "strides", "dtype", "device", "is_lazy", "lazy", "requires_grad", "kind", "value",
        "is_wrapped",
    )  # fmt: skip

    def __init__(self, value: Any) -> None:
        self.is_wrapped = isinstance(value, Tensor)
        self.kind = _kind(value) if self.is_wrapped else value.__class__
        raw = value._data if isinstance(value, Tensor) else value
        self.shape: torch.Size | None = None
        self.value = raw
        if isinstance(raw, torch.Tensor):
            self.value = None
            self.shape, self.strides = raw.shape, raw.stride()
            self.dtype, self.device = raw.dtype, raw.device
            #: Whether what is in memory is still to be conjugated, or negated.
            self.is_lazy = torch.Tensor.is_conj if raw.is_complex() else torch.Tensor.is_neg
            self.lazy = self.is_lazy(raw)
            self.requires_grad = raw.requires_grad

    def fits(self, value: Any) -> bool:
        """Whether another value looks the same."""
        if isinstance(value, Tensor):
            kind = _kind(value)
            value = value._data
        else:
            kind = value.__class__
        if kind is not self.kind:
            return False
        if self.shape is None:
            return same(self.value, value)
        return (
            isinstance(value, torch.Tensor)
            and value.shape == self.shape
            and value.dtype is self.dtype
            and value.stride() == self.strides
            and value.device == self.device
            and self.is_lazy(value) == self.lazy
            and value.requires_grad == self.requires_grad
        )

    def outlines(self, value: Any) -> bool:
        """Whether another value looks the same, but for how it lies in memory."""
        raw = value._data if isinstance(value, Tensor) else value
        if self.shape is None or not isinstance(raw, torch.Tensor):
            return self.fits(value)
        kind = _kind(value) if isinstance(value, Tensor) else value.__class__
        return kind is self.kind and raw.shape == self.shape and raw.dtype is self.dtype


def _kind(tensor: Tensor) -> Any:
    """What made a tensor, if gradients go there, or what gathers there though it is frozen."""
    node = tensor.node
    return has_frozen_gradient(tensor) if node is None else node.__class__


def has_frozen_gradient(tensor: Tensor) -> bool:
    """Whether it has a gradient without requiring one."""
    leaf = leaf_of(tensor)
    return tensor.node is None and leaf is not None and leaf.grad is not None
