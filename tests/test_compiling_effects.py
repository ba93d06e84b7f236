"""What a run leaves behind: constants, tensors that change places, memory, results and errors."""

import copy
import warnings

import numpy as np
import pytest
import torch
from steps import close, interpreted, own_cache, threads

import tinygrad_ee559 as tg
from tinygrad_ee559 import errors, nn, optim
from tinygrad_ee559.compiling import private

__all__ = ["interpreted", "own_cache"]


class Holder:
    """An object with any attributes."""

    def __init__(self, **attributes):
        vars(self).update(attributes)


def agree(make, arguments, compiled=1):
    """The same function twice, once compiled, gives the same in every call."""
    ours, theirs = tg.compile(make()), make()
    for argument in arguments:
        found, expected = ours(argument.clone()), theirs(argument.clone())
        assert found.tolist() == expected.tolist()
    assert len(ours.programs) == compiled


NUMBERED = [torch.full((3,), float(i)) for i in range(6)]


# ------------------------------------------------------------------------- constants


def test_constants_that_are_changed_in_place(own_cache):
    def summed():
        def function(x):
            total = torch.tensor(0.0)
            wrapped = tg.Tensor(torch.tensor([1.0, 2.0, 3.0]))
            for value in x:
                total += value
            wrapped.data.mul_(x)
            return total + wrapped.data.sum()

        return function

    agree(summed, NUMBERED)


def test_constants_that_are_returned_belong_to_the_caller(own_cache):
    fast = tg.compile(lambda x: (torch.tensor([1.0, 2.0]), x * 2))
    for _ in range(5):
        constant, _ = fast(torch.ones(2))
        assert constant.tolist() == [1, 2]
        constant.mul_(10)


def test_numbers_that_are_returned_belong_to_the_caller(interpreted):
    fast = tg.compile(lambda x: (tg.Tensor(2.0), x * 2))
    for _ in range(5):
        number, _ = fast(torch.ones(2))
        assert number.item() == 2
        number.data = 10.0


@pytest.mark.parametrize("wrapped", [False, True])
def test_state_that_is_returned_stays_state(interpreted, wrapped):
    total = tg.Tensor(torch.zeros(2)) if wrapped else torch.zeros(2)

    def function(x):
        total.add_(x)
        x.mul_(2)
        return total, x

    fast = tg.compile(function)
    for i in range(4):
        x = torch.full((2,), float(i))
        result, doubled = fast(x)
        assert result.data_ptr() == total.data_ptr() and doubled.data_ptr() == x.data_ptr()
        assert doubled.tolist() == [2 * i] * 2
    assert total.tolist() == [6, 6]


def test_constants_that_are_kept(interpreted):
    state = {"n": torch.tensor(5.0)}

    def function(x):
        state["n"] = torch.tensor(0.0)
        return x.sum()

    fast = tg.compile(function)
    for i in range(5):
        state["n"] = torch.tensor(float(i))
        fast(torch.ones(3))
        assert state["n"].item() == 0
    assert len(fast.programs) == 1


# --------------------------------------------------------- tensors that change places


def previous():
    holder = Holder(previous=torch.zeros(3))

    def function(x):
        difference = (x - holder.previous).sum()
        holder.previous = x
        return difference

    return function


def older():
    holder = Holder(old=torch.zeros(3), now=torch.ones(3))

    def function(x):
        holder.old = holder.now
        holder.now = holder.now + x
        return holder.old * 10 + holder.now

    return function


def swapping():
    state = {"a": torch.zeros(3), "b": torch.ones(3)}

    def function(x):
        state["a"], state["b"] = state["b"], state["a"] + x
        return state["a"] * 10 + state["b"]

    return function


@pytest.mark.parametrize("make", [previous, older, swapping], ids=lambda make: make.__name__)
def test_tensors_that_change_places(own_cache, make):
    agree(make, NUMBERED)
    ours, theirs = tg.compile(make()), make()
    steps = torch.stack(NUMBERED)
    for _ in range(2):
        assert ours.loop(steps).tolist() == [theirs(x).tolist() for x in steps]


def test_the_last_argument_of_a_loop_is_kept(own_cache):
    holder = Holder(last=torch.zeros(2))

    def function(x):
        holder.last = x
        return x.sum()

    fast = tg.compile(function)
    for rows in (4, 6):
        xs = torch.arange(2.0 * rows).view(rows, 2)
        fast.loop(xs)
        assert torch.equal(holder.last, xs[-1])


def taking_away():
    holder = Holder(pending=None)

    def function(x):
        total = x.sum() if holder.pending is None else x.sum() + holder.pending.sum()
        holder.pending = None if holder.pending is not None else x * 2
        return total

    return function, lambda: holder.pending


def keeping_the_argument():
    holder = Holder(last=None)

    def function(x):
        y = x * 2
        holder.last = x
        return y

    def reset():
        last, holder.last = holder.last, None
        return last

    return function, reset


def counting_from_a_number():
    holder = Holder(total=0.0)

    def function(x):
        holder.total = holder.total + x.sum()
        return x * 2

    def reset():
        total = holder.total
        if float(total) > 8:
            holder.total = 0.0
        return total

    return function, reset


def counting_in_a_buffer():
    module = nn.Module()
    module.mean = nn.Buffer(torch.zeros(2))

    def function(x):
        module.mean.data = module.mean.data * 0.9 + x
        return x.sum()

    return function, lambda: module.state_dict()["mean"]


def by_pairs():
    table = {(0, 1): torch.tensor(1.0), (1, 0): torch.tensor(100.0)}
    now = Holder(key=(0, 1), calls=0)

    def look():
        now.calls += 1
        now.key = (0, 1) if now.calls < 4 else (1, 0)

    return lambda x: x * table[now.key], look


def writing_out():
    base = torch.zeros(4)

    def function(x):
        torch.mul(x, 2, out=base)
        return base * 3

    return function, lambda: (base, base._version > 0)


def sharing_memory_later(share):
    holder = Holder(a=torch.ones(2), b=torch.zeros(2), calls=0)

    def function(x):
        holder.a.add_(x)
        return holder.b * 2 + holder.a

    def look():
        holder.calls += 1
        if holder.calls == 4:
            holder.b = share(holder.a)

    return function, look


@pytest.mark.parametrize(
    "make",
    [
        taking_away,
        keeping_the_argument,
        counting_from_a_number,
        counting_in_a_buffer,
        by_pairs,
        writing_out,
        lambda: sharing_memory_later(lambda tensor: tensor.view(2)),
        lambda: sharing_memory_later(lambda tensor: tensor),
    ],
)
def test_what_happens_between_calls(interpreted, make):
    """Whatever is left, reset, replaced or shared between calls, results are those of eager."""
    (ours, our_look), (theirs, their_look) = make(), make()
    fast = tg.compile(ours)
    size = 4 if make is writing_out else 2
    for i in range(9):
        x = torch.full((size,), float(i + 1))
        assert fast(x.clone()).tolist() == theirs(x.clone()).tolist(), i
        assert str(our_look()) == str(their_look()), i
    assert fast.programs


def test_arguments_that_are_changed_and_share_memory(interpreted):
    def function(x, y):
        x.add_(1)
        return y * 2

    fast = tg.compile(function)
    for _ in range(3):
        fast(torch.ones(2), torch.ones(2))
    both = torch.ones(3)
    assert fast(both[:2], both[1:]).tolist() == [4, 2]


def test_gradients_that_are_taken_away(interpreted):
    w = tg.Tensor([1.0, 2.0], requires_grad=True)
    optimizer = optim.SGD([w], lr=0.5)

    def update():
        optimizer.step()
        optimizer.zero_grad()

    fast = tg.compile(update)
    for i in range(5):
        (w * 2).sum().backward()
        fast()
        assert w.grad is None and w.tolist() == [1 - (i + 1), 2 - (i + 1)]
    assert len(fast.programs) == 1


def test_steps_of_ensembles_keep_copies(interpreted):
    def member():
        holder = Holder(last=torch.zeros(2))

        def step(x):
            holder.last = x
            return x.sum()

        return step

    with pytest.raises(errors.CaptureError, match=r"holder\.last, .*tensor\.clone\(\)"):
        tg.ensemble([member(), member()]).loop(torch.ones(4, 2, 2))


# ----------------------------------------------------------- other memory, same tensor


def test_a_tensor_that_gets_other_memory(own_cache):
    for other in (torch.ones(2), torch.ones(10, dtype=torch.float64), torch.arange(20.0)[::2]):
        kept = torch.arange(10.0)
        fast = tg.compile(lambda x, kept=kept: x + kept.sum())
        for _ in range(4):
            fast(torch.zeros(1))
        kept.data = other
        assert fast(torch.zeros(1)).item() == other.sum().item()


def test_loops_change_arguments_that_are_not_contiguous(own_cache):
    def function(x):
        x.add_(1)
        return x.sum()

    fast = tg.compile(function)
    for _ in range(2):
        for xs in (torch.zeros(5, 3), torch.zeros(3, 5).t()):
            fast.loop(xs)
            assert xs.tolist() == [[1] * 3] * 5


def shared():
    rate, data = torch.tensor(0.1), torch.randn(50, 2, generator=torch.Generator().manual_seed(0))

    def member(seed):
        torch.manual_seed(seed)
        model = nn.Linear(2, 1)
        optimizer = optim.SGD(model.parameters(), lr=rate)

        def step(i):
            optimizer.zero_grad()
            loss = (model(data[i]) ** 2).mean()
            loss.backward()
            optimizer.step()
            return loss

        step.optimizer = optimizer
        return step

    return rate, data, [member(seed) for seed in range(2)]


def test_what_members_share_may_change(interpreted):
    (rate, data, ours), (other_rate, other_data, theirs) = shared(), shared()
    ensemble = tg.ensemble(ours)
    indices = torch.randint(50, (5, 2, 4), generator=torch.Generator().manual_seed(1))

    def compare():
        expected = [[step(i).item() for step, i in zip(theirs, row)] for row in indices]
        assert ensemble.loop(indices).tolist() == pytest.approx(np.array(expected), rel=1e-5)

    compare()
    for tensors in ((rate, other_rate), (data, other_data)):
        for tensor in tensors:
            tensor.mul_(0.5)
        compare()
    assert len(ensemble._together) == 1
    ours[1].optimizer.defaults["lr"] = theirs[1].optimizer.defaults["lr"] = torch.tensor(0.7)
    for steps in (ours, theirs):
        steps[1].optimizer.param_groups[0]["lr"] = steps[1].optimizer.defaults["lr"]
    compare()
    for new in (torch.tensor(0.3), 0.2):
        for step in (*ours, *theirs):
            step.optimizer.param_groups[0]["lr"] = new
        compare()


# --------------------------------------------------------------------------- results


def test_histories_of_sums_are_histories():
    w = tg.Tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(errors.CaptureError, match="still has a history"):
        tg.compile(lambda x: (w + x).sum())(torch.ones(2))

    def step(x):
        w.grad = None
        loss = (w + x).sum()
        loss.backward()
        return loss

    assert tg.compile(step)(torch.ones(2)).item() == 5


def test_ensembles_whose_steps_return_nothing(interpreted):
    totals = torch.zeros(1), torch.zeros(1)

    def member(total):
        def step(x):
            total.add_(x)

        return step

    ensemble = tg.ensemble([member(total) for total in totals])
    for _ in range(4):
        assert ensemble(torch.ones(2, 1)) is None
    assert [total.item() for total in totals] == [4, 4]


# ---------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.tensor([x.min(), x.max()]),
        lambda x: torch.as_tensor([[x[0], 1.0]]),
        lambda x: x.new_tensor([x[0], 1.0]),
        lambda x: x * float(np.from_dlpack(x)[0]),
    ],
    ids=["tensor", "as_tensor", "new_tensor", "dlpack"],
)
def test_values_that_are_read_without_an_operator(function):
    with pytest.raises(errors.CaptureError, match=f"{__file__}, line .*the value of a tensor is"):
        tg.compile(function)(torch.tensor([2.0, 3.0]))


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (lambda x: x + torch.rand(3, generator=torch.Generator()), "Generator"),
        (lambda x: copy.deepcopy(x) * 2, "UntypedStorage"),
    ],
    ids=["generator", "storage"],
)
def test_what_graphs_cannot_have(function, kind):
    with pytest.raises(errors.CaptureError, match=f", line .* is given a {kind}, which cannot be"):
        tg.compile(function)(torch.ones(3))


def test_marks_of_profilers_are_no_operators(interpreted):
    def function(x):
        with torch.profiler.record_function("doubled"):
            return x * 2

    fast = tg.compile(function)
    for _ in range(4):
        assert fast(torch.ones(2)).tolist() == [2, 2]
    assert len(fast.programs) == 1


def test_labels_and_indices_out_of_range(own_cache):
    model = nn.Linear(4, 3)
    weight = torch.ones(5, 2)
    cases = [
        (lambda i: torch.nn.functional.cross_entropy(model(torch.ones(1, 4)), i).detach(), 3),
        (lambda i: weight[i].sum(), 5),
    ]
    for function, bound in cases:
        fast = tg.compile(function)
        for _ in range(4):
            fast(torch.tensor([0]))
        for call in (fast, lambda i, fast=fast: fast.loop(i[None])):
            message = f"is not below {bound}, or is negative; to see"
            with pytest.raises(errors.OperandError, match=message) as caught:
                call(torch.tensor([bound]))
            assert isinstance(caught.value, IndexError)


def test_what_a_failed_step_may_have_changed_counts_as_changed(own_cache):
    total, weight = torch.zeros(2), torch.ones(5, 2)

    def function(i):
        total.add_(1)
        return weight[i] * total

    fast = tg.compile(function)
    for _ in range(3):
        fast(torch.tensor([0]))
    before = total._version
    with pytest.raises(IndexError):
        fast(torch.tensor([5]))
    assert total._version > before


def test_what_changes_in_every_call_and_changes_nothing_is_named(interpreted):
    holder = Holder(epoch=0)

    def function(x):
        assert holder.epoch >= 0
        return x * 2

    fast = tg.compile(function)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for epoch in range(40):
            holder.epoch = epoch
            fast(torch.ones(1))
    (message,) = [str(w.message) for w in caught if "had to be watched" in str(w.message)]
    assert "same in 32 calls" in message and "holder.epoch (31, then 32)" in message
    assert caught[-1].filename == __file__


def test_functions_without_inputs_or_outputs():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for function in (lambda: torch.ones(2) * 2, lambda: torch.rand(2).sum() * 0):
            fast = tg.compile(function)
            for _ in range(3):
                assert fast().tolist() == function().tolist()
        fast = tg.compile(lambda x: [x.sum() * 2][1:])
        for _ in range(3):
            assert fast(torch.ones(2)) == []


def test_steps_that_inductor_fails_at(own_cache, monkeypatch):
    def fails(*_args):
        raise RuntimeError("of no use")

    monkeypatch.setattr(private, "artifact", fails)
    fast = tg.compile(lambda x: x + torch.rand(3))
    fast(NUMBERED[0])
    with pytest.warns(
        UserWarning, match="this step is not compiled: RuntimeError: of no use. Please report"
    ):
        fast(NUMBERED[0])
    torch.manual_seed(0)
    found = fast(NUMBERED[0])
    torch.manual_seed(0)
    assert torch.equal(found, torch.rand(3))


def test_random_orders(own_cache):
    """Inductor has a pattern for these, at which it fails."""
    x = torch.arange(10.0)
    fast = tg.compile(lambda x: x[torch.randperm(len(x))] * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = [fast(x) for _ in range(4)]
    (program,) = fast.programs
    assert program.kind == "artifact"
    assert all(torch.equal(result.sort().values, x * 2) for result in found)
    assert any(not torch.equal(found[3], result) for result in found[:3])


class Settings:
    factor = torch.ones(3)  # in a class, where no path leads


def test_a_tensor_that_is_not_found_gets_other_memory(own_cache):
    fast = tg.compile(lambda x: (x * Settings.factor).sum())
    for _ in range(3):
        fast(torch.ones(3))
    Settings.factor.data = torch.full((3,), 5.0)
    assert fast(torch.ones(3)).item() == 15


def test_rows_of_a_loop_are_copies():
    counter = torch.zeros(2, 0)
    total = torch.zeros(())

    def function(x):
        total.add_(x)
        return total, counter

    fast = tg.compile(function)
    totals, _ = fast.loop(torch.ones(6))
    assert totals.tolist() == [1, 2, 3, 4, 5, 6]


def test_what_a_step_refuses_on_several_threads(own_cache):
    """Such an error must not leave a thread: that would end the process."""
    weight = torch.rand(80, 70)

    def function(x, labels):
        y = torch.tanh(x @ weight)
        return torch.nn.functional.cross_entropy(y, labels) + y.sum()

    fast = tg.compile(function)
    x, labels = torch.rand(70, 80), torch.zeros(70, dtype=torch.int64)
    with threads(2):
        for _ in range(3):
            fast(x, labels)
        assert fast.programs[0].kind == "native"
        labels[-1] = 1000
        with pytest.raises(IndexError, match="is not below 70"):
            fast(x, labels)


def test_gradients_of_indexing(own_cache):
    def make():
        w = tg.Tensor(torch.arange(10.0), requires_grad=True)

        def function(i):
            w.grad = None
            (w * w)[i].sum().backward()
            return w.grad

        return function

    agree(make, [torch.tensor([1, 2, 2, i]) for i in range(6)])


def test_transformations_of_programs(interpreted):
    fast = tg.compile(lambda x: (x * x).sum())
    x = torch.tensor([1.0, 2.0])
    for _ in range(3):
        fast(x)
    assert torch.func.grad(fast)(x).tolist() == [2, 4]
    assert torch.func.jvp(fast, (x,), (torch.ones(2),))[1].item() == 6


# -------------------------------------------------------------------------- freezing


def adversaries(how):
    """The two steps of a network that fools another, which is frozen meanwhile."""
    torch.manual_seed(0)
    generator, critic = nn.Linear(2, 2), nn.Linear(2, 1)
    optimizers = [optim.SGD(model.parameters(), lr=0.1) for model in (generator, critic)]

    def fool(x):
        critic.requires_grad_(False)
        optimizers[0].zero_grad()
        loss = -critic(generator(x)).mean()
        loss.backward()
        optimizers[0].step()
        if how == "inside":
            critic.requires_grad_(True)
        return loss

    def judge(x):
        critic.requires_grad_(True)
        optimizers[1].zero_grad()
        loss = critic(x).square().mean() + critic(generator(x).detach()).mean()
        loss.backward()
        optimizers[1].step()
        return loss

    return fool, judge, [*generator.parameters(), *critic.parameters()]


@pytest.mark.parametrize("how", ["inside", "in turn"])
def test_models_that_are_frozen_in_steps(interpreted, how):
    *ours, our_weights = adversaries(how)
    *theirs, their_weights = adversaries(how)
    fast = [tg.compile(step) for step in ours]
    for i in range(8):
        x = torch.randn(4, 2, generator=torch.Generator().manual_seed(i))
        for compiled, step in zip(fast, theirs):
            close([compiled(x).data], [step(x).data], 10.0)
            close([w.data for w in our_weights], [w.data for w in their_weights], 10.0)
            frozen = [[not w.requires_grad for w in ws] for ws in (our_weights, their_weights)]
            assert frozen[0] == frozen[1]
    assert [len(compiled.programs) for compiled in fast] == [1, 1]


def test_models_that_are_frozen_between_calls(interpreted):
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    def step(x):
        optimizer.zero_grad()
        loss = (model(x) * model.bias).sum()
        loss.backward()
        optimizer.step()
        return loss

    fast = tg.compile(step)
    for i in range(12):
        model.weight.requires_grad_(i % 2 == 0)
        before = model.weight.tolist()
        fast(torch.ones(1, 2))
        assert (model.weight.tolist() == before) == (i % 2 == 1)
    assert len(fast.programs) == 2


def test_loops_of_steps_that_freeze_run_step_by_step(interpreted):
    weight = tg.Tensor([1.0], requires_grad=True)

    def step(x):
        result = x * weight.requires_grad
        weight.requires_grad_(not weight.requires_grad)
        return result

    fast = tg.compile(step)
    assert fast.loop(torch.ones(9)).tolist() == [1, 0] * 4 + [1]
    assert len(fast.programs) == 2 and not weight.requires_grad


def test_ensembles_do_not_freeze(interpreted):
    def member():
        weight = tg.Tensor([1.0], requires_grad=True)

        def step(x):
            weight.requires_grad_(not weight.requires_grad)
            return x * 2

        return step

    together = tg.ensemble([member(), member()])
    with pytest.raises(errors.CaptureError, match="freeze tensors"):
        for _ in range(6):
            together(torch.ones(2))


def test_arguments_that_are_frozen(interpreted):
    """Programs do not look at their gradients, so these are refused."""
    fast = tg.compile(lambda x: x * 2 if x.grad is None else x.grad * 1)
    argument = tg.Tensor([1.0, 2.0], requires_grad=True)
    argument.requires_grad_(False)
    for _ in range(3):
        assert fast(argument).tolist() == [2, 4]
    argument.grad = tg.Tensor([7.0, 7.0])
    with pytest.raises(errors.CaptureError, match="frozen and has a gradient"):
        fast(argument)
    argument.grad = None
    assert fast(argument).tolist() == [2, 4]
    assert len(fast.programs) == 1


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("holder", ["list", "object", "variables"])
def test_tensors_in_which_gradients_gather_change_places(interpreted, holder, frozen):
    def make():
        one, other = (tg.Tensor([k, k], requires_grad=True) for k in (1.0, 2.0))
        for tensor in (one, other):
            tensor.requires_grad_(not frozen)
        both, kept = [one, other], Holder(one=one, other=other)

        def step(x):
            nonlocal one, other
            if holder == "list":
                both.reverse()
                return (both[0] * x).sum().detach()
            if holder == "object":
                kept.one, kept.other = kept.other, kept.one
                return (kept.one * x).sum().detach()
            one, other = other, one
            return (one * x).sum().detach()

        return step

    fast = tg.compile(make())
    assert [fast(torch.ones(2)).item() for _ in range(10)] == [4, 2] * 5
    assert len(fast.programs) == 2
    assert tg.compile(make()).loop(torch.ones(9, 2)).tolist() == [4, 2] * 4 + [4]


LEAF = "in which gradients gather"


@pytest.mark.parametrize(
    "before, after, message",
    [
        ("nothing", "leaf", rf"kept \(None, then a tensor {LEAF}\)"),
        ("leaf", "nothing", rf"kept \(a tensor {LEAF}, then None\)"),
        ("plain", "leaf", rf"kept \(a tensor, then one {LEAF}"),
        ("nothing", "new", rf"kept \(None, then a tensor {LEAF}\)"),
    ],
)
def test_places_that_begin_or_stop_to_hold_a_tensor_in_which_gradients_gather(
    interpreted, before, after, message
):
    values = {
        "nothing": None,
        "leaf": tg.Tensor([1.0], requires_grad=True),
        "plain": torch.zeros(1),
        "new": None,
    }
    holder = Holder(kept=None, values=values)

    def step(x):
        holder.kept = holder.values[after]
        if after == "new":
            holder.kept = tg.Tensor([1.0], requires_grad=True)
        return x * 2

    fast = tg.compile(step)
    with pytest.raises(errors.CaptureError, match=message):
        for _ in range(6):
            holder.kept = values[before]
            fast(torch.ones(2))


def test_a_plain_tensor_in_the_place_of_one_in_which_gradients_gather(interpreted):
    leaf, plain = tg.Tensor([1.0], requires_grad=True), torch.zeros(1)
    holder = Holder(kept=leaf)

    def step(x):
        holder.kept = plain
        return x * 2

    fast = tg.compile(step)
    for _ in range(4):
        holder.kept = leaf
        fast(torch.ones(2))
        assert holder.kept is plain
    assert len(fast.programs) == 1


def lets(x):
    x.requires_grad_(True)
    return x.sum().detach()


def freezes(x):
    x.requires_grad_(False)
    return x.sum().detach()


def uses(x):
    x.requires_grad_(True)
    (x * x).sum().backward()
    x.requires_grad_(False)
    return x.sum()


@pytest.mark.parametrize("step, gathers", [(lets, False), (freezes, True), (uses, False)])
def test_arguments_that_a_step_freezes_or_lets_require_gradients(interpreted, step, gathers):
    with pytest.raises(
        errors.CaptureError, match=r"argument 0 .* let require gradients, or frozen, .*detach\(\)"
    ):
        tg.compile(step)(tg.Tensor([1.0, 2.0], requires_grad=gathers))


def test_gradients_of_an_argument_s_values(interpreted):
    """What the error above says to do."""

    def step(x):
        x = x.detach().requires_grad_()
        return tg.grad((x * x).sum(), x)[0] * 1

    fast = tg.compile(step)
    for i in range(4):
        assert fast(tg.Tensor([float(i)])).tolist() == [2 * i]
    assert len(fast.programs) == 1


def test_arguments_that_are_put_into_places(interpreted):
    holder = Holder(last=tg.Tensor([0.0], requires_grad=True))

    def step(x):
        holder.last = x
        return (x * 2).detach()

    with pytest.raises(errors.CaptureError, match=r"last was given an argument .*detach\(\)"):
        tg.compile(step)(tg.Tensor([1.0], requires_grad=True))


class Slot:
    __slots__ = ("kept",)


@pytest.mark.parametrize("where", ["slot", "variable"])
def test_slots_and_variables_that_are_emptied(interpreted, where):
    slot, kept = Slot(), torch.ones(2)

    def step(x):
        nonlocal kept
        if where == "slot":
            result = x + slot.kept
            del slot.kept
            return result
        result = x + kept
        del kept
        return result

    fast = tg.compile(step)
    with pytest.raises(errors.CaptureError, match=r"kept \(a tensor, then nothing\)"):
        for _ in range(6):
            slot.kept = kept = torch.ones(2)
            fast(torch.ones(2))


def test_ensembles_do_not_exchange(interpreted):
    def member():
        both = [tg.Tensor([k], requires_grad=True) for k in (1.0, 2.0)]

        def step(x):
            both.reverse()
            return (both[0] * x).sum().detach()

        return step

    together = tg.ensemble([member(), member()])
    with pytest.raises(errors.CaptureError, match=r"put another tensor .* into both\[0\]"):
        for _ in range(6):
            together(torch.ones(2))


def test_new_tensors_in_which_gradients_gather_are_no_part_of_programs(interpreted):
    kept = Holder(weight=tg.Tensor([1.0], requires_grad=True))

    def step(x):
        kept.weight = tg.Tensor([2.0], requires_grad=True)
        return x * 2

    fast = tg.compile(step)
    with pytest.warns(UserWarning, match=r"kept.weight is another tensor in each call"):
        for _ in range(20):
            before = kept.weight
            fast(torch.ones(1))
            assert kept.weight is not before
    assert not fast.programs


def test_tensors_that_required_gradients_for_a_while(interpreted):
    """As in Langevin dynamics, which follow the gradient of a sample."""

    def make():
        kept = Holder(sample=tg.Tensor([1.0, 2.0]))

        def step(x):
            sample = kept.sample.detach().clone().requires_grad_(True)
            (slope,) = tg.grad((sample * sample * x).sum(), [sample])
            sample.requires_grad_(False)
            kept.sample = sample.sub_(slope * 0.1)
            return kept.sample.sum()

        return step

    fast, step = tg.compile(make()), make()
    for _ in range(6):
        close([fast(torch.ones(2)).data], [step(torch.ones(2)).data])
    assert len(fast.programs) == 1


# ------------------------------------------------------------- what is taken away


class Slotted:
    __slots__ = ("kept",)


def entries_renamed(make):
    entries = {}

    def step(x):
        entries["new"] = entries.pop("old")
        return x * 2

    def reset():
        entries.clear()
        entries["old"] = make()

    return step, reset, lambda: sorted(entries)


def attributes_renamed(make):
    holder = Holder()

    def step(x):
        holder.new = holder.old
        del holder.old
        return x * 2

    def reset():
        vars(holder).clear()
        holder.old = make()

    return step, reset, lambda: sorted(vars(holder))


def variables_deleted(make):
    kept = None

    def step(x):
        nonlocal kept
        del kept
        return x * 2

    def reset():
        nonlocal kept
        kept = make()

    def look():
        try:
            return kept is not None
        except NameError:
            return "nothing"

    return step, reset, look


def globals_deleted(make):
    def step(x):
        global DELETED
        del DELETED
        return x * 2

    def reset():
        globals()["DELETED"] = make()

    return step, reset, lambda: "DELETED" in globals()


def slots_emptied(make):
    holder = Slotted()

    def step(x):
        del holder.kept
        return x * 2

    def reset():
        holder.kept = make()

    return step, reset, lambda: hasattr(holder, "kept")


def slots_filled(make):
    holder = Slotted()

    def step(x):
        holder.kept = make()
        return x * 2

    def reset():
        if hasattr(holder, "kept"):
            del holder.kept

    return step, reset, lambda: hasattr(holder, "kept")


@pytest.mark.parametrize(
    "make",
    [lambda: 2.0, lambda: None, lambda: torch.ones(2), lambda: tg.Tensor([1.0]).requires_grad_()],
    ids=["number", "None", "tensor", "leaf"],
)
@pytest.mark.parametrize(
    "kind",
    [
        entries_renamed, attributes_renamed, variables_deleted, globals_deleted, slots_emptied,
        slots_filled,
    ],
    ids=lambda kind: kind.__name__,
)  # fmt: skip
def test_what_is_taken_away(interpreted, kind, make):
    """Programs take it away too, or refuse."""
    ours, theirs = kind(make), kind(make)
    fast = tg.compile(ours[0])
    for _ in range(6):
        theirs[1]()
        theirs[0](torch.ones(2))
        expected = theirs[2]()
        ours[1]()
        try:
            fast(torch.ones(2))
        except errors.CaptureError as error:
            assert "changes more than tensors" in str(error)
            return
        assert ours[2]() == expected
    assert kind is slots_filled and not isinstance(make(), float)


def test_entries_that_change_their_names(interpreted):
    def make():
        entries = {"a": tg.Tensor([1.0], requires_grad=True)}

        def step(x):
            key = "a" if "a" in entries else "b"
            entries["b" if key == "a" else "a"] = entries.pop(key)
            return x * 2

        return step, entries

    (step, ours), (plain, theirs) = make(), make()
    fast = tg.compile(step)
    with pytest.raises(errors.CaptureError, match=r"entries\['a'\] .* then nothing"):
        for _ in range(9):
            fast(torch.ones(2)), plain(torch.ones(2))
            assert ours.keys() == theirs.keys()


# ---------------------------------------------- histories, gradients and hooks of arguments


def test_tensors_that_get_a_history_in_place(interpreted):
    weight, held = tg.Tensor([1.0, 2.0], requires_grad=True), tg.Tensor([1.0, 1.0])

    def changes_held(x):
        held.mul_(weight)
        return x * 2

    def changes_argument(x):
        x.mul_(weight)
        return weight.detach() * 2

    with pytest.raises(errors.CaptureError, match="held was given a tensor that still has a hist"):
        tg.compile(changes_held)(torch.ones(2))
    with pytest.raises(errors.CaptureError, match="argument 0 .* was changed in place by what"):
        tg.compile(changes_argument)(tg.Tensor([1.0, 1.0]))


def test_arguments_whose_gradients_are_taken_away(interpreted):
    def step(x):
        (x * x).sum().backward()
        found = x.grad.data * 1
        x.grad = None
        return found

    fast = tg.compile(step)
    for i in range(6):
        x, y = (tg.Tensor([1.0, i], requires_grad=True) for _ in range(2))
        if i % 2:
            x.grad, y.grad = tg.Tensor([5.0, 6.0]), tg.Tensor([5.0, 6.0])
        assert fast(x).tolist() == step(y).tolist()
        assert x.grad is None
    assert len(fast.programs) == 2


@pytest.mark.parametrize("given", ["held", "gradient"])
def test_arguments_that_are_given_a_gradient(interpreted, given):
    held = tg.Tensor([7.0])

    def step(x, y):
        x.grad = held if given == "held" else y.grad
        return x.detach() * 2

    x, y = (tg.Tensor([1.0], requires_grad=True) for _ in range(2))
    y.grad = tg.Tensor([5.0])
    with pytest.raises(errors.CaptureError, match="argument 0 .* was given a gradient"):
        tg.compile(step)(x, y)


def test_arguments_that_once_had_one_gradient(interpreted):
    def step(x, y):
        (x * x).sum().backward()
        (y * y).sum().backward()
        return x.detach() * 1

    fast = tg.compile(step)
    for i in range(6):
        x, y = tg.Tensor([1.0], requires_grad=True), tg.Tensor([3.0], requires_grad=True)
        x.grad = tg.Tensor([0.0])
        y.grad = x.grad if i < 3 else tg.Tensor([0.0])
        fast(x, y)
        assert (x.grad.tolist(), y.grad.tolist()) == (([8], [8]) if i < 3 else ([2], [6]))


def test_hooks_that_a_step_leaves(interpreted):
    def step(x):
        x.register_hook(lambda g: g * 2)
        return x.detach() * 2

    x = tg.Tensor([1.0], requires_grad=True)
    fast = tg.compile(step)
    with pytest.raises(errors.CaptureError, match="1 hooks, then 2|2 hooks, then 3|3 hooks"):
        for _ in range(5):
            fast(x)


def test_torch_tensors_that_a_step_lets_require_gradients(interpreted):
    held = torch.ones(2)

    def step(x):
        held.requires_grad_(True)
        return x * 2

    with pytest.raises(errors.CaptureError, match="let require gradients of torch's own"):
        tg.compile(step)(torch.ones(2))
    with pytest.raises(errors.CaptureError, match="let require gradients of torch's own"):
        tg.compile(lambda x: x.requires_grad_().detach())(torch.ones(2))


def test_arguments_that_require_gradients_for_a_time_again(interpreted):
    def step(x):
        x.requires_grad_(True)
        (x * x).sum().backward()
        found, x.grad = x.grad, None
        x.requires_grad_(False)
        return found

    fast, x = tg.compile(step), tg.Tensor([1.0, 2.0])
    for _ in range(5):
        assert fast(x).tolist() == [2, 4]
    assert len(fast.programs) == 1


@pytest.mark.parametrize("what", ["gradient", "value"])
def test_tensors_that_a_step_leaves_behind(interpreted, what):
    """Others may hold them."""

    def make():
        holder = Holder()

        def step(x):
            if what == "gradient":
                (x * holder.kept).sum().backward()
            else:
                holder.kept.data = holder.kept.data * 2
            holder.kept = tg.Tensor(x * 2)
            return x * 1

        return holder, step, tg.Tensor([1.0, 2.0], requires_grad=True)

    (ours, step, leaf), (theirs, plain, expected) = make(), make()
    fast = tg.compile(step)
    for i in range(5):
        ours.kept, theirs.kept = leaf, expected
        leaf.grad = expected.grad = None
        fast(torch.full((2,), float(i))), plain(torch.full((2,), float(i)))
        assert leaf.tolist() == expected.tolist()
        assert str(leaf.grad) == str(expected.grad)
