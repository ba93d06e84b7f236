"""Random expressions that join, choose, order and write into matrices: steps and programs agree."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from steps import own_cache

import tinygrad_ee559 as tg

__all__ = ["own_cache"]
pytestmark = [pytest.mark.usefixtures("own_cache"), pytest.mark.no_cover]


def _written(x, y, i):
    result = x.clone()
    result[i] = y[i] * 2
    result[0] = y[-1]
    return result


def _written_into_both(x, y, i):
    both = torch.cat([x, y])
    both[: len(x)] = y * 2
    return both[len(x) - 1 : -1]


def _by_columns(x, i):
    return i[:, None].expand(len(x), len(x))


#: Functions of two square matrices and as many indices as they have rows.
FUNCTIONS = {
    "product": lambda x, y, i: x @ y * 0.5,
    "times": lambda x, y, i: x * y,
    "plus": lambda x, y, i: x + 0.3 * y,
    "rows and columns": lambda x, y, i: x * y[0] + y[:, :1],
    "transposed": lambda x, y, i: x.T * 1.5,
    "rows": lambda x, y, i: x[i],
    "columns": lambda x, y, i: x[:, i] * y,
    "gathered": lambda x, y, i: torch.gather(x, 1, _by_columns(x, i)),
    "scattered": lambda x, y, i: torch.scatter_add(y, 0, _by_columns(x, i), x),
    "put": lambda x, y, i: torch.index_put(x, (i,), y[i], accumulate=True),
    "added": lambda x, y, i: torch.index_add(x, 1, i, y),
    "sorted": lambda x, y, i: torch.sort(x, dim=1).values,
    "summed up": lambda x, y, i: torch.cumsum(x, 0) * 0.5,
    "largest": lambda x, y, i: x - torch.amax(y, 1, keepdim=True),
    "chosen": lambda x, y, i: torch.where(x > y, x, y * 0.5),
    "joined": lambda x, y, i: torch.cat([x, y])[::2],
    "stacked": lambda x, y, i: torch.stack([x, y]).sum(0),
    "written": _written,
    "written into both": _written_into_both,
}


# Inductor by itself forgets a new name here, or writes into the parts of what was joined.
@example([("product", 0, 0), ("times", 2, 2), ("rows", 3, 3)], 3, 0)
@example([("plus", 0, 1), ("joined", 2, 0), ("written", 2, 1)], 3, 0)
@example([("plus", 0, 1), ("stacked", 2, 0), ("put", 2, 1)], 3, 0)
@settings(max_examples=15, derandomize=True)
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(FUNCTIONS)), st.integers(0, 9), st.integers(0, 9)),
        min_size=3,
        max_size=6,
    ),
    st.sampled_from([3, 4, 9]),
    st.integers(0, 2**31),
)
def test_steps_of_random_expressions(calls, size, seed):
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randn(2, size, size, generator=generator, dtype=torch.float64)
    weights = [tg.Tensor(start.clone(), requires_grad=True) for start in starts]
    i = torch.randint(size, (size,), generator=generator)
    scale = torch.randn(size, size, generator=generator, dtype=torch.float64)

    def step(i):
        found = list(weights)
        for weight in weights:
            weight.grad = None
        for name, one, other in calls:
            x, y = found[one % len(found)], found[other % len(found)]
            found.append(FUNCTIONS[name](x, y, i))
        loss = ((found[-1] + found[-2]) * scale).sum()
        loss.backward()
        for weight in weights:
            if weight.grad is not None:
                weight.data.sub_(weight.grad.data.clamp(-1, 1) * 1e-3)
        return loss.detach()

    def run(function):
        for weight, start in zip(weights, starts):
            weight.data.copy_(start)
        losses = [function(i) for _ in range(4)]
        gradients = [weight.grad for weight in weights]
        left = [None if g is None else g.data.clone() for g in gradients]
        return [loss.as_torch().clone() for loss in losses], left, [w.data.clone() for w in weights]

    expected, found = run(step), run(tg.compile(step))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
