"""The recorder: all that torch is asked to do while a function runs is written down as a graph.

It sees every operator, whoever called it: forward, the backward pass, the update. Operators run as
always; those that programs cannot have are refused.
"""

from __future__ import annotations

import operator
import sys
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import fx

from tinygrad_ee559.compiling.memory import overlapping
from tinygrad_ee559.compiling.private import (
    DispatchMode,
    declared,
    hearing_of_random_states,
    increment_versions,
)
from tinygrad_ee559.errors import CaptureError
from tinygrad_ee559.private import tree_map
from tinygrad_ee559.tensor import Tensor

aten = torch.ops.aten
_LIBRARIES = (Path(__file__).parent.parent, Path(torch.__file__).parent)
#: Make a tensor of Python numbers, which are constants of the program.
_CONSTANTS = (aten.lift_fresh.default, aten.lift_fresh_copy.default)
_ON_VALUES = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
#: What operators may be given that graphs cannot have.
_OBJECTS = (torch.Generator, torch.ScriptObject, torch.UntypedStorage)
#: Make a tensor of numbers, or of tensors with one element, whose values they read.
_FILLING = {
    torch.tensor: "torch.tensor",
    torch.as_tensor: "torch.as_tensor",
    torch.asarray: "torch.asarray",
    torch.Tensor.new_tensor: "new_tensor",
}
#: Read where to split a tensor, without an operator, if a tensor says so.
_SPLITTING = {torch.tensor_split, torch.Tensor.tensor_split}
#: Read the values of integers without dimensions.
_INDEXING = {torch.Tensor.__getitem__, torch.Tensor.__setitem__}
#: Read a tensor's memory without an operator.
_READING = {
    torch.Tensor.tolist: "tolist",
    torch.Tensor.numpy: "numpy",
    torch.Tensor.__array__: "numpy",
    torch.Tensor.__dlpack__: "dlpack",
    torch.Tensor.__repr__: "print or repr",
    torch.Tensor.__format__: "print or format",
    torch.Tensor.apply_: "apply_",
    torch.Tensor.map_: "map_",
    torch.Tensor.map2_: "map2_",
}


class NoReading(torch.overrides.TorchFunctionMode):
    """Refuses to show values."""

    #: The first error that was raised here.
    refusal: CaptureError | None = None

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        try:
            self._check(function, args, kwargs)
        except CaptureError as error:
            self.refusal = self.refusal or error
            raise
        return function(*args, **(kwargs or {}))

    def _check(self, function: Any, args: Any, kwargs: Any) -> None:
        if function in _READING:
            raise _asks_for_values(_READING[function])
        if function == torch.Tensor.data.__set__:  # type: ignore[attr-defined]
            raise CaptureError(
                f"{_place_of_user()}`data` of a torch.Tensor, of shape {list(args[0].shape)}, is "
                "assigned, which no operator does and programs cannot; change the tensor with "
                "copy_, or put a new tensor in its place"
            )
        if function in _INDEXING and _is_number(args[1]):
            raise CaptureError(
                f"{_place_of_user()}indexing by a tensor without dimensions reads its value, which "
                "a compiled function cannot; index by one with a dimension, as x[i.view(1)], or "
                "use index_select or index_copy_"
            )
        if function in _SPLITTING and _splits_at_tensors(*args, **(kwargs or {})):
            raise _asks_for_values("tensor_split at indices in a tensor")
        if function in _FILLING and any(map(_holds_tensors, args)):
            raise _asks_for_values(f"{_FILLING[function]} of a list; torch.stack needs none")


class _Randomness:
    """Whether a run draws torch's random numbers one after the other.

    What counts is which numbers it has drawn when it asks for the state, and sets it back to that;
    other threads may draw between.
    """

    def __init__(self) -> None:
        self._drawn = 0
        #: So many were drawn before those that come next; None if these have nothing to do with it.
        self._position: int | None = 0
        self._states: dict[int, tuple[torch.Tensor, int | None]] = {}
        self._seed = torch.initial_seed()

    def heard(self) -> AbstractContextManager[None]:
        """Inside, it hears of states."""
        return hearing_of_random_states(
            get_state=self._get, set_state=self._set, manual_seed=self._reset, seed=self._reset
        )

    def draw(self) -> None:
        """Note that a number is about to be drawn."""
        self.check()
        self._drawn += 1
        self._position = self._drawn

    def check(self) -> None:
        """Raise an error if the state was set."""
        by_method = self._drawn and torch.initial_seed() != self._seed
        if self._position != self._drawn or by_method:
            raise CaptureError(
                f"{_place_of_user()}the state of torch's random numbers was set, which cannot be "
                "part of a program; set seeds outside of the compiled function, and have no "
                "function in a checkpoint that draws random numbers"
            )

    def _get(self, state: torch.Tensor) -> None:
        self._states[id(state)] = state, self._position

    def _set(self, state: torch.Tensor, _result: Any) -> None:
        self._position = self._states.get(id(state), (state, None))[1]

    def _reset(self, *_: Any) -> None:
        self._position = None


class Recorder(DispatchMode):  # type: ignore[misc]
    """Runs operators and appends them to a graph.

    Tensors that are used and were not made inside are the graph's inputs, in the order of use.
    """

    #: The first error that was raised here.
    refusal: CaptureError | None = None

    def __init__(self) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.inputs: list[torch.Tensor] = []
        self.constants: set[int] = set()
        self._numbers: dict[int, int] = {}
        self._nodes: dict[int, fx.Node] = {}
        self._alive: list[torch.Tensor] = []  # an id is that of a tensor as long as it lives
        self._first: fx.Node | None = None
        self._randomness = _Randomness()

    def __enter__(self) -> Any:
        self._hearing = self._randomness.heard()
        self._hearing.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._hearing.__exit__(*error)

    def node_of(self, tensor: torch.Tensor) -> fx.Node:
        """The node that made a tensor; a new input if none did."""
        node = self._nodes.get(id(tensor))
        if node is None:
            if tensor.layout is not torch.strided:
                raise CaptureError(
                    f"{_place_of_user()}a tensor of shape {list(tensor.shape)} is sparse, which "
                    "programs cannot read; give the function tensor.to_dense()"
                )
            name = f"in{len(self.inputs)}"
            if self._first is None:
                node = self.graph.placeholder(name)
            else:
                with self.graph.inserting_before(self._first):
                    node = self.graph.placeholder(name)
            self._numbers[id(tensor)] = len(self.inputs)
            self.inputs.append(tensor)
            self._know(tensor, node)
        return node

    def number_of(self, tensor: torch.Tensor) -> int | None:
        """Which of the inputs a tensor is, None if it is none."""
        return self._numbers.get(id(tensor))

    def made(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor was made inside."""
        node = self._nodes.get(id(tensor))
        return node is not None and node.op != "placeholder"

    def check_random_state(self) -> None:
        """Raise an error if random numbers were not drawn one after the other."""
        self._randomness.check()

    def _know(self, tensor: torch.Tensor, node: fx.Node) -> None:
        self._nodes[id(tensor)] = node
        self._alive.append(tensor)

    def _call(self, function: Any, args: Any, kwargs: Any) -> fx.Node:
        node = self.graph.call_function(function, args, kwargs)
        self._first = self._first or node
        return node

    def _copied(self, constant: torch.Tensor) -> torch.Tensor:
        """A constant, of which each run gets a new copy: it may change it, or hand it out."""
        kept = constant.clone()
        self.constants.add(id(kept))
        self._know(constant, self._call(aten.clone.default, (self.node_of(kept),), {}))
        return constant

    def _node_or_value(self, function: Any, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self.node_of(value)
        if isinstance(value, _OBJECTS):
            raise CaptureError(
                f"{_place_of_user()}{function.name()} is given a {type(value).__name__}, which "
                "cannot be part of a program; do this outside of the compiled function"
            )
        return value

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if not all(kind in (torch.Tensor, torch.nn.Parameter) for kind in types):
            return NotImplemented  # a subclass, which says what to do instead
        try:
            return self._recorded(function, args, kwargs or {})
        except CaptureError as error:
            self.refusal = self.refusal or error
            raise

    def _recorded(self, function: Any, args: Any, kwargs: Any) -> Any:
        """What an operator gives, which is written down."""
        if not _ON_VALUES.isdisjoint(function.tags) and not _by_integers(function, args):
            raise _asks_for_values(function.name())
        if function.namespace == "profiler":  # computes nothing
            return function(*args, **kwargs)
        if function in _CONSTANTS and id(args[0]) not in self._nodes:
            return self._copied(function(*args, **kwargs))
        given, named = tree_map(partial(self._node_or_value, function), (args, kwargs))
        if torch.Tag.nondeterministic_seeded in function.tags:
            self._randomness.draw()
        out = _checked(function, args, kwargs)
        node = self._call(function, given, named)
        if isinstance(out, torch.Tensor):
            if id(out) not in self._nodes:  # else it was changed in place
                self._know(out, node)
        elif isinstance(out, (list, tuple)):
            for i, item in enumerate(out):
                if isinstance(item, torch.Tensor) and id(item) not in self._nodes:
                    self._know(item, self.graph.call_function(operator.getitem, (node, i)))
        return out


def _checked(function: Any, args: Any, kwargs: Any) -> Any:
    """Run an operator; it is refused where programs would change something else."""
    changed = _changed(function, args, kwargs)
    lists = [a for a in changed if isinstance(a, (list, tuple))]
    for tensors in lists:
        _check_lists(function, tensors, [*args, *kwargs.values()])
    single = [t for t in changed if _is_strided(t)]
    before = [(t.shape, t.untyped_storage().nbytes()) for t in single]
    out = function(*args, **kwargs)  # torch itself refuses some
    if torch.Tag.inplace_view not in function.tags:
        for tensor, (shape, room) in zip(single, before):
            _check_change(function, tensor, shape, room)
    # Torch counts changes after this, but not those of lists.
    increment_versions([t for tensors in lists for t in tensors if not t.is_inference()])
    return out


def _check_change(function: Any, tensor: torch.Tensor, shape: torch.Size, room: int) -> None:
    """Raise an error if a changed tensor, which had a shape and so many bytes, was resized, or if
    numbers of it share memory."""
    if tensor.shape != shape and room:
        raise CaptureError(
            f"{_place_of_user()}{function.name()} is given a tensor of shape {list(shape)} as "
            f"out=, and makes it one of shape {list(tensor.shape)}; give it one of that shape, or "
            "none"
        )
    if any(n > 1 and stride == 0 for n, stride in zip(tensor.shape, tensor.stride())):
        raise CaptureError(
            f"{_place_of_user()}{function.name()} changes a tensor in place that was expanded to "
            f"shape {list(shape)}, so that numbers of it share memory; change what was expanded, "
            "or a copy: tensor.clone()"
        )


def _check_lists(function: Any, changed: Any, arguments: Any) -> None:
    """Raise an error if an operator on lists finds memory that it changes in several entries: it
    takes one after the other, and programs take all at once."""
    sharing: dict[int, list[tuple[int, torch.Tensor]]] = {}
    for argument in arguments:
        if isinstance(argument, (list, tuple)):
            for i, entry in enumerate(argument):
                if _is_strided(entry):
                    memory = entry.untyped_storage().data_ptr()
                    sharing.setdefault(memory, []).append((i, entry))
    for i, one in enumerate(changed):
        others = sharing[one.untyped_storage().data_ptr()] if _is_strided(one) else []
        for j, other in others:
            if i != j and overlapping([0], [one, other]):
                raise CaptureError(
                    f"{_place_of_user()}{function.name()} changes entry {i} of a list, of shape "
                    f"{list(one.shape)}, which shares memory with entry {j}, of shape "
                    f"{list(other.shape)}; change one after the other, or a copy: tensor.clone()"
                )


def _is_strided(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.layout is torch.strided


def _changed(function: Any, args: Any, kwargs: Any) -> list[Any]:
    """The tensors that an operator changes in place, and lists of such."""
    return [value for value, alias in declared(function, args, kwargs) if alias.is_write]


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and any(
        isinstance(item, (Tensor, torch.Tensor)) or _holds_tensors(item) for item in value
    )


def _is_number(index: Any) -> bool:
    """Whether an index is an integer tensor without dimensions, or has one among others."""
    if isinstance(index, (tuple, list)):
        return any(map(_is_number, index))
    raw = index._data if isinstance(index, Tensor) else index
    if not isinstance(raw, torch.Tensor) or raw.ndim:
        return False
    return not (raw.dtype is torch.bool or raw.is_floating_point() or raw.is_complex())


def _splits_at_tensors(input: Any, *args: Any, **kwargs: Any) -> bool:
    return any(isinstance(value, (Tensor, torch.Tensor)) for value in (*args, *kwargs.values()))


def _by_integers(function: Any, args: Any) -> bool:
    """Whether a tensor is indexed by integers, so that the shape is known; by masks it is not."""
    if function is not aten.index.Tensor:
        return False
    return all(i is None or i.dtype not in (torch.bool, torch.uint8) for i in args[1])


def _place_of_user() -> str:
    """Where in the user's code this is."""
    frame: Any = sys._getframe()
    while frame is not None and any(
        library in Path(frame.f_code.co_filename).parents for library in _LIBRARIES
    ):
        frame = frame.f_back
    return "" if frame is None else f"{frame.f_code.co_filename}, line {frame.f_lineno}: "


def _asks_for_values(name: str) -> CaptureError:
    """Says where in the user's code the value of a tensor is asked for."""
    return CaptureError(
        f"{_place_of_user()}the value of a tensor is needed here (by {name}), and a compiled "
        "function has to do the same whatever the values are; use torch.where in place of an `if`, "
        "return tensors in place of numbers and read them outside, and make tensors of numbers "
        "that gather gradients"
    )
