"""How far the search for state goes: whatever code a step may run, what that reads counts.

In each test a program runs, then a number changes that the code in question reads.
"""

import collections
import dataclasses
import dis
import enum
import functools
import gc
import importlib.util
import logging
import sys
import weakref
from typing import NamedTuple
from unittest.mock import patch

import pytest
import torch
from steps import interpreted

import tinygrad_ee559 as tg
from tinygrad_ee559 import nn, optim
from tinygrad_ee559.compiling.code import names_on_first
from tinygrad_ee559.compiling.runs import Runs

__all__ = ["interpreted"]

ONES = torch.ones(2)
factor = 2.0


@pytest.fixture(autouse=True)
def restored(interpreted):
    """Programs are interpreted, and the number is what it was afterwards."""
    global factor

    yield
    factor = 2.0


def scaled(x):
    return x * factor


def follows(function, change, *args):
    """Whether a program does what the function does once something has changed."""
    fast = tg.compile(function)
    for _ in range(3):
        fast(*args or [ONES])
    assert len(fast.programs) == 1
    change()
    return fast(*args or [ONES]).tolist() == function(*args or [ONES]).tolist()


def triple():
    global factor

    factor *= 3


def watched(function, times=5):
    """How many of some calls are watched."""
    with patch.object(Runs, "run", autospec=True, side_effect=Runs.run) as run:
        for _ in range(times):
            function()
    return run.call_count


# ------------------------------------------------------------------------ attributes


class Kept:
    """Has a setter, a deleter and a descriptor that run code."""

    def __init__(self):
        self._value = torch.zeros(2)

    @property
    def value(self):
        return self._value

    @value.setter
    def value(self, value):
        self._value = scaled(value)

    @value.deleter
    def value(self):
        self._value = scaled(self._value)


class Scaling:
    def __set__(self, instance, value):
        instance._value = scaled(value)

    def __get__(self, instance, owner):
        return instance._value


class Described:
    value = Scaling()

    def __init__(self):
        self._value = torch.zeros(2)


@pytest.mark.parametrize("kind", [Kept, Described])
def test_setters(kind):
    ours, theirs = kind(), kind()

    def storing(kept):
        def step(x):
            kept.value = kept.value + x
            return x * 1

        return step

    fast, step = tg.compile(storing(ours)), storing(theirs)
    for i in range(6):
        if i == 4:
            triple()
        fast(ONES), step(ONES)
        assert ours.value.tolist() == theirs.value.tolist()


def test_deleters():
    kept = Kept()
    kept._value = ONES.clone()

    def step(x):
        kept._value = x * 1
        del kept.value
        return kept._value * 1

    assert follows(step, triple)


@dataclasses.dataclass(slots=True)
class Slots:
    rate: float
    total: torch.Tensor

    def add(self, x):
        self.total = self.total + x * self.rate
        return self.total * 1


def test_slots():
    ours, theirs = (Slots(2.0, torch.zeros(2)) for _ in range(2))
    fast = tg.compile(ours.add)
    for i in range(8):
        if i == 4:
            ours.rate = theirs.rate = 5.0
        if i == 6:
            ours.total, theirs.total = torch.ones(2), torch.ones(2)
        assert fast(ONES).tolist() == theirs.add(ONES).tolist()
    assert ours.total.tolist() == theirs.total.tolist()
    assert watched(lambda: fast(ONES)) == 0


class Linked:
    """Slots that another object of the same class has too."""

    __slots__ = "next", "rate"

    def go(self, x):
        return self.next.other(x)

    def other(self, x):
        return x * self.rate


class Again(Linked):
    __slots__ = ("rate",)


@pytest.mark.parametrize("kind", [Linked, Again])
def test_slots_of_another_object(kind):
    one, other = Linked(), kind()
    one.next, other.rate = other, 1.0
    assert follows(one.go, lambda: setattr(other, "rate", 5.0))


class Pretending:
    """Says that it is what it stands for."""

    __slots__ = ("target",)
    __class__ = property(lambda self: type(self.target))

    def go(self, x):
        return x * self.target.rate


def test_slots_of_an_object_that_pretends_to_be_another():
    pretending, target = Pretending(), Linked()
    pretending.target, target.rate = target, 1.0
    assert follows(lambda x: pretending.go(x), lambda: setattr(target, "rate", 5.0))


class Pair(collections.namedtuple("Pair", "a b")):  # noqa: SLOT002
    """Has fields beside those of the tuple."""


def test_fields_of_tuples():
    pair = Pair(1, 2)
    pair.rate = 1.0
    assert follows(lambda x: x * pair.rate, lambda: setattr(pair, "rate", 5.0))


def test_methods_of_words_in_tuples():
    words = (Word.PLAIN, 1)
    assert follows(lambda x: words[0].apply(x), triple)


class Stateless:
    __slots__ = ()

    def __call__(self, x):
        return scaled(x)


class Word(str, enum.Enum):
    PLAIN = "plain"

    def apply(self, x):
        return scaled(x)


class Named(NamedTuple):
    power: int

    def apply(self, x):
        return scaled(x) ** self.power


@pytest.mark.parametrize("method", [Stateless().__call__, Word.PLAIN.apply, Named(2).apply])
def test_methods_of_objects_without_fields(method):
    owner = method.__self__
    name = method.__name__
    assert follows(lambda x: owner(x) if name == "__call__" else owner.apply(x), triple)


# --------------------------------------------------------------------------- classes


class Outer:
    class Inner:
        def __call__(self, x):
            return scaled(x)

    made = functools.partial(lambda x, power: scaled(x) ** power, power=2)
    by_name = {"scaled": scaled}  # noqa: RUF012
    listed = [lambda x: scaled(x)]  # noqa: RUF012


@pytest.mark.parametrize(
    "function",
    [
        lambda x: Outer.Inner()(x),
        lambda x: Outer.made(x),
        lambda x: Outer.by_name["scaled"](x),
        lambda x: Outer.listed[0](x),
    ],
    ids=["class", "partial", "dict", "list"],
)
def test_attributes_of_classes(function):
    assert follows(function, triple)


class Tripled(optim.SGD):
    """Overrides what the library calls, and no code of the user's names."""

    def _with_gradients(self, group):
        params, values, grads, numbers = super()._with_gradients(group)
        return params, values, [g * factor for g in grads], numbers


def test_overrides_that_the_library_calls():
    weights = [tg.Tensor([1.0, 2.0], requires_grad=True) for _ in range(2)]

    def training(weight):
        optimizer = Tripled([weight], lr=0.1)

        def step(x):
            optimizer.zero_grad()
            loss = (weight * x).sum()
            loss.backward()
            optimizer.step()
            return loss

        return step

    fast, step = tg.compile(training(weights[0])), training(weights[1])
    for i in range(6):
        if i == 4:
            triple()
        fast(ONES), step(ONES)
    assert weights[0].tolist() == weights[1].tolist()


class Anyhow:
    scale = 1.0

    def __init__(self):
        self.scale = 2.0

    def step(*args):
        self, x = args
        return x * self.scale


def test_methods_that_take_the_instance_among_others():
    owner = Anyhow()
    assert follows(owner.step, lambda: setattr(owner, "scale", 5.0))


@pytest.mark.parametrize("registered", [True, False])
def test_modules_that_nobody_knows(tmp_path, monkeypatch, registered):
    name = f"settings_of_mine_{registered}"
    file = tmp_path / f"{name}.py"
    file.write_text(
        "rate = 2.0\nclass Scale:\n    def __call__(self, x):\n        return x * rate\n"
    )
    spec = importlib.util.spec_from_file_location(name, file)
    settings = importlib.util.module_from_spec(spec)
    if registered:
        monkeypatch.setitem(sys.modules, name, settings)
    spec.loader.exec_module(settings)
    scale = settings.Scale()
    change = functools.partial(setattr, settings, "rate", 5.0)
    assert follows(lambda x: x * settings.rate, change)
    assert follows(lambda x: scale(x), lambda: setattr(settings, "rate", 7.0))


# ------------------------------------------------------------------- what is not looked at


class Documented(nn.Module):
    """Overrides what no step calls, and the code of which would make all fields count."""

    def __init__(self):
        self.weight = nn.Parameter(torch.ones(2))

    def extra_repr(self):
        return str(getattr(self, "weight"))  # noqa: B009

    def forward(self, x):
        return self.weight * x


class Settings:
    """Has annotations that name the class which has it."""

    __annotations__ = {"owner": "filled in below"}  # noqa: RUF012
    rate = 1.0


class Counting:
    def __init__(self):
        self.model = Documented()
        self.settings = Settings()
        self.count = 0

    def step(self, x):
        loss = self.model(x).sum() * self.settings.rate
        loss.backward()
        self.model.zero_grad()
        return loss


Settings.__annotations__["owner"] = Counting


def watched_while_counting(counting, step):
    """How many calls of a step are watched while a number changes at which it does not look."""
    fast = tg.compile(step)
    for _ in range(3):
        fast(ONES)

    def call():
        counting.count += 1
        return fast(ONES)

    return watched(call)


def test_overrides_that_nobody_calls_and_annotations():
    counting = Counting()
    assert watched_while_counting(counting, counting.step) == 0


class Shown(Settings):
    def __repr__(self):
        return f"{type(self).__name__} {self.count}"


class Compared(Settings):
    __hash__ = None

    def __eq__(self, other):
        return self.__class__ is other.__class__


@dataclasses.dataclass
class Data:
    rate: float = 0.1


@dataclasses.dataclass(frozen=True)
class Frozen:
    rate: float = 0.1


class Phase(enum.Enum):
    FIRST = 0.1

    @property
    def rate(self):
        return self._value_


@pytest.mark.parametrize(
    "settings",
    [
        Shown(), Compared(), Data(), Frozen(), Phase.FIRST,
        collections.namedtuple("Rated", "rate")(0.1),
    ],
    ids=lambda settings: type(settings).__name__,
)  # fmt: skip
def test_classes_that_describe_and_compare_themselves(settings):
    """They make no objects, so what is set in `__init__` elsewhere does not count."""
    counting = Counting()
    counting.settings = settings
    assert watched_while_counting(counting, lambda x: counting.step(x)) == 0


def test_classes_of_functions_do_not_stay_in_memory():
    def used():
        class Local(nn.Module):
            __slots__ = ("weight",)

            def __init__(self):
                self.weight = tg.Tensor([1.0], requires_grad=True)

            def forward(self, x):
                return (x * self.weight).detach()

        local = Local()
        tg.compile(lambda x: local(x))(ONES)
        return weakref.ref(Local)

    found = used()
    gc.collect()
    assert found() is None


class Tabled:
    table = {i: (i, "word") for i in range(30_000)}  # noqa: RUF012

    def step(self, x):
        return x * self.table[2][0]


def test_tables_of_classes():
    fast = tg.compile(Tabled().step)
    for _ in range(3):
        assert fast(ONES).tolist() == [2, 2]
    assert len(fast.programs[0].conditions[0]._entries) < 50


def test_entries_are_not_made_by_looking():
    rates = collections.defaultdict(float, a=2.0)

    def step(x):
        return x * rates["a"] if "a" in rates else x

    fast = tg.compile(step)
    for _ in range(3):
        fast(ONES)
    rates["b"] = rates.pop("a")
    assert fast(ONES).tolist() == [1, 1]
    assert [*rates] == ["b"]


class Proxy:
    __slots__ = ("other",)

    def __getattr__(self, name):
        raise KeyError(name)


def test_attributes_that_users_compute_are_not_asked_for():
    proxy = Proxy()
    proxy.other = ONES
    assert follows(lambda x: x + proxy.other, lambda: setattr(proxy, "other", ONES * 5))


def test_loggers():
    logger = logging.getLogger("tests.reach")

    def step(x):
        logger.debug("a step")
        return x * 2

    fast = tg.compile(step)
    for _ in range(3):
        fast(ONES)
    program = fast.programs[0]
    assert len(program.conditions[0]._entries) < 50
    assert watched(lambda: (logging.getLogger(f"tests.{len(logger.name)}.new"), fast(ONES))) == 0


def test_equal_tuples():
    class Sized:
        size = None

        def step(self, x):
            self.size = tuple(x.shape)
            self.shape = x.shape
            return x * self.options[1]

    sized = Sized()
    sized.options = (1, 2.0, "a")
    fast = tg.compile(sized.step)

    def call():
        sized.options = (1, 2.0, str.lower("A"))  # another one each time
        return fast(ONES)

    for _ in range(4):
        call()
    assert watched(call) == 0
    sized.options = (1, 3.0, "a")
    assert fast(ONES).tolist() == [3, 3]
    sized.options = (1, 3, "a")
    assert watched(lambda: fast(ONES), 1) == 1


# ------------------------------------------------------------------------- how often


def test_many_shapes_in_turn(monkeypatch):
    monkeypatch.setattr("tinygrad_ee559.compiling.compiled.PROGRAMS", 8)
    fast = tg.compile(lambda x: x * 2)

    def turn(shapes):
        for n in shapes:
            fast(torch.ones(n))

    turn([*range(1, 9)] * 3)
    assert watched(lambda: turn(range(8, 0, -1))) == 0
    turn([9] * 3)  # in place of the one that ran longest ago, that of 8
    assert watched(lambda: turn([*range(1, 8), 9])) == 0


def test_settings_in_turn():
    model = nn.Linear(2, 1)
    model.note = 0
    fast = tg.compile(lambda x: model(x).detach() if model.note < 100 else x)

    def turn():
        for model.note in range(9):
            fast(ONES)

    turn(), turn(), turn()
    assert len(fast.programs) == 1
    assert watched(turn) == 0


# --------------------------------------------------------------------------- instructions

#: As later releases of Python compile `self.last = x; return f(x, k=self.k)`, `lambda v: v *
#: self.scale` inside the method, and a method that hands itself on.
LATER = {
    "pairs": (
        [("LOAD_FAST_LOAD_FAST", ("x", "self")), ("STORE_ATTR", "last")],
        [("LOAD_FAST_BORROW_LOAD_FAST_BORROW", ("x", "self")), ("LOAD_ATTR", "k")],
        {"last", "k"},
    ),
    "cells": (
        [("LOAD_FAST", "cell"), ("BUILD_TUPLE", 1), ("MAKE_FUNCTION", None)],
        [("LOAD_DEREF", "self"), ("LOAD_ATTR", "scale")],
        {"scale"},
    ),
    "copies": (
        [("LOAD_FAST_BORROW", "self"), ("DUP_TOP", None), ("LOAD_ATTR", "n")],
        [("STORE_FAST_LOAD_FAST", ("y", "self")), ("LOAD_ATTR", "m")],
        {"n", "m"},
    ),
    "handed on": (
        [("LOAD_FAST_LOAD_FAST", ("f", "self")), ("CALL", 1)],
        [],
        None,
    ),
    "another": (
        [("STORE_FAST_STORE_FAST", ("x", "self")), ("LOAD_CONST", None)],
        [],
        None,
    ),
}


class Instruction(NamedTuple):
    opname: str
    argval: object


@pytest.mark.parametrize("case", LATER)
def test_instructions_of_other_releases_of_python(monkeypatch, case):
    *parts, expected = LATER[case]
    steps = [Instruction(*step) for part in parts for step in part]
    code = compile("def method(self, x): ...", case, "exec").co_consts[0]
    if case == "cells":
        steps[0] = Instruction("LOAD_FAST", "self")
        code = compile("def method(self, x):\n return lambda: self", case, "exec").co_consts[0]
        code = code.replace(co_consts=(None,))
    monkeypatch.setattr(dis, "get_instructions", lambda _: steps)
    assert names_on_first.__wrapped__(code) == (None if expected is None else frozenset(expected))
