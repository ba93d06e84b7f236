"""`product.h`: the product in C++ beside torch's, and steps that use it beside eager ones."""

import ctypes

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from steps import LAYOUTS, Training, interpreted, laid_out, own_cache, same_training, threads

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


@settings(max_examples=150, derandomize=True)
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
