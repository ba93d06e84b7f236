"""Random expressions: value, first and second derivatives equal PyTorch's."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_ee559 as tg

UNARY = {
    "tanh": torch.tanh,
    "sin": torch.sin,
    "exp(tanh)": lambda x: torch.exp(torch.tanh(x)),
    "sigmoid": torch.sigmoid,
    "softplus": torch.nn.functional.softplus,
    "square": lambda x: x**2,
    "sqrt(1+x2)": lambda x: (1 + x * x).sqrt(),
    "T": lambda x: x.T.contiguous(),
    "flip": lambda x: torch.flip(x, (0,)),
    "row softmax": lambda x: torch.softmax(x, dim=-1),
    "logsumexp": lambda x: torch.logsumexp(x, dim=0, keepdim=True) + x,
    "mean": lambda x: x - x.mean(dim=1, keepdim=True),
    "var": lambda x: x / (1 + x.var()),
    "cumsum": lambda x: torch.cumsum(x, dim=1),
    "first row": lambda x: x[0] + x,
    "cat": lambda x: torch.cat([x[:1], x * 2], dim=0)[: x.shape[0]],
    "reflected": lambda x: 2 - 1 / (3 + x * x),
}
BINARY = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / (2 + b * b),
    "@": lambda a, b: a @ b,
    "hypot": lambda a, b: (1 + a * a + b * b).sqrt(),
    "where": lambda a, b: torch.where(a > b, a, b * 2),
    "row": lambda a, b: a * b[0],
    "column": lambda a, b: a + b[:, :1],
}
STEPS = st.lists(
    st.tuples(
        st.sampled_from([*UNARY, *BINARY]),
        st.integers(0, 30),
        st.integers(0, 30),
    ),
    min_size=1,
    max_size=12,
)


def program(steps, leaves):
    """Each step works on any two values made so far; the sum of the last few is the result."""
    values = list(leaves)
    for name, i, j in steps:
        a, b = values[i % len(values)], values[j % len(values)]
        values.append(UNARY[name](a) if name in UNARY else BINARY[name](a, b))
    return sum(value.sum() for value in values[-3:])


@settings(max_examples=150)
@given(steps=STEPS, seed=st.integers(0, 2**16))
def test_random_programs(steps, seed):
    generator = torch.Generator().manual_seed(seed)
    data = [torch.randn(3, 3, generator=generator, dtype=torch.float64) * 0.5 for _ in range(2)]
    here = [tg.Tensor(d.clone(), requires_grad=True) for d in data]
    there = [d.clone().requires_grad_() for d in data]
    y, ty = program(steps, here), program(steps, there)
    close(y.data, ty.detach())
    first = tg.grad(y, here, create_graph=True, allow_unused=True)
    tfirst = torch.autograd.grad(ty, there, create_graph=True, allow_unused=True)
    same(first, tfirst)
    s, ts = squares(first), squares(tfirst)
    if s is not None and s.requires_grad:
        same(
            tg.grad(s, here, allow_unused=True),
            torch.autograd.grad(ts, there, allow_unused=True),
        )


def squares(gradients):
    found = [(g * g).sum() for g in gradients if g is not None]
    return sum(found) if found else None


def same(gradients, expected):
    for g, t in zip(gradients, expected, strict=True):
        zero = torch.zeros(3, 3, dtype=torch.float64)
        close(zero if g is None else g.data, zero if t is None else t.detach())


def close(a, b):
    scale = max(1.0, float(b.abs().max()))
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10 * scale)
