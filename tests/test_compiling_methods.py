"""Compiled methods: one for each instance and class, whatever is done with these."""

import copy
import pickle

import pytest
import torch
from steps import interpreted

import tinygrad_ee559 as tg

__all__ = ["interpreted"]


class Trainer:
    def __init__(self, rate):
        self.weight = torch.zeros(2)
        self.rate = rate

    @tg.compile
    def step(self, x):
        """One step."""
        self.weight.sub_(self.rate * x)
        return self.weight.sum()

    def plain(self, x):
        return x * self.rate

    fast = tg.compile(plain)

    @tg.compile
    def __call__(self, x):
        return x * self.rate

    @tg.compile
    def __hidden(self, x):
        return x * self.rate

    def hidden(self, x):
        return self.__hidden(x)

    @classmethod
    @tg.compile
    def double(cls, x):
        return x * 2

    @staticmethod
    @tg.compile
    def triple(x):
        return x * 3


class Halving(Trainer):
    def step(self, x):
        return super().step(x / 2)


@tg.compile
def doubled(x):
    return x * 2


def test_each_instance_has_its_own(interpreted):
    one, two = Trainer(1.0), Trainer(2.0)
    for _ in range(4):
        one.step(torch.ones(2))
        two.step(torch.ones(2))
    assert one.weight.tolist() == [-4, -4] and two.weight.tolist() == [-8, -8]
    assert len(one.step.programs) == len(two.step.programs) == 1
    assert Trainer.step.__doc__ == "One step."


def test_a_method_that_calls_that_of_its_base(interpreted):
    trainer = Halving(1.0)
    assert [trainer.step(torch.ones(2)).item() for _ in range(4)] == [-1, -2, -3, -4]


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))]
)
def test_copies(interpreted, copied):
    one = Trainer(1.0)
    for _ in range(3):
        one.step(torch.ones(2))
    two = copied(one)
    two.weight = torch.zeros(2)
    for _ in range(3):
        assert two.step is two.step
        two.step(torch.ones(2))
    assert one.weight.tolist() == two.weight.tolist() == [-3, -3]
    assert len(two.step.programs) == 1


@pytest.mark.parametrize("name", ["fast", "__call__", "hidden", "double", "triple"])
def test_ways_to_write_one(interpreted, name):
    trainer = Trainer(2.0)
    factor = 3.0 if name == "triple" else 2.0
    for _ in range(4):
        assert getattr(trainer, name)(torch.ones(2)).tolist() == [factor] * 2
    kept = {
        "hidden": "_Trainer__hidden", "__call__": "__call__"
    }.get(name, name)  # fmt: skip
    assert len(getattr(trainer, kept).programs) == 1
    assert trainer.plain.__func__ is Trainer.plain


@pytest.mark.parametrize("kind", [staticmethod, classmethod])
def test_the_order_of_decorators(kind):
    with pytest.raises(TypeError, match=f"write @{kind.__name__} above @compile"):
        tg.compile(kind(lambda x: x))


def test_instances_without_a_dict():
    class Slotted:
        __slots__ = ()

        @tg.compile
        def step(self, x):
            return x

    with pytest.raises(TypeError, match="a Slotted has no __dict__; add that to its __slots__"):
        Slotted().step(torch.ones(2))


def test_functions_of_a_module_are_pickled_by_name():
    assert pickle.loads(pickle.dumps(doubled)) is doubled


def test_a_base_of_the_same_name(interpreted):
    """As where a class of the user's extends one of another module, or of itself before."""

    names = {"__module__": "elsewhere", "__qualname__": Trainer.__qualname__}

    @tg.compile
    def step(self, x):
        return super(trainer.__class__, self).step(x) * 2

    trainer = type("Trainer", (Trainer,), {**names, "step": step})(1.0)
    assert [trainer.step(torch.ones(2)).item() for _ in range(5)] == [-4, -8, -12, -16, -20]
    assert len(trainer.step.programs) == 1


def test_methods_of_one_origin(interpreted):
    def make(factor):
        @tg.compile
        def step(self, x):
            return x * factor

        return step

    class Several:
        one, two = make(1), make(2)

    several = Several()
    for _ in range(4):
        assert several.one(torch.ones(1)).item() == 1 and several.two(torch.ones(1)).item() == 2
    assert len(several.one.programs) == len(several.two.programs) == 1


@pytest.mark.parametrize("how", ["assigned", "by another class"])
def test_a_method_that_is_replaced(interpreted, how):
    """As a notebook does, or a module that is loaded again."""

    class Scaling:
        @tg.compile
        def step(self, x):
            return x * 2

    scaling = Scaling()
    for _ in range(3):
        scaling.step(torch.ones(1))

    class Scaling(Scaling):
        @tg.compile
        def step(self, x):
            return x * 100

    if how == "assigned":
        type(scaling).step = vars(Scaling)["step"]
    else:
        scaling.__class__ = Scaling
    assert [scaling.step(torch.ones(1)).item() for _ in range(4)] == [100] * 4
    assert len(scaling.step.programs) == 1
