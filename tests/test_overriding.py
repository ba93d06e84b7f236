"""Rules replaced for as long as a block lasts."""

import threading

import pytest
import torch
import torch.nn.functional as F

import tinygrad_ee559 as tg
from tinygrad_ee559 import errors


def leaf(*values):
    return tg.Tensor(torch.tensor(values, dtype=torch.float64), requires_grad=True)


def guided(g, y, _x):
    """Guided backpropagation (Springenberg et al. 2015)."""
    return g * (g > 0) * (y > 0)


@pytest.mark.parametrize(
    "relu", [torch.relu, F.relu, lambda x: x.relu(), tg.nn.ReLU(), tg.from_torch(torch.nn.ReLU())]
)
def test_every_way_to_call_a_function_is_overridden(relu):
    x = leaf(-1.0, 2.0, 3.0)
    y = relu(x)
    with tg.override_rule(torch.relu, guided):
        y.backward(torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64))
    assert x.grad.tolist() == [0, 0, 1]


def test_only_inside_the_block_and_in_this_thread():
    seen = []

    def elsewhere():
        x = leaf(1.0)
        torch.sin(x).backward(torch.tensor([1.0], dtype=torch.float64))
        seen.append(x.grad.item())

    with tg.override_rule(torch.sin, lambda g, _y, _x: g * 100):
        x = leaf(1.0)
        torch.sin(x).sum().backward()
        assert x.grad.item() == 100
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    elsewhere()
    assert seen == [pytest.approx(0.5403023058681398)] * 2


def test_the_innermost_block_counts_and_errors_leave_it():
    def gradient():
        x = leaf(1.0)
        torch.exp(x).sum().backward()
        return x.grad.item()

    with tg.override_rule(torch.exp, lambda g, _y, _x: g * 2):
        with pytest.raises(ZeroDivisionError), tg.override_rule(torch.exp, lambda g, _y, _x: g * 3):
            assert gradient() == 3
            _ = 1 / 0
        assert gradient() == 2
    assert gradient() == pytest.approx(2.718281828459045)


def test_numbers_are_overridden_too():
    x = tg.Tensor(2.0, requires_grad=True)
    y = x.tanh() * 3
    with tg.override_rule(torch.tanh, lambda g, _y, _x: g):
        y.backward()
    assert x.grad.item() == 3.0 and type(x.grad.data) is float


def test_one_operand_may_be_cut_off():
    a, b = leaf(2.0), leaf(5.0)
    with tg.override_rule(torch.mul, lambda g, _y, _a, b: g * b, lambda g, _y, _a, _b: None):
        (a * b).sum().backward()
    assert a.grad.item() == 5 and b.grad is None


def test_what_was_not_kept_is_named():
    x = leaf(-1.0, 2.0)
    y = torch.relu(x)
    rule = tg.override_rule(torch.relu, lambda g, _y, x: g * x)
    with pytest.raises(errors.RuleError, match=r"torch\.relu needs x, which was not kept"), rule:
        y.sum().backward()
    with tg.override_rule(torch.relu, lambda g, _y, x: g * x):
        torch.relu(x).sum().backward()
    assert x.grad.tolist() == [-1, 2]


def test_recorded_and_transformed():
    x = leaf(0.5)
    with tg.override_rule(torch.sin, lambda g, _y, x: g * x**3):
        (g,) = tg.grad(torch.sin(x), [x], torch.ones(1).double(), create_graph=True)
        (gg,) = tg.grad(g, [x], torch.ones(1).double())
        assert gg.item() == pytest.approx(3 * 0.25)
        assert tg.func.grad(lambda x: torch.sin(x).sum())(x.data).item() == pytest.approx(0.125)


def test_gradient_reversal_of_a_users_own_function():
    same = tg.rule(lambda x: x.clone(), lambda g, _y, _x: g)
    x = leaf(1.0, 2.0)
    function = lambda x: x.clone()  # noqa: E731
    reverse = tg.rule(function, lambda g, _y, _x: g)
    with tg.override_rule(function, lambda g, _y, _x: -g):
        (reverse(x) + same(x) * 3).sum().backward()
    assert x.grad.tolist() == [2, 2]


@pytest.mark.parametrize("function", [F.cross_entropy, torch.kron])
def test_functions_without_a_rule_are_refused(function):
    override = tg.override_rule(function, lambda g, _y, _x, _t: g)
    with pytest.raises(errors.NoRuleError, match=r"is composed|has no rule"), override:
        pass


def test_blocks_inside_blocks_keep_what_the_outer_one_needs():
    with tg.override_rule(torch.relu, lambda g, _y, x: g * x):
        with tg.override_rule(torch.relu, lambda g, _y, _x: g):
            pass
        x = leaf(-1.0, 2.0)
        torch.relu(x).sum().backward()
    assert x.grad.tolist() == [-1, 2]
