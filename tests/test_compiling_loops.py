"""Loops are calls one by one."""

import pytest
import torch
import torch.nn.functional as F
from steps import Training, accumulating, close, data, interpreted, own_cache, same_training

import tinygrad_ee559 as tg
from tinygrad_ee559 import errors
from tinygrad_ee559.compiling.executable import Artifact
from tinygrad_ee559.compiling.native import Native

__all__ = ["interpreted", "own_cache"]
# Inductor, which is all Python, takes twice as long while coverage is measured.
pytestmark = [pytest.mark.usefixtures("own_cache"), pytest.mark.no_cover]


def one_by_one(step, *streams):
    """Stacked results of calls, each copied before the next one may change it."""
    return torch.stack([step(*part).detach().data.clone() for part in zip(*streams)])


def check(lengths, **options):
    """Loops of these lengths do what calls do; the compiled function."""
    ours, theirs = Training(momentum=0.9, **options), Training(momentum=0.9, **options)
    compiled = tg.compile(ours.step)
    for seed, length in enumerate(lengths):
        x, y = data(length, seed=seed, dtype=options.get("dtype", torch.float32))
        losses = compiled.loop(x, y)
        assert isinstance(losses, tg.Tensor)
        close([losses.data], [one_by_one(theirs.step, x, y)])
        same_training(ours, theirs)
        if seed % 2:
            close([compiled(x[0], y[0]).data], [theirs.step(x[0], y[0]).data])
            same_training(ours, theirs)
    assert len(compiled.programs) == 1
    return compiled


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_loops_are_calls_one_by_one(dtype):
    compiled = check([7, 1, 20, 2], dtype=dtype)
    assert isinstance(compiled.programs[0]._executable, Native)


def test_loops_that_begin_with_single_steps(interpreted):
    check([1, 1, 1, 1, 3, 1])


def test_loops_of_the_ordinary_path():
    """Random numbers are not in native programs."""
    training = Training(lr=0.0)

    def step(x):
        training.optimizer.zero_grad()
        noisy = F.dropout(training.model(x), 0.5)
        noisy.sum().backward()
        training.optimizer.step()
        return {"noisy": noisy.detach(), "none": None, "sum": x.sum()}

    compiled = tg.compile(step)
    x, _ = data(30)
    found = compiled.loop(x)
    assert isinstance(compiled.programs[0]._executable, Artifact)
    outputs = torch.stack([training.model(part).detach().data for part in x])
    dropped = found["noisy"].data == 0
    torch.testing.assert_close(found["noisy"].data, outputs * 2 * ~dropped)
    assert 0.4 < dropped.double().mean() < 0.6 and len(dropped.flatten(1).unique(dim=0)) == 30
    close([found["sum"]], [x.sum((1, 2))])
    assert found["none"] is None


def test_results_in_any_structure(interpreted):
    def step(x, y):
        return {"a": [x + y, tg.Tensor(x)], "b": (x.sum(), 3, None)}

    compiled = tg.compile(step)
    x, y = torch.randn(6, 2), torch.randn(6, 2)
    for _ in range(2):
        found = compiled.loop(x, y)
        assert torch.equal(found["a"][0], x + y) and torch.equal(found["b"][0], x.sum(1))
        assert isinstance(found["a"][1], tg.Tensor) and torch.equal(found["a"][1].data, x)
        assert found["b"][1:] == (3, None)


def test_arguments_of_any_layout(interpreted):
    ours, theirs = Training(), Training()
    compiled = tg.compile(ours.step)
    x, y = data(6)
    for strange in (x.transpose(1, 2).contiguous().transpose(1, 2), x[:1].expand(6, 5, 3), x[::2]):
        compiled.loop(tg.Tensor(strange), y[: len(strange)])
        one_by_one(theirs.step, strange, y)
        same_training(ours, theirs)


def test_state_that_every_step_replaces(interpreted):
    def recurrence():
        state = {"h": torch.zeros(3)}

        def step(x):
            state["h"] = torch.tanh(state["h"] * 0.5 + x)
            return state["h"]

        return state, step

    (ours, step), (theirs, eager) = recurrence(), recurrence()
    compiled = tg.compile(step)
    for seed in range(3):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))
        close([compiled.loop(x)], [one_by_one(eager, x)])
        close([ours["h"]], [theirs["h"]])
    assert compiled.programs


def test_state_that_every_step_changes_and_returns(interpreted):
    """Each result is what it was in its step."""
    state = torch.zeros(3)

    def step(x):
        return state.add_(x)

    compiled = tg.compile(step)
    x = torch.randn(8, 3)
    close([compiled.loop(x)], [x.cumsum(0)], 10)


def test_gradients_that_gather(interpreted):
    ours, theirs = Training(), Training()

    compiled, eager = tg.compile(accumulating(ours)), accumulating(theirs)
    x, y = data(9)
    compiled.loop(x, y)
    one_by_one(eager, x, y)
    same_training(ours, theirs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(2, 5), torch.ones(3, 5)), r"the same for all.*\[2, 5\], \[3, 5\]"),
        ((torch.ones(2), torch.tensor(1.0)), "first dimensions"),
        ((), "first dimensions"),
        ((torch.ones(0, 5),), r"no steps.*\[0, 5\]"),
    ],
)
def test_arguments_that_are_no_streams(arguments, message):
    compiled = tg.compile(lambda *args: args[0] * 2)
    with pytest.raises(ValueError, match=message):
        compiled.loop(*arguments)


def test_an_error_on_the_way(interpreted):
    compiled = tg.compile(lambda x: x * x.sum().item())
    with pytest.raises(tg.errors.CaptureError):
        compiled.loop(torch.ones(3, 2))


@pytest.mark.parametrize("given", [None, "mean", 3, 2.5])
def test_arguments_that_cannot_be_stacked(given):
    compiled = tg.compile(lambda x, y: x)
    with pytest.raises(tg.errors.CaptureError, match=f"argument 1 .* is {given!r}, and has to be"):
        compiled.loop(torch.ones(3, 2), given)


@pytest.mark.parametrize("inside", [True, False])
def test_inference_mode(interpreted, inside):
    """Arguments of any layout, made inside or outside of it, and changed in place."""
    compiled = tg.compile(lambda x: x.add_(1).sum(1))
    x = torch.ones(5, 3, 4)
    with torch.inference_mode():
        turned = (x.clone() if inside else x).mT
        for n in range(2, 5):
            assert compiled.loop(turned).tolist() == [[3.0 * n] * 4] * 5
            assert turned.tolist() == [[[float(n)] * 3] * 4] * 5
    assert compiled.programs


def test_gradients_that_gather_from_none_in_each_loop(interpreted):
    """As gradients of microbatches do, between two updates."""

    def make():
        weight = tg.Tensor([1.0, 2.0], requires_grad=True)

        def step(x):
            (weight * x).sum().backward()
            return weight.grad.detach() * 1

        return weight, step

    (ours, step), (theirs, plain) = make(), make()
    fast = tg.compile(step)
    for i in range(5):
        ours.grad = theirs.grad = None
        x = torch.full((4, 2), i + 1.0)
        assert fast.loop(x).tolist() == one_by_one(plain, x).tolist()
        assert ours.grad.tolist() == theirs.grad.tolist() == [4.0 * (i + 1)] * 2


def test_a_gradient_that_the_first_step_takes_away(interpreted):
    weight = tg.Tensor([1.0], requires_grad=True)

    def step(x):
        factor = 3 if weight.grad is None else 2
        weight.grad = None
        return x * factor

    fast = tg.compile(step)
    for _ in range(4):
        weight.grad = tg.Tensor([1.0])
        assert fast.loop(torch.ones(4, 1)).tolist() == [[2], [3], [3], [3]]


def windows():
    data = torch.arange(12.0)
    return data.unfold(0, 3, 1), data[:1]


def expanded():
    data = torch.arange(12.0)
    return data[:3].expand(6, 3), data[:1]


def columns():
    data = torch.arange(12.0).reshape(3, 4)
    return data.T, data[:, 3]


@pytest.mark.parametrize("make", [windows, expanded, columns], ids=lambda make: make.__name__)
def test_streams_that_are_copied_and_whose_memory_is_changed(interpreted, make):
    stream, state = make()

    def step(x):
        x.add_(1)
        state.add_(1)
        return x.sum()

    with pytest.raises(errors.CaptureError, match="does not lie in memory step after step"):
        tg.compile(step).loop(stream)


def test_streams_beside_each_other(interpreted):
    """Which share no number."""
    ours, theirs = torch.arange(24.0).reshape(4, 6), torch.arange(24.0).reshape(4, 6)

    def step(x, y):
        x.mul_(2)
        return (x * y).sum()

    found = tg.compile(step).loop(ours[:, :3], ours[:, 3:])
    assert found.tolist() == [step(row[:3], row[3:]).item() for row in theirs]
    assert ours.tolist() == theirs.tolist()


def test_streams_that_are_copied_may_be_changed(interpreted):
    ours, theirs = torch.arange(12.0).reshape(3, 4), torch.arange(12.0).reshape(3, 4)
    found = tg.compile(lambda x: x.mul_(2).sum()).loop(ours.T)
    assert found.tolist() == [x.mul_(2).sum().item() for x in theirs.T]
    assert ours.tolist() == theirs.tolist()
