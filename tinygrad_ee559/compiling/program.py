"""Programs: a captured run, compiled.

What a program computes with is fetched at each call from where the function keeps it, and what it
leaves behind is put where the function would have put it. So programs and the function itself can
take turns on the same model.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import fx

from tinygrad_ee559.compiling import lowering, memory, private
from tinygrad_ee559.compiling.capture import Capture, Effect
from tinygrad_ee559.compiling.conditions import Conditions
from tinygrad_ee559.compiling.executable import (
    Artifact,
    artifact,
    as_it_is,
    native_program,
    warn_of_failure,
)
from tinygrad_ee559.compiling.inputs import Inputs
from tinygrad_ee559.compiling.native import Native
from tinygrad_ee559.compiling.places import Place
from tinygrad_ee559.compiling.runs import Admissions
from tinygrad_ee559.compiling.streams import hidden_by_copies
from tinygrad_ee559.compiling.unseen import Gradients
from tinygrad_ee559.errors import CaptureError, CompilerError
from tinygrad_ee559.tape import Leaf
from tinygrad_ee559.tensor import lift

#: Under the conditions of so many runs that did what it does, a program may run: those that were
#: found again last.
CONDITIONS = 32


class Program:
    """A captured run, compiled.

    Attributes:
        captured: the operators that ran.
        lowered: the same without changes in place but for the inputs.
        text: what tells the run from others.
        carries: whether a step replaces what the next one begins with.
    """

    def __init__(self, capture: Capture, arguments: Sequence[Any], structure: Any) -> None:
        self.conditions: list[Conditions] = []
        self._admissions = Admissions()
        self.admit(capture, arguments, structure)
        self.text = capture.text
        self._written = memory.written(capture.graph, capture.inputs)
        self.captured = capture.graph
        self.lowered = capture.graph
        self._executable: Native | Artifact = as_it_is(capture.graph)
        if lowering.is_worth_compiling(capture.graph, capture.inputs, self._written):
            with private.alone():
                self.lowered, self._executable = _compiled(capture.graph, capture.inputs)
        self._capture = _without_tensors(capture)
        gradients = _new_gradients(capture)
        self._renewed = list(gradients.values())
        self._gradients = None
        self._effects = capture.effects
        if isinstance(self._executable, Native):
            self._gradients = Gradients(self._executable, gradients)
            self._effects = [
                effect
                for i, effect in enumerate(capture.effects, capture.collected)
                if i not in gradients
            ]
        self._one = _one_tensor(capture, () if self._gradients is None else gradients)
        self._inputs = Inputs(capture, self._written)
        self.carries = capture.carries

    @property
    def kind(self) -> str:
        """What runs: a "native" program, or an "artifact" of Inductor's."""
        return "native" if isinstance(self._executable, Native) else "artifact"

    def admit(self, capture: Capture, arguments: Sequence[Any], structure: Any) -> None:
        """Another run did the same, so the program is right under its conditions too."""
        self._admissions.note(capture.state)
        conditions = Conditions(
            capture.state,
            capture.looks,
            {source for source in capture.sources if isinstance(source, Place)},
            capture.replaced,
            capture.shared,
            capture.missing,
            capture.tapes,
            arguments,
            capture.arguments.looks,
            structure,
        )
        conditions.lasting = conditions.hold(arguments, structure)
        self.conditions.insert(0, conditions)
        del self.conditions[CONDITIONS:]

    def inputs(self, arguments: Sequence[Any], structure: Any) -> list[torch.Tensor] | None:
        """The tensors to compute with, None if the program may not run."""
        for i, conditions in enumerate(self.conditions):
            if conditions.hold(arguments, structure):
                if i:
                    self.conditions.insert(0, self.conditions.pop(i))
                return self._inputs.fetch(arguments)
        return None

    def run(self, arguments: Sequence[Any], inputs: list[torch.Tensor]) -> Any:
        """What the function returns; changes what it changes."""
        gradients = self._gradients
        if gradients is not None:
            gradients.take_back()
        else:
            for leaf in self._renewed:
                leaf.grad = None  # so that its memory can be used again, while it is in the cache
        try:
            outputs = self._executable.run(inputs, self._inputs.starts)
        finally:  # what failed has changed something too
            self._mark_changed(inputs)
        for i, first in self._one:
            outputs[i] = outputs[first]
        self._leave(self._effects, arguments, inputs, outputs)
        if gradients is not None:
            gradients.leave()
        return self._capture.assembled(outputs, inputs)

    def may_loop(self, streams: Sequence[Any], inputs: list[torch.Tensor]) -> bool:
        """Whether `loop` does what the steps would do one by one: none finds what an earlier one
        has replaced, nor is given what one changes."""
        if self.carries or not self.conditions[0].lasting:  # those that held
            return False
        return self._inputs.stay_apart(self._given(streams, inputs))

    def check_apart(self, streams: Sequence[Any], inputs: list[torch.Tensor]) -> None:
        """Raise an error if steps that get copies of `streams` could not see what others change."""
        given = self._given(streams, inputs)
        changed = [given[i] for i in self._inputs.moving if i in self._written]
        if any(map(memory.folds, changed)) or not self._inputs.stay_apart(given):
            raise hidden_by_copies()

    def loop(self, streams: Sequence[Any], inputs: list[torch.Tensor]) -> Any:
        """What the function returns in each of many steps, stacked.

        Args:
            streams: the arguments of all steps, with a first dimension of steps.
            inputs: what the program computes with, for one step.
        """
        given, last = self._given(streams, inputs), list(inputs)
        moving = self._inputs.moving
        for i in moving:
            last[i] = given[i][-1]
        steps = len(streams[0])
        try:
            outputs = self._executable.loop(given, steps, moving, self._capture.collected)
        finally:
            self._mark_changed(last)
        self._leave(self._capture.effects, (), last, outputs)
        return self._capture.assembled(outputs)

    def _given(self, streams: Sequence[Any], inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """The inputs of many steps: streams in place of arguments."""
        given = list(inputs)
        for i in self._inputs.moving:
            given[i] = streams[self._capture.sources[i]]
        return given

    def _mark_changed(self, inputs: Sequence[torch.Tensor]) -> None:
        private.increment_versions([inputs[i] for i in self._written])

    def _leave(
        self,
        effects: Sequence[Effect | int],
        arguments: Sequence[Any],
        inputs: Sequence[torch.Tensor],
        outputs: Sequence[torch.Tensor],
    ) -> None:
        """Put what the run has left behind where it belongs."""
        for effect, value in zip(effects, outputs[self._capture.collected :]):
            if isinstance(effect, int):
                arguments[effect].node.grad = lift(value, None)
            else:
                effect.place.put(value, effect.wrapped, effect.inside)
        for tensor, frozen in self._capture.freezes:
            tensor.requires_grad = not frozen
        for place, tensor in self._capture.exchanges:
            place.put_object(tensor)
        for argument in self._capture.cleared:
            arguments[argument].node.grad = None
        for place, wrapped, i in self._capture.moves:
            place.put(None if i is None else inputs[i], wrapped)


def _compiled(
    graph: fx.GraphModule, inputs: Sequence[torch.Tensor]
) -> tuple[fx.GraphModule, Native | Artifact]:
    """A captured graph without changes in place, and what that is compiled to; where torch cannot
    do without these, the graph as it is."""
    try:
        pure = lowering.lowered(graph, inputs)
        native = native_program(pure, inputs)
    except (CaptureError, CompilerError):
        raise
    except Exception as error:
        warn_of_failure(error)
        return graph, as_it_is(graph)
    return pure, native or artifact(pure, inputs)


def _without_tensors(capture: Capture) -> Capture:
    """A capture without what its run was given, found and returned, which would stay in memory."""
    kept = copy.copy(capture)
    del kept.inputs, kept.returned, kept.state, kept.arguments
    return kept


def _new_gradients(capture: Capture) -> dict[int, Leaf]:
    """The leaves that a run gives a gradient, whatever they had, by its position in the outputs.

    Not those of which the run made something else too: a result, or the gradient of another leaf.
    """
    nodes: Any = capture.graph.graph.output_node().args[0]
    read = {id(source.holder) for source in capture.sources if isinstance(source, Place)}
    return {
        i: effect.place.holder
        for i, effect in enumerate(capture.effects, capture.collected)
        if isinstance(effect, Effect)
        and isinstance(effect.place.holder, Leaf)
        and id(effect.place.holder) not in read
        and nodes.count(nodes[i]) == 1
    }


def _one_tensor(capture: Capture, gradients: Collection[int]) -> list[tuple[int, int]]:
    """Pairs of outputs that were one tensor, such as a result that is also left in a place.

    An output is known here by its position among those that are not written over as `gradients`.
    """
    nodes: Any = capture.graph.graph.output_node().args[0]
    returned = [node for i, node in enumerate(nodes) if i not in gradients]
    firsts = [returned.index(node) for node in returned]
    return [(i, first) for i, first in enumerate(firsts) if first != i]
