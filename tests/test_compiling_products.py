"""`product.h`: the product in C++ beside torch's, and steps that use it beside eager ones."""

import ctypes

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from steps import (
    LAYOUTS,
    Training,
    close,
    data,
    interpreted,
    laid_out,
    own_cache,
    same_training,
    threads,
)

import tinygrad_ee559 as tg
from tinygrad_ee559 import nn
from tinygrad_ee559.compiling import native, private

__all__ = ["interpreted", "own_cache"]
pytestmark = [pytest.mark.usefixtures("own_cache"), pytest.mark.no_cover]
EXACT = {torch.float32: 1e-5, torch.float64: 1e-13}
_CALL = """
extern "C" void {0}_product(const {0}* a, const {0}* b, {0}* c, const int64_t* n, int threads) {{
    product(a, b, c, n[0], n[1], n[2], n[3], n[4], n[5], n[6], threads);
}}
"""


@pytest.fixture(scope="module", params=[64, 32, 16], ids="{} bytes".format)
def library(request):
    """The product with vectors of at most so many bytes."""
    text = "#include <omp.h>\n"
    for size, name in ((64, "__AVX512F__"), (32, "__AVX__")):
        text += f"#undef {name}\n" * (size > request.param)
    text += native.PRODUCT.read_text() + "".join(map(_CALL.format, ("float", "double")))
    return ctypes.CDLL(private.build(text))


def product(library, a, b, count=1):
    c = torch.full((a.shape[0], b.shape[1]), torch.nan, dtype=a.dtype)
    sizes = (ctypes.c_int64 * 7)(*a.stride(), *b.stride(), *a.shape, b.shape[1])
    run = getattr(library, f"{private.PRODUCT_TYPES[a.dtype]}_product")
    run(*(ctypes.c_void_p(t.data_ptr()) for t in (a, b, c)), sizes, count)
    return c


SIZES = st.sampled_from([1, 2, 3, 7, 8, 10, 16, 17, 31, 33, 48, 49, 100, 129, 200])
INNER = SIZES | st.sampled_from([513, 784, 1100])


@settings(max_examples=100, derandomize=True)
@given(
    rows=SIZES, inner=INNER, columns=SIZES, layouts=st.tuples(LAYOUTS, LAYOUTS),
    dtype=st.sampled_from(list(EXACT)), count=st.sampled_from([1, 2, 3]),
)  # fmt: skip
def test_products(library, rows, inner, columns, layouts, dtype, count):
    generator = torch.Generator().manual_seed(rows * inner + columns)
    a = laid_out(torch.randn(rows, inner, generator=generator, dtype=dtype), layouts[0])
    b = laid_out(torch.randn(inner, columns, generator=generator, dtype=dtype), layouts[1])
    expected = a.double() @ b.double()
    scale = a.double().abs() @ b.double().abs()
    off = (product(library, a, b, count).double() - expected).abs() / scale
    assert off.max() < EXACT[dtype], (off.max(), rows, inner, columns, layouts)


def test_what_is_not_finite_stays_where_it_is(library):
    a, b = torch.ones(20, 300), torch.ones(300, 50)
    a[3, 200], b[100, 7] = torch.inf, torch.nan
    c = product(library, a, b)
    assert torch.equal(c.isnan(), (torch.arange(50) == 7).expand(20, 50))
    assert torch.equal(c.isinf(), (a @ b).isinf())


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def one_or_two_threads(request):
    with threads(request.param):
        yield


@pytest.mark.parametrize("dtype", list(EXACT))
def test_steps_with_large_products(dtype, one_or_two_threads):
    """The first layer's products are large, the second one's are written out in loops."""
    layers = (lambda: nn.Linear(300, 40), nn.Tanh, lambda: nn.Linear(40, 3))
    ours, theirs = (Training(*layers, dtype=dtype, momentum=0.9) for _ in range(2))
    compiled = tg.compile(ours.step)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(20, 50, 300, generator=generator, dtype=dtype)
    y = torch.randn(20, 50, 3, generator=generator, dtype=dtype)
    for i in range(10):
        compiled(x[i], y[i])
    compiled.loop(x[10:], y[10:])
    for inputs, targets in zip(x, y):
        theirs.step(inputs, targets)
    same_training(ours, theirs)
    (program,) = compiled.programs
    assert program.kind == "native"


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8, torch.int8])
@pytest.mark.parametrize(
    "multiply",
    [
        torch.mm,
        lambda a, b: a.mv(b[:, 0]),
        lambda a, b: b[:, 0].dot(b[:, 1]),
        lambda a, b: a[None] @ b[None],
        lambda a, b: torch.addmm(b[0], a, b, alpha=2, beta=3),
    ],
    ids=["mm", "mv", "dot", "bmm", "addmm"],
)
def test_products_of_integers(interpreted, dtype, multiply):
    a, b = torch.arange(24).view(4, 6).to(dtype), torch.arange(30).view(6, 5).to(dtype)
    compiled = tg.compile(multiply)
    for _ in range(3):
        found = compiled(a, b)
    assert found.dtype == dtype and torch.equal(found, multiply(a, b))


# ------------------------------------------------------------ how results are laid out


def transposed(linear, x):
    steps, batch, size = x.shape
    inner = linear(x).transpose(0, 1).contiguous()
    return linear(inner.view(steps * batch, size)).view(steps, 2 * batch, size // 2)


def heads(linear, x):
    """As in torch.nn.MultiheadAttention."""
    steps, batch, size = x.shape
    q = linear(x).view(steps, 2 * batch, size // 2).transpose(0, 1)
    attended = torch.bmm(q, q.transpose(1, 2)).softmax(-1) @ q
    return linear(attended.transpose(0, 1).contiguous().view(steps * batch, size))


def packed(linear, x):
    steps, batch, size = x.shape
    y = linear(x).view(steps, batch, 2, size // 2).permute(2, 0, 1, 3).contiguous()
    return y[0].view(steps, -1) * y[1].view(steps, -1)


@pytest.mark.parametrize(
    "forward",
    [transposed, packed, pytest.param(heads, marks=pytest.mark.slow)],
    ids=lambda forward: forward.__name__,
)
def test_views_of_what_was_transposed(forward):
    def make():
        torch.manual_seed(0)
        linear = nn.Linear(4, 4)
        optimizer = tg.optim.SGD(linear.parameters(), lr=0.1)

        def step(x):
            optimizer.zero_grad()
            loss = forward(linear, tg.Tensor(x)).pow(2).mean()
            loss.backward()
            optimizer.step()
            return loss

        return linear, step

    (ours, step), (theirs, eager) = make(), make()
    compiled = tg.compile(step)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        x = torch.randn(3, 2, 4, generator=generator)
        close([compiled(x).data], [eager(x).data])
        for one, other in zip(ours.parameters(), theirs.parameters()):
            close([one.data, one.grad.data], [other.data, other.grad.data])
    (program,) = compiled.programs
    assert program.kind == "native"


WEIGHT = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("batch", [10, 300])
@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.linear(x, WEIGHT).as_strided((4, 4), (2, 8), 1),
        lambda x: (x.view(2, 5, -1).mT @ x.view(2, 5, -1)).as_strided((4, 4), (2, 8), 1),
        lambda x: F.linear(x, WEIGHT)[1:].as_strided((4, 4), (2, 8), 1),
        lambda x: F.linear(x, WEIGHT).t().relu().as_strided((3, 4), (1, 3)),
        lambda x: torch.view_as_complex(F.linear(x, WEIGHT).view(-1, 4, 2)).abs().sum(),
        lambda x: F.linear(x, WEIGHT).view(torch.int32) >> 16,
    ],
    ids=["product", "batch of products", "rows", "transposed", "complex", "bits"],
)
def test_what_depends_on_how_computed_tensors_are_laid_out(function, batch):
    compiled = tg.compile(function)
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        x = torch.randn(batch, 8, generator=generator)
        expected = function(x)
        atol = 1e-4 if expected.is_floating_point() else 1  # the last bit
        torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=atol)
    assert [program.kind for program in compiled.programs] == ["artifact"]


RESULTS = {
    "product": lambda x: F.linear(x, WEIGHT),
    "bounded": lambda x: F.linear(x, WEIGHT).relu(),
    "transposed": lambda x: F.linear(x, WEIGHT).t(),
    "permuted": lambda x: (x.view(-1, 2, 4) + 1).permute(2, 0, 1) * 2,
    "summed": lambda x: x.view(-1, 2, 4).transpose(1, 2).sum(0),
    "joined": lambda x: torch.cat([x.t(), x.t()]),
    "inner": lambda x: x.t() @ x,
    "indices": lambda x: torch.einsum("bi,ij->jb", x, WEIGHT),
}


@pytest.mark.parametrize("batch", [1, 100])
def test_results_are_laid_out_as_always(batch):
    def function(x):
        return {name: result(x) for name, result in RESULTS.items()}

    compiled = tg.compile(function)
    x = torch.randn(batch, 8, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        found = compiled(x)
    assert compiled.programs[0].kind == "native"
    for name, expected in function(x).items():
        close([found[name]], [expected], factor=10.0)
        long = [i for i, n in enumerate(expected.shape) if n > 1]
        strides = [[t.stride(i) for i in long] for t in (found[name], expected)]
        assert strides[0] == strides[1], name


@pytest.mark.parametrize("batch", [1, 100])
def test_views_of_predictions_and_gradients(batch):
    training = Training()

    def step(x, y):
        training.optimizer.zero_grad()
        prediction = training.model(x)
        ((prediction - y) ** 2).mean().backward()
        training.optimizer.step()
        return prediction.detach()

    compiled = tg.compile(step)
    for i in range(4):
        x, y = data(batch=batch, seed=i)
        assert compiled(x, y).view(-1).shape == (2 * batch,)
        for parameter in training.model.parameters():
            assert parameter.grad.view(-1).shape == (parameter.data.numel(),)
    assert compiled.programs[0].kind == "native"
