"""`checkpoint`: memory traded for recomputation."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import tinygrad_ee559 as tg
from tinygrad_ee559 import errors


def leaf(*shape):
    return tg.Tensor(torch.randn(*shape, dtype=torch.float64), requires_grad=True)


def test_gradients_are_those_without_it():
    torch.manual_seed(0)
    x, w = leaf(3, 4), leaf(4, 4)

    def part(x, *, scale):
        y = torch.tanh(x @ w) * scale
        return {"y": y, "sum": y.sum(), "size": 12, "count": (y > 0).sum()}

    def gradients(run):
        result = run(part, x, scale=w[0])
        assert result["size"] == 12 and not result["count"].requires_grad
        value = (result["y"] ** 2).sum() + result["sum"] ** 2
        first = tg.grad(value, [x, w], create_graph=True)
        second = tg.grad((first[0] ** 2).sum() + first[1].sum(), [x, w])
        return [g.data.detach() for g in (*first, *second)]

    expected = gradients(lambda f, *args, **kwargs: f(*args, **kwargs))
    torch.testing.assert_close(gradients(tg.checkpoint), expected)


def test_random_numbers_are_the_same_again():
    x = leaf(100)
    y = tg.checkpoint(torch.nn.functional.dropout, x, 0.5)
    torch.rand(5)
    before = torch.get_rng_state()
    y.sum().backward()
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(x.grad.data, (y.data != 0).double() * 2)


def test_it_may_be_nested_and_used_in_modules():
    torch.manual_seed(0)
    layers = [tg.nn.Linear(5, 5) for _ in range(4)]
    x = torch.randn(2, 5)

    def plain(x):
        for layer in layers:
            x = layer(x).tanh()
        return x

    def halves(x):
        inner = lambda x: layers[1](layers[0](x).tanh()).tanh()  # noqa: E731
        x = tg.checkpoint(inner, x)
        return layers[3](layers[2](x).tanh()).tanh()

    def gradients(f):
        for layer in layers:
            layer.zero_grad()
        f(tg.Tensor(x)).sum().backward()
        return [p.grad.data for layer in layers for p in layer.parameters()]

    torch.testing.assert_close(
        gradients(lambda x: tg.checkpoint(halves, x)), gradients(plain), rtol=0, atol=0
    )


def kept_bytes(run):
    x = leaf(1000, 100)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        y = run(lambda x: torch.sin(torch.sin(torch.sin(torch.sin(x)))), x)
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    assert y.requires_grad
    return sum(e.nbytes() for e in events)


def test_only_the_result_is_kept():
    size = 1000 * 100 * 8
    assert kept_bytes(lambda f, x: f(x)) >= 4 * size
    assert kept_bytes(tg.checkpoint) < 1.1 * size


def test_nothing_is_kept_where_nothing_is_wanted():
    assert tg.checkpoint(torch.sin, tg.Tensor([1.0])).node is None
    with tg.no_grad():
        assert tg.checkpoint(torch.sin, leaf(2)).node is None


def test_arguments_changed_in_place_are_noticed():
    x = leaf(2)
    middle = x * 2
    y = tg.checkpoint(torch.sin, middle)
    middle.data.add_(1)
    with pytest.raises(errors.ChangedInPlaceError, match="sin"):
        y.sum().backward()


def test_parameters_changed_in_place_are_noticed():
    x, w = leaf(2), leaf(2)
    y = tg.checkpoint(lambda x: x * w, x)
    w.data.add_(1)
    with pytest.raises(errors.ChangedInPlaceError):
        y.sum().backward()


def test_what_is_no_tensor_of_ours_is_handed_through():
    x = leaf(3)
    ones, square = tg.checkpoint(lambda x: (torch.ones(3), x * x), x)
    square.sum().backward()
    torch.testing.assert_close(x.grad.data, 2 * x.data)
    assert ones.tolist() == [1, 1, 1]


def test_a_function_that_gives_something_else_the_second_time_is_noticed():
    x = leaf(3)
    total = 0
    for k in range(3):
        total = total + tg.func.vmap(lambda a: a * k)(x).sum()  # noqa: B023 - that is the point
    with pytest.raises(errors.ChangedInPlaceError, match="was run again.*something else"):
        total.backward()


def test_a_checkpoint_under_autocast():
    """It is computed again as it was, though backward() is called outside."""
    found = []
    for library in (tg, torch):
        generator = torch.Generator().manual_seed(3)
        made = [torch.randn(*shape, generator=generator) for shape in ((5, 3), (4, 3))]
        wrap = tg.Tensor if library is tg else torch.Tensor.clone
        x, w = (wrap(t).requires_grad_() for t in made)

        def function(x, w=w):
            return torch.nn.functional.linear(x, w).relu()

        with torch.autocast("cpu", dtype=torch.bfloat16):
            if library is tg:
                out = tg.checkpoint(function, x)
            else:
                out = torch.utils.checkpoint.checkpoint(function, x, use_reentrant=False)
            loss = out.float().square().sum()
        loss.backward()
        found += [[x.grad, w.grad]]
    for ours, theirs in zip(*found):
        assert ours.dtype == torch.float32
        assert torch.allclose(ours.data, theirs, rtol=2e-2, atol=2e-2)


def test_a_checkpoint_without_autocast():
    """Which torch has not on every device."""
    x = tg.Tensor(torch.ones(2, device="meta"), requires_grad=True)
    assert tg.checkpoint(lambda x: x * 2, x).shape == (2,)
