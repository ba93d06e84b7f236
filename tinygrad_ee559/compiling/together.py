"""Members together: a step that was captured from the first member, compiled for all of them.

The members' tensors become views into stacks, which the program works on. So every member stays a
model like any other, to be evaluated, saved or trained alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import fx

from tinygrad_ee559.compiling import lowering, memory, private
from tinygrad_ee559.compiling.alike import check_apart
from tinygrad_ee559.compiling.capture import Capture, Effect
from tinygrad_ee559.compiling.conditions import Conditions
from tinygrad_ee559.compiling.executable import (
    Artifact,
    artifact,
    as_it_is,
    native_program,
    warn_of_failure,
)
from tinygrad_ee559.compiling.lanes import LANES, NoLanesError
from tinygrad_ee559.compiling.layout import Layout, dense
from tinygrad_ee559.compiling.native import Native
from tinygrad_ee559.compiling.places import Look, Place
from tinygrad_ee559.compiling.runs import Admissions
from tinygrad_ee559.compiling.state import State
from tinygrad_ee559.errors import CaptureError

#: Lanes are faster as long as what they compute fits in the cache of a core: in so many bytes.
CACHE = 2**20


class Shown(NamedTuple):
    """A member's tensor that has become a view.

    Attributes:
        input: the number of the input that it is.
        place: where the member keeps it.
        tensor: the tensor, None before it is one.
        part: the part of a stack that it shows.
    """

    input: int
    place: Place
    tensor: torch.Tensor | None
    part: torch.Tensor


class Shared(NamedTuple):
    """A tensor that all members read.

    Attributes:
        source: where it is kept, or the tensor itself.
        room: memory for a copy of it.
        part: what it has to be like.
    """

    source: Place | torch.Tensor
    room: torch.Tensor
    part: torch.Tensor


class Together:
    """A captured step of one member, compiled for all.

    Args:
        capture: what that member did.
        states: what each of them can reach after it.
        captured: which of them it was.
        structure: how the arguments are nested.

    Attributes:
        shapes: shape and dtype of each argument of one member.
        structure: how the arguments are nested.
        text: what tells the step from others.
        carries: whether a step replaces what the next one begins with.
    """

    def __init__(
        self, capture: Capture, states: Sequence[State], captured: int, structure: Any
    ) -> None:
        if any(isinstance(effect, int) for effect in capture.effects):
            raise CaptureError("the arguments of an ensemble's steps cannot require gradients")
        if capture.tapes:
            raise CaptureError(
                f"gradients go through the history of {capture.tapes[0][0]}, which was computed "
                "outside of the steps of an ensemble; compute it inside"
            )
        moved = [place for place, _, number in capture.moves if number is not None]
        if moved:
            raise CaptureError(
                f"the steps of an ensemble leave a tensor as it is in {moved[0]}, and members have "
                "tensors of their own; leave a copy: tensor.clone()"
            )
        if capture.freezes:
            raise CaptureError(
                "the steps of an ensemble freeze tensors, or let them require gradients again; do "
                "both in each step, or neither"
            )
        if capture.exchanges:
            raise CaptureError(
                "the steps of an ensemble put another tensor in which gradients gather into "
                f"{capture.exchanges[0][0]}; copy values instead: a.data.copy_(b.data)"
            )
        self._capture = capture
        self.text = capture.text
        self.structure = structure
        self.shapes = [
            (t.shape, t.dtype)
            for s, t in zip(capture.sources, capture.inputs)
            if isinstance(s, int)
        ]
        self._written = set(memory.written(capture.graph, capture.inputs))
        if any(isinstance(capture.sources[i], int) for i in self._written):
            raise CaptureError(
                "the steps of an ensemble change an argument in place, and get parts of stacks; "
                "let them change a copy: tensor.clone()"
            )
        with private.alone():
            self._compile(len(states))
        self._admissions = Admissions()
        self.admit(capture, states, captured)

    def admit(self, capture: Capture, states: Sequence[State], captured: int) -> None:
        """The same was done where something else was found."""
        self._admissions.note(capture.state)
        self._capture = capture
        check_apart(states, captured)
        self._find(states, captured)

    # -------------------------------------------------------------- compilation

    def _compile(self, members: int) -> None:
        capture = self._capture
        examples = [dense(t) for t in capture.inputs]
        #: For all steps but the last, of which alone it is seen what it leaves behind.
        self._earlier: Native | None = None
        self._executable: Native | Artifact
        try:
            pure = lowering.lowered(capture.graph, examples)
        except Exception as error:
            warn_of_failure(error)
            self._layout = Layout(members, 1)
            self._executable = as_it_is(capture.graph)
            return
        if LANES * lowering.footprint(pure) <= CACHE and self._in_lanes(pure, examples):
            self._layout = Layout(members, LANES)
            return
        self._layout = Layout(members, 1)
        self._executable = native_program(pure, examples) or artifact(pure, examples)

    def _in_lanes(self, pure: fx.GraphModule, examples: list[torch.Tensor]) -> bool:
        """Compile for models side by side, if that can be done."""
        try:
            native = native_program(pure, examples, LANES)
        except NoLanesError:
            return False
        if native is None:
            return False
        self._executable = native
        if self._capture.effects and not self._capture.carries:
            results = lowering.first_outputs(pure, self._capture.collected)
            self._earlier = native_program(results, examples, LANES)
        return True

    # --------------------------------------------------------------------- state

    def _find(self, states: Sequence[State], captured: int) -> None:
        """Find each member's tensors and move them into stacks."""
        capture = self._capture
        positions = {place: i for i, place in enumerate(states[captured].tensors)}
        left = [effect for effect in capture.effects if isinstance(effect, Effect)]
        for place in (*capture.replaced, *capture.sources, *sum(capture.shared, ())):
            if isinstance(place, Place) and place not in positions:
                raise CaptureError(
                    f"the steps of an ensemble take a tensor away from {place}, or put something "
                    "else there; leave a tensor there, or do it in none of them"
                )
        #: Each effect, and its places, member by member.
        self._effects = [
            (effect, [state.tensors[positions[effect.place]] for state in states])
            for effect in left
        ]
        #: Where gradients are taken away.
        self._emptied = [
            state.tensors[positions[place]] for state in states for place, _, _ in capture.moves
        ]
        self._stacks: dict[int, torch.Tensor] = {}
        self._shared: dict[int, Shared] = {}
        #: Pairs of places that have to have the same tensor.
        self._same: list[tuple[Place, Place]] = []
        self._shown: list[Shown] = []
        #: The lanes of no member, and what they compute with too: the first member's part.
        self._idle: list[tuple[torch.Tensor, torch.Tensor]] = []
        for i, (source, tensor) in enumerate(zip(capture.sources, capture.inputs)):
            if isinstance(source, Place):
                self._stack(i, [state.tensors[positions[source]] for state in states])
            elif not isinstance(source, int):
                self._share(i, tensor, "a tensor")
        for _, places in self._effects:
            if len(set(places)) < len(places):
                raise _share_what_changes(f"{places[0]}")
        self._take_back()
        # Which look at where tensors are.
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
        #: Whether a step leaves something else for the next one to begin with.
        self.carries = capture.carries or not all(c.hold() for c in self._conditions)

    def _stack(self, i: int, places: list[Place]) -> None:
        """Have a stack for the members' tensors, into which they are moved later."""
        tensors = [place.tensor() for place in places]
        first = tensors[0]
        assert first is not None
        if len({id(t) for t in tensors}) == 1 and len(tensors) > 1:
            self._share(i, places[0], places[0].path)
            self._same += [(places[0], place) for place in places[1:]]
            return
        for member, tensor in enumerate(tensors):
            if not _fits(tensor, first):
                raise CaptureError(
                    f"the members of an ensemble have to be alike: {places[member]} is "
                    f"{_in_words(tensor)} in member {member}, and {_in_words(first)} in the first"
                )
        stack = self._stacks[i] = self._layout.stack(self._capture.inputs[i])
        parts = self._layout.parts(stack)
        self._shown += [Shown(i, place, None, part) for place, part in zip(places, parts)]
        left_over = self._layout.left_over(stack)
        if left_over is not None:
            self._idle.append((left_over, parts[0].unsqueeze(-1)))

    def _share(self, i: int, source: Place | torch.Tensor, path: str) -> None:
        """Let all members read one tensor."""
        like = self._capture.inputs[i]
        if i in self._written:
            raise _share_what_changes(f"{path}, of shape {list(like.shape)}")
        room = self._layout.block(like)
        self._shared[i] = Shared(source, room, self._layout.parts(room.unsqueeze(0))[0])

    def ready(self) -> bool:
        """Whether the members are as they were; takes tensors back in that were replaced."""
        return (
            all(conditions.hold() for conditions in self._conditions)
            and all(one.tensor() is other.tensor() for one, other in self._same)
            and self._take_back()
        )

    @torch.no_grad()
    def _take_back(self) -> bool:
        """Move tensors into the stacks that are not there; whether they fit."""
        now = [shown.place.tensor() for shown in self._shown]
        moved = [
            i
            for i, (shown, tensor) in enumerate(zip(self._shown, now))
            if tensor is None
            or tensor is not shown.tensor
            or tensor.data_ptr() != shown.part.data_ptr()
        ]
        if not all(_fits(now[i], self._shown[i].part) for i in moved):
            return False
        if moved:
            tensors = [tensor for tensor in now if tensor is not None]  # which is all of them
            self._check_apart(moved, tensors)
            self._move(moved, tensors)
        for i, (source, room, part) in self._shared.items():
            shared = source.tensor() if isinstance(source, Place) else source
            if not _fits(shared, part):
                return False
            self._stacks[i] = self._layout.spread(shared, room)
        return True

    def _check_apart(self, moved: list[int], now: list[torch.Tensor]) -> None:
        """Raise an error if what steps change is in one memory with another tensor."""
        fresh = {*moved}
        for i, j in memory.neighbors(now):
            written = not self._written.isdisjoint({self._shown[i].input, self._shown[j].input})
            if written and not fresh.isdisjoint({i, j}) and memory.share(now[i], now[j]):
                one, other, shape = self._shown[i], self._shown[j], list(now[i].shape)
                if one.input == other.input:
                    raise _share_what_changes(f"{one.place}, of shape {shape}")
                raise CaptureError(
                    f"{one.place}, of shape {shape}, and {other.place} of an ensemble's members "
                    "are in one memory, and their steps change it; give each memory of its own, as "
                    "by tensor.clone()"
                )

    def _move(self, moved: list[int], now: list[torch.Tensor]) -> None:
        """Move tensors to where they belong.

        Those that were there may still be somebody's. They go along with the tensor that was made
        from them, as `Tensor.data` is by assignment, or else get memory of their own.

        Args:
            moved: which of `self._shown`.
            now: the tensors that are in all those places.
        """
        ours = {stack.untyped_storage().data_ptr() for stack in self._stacks.values()}
        values = [now[i] for i in moved]
        values = [v.clone() if v.untyped_storage().data_ptr() in ours else v for v in values]
        kept = set(map(id, now))
        parts = {now[i].data_ptr(): self._shown[i].part for i in moved}
        for i in moved:
            _, _, before, part = self._shown[i]
            if before is None or id(before) in kept or before.data_ptr() != part.data_ptr():
                continue
            new = parts.get(part.data_ptr())
            before.data = new if new is not None and _fits(before, new) else part.clone()
        for i, value in zip(moved, values):
            shown = self._shown[i]
            now[i].data = shown.part.copy_(value)  # it stays the same object, whoever holds it
            self._shown[i] = shown._replace(tensor=now[i])

    # --------------------------------------------------------------------- running

    def loop(self, streams: Sequence[torch.Tensor]) -> Any:
        """Run all steps of all members."""
        for lanes, part in self._idle:  # which else might go where no member goes
            lanes.copy_(part)
        collected = self._capture.collected
        inputs: list[torch.Tensor] = []
        moving = []
        for i, source in enumerate(self._capture.sources):
            if isinstance(source, int):
                moving.append(i)
                inputs.append(self._layout.by_block(streams[source]))
            else:
                inputs.append(self._stacks[i])
        try:
            if isinstance(self._executable, Native):
                outputs = self._natively(self._executable, inputs, len(streams[0]), moving)
            else:
                outputs = self._each(self._executable, inputs, len(streams[0]), moving)
        finally:  # what failed has changed something too
            private.increment_versions(
                shown.tensor
                for shown in self._shown
                if shown.input in self._written and shown.tensor is not None
            )
        for (effect, places), output in zip(self._effects, outputs[collected:]):
            for place, value in zip(places, self._layout.parts(output)):
                place.put(value, effect.wrapped, effect.inside)
        for place in self._emptied:
            place.put(None, False)
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


def _fits(tensor: torch.Tensor | None, part: torch.Tensor) -> TypeGuard[torch.Tensor]:
    """Whether it may be in that part of a stack."""
    return (
        tensor is not None
        and tensor.shape == part.shape
        and tensor.dtype == part.dtype
        and tensor.device == part.device
    )


def _in_words(tensor: torch.Tensor | None) -> str:
    if tensor is None:
        return "nothing"
    return f"{tensor.dtype}{list(tensor.shape)} on {tensor.device}"
