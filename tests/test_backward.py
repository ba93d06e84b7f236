"""`backward` and `grad`: PyTorch's meaning and PyTorch's errors."""

import gc
import threading
import warnings
import weakref

import pytest
import torch

import tinygrad_ee559 as tg
from tinygrad_ee559 import errors


def leaf(*values):
    return tg.Tensor(list(values), dtype=torch.float64, requires_grad=True)


def test_gradients_accumulate_in_leaves():
    x = leaf(1.0, 2.0)
    (x * x).sum().backward()
    kept = x.grad
    (x * 3).sum().backward()
    assert x.grad.tolist() == [5, 7]
    assert x.grad is kept  # in place, as in PyTorch


def test_diamonds_and_shared_parts_are_summed_once_each():
    x = leaf(2.0)
    shared = x.exp()
    y = shared * shared + shared
    (y + y * shared).sum().backward()
    t = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    s = t.exp()
    ty = s * s + s
    (ty + ty * s).sum().backward()
    torch.testing.assert_close(x.grad.data, t.grad)


def test_a_function_runs_its_formula_once_however_often_its_result_is_used():
    calls = []

    def formula(g, _y, x):
        calls.append(1)
        return 2 * g * x

    square = tg.rule(lambda x: x * x, formula)
    x = leaf(3.0)
    y = square(x)
    (y + y * y + y.exp()).sum().backward()
    assert len(calls) == 1


def test_a_result_with_several_elements_needs_a_gradient():
    x = leaf(1.0, 2.0)
    with pytest.raises(errors.GradientShapeError, match=r"one element.*\(2,\)"):
        (x * x).backward()
    with pytest.raises(errors.GradientShapeError, match=r"shape \(3,\).*\(2,\)"):
        (x * x).backward(torch.ones(3))
    (x * x).backward(torch.tensor([1.0, 10.0], dtype=torch.float64))
    assert x.grad.tolist() == [2, 40]


def test_a_graph_is_freed_by_its_first_use():
    x = leaf(1.0, 2.0)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    with pytest.raises(errors.FreedGraphError, match=r"torch\.mul.*retain_graph=True"):
        y.backward()
    assert x.grad.tolist() == [4, 8]


def test_a_graph_of_numbers_is_freed_too():
    x = tg.Tensor(3.0, requires_grad=True)
    y = x * x
    y.backward()
    with pytest.raises(errors.FreedGraphError, match="retain_graph=True"):
        y.backward()


def test_a_graph_that_saved_nothing_can_be_used_again_as_in_pytorch():
    x = leaf(1.0)
    y = (x + 1).sum()
    y.backward()
    y.backward()
    assert x.grad.tolist() == [2]


def test_saved_values_are_given_back():
    x = leaf(1.0, 2.0)
    y = x.exp()
    saved = weakref.ref(y.data)
    z = (y * 2).sum()
    del y
    assert saved() is not None
    z.backward()
    assert saved() is None


def test_what_no_formula_needs_is_not_kept():
    x = leaf(1.0, 2.0)
    y = x * 2
    value = weakref.ref(y.data)
    z = y + 1
    del y
    assert value() is None
    z.sum().backward()


def test_only_what_the_wanted_gradients_need_is_kept():
    weight = leaf(1.0, 2.0)
    data = tg.Tensor(torch.ones(2, dtype=torch.float64))
    y = weight * data  # the gradient of weight needs data, and nobody needs weight
    with tg.no_grad():
        weight.mul_(5)
    y.sum().backward()
    assert weight.grad.tolist() == [1, 1]


def test_grad_leaves_the_leaves_alone():
    x, w = leaf(1.0, 2.0), leaf(3.0, 4.0)
    y = (x * w).sum()
    gx, gw = tg.grad(y, [x, w])
    assert gx.tolist() == [3, 4] and gw.tolist() == [1, 2]
    assert x.grad is None and w.grad is None


def test_grad_with_respect_to_intermediate_tensors():
    x = leaf(2.0)
    y = x * x
    z = y.exp()
    gy, gx = tg.grad(z.sum(), [y, x])
    torch.testing.assert_close(gy.data, torch.tensor([4.0], dtype=torch.float64).exp())
    torch.testing.assert_close(gx.data, 4 * gy.data)


def test_grad_computes_only_what_it_was_asked_for():
    def fail(_g, _y, _a, _b):
        raise AssertionError("nobody asked for this gradient")

    costly = tg.rule(lambda a, b: a * b, lambda g, _y, _a, b: g * b, fail)
    x, w = leaf(1.0), leaf(2.0)
    costly_x, other = costly(x, w), w * w
    (gx,) = tg.grad((costly_x + other).sum(), x)
    assert gx.tolist() == [2]


def test_unused_inputs():
    x, unused = leaf(1.0), leaf(1.0)
    y = (x * x).sum()
    with pytest.raises(errors.UnusedInputError, match="input 1.*allow_unused=True"):
        tg.grad(y, [x, unused], retain_graph=True)
    gx, gu = tg.grad(y, [x, unused], allow_unused=True)
    assert gx.tolist() == [2] and gu is None


def test_several_outputs_with_gradients_of_their_own():
    x = leaf(1.0, 2.0)
    a, b = x * x, x * 3
    (g,) = tg.grad([a, b], x, [torch.ones(2, dtype=torch.float64)] * 2)
    assert g.tolist() == [5, 7]


def test_backward_into_chosen_inputs():
    x, w = leaf(1.0), leaf(2.0)
    (x * w).sum().backward(inputs=[w])
    assert x.grad is None and w.grad.tolist() == [1]


def test_backward_into_chosen_numbers():
    x, w = tg.Tensor(2.0, requires_grad=True), tg.Tensor(3.0, requires_grad=True)
    called = []
    x.register_hook(called.append)
    (x * w).backward(inputs=w)
    assert x.grad is None and not called and w.grad.item() == 2


@pytest.mark.parametrize("value", [2.0, torch.tensor([2.0])], ids=["number", "tensor"])
def test_backward_into_what_was_computed(value):
    x = tg.Tensor(value, requires_grad=True)
    y = x * x
    (y * 3).backward(inputs=[y], retain_graph=True)
    assert y.grad.item() == 3 and x.grad is None
    (y * 3).backward(inputs=[y, x])
    assert y.grad.item() == 6 and x.grad.item() == 12


def test_gradients_of_gradients_to_any_order():
    x = leaf(0.3)
    t = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    y, ty = torch.tanh(x) * x, torch.tanh(t) * t
    for _ in range(5):
        (y,) = tg.grad(y.sum(), x, create_graph=True)
        (ty,) = torch.autograd.grad(ty.sum(), t, create_graph=True)
        torch.testing.assert_close(y.data, ty.detach(), rtol=1e-10, atol=1e-10)


def test_backward_with_create_graph_gives_gradients_with_a_history():
    x = leaf(2.0)
    (x**3).sum().backward(create_graph=True)
    assert x.grad.tolist() == [12] and x.grad.requires_grad
    x.grad.sum().backward()
    assert x.grad.tolist() == [12 + 12]


@pytest.mark.parametrize("wrap", ["context", "decorator"])
def test_recording_can_be_switched_off(wrap):
    x = leaf(1.0)
    if wrap == "context":
        with tg.no_grad():
            y = x * 2
            with tg.enable_grad():
                z = x * 2
    else:
        y = tg.no_grad()(lambda: x * 2)()
        z = tg.no_grad()(tg.enable_grad()(lambda: x * 2))()
    assert not y.requires_grad and z.requires_grad
    with tg.set_grad_enabled(False):
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad


def test_hooks_see_and_change_gradients():
    x = leaf(1.0, 2.0)
    y = x * 3
    seen = []
    y.register_hook(lambda g: seen.append(g.tolist()))
    handle = y.register_hook(lambda g: g * 10)
    x.register_hook(lambda g: g + 1)
    y.sum().backward(retain_graph=True)
    assert seen == [[1, 1]] and x.grad.tolist() == [31, 31]
    handle.remove()
    handle.remove()
    y.sum().backward()
    assert x.grad.tolist() == [31 + 4, 31 + 4]


def test_a_hook_that_is_there_twice_is_taken_away_once():
    x = leaf(1.0)
    double = lambda g: g * 2  # noqa: E731
    handle, _ = x.register_hook(double), x.register_hook(double)
    handle.remove()
    handle.remove()
    x.sum().backward()
    assert x.grad.tolist() == [2]


def test_a_hook_must_keep_the_shape():
    x = leaf(1.0, 2.0)
    x.register_hook(lambda g: g.sum())
    with pytest.raises(errors.GradientShapeError, match="hook"):
        (x * 1).sum().backward()
    assert x.grad is None


def test_retained_gradients():
    x = tg.Tensor(2.0, requires_grad=True)
    y = x * x
    y.retain_grad()
    y.retain_grad()
    (y * 3).backward()
    assert y.grad.data == 3.0 and x.grad.data == 12.0
    z = leaf(1.0, 2.0) * 2
    z.retain_grad()
    (z * z).sum().backward()
    assert z.grad.tolist() == [4, 8]


def test_what_requires_no_gradient_has_no_backward():
    with pytest.raises(errors.NotDifferentiableError, match="requires_grad=True"):
        tg.Tensor([1.0]).sum().backward()
    with pytest.raises(errors.NotDifferentiableError, match="hook"):
        tg.Tensor([1.0]).register_hook(print)
    with pytest.raises(errors.NotDifferentiableError):
        tg.Tensor([1.0]).retain_grad()
    with pytest.raises(errors.NotDifferentiableError, match="inputs"):
        tg.grad(leaf(1.0).sum(), tg.Tensor([1.0]))


@pytest.mark.parametrize("value", [1, True, [1, 2], [True]])
def test_integers_and_booleans_cannot_require_gradients(value):
    with pytest.raises(errors.GradientDtypeError, match="floating-point"):
        tg.Tensor(value, requires_grad=True)
    with pytest.raises(errors.GradientDtypeError):
        tg.Tensor(value).requires_grad_()


def test_only_leaves_can_stop_requiring_gradients():
    x = leaf(1.0)
    y = x * 2
    with pytest.raises(errors.NotDifferentiableError, match="detach"):
        y.requires_grad = False
    x.requires_grad = False
    assert not x.requires_grad and x.is_leaf and not y.is_leaf
    assert not y.detach().requires_grad


@pytest.mark.parametrize(
    ("name", "expression", "saved"),
    [
        ("operand", lambda y: y * y, "torch.mul saved"),
        ("result", lambda y: y.exp(), "torch.exp saved its result"),
    ],
)
def test_a_saved_value_changed_in_place_is_named(name, expression, saved):
    x = leaf(1.0, 2.0)
    y = x + 0
    z = expression(y)
    (y if name == "operand" else z).data.add_(1)
    with pytest.raises(errors.ChangedInPlaceError, match=rf"{saved}.*\[2\].*version 1, saved at 0"):
        z.sum().backward()
    assert x.grad is None


def test_changing_what_was_not_saved_is_fine():
    x = leaf(1.0, 2.0)
    y = x + 1
    z = (y * 2).sum()
    y.data.add_(1)
    z.backward()
    assert x.grad.tolist() == [2, 2]


def test_a_failed_backward_leaves_no_part_of_a_gradient():
    def fail(_g, _y, _x):
        raise ValueError("deliberate")

    broken = tg.rule(lambda x: x.clone(), fail)
    x, w = leaf(1.0), leaf(2.0)
    y = broken(x) + w * w
    with pytest.raises(ValueError, match="deliberate"):
        y.sum().backward()
    assert x.grad is None and w.grad is None


def test_gradients_do_not_share_memory():
    a, b, start = leaf(1.0, 2.0), leaf(3.0, 4.0), torch.ones(2, dtype=torch.float64)
    (a + b).backward(start)
    a.grad.data.add_(100)
    assert b.grad.tolist() == [1, 1] and start.tolist() == [1, 1]
    c, d = leaf(1.0, 2.0), leaf(3.0, 4.0)
    (c.reshape(2, 1) + d.reshape(2, 1)).sum().backward()
    c.grad.data.add_(100)
    assert d.grad.tolist() == [1, 1]


def test_a_gradient_that_nobody_else_holds_is_not_copied():
    addresses = []

    def formula(g, _y, _x):
        made = g * 2
        addresses.append(made.data_ptr())
        return made

    double = tg.rule(lambda x: x * 2, formula)
    x = leaf(1.0, 2.0)
    double(x).sum().backward()
    assert x.grad.data.data_ptr() == addresses[0]


def test_gradients_have_the_dtype_and_shape_of_their_leaf():
    x = tg.Tensor(torch.ones(3), requires_grad=True)
    w = leaf(1.0, 2.0, 3.0)
    column = tg.Tensor(torch.ones(2, 1), requires_grad=True)
    (x * w + column).sum().backward()
    assert x.grad.dtype == torch.float32 and w.grad.dtype == torch.float64
    assert column.grad.shape == (2, 1) and column.grad.tolist() == [[3], [3]]


def test_two_threads_do_not_see_each_other():
    shared = leaf(1.0, 2.0)
    results, modes = {}, {}
    barrier = threading.Barrier(4)

    def work(k):
        barrier.wait()
        if k % 2:
            torch.set_grad_enabled(False)
        modes[k] = (shared * 2).requires_grad
        torch.set_grad_enabled(True)
        for _ in range(50):
            y = shared
            for _ in range(20):
                y = torch.sin(y) * (k + 1)
            (results[k],) = tg.grad(y.sum(), shared)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert modes == {0: True, 1: False, 2: True, 3: False}
    for k in range(4):
        t = shared.data.clone().requires_grad_()
        y = t
        for _ in range(20):
            y = torch.sin(y) * (k + 1)
        torch.testing.assert_close(results[k].data, torch.autograd.grad(y.sum(), t)[0])


def test_two_threads_can_go_back_through_one_graph():
    x = leaf(0.5)
    y = x
    for _ in range(200):
        y = torch.sin(y) + y * 0.5
    y = y.sum()
    (expected,) = tg.grad(y, x, retain_graph=True)
    found = []

    def work():
        for _ in range(10):
            found.extend(tg.grad(y, x, retain_graph=True))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(g.data, expected.data) for g in found)


@pytest.mark.parametrize("kind", ["number", "tensor"])
def test_a_chain_of_a_million_operations(kind):
    x = tg.Tensor(1.0 if kind == "number" else torch.tensor(1.0, dtype=torch.float64))
    x.requires_grad_()
    y = x
    for _ in range(500_000 if kind == "number" else 50_000):
        y = y * 1.000001
        y = y + 1e-9
    y.backward()
    count = 500_000 if kind == "number" else 50_000
    assert x.grad.item() == pytest.approx(1.000001**count, rel=1e-6)
    last = weakref.ref(y)
    del y
    assert last() is None


def test_memory_is_given_back_without_the_garbage_collector():
    gc.collect()
    gc.disable()
    try:
        x = leaf(1.0, 2.0)
        y = (x.exp() * x).sum()
        kept = [weakref.ref(y), weakref.ref(x)]
        y.backward()
        del x, y
        assert [ref() for ref in kept] == [None, None]
    finally:
        gc.enable()


def test_a_torch_tensor_with_gradients_of_its_own_is_refused():
    x = leaf(1.0)
    with pytest.raises(errors.MixedGraphError, match="detach"):
        x * torch.ones(1, dtype=torch.float64, requires_grad=True)


# ------------------------------------------------------------------------- autocast


def under_autocast(library, function, order, create_graph=False):
    """Gradients through what autocast computes with half the bits; `backward()` is called outside
    of it, as PyTorch recommends, or inside."""
    generator = torch.Generator().manual_seed(2)
    made = [torch.randn(*shape, generator=generator) for shape in ((5, 3), (4, 3), (4,))]
    wrap = tg.Tensor if library is tg else torch.Tensor.clone
    x, w, b = (wrap(t).requires_grad_() for t in made)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = function(x, w, b)
        loss = result.float().square().mean()
        if order == "inside":
            loss.backward(create_graph=create_graph)
    if order == "outside":
        loss.backward(create_graph=create_graph)
    if create_graph:
        total = (x.grad.square().sum() + w.grad.square().sum()).detach()
        assert x.grad.requires_grad
        return [total]
    assert x.grad.dtype == torch.float32
    grads = [x.grad, torch.zeros(()) if w.grad is None else w.grad]
    return [result.detach(), *grads]


LABELS = torch.tensor([0, 1, 2, 3, 1])
FROZEN = torch.nn.Parameter(torch.linspace(-1, 1, 8).view(2, 4), requires_grad=False)


@pytest.mark.parametrize("order", ["outside", "inside"])
@pytest.mark.parametrize(
    "function",
    [
        torch.nn.functional.linear,
        lambda x, w, b: x @ w.T + b,
        lambda x, w, b: torch.bmm(x[None], w.T[None]) * b,
        lambda x, w, b: torch.relu(torch.nn.functional.linear(x, w, b)) @ w,
        lambda x, w, b: torch.addmm(b, x, w.T).softmax(-1),
        lambda x, w, b: torch.einsum("ij,kj->ik", x, w) + b,
        lambda x, w, b: torch.nn.functional.cross_entropy(x @ w.T, LABELS),
        lambda x, w, b: torch.nn.functional.nll_loss((x @ w.T).log_softmax(-1), LABELS),
        lambda x, w, b: torch.nn.functional.nll_loss(
            (x @ w.T).log_softmax(-1), LABELS, torch.ones(4, dtype=torch.bfloat16)
        ),
        lambda x, w, b: torch.stack([x, x]) @ w.T,
        lambda x, w, b: x @ torch.stack([w, w]).mT,
        lambda x, w, b: torch.nn.functional.linear(x @ w.T, FROZEN),
        lambda x, w, b: torch.nn.functional.bilinear(x, x, w.reshape(1, 4, 3)[:, :3]),
        lambda x, w, b: torch.cdist(x.bfloat16(), w.bfloat16()),
        lambda x, w, b: torch.linalg.lstsq(x.bfloat16(), (w @ x.T).T.bfloat16()).solution,
    ],
    ids=[
        "linear", "matmul", "bmm", "twice", "addmm", "einsum", "cross_entropy", "nll_loss",
        "nll_loss with weights", "batches on the left", "batches on the right",
        "a frozen parameter of torch's", "bilinear", "cdist", "lstsq",
    ],
)
def test_autocast(function, order):
    found, expected = (under_autocast(library, function, order) for library in (tg, torch))
    for ours, theirs in zip(found, expected):  # where `w` is used twice, we add more exactly
        assert torch.allclose(ours.data, theirs, rtol=1e-2, atol=1e-2)


def test_gradients_of_gradients_under_autocast():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, of cycles
        found, expected = (
            under_autocast(library, torch.nn.functional.linear, "outside", create_graph=True)
            for library in (tg, torch)
        )
    assert found[0].item() == pytest.approx(expected[0].item(), rel=1e-2)
