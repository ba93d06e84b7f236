"""Members together: a step that was captured from the first member, compiled for all of them.

The members' tensors become views into stacks, which the program works on. So every member stays a
model like any other, to be evaluated, saved or trained alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from tinygrad_ee559.compiling import lowering, private
from tinygrad_ee559.compiling.alike import check_alike
from tinygrad_ee559.compiling.capture import Capture, Effect
from tinygrad_ee559.compiling.conditions import Conditions
from tinygrad_ee559.compiling.executable import Artifact, artifact, native_program
from tinygrad_ee559.compiling.lanes import LANES, NoLanesError
from tinygrad_ee559.compiling.layout import Layout
from tinygrad_ee559.compiling.native import Native
from tinygrad_ee559.compiling.places import Look, Place
from tinygrad_ee559.compiling.runs import WATCHED, warn_of_watching
from tinygrad_ee559.compiling.state import State
from tinygrad_ee559.errors import CaptureError

#: Tensors of so many numbers are copied for every loop: their versions do not count all changes.
UNCOUNTED = 64
#: Lanes are faster as long as what they compute fits in the cache of a core: in so many bytes.
CACHE = 2**20


class Together:
    """A captured step of the first member, compiled for all.

    Attributes:
        looks: shape and dtype of each argument of one member.
        structure: how the arguments are nested.
        text: what tells the step from others.
        carries: whether a step replaces what the next one begins with.
    """

    def __init__(
        self, capture: Capture, steps: Sequence[Callable[..., Any]], structure: Any
    ) -> None:
        if any(isinstance(effect, int) for effect in capture.effects):
            raise CaptureError("the arguments of an ensemble's steps cannot require gradients")
        if capture.tapes:
            raise CaptureError(
                f"gradients go through the history of {capture.tapes[0][0]}, which was computed "
                "outside of the steps of an ensemble; compute it inside"
            )
        if capture.moves:
            raise CaptureError(
                f"the steps of an ensemble leave a tensor as it is in {capture.moves[0][0]}, and "
                "members have tensors of their own; leave a copy: tensor.clone()"
            )
        states = _alike(steps)
        self._capture = capture
        self.text = capture.text
        self.carries = capture.carries
        self.structure = structure
        self.looks = [
            (t.shape, t.dtype)
            for s, t in zip(capture.sources, capture.inputs)
            if isinstance(s, int)
        ]
        self._written = set(lowering.written(capture.graph, capture.inputs))
        if any(isinstance(capture.sources[i], int) for i in self._written):
            raise CaptureError(
                "the steps of an ensemble change an argument in place, and get parts of stacks; "
                "let them change a copy: tensor.clone()"
            )
        with private.alone():
            self._compile(len(steps))
        self._admitted = 1
        self._find(states)

    def admit(self, capture: Capture, steps: Sequence[Callable[..., Any]]) -> None:
        """The first member did the same again where it found something else."""
        self._admitted += 1
        if self._admitted == WATCHED:
            warn_of_watching(self._capture.state, capture.state)
        self._capture = capture
        self._find(_alike(steps))

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
                [Look(value) for value in state.found],
                {state.tensors[positions[s]] for s in capture.sources if isinstance(s, Place)},
                {state.tensors[positions[place]] for place in capture.replaced},
                [
                    (state.tensors[positions[one]], state.tensors[positions[other]])
                    for one, other in capture.shared
                    if isinstance(one, Place)
                ],
                {id(leaf) for leaf, none in zip(state.leaves, missing) if none},
                (),
            )
            for state in states
        ]
        #: Each effect, and its places, member by member.
        self._effects = [
            (effect, [state.tensors[positions[effect.place]] for state in states])
            for effect in capture.effects
            if isinstance(effect, Effect)
        ]
        self._stacks: dict[int, torch.Tensor] = {}
        #: Tensors that all members read, with their versions when they were copied into stacks.
        self._shared: dict[int, tuple[Place | torch.Tensor, torch.Tensor, int]] = {}
        #: Pairs of places that have to have the same tensor.
        self._same: list[tuple[Place, Place]] = []
        #: Where each member keeps a tensor, the tensor, and the part of a stack that it shows.
        self._shown: list[tuple[Place, torch.Tensor, torch.Tensor]] = []
        for i, (source, tensor) in enumerate(zip(capture.sources, capture.inputs)):
            if isinstance(source, Place):
                self._stack(i, [state.tensors[positions[source]] for state in states])
            elif not isinstance(source, int):
                self._share(i, tensor, tensor, "a tensor")
        for _, places in self._effects:
            if len(set(places)) < len(places):
                raise _share_what_changes(f"{places[0]}")

    @torch.no_grad()
    def _stack(self, i: int, places: list[Place]) -> None:
        """Move the members' tensors into one."""
        tensors = [place.tensor() for place in places]
        first = tensors[0]
        assert first is not None
        if len({id(t) for t in tensors}) == 1 and len(tensors) > 1:
            self._share(i, places[0], first, places[0].path)
            self._same += [(places[0], place) for place in places[1:]]
            return
        for member, tensor in enumerate(tensors):
            if tensor is None or (tensor.shape, tensor.dtype) != (first.shape, first.dtype):
                found = "nothing" if tensor is None else f"{tensor.dtype}{list(tensor.shape)}"
                raise CaptureError(
                    f"the members of an ensemble have to be alike: {places[member]} is {found} in "
                    f"member {member}, and {first.dtype}{list(first.shape)} in the first"
                )
        memories = {t.data_ptr() for t in tensors if t is not None}
        if i in self._written and len(memories) < len(tensors):
            raise _share_what_changes(f"{places[0]}, of shape {list(first.shape)}")
        stack = self._stacks[i] = self._layout.stack(first)
        self._layout.fill(stack, first)
        for part, place, tensor in zip(self._layout.parts(stack), places, tensors):
            assert tensor is not None
            _show(tensor, part)
            self._shown.append((place, tensor, part))

    def _share(self, i: int, source: Place | torch.Tensor, tensor: torch.Tensor, path: str) -> None:
        """Let all members read one tensor."""
        if i in self._written:
            raise _share_what_changes(f"{path}, of shape {list(tensor.shape)}")
        self._stacks[i] = self._layout.stack(tensor)
        self._copy(i, source, tensor)

    def _copy(self, i: int, source: Place | torch.Tensor, tensor: torch.Tensor) -> None:
        self._shared[i] = source, tensor, tensor._version
        self._layout.fill(self._stacks[i], tensor)

    def ready(self) -> bool:
        """Whether the members are as they were; takes tensors back in that were replaced."""
        return (
            all(conditions.hold() for conditions in self._conditions)
            and all(one.tensor() is other.tensor() for one, other in self._same)
            and self._take_back()
        )

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
        for i, (source, known, version) in self._shared.items():
            now = source.tensor() if isinstance(source, Place) else source
            if now is known and now._version == version and now.numel() > UNCOUNTED:
                continue
            if now is None or now.shape != known.shape or now.dtype != known.dtype:
                return False
            self._copy(i, source, now)
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
        for (effect, places), output in zip(self._effects, outputs[collected:]):
            for place, value in zip(places, self._layout.parts(output)):
                place.put(value, effect.wrapped, effect.inside)
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


def _share_what_changes(what: str) -> CaptureError:
    return CaptureError(
        f"members of an ensemble share {what}, and their steps change it; give each member its own "
        "model and optimizer"
    )


def _alike(steps: Sequence[Callable[..., Any]]) -> list[State]:
    """What each member can reach; an error where members differ in more than tensors."""
    states = [State(step) for step in steps]
    for i, state in enumerate(states):
        check_alike(states[0], state, i)
    return states


def _show(tensor: torch.Tensor, part: torch.Tensor) -> None:
    """Make a tensor a view of its part of a stack; it stays the same object, whoever holds it."""
    part.copy_(tensor)
    tensor.set_(part.untyped_storage(), part.storage_offset(), part.shape, part.stride())
