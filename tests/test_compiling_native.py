"""From a graph to C++: what products, lanes, changes in place and native programs come to."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from steps import LAYOUTS, Training, close, data, laid_out, own_cache
from torch import fx

import tinygrad_ee559 as tg
from tinygrad_ee559 import errors
from tinygrad_ee559.compiling import lanes, lowering, memory, private
from tinygrad_ee559.compiling.executable import Artifact
from tinygrad_ee559.compiling.lanes import LANES, NoLanesError
from tinygrad_ee559.compiling.native import Native

__all__ = ["own_cache"]
# Inductor, which is all Python, takes twice as long while coverage is measured.
pytestmark = [pytest.mark.usefixtures("own_cache"), pytest.mark.no_cover]
aten = torch.ops.aten


def graph_of(function, *inputs):
    """As of a run: its outputs are a tuple."""

    def outputs(*inputs):
        found = function(*inputs)
        return found if isinstance(found, tuple) else (found,)

    return private.traced(outputs, inputs, {})


def operators(graph):
    return {str(node.target) for node in graph.graph.nodes if node.op == "call_function"}


def run(graph, inputs):
    return fx.Interpreter(graph).run(*inputs)


def random(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


# ------------------------------------------------------------------------ products


SIZES = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 10, 11, 16, 20])
INNER = SIZES | st.just(150)


@settings(max_examples=40, derandomize=True)
@given(m=SIZES, k=INNER, n=SIZES, layouts=st.tuples(LAYOUTS, LAYOUTS), batch=st.booleans())
def test_products_are_sums(m, k, n, layouts, batch):
    lead = (3,) if batch else ()
    a, b = laid_out(random(*lead, m, k), layouts[0]), laid_out(random(*lead, k, n), layouts[1])
    graph = graph_of(torch.bmm if batch else torch.mm, a, b)
    assert operators(graph) & lowering._PRODUCTS
    for loops in (lowering.in_loops, lowering.in_loops_over_lanes):
        lowered = loops(graph, [a, b])
        assert not operators(lowered) & lowering._PRODUCTS
        if loops is lowering.in_loops:
            (found,) = run(lowered, [a, b])
            torch.testing.assert_close(found, a @ b, rtol=1e-12, atol=1e-12)
        else:
            wide = [torch.stack([t * i for i in range(LANES)], -1) for t in (a, b)]
            squares = torch.arange(LANES, dtype=torch.float64) ** 2
            expected = (a @ b).unsqueeze(-1) * squares
            (found,) = run(lowered, wide)
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"beta": 0}, {"beta": 0.5, "alpha": -2}, {"alpha": 3}])
@pytest.mark.parametrize("shapes", [((4,), (3, 5), (5, 4)), ((3, 4), (3, 5), (5, 4))])
def test_products_with_something_added(shapes, options):
    inputs = [random(*shape) for shape in shapes]
    graph = graph_of(lambda c, a, b: aten.addmm.default(c, a, b, **options), *inputs)
    assert operators(graph) == {"aten.addmm.default"}
    (found,) = run(lowering.in_loops(graph, inputs), inputs)
    torch.testing.assert_close(found, torch.addmm(*inputs, **options))


def test_products_of_vectors():
    a, x = random(3, 5), random(5)
    for function, inputs in ((torch.mv, [a, x]), (torch.dot, [x, x])):
        graph = graph_of(function, *inputs)
        lowered = lowering.in_loops(graph, inputs)
        assert not operators(graph) & operators(lowered)
        (found,) = run(lowered, inputs)
        torch.testing.assert_close(found, function(*inputs))


def test_what_is_native():
    def native(function, *inputs, lanes=1):
        return lowering.is_native(graph_of(function, *inputs), lanes)

    small, large = torch.ones(64, 64), torch.ones(65, 64)
    for dtype in (torch.float32, torch.float64):
        assert native(torch.mm, large.to(dtype), small.to(dtype))
    assert native(torch.mm, small.int(), small.int())
    assert not native(torch.mm, large.int(), small.int())
    assert not native(torch.mm, large.bfloat16(), small.bfloat16())
    assert native(torch.mm, small, small, lanes=LANES)
    assert not native(torch.mm, large, small, lanes=LANES)
    assert not native(torch.bmm, large[None], small[None])
    assert native(lambda x: x.sin(), torch.ones(10**6))
    assert not native(lambda x: aten.bernoulli.default(x), torch.ones(3))
    assert not native(lambda x: sum([x.sin() for _ in range(1000)]), torch.ones(3))
    assert not native(lambda x: x * 2, torch.ones(3, device="meta"))


# --------------------------------------------------------------- changes in place


def captured(function, *inputs):
    """A graph with its changes in place, as a run leaves it."""
    graph = fx.symbolic_trace(function)
    for node in graph.graph.nodes:
        assert node.op in ("placeholder", "call_function", "output"), node
    return graph, list(inputs)


def test_which_inputs_are_written():
    def change(a, b, c, d):
        view = aten.view.default(b, [4])
        aten.add_.Tensor(view, 1)
        aten._foreach_add_.List([c], [a])
        return aten.add.Tensor(d, 1)

    graph, inputs = captured(change, *(torch.ones(2, 2) for _ in range(4)))
    assert memory.written(graph, inputs) == [1, 2]


def test_memory_that_another_input_shares():
    def change(a, b):
        aten.add_.Tensor(a, 1)
        return aten.add.Tensor(b, 1)

    base = torch.zeros(6)
    graph, _ = captured(change, base, base)
    assert memory.written(graph, [base[:3], base[3:]]) == [0]
    assert memory.written(graph, [base[:3], torch.zeros(3)]) == [0]
    for other in (base, base[2:], base[::2]):
        with pytest.raises(errors.CaptureError, match="shares memory"):
            memory.written(graph, [base[:3], other])


def test_lowered_graphs_change_their_inputs_at_the_end():
    def change(a, b):
        row = aten.select.int(a, 0, 0)
        aten.mul_.Tensor(row, b)
        first = aten.clone.default(a)
        aten._foreach_mul_.Scalar([a, b], 2)
        return first, aten.add.Tensor(a, b)

    graph, inputs = captured(change, random(2, 3), random(3))
    copies = [t.clone() for t in inputs]
    lowered = lowering.lowered(graph, [t.clone() for t in inputs])
    targets = [str(n.target) for n in lowered.graph.nodes if n.op == "call_function"]
    copied = [i for i, target in enumerate(targets) if target == "aten.copy_.default"]
    assert len(copied) == 2 and not [t for t in targets if t.startswith("aten._foreach")]
    assert {t for t in targets if t.removesuffix(".default").endswith("_")} == {
        "aten.copy_.default"
    }
    expected = graph(*inputs)
    found = run(lowered, copies)
    for one, other in zip([*found, *copies], [*expected, *inputs], strict=True):
        assert torch.equal(one, other)


# --------------------------------------------------------------------------- lanes


OPERATORS = {
    "sum": lambda x, y: x.sum(),
    "sum of one dimension": lambda x, y: x.sum(1, keepdim=True),
    "sum of the last dimension": lambda x, y: x.sum(-1),
    "sum of two": lambda x, y: x.sum((-1, 0)),
    "mean": lambda x, y: x.mean() + y.mean(-1),
    "largest": lambda x, y: x.amax(-1) - x.amin(),
    "softmax": lambda x, y: torch.log_softmax(x, -1),
    "shapes": lambda x, y: x.view(-1).reshape(3, 2, 2).permute(2, 0, 1).unsqueeze(-1).squeeze(-1),
    "transposed": lambda x, y: x.t() + y,
    "parts": lambda x, y: torch.cat([x[:, 1:3], y.unsqueeze(1)], 1),
    "with a constant": lambda x, y: torch.cat([x, torch.ones(1, 4, dtype=x.dtype)]),
    "a row": lambda x, y: x[1] * x.select(-1, 2).sum(),
    "expanded": lambda x, y: y.expand(2, 3) + x[:, :1].t(),
    "chosen": lambda x, y: torch.where(x > 0, x, 0.5).clamp(max=1),
    "gathered": lambda x, y: x.gather(1, (y > 0).long().unsqueeze(1)),
    "picked": lambda x, y: torch.eye(4, dtype=x.dtype)[:3].gather(1, (x > 0).long()),
    "scattered": lambda x, y: torch.zeros_like(x).scatter(1, (x[:, :1] > 0).long(), 2.0),
    "into a constant": lambda x, y: torch.zeros(3, 4, dtype=x.dtype).scatter(
        1, (x[:, :1] > 0).long(), -1.0
    ),
    "running sums": lambda x, y: x.cumsum(-1),
    "a constant": lambda x, y: (torch.ones(2, dtype=x.dtype), x * 2),
    "filled": lambda x, y: torch.full_like(x, 3.0) + torch.ones_like(y).unsqueeze(-1),
    "without dimensions": lambda x, y: (y[0] * 2).sum() + y[1].mean() + y[2].amax(),
    "no dimensions named": lambda x, y: aten.sum.dim_IntList(x, []) + aten.amax.default(y[0]),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_lanes_do_not_mix(name):
    """Each lane of a widened graph is what the graph gives for that lane."""
    function = OPERATORS[name]
    members = [(random(3, 4, seed=i), random(3, seed=i + 100)) for i in range(LANES)]
    graph = lowering.lowered(graph_of(function, *members[0]), members[0])
    wide = [torch.stack(column, -1) for column in zip(*members)]
    found = run(lowering.in_loops_over_lanes(graph, list(members[0])), wide)
    for i, inputs in enumerate(members):
        expected = function(*inputs)
        expected = expected if isinstance(expected, tuple) else (expected,)
        for one, other in zip(found, expected, strict=True):
            assert one.shape == (*other.shape, LANES)
            torch.testing.assert_close(one[..., i], other)


def test_operators_that_lanes_do_not_know():
    x = random(3, 3)
    with pytest.raises(NoLanesError, match="sort"):
        lanes.widened(graph_of(lambda x: x.sort().values, x), [x])


def test_members_with_such_operators_run_one_after_the_other():
    def member(seed):
        weight = random(4, seed=seed, dtype=torch.float32)
        return lambda x: (x * weight).sort().values

    steps = [member(seed) for seed in range(3)]
    ensemble = tg.ensemble(steps)
    x = torch.randn(5, 3, 4)
    found = ensemble.loop(x)
    assert ensemble._together[0]._layout.lanes == 1
    for j, step in enumerate(steps):
        close([found[:, j]], [torch.stack([step(x[i, j]) for i in range(5)])])


# ----------------------------------------------------------------- native programs


def test_the_whole_of_a_step_is_one_function_in_cpp():
    """So that nothing is called in between. This is what makes small steps fast."""
    training = Training(momentum=0.9)
    compiled = tg.compile(training.step)
    for seed in range(4):
        compiled(*data(seed=seed))
    (program,) = compiled.programs
    assert isinstance(program._executable, Native)
    assert "aten.addmm.default" in operators(program.captured)
    inputs = [torch.empty(t.shape) for t in program.inputs(data(), None)]
    kernels = private.kernels(lowering.in_loops(program.lowered, inputs))
    assert len(kernels.sources) == 1 and len(kernels.calls) == 1


def test_outer_products_are_not_transposed():
    """Which took a third of the time of a step on one point."""

    def gradient(x, w, b, g):
        g = torch.where(torch.relu(x @ w.T + b) <= 0, 0, g)
        return g.T @ x, g @ w

    inputs = random(1, 2), random(25, 2), random(25), random(1, 25)
    kernels = private.kernels(lowering.in_loops(graph_of(gradient, *inputs), inputs))
    assert not any("transpose_mxn" in source for source in kernels.sources)


def test_results_that_are_arguments_or_each_other():
    """Such graphs take the ordinary path."""
    state = torch.zeros(3)

    def step(x):
        state.add_(x)
        y = x * 2
        return x, y, y.view(3, 1), state

    compiled = tg.compile(step)
    for i in range(1, 6):
        x = torch.full((3,), 1.0)
        same, double, view, total = compiled(x)
        assert same.tolist() == [1] * 3 and double.tolist() == [2] * 3
        assert view.tolist() == [[2]] * 3 and total.tolist() == [i] * 3
    assert compiled.programs


def test_integers_and_flags():
    def step(n, flags, x):
        total.add_(1)
        return n // 2 + total, ~flags, torch.where(flags, x, -x), n.float() * x, (n > 1).sum()

    total = torch.zeros((), dtype=torch.int64)
    compiled = tg.compile(step)
    args = torch.arange(4), torch.tensor([True, False] * 2), random(4, dtype=torch.float32)
    for _ in range(5):
        found = compiled(*args)
        total.sub_(1)
        for one, other in zip(found, step(*args), strict=True):
            assert one.dtype == other.dtype and one.tolist() == other.tolist()
    assert isinstance(compiled.programs[0]._executable, Native)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.complex64], ids=str)
def test_other_dtypes(dtype):
    compiled = tg.compile(lambda x: x * 2 + 1)
    x = torch.linspace(-2, 2, 20).to(dtype)
    for _ in range(4):
        torch.testing.assert_close(compiled(x), x * 2 + 1)


def test_division_by_zero_of_integers_is_an_error():
    compiled = tg.compile(lambda a, b: a // b)
    a = torch.tensor([6, 8])
    for _ in range(4):
        assert compiled(a, torch.tensor([2, 4])).tolist() == [3, 2]
    with pytest.raises(RuntimeError, match="(?i)zero"):
        compiled(a, torch.tensor([2, 0]))
    assert compiled(a, torch.tensor([2, 4])).tolist() == [3, 2]


def test_the_ordinary_path_is_taken_if_the_kernels_are_not_found(monkeypatch, tmp_path):
    """As they may not be with another release of torch."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def changed(graph, parallel):
        raise AttributeError("AsyncCompile has no attribute cpp_pybinding")

    monkeypatch.setattr(private, "kernels", changed)
    ours, theirs = Training(), Training()
    compiled = tg.compile(ours.step)
    with pytest.warns(UserWarning, match="ordinary way.*cpp_pybinding.*report.*" + "torch"):
        for seed in range(4):
            x, y = data(seed=seed)
            close([compiled(x, y).data], [theirs.step(x, y).data])
    assert isinstance(compiled.programs[0]._executable, Artifact)
    close(ours.parameters(), theirs.parameters())


def first_rows(x, w):
    y = torch.tanh(x @ w)
    return y[:2], torch.softmax(y @ w, 0).sum()


def a_corner(x, w):
    y = torch.softmax(x, 0)
    return y[3:5, :3].t(), (y @ w).sum()


def of_both(x, w):
    y = torch.cat([x, x * 2])
    return y[1:3], w.sum()


@pytest.mark.parametrize("function", [first_rows, a_corner, of_both])
def test_results_that_are_parts(own_cache, function):
    """Of what is in a memory, all of which the program writes."""
    x, w = torch.rand(8, 16), torch.rand(16, 16)
    compiled = tg.compile(function)
    for _ in range(3):
        close(compiled(x, w), function(x, w))
    (program,) = compiled.programs
    assert program.kind == "native" and not all(o.is_whole for o in program._executable.outputs)
    part, _ = compiled(x, w)
    room = program._executable.outputs[0].room
    assert part.untyped_storage().nbytes() == 4 * room
    found = compiled.loop(torch.stack([x, x + 1]), torch.stack([w, w]))
    close([found[0][1]], [function(x + 1, w)[0]])


def test_memory_where_tensors_are_made_elsewhere():
    """As after torch.set_default_device("cuda"), while a small model is on the CPU."""
    x, w = torch.rand(2, 5, 30), torch.rand(30, 30)

    def runs():
        def step(x):
            h = torch.tanh(x @ w)
            return (h @ w).sum()

        compiled, ensemble = tg.compile(step), tg.ensemble([step, step])
        for _ in range(4):
            found = [compiled.loop(x), torch.stack([*map(compiled, x)]), ensemble(x)]
        assert isinstance(compiled.programs[0]._executable, Native)
        assert isinstance(ensemble._together[0]._executable, Native)
        return found

    expected = runs()
    torch.set_default_device("meta")
    try:
        close(runs(), expected)
    finally:
        torch.set_default_device(None)


def test_what_an_index_error_says_to_do():
    table = torch.arange(4.0)
    compiled, ensemble = tg.compile(lambda k: table[k] * 2), tg.ensemble([lambda k: table[k] * 2])
    for _ in range(3):
        compiled(torch.tensor([3]))
        ensemble(torch.tensor([[3]]))
    for run, k in ((compiled, [4]), (ensemble, [[4]])):
        with pytest.raises(IndexError, match="not below 4.*`__wrapped__` of.*`steps` of an ens"):
            run(torch.tensor(k))
    for itself in (compiled.__wrapped__, *ensemble.steps):
        with pytest.raises(IndexError):
            itself(torch.tensor([4]))


EMPTY = [
    lambda x: ((x * 2)[:0],),
    lambda x: ((x * 2)[:, :0], x.sum()),
    lambda x: (x[:0] @ x.mT,),
    lambda x: (x[:0] * 2,),
]


@pytest.mark.parametrize("function", EMPTY)
def test_empty_results(own_cache, function):
    fast, x = tg.compile(function), torch.ones(4, 3)
    for _ in range(4):
        found = fast(x)
    looped = fast.loop(torch.stack([x] * 3))
    assert fast.programs[0].kind == "native"
    for one, many, expected in zip(found, looped, function(x)):
        assert one.shape == expected.shape and many.shape == (3, *expected.shape)
        assert one.tolist() == expected.tolist() == many[2].tolist()
