"""Gradients that nobody has looked at are written over, and no others."""

import copy
import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from steps import Training, close, data, own_cache, same_training, threads

import tinygrad_ee559 as tg
from tinygrad_ee559.compiling.unseen import Unseen

__all__ = ["own_cache"]
pytestmark = [pytest.mark.usefixtures("own_cache"), pytest.mark.no_cover]


def trained(training):
    """The compiled step, after so many calls that a program runs."""
    fast = tg.compile(training.step)
    for i in range(4):
        fast(*data(seed=i))
    assert len(fast.programs) == 1
    return fast


class Holder:
    """Somebody who keeps gradients in various ways."""

    def __init__(self, training):
        self.training = training
        self.kept = []

    def parameters(self):
        return self.training.model.parameters()

    def hold(self):
        """The gradients, not looked at yet."""
        self.kept += [p.grad for p in self.parameters() if p.grad is not None]

    def look(self):
        self.kept += [tg.Tensor(p.grad.data) for p in self.parameters() if p.grad is not None]

    def view(self):
        seen = (p.grad.data for p in self.parameters() if p.grad is not None)
        self.kept += [tg.Tensor(gradient.view(-1)) for gradient in seen]

    def copy(self):
        self.kept += [copy.deepcopy(p.grad) for p in self.parameters() if p.grad is not None]

    def derive(self):
        self.kept += [p.grad * 2 for p in self.parameters() if p.grad is not None]

    def let_go(self):
        self.kept.clear()

    def halve(self):
        for p in self.parameters():
            if p.grad is not None:
                p.grad.mul_(0.5)

    def replace(self):
        for p in self.parameters():
            p.grad = tg.Tensor(torch.ones(p.shape))

    def zero(self):
        self.training.optimizer.zero_grad()

    def values(self):
        return [gradient.data for gradient in self.kept]


ACTIONS = [name for name in vars(Holder) if name[0] != "_" and name not in ("parameters", "values")]


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["compiled", "compiled", "eager", *ACTIONS]), max_size=25))
def test_whoever_keeps_gradients_keeps_their_values(actions):
    ours, theirs = Training(), Training()
    fast = trained(ours)
    for i in range(4):
        theirs.step(*data(seed=i))
    holders = Holder(ours), Holder(theirs)
    for i, action in enumerate(actions):
        if action in ("compiled", "eager"):
            x, y = data(seed=i + 4)
            (fast if action == "compiled" else ours.step)(x, y)
            theirs.step(x, y)
        else:
            for holder in holders:
                getattr(holder, action)()
    close(holders[0].values(), holders[1].values(), factor=10.0)
    same_training(ours, theirs)


def test_unseen_gradients_are_written_over():
    training = Training()
    fast = trained(training)
    first = next(training.model.parameters())

    def address():
        return first.grad.value.data_ptr()  # which does not count as looking

    before = id(first.grad), address()
    for i in range(3):
        fast(*data(seed=i))
        assert type(first.grad) is Unseen and (id(first.grad), address()) == before
    seen = first.grad.data
    fast(*data())
    assert address() != before[1] == seen.data_ptr()


def test_a_program_that_is_gone_leaves_its_gradients():
    training, other = Training(), Training()
    fast = trained(training)
    for i in range(4):
        other.step(*data(seed=i))
    del fast
    gc.collect()
    same_training(training, other)


def test_two_programs_of_one_model_take_turns():
    ours, theirs = Training(), Training()
    fast = tg.compile(ours.step)
    holders = Holder(ours), Holder(theirs)
    for i in range(16):
        x, y = data(seed=i, batch=5 + i % 2)
        fast(x, y)
        theirs.step(x, y)
        for holder in holders:
            holder.hold()
    assert len(fast.programs) == 2
    close(holders[0].values(), holders[1].values(), factor=10.0)
    same_training(ours, theirs)


def test_scratch_memory_for_more_threads_does_not_move_what_is_held(two_threads):
    ours, theirs = Training(), Training()
    fast = trained(ours)
    x, y = data()
    for i in range(4):
        theirs.step(*data(seed=i))
    (program,) = fast.programs
    inputs = program.inputs((x, y), None)
    program._executable.loop([torch.stack([t, t]) for t in inputs], 1, [], 1, members=2)
    fast(x, y)
    theirs.step(x, y)
    same_training(ours, theirs)


def test_a_step_that_failed_leaves_no_half_written_gradient():
    weight = tg.Tensor(torch.ones(5, 2), requires_grad=True)

    def step(i):
        weight.grad = None
        loss = (weight * 2)[i].sum()
        loss.backward()
        return loss.detach()

    fast = tg.compile(step)
    for _ in range(4):
        fast(torch.tensor([0]))
    assert type(weight.grad) is Unseen
    for function in (fast, step):
        with pytest.raises(IndexError):
            function(torch.tensor([5]))
        assert weight.grad is None
    fast(torch.tensor([1]))
    assert weight.grad.tolist() == [[0, 0], [2, 2], [0, 0], [0, 0], [0, 0]]


def test_nobody_sees_a_gradient_that_is_being_written(monkeypatch):
    training = Training()
    fast = trained(training)
    leaves = [p.node for p in training.model.parameters()]
    (program,) = fast.programs
    run, seen = program._executable.run, []

    def watched(*args):
        seen.extend(leaf.grad for leaf in leaves)
        return run(*args)

    monkeypatch.setattr(program._executable, "run", watched)
    fast(*data())
    assert len(seen) == len(leaves) and all(gradient is None for gradient in seen)
    assert all(type(leaf.grad) is Unseen for leaf in leaves)


@pytest.fixture
def two_threads():
    with threads(2):
        yield
