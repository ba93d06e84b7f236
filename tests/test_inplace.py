"""Changes in place are recorded, views included; compared with PyTorch, which writes the same."""

import pytest
import torch

import tinygrad_ee559 as tg
from tinygrad_ee559 import errors


def assigned(y, x):
    y[0] = x[2] * 3
    y[1:, None] = x[:2, None]
    return y


def masked(y, x):
    y[y > 0.3] = x[0]
    y[torch.tensor([True, False, True])] *= 2
    return y


def indexed(y, x):
    y[torch.tensor([2, 0])] = x[:2].exp()
    return y


def added(y, x):
    y += x
    y -= 2 * x[0]
    y *= x
    return y


def chained(y, x):
    return y.mul_(2).add_(x, alpha=3).sin_().clamp_(max=0.9).square_()


def filled(y, x):
    y[0].fill_(x[1])
    y[1:].zero_()
    return y + x


def copied(y, x):
    y[:2].copy_(x[1:])
    return y


def a_view_is_changed(y, x):
    y[1:].mul_(x[0])
    return y


def the_base_is_changed(y, x):
    view = y[1:]
    y.mul_(x)
    return view * 2


def another_view_is_changed(y, x):
    rows, row = y.view(3, 1), y[1]
    row.mul_(x[0])
    y.view(1, 3).add_(x)
    return rows.square()


def views_of_views(y, x):
    square = torch.stack([y, y * 2, y * 3])
    column = square.t()[1]
    column[0] += x[1]
    square[1].mul_(x)
    return square.diagonal().mul_(2) + column + square.sum(0)


def changed_twice(y, x):
    for i in range(3):
        y[i] = y[i - 1].clone() * x[i]
    return y


def made_empty(y, x):
    out = torch.zeros(2, 3, dtype=torch.float64)
    out = out if isinstance(y, torch.Tensor) else tg.Tensor(out)
    out[0] = y
    out[1].copy_(x * 2)
    return out.cumsum(0)


def functional(y, x):
    torch.relu_(y)
    z = torch.nn.functional.relu(y * x, inplace=True)
    return torch.nn.functional.dropout(z + y, 0.5, inplace=True) * x


def scattered(y, x):
    y.index_add_(0, torch.tensor([0, 0, 2]), x)
    y.masked_fill_(y < 0.2, 0.1)
    y.scatter_(0, torch.tensor([1]), x[:1])
    return y


def changed_by_itself(y, x):
    y.add_(y).sin_()
    return y


def random_numbers(y, x):
    y[:2].normal_()
    return y * x


PROGRAMS = [
    assigned, masked, indexed, added, chained, filled, copied, a_view_is_changed,
    the_base_is_changed, another_view_is_changed, views_of_views, changed_twice, made_empty,
    functional, scattered, changed_by_itself, random_numbers,
]  # fmt: skip


def gradients(make, program, order):
    torch.manual_seed(0)
    x = make(torch.tensor([0.3, 0.7, 0.9], dtype=torch.float64))
    found = program(x * 1.5, x)
    result = [found]
    grad = tg.grad if isinstance(x, tg.Tensor) else torch.autograd.grad
    weights = torch.arange(1.0, found.numel() + 1, dtype=torch.float64).reshape(found.shape)
    value = (found**2 * weights).sum()
    for _ in range(order):
        (g,) = grad(value, [x], create_graph=True, allow_unused=True)
        result.append(g)
        value = (g * g).sum()
    return [r.as_torch() if isinstance(r, tg.Tensor) else r.detach() for r in result]


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_give_the_same_as_in_torch(program):
    expected = gradients(lambda t: t.requires_grad_(), program, 2)
    found = gradients(lambda t: tg.Tensor(t, requires_grad=True), program, 2)
    torch.testing.assert_close(found, expected)


def test_what_comes_from_split_may_be_changed():
    """PyTorch refuses this one."""
    x = tg.Tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = x * 2
    a, b = y.split([1, 2])
    b *= x[1]
    assert y.tolist() == [2, 8, 12] and a.tolist() == [2]
    y.sum().backward()
    assert x.grad.tolist() == [2, 2 * 2 + 2 * 5, 2 * 2]


def test_an_old_value_that_was_kept_is_missed():
    x = tg.Tensor([1.0, 2.0], requires_grad=True)
    y = x * 2
    z = y.exp()
    z.mul_(3)  # exp has kept its result
    with pytest.raises(errors.ChangedInPlaceError, match="torch.exp saved its result"):
        z.sum().backward()
    y = x * 2
    z = y * y
    y.add_(1)
    with pytest.raises(errors.ChangedInPlaceError, match="torch.mul saved"):
        z.sum().backward()


def test_leaves_and_their_views_are_not_changed():
    x = tg.Tensor([1.0, 2.0], requires_grad=True)
    row = x[0]
    for change in (
        lambda: x.add_(1),
        lambda: x.__setitem__(0, 5.0),
        lambda: x.__iadd__(1),
        lambda: row.mul_(2),
        lambda: x.view(1, 2)[0].zero_(),
        lambda: torch.relu_(x),
    ):
        with pytest.raises(errors.InPlaceError, match="leaf"):
            change()
    assert x.tolist() == [1, 2]
    with tg.no_grad():
        x.add_(1)
        x[0] = 7
    assert x.tolist() == [7, 3] and x.is_leaf and x.requires_grad
    assert row.item() == 7  # it shares memory


def test_a_tensor_without_history_gets_one():
    x = tg.Tensor([1.0, 2.0], requires_grad=True)
    out = tg.Tensor(torch.zeros(3))
    out[1:] = x * 3
    assert out.requires_grad and not out.is_leaf
    out.sum().backward()
    assert x.grad.tolist() == [3, 3]


def test_a_plain_torch_tensor_cannot_get_a_history():
    x = tg.Tensor([1.0, 2.0], requires_grad=True)
    plain = torch.zeros(2)
    with pytest.raises(errors.NoRuleError, match="wrap it first"):
        plain.add_(x)


def test_results_that_do_not_fit_are_refused():
    x = tg.Tensor([1.0, 2.0], requires_grad=True)
    y = x * 1
    with pytest.raises(RuntimeError, match=r"mul_.*\[3, 2\].*\[2\]"):
        y.mul_(torch.ones(3, 2))
    whole = tg.Tensor(torch.tensor([1, 2]))
    with pytest.raises(RuntimeError, match=r"add_.*float32.*int64"):
        whole.add_(x)
    assert y.tolist() == [1, 2] and whole.tolist() == [1, 2]


def test_nothing_is_recorded_where_nothing_is_wanted():
    y = tg.Tensor([1.0, 2.0])
    view = y[0]
    y.mul_(3)
    assert y.node is None and view.item() == 3 and view.node is None


def test_numbers_change_by_becoming_others():
    x = tg.Tensor(3.0, requires_grad=True)
    y = x * 2
    z = y
    y += 1
    assert (y.item(), z.item()) == (7.0, 6.0)
    y.backward()
    assert x.grad.item() == 2.0


@pytest.mark.parametrize("steps", [1, 50])
def test_a_state_that_is_written_step_by_step(steps):
    def run(x, zeros):
        state = zeros
        for t in range(steps):
            state[t + 1] = torch.tanh(state[t].clone() * x + 0.1 * t)
        return state.sum()

    x = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    run(x, torch.zeros(steps + 1, dtype=torch.float64)).backward()
    ours = tg.Tensor(x.detach(), requires_grad=True)
    run(ours, tg.Tensor(torch.zeros(steps + 1, dtype=torch.float64))).backward()
    torch.testing.assert_close(ours.grad.data, x.grad)


# Programs by which a review found wrong gradients; each with what PyTorch gives.


def same_as_in_torch(program):
    found, expected = [], []
    for make, grads in ((lambda t: tg.Tensor(t, requires_grad=True), found),
                        (lambda t: t.requires_grad_(), expected)):  # fmt: skip
        x = make(torch.arange(1.0, 7.0, dtype=torch.float64).reshape(2, 3))
        w = make(torch.arange(2.0, 8.0, dtype=torch.float64).reshape(3, 2))
        program(x, w).sum().backward()
        grads += [x.grad.as_torch() if isinstance(x, tg.Tensor) else x.grad]
    torch.testing.assert_close(found, expected)


def test_a_flat_view_of_what_is_transposed_later():
    def program(x, w):
        y = x * 2
        v = y.reshape(-1)
        v.mul_(3)
        return y.t() * w

    same_as_in_torch(program)


def test_the_imaginary_part_is_a_view():
    def program(x, w):
        z = torch.complex(x, x * 2)
        torch.imag(z).mul_(3)
        torch.view_as_real(z)[0].mul_(x[0, 0])
        return (z * (1 + 2j)).abs()

    same_as_in_torch(program)


def test_a_diagonal_that_is_filled():
    def program(x, w):
        y = x * 2
        y.fill_diagonal_(1.0)
        return y + x

    same_as_in_torch(program)


def test_a_base_of_parts_named_by_keywords():
    def program(x, w):
        y = x * 2
        parts = y.tensor_split(indices=(1,))
        y.mul_(x)
        return torch.cat(list(parts)) * 3

    same_as_in_torch(program)


def test_a_number_can_be_assigned():
    x, a = tg.Tensor([1.0, 2.0], requires_grad=True), tg.Tensor(3.0, requires_grad=True)
    y = x * 2
    y[0] = a
    (y * y).sum().backward()
    assert a.grad.item() == 6 and x.grad.tolist() == [0, 16]


def test_retained_gradients_go_along():
    x = tg.Tensor([1.0, 2.0], requires_grad=True)
    y = x * 2
    y.retain_grad()
    y.mul_(3)
    (y * y).sum().backward()
    assert y.grad.tolist() == [12, 24]


def test_a_detached_tensor_may_be_reshaped():
    x = tg.Tensor([1.0, 2.0], requires_grad=True)
    y = x * 2
    y.detach().unsqueeze_(0)
    assert y.shape == (2,)
    with pytest.raises(errors.InPlaceError, match="unsqueeze_ would change what a tensor is"):
        y.unsqueeze_(0)
    y.detach_()
    assert y.node is None


@pytest.mark.parametrize("grad", [True, False])
def test_functions_with_the_option_inplace_run_once(grad):
    with tg.set_grad_enabled(grad):
        for name in ("elu", "leaky_relu", "selu", "celu", "silu", "mish", "hardtanh", "relu6"):
            function = getattr(torch.nn.functional, name)
            x = torch.tensor([-1.5, 0.5, 7.0])
            ours = tg.Tensor(x.clone(), requires_grad=grad) * 1
            result = function(ours, inplace=True)
            assert result is ours
            torch.testing.assert_close(ours.data, function(x))
        torch.manual_seed(0)
        expected = torch.nn.functional.dropout(torch.ones(20), 0.5, inplace=True)
        torch.manual_seed(0)
        ours = tg.Tensor(torch.ones(20))
        assert torch.nn.functional.dropout(ours, 0.5, inplace=True) is ours
        torch.testing.assert_close(ours.data, expected)


def test_inside_vmap_nothing_is_changed():
    def program(row):
        h = row * 2
        h[0] = row[1]
        return h.sum()

    x = tg.Tensor(torch.ones(2, 3), requires_grad=True)
    with pytest.raises(errors.InPlaceError, match="inside vmap"):
        tg.func.vmap(program)(x)
