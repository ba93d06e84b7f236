"""Ensembles train their members as if each were trained alone."""

import copy
import enum
import importlib
import operator
import pickle
from datetime import timedelta
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from steps import Training, close, data, interpreted, own_cache, same_training, threads

import tinygrad_ee559 as tg
from tinygrad_ee559 import errors, nn
from tinygrad_ee559.compiling.executable import Artifact
from tinygrad_ee559.compiling.lanes import LANES
from tinygrad_ee559.compiling.native import Native
from tinygrad_ee559.private import tree_flatten

__all__ = ["interpreted", "own_cache"]
# Inductor, which is all Python, takes twice as long while coverage is measured.
pytestmark = [pytest.mark.usefixtures("own_cache"), pytest.mark.no_cover]


class Ensembles:
    """The same members twice: in an ensemble, and each alone."""

    def __init__(self, *members):
        self.ours, self.theirs = [make() for make in members], [make() for make in members]
        self.ensemble = tg.ensemble([training.step for training in self.ours])

    @classmethod
    def of(cls, count, *layers, **options):
        """Members that differ in their seeds."""
        return cls(*(lambda s=s: Training(*layers, seed=s, **options) for s in range(count)))

    def compare(self, x, y, rows, factor=3.0):
        """Train the others too, and compare."""
        for i, row in enumerate(rows):
            for j, training in enumerate(self.theirs):
                loss = training.step(x[i, j], y[i, j]).detach().data
                close([row[j]], [loss], factor)
        for one, other in zip(self.ours, self.theirs, strict=True):
            same_training(one, other, factor)

    def loop(self, x, y):
        losses = self.ensemble.loop(x, y)
        assert losses.shape == x.shape[:2] and isinstance(losses, tg.Tensor)
        self.compare(x, y, losses.data)

    def step(self, calls=4, batch=5):
        for seed in range(calls):
            x, y = data(1, len(self.ours), batch=batch, seed=seed)
            losses = self.ensemble(x[0], y[0])
            assert losses.shape == (len(self.ours),)
            self.compare(x, y, losses.data[None])

    def both(self, member, change):
        change(self.ours[member])
        change(self.theirs[member])

    @property
    def together(self):
        (together,) = self.ensemble._together
        return together


@pytest.mark.parametrize("members", [1, 5, 16, 17, 64])
def test_members_side_by_side(members):
    """All numbers of members run the same program."""
    pair = Ensembles.of(members, momentum=0.9)
    for length, seed in ((5, 1), (1, 2), (2, 3)):
        pair.loop(*data(length, members, batch=1, seed=seed))
    assert pair.together._layout.lanes == LANES and isinstance(pair.together._executable, Native)
    assert len(pair.ensemble) == members


@pytest.mark.parametrize("members", [1, 5])
def test_members_one_after_the_other(members):
    """Which is how those run that would not fit into the cache together."""
    hidden = lambda: nn.Linear(3, 64), nn.Tanh, lambda: nn.Linear(64, 2)  # noqa: E731
    pair = Ensembles.of(members, *hidden)
    for length, seed in ((5, 1), (1, 2), (2, 3)):
        pair.loop(*data(length, members, batch=100, seed=seed))
    assert pair.together._layout.lanes == 1 and isinstance(pair.together._executable, Native)


def test_double_precision():
    pair = Ensembles.of(3, momentum=0.9, nesterov=True, dtype=torch.float64)
    pair.loop(*data(6, 3, batch=2, dtype=torch.float64))
    assert pair.together._layout.lanes == LANES and isinstance(pair.together._executable, Native)


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [8, 200])
def test_cross_entropy(hidden):
    layers = lambda: nn.Linear(3, hidden), nn.ReLU, lambda: nn.Linear(hidden, 2)  # noqa: E731
    pair = Ensembles.of(5, *layers, loss=nn.CrossEntropyLoss(), momentum=0.9)
    x, _ = data(8, 5, batch=20)
    pair.loop(x, torch.randint(2, (8, 5, 20), generator=torch.Generator().manual_seed(1)))
    assert pair.together._layout.lanes == (LANES if hidden == 8 else 1)


def test_cross_entropy_interpreted(interpreted):
    layers = lambda: nn.Linear(3, 8), nn.ReLU, lambda: nn.Linear(8, 4)  # noqa: E731
    pair = Ensembles.of(3, *layers, loss=nn.CrossEntropyLoss())
    x, _ = data(6, 3)
    pair.loop(x, torch.randint(4, (6, 3, 5)))
    assert pair.together._layout.lanes == LANES


@pytest.mark.parametrize("batch", [1, 5])
def test_learning_rates_of_members_in_tensors(batch):
    rates = 0.1, 0.03, 0.01
    pair = Ensembles(
        *(
            lambda s=s, lr=lr: Training(seed=s, lr=torch.tensor(lr), momentum=0.9)
            for s, lr in enumerate(rates)
        )
    )
    pair.loop(*data(6, 3, batch=batch))
    pair.both(1, lambda training: training.optimizer.param_groups[0]["lr"].mul_(0.1))
    pair.loop(*data(3, 3, batch=batch))
    assert len(pair.ensemble._together) == 1


def test_large_products_are_not_done_in_lanes(monkeypatch):
    monkeypatch.setattr(
        importlib.import_module("tinygrad_ee559.compiling.together"), "CACHE", 2**40
    )
    for width, lanes in ((20, LANES), (400, 1)):
        layers = lambda: nn.Linear(3, width), nn.Tanh, lambda: nn.Linear(width, 2)  # noqa: E731, B023
        pair = Ensembles.of(2, *layers)
        pair.loop(*data(5, 2, batch=300))
        pair.loop(*data(2, 2, batch=300))
        assert isinstance(pair.together._executable, Native)
        assert pair.together._layout.lanes == lanes


def test_convolutions_take_the_ordinary_path():
    class Wave(nn.Module):
        def __init__(self):
            self.convolution = nn.Conv1d(1, 2, 2)

        def forward(self, x):
            return self.convolution(x.unsqueeze(1)).mean(2)

    pair = Ensembles.of(2, Wave)
    pair.loop(*data(5, 2))
    pair.loop(*data(2, 2))
    assert isinstance(pair.together._executable, Artifact)


def test_threads_do_not_change_the_numbers():
    def losses(count):
        with threads(count):
            pair = Ensembles.of(40, momentum=0.9)
            return [pair.ensemble.loop(*data(n, 40, batch=1, seed=n)).data for n in (4, 30)]

    for one, two in zip(losses(1), losses(2), strict=True):
        assert torch.equal(one, two)


# ---------------------------------------------------------------- members are models


def test_members_are_used_between_steps(interpreted):
    pair = Ensembles.of(5, momentum=0.9)
    x, y = data()

    def evaluated(training):
        with tg.no_grad():
            return training.model(x).data

    pair.step()
    changes = {
        "trained alone": lambda t: t.step(x, y),
        "loaded": lambda t: t.model.load_state_dict(Training(seed=9).model.state_dict()),
        "halved": lambda t: [setattr(p, "data", p.data * 0.5) for p in t.model.parameters()],
        "no gradients": lambda t: t.optimizer.zero_grad(),
        "optimizer loaded": lambda t: t.optimizer.load_state_dict(t.optimizer.state_dict()),
    }
    for member, change in enumerate(changes.values()):
        pair.both(member, change)
        for one, other in zip(pair.ours, pair.theirs):
            close([evaluated(one)], [evaluated(other)], 3)
        pair.step(5)


def test_settings_changed_for_all_members_take_effect(interpreted):
    pair = Ensembles.of(3)
    pair.step()
    for training in (*pair.ours, *pair.theirs):
        training.optimizer.param_groups[0]["lr"] = 0.01
    pair.step(6)
    assert len(pair.ensemble._together) == 2


def test_settings_changed_for_one_member_are_an_error(interpreted):
    pair = Ensembles.of(3)
    pair.step()
    pair.ours[2].optimizer.param_groups[0]["lr"] = 0.01
    with pytest.raises(errors.CaptureError, match=r"'lr'\] is 0\.01 in member 2, and 0\.05"):
        pair.ensemble.loop(*data(4, 3))


def test_saved_values_that_an_ensemble_changed_are_noticed():
    pair = Ensembles.of(2, momentum=0.9)
    pair.step(batch=1)
    assert isinstance(pair.together._executable, Native)  # which torch does not see
    x, y = data()
    loss = ((pair.ours[1].model(x) - y) ** 2).mean()
    pair.step(1, batch=1)
    with pytest.raises(errors.ChangedInPlaceError, match="weight"):
        loss.backward()


def test_tensors_that_members_only_read_may_be_shared(interpreted):
    scale = torch.tensor(3.0)

    def member(start):
        total = torch.full((2,), start)

        def step(x):
            total.add_(x * scale)
            return total * 1

        return total, step

    totals, steps = zip(*map(member, (0.0, 1.0)))
    ensemble = tg.ensemble(steps)
    for n in range(1, 6):
        assert ensemble(torch.ones(2, 2)).tolist() == [[3 * n] * 2, [3 * n + 1] * 2]
    assert [t.tolist() for t in totals] == [[15, 15], [16, 16]]


def test_state_that_every_step_replaces(interpreted):
    def member(start):
        state = {"h": torch.full((3,), start)}

        def step(x):
            state["h"] = torch.tanh(state["h"] * 0.5 + x)
            return state["h"]

        return state, step

    ours, theirs = ([member(float(i)) for i in range(3)] for _ in range(2))
    ensemble = tg.ensemble([step for _, step in ours])
    for seed in range(2):
        x = torch.randn(7, 3, 3, generator=torch.Generator().manual_seed(seed))
        found = ensemble.loop(x)
        for j, (state, step) in enumerate(theirs):
            close([found[:, j]], [torch.stack([step(x[i, j]) for i in range(7)])])
            close([ours[j][0]["h"]], [state["h"]])
    assert ensemble._together


def test_dropout_differs_between_members(interpreted):
    model = nn.Linear(3, 50)

    def member():
        return lambda x: F.dropout(model(x), 0.5).detach()

    ensemble = tg.ensemble([member(), member()])
    found = ensemble.loop(torch.ones(8, 2, 3)).data
    assert ensemble._together and not torch.equal(found[-1, 0], found[-1, 1])
    assert 0.35 < (found == 0).double().mean() < 0.65


def test_results_in_any_structure(interpreted):
    def member(factor):
        weight = torch.tensor(factor)
        return lambda x: {"a": [tg.Tensor(x) * weight], "b": (x.sum(), None, 3), "c": x[0] * 0}

    factors = 2.0, 3.0, 4.0
    ensemble = tg.ensemble([member(f) for f in factors])
    x = torch.randn(5, 3, 4)
    for _ in range(2):
        found = ensemble.loop(x)
        assert found["b"][1:] == (None, 3)
        close([found["a"][0].data], [x * torch.tensor(factors)[:, None]])
        close([found["b"][0]], [x.sum(2)])
        assert found["c"].shape == (5, 3)


def test_results_that_are_the_same_for_all(interpreted):
    def member(factor):
        weight = torch.tensor(factor)
        return lambda x: (x * weight, torch.tensor([1.0, 2.0]), torch.zeros(()))

    ensemble = tg.ensemble([member(f) for f in (1.0, 2.0)])
    for _ in range(2):
        _, constant, zero = ensemble.loop(torch.ones(4, 2, 3))
        assert constant.tolist() == [[[1, 2]] * 2] * 4 and zero.tolist() == [[0, 0]] * 4


# ------------------------------------------------- what users do to members between steps


def scaling(start, shape=(3,)):
    """A member that adds multiples of its argument, by a rate that it only reads."""
    group = {"rate": torch.tensor(start)}
    total = tg.Tensor(torch.full(shape, start), requires_grad=True)

    def step(x):
        with tg.no_grad():
            total.add_(x * group["rate"])
        return total.detach().sum()

    step.group, step.total = group, total
    return step


def both(change, members=3, steps=4):
    """The members of an ensemble, and the same as they are, with a change before the last step."""
    ours, theirs = ([scaling(10.0**i) for i in range(members)] for _ in range(2))
    ensemble = tg.ensemble(ours)
    for _ in range(steps - 1):
        ensemble(torch.ones(members, 3))
    assert ensemble._together
    for _ in range(steps - 1):
        for step in theirs:
            step(torch.ones(3))
    kept = change(ours), change(theirs)
    found = ensemble(torch.ones(members, 3))
    close([found.data], [torch.stack([step(torch.ones(3)).data for step in theirs])])
    for one, other in zip(ours, theirs, strict=True):
        close([one.total.data, one.group["rate"]], [other.total.data, other.group["rate"]])
    return kept


def exchange_entries(steps):
    one, other = steps[0].group, steps[1].group
    tensors = one["rate"], other["rate"]
    one["rate"], other["rate"] = other["rate"], one["rate"]
    return tensors


def exchange_data(steps):
    one, other = steps[0].total, steps[2].total
    tensors = one.data, other.data
    one.data, other.data = other.data, one.data
    return tensors


def exchange_in_tensors(steps):
    one, other = (step.group["rate"] for step in steps[:2])
    one.data, other.data = other.data, one.data
    return one, other


def pass_on(steps):
    """Each takes the next one's, and the last the first one's."""
    tensors = [step.total.data for step in steps]
    for step, tensor in zip(steps, [*tensors[1:], tensors[0]]):
        step.total.data = tensor
    return tensors


def replace(steps):
    """The old one is kept by the user."""
    old = steps[1].group["rate"]
    steps[1].group["rate"] = torch.tensor(7.0)
    return [old]


@pytest.mark.parametrize(
    "change", [exchange_entries, exchange_data, exchange_in_tensors, pass_on, replace]
)
def test_tensors_that_users_exchange(interpreted, change):
    ours, theirs = both(change)
    close(ours, theirs)


def test_members_may_not_share_what_they_change_later_on_either(interpreted):
    steps = [scaling(1.0), scaling(2.0)]
    ensemble = tg.ensemble(steps)
    for _ in range(3):
        ensemble(torch.ones(2, 3))
    steps[0].total.data = steps[1].total.data
    for _ in range(2):
        with pytest.raises(
            errors.CaptureError, match=r"share total, of shape \[3\], and .* change"
        ):
            ensemble(torch.ones(2, 3))
    assert steps[1].total.tolist() == [8] * 3
    steps[0].total.data = steps[1].total.data.clone()
    assert ensemble(torch.ones(2, 3)).tolist() == [27, 30]


def test_tensors_over_one_memory(interpreted):
    """Which are shared as much as one tensor."""
    memory = torch.zeros(3)

    def member(total):
        return lambda x: total.add_(x).sum()

    ensemble = tg.ensemble([member(memory.view(3)) for _ in range(2)])
    with pytest.raises(errors.CaptureError, match=r"share total, of shape \[3\], and .* change"):
        ensemble.loop(torch.ones(3, 2, 3))


def test_lanes_that_are_left_over_do_what_the_first_member_does():
    def member():
        buffer, position = torch.zeros(8), torch.zeros(1, dtype=torch.int64)

        def step(x):
            buffer.scatter_(0, position, x)
            position.add_(1)
            return buffer.sum()

        step.position = position
        return step

    steps = [member() for _ in range(3)]
    ensemble = tg.ensemble(steps)
    for _ in range(3):
        for step in steps:
            step.position.zero_()
        assert ensemble.loop(torch.ones(8, 3, 1))[-1].tolist() == [8] * 3
    assert ensemble._together[-1]._layout.lanes == LANES


@pytest.mark.parametrize("lanes", [LANES, 1])
def test_shared_tensors_are_read_as_they_are(interpreted, monkeypatch, lanes):
    if lanes == 1:
        together = importlib.import_module("tinygrad_ee559.compiling.together")
        monkeypatch.setattr(together, "CACHE", 0)
    array = np.ones((10, 20), dtype=np.float32)
    noise, turned = torch.from_numpy(array), torch.from_numpy(array).t()

    def member(start):
        weight = torch.full((10, 20), start)
        return lambda x: (weight * noise).sum() + (weight * turned.t()).sum() + x

    ensemble = tg.ensemble([member(1.0), member(2.0)])
    for factor in (1, 1, 1, 7, 9):
        array[:] = factor
        assert ensemble(torch.zeros(2)).tolist() == [400 * factor, 800 * factor]
    assert len(ensemble._together) == 1 and ensemble._together[0]._layout.lanes == lanes


def test_a_shared_tensor_that_is_replaced(interpreted):
    common = {"scale": torch.tensor(1.0)}
    ensemble = tg.ensemble([lambda x: x * common["scale"]] * 2)
    for scale in (torch.tensor(2.0), torch.tensor(3.0), torch.ones(3), torch.tensor([3.0] * 3)):
        common["scale"] = scale
        expected = torch.ones(2, 3) * scale
        assert ensemble.loop(torch.ones(3, 2, 3)).tolist() == [expected.tolist()] * 3
    assert len(ensemble._together) == 2


def turned(x, y, state):
    """Views that need the memory of a transposed state."""
    state.add_(y.sum())
    return state.t().reshape(-1)[::2].sum() + x.sum()


def turned_arguments(x, y, state):
    return state * x.transpose(0, 1).reshape(-1)[::2].sum()


@pytest.mark.parametrize("width", [3, 100])
@pytest.mark.parametrize("function", [turned, turned_arguments])
def test_any_layout(function, width):
    def member(start):
        state = torch.arange(5.0 * width).view(5, width).t() * start
        return lambda x, y: function(x, y, state)

    ours, theirs = ([member(i) for i in range(1, 4)] for _ in range(2))
    ensemble = tg.ensemble(ours)
    x, y = torch.randn(6, 3, 70, 40).transpose(-1, -2), torch.ones(6, 3, 2)
    for _ in range(2):
        found = ensemble.loop(x, y)
        expected = [
            torch.stack([step(a, b) for a, b in zip(x[:, j], y[:, j])])
            for j, step in enumerate(theirs)
        ]
        close([found], [torch.stack(expected, 1)], 10)
    assert len(ensemble._together) == 1


def test_members_stay_as_they_can_be_viewed(interpreted):
    """The dimensions of a member's tensor keep their order in memory."""
    states = [torch.arange(15.0).view(5, 3).t() for _ in range(3)]

    def member(state):
        return lambda x: state.add_(x).t().view(-1).sum()

    steps = [member(state) for state in states]
    ensemble = tg.ensemble(steps)
    ensemble.loop(torch.zeros(4, 3, 1))
    assert ensemble._together[0]._layout.lanes == LANES
    assert steps[1](torch.zeros(1)) == 105


def test_versions_count_what_steps_change():
    """And no more, also if one fails."""

    def member(start):
        data, total = torch.full((3,), start), torch.zeros(3)

        def step(k):
            total.add_(data.gather(0, k))
            return total.sum()

        step.data, step.total = data, total
        return step

    steps = [member(1.0), member(2.0)]
    ensemble = tg.ensemble(steps)
    good = torch.zeros(6, 2, 3, dtype=torch.int64)
    ensemble.loop(good)
    read, changed = steps[0].data._version, steps[0].total._version
    ensemble.loop(good)
    assert (steps[0].data._version, steps[0].total._version) == (read, changed + 1)
    with pytest.raises(IndexError, match="not below 3"):
        ensemble.loop(good + 9)
    assert (steps[0].data._version, steps[0].total._version) == (read, changed + 2)


# ------------------------------------------------------------------------ errors


@pytest.mark.parametrize("given", [[1.0, 2.0], 3, None, {"a": 2}, "mean"])
def test_arguments_that_cannot_be_stacked(given):
    ensemble = tg.ensemble([lambda x, y: x] * 2)
    for run, x in ((ensemble, torch.ones(2)), (ensemble.loop, torch.ones(3, 2))):
        with pytest.raises(errors.CaptureError) as info:
            run(x, given)
        assert f"argument 1 of many calls at once is {given!r}, and has to" in str(info.value)


def test_learning_rates_that_are_numbers_have_to_be_the_same(interpreted):
    ensemble = tg.ensemble([Training(lr=lr).step for lr in (0.1, 0.1, 0.2)])
    with pytest.raises(
        errors.CaptureError, match=r"'lr'\] is 0\.2 in member 2, and 0\.1 in .*torch\.tensor\(0\.2"
    ):
        ensemble.loop(*data(4, 3))


def test_members_may_not_share_what_they_change(interpreted):
    training = Training()
    ensemble = tg.ensemble([training.step, training.step])
    with pytest.raises(errors.CaptureError, match=r"share .*weight, of shape \[8, 3\]"):
        ensemble.loop(*data(4, 2))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((3, 9, 2), "out_features is 9 in member 1, and 8 in"),
        ((3, 8, 8, 2), r"only member 1 has model\.layers\[3\]"),
    ],
)
def test_members_have_to_be_alike(interpreted, layers, message):
    linear = [lambda a=a, b=b: nn.Linear(a, b) for a, b in zip(layers, layers[1:])]
    ensemble = tg.ensemble([Training().step, Training(linear[0], nn.Tanh, *linear[1:]).step])
    with pytest.raises(errors.CaptureError, match=message):
        ensemble.loop(*data(4, 2))


def test_classes_that_members_define_for_themselves(interpreted):
    def member():
        class Net(nn.Module):
            def __init__(self):
                self.layer = nn.Linear(2, 1)

            def forward(self, x):
                return self.layer(x)

        net = Net()
        return lambda x: net(x).detach()

    together = tg.ensemble([member(), member()])
    with pytest.raises(errors.CaptureError, match="though both are called Net; define the class"):
        for _ in range(3):
            together(torch.ones(2, 4, 2))


def test_members_are_frozen_alike(interpreted):
    members = [Training(seed=seed) for seed in range(2)]
    together = tg.ensemble([member.step for member in members])
    members[1].model[0].weight.requires_grad_(False)
    x, y = data(4, 2)
    with pytest.raises(errors.CaptureError, match="frozen in member 1 and not in the first"):
        together.loop(x, y)
    members[1].model[0].weight.requires_grad_(True)
    together = tg.ensemble([member.step for member in members])
    together.loop(x, y)
    members[0].model[0].weight.requires_grad_(False)
    with pytest.raises(errors.CaptureError, match="frozen in the first and not in member 1"):
        together.loop(x, y)


def test_members_have_to_do_the_same(interpreted):
    def member(layer):
        model = nn.Sequential(nn.Linear(2, 2), layer)
        return lambda x: model(x).detach()

    def applying(function):
        return lambda x: function(x)

    cases = [
        ([member(nn.ReLU()), member(nn.Tanh())], r"layers\[1\] is Tanh in member 1, and ReLU in"),
        ([lambda x: x * 2, lambda x: x * 3], "lambda> of .*in member 1"),
        ([applying(torch.sin), applying(torch.cos)], "function is cos in member 1, and sin in"),
        ([lambda x, k=k: x * k for k in (2.0, 3.0)], r"defaults__\[0\] is 3.0 .* torch.tensor\(3"),
    ]
    for steps, message in cases:
        with pytest.raises(errors.CaptureError, match=message):
            tg.ensemble(steps).loop(torch.ones(4, 2, 1, 2))


def test_how_arguments_are_nested_matters_here_too(interpreted):
    ensemble = tg.ensemble([lambda d: d["p"] - d["q"]] * 2)
    p, q = torch.full((2, 1), 3.0), torch.ones(2, 1)
    for _ in range(3):
        assert ensemble({"p": p, "q": q}).tolist() == [[2], [2]]
    for _ in range(3):
        assert ensemble({"q": p, "p": q}).tolist() == [[-2], [-2]]
    assert len(ensemble._together) == 2


def test_arrays(interpreted):
    ensemble = tg.ensemble([lambda x: x * 2] * 2)
    assert ensemble.loop(np.ones((4, 2, 3))).tolist() == np.full((4, 2, 3), 2).tolist()
    assert ensemble(np.ones((2, 3))).tolist() == np.full((2, 3), 2).tolist()


def test_shapes_and_numbers_of_tensors_have_to_be_alike(interpreted):
    def member(*tensors):
        return lambda x: sum((t.sum() for t in tensors), x)

    for others, message in (
        ([torch.ones(3)], r"is a torch.Tensor, torch.float32\[3\] on cpu in member 1, and"),
        ([torch.ones(2), torch.ones(2)], r"only member 1 has tensors\[1\]"),
    ):
        ensemble = tg.ensemble([member(torch.ones(2)), member(*others)])
        with pytest.raises(errors.CaptureError, match=message):
            ensemble.loop(torch.ones(4, 2))


def test_values_and_side_effects_are_errors_here_too(interpreted):
    with pytest.raises(errors.CaptureError, match="value of a tensor"):
        tg.ensemble([lambda x: x * x.sum().item()])(torch.ones(1, 2))
    seen = []

    def step(x):
        seen.append(1)
        return x

    ensemble = tg.ensemble([step, step])
    with pytest.raises(errors.CaptureError, match="seen .*entries"):
        ensemble.loop(torch.ones(9, 2, 3))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((4, 2, 5, 3), (4, 2, 5, 2)), "there are 3"),
        (((4, 3, 5, 3), (4, 2, 5, 2)), "the same for all"),
        (((0, 3, 5, 3), (0, 3, 5, 2)), "no steps"),
        (((4,), (4,)), "first dimensions"),
    ],
)
def test_arguments_without_members(shapes, message):
    pair = Ensembles.of(3)
    with pytest.raises(ValueError, match=message):
        pair.ensemble.loop(*map(torch.ones, shapes))


def test_an_ensemble_of_nothing():
    with pytest.raises(ValueError, match="at least one"):
        tg.ensemble([])


@pytest.mark.parametrize("way", ["between members", "inside one"])
def test_tensors_over_parts_of_one_memory(interpreted, way):
    memory = torch.zeros(8)

    def member(one, other):
        return lambda x: (one.add_(x) + other.add_(2)).sum()

    apart = [torch.zeros(4) for _ in range(4)]
    if way == "between members":
        steps = [member(memory[:4], apart[0]), member(memory[2:6], apart[1])]
    else:
        steps = [member(*apart[:2]), member(memory[:4], memory[1:5])]
    with pytest.raises(errors.CaptureError, match=r"one memory|share one, of shape|shares memory"):
        tg.ensemble(steps).loop(torch.ones(3, 2, 4))


def test_tensors_that_lie_by_turns_are_apart(interpreted):
    memory = torch.zeros(3, 2)

    def member(total):
        return lambda x: total.add_(x).sum()

    together = tg.ensemble([member(memory[:, i]) for i in range(2)])
    assert together.loop(torch.ones(4, 2, 3)).tolist() == [[3, 3], [6, 6], [9, 9], [12, 12]]
    assert len(together._together) == 1


def doubling(x):
    return x * 2


def test_copies_and_pickles(interpreted):
    together = tg.ensemble([doubling, doubling])
    for _ in range(3):
        together(torch.ones(2))
    for copied in (copy.deepcopy(together), pickle.loads(pickle.dumps(together))):
        assert copied(torch.ones(2)).tolist() == [2, 2] and not copied._together


@pytest.mark.parametrize("members", [2, 17])
def test_transformations_of_ensembles(interpreted, members):
    weights = [torch.full((3,), float(i)) for i in range(members)]
    together = tg.ensemble([lambda x, w=w: (w * x).sin().sum() for w in weights])
    x = torch.randn(4, members, 3, generator=torch.Generator().manual_seed(0))
    for entry in x:
        together(entry)
    assert len(together._together) == 1
    close([torch.vmap(together)(x)], [torch.stack([together(entry) for entry in x])])
    gradient = torch.func.grad(lambda x: together(x).sum())(x[0])
    close([gradient], [torch.stack([w * (w * v).cos() for w, v in zip(weights, x[0])])])


def test_a_member_with_batch_normalization_is_trained_alone_afterwards(interpreted):
    """Its weights lie in a stack then, as torch's kernels of gradients do not expect."""

    def make(seed):
        torch.manual_seed(seed)
        layers = nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Linear(4, 2)
        model = nn.Sequential(*layers).to(torch.float64)
        for p in model[1].parameters():
            nn.init.uniform_(p, 0.5, 1.5)
        return model

    models = [make(seed) for seed in range(3)]
    x, _ = data(3, dtype=torch.float64)
    for model in models:
        model.eval()
    together = tg.ensemble([lambda x, m=m: m(x).detach().sum() for m in models])
    for _ in range(3):
        together(x)
    assert len(together._together) == 1 and not models[0][1].weight.data.is_contiguous()
    for seed, model in enumerate(models):
        alone = make(seed)
        for one in (model, alone):
            one.train()
            (one(x[0]) ** 3).sum().backward()
        close([p.grad.data for p in model.parameters()], [p.grad.data for p in alone.parameters()])


# ------------------------------------------------------------ operators that lanes mind


def rescaled(x, y):
    """A gradient, say, is made no longer than 1."""
    return x / x.norm().clamp(min=1)


def kept_dims(x, y):
    return x / (x * x).sum(None, keepdim=True)


def counted_right(x, y):
    return (x.sum().gt(0) == y.sum().gt(0)).sum()


def repeated(x, y):
    return x.repeat_interleave(2, 0)


def numbers_of_other_kinds(x, y):
    """Of which only those of kinds beyond that of the dimensions have a say in the dtype."""
    whole = (x > 0).to(torch.int32)
    double, long = torch.tensor(2.0, dtype=torch.float64), torch.tensor(2**30)
    products = [x * double, whole * long, torch.where(x > 0, double, x), x > double, whole + double]
    return [product * 1 for product in products]


def test_numbers_beside_lanes_have_no_say_in_dtypes():
    weights = [torch.full((3,), float(i + 1)) for i in range(2)]
    steps = [lambda x, y, w=w: numbers_of_other_kinds(x * w, y) for w in weights]
    together = tg.ensemble(steps)
    x, y = data(4, 2)
    for row, target in zip(x, y):
        found = together(row, target)
        expected = [[*map(torch.stack, zip(*(s(a, b) for s, a, b in zip(steps, row, target))))]]
        close(found, expected[0])
    assert len(together._together) == 1 and together._together[0]._layout.lanes == LANES


@pytest.mark.parametrize("function", [rescaled, kept_dims, counted_right, repeated])
def test_operators_in_lanes(function):
    weights = [torch.full((3,), float(i + 1)) for i in range(2)]
    steps = [lambda x, y, w=w: function(x * w, y) for w in weights]
    ensemble = tg.ensemble(steps)
    x, y = data(4, 2)
    found = ensemble.loop(x, y)
    expected = torch.stack(
        [torch.stack([step(x[i, j], y[i, j]) for j, step in enumerate(steps)]) for i in range(4)]
    )
    assert len(ensemble._together) == 1
    close([found], [expected])


def test_what_changes_between_rounds_needs_no_new_program(interpreted):
    """As the counters of a schedule do, which each member holds."""
    members = [Training(seed=seed) for seed in range(2)]
    for member in members:
        member.step.rounds = 0
    ensemble = tg.ensemble([member.step for member in members])
    with pytest.warns(UserWarning, match=r"did the same in 32 calls .*rounds \(\d+, then \d+\)"):
        for round in range(34):
            for member in members:
                member.step.rounds = round
            ensemble.loop(*data(4, 2))
    assert len(ensemble._together) == 2  # one before there were stacks, in which tensors lie apart


@pytest.mark.parametrize(
    "wrapped",
    [lambda x: tg.Tensor(x, requires_grad=True), lambda x: tg.Tensor(x, requires_grad=True) * 2],
)
def test_stacked_arguments_that_require_gradients(wrapped):
    for run in (tg.ensemble([torch.sin] * 2).loop, tg.compile(torch.sin).loop):
        with pytest.raises(errors.CaptureError, match="cannot require gradients or have a history"):
            run(wrapped(torch.ones(3, 2)))


def test_histories_outside_of_members():
    def member():
        w = tg.Tensor([1.0, 1.0], requires_grad=True)
        outside = w * 2

        def step(x):
            w.grad = None
            (outside * x).sum().backward(retain_graph=True)

        return step

    with pytest.raises(errors.CaptureError, match="history of outside, which was computed outside"):
        tg.ensemble([member(), member()]).loop(torch.ones(3, 2, 2))


def test_members_of_which_some_share_what_they_change(interpreted):
    shared, own = Training(), Training()
    ensemble = tg.ensemble([own.step, shared.step, shared.step])
    with pytest.raises(errors.CaptureError, match="members of an ensemble share model"):
        ensemble.loop(*data(4, 3))


def test_a_shared_rate_that_is_filled_past_its_version(interpreted):
    rate = torch.tensor(1.0)
    ensemble = tg.ensemble([lambda x: x * rate] * 2)
    ensemble.loop(torch.ones(3, 2))
    rate.data.fill_(2.0)
    assert ensemble.loop(torch.ones(3, 2)).tolist() == [[2, 2]] * 3


def test_lanes_that_are_left_over_divide_by_no_zero():
    divisors = [torch.tensor([i + 1]) for i in range(3)]
    ensemble = tg.ensemble([lambda x, d=d: x // d for d in divisors])
    x = torch.arange(12).view(4, 3, 1)
    assert torch.equal(ensemble.loop(x), x // torch.tensor([[[1], [2], [3]]]))


def test_members_may_not_change_arguments(interpreted):
    ensemble = tg.ensemble([lambda x: x.mul_(2).sum()] * 2)
    with pytest.raises(errors.CaptureError, match="change an argument in place"):
        ensemble.loop(torch.ones(3, 2, 2))


def test_results_are_wrapped_as_the_arguments(interpreted):
    ensemble = tg.ensemble([lambda x: x * 2] * 2)
    for kind in (torch.Tensor, tg.Tensor):
        for _ in range(3):
            given = torch.ones(3, 2)
            assert type(ensemble.loop(tg.Tensor(given) if kind is tg.Tensor else given)) is kind


def test_more_threads_than_members():
    """Each thread has scratch memory of its own, and there is some for as many as blocks."""
    members = 2 * LANES + 1
    ensemble = Ensembles.of(members)
    with threads(8):
        ensemble.loop(*data(4, members))
        native = ensemble.ensemble._together[0]._executable
        assert isinstance(native, Native) and native._threads == 3
        given = []
        native._run = lambda *arguments: given.append(arguments[-1])
        ensemble.ensemble.loop(*data(4, members))
    assert set(given) == {3}


def tree_leaves(results):
    return tree_flatten(results)[0]


def parts_of_rows(x, y):
    return torch.tanh(x * 2)[:2], y.sum() * x.sum()


def a_number(x, y):
    return torch.cat([x, x * 2])[1, 2]


@pytest.mark.parametrize("function", [parts_of_rows, a_number])
def test_results_that_are_parts(function):
    ensemble = tg.ensemble([function] * 3)
    x, y = data(5, 3)
    found = tree_leaves(ensemble.loop(x, y))
    expected = [[tree_leaves(function(x[i, j], y[i, j])) for j in range(3)] for i in range(5)]
    for k, result in enumerate(found):
        close([result], [torch.stack([torch.stack([r[k] for r in row]) for row in expected])])


# ------------------------------------------------------------ what stands where in members


def momentum_of_layers(unfrozen_later):
    """A member whose first layer may have begun to learn, and to have a momentum, later."""
    training = Training(lambda: nn.Linear(3, 2), nn.Tanh, lambda: nn.Linear(2, 2), momentum=0.9)
    if unfrozen_later:
        training.model[0].requires_grad_(False)
        training.step(*(t[0, 0] for t in data(1, 1)))
        training.model[0].requires_grad_(True)
    training.step(*(t[0, 0] for t in data(1, 1)))
    return training


@pytest.mark.parametrize("member", range(3))
def test_momenta_that_came_in_another_order(interpreted, member):
    ensembles = Ensembles(*(lambda i=i: momentum_of_layers(i == member) for i in range(3)))
    ensembles.loop(*data(12, 3))


def test_an_optimizer_that_takes_over_the_state_of_another(interpreted):
    """As in population-based training: momenta and learning rates."""
    ensembles = Ensembles.of(3, lr=torch.tensor(0.1), momentum=0.9)
    ensembles.step()

    def take_over(trainings):
        trainings[2].optimizer.load_state_dict(trainings[0].optimizer.state_dict())
        trainings[1].optimizer.param_groups[0]["lr"] = torch.tensor(0.02)

    take_over(ensembles.ours)
    take_over(ensembles.theirs)
    ensembles.step(6)


def test_a_learning_rate_that_is_replaced_is_watched_for_a_while(interpreted):
    members = [Training(seed=seed, lr=torch.tensor(0.1)) for seed in range(3)]
    ensemble, runs = tg.ensemble([watched(m.step) for m in members]), RUNS
    x, y = (t[0] for t in data(1, 3))
    for i in range(12):
        if i == 6:
            members[2].optimizer.param_groups[0]["lr"] = torch.tensor(0.02)
        ensemble(x, y)
        if i in (5, 11):
            before = len(runs)
            ensemble(x, y)
            assert len(runs) == before


RUNS = set()  # at which no search for state looks


def watched(step):
    def function(x, y):
        RUNS.add(len(RUNS))
        return step(x, y)

    return function


class Affine:
    """Fields that are set in one order or the other."""

    def __init__(self, i, backwards):
        fields = {"gain": torch.tensor(2.0 + i), "shift": torch.tensor(0.1 * i)}
        for name in sorted(fields, reverse=backwards):
            setattr(self, name, fields[name])

    def step(self, x):
        return x * self.gain + self.shift


def test_fields_that_were_set_in_another_order(interpreted):
    ensemble = tg.ensemble([Affine(i, i == 1).step for i in range(3)])
    with pytest.raises(errors.CaptureError, match="step has its entries, or its fields, in"):
        for _ in range(3):
            ensemble(torch.ones(3, 4))


@pytest.mark.parametrize(
    "keys",
    [("gain", "shift"), ((1, "w"), (1, "b")), (torch.sin, torch.cos), (len, "a")],
    ids=["words", "tuples", "functions", "mixed"],
)
def test_entries_that_were_set_in_another_order(interpreted, keys):
    def member(names):
        tensors = {name: torch.tensor(2.0 + i) for i, name in enumerate(names)}
        return lambda x: x * tensors[keys[0]] + tensors[keys[1]]

    ensemble = tg.ensemble([member(keys), member(keys[::-1])])
    with pytest.raises(errors.CaptureError, match="tensors has its entries, or its fields, in ano"):
        for _ in range(3):
            ensemble(torch.ones(2, 4))


@pytest.mark.parametrize(
    "key",
    [
        lambda a: a, lambda a: id(a), lambda a: a.data, lambda a: id(a.data),
        lambda a: (a.requires_grad_(), a)[1], lambda a: id(a.requires_grad_()),
    ],
    ids=["tensor", "id", "value", "id of the value", "leaf", "id of the leaf"],
)  # fmt: skip
def test_entries_by_tensor_that_were_set_in_another_order(interpreted, key):
    def member(backwards):
        pair = [tg.Tensor([2.0]), tg.Tensor([3.0])]
        kept = {key(a): torch.tensor(5.0 * i) for i, a in enumerate(pair)}
        kept = dict(reversed(kept.items())) if backwards else kept

        def step(x):
            for a, value in zip(pair, kept.values()):
                x = x * a + value
            return x.detach()

        return step

    ensemble = tg.ensemble([member(False), member(True)])
    with pytest.raises(errors.CaptureError, match="kept has its entries, or its fields, in"):
        for _ in range(3):
            ensemble(torch.ones(2, 4))


@pytest.mark.parametrize("kind", ["id", "id of the value"])
def test_entries_that_every_member_has_names_of_its_own_for(interpreted, kind):
    def member(i):
        weight = tg.Tensor([1.0 + i], requires_grad=True)
        key = {"id": id(weight), "id of the value": id(weight.data)}[kind]
        kept = {key: torch.tensor(2.0 * i)}

        def step(x):
            (value,) = kept.values()
            return (weight * x + value).detach()

        return step

    steps = [member(i) for i in range(3)]
    ensemble, x = tg.ensemble(steps), torch.full((3, 2), 2.0)
    for _ in range(5):
        assert torch.equal(ensemble(x).data, torch.stack([step(x[0]).data for step in steps]))


def refused(member, message):
    ensemble = tg.ensemble([member(0), member(1)])
    with pytest.raises(errors.CaptureError, match=message):
        for _ in range(3):
            ensemble(torch.ones(2, 4))


def of_entries(i):
    gains, shifts = [torch.ones(4)], [torch.ones(4), torch.ones(4)]
    gains, shifts = (shifts, gains) if i else (gains, shifts)
    return lambda x: x * sum(gains) + sum(shifts)


def of_groups(i):
    factors = [tg.Tensor(torch.ones(4), requires_grad=True) for _ in range(3)]
    decaying, others = factors[: 1 + i], factors[1 + i :]
    groups = [{"params": decaying, "weight_decay": 0.5}, {"params": others}]
    optimizer = tg.optim.SGD(groups, lr=0.1)

    def step(x):
        optimizer.zero_grad()
        (x * factors[0] * factors[1] * factors[2]).sum().backward()
        optimizer.step()

    return step


def of_layers(i):
    layers = {name: nn.Linear(4, 4) for name in (("gain", "skip") if i else ("gain", "shift"))}
    return lambda x: sum(layer(x) for name, layer in layers.items() if name != "skip").detach()


def of_none(i):
    gain, shift = (None, torch.ones(4)) if i else (torch.ones(4), None)
    return lambda x: x + shift if gain is None else x * gain


def of_rows(i):
    data = torch.ones(5 + i)
    return lambda x: x / len(data)


def of_fields(i):
    module = nn.Module()
    setattr(module, "shift" if i else "gain", nn.Parameter(torch.ones(4)))
    return lambda x: (x * module.gain if hasattr(module, "gain") else x + module.shift).detach()


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (of_entries, r"only member 1 has gains\[1\]"),
        (of_groups, r"only member 1 has .*param_groups\[0\]\['params'\]\[1\]"),
        (of_layers, r"member 1 has layers\['skip'\] where the first has layers\['shift'\]"),
        (of_none, "gain is None in member 1, and a torch.Tensor, .* in the first"),
        (of_rows, r"data is a torch.Tensor, torch.float32\[6\] on cpu in member 1, and"),
        (of_fields, "member 1 has module.shift where the first has module.gain"),
    ],
)
def test_tensors_that_are_elsewhere_in_members(interpreted, member, message):
    refused(member, message)


class Kind(enum.Enum):
    SCALED = 1
    SQUARED = 2


@pytest.mark.parametrize(
    ("one", "other", "act"),
    [
        (frozenset("a"), frozenset("b"), lambda v, x: x * 2 if "a" in v else x),
        (Fraction(1, 2), Fraction(1, 3), lambda v, x: x * float(v)),
        (operator.itemgetter(0), operator.itemgetter(1), lambda v, x: x * v((2.0, 3.0))),
        (torch.Tensor.relu, torch.Tensor.tanh, lambda v, x: v(x)),
        ("a".__contains__, "b".__contains__, lambda v, x: x * 2 if v("a") else x),
        (Kind.SCALED, Kind.SQUARED, lambda v, x: x * 2 if v is Kind.SCALED else x * x),
        (timedelta(1), timedelta(2), lambda v, x: x * v.days),
    ],
    ids=["set", "fraction", "itemgetter", "method", "bound method", "enum", "timedelta"],
)
def test_constants_that_differ_in_members(interpreted, one, other, act):
    def member(i):
        value = other if i else one
        return lambda x: act(value, x)

    refused(member, r"value(\.__self__)? is .* in member 1, and .* in the first")


class Gain(NamedTuple):
    value: float


class Scaled:
    def __init__(self, factor):
        self.factor = factor


@pytest.mark.parametrize(
    ("one", "other", "act"),
    [
        ({torch.sin}, {torch.cos}, lambda v, x: [*v][0](x)),
        ({Kind.SCALED}, {Kind.SQUARED}, lambda v, x: x * [*v][0].value),
        ({Fraction(1, 2)}, {Fraction(1, 3)}, lambda v, x: x * float([*v][0])),
        ({Scaled(1.0)}, {Scaled(2.0)}, lambda v, x: x * [*v][0].factor),
        ({Gain(1.0)}, {Gain(2.0)}, lambda v, x: x * [*v][0].value),
        ({frozenset({1})}, {frozenset({2})}, lambda v, x: x * sum([*v][0])),
        ({0.0}, {-0.0}, lambda v, x: 1 / (x * [*v][0])),
        ({1}, {True}, lambda v, x: x * 2 if [*v][0] is True else x),
        ({0, 8}, {8, 0}, lambda v, x: x * [*v][0]),
        ({frozenset({1}): 1}, {frozenset({2}): 1}, lambda v, x: x * sum([*v][0])),
        ({0.0: 1}, {-0.0: 1}, lambda v, x: 1 / (x * [*v][0])),
    ],
    ids=[
        "functions", "enums", "fractions", "objects", "named tuples", "sets", "zeros", "truth",
        "order", "keys that are sets", "keys that are zeros",
    ],
)  # fmt: skip
def test_elements_of_sets_and_keys_that_differ_in_members(interpreted, one, other, act):
    def member(i):
        value = other if i else one
        return lambda x: act(value, x)

    refused(member, "member 1")


@pytest.mark.parametrize(
    "elements",
    [
        lambda: {torch.sin, Kind.SCALED, Fraction(1, 2), 2.0, "a", frozenset({1, "b"})},
        lambda: {frozenset({2}): 1, float("nan"): 2, (1, 2.0): 3},
    ],
    ids=["set", "dict"],
)
def test_members_with_equal_sets_and_keys(interpreted, elements):
    def member():
        value = elements()
        return lambda x: x * len(value)

    ensemble, x = tg.ensemble([member(), member()]), torch.ones(2, 3)
    for _ in range(4):
        assert torch.equal(ensemble(x).data, x * len(elements()))


def test_sets_of_parameters(interpreted):
    def member(decayed):
        def make():
            factors = [tg.Tensor([2.0], requires_grad=True) for _ in range(2)]
            named = {(id(f), "scale") for f in factors}
            chosen, ids = {factors[decayed]}, {id(factors[decayed])}

            def step(x):
                total = x * 0
                for f in factors:
                    assert (id(f), "scale") in named
                    total = total + x * f * (2 if f in chosen and id(f) in ids else 1)
                return total.detach()

            return step

        return make()

    ensemble, x = tg.ensemble([member(0), member(0)]), torch.ones(2, 4)
    for _ in range(4):
        assert torch.equal(ensemble(x).data, torch.full((2, 4), 6.0))
    refused_members = tg.ensemble([member(0), member(1)])
    with pytest.raises(errors.CaptureError, match="chosen is {.*} in member 1, and {.*} in the"):
        for _ in range(3):
            refused_members(x)


def test_members_that_are_evaluated_between_steps(interpreted):
    ensembles = Ensembles.of(3)
    for _ in range(3):
        ensembles.step()
        model = ensembles.ours[1].model.eval()
        model(torch.ones(1, 3))
        model.train()
    assert len(ensembles.ensemble._together) == 1


def test_states_that_optimizers_load_need_no_new_program(interpreted):
    ensembles = Ensembles.of(3, momentum=0.5)
    ensembles.step()
    for _ in range(2):
        for members in (ensembles.ours, ensembles.theirs):
            members[1].optimizer.load_state_dict(members[2].optimizer.state_dict())
        ensembles.step(calls=1)
    assert len(ensembles.ensemble._together) == 1


def test_tensors_that_are_taken_away_in_members(interpreted):
    def member(i):
        holder = Affine(i, False)

        def step(x):
            found = x * holder.gain
            holder.shift = None
            return found

        step.holder = holder
        return step

    steps = [member(i) for i in range(2)]
    ensemble = tg.ensemble(steps)
    with pytest.raises(errors.CaptureError, match="take a tensor away from holder.shift"):
        for _ in range(4):
            for step in steps:
                step.holder.shift = torch.tensor(1.0)
            ensemble(torch.ones(2, 4))


def test_optimizers_of_other_parameters(interpreted):
    def member(of):
        layers = nn.Linear(3, 3), nn.Linear(3, 3)
        optimizer = tg.optim.SGD(layers[of].parameters(), lr=0.1)

        def step(x):
            loss = layers[1](layers[0](x)).square().mean()
            loss.backward()
            optimizer.step()
            return loss

        return step

    ensemble = tg.ensemble([member(0), member(1)])
    with pytest.raises(errors.CaptureError, match=r"is the same as layers\[1\].* in member 1, and"):
        for _ in range(3):
            ensemble(torch.ones(2, 4, 3))


def test_tensors_that_are_one_in_some_members(interpreted):
    def member(i):
        gain, shift = torch.tensor(2.0), torch.tensor(3.0)
        pair = {0: (gain, gain), 1: (gain, shift), 2: (shift, shift)}[i]
        return lambda x: x * pair[0] + pair[1]

    steps = [member(i) for i in range(3)]
    ensemble, x = tg.ensemble(steps), torch.full((3, 4), 2.0)
    for _ in range(5):
        assert torch.equal(ensemble(x), torch.stack([step(x[0]) for step in steps]))


def test_pairs_that_are_one_in_members_by_turns(interpreted):
    def member(i):
        one, two = torch.tensor(2.0), torch.tensor(3.0)
        kept = [(one, one, two), (one, two, two)][i]
        return lambda x: x * kept[0] + kept[1] - kept[2]

    ensemble = tg.ensemble([member(i) for i in range(2)])
    with pytest.raises(errors.CaptureError, match="one tensor in member 0, and two in member 1"):
        for _ in range(3):
            ensemble(torch.ones(2, 4))


def test_tensors_that_change_and_are_one_in_some_members(interpreted):
    def member(i):
        total = torch.zeros(4)
        last = torch.zeros(4) if i else total

        def step(x):
            total.add_(x)
            return total - last

        return step

    ensemble = tg.ensemble([member(0), member(1)])
    with pytest.raises(errors.CaptureError, match=r"(total|last), .* are in one memory, and"):
        for _ in range(6):
            ensemble(torch.ones(2, 4))


def test_layers_that_are_frozen_by_turns(interpreted):
    ensembles = Ensembles.of(3, momentum=0.5)
    for i in range(6):
        for training in (*ensembles.ours, *ensembles.theirs):
            training.model[0].requires_grad_(i % 2 == 0)
        ensembles.step(3)


def test_a_backbone_that_members_share_and_evaluate(own_cache):
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
    backbone.requires_grad_(False)

    def member():
        head = nn.Linear(4, 2)
        optimizer = tg.optim.SGD(head.parameters(), lr=0.1)

        def step(x):
            optimizer.zero_grad()
            loss = head(backbone(x)).square().mean()
            loss.backward()
            optimizer.step()
            return loss

        return step

    ensemble = tg.ensemble([member() for _ in range(2)])
    x = torch.randn(2, 5, 3)
    losses = [ensemble(x).data for _ in range(6)]
    assert (losses[5] < losses[0]).all()


def test_members_side_by_side_in_one_function(own_cache):
    """Which lie by turns in memory."""
    ours, theirs = ([Training(seed=seed) for seed in range(3)] for _ in range(2))
    ensemble = tg.ensemble([training.step for training in ours])
    x, y = (t[0] for t in data(1, 3))
    for _ in range(4):
        ensemble(x, y)
        for i, training in enumerate(theirs):
            training.step(x[i], y[i])

    def mutual(members):
        a, b = members[:2]

        def step(x):
            a.optimizer.zero_grad()
            b.optimizer.zero_grad()
            loss = (a.model(x) - b.model(x)).square().mean()
            loss.backward()
            a.optimizer.step()
            b.optimizer.step()
            return loss

        return step

    fast, plain = tg.compile(mutual(ours)), mutual(theirs)
    for _ in range(5):
        close([fast(x[0]).data], [plain(x[0]).data])
    assert len(fast.programs) == 1
    for one, other in zip(ours, theirs):
        same_training(one, other)
