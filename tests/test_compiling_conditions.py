"""What decides over a function besides its arguments, and must not be overlooked.

In each test a program runs, then something changes that the function depends on, and the function
itself says what is right.
"""

import gc
import inspect
import math
import random
import threading
import warnings
import weakref
from collections import deque

import numpy as np
import pytest
import torch
import torch.nn.functional as F
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


def test_hooks_after_one_that_was_removed(interpreted):
    w = tg.Tensor([1.0, 2.0], requires_grad=True)
    w.register_hook(lambda g: g * 3).remove()
    fast = compiled(training(w), torch.ones(2))
    w.register_hook(lambda g: g * 10)
    fast(torch.ones(2))
    assert w.grad.tolist() == [10, 10]


class Term:
    def __init__(self, power):
        self.power = power


def test_fields_of_keys(interpreted):
    term = Term(1)
    terms = {term: torch.ones(2)}
    fast = compiled(lambda x: sum(w * x**t.power for t, w in terms.items()), torch.full((2,), 2.0))
    term.power = 3
    assert fast(torch.full((2,), 2.0)).tolist() == [8, 8]


class Config(dict):
    def __getitem__(self, key):
        value = super().__getitem__(key)
        return Config(value) if isinstance(value, dict) else value


def test_entries_that_a_dict_wraps(interpreted):
    config = Config(scale={"by": 2.0})
    fast = compiled(lambda x: x * config["scale"]["by"], torch.ones(2))
    (program,) = fast.programs
    admitted = len(program.conditions)
    fast(torch.ones(2))
    assert len(program.conditions) == admitted
    config["scale"] = {"by": 3.0}
    assert fast(torch.ones(2)).tolist() == [3, 3]


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


# ------------------------------------------- what only Python looks at, and not torch


class Bench:
    """A place for anything."""

    def __init__(self, **fields):
        vars(self).update(fields)


class Losses:
    @staticmethod
    def squared(x):
        return (x * x).sum() * FACTOR

    def __getitem__(self, i):
        return FACTOR

    def __call__(self, x):
        return x.sum() * FACTOR


LOSSES = Losses()
ONES = torch.ones(2)
CHANGES = {
    "length": ({"it": torch.ones(4, 2)}, lambda b, x: x / len(b.it), torch.ones(8, 2)),
    "dtype": ({"it": ONES}, lambda b, x: x.to(b.it.dtype), ONES.double()),
    "shape": ({"it": ONES}, lambda b, x: x.reshape(b.it.shape), torch.ones(2, 1)),
    "presence": ({"it": None}, lambda b, x: x if b.it is None else x * 3, ONES),
    "absence": ({"it": ONES}, lambda b, x: x if b.it is None else x * 3, None),
    "kind": ({"it": ONES}, lambda b, x: x * (1 + isinstance(b.it, tg.Tensor)), tg.Tensor(ONES)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_tensors_that_no_operator_uses(interpreted, change):
    fields, function, other = CHANGES[change]
    bench = Bench(**fields)
    fast = compiled(lambda x: function(bench, x), ONES)
    bench.it = other
    found, expected = fast(ONES), function(bench, ONES)
    assert (found.dtype, found.tolist()) == (expected.dtype, expected.tolist())


def test_a_tensor_that_begins_to_require_gradients(interpreted):
    w = tg.Tensor([1.0, 2.0])
    fast = compiled(lambda x: x * (2 + w.requires_grad), ONES)
    w.requires_grad_()
    assert fast(ONES).tolist() == [3, 3]


def test_whether_there_is_a_gradient(interpreted):
    w = tg.Tensor([1.0, 2.0], requires_grad=True)
    fast = compiled(lambda x: x * (2 if w.grad is None else 3), ONES)
    w.grad = tg.Tensor([1.0, 1.0])
    assert fast(ONES).tolist() == [3, 3]
    w.grad = None
    assert fast(ONES).tolist() == [2, 2]


def test_tensors_that_are_keys(interpreted):
    w = tg.Tensor([1.0, 2.0], requires_grad=True)
    factors = {w: 2.0}

    def train(x):
        for leaf, factor in factors.items():
            (leaf * x * factor).sum().backward()

    fast = compiled(train, ONES, calls=4)
    w.grad = None
    fast(ONES)
    assert w.grad.tolist() == [2, 2]


def test_what_is_kept_the_first_time(interpreted):
    bench = Bench(first=None)

    def function(x):
        if bench.first is None:
            bench.first = x.sum()
        return x * 2

    fast = tg.compile(function)
    for i in range(4):
        fast(torch.full((2,), float(i)))
    assert bench.first.item() == 0 and fast.programs
    bench.first = None
    fast(torch.full((2,), 9.0))
    assert bench.first.item() == 18


def test_fields_of_objects_that_are_arguments(interpreted):
    settings, dropout = Bench(scale=2.0), nn.Dropout(1.0)
    fast = compiled(lambda x, s, layer: layer(x) + s.scale, tg.Tensor(ONES), settings, dropout)
    settings.scale = 5.0
    assert fast(tg.Tensor(ONES), settings, dropout).tolist() == [5, 5]
    dropout.eval()
    assert fast(tg.Tensor(ONES), settings, dropout).tolist() == [6, 6]


@pytest.mark.parametrize("make", [lambda: np.float32(3), lambda: slice(0, 3), lambda: range(3)])
def test_arguments_that_are_equal_are_the_same(interpreted, monkeypatch, make):
    fast = compiled(lambda x, _value: x * 2, ONES, make())
    monkeypatch.setattr(fast, "_watched", None)
    assert fast(ONES, make()).tolist() == [2, 2]


def scaled(x):
    return x * scaled.factor


def test_attributes_of_functions(interpreted, monkeypatch):
    monkeypatch.setattr(scaled, "factor", 2.0, raising=False)
    fast = compiled(scaled, ONES)
    scaled.factor = 7.0
    assert fast(ONES).tolist() == [7, 7]


@pytest.mark.parametrize(
    "function",
    [lambda x: Losses.squared(x), lambda x: Losses()(x), lambda x: x * LOSSES[0]],
    ids=["static", "made inside", "special"],
)
def test_global_variables_of_other_methods(interpreted, monkeypatch, function):
    fast = compiled(function, ONES)
    monkeypatch.setitem(globals(), "FACTOR", 7.0)
    assert fast(ONES).tolist() == function(ONES).tolist()


def test_a_history_that_was_made_outside(interpreted):
    w = tg.Tensor([1.0, 1.0], requires_grad=True)
    embedded = w * torch.tensor([2.0, 2.0])

    def train(x):
        w.grad = None
        (embedded * x).sum().backward(retain_graph=True)

    fast = compiled(train, ONES)
    embedded = w * torch.tensor([3.0, 3.0])
    fast(ONES)
    assert w.grad.tolist() == [3, 3]


def test_histories_that_nobody_goes_back_through_do_not_count(interpreted, monkeypatch):
    w = tg.Tensor([1.0, 1.0], requires_grad=True)
    fast = compiled(lambda x: x.detach() * 2, w * 2)
    monkeypatch.setattr(fast, "_watched", None)
    assert fast(w * 3).tolist() == [6, 6]


# -------------------------------------------------------------------- what is refused


def test_gradients_through_the_history_of_an_argument():
    layer = nn.Linear(2, 1)
    fast = tg.compile(lambda h: (h * h).sum().backward())
    with pytest.raises(errors.CaptureError, match="through the history of an argument, .*outside"):
        fast(layer(torch.ones(3, 2)))


class Shared:
    weight = tg.Tensor([1.0, 1.0], requires_grad=True)


def test_gradients_of_tensors_that_are_not_found():
    fast = tg.compile(lambda x: (Shared.weight * x).sum().backward())
    with pytest.raises(errors.CaptureError, match=r"does not reach .*: tensor\(\[1., 1.\]\)"):
        fast(ONES)


def test_gradients_of_tensors_made_inside(interpreted):
    def slope(x):
        w = tg.Tensor(x, requires_grad=True)
        (w * w).sum().backward()
        return w.grad

    assert compiled(slope, ONES)(ONES).tolist() == [2, 2]


def test_queues_are_looked_through(interpreted):
    w = tg.Tensor([1.0, 1.0], requires_grad=True)
    layers, seen = deque([w]), deque([torch.zeros(2)] * 2, maxlen=2)

    def function(x):
        w.grad = None
        (layers[0] * x).sum().backward()
        seen.append(x * 2)

    fast = compiled(function, ONES)
    for i in range(4):
        fast(torch.full((2,), float(i)))
    assert w.grad.tolist() == [3, 3] and [t[0].item() for t in seen] == [4, 6]


def seeded(x):
    torch.manual_seed(0)
    return x + torch.rand(2)


def forked(x):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return x + torch.rand(2)


def recomputed(x):
    w = tg.Tensor(x, requires_grad=True)
    tg.checkpoint(lambda w: torch.nn.functional.dropout(w, 0.5), w).sum().backward()
    return w.grad


@pytest.mark.parametrize("function", [seeded, forked, recomputed])
def test_random_numbers_that_are_set_back(function):
    with pytest.raises(errors.CaptureError, match=r"\.py, line \d+: the state of torch's random"):
        tg.compile(function)(ONES)


def test_random_numbers_that_are_drawn_in_order(interpreted):
    def function(x):
        return F.dropout(x, 0.5) + torch.rand(100)

    fast = compiled(function, torch.ones(100), calls=2)
    torch.manual_seed(0)
    found = fast(torch.ones(100))
    torch.manual_seed(0)
    assert torch.equal(found, function(torch.ones(100)))


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


def test_programs_that_no_call_wants_any_more_are_forgotten(interpreted, monkeypatch):
    monkeypatch.setattr("tinygrad_ee559.compiling.compiled.PROGRAMS", 2)
    fast = tg.compile(lambda x: x * 2)
    for size in (1, 2, 3, 4):
        for _ in range(2):
            fast(torch.ones(size))
    assert len(fast.programs) == 2


def test_python_draws_the_same_random_numbers(own_cache):
    random.seed(0)
    before = random.getstate()
    compiled(lambda x: (x * 3.25).exp() + 1, ONES)
    assert random.getstate() == before


def test_signatures():
    def function(x, y=3):
        """What it does."""

    fast = tg.compile(function)
    assert inspect.signature(fast) == inspect.signature(function)
    assert (fast.__name__, fast.__doc__) == ("function", "What it does.")


# ---------------------------------------------------------------- what is nearly the same


@pytest.mark.parametrize(
    "wrap", [lambda v: v, lambda v: (v, 1.0), np.float32, lambda v: complex(v, 1)]
)
def test_the_sign_of_zero(interpreted, wrap):
    settings = {"value": wrap(0.0)}

    def function(x):
        value = settings["value"]
        return x * math.copysign(1.0, value[0] if isinstance(value, tuple) else value.real)

    fast = compiled(function, torch.ones(2))
    settings["value"] = wrap(-0.0)
    assert fast(torch.ones(2)).tolist() == [-1, -1]


def test_nan_is_nan(interpreted):
    settings, runs = {"best": math.nan}, set()

    def function(x, start):
        runs.add(len(runs))  # which no search for state looks at
        return x * 2 if settings["best"] else x * start

    fast = compiled(function, torch.ones(2), math.nan)
    before = len(runs)
    settings["best"] = float("nan")
    fast(torch.ones(2), float("nan"))
    assert len(runs) == before


def test_empty_slots_and_none(interpreted):
    class Slotted:
        __slots__ = ("kept",)

    holder = Slotted()
    fast = compiled(lambda x: x * 2 if hasattr(holder, "kept") else x, torch.ones(2))
    holder.kept = None
    assert fast(torch.ones(2)).tolist() == [2, 2]
    del holder.kept
    assert fast(torch.ones(2)).tolist() == [1, 1]


class Described:
    def __init__(self):
        self.kind = "double"

    def __str__(self):
        return self.kind

    def __repr__(self):
        return self.kind

    def __format__(self, spec):
        return self.kind


TEXT = "%s"
FUNCTIONS = {"double": lambda x: x * 2, "triple": lambda x: x * 3}


@pytest.mark.parametrize(
    "word",
    [
        str, repr, lambda mode: f"{mode}", lambda mode: f"{mode!r}", lambda mode: TEXT % mode,
        lambda mode: "{}".format(mode), lambda mode: mode.__str__(),  # noqa: UP032
    ],
)  # fmt: skip
def test_words_for_objects(interpreted, word):
    mode = Described()

    def function(x):
        return FUNCTIONS[word(mode)](x)

    fast = compiled(function, torch.ones(2))
    mode.kind = "triple"
    assert fast(torch.ones(2)).tolist() == [3, 3]


def test_words_in_errors_do_not_count(interpreted):
    """Else what an object says of itself would."""
    runs = set()

    class Trainer:
        def __init__(self):
            self.seen = 0

        def __repr__(self):
            return f"a trainer that has seen {self.seen}"

        def step(self, x):
            runs.add(len(runs))
            if len(x) != 2:
                raise ValueError(f"this is no pair: {x.shape}")
            return x * 2

    trainer = Trainer()
    fast = compiled(trainer.step, torch.ones(2))
    before = len(runs)
    for _ in range(5):
        trainer.seen += 1
        fast(torch.ones(2))
    assert len(runs) == before


class Settings(dict):
    def get(self, path):
        raise LookupError(path)


def test_dicts_with_methods_of_their_own(interpreted):
    settings = Settings(factor=2.0)
    fast = compiled(lambda x: x * settings["factor"], torch.ones(2))
    settings["factor"] = 3.0
    assert fast(torch.ones(2)).tolist() == [3, 3]


def test_evaluating_batch_normalization_changes_nothing(own_cache):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU()).eval()
    x = torch.randn(5, 3)
    predict = compiled(lambda x: model(x).detach(), x)
    loss = model(x).sum()
    version = model[1].running_mean.data._version
    predict(x)
    assert model[1].running_mean.data._version == version
    loss.backward()  # which looks at what it has saved


def test_models_in_turn(interpreted):
    """Each of which is changed by its first step alone."""
    models = [nn.Linear(3, 2) for _ in range(6)]
    optimizers = [optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in models]
    now = {}

    def step(x):
        now["optimizer"].zero_grad()
        loss = now["model"](x).square().mean()
        loss.backward()
        now["optimizer"].step()
        return loss

    fast = tg.compile(step)
    for i in range(24):
        now["model"], now["optimizer"] = models[i % 6], optimizers[i % 6]
        fast(torch.ones(4, 3))
    assert len(fast.programs) == 6
