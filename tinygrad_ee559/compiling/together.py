"""Members together: a step that was captured from the first member, compiled for all of them.

The members' tensors become views into stacks, which the program works on. So every member stays a
model like any other, to be evaluated, saved or trained alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any

import torch
from torch import fx

from tinygrad_ee559.compiling import lowering, private
from tinygrad_ee559.compiling.capture import Capture
from tinygrad_ee559.compiling.conditions import Conditions
from tinygrad_ee559.compiling.executable import Artifact, artifact, native_program
from tinygrad_ee559.compiling.lanes import LANES, NoLanesError
from tinygrad_ee559.compiling.layout import Layout
from tinygrad_ee559.compiling.native import Native
from tinygrad_ee559.compiling.state import SCALARS, Place, State, same
from tinygrad_ee559.errors import CaptureError

#: Lanes are faster as long as what they compute fits in the cache of a core: in so many bytes.
CACHE = 2**20


class Together:
    """A captured step of the first member, compiled for all.

    Attributes:
        looks: shape and dtype of each argument of one member.
        structure: how the arguments are nested.
        carries: whether a step replaces what the next one begins with.
    """

    def __init__(
        self, capture: Capture, steps: Sequence[Callable[..., Any]], structure: Any
    ) -> None:
        if any(isinstance(effect, int) for effect in capture.effects):
            raise CaptureError("the arguments of an ensemble's steps cannot require gradients")
        self._capture = capture
        states = [State(step) for step in steps]
        for i, state in enumerate(states):
            _check_alike(states[0], state, i)
        self.carries = capture.carries
        self.structure = structure
        self.looks = [
            (t.shape, t.dtype)
            for s, t in zip(capture.sources, capture.inputs)
            if isinstance(s, int)
        ]
        self._written = set(lowering.written(capture.graph, capture.inputs))
        with private.lock():
            self._compile(len(steps))
        self._find(states)

    # -------------------------------------------------------------- compilation

    def _compile(self, members: int) -> None:
        capture = self._capture
        examples = [torch.empty(t.shape, dtype=t.dtype) for t in capture.inputs]
        pure = lowering.lowered(capture.graph, examples)
        #: For all steps but the last, of which alone it is seen what it leaves behind.
        self._earlier: Native | None = None
        if LANES * lowering.footprint(pure) <= CACHE and self._in_lanes(pure, examples):
            self._layout = Layout(members, LANES)
            return
        self._layout = Layout(members, 1)
        native = native_program(pure, examples)
        self._executable: Native | Artifact = native or artifact(pure, examples)

    def _in_lanes(self, pure: fx.GraphModule, examples: list[torch.Tensor]) -> bool:
        """Compile for models side by side, if that can be done."""
        try:
            native = native_program(pure, examples, LANES)
        except NoLanesError:
            return False
        if native is None:
            return False
        self._executable = native
        if self._capture.effects and not self.carries:
            results = lowering.first_outputs(pure, self._capture.collected)
            self._earlier = native_program(results, examples, LANES)
        return True

    # --------------------------------------------------------------------- state

    def _find(self, states: list[State]) -> None:
        """Find each member's tensors and move them into stacks."""
        capture = self._capture
        positions = {place: i for i, place in enumerate(states[0].tensors)}
        missing = [id(leaf) in capture.missing for leaf in capture.state.leaves]
        self._conditions = [
            Conditions(
                state,
                {state.tensors[positions[place]] for place in capture.replaced},
                {id(leaf) for leaf, none in zip(state.leaves, missing) if none},
            )
            for state in states
        ]
        #: The places of each effect, member by member, and whether tensors are wrapped there.
        self._effects = [
            ([state.tensors[positions[place]] for state in states], wrapped)
            for place, wrapped in (e for e in capture.effects if isinstance(e, tuple))
        ]
        self._stacks: dict[int, torch.Tensor] = {}
        #: Where each member keeps a tensor, the tensor, and the part of a stack that it shows.
        self._shown: list[tuple[Place, torch.Tensor, torch.Tensor]] = []
        for i, (source, tensor) in enumerate(zip(capture.sources, capture.inputs)):
            if isinstance(source, Place):
                self._stack(i, [state.tensors[positions[source]] for state in states])
            elif not isinstance(source, int):
                self._share(i, tensor, "a tensor")

    @torch.no_grad()
    def _stack(self, i: int, places: list[Place]) -> None:
        """Move the members' tensors into one."""
        tensors = [place.tensor() for place in places]
        first = tensors[0]
        assert first is not None
        if len({id(t) for t in tensors}) == 1 and len(tensors) > 1:
            self._share(i, first, places[0].path)
            return
        for member, tensor in enumerate(tensors):
            if tensor is None or (tensor.shape, tensor.dtype) != (first.shape, first.dtype):
                found = "nothing" if tensor is None else f"{tensor.dtype}{list(tensor.shape)}"
                raise CaptureError(
                    f"the members of an ensemble have to be alike: {places[member]} is {found} in "
                    f"member {member}, and {first.dtype}{list(first.shape)} in the first"
                )
        stack = self._stacks[i] = self._layout.stack(first)
        for part, place, tensor in zip(self._layout.parts(stack), places, tensors):
            assert tensor is not None
            _show(tensor, part)
            self._shown.append((place, tensor, part))

    def _share(self, i: int, tensor: torch.Tensor, path: str) -> None:
        """Let all members read one tensor."""
        if i in self._written:
            raise CaptureError(
                f"the members of an ensemble share {path}, of shape {list(tensor.shape)}, and "
                "their steps change it; give each member its own model and optimizer"
            )
        stack = self._stacks[i] = self._layout.stack(tensor)
        for part in self._layout.parts(stack):
            part.copy_(tensor)

    def ready(self) -> bool:
        """Whether the members are as they were; takes tensors back in that were replaced."""
        return all(conditions.hold() for conditions in self._conditions) and self._take_back()

    @torch.no_grad()
    def _take_back(self) -> bool:
        """Move tensors into the stacks that are not there any more; whether they fit."""
        for i, (place, known, part) in enumerate(self._shown):
            tensor = place.tensor()
            if tensor is known and tensor.data_ptr() == part.data_ptr():
                continue
            if tensor is None or tensor.shape != part.shape or tensor.dtype != part.dtype:
                return False
            _show(tensor, part)
            self._shown[i] = place, tensor, part
        return True

    # --------------------------------------------------------------------- running

    def loop(self, streams: Sequence[torch.Tensor]) -> Any:
        """Run all steps of all members."""
        collected = self._capture.collected
        inputs: list[torch.Tensor] = []
        moving = []
        for i, source in enumerate(self._capture.sources):
            if isinstance(source, int):
                moving.append(i)
                inputs.append(self._layout.by_block(streams[source]))
            else:
                inputs.append(self._stacks[i])
        if isinstance(self._executable, Native):
            outputs = self._natively(self._executable, inputs, len(streams[0]), moving)
        else:
            outputs = self._each(self._executable, inputs, len(streams[0]), moving)
        private.increment_versions([tensor for _, tensor, _ in self._shown])
        for (places, wrapped), output in zip(self._effects, outputs[collected:]):
            for place, value in zip(places, self._layout.parts(output)):
                place.put(value, wrapped)
        return self._capture.assembled(
            [self._layout.by_member(output) for output in outputs[:collected]]
        )

    def _natively(
        self, native: Native, inputs: list[torch.Tensor], steps: int, moving: list[int]
    ) -> list[torch.Tensor]:
        collected, blocks = self._capture.collected, self._layout.blocks
        if self._earlier is None or steps == 1:
            return native.loop(inputs, steps, moving, collected, blocks)
        early, last = (
            [t[part] if i in moving else t for i, t in enumerate(inputs)]
            for part in (slice(None, -1), slice(-1, None))
        )
        rows = self._earlier.loop(early, steps - 1, moving, collected, blocks)
        row = native.loop(last, 1, moving, collected, blocks)
        return [*(torch.cat(pair) for pair in zip(rows, row)), *row[collected:]]

    def _each(
        self, program: Artifact, inputs: list[torch.Tensor], steps: int, moving: list[int]
    ) -> list[torch.Tensor]:
        """One member after the other, by calls of one artifact."""
        collected = self._capture.collected
        columns = []
        for member in range(self._layout.members):
            given = [t[:, member] if i in moving else t[member] for i, t in enumerate(inputs)]
            columns.append(program.loop(given, steps, moving, collected))
        return [
            torch.stack(column, 1 if i < collected else 0) for i, column in enumerate(zip(*columns))
        ]


def _show(tensor: torch.Tensor, part: torch.Tensor) -> None:
    """Make a tensor a view of its part of a stack; it stays the same object, whoever holds it."""
    part.copy_(tensor)
    tensor.set_(part.untyped_storage(), part.storage_offset(), part.shape, part.stride())


def _in_words(kind: Any) -> str:
    """A class, or the code of a function."""
    if isinstance(kind, CodeType):
        return f"{kind.co_name} of {kind.co_filename}, line {kind.co_firstlineno},"
    return str(getattr(kind, "__name__", kind))


def _check_alike(first: State, other: State, member: int) -> None:
    """Raise an error that names where two members differ in more than the values of tensors."""
    values = [(p, v) for p, v in first.values if isinstance(v, SCALARS)]
    others = [(p, v) for p, v in other.values if isinstance(v, SCALARS)]
    for (_, value), (place, otherwise) in zip(values, others):
        if not same(value, otherwise):
            advice = f". Make it a tensor: torch.tensor({otherwise!r})"
            raise CaptureError(
                f"the members of an ensemble may differ in tensors only: {place} is {otherwise!r} "
                f"in member {member}, and {value!r} in the first"
                f"{advice if isinstance(otherwise, float) else ''}"
            )
    for (_, kind), (path, differing) in zip(first.kinds, other.kinds):
        if kind != differing:
            raise CaptureError(
                f"the members of an ensemble may differ in tensors only: {path} is "
                f"{_in_words(differing)} in member {member}, and {_in_words(kind)} in the first"
            )
    if len(values) != len(others) or len(first.tensors) != len(other.tensors):
        raise CaptureError(
            f"the members of an ensemble have to be alike, and member {member} holds "
            f"{len(other.tensors)} tensors and {len(others)} values, the first one "
            f"{len(first.tensors)} and {len(values)}"
        )
