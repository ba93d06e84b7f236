"""What decides over a function besides its arguments, and must not be overlooked.

In each test a program runs, then something changes that the function depends on, and the function
itself says what is right.
"""

import copy
import gc
import threading
import warnings
import weakref

import numpy as np
import pytest
import torch
from steps import close, interpreted, own_cache

import tinygrad_ee559 as tg
from tinygrad_ee559 import errors, nn, optim

__all__ = ["interpreted", "own_cache"]

FACTOR = 2.0
WEIGHT = tg.Tensor([1.0, 2.0], requires_grad=True)
step = 0  # a global variable by the name of a method that functions call


class Scaled(nn.Module):
    def forward(self, x):
        return self.scale(x) * WEIGHT

    def scale(self, x):
        return x * FACTOR

    def never_called(self, x):
        return x * step


def compiled(function, *args, calls=3):
    """The function as a program that has run."""
    fast = tg.compile(function)
    for _ in range(calls):
        fast(*args)
    assert len(fast.programs) == 1
    return fast


def training(leaf, function=lambda w, x: w * x):
    def train(x):
        leaf.grad = None
        loss = function(leaf, x).sum()
        loss.backward()
        return loss

    return train


# ------------------------------------------------------------ where functions keep state


def test_global_variables_of_methods_that_are_called(interpreted, monkeypatch):
    model = Scaled()
    fast = compiled(lambda x: model(x).detach(), torch.ones(2))
    monkeypatch.setitem(globals(), "FACTOR", 7.0)
    assert fast(torch.ones(2)).tolist() == [7, 14]
    assert len(fast.programs) == 1
    fast(torch.ones(2))
    assert len(fast.programs) == 2


def test_gradients_of_global_variables_of_methods(interpreted):
    model = Scaled()

    def train(x):
        loss = model(x).sum()
        loss.backward()
        return loss

    fast = tg.compile(train)
    for i in range(6):
        WEIGHT.grad = None
        fast(torch.full((2,), float(i)))
        assert WEIGHT.grad.tolist() == [2 * i, 2 * i]
    assert len(fast.programs) == 1


def test_global_variables_by_the_name_of_a_method_are_not_read(interpreted, monkeypatch):
    model = nn.Linear(2, 1)
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    def train(x):
        optimizer.zero_grad()
        loss = model(x).sum()
        loss.backward()
        optimizer.step()
        return loss

    fast = compiled(train, torch.ones(1, 2))
    monkeypatch.setattr(fast, "_watched", None)  # so that only a program can run
    for i in range(3):
        monkeypatch.setitem(globals(), "step", i)
        fast(torch.ones(1, 2))


def test_defaults_of_parameters(interpreted):
    w = tg.Tensor([1.0, 2.0], requires_grad=True)
    kept = nn.Module()
    kept.factor = 2.0

    def train(x, w=w, *, kept=kept):
        w.grad = None
        loss = (w * x * kept.factor).sum()
        loss.backward()
        return loss

    fast = compiled(train, torch.ones(2))
    fast(torch.full((2,), 3.0))
    assert w.grad.tolist() == [6, 6]
    kept.factor = 5.0
    fast(torch.ones(2))
    assert w.grad.tolist() == [5, 5]


def test_a_number_replaced_by_a_tensor(interpreted):
    for other in (torch.tensor([1.0, 2.0]), tg.Tensor([1.0, 2.0])):
        holder = nn.Module()
        holder.factor = 3.0
        fast = compiled(lambda x, holder=holder: x * holder.factor, torch.ones(2))
        holder.factor = other
        assert fast(torch.ones(2)).tolist() == [1, 2]


def test_what_compiled_functions_keep_is_no_state(interpreted, monkeypatch):
    w = torch.ones(2)
    inner = compiled(lambda x: x * w, torch.ones(2))
    outer = compiled(lambda x: inner(x) + 1, torch.ones(2))
    for _ in range(3):
        inner(torch.ones(3, 2))
    assert len(inner.programs) == 2
    monkeypatch.setattr(outer, "_watched", None)  # so that only a program can run
    w = torch.full((2,), 5.0)
    assert outer(torch.ones(2)).tolist() == [6, 6]


# ------------------------------------------------------------ what decides beside state


def test_hooks_of_leaves(interpreted):
    w = tg.Tensor([1.0, 2.0], requires_grad=True)
    fast = compiled(training(w), torch.ones(2))
    handle = w.register_hook(lambda g: g * 10)
    fast(torch.ones(2))
    assert w.grad.tolist() == [10, 10]
    handle.remove()
    fast(torch.ones(2))
    assert w.grad.tolist() == [1, 1]


def test_rules_that_stand_in_for_others(interpreted):
    w = tg.Tensor([1.0, 2.0], requires_grad=True)
    fast = compiled(training(w, lambda w, x: torch.relu(w * x)), torch.ones(2))
    for formula, right in ((lambda g, _y, _x: g * 5, 5), (lambda g, _y, _x: g * 7, 7)):
        with tg.override_rule(torch.relu, formula):
            fast(torch.ones(2))
            assert w.grad.tolist() == [right, right]


def test_autocast(interpreted):
    w = torch.ones(3, 3)
    x = torch.ones(3, 3)
    with torch.autocast("cpu"):
        fast = compiled(lambda x: x @ w, x)
        assert fast(x).dtype == torch.bfloat16
    assert fast(x).dtype == torch.float32


@pytest.fixture
def default_double():
    def switch():
        torch.set_default_dtype(torch.float64)

    yield switch
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("function", [lambda n: n / 2, lambda n: torch.ones(3) * n])
def test_the_default_dtype(own_cache, default_double, function):
    n = torch.arange(3)
    fast = compiled(function, n)
    assert fast(n).dtype == torch.float32
    default_double()
    for again in (fast, tg.compile(function)):  # the second would take the first's from disk
        for _ in range(4):
            assert again(n).dtype == torch.float64


def test_numbers_that_torch_negates_when_they_are_read(own_cache):
    z = torch.tensor([1 + 1j, 2 + 2j])
    fast = compiled(lambda x: x * 2, z.imag)
    assert fast(z.conj().imag).tolist() == [-2, -4]


def test_tensors_of_both_kinds(interpreted):
    fast = compiled(lambda x: x * 2, torch.ones(2))
    assert type(fast(torch.ones(2))) is torch.Tensor
    assert type(fast(tg.Tensor(torch.ones(2)))) is tg.Tensor


def test_arguments_that_share_memory_only_now(interpreted):
    def function(a, b):
        a.add_(1)
        return a * b

    fast = tg.compile(function)
    for _ in range(4):
        fast(torch.zeros(2), torch.ones(2))
    assert len(fast.programs) == 1
    one, three = torch.ones(2), torch.ones(3)
    assert fast(one[:], one[:]).tolist() == [4, 4]
    assert fast(three[:2], three[1:]).tolist() == [4, 2]


def test_arguments_that_share_memory_with_a_parameter(interpreted):
    w = torch.ones(2)

    def function(x):
        w.add_(1)
        return w * x

    fast = compiled(function, torch.ones(2))
    w.fill_(1)
    assert fast(w.data).tolist() == [4, 4]


# -------------------------------------------------------------------- what is refused


def test_arguments_that_hold_tensors():
    model = nn.Linear(2, 1)
    with pytest.raises(errors.CaptureError, match="not a Linear; .* the function itself hold"):
        tg.compile(lambda model, x: model(x).detach())(model, torch.ones(1, 2))
    with pytest.raises(errors.CaptureError, match="not a ndarray; make an array a tensor"):
        tg.compile(lambda x: torch.as_tensor(x) * 2)(np.ones(2))


def test_arguments_of_torch_autograd(interpreted):
    fast = compiled(lambda x: x * 2, torch.ones(2))
    with pytest.raises(errors.MixedGraphError, match=r"shape \[2\], that requires gradients of to"):
        fast(torch.ones(2, requires_grad=True))


def test_side_effects_are_refused_in_every_call():
    calls = []
    fast = tg.compile(lambda x: calls.append(x.shape) or x * 2)
    for _ in range(3):
        fast(torch.ones(1))
    for _ in range(3):
        with pytest.raises(errors.CaptureError, match="changes more than tensors"):
            fast(torch.ones(1))


# ---------------------------------------------------------------------------- the rest


@pytest.mark.usefixtures("own_cache")
def test_functions_that_compile_at_the_same_time():
    """Tracing and compiling patch parts of torch, which are all threads'."""
    count = 4
    found = [[] for _ in range(count)]
    together = threading.Barrier(count)

    def work(i):
        function = eval(f"lambda x: (x * {i + 2}).sin().sum(0)")
        fast = tg.compile(function)
        x = torch.randn(5 + i, 3 + i)
        together.wait()
        for _ in range(4):
            found[i].append((fast(x), function(x)))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for results in found:
        assert len(results) == 4
        for ours, theirs in results:
            close([ours], [theirs])


def test_runs_of_which_no_two_did_the_same_are_forgotten():
    holder = nn.Module()
    fast = tg.compile(lambda x: (x * holder.factor).sum())
    batches = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i in range(20):
            holder.factor = float(i)
            x = torch.ones(3)
            batches.append(weakref.ref(x))
            fast(x)
    del x
    gc.collect()
    assert [batch() for batch in batches] == [None] * 20


@pytest.mark.usefixtures("own_cache")
def test_functions_that_compute_nothing():
    x = torch.ones(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nothing, same = tg.compile(lambda x: None), tg.compile(lambda x: x)
        for _ in range(4):
            assert nothing(x) is None
            assert same(x) is x


def test_loops_inside_a_compiled_function(interpreted):
    total = torch.zeros(1)

    def gather(x):
        total.add_(x)

    inner = tg.compile(gather)
    inner.loop(torch.ones(4, 1))
    outer = tg.compile(lambda xs: inner.loop(xs))
    for i in range(4):
        outer(torch.ones(2, 1))
        assert total.item() == 4 + 2 * (i + 1)
    assert len(outer.programs) == 1


def test_ensembles_inside_a_compiled_function(interpreted):
    totals = torch.zeros(1), torch.zeros(1)
    steps = [lambda x, total=total: total.add_(x) * 1 for total in totals]
    ensemble = tg.ensemble(steps)
    for _ in range(3):
        ensemble(torch.ones(2, 1))
    outer = tg.compile(lambda x: ensemble(x))
    for i in range(4):
        assert outer(torch.ones(2, 1)).tolist() == [[4.0 + i]] * 2
    assert len(outer.programs) == 1


class Trainer:
    def __init__(self, rate):
        self.weight = torch.zeros(2)
        self.rate = rate

    @tg.compile
    def step(self, x):
        """One step."""
        self.weight.sub_(self.rate * x)
        return self.weight.sum()


def test_methods(interpreted):
    one, two = Trainer(1.0), Trainer(2.0)
    for _ in range(4):
        one.step(torch.ones(2))
        two.step(torch.ones(2))
    assert one.weight.tolist() == [-4, -4] and two.weight.tolist() == [-8, -8]
    assert len(one.step.programs) == len(two.step.programs) == 1
    assert Trainer.step.__doc__ == "One step."
    three = copy.deepcopy(two)
    three.step(torch.ones(2))
    assert two.weight.tolist() == [-8, -8] and three.weight.tolist() == [-10, -10]
