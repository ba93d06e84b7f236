"""`Tensor`: a value and the node that it came from, speaking PyTorch's vocabulary."""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor as TorchTensor

from tinygrad_ee559.errors import (
    GradientDtypeError,
    GradientShapeError,
    NotDifferentiableError,
)
from tinygrad_ee559.tape import RETAIN, Leaf, carries_gradient, propagate

_new = object.__new__
_references = sys.getrefcount
_NUMBER_DTYPES = {float: torch.float64, int: torch.int64, bool: torch.bool}


class Tensor:
    """A number or a torch tensor that remembers how it was computed.

    A Python number given without dtype or device stays a number: as long as every operand is one,
    expressions run on Python's own arithmetic, in double precision. Where a torch tensor takes
    part, the number behaves as a Python scalar does in torch.

    Args:
        data: a number, a nested list of numbers, a NumPy array, or a torch tensor. A torch tensor
            is shared, not copied.
        dtype: the dtype to convert to, torch's choice if None.
        device: the device to move to.
        requires_grad: whether gradients are wanted; only floating-point values can have them.

    Raises:
        GradientDtypeError: gradients of integers or booleans were asked for.

    >>> x = Tensor(2.0, requires_grad=True)
    >>> y = x * x + 1
    >>> y.backward()
    >>> x.grad
    Tensor(4.0)
    """

    __slots__ = ("_data", "node", "leaf", "__weakref__")
    __array_ufunc__ = None  # numpy_array * tensor is left to Tensor.__rmul__

    _data: Any
    #: The node that computed this value; a `Leaf` if the user made it; None without gradients.
    node: Any
    #: Its `Leaf`, where its gradient stays when it is frozen; unset if it never was. See `leaf_of`.
    leaf: Leaf

    def __init__(
        self,
        data: Any,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        requires_grad: bool = False,
    ) -> None:
        if data.__class__ not in _NUMBER_DTYPES or dtype is not None or device is not None:
            data = _as_value(data, dtype, device)
        self._data = data
        self.node = None
        if requires_grad:
            if data.__class__ is float:
                self.node = Leaf(data)
            else:
                self.requires_grad = True

    # ----------------------------------------------------------------- value

    @property
    def data(self) -> Any:
        """What the tensor wraps: a torch tensor or a plain number."""
        return self._data

    @data.setter
    def data(self, value: Any) -> None:
        value = _as_value(value, None, None)
        self._data = value
        leaf = leaf_of(self)
        if leaf is not None:
            leaf.hold(value)

    @property
    def shape(self) -> torch.Size:
        data = self._data
        return data.shape if isinstance(data, TorchTensor) else torch.Size()

    @property
    def dtype(self) -> torch.dtype:
        data = self._data
        return data.dtype if isinstance(data, torch.Tensor) else _NUMBER_DTYPES[type(data)]

    @property
    def device(self) -> torch.device:
        data = self._data
        return data.device if isinstance(data, torch.Tensor) else torch.device("cpu")

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def dim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    def size(self, dim: int | None = None) -> Any:
        """The shape, or its entry `dim`."""
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> int:
        """The number of elements."""
        return self.shape.numel()

    def is_floating_point(self) -> bool:
        return self.dtype.is_floating_point

    @property
    def T(self) -> Tensor:
        return self.permute(*reversed(range(self.ndim)))  # type: ignore[no-any-return]

    @property
    def mT(self) -> Tensor:
        return self.transpose(-2, -1)  # type: ignore[no-any-return]

    def as_torch(self) -> torch.Tensor:
        """The value as a torch tensor, shared with this one unless it is a number."""
        data = self._data
        return data if isinstance(data, torch.Tensor) else torch.tensor(data, dtype=self.dtype)

    def item(self) -> float | int | bool:
        """The only element, as a Python number."""
        data = self._data
        return data.item() if isinstance(data, torch.Tensor) else data

    def tolist(self) -> Any:
        """The elements as nested Python lists."""
        data = self._data
        return data.tolist() if isinstance(data, torch.Tensor) else data

    def numpy(self) -> np.ndarray[Any, Any]:
        """The value as a NumPy array that shares memory.

        Raises:
            NotDifferentiableError: the tensor requires gradients, which NumPy would lose.
        """
        if self.node is not None:
            raise NotDifferentiableError(
                "a tensor that requires gradients cannot become a NumPy array, as NumPy does not "
                "record what happens to it; use tensor.detach().numpy()"
            )
        return self.as_torch().numpy()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        array = self.numpy()
        if dtype is not None:
            array = array.astype(dtype, copy=False)
        return array.copy() if copy else array

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a tensor without dimensions has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        if not self.shape:
            raise TypeError("a tensor without dimensions cannot be iterated over")
        return iter(self.unbind())

    def __bool__(self) -> bool:
        return bool(self._data)

    def __int__(self) -> int:
        return int(self._data)

    def __float__(self) -> float:
        return float(self._data)

    def __index__(self) -> int:
        return self._data.__index__()  # type: ignore[no-any-return]

    def __contains__(self, value: Any) -> bool:
        return bool((self == value).any())

    __hash__ = object.__hash__

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if not self.is_leaf:
            raise NotDifferentiableError(
                f"only a tensor that you made can be copied deeply; this one was computed by "
                f"{self.node.rule.name}: use tensor.detach().clone()"
            )
        data = self._data
        copied = self._like(data.clone() if isinstance(data, torch.Tensor) else data)
        memo[id(self)] = copied  # its fields may lead to it
        leaf, own = leaf_of(self), leaf_of(copied)
        if leaf is not None and own is not None:
            own.grad = copy.deepcopy(leaf.grad, memo)
        for name, value in self._fields(copied).items():
            object.__setattr__(copied, name, copy.deepcopy(value, memo))
        return copied

    def __copy__(self) -> Tensor:
        copied = self._like(self._data)
        for name, value in self._fields(copied).items():
            object.__setattr__(copied, name, value)
        return copied

    def _fields(self, copied: Tensor) -> dict[str, Any]:
        """What a subclass has besides, if a copy is of that class too."""
        if type(copied) is not type(self):
            return {}
        slots = [
            name
            for kind in type(self).__mro__
            if kind not in Tensor.__mro__
            for name, slot in vars(kind).items()
            if isinstance(slot, MemberDescriptorType) and hasattr(self, name)
        ]
        return {**getattr(self, "__dict__", {}), **{name: getattr(self, name) for name in slots}}

    def _like(self, data: Any) -> Tensor:
        """A tensor of this kind with other data; gradients gather in a leaf of its own."""
        copied: Tensor = _new(type(self))
        copied._data = data
        copied.node = self.node
        leaf = leaf_of(self)
        if leaf is not None:
            copied.leaf = Leaf(data)
            copied.leaf.frozen = leaf.frozen
            copied.node = None if leaf.frozen else copied.leaf
        return copied

    def __format__(self, spec: str) -> str:
        if not self.shape:
            return format(self.item(), spec)
        return format(str(self), spec)

    def __repr__(self) -> str:
        data = self._data
        if isinstance(data, torch.Tensor):
            text = repr(data).removeprefix("tensor(").removesuffix(")")
        else:
            text = repr(data)
        if isinstance(self.node, Leaf):
            text += ", requires_grad=True"
        elif self.node is not None:
            text += f", grad_fn={self.node.rule.name}"
        return f"Tensor({text})"

    # ------------------------------------------------------------- gradients

    @property
    def requires_grad(self) -> bool:
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        if wanted == (self.node is not None):
            return
        if self.node is not None and not isinstance(self.node, Leaf):
            raise NotDifferentiableError(
                "only a tensor that you made can stop requiring gradients; this one was computed "
                f"by {self.node.rule.name}: use tensor.detach()"
            )
        if wanted and not carries_gradient(self.dtype):
            raise GradientDtypeError(
                f"only floating-point and complex tensors can require gradients, and this one is "
                f"{self.dtype}"
            )
        leaf = leaf_of(self)
        if leaf is None:
            leaf = Leaf(self._data)
        leaf.frozen = not wanted
        self.leaf, self.node = leaf, leaf if wanted else None

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Set `requires_grad` and return the tensor itself."""
        self.requires_grad = requires_grad
        return self

    @property
    def is_leaf(self) -> bool:
        return self.node is None or isinstance(self.node, Leaf)

    @property
    def grad_fn(self) -> Any:
        """The node that computed this tensor, None for a leaf."""
        return None if self.is_leaf else self.node

    @property
    def grad(self) -> Tensor | None:
        """The gradient that backward passes have gathered here, if any."""
        node = leaf_of(self) if self.node is None else self.node
        return getattr(node, "grad", None)

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        node = leaf_of(self) if self.node is None else self.node
        if node is None:
            if value is not None:
                raise NotDifferentiableError(
                    "a gradient was assigned to a tensor that does not require gradients"
                )
            return
        if value is not None:
            value = value if isinstance(value, Tensor) else Tensor(value)
            if value.shape != self.shape:
                raise GradientShapeError(
                    f"a gradient of shape {tuple(value.shape)} was assigned to a tensor of shape "
                    f"{tuple(self.shape)}"
                )
            if value.dtype is not self.dtype and isinstance(value._data, torch.Tensor):
                raise GradientDtypeError(
                    f"a gradient of {value.dtype} was assigned to a tensor of {self.dtype}; "
                    "convert it"
                )
        node.grad = value

    def detach(self) -> Tensor:
        """The same value, shared, without its history."""
        data = self._data
        return lift(data.detach() if isinstance(data, torch.Tensor) else data, None)

    def retain_grad(self) -> None:
        """Have backward passes keep the gradient of this tensor, though it is no leaf."""
        if self.node is None:
            raise NotDifferentiableError("a tensor that does not require gradients retains none")
        if not self.is_leaf and RETAIN not in (self.node.hooks or ()):
            self.register_hook(RETAIN)

    def register_hook(self, hook: Any) -> Any:
        """Call `hook` with the gradient of this tensor in every backward pass.

        What the hook returns, if not None, takes the gradient's place.

        Returns:
            A handle; its `remove()` takes the hook away again.
        """
        if self.node is None:
            raise NotDifferentiableError(
                "a hook needs a gradient, and this tensor does not require any"
            )
        if self.node.hooks is None:
            self.node.hooks = []
        self.node.hooks.append(hook)
        return _HookHandle(self.node.hooks, hook)

    def backward(
        self,
        gradient: Any = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Tensor | Sequence[Tensor] | None = None,
    ) -> None:
        """Add the gradients of this tensor to the `grad` of the leaves it was computed from.

        Args:
            gradient: what to start with, of this tensor's shape; 1 if the tensor has one element.
            retain_graph: keep the saved values for another pass; `create_graph` if None.
            create_graph: record the pass itself, to differentiate again.
            inputs: add to the gradients of these tensors only; those that were computed retain
                theirs from then on, as after `retain_grad`.

        Raises:
            NotDifferentiableError: this tensor does not require gradients.
            GradientShapeError: `gradient` has another shape, or is missing and needed.
            FreedGraphError: an earlier pass has given back the saved values.
            ChangedInPlaceError: a saved value was changed in place.

        >>> x = Tensor([1.0, 2.0], requires_grad=True)
        >>> (x * x).sum().backward()
        >>> x.grad
        Tensor([2., 4.])
        """
        root = {edge_of(self, "outputs"): root_gradient(self, gradient, create_graph)}
        targets = None
        if inputs is not None:
            inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
            targets = [edge_of(t, "inputs") for t in inputs]
            for t in inputs:
                t.retain_grad()
        retain = create_graph if retain_graph is None else retain_graph
        found = propagate(root, lift, record=create_graph, retain=retain, targets=targets)
        if targets is not None:
            found = {edge: g for edge, g in found.items() if isinstance(edge, Leaf)}
        _deposit(found, create_graph)

    if TYPE_CHECKING:  # the operators and torch's methods are added in `methods.py`

        def __getattr__(self, name: str) -> Callable[..., Any]: ...
        def __add__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __rtruediv__(self, other: Any) -> Tensor: ...
        def __pow__(self, other: Any) -> Tensor: ...
        def __rpow__(self, other: Any) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __rmatmul__(self, other: Any) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __abs__(self) -> Tensor: ...
        def __getitem__(self, index: Any) -> Tensor: ...
        def __setitem__(self, index: Any, value: Any) -> None: ...
        def __eq__(self, other: Any) -> Tensor: ...  # type: ignore[override]
        def __ne__(self, other: Any) -> Tensor: ...  # type: ignore[override]
        def __lt__(self, other: Any) -> Tensor: ...
        def __le__(self, other: Any) -> Tensor: ...
        def __gt__(self, other: Any) -> Tensor: ...
        def __ge__(self, other: Any) -> Tensor: ...


def leaf_of(tensor: Tensor) -> Leaf | None:
    """Where the gradient of a tensor gathers, or did before it was frozen."""
    node = tensor.node
    if node is None:
        return getattr(tensor, "leaf", None)
    return node if isinstance(node, Leaf) else None


def put_back(tensors: Sequence[Tensor], values: Sequence[torch.Tensor]) -> None:
    """Give tensors that are numbers what has become of them as torch tensors: see `as_torch`."""
    for tensor, value in zip(tensors, values):
        if value is not tensor._data:
            tensor.data = value.item()


def lift(value: Any, edge: Any) -> Tensor:
    """A tensor of a raw value and the node that it came from."""
    tensor: Tensor = _new(Tensor)
    tensor._data = value
    tensor.node = edge
    return tensor


class View(Tensor):
    """A tensor that shares the memory of another one, its base.

    Where the base, or another view of it, was changed in place since, the history is made anew when
    somebody asks for it, like the value, which is in the memory they share.

    Args:
        data: the value.
        node: its history.
        base: the tensor whose memory this is.
        view_of: makes the view of a tensor, or torch tensor, like the base.
    """

    __slots__ = ("base", "view_of", "_history", "_version")

    def __init__(self, data: Any, node: Any, base: Tensor, view_of: Callable[[Any], Any]) -> None:
        self._data = data
        self.base = base
        self.view_of = view_of
        self.node = node

    def _like(self, data: Any) -> Tensor:
        return lift(self._data, self.node)._like(data)

    def __reduce__(self) -> tuple[Any, ...]:
        return lift, (self._data, self.node)

    @property
    def node(self) -> Any:
        if self._version != self._data._version and not isinstance(self._history, Leaf):
            with torch.enable_grad():
                self.node = self.view_of(self.base).node
        return self._history

    @node.setter
    def node(self, node: Any) -> None:
        self._history = node
        self._version = self._data._version


def edge_of(tensor: Tensor, role: str) -> Any:
    """The node behind a tensor that gradients are asked for."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{role} must be tensors, not {type(tensor).__name__}")
    if tensor.node is None:
        raise NotDifferentiableError(
            f"one of the {role}, of shape {tuple(tensor.shape)}, does not require gradients; "
            "make it with requires_grad=True before using it"
        )
    return tensor.node


def root_gradient(output: Tensor, gradient: Any, create_graph: bool) -> Any:
    """What the pass starts with at one output."""
    data = output._data
    if gradient is None:
        raw: Any = 1.0
        if isinstance(data, TorchTensor):
            if data.numel() != 1:
                raise GradientShapeError(
                    "backward() without a gradient needs a result with one element, and this one "
                    f"has shape {tuple(output.shape)}; sum it, or pass gradient="
                )
            raw = torch.ones_like(data)
        return lift(raw, None) if create_graph else raw
    if not isinstance(gradient, Tensor):
        gradient = Tensor(gradient)
    if isinstance(data, torch.Tensor) and not isinstance(gradient._data, torch.Tensor):
        gradient = lift(torch.as_tensor(gradient._data, dtype=data.dtype), None)
    if gradient.shape != output.shape:
        raise GradientShapeError(
            f"the gradient has shape {tuple(gradient.shape)}, and the result that it belongs to "
            f"has shape {tuple(output.shape)}"
        )
    return gradient if create_graph else gradient._data


class _Gathering(threading.local):
    """What each thread has for `gathering`."""

    leaves: list[Any] | None = None


_gathering = _Gathering()


@contextmanager
def gathering() -> Iterator[list[Any]]:
    """Inside, in this thread, all leaves in which backward passes leave gradients are noted."""
    before, _gathering.leaves = _gathering.leaves, []
    try:
        yield _gathering.leaves
    finally:
        _gathering.leaves = before


def _deposit(found: Mapping[Any, Any], create_graph: bool) -> None:
    """Add the gradients that a pass has found to those of the leaves, all or none."""
    if _gathering.leaves is not None:
        _gathering.leaves += found
    for leaf, g in found.items():
        if leaf.frozen:
            continue
        old = leaf.grad
        if create_graph:
            leaf.grad = g if old is None else old + g
        elif old is None:
            # Held by the mapping and by this loop; a view, or whatever somebody else holds, is his.
            if g.__class__ is TorchTensor and (_references(g) > _OWN_REFERENCES or g._is_view()):
                g = g.clone()
            tensor: Tensor = _new(Tensor)
            tensor._data = g
            tensor.node = None
            leaf.grad = tensor
        elif isinstance(old._data, torch.Tensor) and old.node is None:
            old._data.add_(g)
        else:
            leaf.grad = lift(old._data + g, None)


def _as_value(data: Any, dtype: torch.dtype | None, device: torch.device | str | None) -> Any:
    """What a tensor made of `data` wraps."""
    if data.__class__ in _NUMBER_DTYPES and dtype is None and device is None:
        return data
    if isinstance(data, Tensor):
        data = data._data
    if isinstance(data, torch.Tensor):
        data = data.detach()  # shares memory and version
        return data if dtype is None and device is None else data.to(device=device, dtype=dtype)
    if isinstance(data, (list, tuple)) and _holds_tensor(data):
        raise TypeError("a list of tensors becomes one tensor with torch.stack or torch.cat")
    return torch.tensor(data, dtype=dtype, device=device)


def _holds_tensor(data: Any) -> bool:
    return isinstance(data, Tensor) or (
        isinstance(data, (list, tuple)) and any(map(_holds_tensor, data))
    )


class _HookHandle:
    """Takes a hook away again."""

    def __init__(self, hooks: list[Any], hook: Any) -> None:
        self._hooks = hooks
        self._hook = hook
        self._is_there = True

    def remove(self) -> None:
        """Take the hook away; doing so twice is harmless."""
        if self._is_there:
            self._hooks.remove(self._hook)
            self._is_there = False


def _count_own_references() -> int:
    """What `sys.getrefcount` says in `_deposit` of a gradient that nobody else holds."""
    count = 0
    for _, g in {None: object()}.items():
        count = _references(g)
    return count


_OWN_REFERENCES = _count_own_references()
