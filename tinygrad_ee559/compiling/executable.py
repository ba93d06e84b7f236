"""Executables: what graphs are compiled to. Either runs a graph once, or for many steps."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from tinygrad_ee559.compiling import cache, lowering, private
from tinygrad_ee559.compiling.lanes import NoLanesError
from tinygrad_ee559.compiling.native import Native, Output, apart, failure, source
from tinygrad_ee559.compiling.progress import compiling
from tinygrad_ee559.errors import CompilerError


class Artifact:
    """A graph that Inductor compiled as a whole, for steps that libraries do some of."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def run(
        self, inputs: Sequence[torch.Tensor], _starts: Sequence[int] = ()
    ) -> list[torch.Tensor]:
        """One step: the outputs. Where memory begins only native programs have to be told.

        Inductor computes equal outputs once, and an output may be an input, so some are copied.
        """
        try:
            with private.literally():
                found = self._function(*inputs)
        except RuntimeError as error:
            if "out of bounds: " not in str(error):
                raise
            raise failure(str(error)) from error
        outputs = []
        taken = {t.untyped_storage().data_ptr() for t in inputs}
        for output in found:
            memory = output.untyped_storage().data_ptr()
            outputs.append(output.clone() if memory in taken else output)
            taken.add(memory)
        return outputs

    def loop(
        self, inputs: Sequence[torch.Tensor], steps: int, moving: Sequence[int], collected: int
    ) -> Sequence[torch.Tensor]:
        """Many steps; see `Native.loop`."""
        rows: list[torch.Tensor] = []
        outputs: Sequence[torch.Tensor] = ()
        given = list(inputs)
        for step in range(steps):
            for i in moving:
                given[i] = inputs[i][step]
            outputs = self.run(given)
            rows = rows or [
                output.new_empty(steps, *output.shape) for output in outputs[:collected]
            ]
            for row, output in zip(rows, outputs):
                row[step] = output  # which the next step may change
        return [*rows, *outputs[collected:]]


def native_program(
    pure: fx.GraphModule, inputs: Sequence[torch.Tensor], lanes: int = 1
) -> Native | None:
    """The graph as C++ alone, None if libraries had better do some of it.

    With lanes it is a program for so many models at once, which are the last dimension of all
    inputs and outputs.
    """
    if not lowering.is_native(pure, lanes):
        return None
    looks = [f"{t.dtype} {list(t.shape)} {t.stride()}" for t in inputs]
    parallel = torch.get_num_threads() > 1 and lowering.has_large_products(pure)
    dtype = str(torch.get_default_dtype())  # to which integers are promoted
    name = cache.key(str(pure.graph), *looks, dtype, str(lanes), str(parallel))
    program = _loaded(cache.load(name), len(inputs))
    if program is None:
        cache.discard(name)
        private.require_compiler()
        with compiling(len(pure.graph.nodes)):
            kernels = _kernels(pure, inputs, lanes, parallel)
            if kernels is None:
                return None
            kernels = apart(kernels, len(inputs))
            text = source(kernels, len(inputs))
            try:
                library = private.build(text)
            except CompilerError as error:  # it may have run out of memory
                _warn_of_the_ordinary_way(error)
                return None
        outputs = [
            (
                memory,
                offset // t.itemsize,
                kernels.rooms[memory - len(inputs)] // t.itemsize,
                list(t.shape),
                t.stride(),
                str(t.dtype).removeprefix("torch."),
            )
            for memory, offset, t in kernels.outputs
        ]
        description = {"rooms": kernels.rooms, "outputs": outputs}
        cache.store(name, library, text, description)
        program = _loaded((library, description), len(inputs))
    return program


def _loaded(found: tuple[str, Any] | None, inputs: int) -> Native | None:
    """The program of a library and its description, None if there is none or it is damaged."""
    if found is None:
        return None
    library, description = found
    try:
        layouts = [
            Output(memory, offset, room, tuple(shape), tuple(strides), getattr(torch, dtype))
            for memory, offset, room, shape, strides, dtype in description["outputs"]
        ]
        return Native(library, inputs, description["rooms"], layouts)
    except (OSError, LookupError, TypeError, ValueError, AttributeError):
        return None


def as_it_is(graph: fx.GraphModule) -> Artifact:
    """The graph operator by operator, where there is next to nothing to compute."""
    return Artifact(graph.forward)


def artifact(graph: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> Artifact:
    """The graph as Inductor compiles it; as it is, if Inductor fails."""
    private.require_compiler()
    with compiling(len(graph.graph.nodes)):
        try:
            return Artifact(private.artifact(graph, inputs))
        except Exception as error:
            warn_of_failure(error)
            return as_it_is(graph)


def warn_of_failure(error: Exception) -> None:
    """Say that a step runs as it is from now on."""
    warnings.warn(f"this step is not compiled: {_with_release(error)}", stacklevel=3)


def _kernels(
    pure: fx.GraphModule, inputs: Sequence[torch.Tensor], lanes: int, parallel: bool
) -> private.Kernels | None:
    loops = lowering.in_loops if lanes == 1 else lowering.in_loops_over_lanes
    try:
        return private.kernels(loops(pure, inputs), parallel)
    except NoLanesError:
        raise
    except Exception as error:  # this rests on private parts of torch
        _warn_of_the_ordinary_way(error)
        return None


def _warn_of_the_ordinary_way(error: Exception) -> None:
    warnings.warn(
        f"this step is compiled the ordinary way, which is slower: {_with_release(error)}",
        stacklevel=3,
    )


def _with_release(error: Exception) -> str:
    message = str(error).strip().partition("\n")[0]
    return (
        f"{type(error).__name__}: {message}. Please report this, with your version of torch, "
        f"{torch.__version__}"
    )
