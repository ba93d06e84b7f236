"""Calls of torch functions are recorded alike, by whichever way they come."""

import pytest
import torch
import torch.nn.functional as F

import tinygrad_ee559 as tg
from tinygrad_ee559 import errors
from tinygrad_ee559.record import recorded

add = recorded(torch.add)
linear = recorded(F.linear)


def leaf(*values):
    return tg.Tensor(list(values), requires_grad=True)


def test_the_short_way_leaves_the_node_of_the_long_one():
    x, w = leaf(1.0, 2.0), tg.Tensor(torch.ones(3, 2), requires_grad=True)
    for bias in (None, tg.Tensor(torch.ones(3)), leaf(1.0, 1.0, 1.0)):
        ours, theirs = linear(x, w, bias).node, F.linear(x, w, bias).node
        assert ours.plan is theirs.plan
        assert list(ours) == list(theirs)
        assert [a is b for a, b in zip(ours.saved, theirs.saved, strict=True)] == [True] * 4


@pytest.mark.parametrize("other", [2.0, 2, torch.tensor([2.0]), tg.Tensor(2.0), tg.Tensor([2.0])])
def test_the_other_operand_may_be_anything(other):
    x = leaf(1.0, 3.0)
    y = add(x, other)
    assert y.tolist() == [3, 5]
    y.sum().backward()
    assert x.grad.tolist() == [1, 1]


def test_nothing_is_recorded_where_nothing_is_wanted():
    assert add(tg.Tensor([1.0]), 1).node is None
    with tg.no_grad():
        assert add(leaf(1.0), 1).node is None
    assert add(tg.Tensor(1.0, requires_grad=True), 1).item() == 2  # plain numbers


def test_the_short_way_has_the_errors_of_the_long_one():
    with pytest.raises(RuntimeError, match=r"torch\.add of float32\[2\], float32\[3\]: The size"):
        add(leaf(1.0, 2.0), leaf(1.0, 2.0, 3.0))
    with pytest.raises(errors.MixedGraphError, match=r"torch\.add"):
        add(leaf(1.0), torch.ones(1, requires_grad=True))


def test_results_that_carry_no_gradient_or_are_several():
    x = leaf(1.0, 2.0)

    def whole(x):
        return x.long()

    tg.rule(whole, lambda g, _y, _x: g)
    assert recorded(whole)(x).node is None
    first, second = recorded(torch.native_dropout)(x, 0.0, True)
    assert first.node is not None and second.node is None
    view = recorded(torch.t)(x)
    assert isinstance(view, tg.Tensor)


def test_a_rule_called_with_and_without_its_options():
    for beta in ((), (2.0,), (), (2.0, 20.0)):
        x, t = leaf(-1.0, 0.5), torch.tensor([-1.0, 0.5], requires_grad=True)
        F.softplus(x, *beta).sum().backward()
        F.softplus(t, *beta).sum().backward()
        assert torch.equal(x.grad.data, t.grad)
