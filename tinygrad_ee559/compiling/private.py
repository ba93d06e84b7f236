"""The private parts of torch that capture and compilation rest on, all of them.

TorchInductor, torch's own compiler, is used in two ways. `artifact` calls it as its authors mean it
to be called. `kernels` takes the C++ out of it that it writes for a graph, and how that is called;
if that fails, as it may with another release of torch, `artifact` is the way back.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import fx
from torch.utils import _python_dispatch

from tinygrad_ee559.errors import CompilerError

DispatchMode: Any = _python_dispatch.TorchDispatchMode
#: torch.empty_strided on the CPU, without the time that it takes to find out about options.
empty_strided: Callable[..., torch.Tensor] = torch._C._dynamo.guards._empty_strided_cpu  # type: ignore[attr-defined]
#: Whether autocast is on, for whatever device.
any_autocast: Callable[[], bool] = torch._C._is_any_autocast_enabled

_HEADER = "torch/csrc/inductor/cpp_prefix.h"
_INCLUDE = f"#include <{_HEADER}>"
#: What is known of the machine.
_MACHINE = {}
if shutil.which("openssl") is None:  # which torch asks whether a precompiled header is still right
    _MACHINE["cpp_cache_precompile_headers"] = False
if "TORCHINDUCTOR_VEC_ISA_OK" not in os.environ:
    # Whether the compiler knows vectors torch would find out with samples, which takes longer than
    # all else; one that takes torch's headers, which are C++20, does.
    _MACHINE["cpp.vec_isa_ok"] = True
_OPTIONS = {
    **_MACHINE,
    "fx_graph_cache": False,
    "cpp.threads": 1,
    "cpp.max_horizontal_fusion_size": 1_000_000,  # all loops in one function
    "cpp.enable_floating_point_contract_flag": "fast",  # a * b + c in one instruction
}
#: For long loops, which as many threads share out as torch may use at the time.
_PARALLEL = {"cpp.threads": 64, "cpp.dynamic_threads": True}


class Call(NamedTuple):
    """A call of a C++ function.

    Attributes:
        function: its name.
        pointers: for each tensor the type of a pointer to it, the memory that it points to and the
            offset into that in bytes. The memory is a number: first come the graph's inputs.
        numbers: what else the function is given, if anything; then a number of threads too.
    """

    function: str
    pointers: list[tuple[str, int, int]]
    numbers: list[int]


class Kernels(NamedTuple):
    """The C++ functions that Inductor wrote for a graph, and how it calls them.

    Attributes:
        sources: the functions, named kernel0, kernel1, and so on.
        calls: what is called, one after the other: these, and `product` for matrix products.
        rooms: the bytes of each memory beyond the inputs.
        outputs: the memory and the offset of each output, and a tensor laid out like it.
    """

    sources: list[str]
    calls: list[Call]
    rooms: list[int]
    outputs: list[tuple[int, int, torch.Tensor]]


def increment_versions(tensors: Iterable[torch.Tensor]) -> None:
    """Tell who has saved these tensors that they were changed in place."""
    torch.autograd.graph.increment_version(tensors)


@contextmanager
def alone() -> Iterator[None]:
    """Inside, no other thread traces or compiles, be it for us or for torch.compile, as both patch
    parts of torch meanwhile."""
    from torch._dynamo.convert_frame import compile_lock

    with compile_lock:
        yield


@contextmanager
def literally() -> Iterator[None]:
    """Inside, operators do what they say and no more: what gradients and autocast add to them was
    captured with them."""
    with torch.no_grad(), torch._C._DisableAutocast():
        yield


class _Generator:
    """Torch's random numbers, and for each thread who is to hear how it sets their state."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self.hearing = threading.local()

    def __getattr__(self, name: str) -> Any:
        heard = getattr(self.hearing, name, None)
        method = getattr(self.generator, name)
        if heard is None:
            return method

        def call(*args: Any) -> Any:
            result = method(*args)
            heard(*args, result)
            return result

        return call


_random: Any = torch.random  # whose functions take the generator from there
_generator = _Generator(torch.default_generator)
_lock = threading.Lock()
_hearing = 0


@contextmanager
def hearing_of_random_states(**heard: Callable[..., None]) -> Iterator[None]:
    """Inside, these functions are called after the methods of the same names of torch's generator,
    with the arguments and the result, if this thread calls them through functions of torch's."""
    global _hearing

    with _lock:
        _hearing += 1
        _random.default_generator = _generator
    vars(_generator.hearing).update(heard)
    try:
        yield
    finally:
        vars(_generator.hearing).clear()
        with _lock:
            _hearing -= 1
            if not _hearing:
                _random.default_generator = _generator.generator


def declared(operator: Any, args: Any, kwargs: Any) -> list[tuple[Any, Any]]:
    """What an operator is given, each with what it declares of it: whether it returns views of it,
    or changes it. What it says nothing of is left out.

    Batch normalization says that it changes running statistics, which it does in training alone.
    """
    schema = getattr(operator, "_schema", None)
    arguments = () if schema is None else schema.arguments
    given = [*zip(args, arguments)]
    given += [(kwargs[a.name], a) for a in arguments if a.name in kwargs]
    trains = all(value for value, a in given if a.name == "training")
    return [
        (value, a.alias_info)
        for value, a in given
        if a.alias_info is not None and (trains or not a.name.startswith("running_"))
    ]


def traced(
    function: Callable[..., Any], inputs: Sequence[torch.Tensor], table: dict[Any, Any]
) -> fx.GraphModule:
    """The graph of a function of tensors, with operators replaced as `table` says."""
    from torch.fx.experimental.proxy_tensor import make_fx

    with literally():
        graph = make_fx(function, decomposition_table=table, tracing_mode="fake")(*inputs)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def decompositions() -> dict[Any, Any]:
    """How Inductor writes operators in terms of simpler ones."""
    import torch._inductor.lowering  # noqa: F401 - some of them look there, and do not import it
    from torch._inductor.decomposition import select_decomp_table

    return dict(select_decomp_table())


def force_strides(tensor: Any, strides: Sequence[int]) -> Any:
    """The tensor, computed into memory of its own with these strides."""
    from torch._inductor import inductor_prims

    return inductor_prims.force_stride_order(tensor, list(strides))


#: Write into a tensor, which is their first argument.
_WRITING = {
    "aten.slice_scatter.default", "aten.select_scatter.default", "aten.diagonal_scatter.default",
    "aten.as_strided_scatter.default", "aten.index_put.default", "aten._unsafe_index_put.default",
}  # fmt: skip
#: Join tensors, which Inductor computes into the parts of the result.
_JOINING = {"aten.cat.default", "aten.stack.default"}


def _copy_what_is_written_over(graph: fx.Graph) -> None:
    """Have copies written into, or written, where Inductor mistakes one tensor for another.

    - In h[1:] = h[:-1].clone() it takes the clone away, and then writes in place.
    - It writes in place into what it has joined, and into what it has made a part of that.
    """
    for node in list(graph.nodes):
        if str(node.target) not in _WRITING:
            continue
        base, *others = node.args
        memory = base.meta["val"].untyped_storage()

        def copied(read: fx.Node, node: fx.Node = node, memory: Any = memory) -> fx.Node:
            return _copied(read, node) if _depends_on(read, memory) else read

        others = fx.map_arg(others, copied)
        if any(_joins(found) for found in graph.nodes if _is_in(found, memory)):
            base = _copied(base, node)
        node.args = (base, *others)


def _copied(read: fx.Node, node: fx.Node) -> fx.Node:
    """A copy of a value, made before a node, that Inductor does not take away."""
    from torch._inductor import inductor_prims

    value = read.meta["val"].clone()
    with node.graph.inserting_before(node):
        copy = node.graph.call_function(torch.ops.aten.clone.default, (read,))
        apart = node.graph.call_function(
            inductor_prims.force_stride_order, (copy, list(value.stride()))
        )
    copy.meta["val"] = apart.meta["val"] = value
    return apart


def _joins(node: fx.Node) -> bool:
    """Whether a value is joined of others, or joined with others."""
    return any(str(found.target) in _JOINING for found in (node, *node.users))


def _is_in(node: fx.Node, memory: torch.UntypedStorage) -> bool:
    """Whether a value is in some memory."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.untyped_storage() is memory


def _depends_on(node: fx.Node, memory: torch.UntypedStorage) -> bool:
    """Whether a value is in some memory, or computed from what is."""
    pending, seen = [node], {node}
    for found in pending:
        if _is_in(found, memory):
            return True
        new = [n for n in found.all_input_nodes if n not in seen]
        pending += new
        seen.update(new)
    return False


@contextmanager
def _in_order(options: dict[str, Any]) -> Iterator[None]:
    """Inside, Inductor has these options, and reads what it writes over before or after, as the
    graph has it."""
    from torch._inductor import config
    from torch._inductor.custom_graph_pass import CustomGraphPass
    from torch._inductor.scheduler import SchedulerNode

    class InOrder(CustomGraphPass):
        def __call__(self, graph: fx.Graph) -> None:
            _copy_what_is_written_over(graph)

        def uuid(self) -> str:
            return "tinygrad_ee559: what is written into a tensor is computed first; no parts"

    recompute: Callable[..., None] = SchedulerNode.recompute_size_and_body

    def recompute_rightly(node: Any, *args: Any, **options: Any) -> None:
        """Give a loop other sizes, after which Inductor may forget that what the loop reads has a
        new name since it was written in place."""
        recompute(node, *args, **options)
        node.set_read_writes(node.read_writes.rename(node.mutation_renames))

    options = {**options, "post_grad_custom_post_pass": InOrder()}
    with (
        config.patch(options),
        mock.patch.object(SchedulerNode, "recompute_size_and_body", recompute_rightly),
    ):
        yield


class _Foreign(Exception):
    """Something else than Inductor's own C++ would run."""


#: Matrix products that are left to `product.h`, as an operator for Inductor to call.
_library: Any = torch.library.Library("tinygrad_ee559", "DEF")  # type: ignore[no-untyped-call]
_library.define("product(Tensor a, Tensor b) -> Tensor")
_library.impl("product", torch.mm, "CompositeExplicitAutograd")
product: Any = torch.ops.tinygrad_ee559.product.default
#: The dtypes that it can do, and their names in C++.
PRODUCT_TYPES = {torch.float32: "float", torch.float64: "double"}

#: A call that was noted: the name of the function, the types of its arguments, and these.
_Noted = tuple[str, list[str], tuple[Any, ...], list[int]]


class _Noter(DispatchMode):  # type: ignore[misc]
    """Lets memory be reserved, notes down matrix products, and lets no other operator run."""

    def __init__(self, noted: list[_Noted]) -> None:
        super().__init__()
        self._noted = noted

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if operator is product:
            a, b = args
            name = PRODUCT_TYPES[a.dtype]
            result = torch.empty_strided(
                (a.shape[0], b.shape[1]), (b.shape[1], 1), dtype=a.dtype, device="cpu"
            )
            pointers = [f"const {name}*", f"const {name}*", f"{name}*"]
            numbers = [*a.stride(), *b.stride(), *a.shape, b.shape[1]]
            self._noted.append(("product", pointers, (a, b, result), numbers))
            return result
        if operator.name() not in ("aten::empty_strided", "aten::as_strided"):
            raise _Foreign(operator.name())
        return operator(*args, **(kwargs or {}))


def kernels(graph: fx.GraphModule, parallel: bool = False) -> Kernels | None:
    """What Inductor makes of a graph, if that is C++ of its own and products and nothing else.

    Its loops are for one thread, or `parallel`.

    Inductor writes C++ functions and a Python function that calls them in turn. Instead of being
    compiled the functions are noted down, and the Python function is run once to see what it hands
    to which.
    """
    from torch._guards import TracingContext, tracing
    from torch._inductor.async_compile import AsyncCompile
    from torch._inductor.compile_fx import compile_fx_inner

    fakes = [node.meta["val"] for node in graph.graph.find_nodes(op="placeholder")]
    sources: list[str] = []
    noted: list[_Noted] = []

    def note(_self: Any, argument_types: list[str], source: str) -> Callable[..., None]:
        name = f"kernel{len(sources)}"
        sources.append(_renamed(source, name))
        return lambda *args: noted.append((name, argument_types, args, []))

    with (
        mock.patch.object(AsyncCompile, "cpp_pybinding", note),
        _in_order(_OPTIONS | (_PARALLEL if parallel else {})),
        tracing(TracingContext(fakes[0].fake_mode)),
        literally(),
    ):
        compiled: Any = compile_fx_inner(graph, fakes)
        if compiled.constants:
            return None
        inputs = [
            torch.empty_strided(f.shape, f.stride(), dtype=f.dtype, device="cpu") for f in fakes
        ]
        try:
            with _Noter(noted):
                outputs = compiled(list(inputs))
        except _Foreign:
            return None
    if not all(isinstance(a, torch.Tensor) for _, _, args, _ in noted for a in args):
        return None
    return _with_memories(sources, noted, inputs, outputs)


def _renamed(source: str, name: str) -> str:
    """One of Inductor's functions, to stand in one file with others."""
    # Flattened: a tile is transposed in registers only where that is inlined.
    source = source.replace(_INCLUDE, "").replace('extern "C"', "[[gnu::flatten]] static")
    if "TORCH_CHECK" in source:  # throws exceptions, which must not leave a thread
        source = re.sub(r"#pragma omp.*", "", source)
    return re.sub(r"\bkernel\(", f"{name}(", source, count=1)


def _with_memories(
    sources: list[str],
    noted: Sequence[_Noted],
    inputs: Sequence[torch.Tensor],
    outputs: Sequence[torch.Tensor],
) -> Kernels:
    """The functions, with numbers of memories in place of the tensors that they were handed."""
    memories = {t.untyped_storage().data_ptr(): i for i, t in enumerate(inputs)}
    rooms: list[int] = []

    def place(tensor: torch.Tensor) -> tuple[int, int]:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in memories:
            memories[storage.data_ptr()] = len(memories)
            rooms.append(storage.nbytes())
        return memories[storage.data_ptr()], int(tensor.storage_offset()) * tensor.itemsize

    calls = [
        Call(name, [(t, *place(a)) for t, a in zip(types, args)], numbers)
        for name, types, args, numbers in noted
    ]
    return Kernels(sources, calls, rooms, [(*place(o), o) for o in outputs])


def require_compiler() -> None:
    """Raise a `CompilerError` if there is no C++ compiler."""
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler as error:
        raise CompilerError(
            "compiling takes a C++ compiler, and none was found; install g++ (on Debian: apt "
            "install g++), or set the environment variable CXX to the path of one"
        ) from error


def build(source: str) -> str:
    """Compile C++ with the options that Inductor's kernels need; the path of the library.

    Raises:
        CompilerError: the compiler does not take the source.
    """
    from torch._inductor import config, exc
    from torch._inductor.codecache import CppCodeCache

    class WithHeader(CppCodeCache):
        """Compiles the header once and for all, which takes longer than most sources."""

        @classmethod
        def _get_uncompiled_header(cls, device: str) -> str:
            return _HEADER

    try:
        with config.patch(_OPTIONS):
            return str(WithHeader.load(f"{_INCLUDE}\n{source}")._name)
    except exc.CppCompileError as error:
        complaints = [line for line in str(error).splitlines() if "error:" in line]
        raise CompilerError(f"the C++ compiler failed: {'; '.join(complaints[:3])}") from error


def artifact(graph: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> Callable[..., Any]:
    """The graph compiled by Inductor, as a function of its inputs."""
    from torch._inductor import standalone_compile

    options = dict(_MACHINE)
    if graph.graph.find_nodes(op="call_function", target=torch.ops.aten.randperm.default):
        options["pattern_matcher"] = False  # as one of its patterns, x[torch.randperm(n)], fails
    with _in_order(options), literally(), _unsaid("standalone_compile", "cannot save"):
        return standalone_compile(graph, list(inputs), dynamic_shapes="from_example_inputs")


@contextmanager
def _unsaid(file: str, message: str) -> Iterator[None]:
    """Inside, a file of Inductor's does not say this, which says nothing to users."""

    def says_else(record: logging.LogRecord) -> bool:
        return message not in str(record.msg)

    logger = logging.getLogger(f"torch._inductor.{file}")
    logger.addFilter(says_else)
    try:
        yield
    finally:
        logger.removeFilter(says_else)
