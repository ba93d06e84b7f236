"""The private parts of torch that are used where no public function serves, all of them.

A test of its own says clearly which of them a new release of torch has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from torch._decomp import decomposition_table
from torch.utils import _python_dispatch
from torch.utils._pytree import _broadcast_to_and_flatten, tree_flatten, tree_map, tree_unflatten

__all__ = [
    "decomposition",
    "hollow",
    "is_batched",
    "is_transformed",
    "is_watched",
    "overriding",
    "profiler_range",
    "spread",
    "taking_apart",
    "torch_is_profiling",
    "tree_flatten",
    "tree_map",
    "tree_unflatten",
    "unmasked",
    "written_arguments",
]


def decomposition(operator: Any) -> Callable[..., Any] | None:
    """How torch writes an operator in terms of others, if it does."""
    body = decomposition_table.get(operator)
    if body is None and operator._can_decompose():
        body = operator.decompose
    return body


@cache
def written_arguments(operator: Any) -> list[str]:
    """The names of the arguments that an operator changes in place."""
    schema = getattr(operator, "_schema", None)
    arguments = () if schema is None or not schema.is_mutable else schema.arguments
    return [a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write]


def hollow(subclass: Any, like: torch.Tensor) -> Any:
    """A tensor of a subclass that looks like another one and has no memory."""
    return torch.Tensor._make_wrapper_subclass(
        subclass,
        like.shape,
        strides=like.stride(),
        storage_offset=like.storage_offset(),
        dtype=like.dtype,
        device=like.device,
    )


def is_batched(value: Any) -> bool:
    """Whether it is one of the tensors that vmap calls functions on."""
    return isinstance(value, torch.Tensor) and torch._C._functorch.is_batchedtensor(value)


def is_transformed(value: Any) -> bool:
    """Whether it is one of the tensors that torch's vmap, grad or jvp call functions on."""
    return isinstance(value, torch.Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(
        value
    )


def overriding(enabled: bool) -> AbstractContextManager[None]:
    """Inside, `__torch_function__` of other classes is called, or is not."""
    context = torch._C._EnableTorchFunction if enabled else torch._C.DisableTorchFunctionSubclass
    return context()


def _keys() -> tuple[Any, Any]:
    """Which of torch's dispatch keys are included and excluded here."""
    return torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set()


#: As long as nothing is taken apart: those of the import, and the modes that are active.
_AT_HOME = _keys()
_KEYS: ContextVar[tuple[Any, Any] | None] = ContextVar("_KEYS", default=None)


@contextmanager
def taking_apart() -> Iterator[None]:
    """Inside, torch only breaks functions of stand-ins into operators; it does not batch them."""
    outside = _KEYS.set(_keys())
    try:
        with overriding(False), torch._C._DisableFuncTorch():
            yield
    finally:
        _KEYS.reset(outside)


def unmasked() -> AbstractContextManager[None]:
    """Inside, operators called from `__torch_dispatch__` work as outside of `taking_apart`.

    Torch calls it with the keys masked by which views are tracked and lazy conjugates are resolved.
    """
    included, excluded = _KEYS.get() or (_AT_HOME[0] | _keys()[0], _AT_HOME[1])
    return torch._C._ForceDispatchKeyGuard(included, excluded)


def is_watched() -> bool:
    """Whether somebody sees all operators that run here: a capture, or a tool of torch's."""
    return _python_dispatch._get_current_dispatch_mode() is not None


def profiler_range(name: str) -> AbstractContextManager[None]:
    """Inside, time is recorded under that name, if PyTorch's profiler is running.

    Takes a tenth of the time of torch.profiler.record_function, which is more than most operations
    of a small network take.
    """
    return torch._C._profiler._RecordFunctionFast(name)


def torch_is_profiling() -> bool:
    """Whether PyTorch's profiler is running; started twice, it would lose what it has."""
    return torch._C._autograd._profiler_enabled()


def spread(prefix: Any, structure: Any) -> list[Any]:
    """A value for every leaf of a nested structure, from values for whole parts of it.

    Raises:
        ValueError: the values do not fit the structure.
    """
    values = _broadcast_to_and_flatten(prefix, structure)
    if values is None:
        raise ValueError(f"{prefix} does not fit arguments or results laid out as {structure}")
    return values
