"""`ensemble`: many models trained at once, each by its own step, as one program.

The members' tensors move into stacks, of which each member's own tensors become views; so every
member stays a model like any other, to be evaluated, saved or trained alone. The stacks are laid
out in one of two ways. Where batches are large, one model after the other runs, which then stays
in the nearest cache. Where they are small, `LANES` models run side by side in each vector.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch

from tinygrad_ee559.compiling import lowering, private
from tinygrad_ee559.compiling.capture import Capture
from tinygrad_ee559.compiling.conditions import Conditions
from tinygrad_ee559.compiling.executable import Artifact, artifact, native_program
from tinygrad_ee559.compiling.lanes import LANES, NoLanesError
from tinygrad_ee559.compiling.native import Native
from tinygrad_ee559.compiling.runs import Runs
from tinygrad_ee559.compiling.state import SCALARS, Place, State, same
from tinygrad_ee559.compiling.streams import as_stack, entry, joined, streams_of
from tinygrad_ee559.errors import CaptureError

#: Lanes are faster as long as what they compute fits in the cache of a core: in so many bytes.
CACHE = 2**20


class Ensemble:
    """Steps of several members that run together. `ensemble` says more."""

    def __init__(self, steps: Sequence[Callable[..., Any]]) -> None:
        self.steps = list(steps)
        if not self.steps:
            raise ValueError("an ensemble needs at least one step")
        self._runs = Runs(self.steps[0])
        self._together: list[_Together] = []
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self.steps)

    def __call__(self, *args: Any) -> Any:
        """One step of every member; arguments and results have a first dimension of members."""
        return entry(self.loop(*as_stack(args)), 0)

    def loop(self, *args: Any) -> Any:
        """Many steps of every member.

        Args:
            args: tensors whose first two dimensions are those of the steps and of the members.

        Returns:
            what the steps returned, with the same first two dimensions.
        """
        streams = streams_of(args, ("steps", "members"))
        steps, members = streams[0].shape[:2]
        if members != len(self):
            raise ValueError(
                f"the second dimension is that of the members, of which there are {len(self)}; "
                f"these tensors have the shapes {[list(s.shape) for s in streams]}"
            )
        returned = []
        with self._lock:
            for step in range(steps):
                together = self._program([s[step, 0] for s in streams])
                if together is not None and together.carries:
                    returned.append(together.loop([s[step : step + 1] for s in streams]))
                elif together is not None:
                    returned.append(together.loop([s[step:] for s in streams]))
                    break
                else:
                    returned.append(self._one_by_one(args, step))
        return joined(returned)

    def _program(self, arguments: list[torch.Tensor]) -> _Together | None:
        looks = [(a.shape, a.dtype) for a in arguments]
        return next((t for t in self._together if t.looks == looks and t.ready()), None)

    def _one_by_one(self, args: Any, step: int) -> Any:
        """One step of each member by itself; compiles what the first did if it did so before."""
        arguments = [entry(args, step, i) for i in range(len(self))]
        capture, earlier = self._runs.run(arguments[0], {})
        results = [capture.returned]
        results += [f(*a) for f, a in zip(self.steps[1:], arguments[1:])]
        if earlier is not None:
            self._together.append(_Together(capture, self.steps))
        return joined([as_stack(result, 2) for result in results], 1)


class _Together:
    """A captured step of the first member, compiled for all."""

    def __init__(self, capture: Capture, steps: Sequence[Callable[..., Any]]) -> None:
        self._capture = capture
        self._states = [State(step) for step in steps]
        self._members = len(steps)
        first = self._states[0]
        for i, state in enumerate(self._states):
            _check_alike(first, state, i)
        positions = {place: i for i, place in enumerate(first.tensors)}
        missing = [id(leaf) in capture.missing for leaf in capture.state.leaves]
        self.carries = capture.carries
        self._conditions = [
            Conditions(
                state,
                {state.tensors[positions[place]] for place in capture.replaced},
                {id(leaf) for leaf, none in zip(state.leaves, missing) if none},
            )
            for state in self._states
        ]
        self.looks = [
            (t.shape, t.dtype)
            for s, t in zip(capture.sources, capture.inputs)
            if isinstance(s, int)
        ]
        if any(isinstance(effect, int) for effect in capture.effects):
            raise CaptureError("the arguments of an ensemble's steps cannot require gradients")
        examples = [torch.empty(t.shape, dtype=t.dtype) for t in capture.inputs]
        pure = lowering.lowered(capture.graph, examples)
        self._lanes = LANES if LANES * lowering.footprint(pure) <= CACHE else 1
        self._executable: Native | Artifact | None = None
        if self._lanes > 1:
            try:
                self._executable = native_program(pure, examples, self._lanes)
            except NoLanesError:
                self._lanes = 1
        if self._executable is None:
            self._lanes = 1
            self._executable = native_program(pure, examples)
        if self._executable is None:
            self._executable = artifact(capture.graph, capture.inputs)
        self._blocks = -(-self._members // self._lanes)
        self._written = set(lowering.written(capture.graph, capture.inputs))
        self._effects = [
            [state.tensors[positions[effect[0]]] for state in self._states]
            for effect in capture.effects
            if isinstance(effect, tuple)
        ]
        self._stacks: dict[int, torch.Tensor] = {}
        #: Where each member keeps a tensor, the tensor, and the part of a stack that it shows.
        self._shown: list[tuple[Place, torch.Tensor, torch.Tensor]] = []
        for i, (source, tensor) in enumerate(zip(capture.sources, capture.inputs)):
            if isinstance(source, int):
                continue
            if isinstance(source, Place):
                places = [state.tensors[positions[source]] for state in self._states]
                self._stack(i, places)
            else:
                self._share(i, tensor, "a tensor")

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
        stack = self._empty_stack(first)
        for view, place, tensor in zip(self._parts(stack), places, tensors):
            assert tensor is not None
            _show(tensor, view)
            self._shown.append((place, tensor, view))
        self._stacks[i] = stack

    def _share(self, i: int, tensor: torch.Tensor, path: str) -> None:
        """Let all members read one tensor."""
        if i in self._written:
            raise CaptureError(
                f"the members of an ensemble share {path}, of shape {list(tensor.shape)}, and "
                "their steps change it; give each member its own model and optimizer"
            )
        stack = self._empty_stack(tensor)
        for view in self._parts(stack):
            view.copy_(tensor)
        self._stacks[i] = stack

    def _empty_stack(self, like: torch.Tensor) -> torch.Tensor:
        lanes = (self._lanes,) if self._lanes > 1 else ()
        return torch.zeros(self._blocks, *like.shape, *lanes, dtype=like.dtype)

    def _parts(self, stack: torch.Tensor) -> list[torch.Tensor]:
        """Each member's part of a stack, as views."""
        parts = list(stack.unbind(0))
        if self._lanes > 1:
            parts = [part for block in parts for part in block.unbind(-1)]
        return parts[: self._members]

    def _by_member(self, results: torch.Tensor) -> torch.Tensor:
        """The results of all steps with a dimension of members in place of blocks and lanes."""
        if self._lanes > 1:
            results = results.movedim(-1, 2).flatten(1, 2)
        return results[:, : self._members]

    def _by_block(self, stream: torch.Tensor) -> torch.Tensor:
        """A stream of arguments with blocks and lanes in place of members."""
        if self._lanes == 1:
            return stream.contiguous()
        missing = self._blocks * self._lanes - self._members
        if missing:
            stream = torch.cat([stream, stream[:, :1].expand(-1, missing, *stream.shape[2:])], 1)
        steps, _, *shape = stream.shape
        stream = stream.reshape(steps, self._blocks, self._lanes, *shape)
        return stream.movedim(2, -1).contiguous()

    def ready(self) -> bool:
        """Whether the members are as they were; takes tensors back in that were replaced."""
        if not all(conditions.hold() for conditions in self._conditions):
            return False
        for i, (place, known, view) in enumerate(self._shown):
            tensor = place.tensor()
            if tensor is known and tensor.data_ptr() == view.data_ptr():
                continue
            if tensor is None or tensor.shape != view.shape or tensor.dtype != view.dtype:
                return False
            _show(tensor, view)
            self._shown[i] = place, tensor, view
        return True

    def loop(self, streams: Sequence[torch.Tensor]) -> Any:
        """Run all steps of all members."""
        steps = len(streams[0])
        inputs: list[torch.Tensor] = []
        moving = []
        for i, source in enumerate(self._capture.sources):
            if isinstance(source, int):
                moving.append(i)
                inputs.append(self._by_block(streams[source]))
            else:
                inputs.append(self._stacks[i])
        if isinstance(self._executable, Native):
            threads = min(torch.get_num_threads(), self._blocks)
            outputs = self._executable.loop(
                inputs, steps, moving, self._capture.collected, self._blocks, threads
            )
        else:
            outputs = self._each(inputs, steps, moving)
        private.increment_versions([tensor for _, tensor, _ in self._shown])
        for places, output in zip(self._effects, outputs[self._capture.collected :]):
            for place, value in zip(places, self._parts(output)):
                place.replace(value)
        return self._capture.assembled(
            [self._by_member(output) for output in outputs[: self._capture.collected]]
        )

    def _each(
        self, inputs: Sequence[torch.Tensor], steps: int, moving: Sequence[int]
    ) -> list[torch.Tensor]:
        """One member after the other, by calls of one artifact."""
        assert isinstance(self._executable, Artifact)
        columns = []
        for member in range(self._members):
            given = [t[:, member] if i in moving else t[member] for i, t in enumerate(inputs)]
            columns.append(self._executable.loop(given, steps, moving, self._capture.collected))
        return [
            torch.stack(column, 1 if i < self._capture.collected else 0)
            for i, column in enumerate(zip(*columns))
        ]


@torch.no_grad()
def _show(tensor: torch.Tensor, part: torch.Tensor) -> None:
    """Make a tensor a view of its part of a stack; it stays the same object, whoever holds it."""
    part.copy_(tensor)
    tensor.set_(part.untyped_storage(), part.storage_offset(), part.shape, part.stride())


def _check_alike(first: State, other: State, member: int) -> None:
    """Raise an error that names where two members differ in more than the values of tensors."""
    values = [(p, v) for p, v in first.values if isinstance(v, SCALARS)]
    others = [(p, v) for p, v in other.values if isinstance(v, SCALARS)]
    for (_, value), (place, otherwise) in zip(values, others):
        if not same(value, otherwise):
            raise CaptureError(
                f"the members of an ensemble may differ in tensors only: {place} is {otherwise!r} "
                f"in member {member}, and {value!r} in the first. Make it a tensor: "
                f"torch.tensor({otherwise!r})"
            )
    if len(values) != len(others) or len(first.tensors) != len(other.tensors):
        raise CaptureError(
            f"the members of an ensemble have to be alike, and member {member} holds "
            f"{len(other.tensors)} tensors and {len(others)} values, the first one "
            f"{len(first.tensors)} and {len(values)}"
        )


def ensemble(steps: Sequence[Callable[..., Any]]) -> Ensemble:
    """Train many models at once, each by the step that was written for one.

    Args:
        steps: one function per member. Each has a model and an optimizer of its own, which differ
            in the values of tensors: parameters, and hyper-parameters given as tensors.

    The first steps run one by one, until two did the same. Then one program runs all, which is
    compiled and loops over steps and members by itself, on as many threads as torch is set to use.
    Parameters, gradients and momenta of the members become views into stacks, and can be used as
    before.

    Raises:
        ValueError: there are no steps.
        CaptureError: when called, if the members differ in more than tensors or share some that
            they change, or for the reasons of `compile`.

    >>> from tinygrad_ee559 import nn, optim
    >>> def member(lr):
    ...     model = nn.Linear(2, 1)
    ...     optimizer = optim.SGD(model.parameters(), lr=torch.tensor(lr))
    ...     def step(x, y):
    ...         optimizer.zero_grad()
    ...         loss = ((model(x) - y) ** 2).mean()
    ...         loss.backward()
    ...         optimizer.step()
    ...         return loss
    ...     return step
    >>> train = ensemble([member(lr) for lr in (0.1, 0.01, 0.001)])
    >>> losses = train.loop(torch.ones(20, 3, 5, 2), torch.zeros(20, 3, 5, 1))
    >>> losses.shape
    torch.Size([20, 3])
    """
    return Ensemble(steps)
