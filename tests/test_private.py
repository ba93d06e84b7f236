"""What private parts of torch are used, and that each still does what it is used for.

A failure here names what a new release of torch has changed; `private.py` is the place to mend, or
`compiling/private.py` for what compilation rests on.
"""

import ast
import ctypes
import importlib
import threading
from pathlib import Path

import pytest
import torch

PACKAGE = Path(__file__).parent.parent / "tinygrad_ee559"
FILES = sorted(PACKAGE.rglob("*.py"))
aten = torch.ops.aten

#: What private.py uses, beside private attributes of operators.
PRIVATE = {
    "torch._decomp.decomposition_table",
    "torch.utils._pytree._broadcast_to_and_flatten",
    "torch.utils._pytree.tree_flatten",
    "torch.utils._pytree.tree_map",
    "torch.utils._pytree.tree_unflatten",
    "torch.Tensor._make_wrapper_subclass",
    "torch._C._EnableTorchFunction",
    "torch._C._functorch.is_batchedtensor",
    "torch._C._functorch.is_functorch_wrapped_tensor",
    "torch._C.DisableTorchFunctionSubclass",
    "torch._C._dispatch_tls_local_include_set",
    "torch._C._dispatch_tls_local_exclude_set",
    "torch._C._DisableFuncTorch",
    "torch._C._ForceDispatchKeyGuard",
    "torch._C._autograd._profiler_enabled",
    "torch._C._profiler._RecordFunctionFast",
    "torch.utils._python_dispatch._get_current_dispatch_mode",
}
OF_OPERATORS = {"_can_decompose", "_schema"}
#: What compiling/private.py uses. Where it fails, steps are compiled the ordinary way, or not.
COMPILING = {
    "torch.utils._python_dispatch.TorchDispatchMode",
    "torch._C._DisableAutocast",
    "torch._C._dynamo.guards._empty_strided_cpu",
    "torch._C._is_any_autocast_enabled",
    "torch._dynamo.convert_frame.compile_lock",
    "torch._guards.TracingContext",
    "torch._guards.tracing",
    "torch._inductor.async_compile.AsyncCompile",
    "torch._inductor.codecache.CppCodeCache",
    "torch._inductor.compile_fx.compile_fx_inner",
    "torch._inductor.config",
    "torch._inductor.cpp_builder",
    "torch._inductor.custom_graph_pass.CustomGraphPass",
    "torch._inductor.decomposition.select_decomp_table",
    "torch._inductor.exc",
    "torch._inductor.inductor_prims",
    "torch._inductor.scheduler.SchedulerNode",
    "torch._inductor.standalone_compile",
}
#: The same of objects that torch makes: operators, and libraries that it has compiled.
OF_OBJECTS = {"_schema", "_name"}
#: What has no underscore and is none the less known to few: make_fx, and parts of the above.
HIDDEN = {
    "torch.fx.experimental.proxy_tensor.make_fx",
    "torch._inductor.async_compile.AsyncCompile.cpp_pybinding",
    "torch._inductor.codecache.CppCodeCache.load",
    "torch._inductor.cpp_builder.get_cpp_compiler",
    "torch._inductor.scheduler.SchedulerNode.recompute_size_and_body",
    "torch._inductor.exc.CppCompileError",
    "torch._inductor.exc.InvalidCxxCompiler",
    "torch._inductor.inductor_prims.force_stride_order",
    "torch.random.default_generator",
}
#: What other files use: names that are as stable as public ones, and known to many programs. All
#: operators are public too, under torch.ops.aten, where an underscore begins the names of many.
ALLOWED = {
    "torch._C._nn",  # where the kernels are that torch.nn.functional calls
    # what torch.optim itself is written with
    "torch._foreach_add",
    "torch._foreach_add_",
    "torch._foreach_addcdiv_",
    "torch._foreach_addcmul_",
    "torch._foreach_div_",
    "torch._foreach_lerp_",
    "torch._foreach_maximum_",
    "torch._foreach_mul_",
    "torch._foreach_sqrt",
}
#: The same of what tensors have.
OF_TENSORS = {"_version", "_is_view", "_base"}


# -------------------------------------------------------- which are used, and where


def private(name):
    return name.startswith("_") and not name.startswith("__")


def names_of_torch(tree):
    """The full names of all that a file uses of torch, whatever it calls them."""
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "torch":
                    known[alias.asname or "torch"] = alias.name if alias.asname else "torch"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            for alias in node.names:
                known[alias.asname or alias.name] = f"{node.module}.{alias.name}"

    def full(node):
        if isinstance(node, ast.Name):
            return known.get(node.id)
        if isinstance(node, ast.Attribute):
            owner = full(node.value)
            return owner and f"{owner}.{node.attr}"
        return None

    for node in tree.body:  # kernels = torch._C._nn
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            for target in getattr(node, "targets", None) or [node.target]:
                if isinstance(target, ast.Name) and full(node.value):
                    known[target.id] = full(node.value)
    inside = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    whole = (full(node) for node in ast.walk(tree) if id(node) not in inside)
    return {name for name in whole if name} | {name for name in known.values() if "." in name}


def private_names(file):
    """Those with a private part, except operators."""
    return {
        name
        for name in names_of_torch(ast.parse(file.read_text()))
        if any(map(private, name.split("."))) and not name.startswith("torch.ops.")
    }


def attributes(file):
    """The names of what a file asks of objects, except of `self`, also by `getattr`."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) != "self":
            found.add(node.attr)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr"):
            found |= {arg.value for arg in node.args[1:2] if isinstance(arg, ast.Constant)}
    return found


def within(name, allowed):
    return name == allowed or name.startswith(f"{allowed}.")


def test_private_names_are_found_by_whatever_name():
    source = """
import torch, torch._dynamo
import torch.utils._pytree as pytree
from torch import _C
from torch._decomp import decomposition_table as table
kernels: Any = torch._C._nn
aten = torch.ops.aten
def f(x):
    return kernels.gelu(_C._a(x)), torch.add(x), torch._b.c(x).d, aten._softmax(x), pytree.map(x)
"""
    assert names_of_torch(ast.parse(source)) == {
        "torch._C", "torch.utils._pytree", "torch._decomp.decomposition_table", "torch._C._nn",
        "torch.ops.aten", "torch._C._nn.gelu", "torch._C._a", "torch.add", "torch._b.c",
        "torch.ops.aten._softmax", "torch.utils._pytree.map",
    }  # fmt: skip


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_private_parts_are_used_in_one_file_only(file):
    if file in (PACKAGE / "private.py", PACKAGE / "compiling" / "private.py"):
        return
    for name in private_names(file):
        assert any(within(name, allowed) for allowed in ALLOWED), (
            f"{file.name} uses {name}: private.py is the place for it"
        )
    operators = {  # some have the name of a private method of tensors
        part for name in names_of_torch(ast.parse(file.read_text())) for part in name.split(".")
    }
    for name in filter(private, attributes(file) - OF_TENSORS - operators):
        for owner in (torch.Tensor, aten.add.Tensor):
            assert not hasattr(owner, name), f"{file.name} uses {name}, private to torch"


PLACES = {
    PACKAGE / "private.py": (PRIVATE, OF_OPERATORS),
    PACKAGE / "compiling" / "private.py": (COMPILING, OF_OBJECTS),
}


@pytest.mark.parametrize("file", PLACES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_the_lists_above_say_what_is_used(file):
    """Neither less nor more."""
    names, of_objects = PLACES[file]
    found = private_names(file)
    for name in found:  # a module from which other names are imported is none by itself
        inner = any(used.startswith(f"{name}.") for used in names)
        assert inner or any(within(name, used) for used in names), f"{name} is not in the list"
    for used in names:
        assert any(within(name, used) for name in found), f"{used} is not used any more"
    operators = names_of_torch(ast.parse(file.read_text()))
    known = {part for name in {*names, *operators} for part in name.split(".")}
    own = {node.name for node in ast.walk(ast.parse(file.read_text())) if hasattr(node, "name")}
    assert set(filter(private, attributes(file))) - known - own == of_objects


def test_the_list_of_allowed_names_says_what_is_used():
    elsewhere = set().union(*(private_names(other) for other in FILES if other not in PLACES))
    assert all(any(within(name, used) for name in elsewhere) for used in ALLOWED)
    assert set().union(*map(attributes, FILES)) >= OF_TENSORS


# ------------------------------------------------------------- that they still exist


@pytest.mark.parametrize("name", sorted(PRIVATE | ALLOWED | COMPILING | HIDDEN))
def test_torch_still_has(name):
    parts = name.split(".")
    found = torch
    for i, part in enumerate(parts[1:], 1):
        if not hasattr(found, part):
            try:
                importlib.import_module(".".join(parts[: i + 1]))
            except ImportError:
                pytest.fail(f"torch {torch.__version__} has no {name} any more")
        found = getattr(found, part)


@pytest.mark.parametrize("name", sorted(OF_OPERATORS))
def test_operators_still_have(name):
    assert hasattr(aten.add.Tensor, name), f"operators of torch {torch.__version__} have no {name}"


def test_tensors_still_have():
    x = torch.zeros(3)
    view = x[1:]
    assert x._version == 0 and not x._is_view() and x._base is None
    view.add_(1)
    assert x._version == view._version == 1 and view._is_view() and view._base is x


def test_fused_additions_still_add():
    xs, ys = [torch.ones(2), torch.ones(3)], [torch.ones(2), torch.full((3,), 2.0)]
    assert [x.tolist() for x in torch._foreach_add(xs, ys, alpha=2)] == [[3, 3], [5, 5, 5]]
    assert xs[0].tolist() == [1, 1]
    torch._foreach_add_(xs, ys, alpha=-1)
    assert [x.tolist() for x in xs] == [[0, 0], [-1, -1, -1]]


# --------------------------------------------------- that they do what they are used for


@pytest.fixture
def parts():
    """private.py, of which the tests above say more if it cannot be imported."""
    return importlib.import_module("tinygrad_ee559.private")


@pytest.mark.parametrize(
    ("operator", "tensors", "options"),
    [
        (aten.softplus_backward.default, 2, (1, 20)),
        (aten.smooth_l1_loss.default, 2, ()),
        (aten.addcmul.default, 3, ()),
    ],
)
def test_decomposition_table(parts, operator, tensors, options):
    args = (*torch.linspace(-2, 2, 3 * tensors).reshape(tensors, 3), *options)
    body = torch._decomp.decomposition_table.get(operator)
    assert body is not None, f"decomposition_table has no {operator} any more"
    assert parts.decomposition(operator) is body
    torch.testing.assert_close(body(*args), operator(*args))


def test_can_decompose(parts):
    """Operators that torch composes; others are in the table, or have no decomposition."""
    operator = aten.linalg_cond.default
    assert operator not in torch._decomp.decomposition_table
    x = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
    torch.testing.assert_close(parts.decomposition(operator)(x), torch.linalg.cond(x))
    assert parts.decomposition(aten._fft_c2c.default) is None


def test_tree_functions(parts):
    """Lists, tuples and dicts are laid out flat and built again; None is a leaf."""
    tree = {"a": [1, (2, None)], "b": 3}
    leaves, structure = parts.tree_flatten(tree)
    assert leaves == [1, 2, None, 3]
    assert parts.tree_unflatten(leaves, structure) == tree
    assert parts.tree_map(lambda x: x, tree) == tree
    pair = torch.ones(2, 3).max(0)
    assert type(parts.tree_map(lambda x: x, pair)) is type(pair)


def test_broadcast_to_and_flatten(parts):
    _, structure = parts.tree_flatten((1, {"a": 2, "b": [3, 4]}))
    assert parts.spread(0, structure) == [0, 0, 0, 0]
    assert parts.spread((0, None), structure) == [0, None, None, None]
    assert parts.spread((0, {"a": 1, "b": 2}), structure) == [0, 1, 2, 2]
    with pytest.raises(ValueError, match="does not fit"):
        parts.spread((0, 1, 2), structure)


class Recorder(torch.Tensor):
    """A tensor without memory that notes what is called on it, and answers with `answer`."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        cls.functions.append(function)
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
        cls.operators.append(operator)
        return cls.answer(operator)


@pytest.fixture
def recorder():
    Recorder.functions, Recorder.operators = [], []
    Recorder.answer = staticmethod(lambda operator: torch.zeros(()))
    return Recorder


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128, torch.int64], ids=str)
@pytest.mark.parametrize(
    "layout",
    [lambda x: x, torch.t, lambda x: x[1:, ::2], lambda x: x[:1].expand(3, 4), lambda x: x[:0]],
)
def test_make_wrapper_subclass_looks_like_the_tensor_it_is_made_after(
    parts, recorder, layout, dtype
):
    like = layout(torch.zeros(3, 4, dtype=dtype))
    hollow = parts.hollow(recorder, like)
    assert type(hollow) is recorder
    assert hollow.shape == like.shape and hollow.stride() == like.stride()
    assert hollow.storage_offset() == like.storage_offset()
    assert hollow.dtype == like.dtype and hollow.device == like.device
    assert hollow.layout == like.layout and not hollow.requires_grad
    assert hollow.is_contiguous() == like.is_contiguous()
    assert recorder.operators == []


@pytest.mark.parametrize(
    ("operator", "names"),
    [
        (aten.add.Tensor, []),
        (aten.add_.Tensor, ["self"]),
        (aten.add.out, ["out"]),
        (aten.view.default, []),  # shares memory, and writes nothing
        (aten.native_batch_norm.default, []),
        (aten._native_batch_norm_legit.default, ["running_mean", "running_var"]),
        (aten.max.dim_max, ["max", "max_values"]),
        pytest.param(torch.add, [], id="torch.add"),  # not an operator
    ],
    ids=str,
)
def test_schema_says_which_arguments_are_written(parts, operator, names):
    assert parts.written_arguments(operator) == names


class Foreign:
    """Not a tensor, but accepted by torch's functions."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return function


def test_disable_torch_function_subclass_and_enable_torch_function(parts, recorder):
    x = parts.hollow(recorder, torch.zeros(3))
    torch.neg(x)
    assert recorder.functions == [torch.neg]
    with parts.overriding(False):
        torch.neg(x)
        assert recorder.functions == [torch.neg]
        with parts.overriding(True):
            torch.exp(x)
            assert recorder.functions == [torch.neg, torch.exp]
        torch.neg(x)
    assert recorder.functions == [torch.neg, torch.exp]
    assert recorder.operators == [aten.neg.default, aten.neg.default, aten.exp.default,
                                  aten.neg.default]  # fmt: skip
    torch.sin(x)
    assert recorder.functions[-1] is torch.sin


def test_disable_torch_function_subclass_and_enable_torch_function_of_other_classes(parts):
    assert torch.neg(Foreign()) is torch.neg
    with parts.overriding(False):
        with pytest.raises(TypeError):
            torch.neg(Foreign())
        with parts.overriding(True):
            assert torch.neg(Foreign()) is torch.neg


def test_taking_apart_breaks_functions_into_operators(parts, recorder):
    x = parts.hollow(recorder, torch.zeros(2, 3))
    recorder.answer = staticmethod(lambda operator: parts.hollow(recorder, torch.zeros(2, 3)))
    with parts.taking_apart():
        torch.linalg.norm(x)
        torch.square(x)
    assert recorder.functions == []
    assert recorder.operators == [aten.linalg_vector_norm.default, aten.pow.Tensor_Scalar]


def test_disable_func_torch_in_vmap(parts, recorder):
    """What is taken apart in vmap reaches `__torch_dispatch__`, where `unmasked` batches again."""
    answers = []

    def answer(_operator):
        with parts.unmasked():
            answers.append(torch.sin(batched[0]))
        return parts.hollow(recorder, torch.zeros(4))

    recorder.answer = staticmethod(answer)
    batched = []

    def function(row):
        batched[:] = [row]
        x = parts.hollow(recorder, torch.zeros(4))
        with parts.taking_apart():
            torch.square(x)
        return answers[-1]

    rows = torch.randn(3, 4)
    found = torch.func.vmap(function)(rows)
    assert recorder.operators == [aten.pow.Tensor_Scalar]
    torch.testing.assert_close(found, torch.sin(rows))


def test_force_dispatch_key_guard_tracks_views_and_resolves_lazy_conjugates(parts, recorder):
    """Within `__torch_dispatch__`, as outside of it, which _dispatch_tls_local_*_set() tell."""
    x, z = torch.zeros(3), torch.tensor([1 + 2j])
    found = {}

    def answer(_operator):
        with parts.unmasked():
            view = x[1:]
            conjugate = torch.conj(z)
            found.update(base=view._base, lazy=conjugate.is_conj(), sum=(conjugate + 0).tolist())
        return torch.zeros(())

    recorder.answer = staticmethod(answer)
    with parts.taking_apart():
        torch.neg(parts.hollow(recorder, torch.zeros(3)))
    assert found == {"base": x, "lazy": True, "sum": [1 - 2j]}
    assert x[1:]._is_view()  # and outside nothing has changed


# --------------------------------------- that what compilation rests on does what it is used for


@pytest.fixture
def compiling_parts():
    """compiling/private.py, of which the tests above say more if it cannot be imported."""
    return importlib.import_module("tinygrad_ee559.compiling.private")


def graph_of(parts, function, *inputs):
    """A graph as `kernels` takes it: simple operators alone."""
    return parts.traced(function, inputs, parts.decompositions())


def changed(name):
    return (
        f"{name} of torch {torch.__version__} does something else than it did; "
        "tinygrad_ee559/compiling/private.py rests on it"
    )


def test_dispatch_modes_see_all_operators(compiling_parts, parts):
    """Those that functions consist of, those in place, and those of lists."""
    seen = []

    class Seeing(compiling_parts.DispatchMode):
        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            seen.append(operator)
            assert not parts.is_watched(), changed("TorchDispatchMode")
            return operator(*args, **(kwargs or {}))

    assert not parts.is_watched()
    x = torch.ones(2, 2)
    with Seeing():
        assert parts.is_watched(), changed("_get_current_dispatch_mode")
        torch.nn.functional.linear(x, x, x[0]).add_(1)
        torch._foreach_add_([x], [x])
        torch.tensor([1.0])
    assert not parts.is_watched()
    assert [operator for operator in seen if operator is not aten.detach.default] == [
        aten.select.int, aten.t.default, aten.addmm.default, aten.add_.Tensor,
        aten._foreach_add_.List, aten.lift_fresh.default,
    ], changed("TorchDispatchMode")  # fmt: skip


def test_empty_strided(compiling_parts):
    found = compiling_parts.empty_strided((2, 3), (1, 4), torch.float64)
    assert type(found) is torch.Tensor, changed("_empty_strided_cpu")
    assert (found.shape, found.stride(), found.dtype) == ((2, 3), (1, 4), torch.float64)


def test_increment_versions(compiling_parts):
    x, y = torch.ones(2), torch.ones(2)
    compiling_parts.increment_versions([x, y])
    assert (x._version, y._version) == (1, 1), changed("increment_version")


def test_disable_autocast(compiling_parts):
    x = torch.ones(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with compiling_parts.literally():
            assert (x @ x).dtype == torch.float32, changed("_DisableAutocast")
            assert not torch.is_grad_enabled()
        assert (x @ x).dtype == torch.bfloat16


def test_functions_of_torch_ask_a_generator_that_can_be_heard(compiling_parts):
    heard = []
    names = "get_state", "set_state", "manual_seed", "seed"
    hearing = {name: lambda *args, name=name: heard.append((name, args)) for name in names}
    generator = torch.random.default_generator
    with torch.random.fork_rng(devices=[]):
        with compiling_parts.hearing_of_random_states(**hearing):
            state = torch.get_rng_state()
            torch.set_rng_state(state)
            torch.manual_seed(3)
            seed = torch.seed()
            other = threading.Thread(target=torch.get_rng_state)
            other.start()
            other.join()
            assert torch.initial_seed() == generator.initial_seed() == seed
        torch.manual_seed(4)
    assert [name for name, _ in heard] == [*names], changed("default_generator")
    assert heard[0][1][0] is heard[1][1][0] is state, changed("default_generator")
    assert torch.random.default_generator is generator is torch.default_generator


def test_operators_say_what_they_share_and_write(compiling_parts):
    def declared(operator, *args, **kwargs):
        found = compiling_parts.declared(operator, args, kwargs)
        return [(value, alias.is_write) for value, alias in found]

    assert declared(aten.add.Tensor, "x", "y") == [], changed("_schema")
    assert declared(aten.add_.Tensor, "x", "y") == [("x", True)], changed("_schema")
    assert declared(aten.view.default, "x", [2]) == [("x", False)], changed("_schema")
    assert declared(aten._foreach_add_.List, ["x"], ["y"]) == [(["x"], True)], changed("_schema")
    assert declared(aten.sin.out, "x", out="y") == [("y", True)], changed("_schema")
    assert declared(torch.add, "x", "y") == []


def test_make_fx_notes_operators_and_replaces_them(compiling_parts):
    x = torch.ones(2, 2)
    graph = compiling_parts.traced(torch.square, [x], {})
    targets = [n.target for n in graph.graph.nodes if n.op == "call_function"]
    assert targets == [aten.pow.Tensor_Scalar], changed("make_fx")
    table = {aten.pow.Tensor_Scalar: lambda x, _n: NotImplemented, aten.mm.default: torch.add}
    graph = compiling_parts.traced(lambda x: x.square() + x.mm(x).mm(x), [x], table)
    targets = [n.target for n in graph.graph.nodes if n.op == "call_function"]
    assert targets == [aten.pow.Tensor_Scalar, *[aten.add.Tensor] * 3], changed("make_fx")
    for node in graph.graph.nodes:
        if node.op != "output":
            assert node.meta["val"].shape == (2, 2), changed("make_fx")


def test_functionalized_graphs_copy_into_inputs_at_the_end(compiling_parts):
    def change(x):
        return x[0].add_(1) * 2

    function = torch.func.functionalize(change, remove="mutations")
    graph = compiling_parts.traced(function, [torch.ones(2, 2)], {})
    targets = [n.target for n in graph.graph.nodes if n.op == "call_function"]
    assert targets.count(aten.copy_.default) == 1, changed("functionalize")
    assert aten.add_.Tensor not in targets and aten.add.Tensor in targets


def test_select_decomp_table(compiling_parts):
    table = compiling_parts.decompositions()
    for operator in (aten.tanh_backward.default, aten.mse_loss.default, aten.t.default):
        assert operator in table, changed("select_decomp_table")
    table.clear()  # a copy
    assert compiling_parts.decompositions(), changed("select_decomp_table")


def test_force_stride_order(compiling_parts):
    x = torch.arange(6.0).reshape(2, 3)
    found = compiling_parts.force_strides(x, (1, 2))
    assert torch.equal(found, x) and found.stride() == (1, 2), changed("force_stride_order")


def test_no_samples_are_compiled_to_know_the_vectors(compiling_parts, monkeypatch):
    """Which took longer than all else of the first program on a machine."""
    from torch._inductor import config
    from torch._inductor.cpu_vec_isa import VecAVX2, VecISA

    compiled = []
    monkeypatch.setattr(VecISA, "check_build", lambda _isa, code: bool(compiled.append(code)))
    with config.patch(compiling_parts._MACHINE):
        assert VecAVX2(), changed("config.cpp.vec_isa_ok")
    assert compiled == [], changed("config.cpp.vec_isa_ok")


def test_kernels_are_one_function_for_a_small_step(compiling_parts):
    def step(w, x, y):
        error = torch.tanh((w * x).sum()) - y
        w.copy_(w - error * x)
        return error * error, error + 1

    inputs = [torch.ones(3), torch.ones(3), torch.ones(())]
    kernels = compiling_parts.kernels(graph_of(compiling_parts, step, *inputs))
    assert kernels is not None, changed("compile_fx_inner, what it makes Python call,")
    assert len(kernels.sources) == 1, changed("compile_fx_inner, how it joins loops,")
    (source,) = kernels.sources
    assert "kernel0(" in source and "static" in source, changed("cpp_pybinding, its source,")
    assert 'extern "C"' not in source and "#include" not in source
    ((name, pointers, numbers),) = kernels.calls
    assert name == "kernel0" and not numbers
    for kind, memory, offset in pointers:
        assert kind in ("float*", "const float*"), changed("cpp_pybinding, its types,")
        assert 0 <= memory < 3 + len(kernels.rooms) and offset == 0
    assert {memory for _, memory, _ in pointers} >= {0, 1, 2}
    (first, _, one), (second, _, other) = kernels.outputs
    assert one.shape == other.shape == () and first != second and min(first, second) >= 3


def test_kernels_of_a_graph_that_calls_a_library(compiling_parts):
    """Where something else than Inductor's own C++ would run, there are none."""
    x = torch.ones(200, 200)
    graph = compiling_parts.traced(lambda x: [x.mm(x).sin()], [x], {})
    assert compiling_parts.kernels(graph) is None, changed("compile_fx_inner")


def test_products_are_noted_as_they_lie(compiling_parts):
    def step(x, w):
        return [compiling_parts.product(x, w.t()).sin()]

    x, w = torch.ones(3, 4), torch.ones(5, 4)
    kernels = compiling_parts.kernels(graph_of(compiling_parts, step, x, w))
    assert kernels is not None, changed("compile_fx_inner, how it calls operators of others,")
    call = kernels.calls[0]
    assert call.function == "product", changed("compile_fx_inner, the order of its calls,")
    assert call.numbers == [4, 1, 1, 4, 3, 4, 5], changed("compile_fx_inner, its layouts,")
    assert [kind for kind, _, _ in call.pointers] == ["const float*", "const float*", "float*"]
    assert [memory for _, memory, _ in call.pointers[:2]] == [0, 1]


def test_kernels_leave_torch_as_it_is(compiling_parts):
    from torch._inductor import config
    from torch._inductor.async_compile import AsyncCompile

    before = AsyncCompile.cpp_pybinding, config.cpp.threads, torch.is_grad_enabled()
    compiling_parts.kernels(graph_of(compiling_parts, lambda x: [x.sin()], torch.ones(3)))
    assert (AsyncCompile.cpp_pybinding, config.cpp.threads, torch.is_grad_enabled()) == before


def test_options_of_inductor_are_still_known(compiling_parts):
    from torch._inductor import config

    for name in compiling_parts._OPTIONS:
        owner = config
        for part in name.split("."):
            assert hasattr(owner, part), f"torch {torch.__version__} has no option {name}"
            owner = getattr(owner, part)


def test_libraries_are_built_from_source(compiling_parts):
    path = compiling_parts.build('extern "C" int answer() { return 42; }')
    assert ctypes.CDLL(path).answer() == 42, changed("CppCodeCache.load")
    header = 'extern "C" float largest() { return std::numeric_limits<float>::max(); }'
    assert Path(compiling_parts.build(header)).exists(), changed("cpp_prefix.h")


def test_the_header_of_libraries_is_precompiled(compiling_parts, monkeypatch):
    from torch._inductor import codecache

    precompile, headers = codecache._precompile_header, []

    def noted(header, *args, **options):
        headers.append(header)
        return precompile(header, *args, **options)

    monkeypatch.setattr(codecache, "_precompile_header", noted)
    path = compiling_parts.build('extern "C" int answer() { return 43; }')
    assert headers == [compiling_parts._HEADER], changed("CppCodeCache._get_uncompiled_header")
    assert ctypes.CDLL(path).answer() == 43

    monkeypatch.setitem(compiling_parts._OPTIONS, "cpp_cache_precompile_headers", False)
    path = compiling_parts.build('extern "C" int answer() { return 44; }')
    assert ctypes.CDLL(path).answer() == 44 and len(headers) == 1


def test_errors_of_compilers(compiling_parts):
    errors = importlib.import_module("tinygrad_ee559.errors")
    with pytest.raises(errors.CompilerError, match="failed: .*error"):
        compiling_parts.build("this is no C++")
    compiling_parts.require_compiler()


def test_artifacts_change_their_inputs_and_return_results(compiling_parts):
    def step(x, y):
        x.add_(y)
        return x * 2, y + 1

    x, y = torch.ones(3), torch.full((3,), 2.0)
    graph = compiling_parts.traced(step, [x, y], {})
    run = compiling_parts.artifact(graph, [x.clone(), y.clone()])
    for expected in (3, 5):
        double, more = run(x, y)
        assert x.tolist() == [expected] * 3, changed("standalone_compile")
        assert double.tolist() == [2 * expected] * 3 and more.tolist() == [3] * 3


def test_loops_know_the_new_names_of_what_they_read(compiling_parts, monkeypatch):
    """What orders them."""
    from torch._inductor.scheduler import SchedulerNode

    recompute = SchedulerNode.recompute_size_and_body
    forgotten = []

    def recomputed(node, *args, **options):
        recompute(node, *args, **options)
        names = {read.name for read in node.read_writes.reads}
        forgotten.extend(old for old in node.mutation_renames if old in names)

    def function(x, i):
        table = x[:, :1] * x[:1]
        scattered = torch.zeros(3, 3).index_put([i], x[:1], accumulate=True)
        return [table, scattered * table]

    x, i = torch.ones(3, 3), torch.ones(1, dtype=torch.int64)
    monkeypatch.setattr(SchedulerNode, "recompute_size_and_body", recomputed)
    compiling_parts.kernels(graph_of(compiling_parts, function, x, i))
    assert forgotten, changed("SchedulerNode.recompute_size_and_body")


def test_artifacts_that_inductor_cannot_keep_are_not_spoken_of(compiling_parts, caplog):
    def inverted(x):
        return [torch.linalg.inv(x)]

    x = torch.eye(3) * 2
    graph = compiling_parts.traced(inverted, [x], {})
    (result,) = compiling_parts.artifact(graph, [x])(x)
    assert torch.equal(result, torch.eye(3) / 2)
    assert "cannot save" not in caplog.text, changed("standalone_compile")
