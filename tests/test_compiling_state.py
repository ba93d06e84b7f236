"""What belongs to the state of a function, and what does not and may change without a word.

In each test a program runs, then something changes, and the function itself says what is right.
"""

import dataclasses
import functools
import importlib
import operator
import sys
import weakref
from unittest.mock import patch

import numpy as np
import pytest
import torch
from steps import close, interpreted, own_cache

import tinygrad_ee559 as tg
from tinygrad_ee559 import nn, optim
from tinygrad_ee559.compiling.runs import Runs
from tinygrad_ee559.errors import CaptureError

__all__ = ["interpreted", "own_cache"]

ONES = torch.ones(2)


def compiled(function, *args):
    """The function as a program that has run."""
    fast = tg.compile(function)
    for _ in range(3):
        fast(*args)
    assert len(fast.programs) == 1
    return fast


def watched(function):
    """How many runs of compiled functions are watched while a function runs."""
    with patch.object(Runs, "run", autospec=True, side_effect=Runs.run) as run:
        function()
    return run.call_count


class Holder:
    """Has the fields that it is given."""

    def __init__(self, **fields):
        vars(self).update(fields)


# ------------------------------------------------------------- fields that code names


class Trainer:
    """As many are written: it keeps a history, a counter and its data."""

    def __init__(self, model):
        self.model = model
        self.optimizer = optim.SGD(model.parameters(), lr=0.1)
        self.losses = []
        self.steps = 0
        self.data = [(torch.ones(2), torch.ones(1)) for _ in range(10)]

    @tg.compile
    def step(self, x):
        self.optimizer.zero_grad()
        loss = (self.model(x) ** 2).mean()
        loss.backward()
        self.optimizer.step()
        return loss

    def train(self, x):
        self.losses.append(self.step(x).item())
        self.steps += 1
        self.data.append(x)


def test_what_code_does_not_name_may_change(interpreted):
    trainer = Trainer(nn.Linear(2, 1))
    for _ in range(3):
        trainer.train(ONES)
    assert watched(lambda: [trainer.train(ONES) for _ in range(5)]) == 0
    assert trainer.losses == sorted(trainer.losses, reverse=True)


class Counting(nn.Module):
    def __init__(self):
        self.layer = nn.Linear(2, 1)
        self.history = []
        self.calls = 0
        self.scale = 1.0

    def forward(self, x):
        return self.layer(x) * self.scale


def test_modules_of_users_too(interpreted):
    model = Counting()
    fast = compiled(lambda x: model(x).detach(), ONES)

    def calls():
        for _ in range(3):
            fast(ONES)
            model.history.append(0.5)
            model.calls += 1

    assert watched(calls) == 0
    before = fast(ONES)
    model.scale = 3.0
    close([fast(ONES).data], [before.data * 3])


@pytest.mark.parametrize("way", ["getattr", "vars", "asdict", "match", "property", "cached"])
def test_names_that_are_computed_or_hidden(interpreted, way):
    @dataclasses.dataclass
    class Settings:
        scale: float = 2.0

        @property
        def doubled(self):
            return 2 * self.scale

        @functools.cached_property
        def cached(self):
            return self.hidden

    settings = Settings()
    settings.hidden = 2.0
    name = "".join(["sc", "ale"])

    def function(x):
        if way == "getattr":
            return x * getattr(settings, name)
        if way == "vars":
            return x * sum(vars(settings).values())
        if way == "asdict":
            return x * dataclasses.asdict(settings)[name]
        if way == "property":
            return x * settings.doubled
        if way == "cached":
            return x * settings.cached
        match settings:
            case Settings(scale=found):
                return x * found

    if way == "cached":
        function(ONES)
    fast = compiled(function, ONES)
    settings.scale, settings.hidden = 5.0, 5.0
    vars(settings).pop("cached", None)
    assert fast(ONES).tolist() == function(ONES).tolist()


def test_a_compiled_method_that_another_one_calls(interpreted):
    class Both:
        def __init__(self):
            self.factor = 2.0

        @tg.compile
        def inner(self, x):
            return x * self.factor

        @tg.compile
        def outer(self, x):
            return self.inner(x) + 1

    both = Both()
    for _ in range(3):
        both.outer(ONES)
    both.factor = 5.0
    assert both.outer(ONES).tolist() == [6, 6]


def test_variables_of_users_modules(interpreted, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "their_settings.py").write_text("scale = 2.0\ndef scaled(x):\n    return x * scale")
    settings = importlib.import_module("their_settings")
    monkeypatch.setitem(sys.modules, "their_settings", settings)
    fast = compiled(lambda x: settings.scaled(x) + settings.scale, ONES)
    settings.scale = 5.0
    assert fast(ONES).tolist() == [10, 10]
    settings.unrelated = 1
    for _ in range(2):
        fast(ONES)
    assert watched(lambda: fast(ONES)) == 0


def test_what_is_imported_inside(interpreted, tmp_path, monkeypatch):
    """From a folder without `__init__.py`, as they are common beside programs."""
    (tmp_path / "theirs").mkdir()
    source = "factor = 2.0\ndef scaled(x):\n    return x * factor"
    (tmp_path / "theirs" / "helpers.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)

    def function(x):
        import theirs.helpers
        from theirs.helpers import scaled

        return scaled(x) + theirs.helpers.factor

    fast = compiled(function, ONES)
    sys.modules["theirs.helpers"].factor = 5.0
    assert fast(ONES).tolist() == [10, 10]
    for name in ("theirs.helpers", "theirs"):
        del sys.modules[name]


@pytest.mark.parametrize(
    "decorate",
    [torch.no_grad(), tg.no_grad(), torch.enable_grad(), torch.inference_mode(), torch.vmap],
    ids=["no_grad", "ours", "enable_grad", "inference", "vmap"],
)
def test_functions_that_torch_decorates(interpreted, decorate):
    holder = Holder(scale=2.0, w=torch.ones(2))
    fast = compiled(decorate(lambda x: x * holder.scale), ONES)
    holder.scale = 5.0
    assert fast(ONES).tolist() == [5, 5]


def test_evaluation_without_gradients(interpreted):
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    evaluate = tg.compile(tg.no_grad()(lambda x: model(x)))
    for _ in range(3):
        evaluate(ONES)
    model.eval()
    close([evaluate(ONES).data], [model(ONES).data])


class Namesakes:
    """Has methods with the names of those that its step calls of others."""

    def __init__(self):
        self.model = nn.Linear(2, 1)
        self.optimizer = optim.SGD(self.model.parameters(), lr=0.1)
        self.losses, self.steps, self.scale = [], 0, 1.0

    @tg.compile
    def fit(self, x):
        self.model.train()
        self.optimizer.zero_grad()
        loss = self.loss(self.model(x)).mean().exp().log()
        loss.backward()
        self.optimizer.step()
        return loss

    def loss(self, y):
        return y**2 * self.scale

    def step(self, x):
        self.log(self.fit(x))

    def log(self, loss):
        self.losses.append(loss.item())
        self.steps += 1

    def train(self):
        self.step(ONES)


class Escaping(Namesakes):
    """Hands itself on, so that others may call any method of it."""

    def loss(self, y):
        return weigh(self, y)

    def log(self, y):
        return y * self.scale


def weigh(trainer, y):
    return trainer.log(y)


def test_methods_with_the_names_of_others(interpreted):
    trainer = Namesakes()
    for _ in range(3):
        trainer.train()
    assert watched(lambda: [trainer.train() for _ in range(5)]) == 0
    trainer.scale = 3.0
    assert watched(trainer.train) == 1


def test_an_object_that_hands_itself_on(interpreted):
    trainer = Escaping()
    for _ in range(3):
        trainer.fit(ONES)
    trainer.scale = 3.0
    assert watched(lambda: trainer.fit(ONES)) == 1


@pytest.mark.parametrize("other", [lambda one: type(one)(), weakref.proxy], ids=["one", "proxy"])
def test_an_object_with_another_of_its_kind(interpreted, other):
    factor = 2.0

    class Linked:
        other = None

        def step(self, x):
            return self.other.scaled(x)

        def scaled(self, x):
            return x * factor

    linked = Linked()
    linked.other = other(linked)
    fast = compiled(linked.step, ONES)
    factor = 5.0
    assert fast(ONES).tolist() == [5, 5]


@pytest.mark.parametrize("way", ["name", "caller", "weak", "new", "kinds"])
def test_methods_that_are_reached_otherwise(interpreted, way):
    factor = 2.0

    class Scaling:
        def __init__(self, factor=None):
            self.hidden = factor or 1.0

        def scale_it(self, x):
            return x * factor

        @functools.singledispatchmethod
        def of_kind(self, x):
            return x * factor

    class Making(Scaling):
        def __init__(self, of=None):
            self.hidden = of or factor

        def another(self, x):
            return x * type(self)().hidden

    scaling = Scaling()
    reference, call = weakref.ref(scaling), operator.methodcaller("scale_it", ONES)
    functions = {
        "name": lambda x: getattr(scaling, "scale" + "_it")(x),
        "caller": lambda x: call(scaling),
        "weak": lambda x: reference().scale_it(x),
        "new": Making().another,
        "kinds": lambda x: scaling.of_kind(x),
    }
    fast = compiled(functions[way], ONES)
    factor = 5.0
    assert fast(ONES).tolist() == [5, 5]


@pytest.mark.parametrize("kind", [dict, list])
def test_fields_of_users_dicts_and_lists(interpreted, kind):
    holder = type("Mine", (kind,), {})()
    holder.scale = 2.0
    fast = compiled(lambda x: x * holder.scale, ONES)
    holder.scale = 5.0
    assert fast(ONES).tolist() == [5, 5]


def test_bound_methods_of_dicts(interpreted):
    settings = {"scale": 2.0}
    get = settings.get
    fast = compiled(lambda x: x * get("scale"), ONES)
    settings["scale"] = 5.0
    assert fast(ONES).tolist() == [5, 5]


# ----------------------------------------------------------------------------- arrays


@pytest.mark.parametrize("read", [torch.tensor, torch.from_numpy, lambda a: float(a[0])])
def test_arrays(interpreted, read):
    array = np.array([1.0, 2.0], "float32")
    holder = Holder(array=array)
    fast = compiled(lambda x: x * read(array) + read(holder.array), ONES)
    for change in (lambda: array.__setitem__(slice(None), 7), lambda: array.fill(3)):
        change()
        assert fast(ONES).tolist() == (ONES * read(array) * 2).tolist()
    holder.array = np.zeros(2, "float32")
    assert fast(ONES).tolist() == (ONES * read(array)).tolist()


# ----------------------------------------------------- what functions of gradients name


def training(weight, function=lambda x: x):
    optimizer = optim.SGD([weight], lr=1.0)

    def step(x):
        optimizer.zero_grad()
        loss = function(weight * x).sum()
        loss.backward()
        optimizer.step()
        return loss

    return step


def test_variables_of_gradients_hooks(interpreted):
    weight = tg.Tensor([1.0, 2.0], requires_grad=True)
    masks, scale = {"weight": torch.ones(2)}, Holder(factor=1.0)
    weight.register_hook(lambda g: g * masks["weight"] * scale.factor)
    fast = compiled(training(weight), ONES)
    assert weight.data.tolist() == [-2, -1]
    masks["weight"] = torch.tensor([0.0, 1.0])
    fast(ONES)
    assert weight.data.tolist() == [-2, -2]
    scale.factor = 0.5
    fast(ONES)
    assert weight.data.tolist() == [-2, -2.5]


def test_variables_of_rules(interpreted):
    strength = Holder(value=1.0)
    reverse = tg.rule(lambda x: x.clone(), lambda g, _y, _x: -strength.value * g)
    weight = tg.Tensor([1.0, 2.0], requires_grad=True)
    fast = compiled(training(weight, reverse), ONES)
    assert weight.data.tolist() == [4, 5]
    strength.value = 0.0
    fast(ONES)
    assert weight.data.tolist() == [4, 5]


def test_variables_of_rules_that_stand_in(interpreted):
    strength = Holder(value=1.0)
    weight = tg.Tensor([1.0, 2.0], requires_grad=True)
    fast = tg.compile(training(weight, torch.tanh))
    with tg.override_rule(torch.tanh, lambda g, y, x: strength.value * g):
        for _ in range(3):
            fast(ONES)
        assert weight.data.tolist() == [-2, -1]
        strength.value = 0.0
        fast(ONES)
    assert weight.data.tolist() == [-2, -1]


# --------------------------------------------------------- tensors that are kept elsewhere


def test_the_shape_of_what_is_replaced(interpreted):
    holder = Holder(h=torch.zeros(2))

    def function(x):
        n = holder.h.shape[0]
        holder.h = x * 2
        return x * n

    fast = compiled(function, ONES)
    holder.h = torch.zeros(5)
    assert fast(ONES).tolist() == [5, 5]


def test_whether_there_is_what_is_replaced(interpreted):
    holder = Holder(previous=torch.zeros(2))

    def function(x):
        result = x * 3 if holder.previous is None else x * 2
        holder.previous = x * 1.5
        return result

    fast = compiled(function, ONES)
    holder.previous = None
    assert fast(ONES).tolist() == [3, 3]
    assert fast(ONES).tolist() == [2, 2]


def test_a_tensor_in_two_places_of_which_one_gets_another(interpreted):
    holder = Holder(w=torch.zeros(2))
    holder.all = [holder.w]

    def function(x):
        holder.w.add_(x)
        return holder.all[0] * 1

    fast = compiled(function, ONES)
    holder.all = list(holder.all)
    fast(ONES)
    holder.all[0] = torch.full((2,), 100.0)
    assert fast(ONES).tolist() == [100, 100]


def test_a_tensor_kept_twice_that_no_operator_uses(interpreted):
    holder = Holder(w=torch.zeros(2), best=None)

    def function(x):
        holder.best = holder.w
        return x * 2

    fast = compiled(function, ONES)
    holder.w = torch.ones(2)
    fast(ONES)
    assert holder.best is holder.w


def test_whether_a_tensor_is_wrapped(interpreted):
    holder = Holder(last=None, h=torch.zeros(2))

    def function(x):
        holder.last = x
        return holder.h + 1

    fast = compiled(function, ONES)
    fast(tg.Tensor(ONES))
    fast(tg.Tensor(ONES))
    fast(tg.Tensor(ONES))
    assert isinstance(holder.last, tg.Tensor)
    holder.h = tg.Tensor(holder.h)
    assert isinstance(fast(ONES), tg.Tensor)


def test_a_history_that_is_kept(interpreted):
    weight, holder = tg.Tensor([1.0, 2.0], requires_grad=True), Holder(out=None)

    def function(x):
        holder.out = torch.tanh(weight * x)
        return x * 2

    with pytest.raises(CaptureError, match=r"holder\.out was given a tensor that still has a hist"):
        compiled(function, ONES)


# ----------------------------------------------------------------------------- arguments


@pytest.mark.parametrize("given", [{"h": ONES}, [ONES]])
def test_arguments_whose_entries_are_replaced(interpreted, given):
    key = next(iter(given)) if isinstance(given, dict) else 0

    def function(state, x):
        state[key] = state[key] + x
        return x * 2

    with pytest.raises(CaptureError, match="changed a list or dict that it was given"):
        tg.compile(function)(given, ONES)


def test_arguments_that_are_given_another_tensor(interpreted):
    def attack(x):
        x.data = x.data * 2
        return x.detach()

    with pytest.raises(CaptureError, match=r"argument 0 .* was given another tensor"):
        tg.compile(attack)(tg.Tensor(ONES, requires_grad=True))


def test_sparse_arguments(interpreted):
    matrix = torch.eye(2).to_sparse()
    with pytest.raises(CaptureError, match=r"shape \[2, 2\] is sparse"):
        tg.compile(lambda x: matrix @ x)(torch.ones(2, 2))


# ------------------------------------------------------------------------ modules of torch


@pytest.mark.parametrize("layer", [torch.nn.Linear, torch.nn.LSTMCell, torch.nn.LSTM])
def test_modules_of_torch_run_as_programs(interpreted, layer):
    torch.manual_seed(0)
    model = tg.from_torch(layer(4, 3))
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    def step(x):
        optimizer.zero_grad()
        out = model(x)
        while isinstance(out, tuple):
            out = out[0]
        loss = (out**2).mean()
        loss.backward()
        optimizer.step()
        return loss

    x = torch.ones(2, 4)
    fast = compiled(step, x)
    losses = []
    assert watched(lambda: losses.extend(fast(x).item() for _ in range(5))) == 0
    assert losses == sorted(losses, reverse=True)


# ------------------------------------------------------------------------------- ensembles


def _differing(way, value):
    weight = tg.Tensor([1.0, 2.0], requires_grad=True)
    if way == "array":
        array = np.array([value], "float32")
        return training(weight, lambda x: x * torch.from_numpy(array))
    if way == "hook":
        weight.register_hook(lambda g: g * value)
        return training(weight)
    return training(weight, tg.rule(lambda x: x.clone(), lambda g, _y, _x: g * value))


@pytest.mark.parametrize("way", ["array", "hook", "rule"])
def test_members_that_differ_where_gradients_come_about(interpreted, way):
    together = tg.ensemble([_differing(way, value) for value in (1.0, 2.0)])
    with pytest.raises(CaptureError, match="members of an ensemble may differ in tensors only"):
        for _ in range(3):
            together(torch.ones(2, 2))
