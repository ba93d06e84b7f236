"""Programs: a captured run, compiled.

What a program computes with is fetched at each call from where the function keeps it, and what it
leaves behind is put where the function would have put it. So programs and the function itself can
take turns on the same model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tinygrad_ee559.compiling import lowering, private
from tinygrad_ee559.compiling.capture import Capture
from tinygrad_ee559.compiling.conditions import Conditions, Look
from tinygrad_ee559.compiling.executable import artifact, native_program
from tinygrad_ee559.compiling.state import Place
from tinygrad_ee559.tensor import Tensor, lift


class Program:
    """A captured run, compiled.

    Attributes:
        captured: the operators that ran.
        lowered: the same without changes in place but for the inputs.
        text: what tells the run from others.
    """

    def __init__(self, capture: Capture, arguments: Sequence[Any]) -> None:
        self.conditions = Conditions(capture, arguments)
        self.text = capture.text
        self._written = lowering.written(capture.graph, capture.inputs)
        self.captured = capture.graph
        self.lowered = lowering.lowered(capture.graph, capture.inputs)
        native = native_program(self.lowered, capture.inputs)
        self._executable = native or artifact(capture.graph, capture.inputs)
        self._capture = capture
        self._looks = [Look(t) for t in capture.inputs]
        self._known: list[Any] = list(capture.inputs)

    def inputs(self, arguments: Sequence[Any]) -> list[torch.Tensor] | None:
        """The tensors to compute with, None if one of them is not what it was."""
        found: list[torch.Tensor] = []
        for i, source in enumerate(self._capture.sources):
            if source.__class__ is int:
                argument = arguments[source]
                tensor = argument._data if isinstance(argument, Tensor) else argument
            elif source.__class__ is Place:
                tensor = source.tensor()
                if tensor is not self._known[i]:
                    if not self._looks[i].fits(tensor):
                        return None
                    self._known[i] = tensor
            else:
                tensor = source
            found.append(tensor)
        return found

    def run(self, arguments: Sequence[Any], inputs: list[torch.Tensor]) -> Any:
        """What the function returns; changes what it changes."""
        outputs = self._executable.run(inputs)
        self._leave(arguments, inputs, outputs)
        return self._capture.assembled(outputs)

    def loop(self, streams: Sequence[Any], inputs: list[torch.Tensor]) -> Any:
        """What the function returns in each of many steps, stacked.

        Args:
            streams: the arguments of all steps, with a first dimension of steps.
            inputs: what the program computes with, for one step.
        """
        given = list(inputs)
        moving = []
        for i, source in enumerate(self._capture.sources):
            if source.__class__ is int:
                moving.append(i)
                given[i] = streams[source]
        steps = len(streams[0])
        outputs = self._executable.loop(given, steps, moving, self._capture.collected)
        self._leave((), inputs, outputs)
        return self._capture.assembled(outputs)

    def _leave(
        self,
        arguments: Sequence[Any],
        inputs: Sequence[torch.Tensor],
        outputs: Sequence[torch.Tensor],
    ) -> None:
        """Put what the run has left behind where it belongs."""
        private.increment_versions([inputs[i] for i in self._written])
        for effect, value in zip(self._capture.effects, outputs[self._capture.collected :]):
            if isinstance(effect, int):
                arguments[effect].node.grad = lift(value, None)
            else:
                place, wrapped = effect
                place.put(value, wrapped)
