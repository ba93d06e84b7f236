"""Native programs: the kernels of a step and the loop around them as one C++ function.

The function runs the kernels for a number of *steps* after each other, and that for a number of
*members* of an ensemble, which are shared out among threads; of a single model, large products and
long loops are. A memory of the program is what a kernel gets a pointer to: an input, an output, or
scratch. Per step and per member each pointer moves on by a fixed number of bytes, which is 0 where
the same memory is meant.
"""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from tinygrad_ee559.compiling.private import Call, Kernels, empty_strided
from tinygrad_ee559.errors import CompilerError, operand_error

_ALIGNMENT = 64
PRODUCT = Path(__file__).parent / "product.h"
_COPY = """
#include <cstring>
static void copy(char* to, const char* from, int64_t bytes, int) { std::memcpy(to, from, bytes); }
"""
_DRIVER = """
extern "C" {{ char failure[200]; }}

extern "C" int run(char* const* memories, const int64_t* member_strides,
                   const int64_t* thread_strides, const int64_t* moving,
                   const int64_t* step_strides, int64_t moving_count, int64_t steps,
                   int64_t members, int threads)
{{
    int failed = 0;
    auto train = [&](int64_t member, int thread, int threads) {{
        char* m[{count}];
        for (int k = 0; k < {count}; ++k)
            m[k] = memories[k] + member * member_strides[k] + thread * thread_strides[k];
        try {{
            for (int64_t step = 0; step < steps; ++step) {{
                {calls}
                for (int64_t j = 0; j < moving_count; ++j) m[moving[j]] += step_strides[j];
            }}
        }} catch (const std::exception& error) {{
            std::snprintf(failure, sizeof failure, "%s", error.what());
            failed = 1;
        }}
    }};
    if (members == 1) {{
        train(0, 0, threads);
        return failed;
    }}
    #pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t member = 0; member < members; ++member)
        train(member, omp_get_thread_num(), 1);
    return failed;
}}
"""


@dataclass(frozen=True)
class Output:
    """An output, which may be a part of the memory that it is in.

    Attributes:
        memory: the number of that memory.
        offset: where the output begins there, in numbers.
        room: how many numbers the memory holds.
        shape, strides, dtype: how the output is laid out.
    """

    memory: int
    offset: int
    room: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    @cached_property
    def is_whole(self) -> bool:
        """Whether it is all that is in that memory."""
        reach = 1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides))
        return self.offset == 0 and self.room == reach

    def stack(self, lead: Sequence[int]) -> torch.Tensor:
        """Memory for as many outputs as `lead` says, with these dimensions in front."""
        strides: list[int] = []
        reach = self.room
        for n in reversed(lead):
            strides.insert(0, reach)
            reach *= n
        shape = (*lead, *self.shape)
        if self.is_whole:
            return empty_strided(shape, (*strides, *self.strides), self.dtype)
        flat = empty_strided((*lead, self.room), (*strides, 1), self.dtype)
        return flat.as_strided(shape, (*strides, *self.strides), self.offset)


def apart(kernels: Kernels, inputs: int) -> Kernels:
    """The same with memory of its own for each output.

    Inductor computes equal outputs once, and an output may be an input, or a part of one. These are
    copied behind the kernels.
    """
    calls, rooms, outputs = [*kernels.calls], [*kernels.rooms], []
    taken = set(range(inputs))
    for memory, offset, tensor in kernels.outputs:
        if memory in taken:
            source, memory = memory, inputs + len(rooms)
            reach = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride()))
            rooms.append(reach * tensor.itemsize if tensor.numel() else 0)
            pointers = [("char*", memory, 0), ("const char*", source, offset)]
            calls.append(Call("copy", pointers, [rooms[-1]]))
            offset = 0
        taken.add(memory)
        outputs.append((memory, offset, tensor))
    return Kernels(kernels.sources, calls, rooms, outputs)


def source(kernels: Kernels, inputs: int) -> str:
    """The C++ of a program."""
    calls = []
    for function, pointers, numbers in kernels.calls:
        given = [f"({kind})(m[{k}] + {offset})" for kind, k, offset in pointers]
        given += [*map(str, numbers), "threads"] if numbers else []
        calls.append(f"{function}({', '.join(given)});")
    driver = _DRIVER.format(
        count=inputs + len(kernels.rooms), calls="\n                ".join(calls)
    )
    helpers = {"product": PRODUCT.read_text(), "copy": _COPY}
    called = {call.function for call in kernels.calls}
    wanted = [text for name, text in helpers.items() if name in called]
    return "\n".join(["#include <omp.h>", *wanted, *kernels.sources]) + driver


class Native:
    """A native program that is ready to run.

    Args:
        library: the path of the compiled C++.
        inputs: how many inputs it takes.
        rooms: the bytes of each further memory.
        outputs: where the outputs are.
    """

    def __init__(
        self, library: str, inputs: int, rooms: Sequence[int], outputs: Sequence[Output]
    ) -> None:
        loaded = ctypes.CDLL(library)
        self._failure = (ctypes.c_char * 200).in_dll(loaded, "failure")
        self._run = loaded.run
        self._run.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_int64] * 3 + [ctypes.c_int]
        self.inputs = inputs
        self.rooms = rooms
        self.outputs = outputs
        self._returned = dict(enumerate(outputs))
        #: Whether an output takes more memory than it is large.
        self._parts = not all(output.is_whole for output in outputs)
        self._held: dict[int, torch.Tensor] = {}
        count = inputs + len(rooms)
        self._pointers: Any = (ctypes.c_void_p * count)()
        self._no_strides = (ctypes.c_int64 * count)()
        self._scratch: torch.Tensor
        self._starts: list[int | None]
        self._offsets = []
        self._room = 0
        for room in rooms:
            self._offsets.append(self._room)
            self._room += -(-room // _ALIGNMENT) * _ALIGNMENT
        #: Each thread has scratch memory of its own.
        self._by_thread: Any = (ctypes.c_int64 * count)()
        self._by_thread[inputs:] = [self._room] * len(rooms)
        for output in outputs:
            self._by_thread[output.memory] = 0
        self._threads = 0
        self._reserve(1)

    def _reserve(self, threads: int) -> None:
        """Scratch memory for each thread."""
        if threads > self._threads:
            self._threads = threads
            self._scratch = torch.empty(
                threads * self._room + _ALIGNMENT, dtype=torch.uint8, device="cpu"
            )
            start = -(-self._scratch.data_ptr() // _ALIGNMENT) * _ALIGNMENT
            self._starts = [start + offset for offset in self._offsets]
            self._pointers[self.inputs :] = self._starts
            for position, output in self._held.items():
                self._point(self.outputs[position], output)

    def _point(self, layout: Output, output: torch.Tensor) -> None:
        self._pointers[layout.memory] = _begin(output, layout.offset * layout.dtype.itemsize)

    def hold(self, position: int) -> torch.Tensor:
        """New memory for an output, where `run` leaves it from now on, and does not return it."""
        layout = self.outputs[position]
        self._returned.pop(position, None)
        self._held[position] = layout.stack(())
        self._point(layout, self._held[position])
        return self._held[position]

    def run(self, inputs: Sequence[torch.Tensor], starts: Sequence[int]) -> list[torch.Tensor]:
        """One step: the outputs, in new memory, but for those that are held.

        Args:
            inputs: what the program computes with.
            starts: where their memory begins.
        """
        pointers = self._pointers
        pointers[: self.inputs] = starts
        returned = self._returned.values()
        if self._parts:
            outputs = [o.stack(()) for o in returned]
        else:
            outputs = [empty_strided(o.shape, o.strides, o.dtype) for o in returned]
        for layout, output in zip(returned, outputs):
            self._point(layout, output)
        none = self._no_strides
        if self._run(pointers, none, none, none, none, 0, 1, 1, torch.get_num_threads()):
            raise self._error()
        return outputs

    def loop(
        self,
        inputs: Sequence[torch.Tensor],
        steps: int,
        moving: Sequence[int],
        collected: int,
        members: int | None = None,
    ) -> list[torch.Tensor]:
        """Many steps, for one or many members.

        Args:
            inputs: as for one step; with `members`, all have a first dimension of members. Those in
                `moving` have a dimension of steps, before that of members if there is one.
            steps: how many.
            moving: the inputs of which each step gets the next part.
            collected: of so many outputs, the first ones, every step's value is returned, stacked.
                Of the others, the last.
            members: how many models are trained, one if None.

        Torch's number of threads share out the members, or, of one model, what takes long.
        """
        threads = torch.get_num_threads()
        if members and members > 1:
            threads = min(threads, members)  # each has scratch memory of its own
            self._reserve(threads)
        outputs = [
            layout.stack([*([steps] if i < collected else []), *([members] if members else [])])
            for i, layout in enumerate(self.outputs)
        ]
        stacks = [(i, tensor, 0, i in moving) for i, tensor in enumerate(inputs)]
        stacks += [
            (layout.memory, tensor, layout.offset * tensor.itemsize, i < collected)
            for i, (layout, tensor) in enumerate(zip(self.outputs, outputs))
        ]
        pointers, by_member, by_step = self._laid_out(stacks, members is not None)
        n = len(by_step)
        along = (ctypes.c_int64 * n)(*by_step), (ctypes.c_int64 * n)(*by_step.values()), n
        for count in _portions(steps):
            failed = self._run(
                pointers, by_member, self._by_thread, *along, count, members or 1, threads
            )
            if failed:
                raise self._error()
            for memory, stride in by_step.items():
                pointers[memory] = (pointers[memory] or 0) + count * stride  # 0 if it is empty
        return outputs

    def _laid_out(
        self, stacks: Sequence[tuple[int, torch.Tensor, int, bool]], with_members: bool
    ) -> tuple[Any, Any, dict[int, int]]:
        """Where each memory begins, and its strides in bytes from member to member and from step to
        step.

        Args:
            stacks: of inputs and outputs the memory, the tensor, how far into the memory that
                begins, and whether its first dimension is one of steps.
            with_members: whether they have a dimension of members, after that.
        """
        pointers: Any = (ctypes.c_void_p * len(self._pointers))()
        pointers[self.inputs :] = self._starts
        by_member: Any = (ctypes.c_int64 * len(self._pointers))()
        by_step = {}
        for memory, tensor, offset, by_steps in stacks:
            pointers[memory] = _begin(tensor, offset)
            lead = [stride * tensor.itemsize for stride in tensor.stride()[:2]]
            if by_steps:
                by_step[memory] = lead.pop(0)
            if with_members:
                by_member[memory] = lead[0]
        return pointers, by_member, by_step

    def _error(self) -> Exception:
        return failure(self._failure.value.decode(errors="replace"))


def failure(message: str) -> Exception:
    """What Inductor's C++ complains of: an index, or a division of integers."""
    reason = message.partition("\n")[0]
    bounds = re.search(r"out of bounds: .* < (\d+)", reason)
    if bounds is not None:
        return operand_error(
            IndexError(),
            f"an index or a label in a compiled step is not below {bounds[1]}, or is negative; to "
            "see where, run the step itself: the `__wrapped__` of a compiled function, or the one "
            "of the `steps` of an ensemble",
        )
    if "ZeroDivision" in reason:
        reason = "an integer was divided by zero"
    return CompilerError(f"the compiled step failed: {reason}")


def _begin(tensor: torch.Tensor, offset: int) -> int:
    """Where the memory begins in which a tensor is `offset` bytes on; of an empty one, torch says
    nothing of where it is."""
    start = tensor.data_ptr()
    return start - offset if start else tensor.untyped_storage().data_ptr()


def _portions(steps: int) -> Iterator[int]:
    """Numbers of steps that take about a tenth of a second each, so that Ctrl-C is heard."""
    portion = 64
    while steps:
        portion = min(portion, steps)
        start = time.perf_counter()
        yield portion
        steps -= portion
        portion = 1 + int(portion * min(16.0, 0.1 / (time.perf_counter() - start)))
