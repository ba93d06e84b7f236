"""What is captured, when a program may run in its place, and what cannot be captured.

All of it with programs that are interpreted, as this is not about what compilers make of them.
"""

import contextlib
import functools
import gc
import inspect
import threading
import warnings
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from steps import Training, accumulating, close, data, interpreted, same_training

import tinygrad_ee559 as tg
from tinygrad_ee559 import errors, nn, optim

__all__ = ["interpreted"]
pytestmark = pytest.mark.usefixtures("interpreted")


class Pair:
    """The same training twice, once compiled, that are fed with the same and always agree."""

    def __init__(self, step=lambda training: training.step, **options):
        self.ours, self.theirs = Training(**options), Training(**options)
        self.compiled, self.eager = tg.compile(step(self.ours)), step(self.theirs)

    def train(self, calls=4, batch=5, change=lambda training: None):
        for seed in range(calls):
            x, y = data(batch=batch, seed=seed)
            close([self.compiled(x, y).data], [self.eager(x, y).data])
            same_training(self.ours, self.theirs)
            change(self.ours)
            change(self.theirs)

    @property
    def programs(self):
        return len(self.compiled.programs)


class Holder:
    """An object with any attributes."""

    def __init__(self, **attributes):
        vars(self).update(attributes)


def repeated(compiled, *args, times=4, **kwargs):
    return [compiled(*args, **kwargs) for _ in range(times)]


def values(results):
    return [result.tolist() for result in results]


# ------------------------------------------------------------------ when programs run


def test_a_program_runs_once_two_runs_did_the_same():
    pair = Pair(momentum=0.9)
    counts = []
    for seed in range(6):
        x, y = data(seed=seed)
        pair.compiled(x, y)
        counts.append(pair.programs)
    assert counts == [0, 0, 1, 1, 1, 1]  # the first run makes the momenta
    assert repr(pair.compiled) == "<compiled step, 1 program>"


def test_the_function_itself_does_not_run_any_more():
    calls = []

    class Noting(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            calls.append(function)
            return function(*args, **(kwargs or {}))

    pair = Pair()
    pair.train()
    x, y = data()
    with Noting():
        pair.compiled(x, y)
    assert torch.tanh not in calls and torch.nn.functional.linear not in calls


def test_the_program_and_the_function_take_turns():
    ours, theirs = Training(momentum=0.9), Training(momentum=0.9)
    compiled = tg.compile(ours.step)
    for i in range(12):
        x, y = data(seed=i)
        (ours.step if i % 3 == 0 else compiled)(x, y)
        theirs.step(x, y)
        same_training(ours, theirs)
    assert len(compiled.programs) == 1


def test_other_shapes_and_strides_are_other_programs():
    pair = Pair(momentum=0.9)
    for _ in range(2):
        for batch in (5, 7, 1):
            pair.train(batch=batch)
    assert pair.programs == 3
    x, y = data(batch=10)
    for inputs in (x[::2], x[:5].t().contiguous().t(), x[:1].expand(5, 3)):
        for _ in range(4):
            pair.compiled(inputs, y[:5])
            pair.eager(inputs, y[:5])
            same_training(pair.ours, pair.theirs)
    assert pair.programs == 6


def test_other_dtypes_are_other_programs():
    compiled = tg.compile(lambda x: x * 2)
    for dtype in (torch.float32, torch.float64, torch.int64, torch.bool, torch.complex64):
        x = torch.ones(3).to(dtype)
        for result in repeated(compiled, x):
            assert result.dtype == (x * 2).dtype and result.tolist() == (x * 2).tolist()
    assert len(compiled.programs) == 5


def test_empty_tensors():
    pair = Pair()
    x, y = data(batch=0)
    for _ in range(4):
        assert pair.compiled(x, y).isnan().item()
    assert pair.programs == 1
    compiled = tg.compile(lambda x: (x * 2, x.sum(0)))
    assert [tuple(map(len, r)) for r in repeated(compiled, torch.ones(0, 3))] == [(0, 3)] * 4


def test_a_model_of_another_dtype():
    pair = Pair()
    pair.train()
    for training in (pair.ours, pair.theirs):
        training.model.load_state_dict(Training(seed=3).model.state_dict())
        training.model.to(torch.float64)
        training.optimizer.zero_grad()
    x, y = data(dtype=torch.float64)
    for _ in range(4):
        pair.compiled(x, y)
        pair.eager(x, y)
        same_training(pair.ours, pair.theirs)
    assert pair.programs == 2


def test_a_learning_rate_that_changes_takes_effect():
    pair = Pair(momentum=0.9)
    for lr in (0.05, 0.02, 0.05):
        for training in (pair.ours, pair.theirs):
            training.optimizer.param_groups[0]["lr"] = lr
        pair.train()
    assert pair.programs == 2


def test_a_learning_rate_in_a_tensor_takes_effect_without_another_program():
    ours, theirs = (Training(lr=torch.tensor(0.05), momentum=0.9) for _ in range(2))
    compiled = tg.compile(ours.step)
    for i in range(8):
        x, y = data(seed=i)
        compiled(x, y)
        theirs.step(x, y)
        same_training(ours, theirs)
        for training in (ours, theirs):
            training.optimizer.param_groups[0]["lr"].mul_(0.7)
    assert len(compiled.programs) == 1


def test_a_function_that_never_does_the_same_twice_is_heard_of():
    pair = Pair()
    with pytest.warns(UserWarning, match=r"step did something else in each of 16 calls.*alpha"):
        for i in range(17):
            for training in (pair.ours, pair.theirs):
                training.optimizer.param_groups[0]["lr"] = 0.05 / (i + 1)
            pair.train(1)
    assert pair.programs == 0


def test_what_is_rare_among_calls_of_programs_is_not_complained_of(interpreted):
    kept = {}

    def step(x):
        mean = kept.setdefault("mean", torch.zeros(()))
        mean.mul_(0.9).add_(x.mean())
        return x - mean

    fast = tg.compile(step)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for epoch in range(20):
            kept.clear()
            for _ in range(5):
                fast(torch.ones(4))
            fast(torch.ones(5 + epoch))
    assert len(fast.programs) == 1


def test_a_first_call_may_change_many_places(interpreted):
    ready = [[False] for _ in range(20)]

    def step(x):
        for flag in ready:
            flag[0] = True
        return x * 2

    fast = tg.compile(step)
    for _ in range(4):
        fast(torch.ones(2))
    assert len(fast.programs) == 1


def test_changes_of_another_object_in_each_call_are_refused(interpreted):
    counters = [{"calls": 0}]

    def step(x):
        counters[0]["calls"] += 1
        return x * 2

    fast = tg.compile(step)
    with pytest.raises(errors.CaptureError, match=r"changes more than tensors .*\(0, then 1\)"):
        for _ in range(16):
            counters[0] = {"calls": 0}
            fast(torch.ones(2))


def test_tensors_that_are_replaced_in_each_call_are_named():
    w = torch.zeros(3)
    batches = iter(torch.ones(20, 3).unbind())

    def replacing(x):
        nonlocal w
        w = w + x
        return w.sum()

    def reading(x):
        return next(batches) * x

    class Holding:
        """Another one in each call."""

        def __init__(self):
            self.w = tg.Tensor(torch.ones(3), requires_grad=True)

    holding = Holding()

    def resetting(x):
        (holding.w * x).sum().backward()
        holding.__init__()

    for function, message in [
        (resetting, r"holding\.w is another tensor in each call; change it in place"),
        (reading, r"It gets another tensor in each call, torch\.float32 \[3\] \(1,\), from where"),
    ]:
        with pytest.warns(UserWarning, match=message):
            repeated(tg.compile(function), torch.ones(3), times=17)
    assert values(repeated(tg.compile(replacing), torch.ones(1), times=17)) == [
        3 * i for i in range(1, 18)
    ]


def no_gradients(training):
    training.optimizer.zero_grad()


def one_gradient_missing(training):
    next(iter(training.model.parameters())).grad = None


def update(training):
    training.optimizer.step()


def loaded(training):
    training.model.load_state_dict(Training(seed=5).model.state_dict())


def halved(training):
    for parameter in training.model.parameters():
        parameter.data = parameter.data * 0.5


def layer_replaced(training):
    torch.manual_seed(7)
    training.model.layers[2] = nn.Linear(8, 2)


def frozen(training):
    next(iter(training.model.parameters())).requires_grad = False


def thawed(training):
    next(iter(training.model.parameters())).requires_grad = True


def optimizer_reloaded(training):
    training.optimizer.load_state_dict(training.optimizer.state_dict())


def slower(training):
    training.optimizer.param_groups[0]["lr"] = 0.01


def no_momenta(training):
    training.optimizer.momentum_buffers.clear()


CHANGES = [
    no_gradients, one_gradient_missing, update, loaded, halved, layer_replaced, frozen, thawed,
    optimizer_reloaded, slower, no_momenta,
]  # fmt: skip


def step(training):
    return training.step


def zeroing(training):
    """A step that sets gradients to zero instead of forgetting them."""
    gather = accumulating(training)

    def update(x, y):
        training.optimizer.zero_grad(set_to_none=False)
        loss = gather(x, y)
        training.optimizer.step()
        return loss

    return update


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("kind", [step, accumulating, zeroing], ids=lambda kind: kind.__name__)
def test_what_happens_between_calls_is_seen(kind, change):
    pair = Pair(kind, momentum=0.9)
    pair.train(4)
    pair.train(1, change=change)
    pair.train(4)
    assert pair.programs >= 1
    pair.train(1, change=change)
    pair.train(1)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_changes_one_after_the_other(momentum):
    pair = Pair(momentum=momentum)
    for change in [*CHANGES, frozen, optimizer_reloaded, slower, thawed]:
        pair.train(4)
        pair.train(1, change=change)
    pair.train(4)


def test_gradients_and_results_that_are_kept_are_not_overwritten():
    pair = Pair()
    pair.train(4)
    kept = [pair.compiled(*data()).data, *pair.ours.gradients()]
    copies = [t.clone() for t in kept]
    pair.compiled(*data(seed=9))
    for tensor, copy in zip(kept, copies):
        assert torch.equal(tensor, copy)


def test_gradients_of_arguments():
    def gather(x):
        loss = (x * x).sum()
        loss.backward()
        return loss

    compiled = tg.compile(gather)
    for start in (1.0, 2.0):
        x = tg.Tensor(torch.full((3,), start), requires_grad=True)
        for calls in range(1, 5):
            compiled(x)
            torch.testing.assert_close(x.grad.data, 2 * calls * x.data)
    for _ in range(4):
        x.grad = None
        compiled(x)
        torch.testing.assert_close(x.grad.data, 2 * x.data)
    assert len(compiled.programs) == 2
    assert gather(tg.Tensor(torch.ones(3), requires_grad=True)).item() == 3


# ------------------------------------------------------------------ what is conditioned on


GLOBAL = 2.0


def test_global_variables(monkeypatch):
    compiled = tg.compile(lambda x: x * GLOBAL)
    assert values(repeated(compiled, torch.ones(1))) == [[2]] * 4
    monkeypatch.setitem(globals(), "GLOBAL", 3.0)
    assert values(repeated(compiled, torch.ones(1))) == [[3]] * 4


def test_values_are_conditions_even_if_some_made_no_difference():
    """That runs at 1 and 2 did the same does not mean that one at 10 will."""
    trainer = Holder(epoch=0)
    compiled = tg.compile(lambda x: x * (2 if trainer.epoch < 10 else 3))
    found = []
    for trainer.epoch in range(15):
        found.append(compiled(torch.ones(1)).item())
    assert found == [2] * 10 + [3] * 5


def test_numbers_of_another_type_are_others():
    holder = Holder(factor=2)
    compiled = tg.compile(lambda x: x * holder.factor)
    assert {r.dtype for r in repeated(compiled, torch.arange(3))} == {torch.int64}
    holder.factor = 2.0
    assert {r.dtype for r in repeated(compiled, torch.arange(3))} == {torch.float32}


def test_numbers_in_tensors():
    w = tg.Tensor(2.0)
    compiled = tg.compile(lambda x: (tg.Tensor(x) * w, w * w))
    for value in (2.0, 3.0):
        w.data = value
        for product, square in repeated(compiled, torch.ones(1)):
            assert isinstance(square, tg.Tensor)
            assert (product.item(), square.item()) == (value, value**2)


def test_objects_replaced_by_others():
    trainer = Holder(stats=Holder(last=torch.zeros(1)))

    def note(x):
        trainer.stats.last = x * 2
        return x

    compiled = tg.compile(note)
    for start in (1, 5):
        old = trainer.stats
        trainer.stats = Holder(last=torch.zeros(1))
        before = old.last.item()
        for i in range(start, start + 4):
            compiled(torch.full((1,), float(i)))
            assert trainer.stats.last.item() == 2 * i
        assert old.last.item() == before


@pytest.mark.parametrize("module", ["tinygrad_ee559.training", None])
def test_variables_of_functions_of_any_module(module):
    factor = 2.0

    def function(x):
        return x * factor

    function.__module__ = module
    compiled = tg.compile(function)
    assert values(repeated(compiled, torch.ones(1))) == [[2]] * 4
    factor = 3.0
    assert values(repeated(compiled, torch.ones(1))) == [[3]] * 4


def test_a_tensor_found_in_two_places():
    shared = torch.ones(3)
    one, other = [shared], [shared]
    compiled = tg.compile(lambda x: x * one[0] + other[0])
    assert values(repeated(compiled, torch.ones(3))) == [[2, 2, 2]] * 4
    other[0] = torch.zeros(3)
    assert values(repeated(compiled, torch.ones(3))) == [[1, 1, 1]] * 4
    one[0] = other[0]
    assert values(repeated(compiled, torch.ones(3))) == [[0, 0, 0]] * 4


def test_a_parameter_as_an_argument():
    weight = torch.full((3,), 2.0)
    compiled = tg.compile(lambda w: weight * w)
    assert values(repeated(compiled, weight)) == [[4, 4, 4]] * 4
    assert values(repeated(compiled, torch.ones(3))) == [[2, 2, 2]] * 4
    assert values(repeated(compiled, weight)) == [[4, 4, 4]] * 4


def test_the_same_tensor_twice():
    def change(a, b):
        a.add_(1)
        return a * b

    compiled = tg.compile(change)
    x = torch.zeros(1)
    assert values(repeated(compiled, x, x)) == [[1], [4], [9], [16]]
    a, b = torch.zeros(1), torch.full((1,), 2.0)
    assert values(repeated(compiled, a, b)) == [[2], [4], [6], [8]]
    assert compiled(x, x).tolist() == [25]
    assert compiled(a, b).tolist() == [10]


def test_grad_mode_is_a_condition():
    training = Training()

    def both(x):
        return training.model(x).detach(), float(torch.is_grad_enabled())

    compiled = tg.compile(both)
    x, _ = data()
    assert {r[1] for r in repeated(compiled, x)} == {1.0}
    with tg.no_grad():
        assert {r[1] for r in repeated(compiled, x)} == {0.0}
    assert compiled(x)[1] == 1.0


def test_arguments_that_require_gradients_are_others():
    compiled = tg.compile(lambda x: (x * 2).detach() + float(x.requires_grad))
    plain, leaf = tg.Tensor([1.0]), tg.Tensor([1.0], requires_grad=True)
    for x in (plain, leaf, plain, leaf):
        assert values(repeated(compiled, x)) == [[2.0 + x.requires_grad]] * 4


# -------------------------------------------------------------- arguments and results


def test_arguments_by_name_and_by_default():
    def combine(x, *, scale=1.0, extra=None):
        return tg.Tensor(x) * scale + (0 if extra is None else extra["b"])

    compiled = tg.compile(combine)
    x = torch.ones(2)
    assert values(repeated(compiled, x, scale=2.0)) == [[2, 2]] * 4
    assert values(repeated(compiled, x=x, scale=3.0)) == [[3, 3]] * 4
    assert values(repeated(compiled, scale=4.0, x=x)) == [[4, 4]] * 4
    assert values(repeated(compiled, x)) == [[1, 1]] * 4
    for i in range(5):
        assert compiled(x, extra={"b": torch.full((2,), i)}).tolist() == [1 + i] * 2


def test_how_arguments_are_nested_matters():
    """Though the tensors are the same, in the same order."""

    def combine(given=None, *, a=None, b=None):
        if isinstance(given, dict):
            return given["p"] - given["q"]
        return a - b if given is None else given[0] * given[1]

    compiled = tg.compile(combine)
    x, y = torch.full((1,), 3.0), torch.ones(1)
    for _ in range(2):
        assert values(repeated(compiled, {"p": x, "q": y})) == [[2]] * 4
        assert values(repeated(compiled, {"q": x, "p": y})) == [[-2]] * 4
        assert values(repeated(compiled, [x, y])) == [[3]] * 4
        assert values(repeated(compiled, a=x, b=y)) == [[2]] * 4
        assert values(repeated(compiled, b=x, a=y)) == [[-2]] * 4


def test_results_of_any_kind():
    state = torch.ones(2, 3)

    def function(x, k):
        t = tg.Tensor(x)
        y = t * 2
        return {
            "list": [t, y, y], "none": None, "numbers": (3, k, 2.5, True), "text": "text",
            "view": y.T, "row": y[0], "raw": y.data, "state": state, "argument": x,
            "constant": torch.tensor([1.0, 2.0]), "ints": torch.arange(3), "bools": x > 0,
            "scalar": x.sum(), "empty": x[:0],
        }  # fmt: skip

    compiled = tg.compile(function)
    for i in range(6):
        state.add_(1)
        x = torch.full((2, 3), float(i))
        ours, theirs = compiled(x, 5), function(x, 5)
        assert list(ours) == list(theirs)
        for name, their in theirs.items():
            pairs = zip(ours[name], their) if name == "list" else [(ours[name], their)]
            for our, expected in pairs:
                if not isinstance(expected, (tg.Tensor, torch.Tensor)):
                    assert type(our) is type(expected) and our == expected
                    continue
                assert isinstance(our, tg.Tensor) == isinstance(expected, tg.Tensor)
                assert our.dtype == expected.dtype and our.shape == expected.shape
                assert our.tolist() == expected.tolist()
        assert ours["state"] is state
    assert len(compiled.programs) == 1


def test_arguments_of_any_kind():
    def function(integers, flags, scalar, empty):
        picked = torch.where(flags, integers, 0)
        return integers + 1, ~flags, tg.Tensor(scalar) * 2, empty * 2, integers // 2, picked

    args = torch.arange(4), torch.tensor([True, False] * 2), torch.tensor(3.0), torch.ones(0, 2)
    compiled = tg.compile(function)
    for results in repeated(compiled, *args):
        for our, their in zip(results, function(*args), strict=True):
            assert type(our) is type(their) and our.dtype == their.dtype
            assert our.tolist() == their.tolist()
    assert len(compiled.programs) == 1


def test_functions_without_arguments_without_state_and_objects_that_can_be_called():
    w = tg.Tensor([1.0, 2.0], requires_grad=True)
    optimizer = optim.SGD([w], lr=0.25)

    def shrink():
        optimizer.zero_grad()
        (w * w).sum().backward()
        optimizer.step()

    compiled = tg.compile(shrink)
    for i in range(1, 6):
        assert compiled() is None
        assert w.tolist() == [0.5**i, 2 * 0.5**i]

    compiled = tg.compile(torch.sin)
    assert values(repeated(compiled, torch.zeros(1))) == [[0]] * 4

    class Trainer:
        def __init__(self):
            self.mean, self.count = torch.zeros(()), torch.zeros((), dtype=torch.int64)

        def note(self, x, weight):
            self.count += 1
            self.mean = self.mean + (x.mean() - self.mean) * weight

        __call__ = note

    for wrap in (lambda t: t, lambda t: t.note):
        trainer = Trainer()
        compiled = tg.compile(functools.partial(wrap(trainer), weight=0.5))
        for i in range(1, 6):
            compiled(torch.ones(2))
            assert trainer.count.item() == i and trainer.mean.item() == 1 - 0.5**i
        assert len(compiled.programs) == 1


def test_an_error_of_the_function_leaves_all_in_order():
    def function(x):
        if len(x) == 3:
            raise ValueError("three")
        return x * 2

    compiled = tg.compile(function)
    for n in (5, 3, 5, 5, 3, 5):
        if n == 3:
            with pytest.raises(ValueError, match="three"):
                compiled(torch.ones(n))
        else:
            assert compiled(torch.ones(n)).tolist() == [2] * n
    assert len(compiled.programs) == 1


# ------------------------------------------------------------ what functions may contain


def penalized(training):
    """The gradient with respect to the inputs is part of the loss."""

    def update(x, y):
        training.optimizer.zero_grad()
        inputs = tg.Tensor(x, requires_grad=True)
        outputs = training.model(inputs)
        (gradient,) = tg.grad(outputs.sum(), [inputs], create_graph=True)
        loss = ((outputs - y) ** 2).mean() + (gradient**2).mean()
        loss.backward()
        training.optimizer.step()
        return loss

    return update


def transformed(training):
    """vmap and jacobians inside."""

    def update(x, y):
        training.optimizer.zero_grad()
        jacobian = tg.func.jacrev(training.model)(tg.Tensor(x[0]))
        outputs = tg.func.vmap(training.model)(tg.Tensor(x))
        loss = ((outputs - y) ** 2).mean() + (jacobian**2).mean()
        loss.backward()
        training.optimizer.step()
        return loss

    return update


def checkpointed(training):
    """What the model computes is computed again on the way back."""

    def update(x, y):
        training.optimizer.zero_grad()
        loss = ((tg.checkpoint(training.model, x) - y) ** 2).mean()
        loss.backward()
        training.optimizer.step()
        return loss

    return update


def in_another(training):
    """A compiled function calls a compiled function."""
    inner = tg.compile(training.step)
    return lambda x, y: inner(x, y).detach() * 2


@pytest.mark.parametrize(
    "kind",
    [
        penalized, in_another, transformed, checkpointed,
    ],
    ids=lambda kind: kind.__name__,
)  # fmt: skip
def test_functions_of_gradients_batches_and_compiled_functions(kind):
    pair = Pair(kind, momentum=0.9)
    pair.train(6)
    assert pair.programs == 1


def test_vmap_over_a_compiled_function():
    compiled = tg.compile(lambda x: torch.tanh(x) * 2)
    x = torch.randn(4, 3)
    repeated(compiled, x[0])
    torch.testing.assert_close(tg.func.vmap(compiled)(tg.Tensor(x)).data, torch.tanh(x) * 2)
    torch.testing.assert_close(torch.func.vmap(compiled)(x), torch.tanh(x) * 2)


def test_threads_take_turns():
    training = Training(lr=0.0)
    compiled = tg.compile(training.step)
    x, y = data(40)
    expected = [training.step(x[i], y[i]).item() for i in range(40)]
    found = {}

    def work(k):
        found[k] = [compiled(x[i], y[i]).item() for i in range(40)]

    workers = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(found) == [0, 1, 2]
    for losses in found.values():
        assert losses == pytest.approx(expected, rel=1e-5)


def batch_normalized():
    torch.manual_seed(0)
    layers = torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.ReLU(), torch.nn.Linear(4, 2)
    model = tg.from_torch(torch.nn.Sequential(*layers))
    optimizer = optim.SGD(model.parameters(), lr=0.05)

    def update(x, y):
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    return model, update


def test_running_statistics():
    (ours, step), (theirs, eager) = batch_normalized(), batch_normalized()
    compiled = tg.compile(step)
    for i in range(16):
        x, y = data(seed=i)
        close([compiled(x, y).data], [eager(x, y).data])
        close([p.data for p in ours.parameters()], [p.data for p in theirs.parameters()])
        close([*ours.module.buffers()][:2], [*theirs.module.buffers()][:2])
        assert ours.module[1].num_batches_tracked == theirs.module[1].num_batches_tracked
        if i in (5, 10):
            for model in (ours, theirs):
                model.train(i == 10)
    assert len(compiled.programs) == 2


def test_dropout_is_random_in_every_call_and_repeats_with_the_seed():
    compiled = tg.compile(lambda x: F.dropout(tg.Tensor(x), 0.25))
    x = torch.ones(4000)
    results = repeated(compiled, x, times=8)
    assert len(compiled.programs) == 1
    for one, other in zip(results, results[1:]):
        assert not torch.equal(one.data, other.data)
    for result in results:
        assert result.unique().tolist() == pytest.approx([0, 4 / 3])
        assert (result.data == 0).double().mean().item() == pytest.approx(0.25, abs=0.04)
    torch.manual_seed(4)
    once = compiled(x)
    torch.manual_seed(4)
    assert torch.equal(compiled(x).data, once.data)


def test_modules_that_are_evaluated_between_calls():
    model = tg.from_torch(torch.nn.Sequential(torch.nn.Linear(3, 50), torch.nn.Dropout(0.5)))
    compiled = tg.compile(lambda x: model(x).detach())
    x, _ = data()
    for _ in range(2):
        model.train()
        for result in repeated(compiled, x):
            assert 0.3 < (result.data == 0).double().mean() < 0.7
        model.eval()
        for result in repeated(compiled, x):
            torch.testing.assert_close(result.data, model(x).data)
    assert len(compiled.programs) == 2


def test_indices_that_are_integers():
    """Unlike masks, they do not make shapes that depend on values."""
    rows, wanted = torch.randn(6, 3), torch.tensor([4, 0, 4])
    compiled = tg.compile(lambda i: (rows[i], tg.Tensor(rows)[i, :2], rows[:, i % 3]))
    for result in repeated(compiled, wanted):
        expected = rows[wanted], rows[wanted, :2], rows[:, [1, 0, 1]]
        assert values(result) == values(expected)
    assert len(compiled.programs) == 1


def test_parts_at_numbers():
    compiled = tg.compile(lambda x: [*torch.tensor_split(x, 2), *torch.tensor_split(x, [1, 2])])
    for result in repeated(compiled, torch.arange(4.0)):
        assert values(result) == [[0, 1], [2, 3], [0], [1], [2, 3]]


def test_random_numbers_that_other_threads_draw():
    """A thread that loads data draws numbers whenever it likes."""

    def elsewhere():
        other = threading.Thread(target=torch.rand, args=(10,))
        other.start()
        other.join()

    w = tg.Tensor(torch.ones(3), requires_grad=True)

    def drawing(x):
        y = F.dropout(tg.Tensor(x), 0.5)
        elsewhere()
        return y + torch.rand(3)

    def recomputing(x):
        w.grad = None
        loss = tg.checkpoint(lambda w: (w * x).sum(), w)
        elsewhere()
        loss.backward()
        return loss

    def forking(x):
        with torch.random.fork_rng(devices=[]):
            elsewhere()
        return torch.rand(3) + x

    for function in (lambda x: (elsewhere(), x * 2)[1], drawing, recomputing, forking):
        compiled = tg.compile(function)
        repeated(compiled, torch.ones(3))
        assert len(compiled.programs) == 1


def state_from_outside(x):
    torch.set_rng_state(STATE)
    return x + torch.rand(3)


def drawn_again(x):
    state = torch.get_rng_state()
    y = torch.rand(3)
    torch.set_rng_state(state)
    return x + y


def seeded_at_the_end(x):
    y = torch.rand(3)
    torch.manual_seed(0)
    return x + y


def seeded_by_a_method(x):
    torch.default_generator.manual_seed(5)
    return x + torch.rand(3)


def drawn_again_by_torchs(x):
    from torch.utils.checkpoint import checkpoint

    x = x.clone().requires_grad_()
    checkpoint(F.dropout, x, use_reentrant=False).sum().backward()
    return x.grad


STATE = torch.get_rng_state()


@pytest.mark.parametrize(
    "function",
    [state_from_outside, drawn_again, seeded_at_the_end, seeded_by_a_method, drawn_again_by_torchs],
    ids=lambda function: function.__name__,
)
def test_random_numbers_whose_state_is_set(function):
    torch.manual_seed(0)
    with pytest.raises(errors.CaptureError, match="the state of torch's random numbers was set"):
        tg.compile(function)(torch.ones(3))


# ------------------------------------------------------------------ what is an error


def if_positive(x):
    if tg.Tensor(x).sum() > 0:
        return x
    return x * 2


def item(x):
    return x * tg.Tensor(x).sum().item()


def item_of_torchs(x):
    return x * x.sum().item()


def as_float(x):
    return x * float(tg.Tensor(x).sum())


def printed(x):
    print(tg.Tensor(x))
    return x


def formatted(x):
    return {f"{x}": x}


def as_list(x):
    return x * tg.Tensor(x).tolist()[0]


def as_numpy(x):
    return x * tg.Tensor(x).numpy()[0]


def masked(x):
    return tg.Tensor(x)[tg.Tensor(x) > 0]


def masked_torchs(x):
    return x[x > 0]


def masked_by_bytes(x):
    return x[x.to(torch.uint8)]


def nonzero(x):
    return torch.nonzero(tg.Tensor(x))


def split_at_tensor(x):
    return torch.tensor_split(x, torch.tensor([1, 2]))[0]


def split_at_named_tensor(x):
    return tg.Tensor(x).tensor_split(tensor_indices_or_sections=torch.tensor([1, 2]))[0]


def equal(x):
    return x if torch.equal(x, x * 2) else x * 2


def swallowed(x):
    with contextlib.suppress(Exception):
        x = x * float(x.sum())
    return x


def swallowed_by_torchs(x):
    with contextlib.suppress(Exception):
        x[x > 0]
    return x


def applied(x):
    return x.clone().apply_(lambda value: value + 1)


@pytest.mark.parametrize(
    "function",
    [
        if_positive, item, item_of_torchs, as_float, printed, formatted, as_list, as_numpy, masked,
        masked_torchs, masked_by_bytes, nonzero, split_at_tensor, split_at_named_tensor, equal,
        applied,
    ],
    ids=lambda function: function.__name__,
)  # fmt: skip
def test_what_depends_on_values_is_an_error_that_names_the_line(function, capsys):
    start = inspect.getsourcelines(function)[1]
    with pytest.raises(errors.CaptureError) as caught:
        tg.compile(function)(torch.ones(3))
    where = f"{__file__}, line {start + 1}: the value of a tensor is needed here"
    assert where in str(caught.value) and "torch.where" in str(caught.value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("function", [swallowed, swallowed_by_torchs])
def test_errors_that_the_function_takes_no_notice_of(function):
    with pytest.raises(errors.CaptureError, match="the value of a tensor is needed here"):
        tg.compile(function)(torch.ones(3))


@pytest.mark.parametrize(
    "function",
    [
        lambda x, i: x[i],
        lambda x, i: tg.Tensor(x)[i],
        lambda x, i: x[None, i],
        lambda x, i: x.clone().__setitem__(i, 0.0),
        lambda x, i: x[[i, 1]],
        lambda x, i: x[..., [[i, 1]]],
        lambda x, i: tg.Tensor(x).clone()[x.argmax()],
    ],
)
def test_indices_without_dimensions_are_values(function):
    with pytest.raises(errors.CaptureError, match=r"line \d+: indexing by .* x\[i.view\(1\)\]"):
        tg.compile(function)(torch.ones(3), torch.tensor(1))


def test_hooks_that_a_run_registers_outside(interpreted):
    heard = []
    weight = tg.Tensor([1.0, 2.0], requires_grad=True)
    outside = weight * 2

    def function(x):
        outside.register_hook(lambda g: heard.append(1))
        return x * 2

    before = outside.register_hook(lambda g: heard.append(2))
    tg.compile(function)(torch.ones(2))
    before.remove()
    outside.sum().backward()
    assert heard == [1]


def test_errors_that_say_what_to_do_are_raised_in_every_call(interpreted):
    memory = torch.ones(4)
    one, other = memory[:3], memory[1:]
    fast = tg.compile(lambda x: one.add_(x) * other.sum())
    fast(torch.ones(3))
    for _ in range(3):
        with pytest.raises(errors.CaptureError, match="shares memory with another one"):
            fast(torch.ones(3))


def test_errors_at_lines_in_functions_that_the_function_calls():
    def outer(x):
        return if_positive(x * 2)

    start = inspect.getsourcelines(if_positive)[1]
    with pytest.raises(errors.CaptureError, match=f"line {start + 1}: "):
        tg.compile(outer)(torch.ones(3))


def counter():
    count = 0

    def function(x):
        nonlocal count
        count += 1
        return x * 2

    return function, r"function changes more than tensors.*count \(\d+, then \d+\)"


def appending():
    losses = []

    def function(x):
        losses.append(x * 2)
        return x * 2

    return function, r"losses \(\d+ entries, then \d+\)"


def attribute():
    trainer = Holder(steps=0)

    def function(x):
        trainer.steps += 1
        return x * 2

    return function, r"trainer\.steps \(\d+, then \d+\)"


def entries():
    seen = {}

    def function(x):
        seen[len(seen)] = 1
        return x * 2

    return function, "seen .*entries"


def another_object():
    trainer = Holder(last=None)

    def function(x):
        trainer.last = Holder()
        return x * 2

    return function, r"trainer\.last \(another Holder\)"


@pytest.mark.parametrize("case", [counter, appending, attribute, entries, another_object])
def test_side_effects_are_errors_that_name_them(case):
    function, message = case()
    compiled = tg.compile(function)
    calls = []
    with pytest.raises(errors.CaptureError, match=message):
        while len(calls) < 10:
            calls.append(compiled(torch.ones(1)).item())
    assert calls == [2] * len(calls) and len(calls) < 4


def test_gradients_of_numbers_are_side_effects():
    w = tg.Tensor(3.0, requires_grad=True)

    def function():
        loss = w * w
        loss.backward()
        return loss

    compiled = tg.compile(function)
    with pytest.raises(errors.CaptureError, match=r"w\.grad \(\d+"):
        for calls in range(1, 10):
            assert compiled().item() == 9 and w.grad.item() == 6 * calls


def test_runs_with_side_effects_do_not_tell_when_a_program_may_run():
    holder = Holder(toggling=False, on=False)

    def function(x):
        if holder.toggling:
            holder.on = not holder.on
        return x * 2

    compiled = tg.compile(function)
    repeated(compiled, torch.ones(1))
    holder.toggling = True
    found = []
    for _ in range(3):
        compiled(torch.ones(1))
        found.append(holder.on)
    assert found == [True, False, True] and len(compiled.programs) == 1


def test_side_effects_that_end_are_none():
    trainer = Holder()

    def function(x):
        if not hasattr(trainer, "weight"):
            trainer.weight = torch.full_like(x, 2.0)
        return x * trainer.weight

    compiled = tg.compile(function)
    assert values(repeated(compiled, torch.ones(1), times=5)) == [[2]] * 5
    assert len(compiled.programs) == 1


def test_results_with_a_history_are_errors():
    training = Training()
    x, _ = data()
    with pytest.raises(errors.CaptureError, match="history"):
        tg.compile(training.model)(x)
    assert tg.compile(lambda x: training.model(x).detach())(x).shape == (5, 2)
    with tg.no_grad():
        assert tg.compile(training.model)(x).shape == (5, 2)


@pytest.mark.parametrize("result", [Holder(), {1, 2}, torch.nn.Linear(1, 1)])
def test_results_that_are_no_tensors_are_errors(result):
    with pytest.raises(errors.CaptureError, match=f"returned a {type(result).__name__}"):
        tg.compile(lambda x: result)(torch.ones(1))


def test_memory_that_is_reached_in_two_ways_is_an_error():
    base = torch.zeros(6)
    view = base[:3]

    def function(x):
        view.add_(x)
        return base.sum()

    compiled = tg.compile(function)
    with pytest.raises(errors.CaptureError, match=r"\[3\] is changed.*another one, of shape \[6\]"):
        repeated(compiled, torch.ones(3))


def test_two_memories_of_torch_s_over_one_array():
    """Storages differ, bytes do not."""
    array = np.zeros(6, dtype=np.float32)
    state, part, apart = map(torch.from_numpy, (array[:4], array[1:4], array[4:]))

    def function(x, other):
        state.add_(x)
        return other.sum()

    with pytest.raises(errors.CaptureError, match=r"\[4\] is changed.*another one, of shape \[3\]"):
        repeated(tg.compile(lambda x: function(x, part)), torch.ones(1))
    compiled = tg.compile(function)
    assert values(repeated(compiled, torch.ones(1), apart)) == [0] * 4
    assert compiled(torch.ones(1), torch.from_numpy(array[2:4])).item() == 14
    assert len(compiled.programs) == 1


def test_memory_of_tensors_with_numbers_of_two_sizes():
    complex_numbers = torch.zeros(4, dtype=torch.complex64)
    part = torch.view_as_real(complex_numbers)[2:]

    def function(x):
        part.add_(x)
        return complex_numbers.abs().sum()

    with pytest.raises(errors.CaptureError, match=r"\[2, 2\] is changed.*of shape \[4\]"):
        repeated(tg.compile(function), torch.ones(1))


def test_a_later_step_of_a_loop_that_is_given_what_steps_change():
    def run(compiled):
        memory = torch.zeros(10, 3)
        window = memory[5]

        def function(x):
            window.add_(1)
            return (x * 2).sum()

        if not compiled:
            return [function(x).item() for x in memory]
        fast = tg.compile(function)
        repeated(fast, torch.zeros(3))
        memory.zero_()
        return fast.loop(memory).tolist()

    assert run(compiled=True) == run(compiled=False)


def test_memory_given_by_arguments_that_are_changed():
    def function(x, y, z):
        x.add_(1)
        return y + z

    compiled = tg.compile(function)
    repeated(compiled, *(torch.zeros(2) for _ in range(3)))
    base = torch.zeros(6)
    x, y, z = base[:2], base[2:4], base[4:]
    assert compiled(x, y, z).tolist() == [0, 0] and len(compiled.programs) == 1
    assert compiled(x, y, base[1:3]).tolist() == [2, 0]
    assert compiled(x, base[1:3], z).tolist() == [3, 0]


@pytest.mark.parametrize(
    "views",
    [
        lambda t: t.chunk(2), lambda t: t.split(2), lambda t: t.view(2, 2).unbind(),
        lambda t: [part[:] for part in t.chunk(2)], lambda t: torch.hsplit(t, 2),
    ],
    ids=["chunk", "split", "unbind", "views of views", "hsplit"],
)  # fmt: skip
def test_changes_of_one_of_several_views(views):
    kept, other = torch.zeros(4), torch.zeros(4)

    def function(x):
        first, second = views(kept)
        torch._foreach_add_([first, other], [x, torch.ones(4)])
        second.add_(first)
        return x.sum()

    compiled = tg.compile(function)
    repeated(compiled, torch.ones(2))
    assert kept.tolist() == [4, 4, 10, 10] and other.tolist() == [4] * 4
    w = tg.Tensor(torch.ones(4), requires_grad=True)
    for changed in (kept, other):
        loss = (w * tg.Tensor(changed)).sum()
        compiled(torch.ones(2))
        with pytest.raises(errors.ChangedInPlaceError):
            loss.backward()
    assert len(compiled.programs) == 1
    before = kept.tolist()
    twice = [2 * number for number in before[:2]]
    assert compiled(kept[:2]).item() == sum(twice)  # which the step changes
    assert kept.tolist()[:2] == twice


@pytest.mark.parametrize("scalars", [(), (3.0,), ([2.0, 5.0],)], ids=["none", "one", "each"])
@pytest.mark.parametrize("name", ["_foreach_addcdiv_", "_foreach_addcmul_"])
def test_operators_on_lists_with_numbers(name, scalars):
    def function(kept):
        others = [[t * 2 for t in kept], [t * 3 + 1 for t in kept]]
        return lambda x: (getattr(torch, name)(kept, *others, *scalars), x * 2)[1]

    ours, theirs = ([torch.ones(3), torch.full((2,), 4.0)] for _ in range(2))
    compiled, eager = tg.compile(function(ours)), function(theirs)
    for _ in range(4):
        compiled(torch.ones(1))
        eager(torch.ones(1))
        close(ours, theirs)


# ------------------------------------------------------------------------- autocast


def test_autocast_is_not_applied_to_what_was_taken_out_of_it():
    """Those that are captured, lowered and run are the operators after it."""
    ones = torch.ones(3, 3)
    exact = 1 + 2.0**-10  # which is no number in half the bits

    def function(x):
        with torch.autocast("cpu", enabled=False):
            out = x @ ones
        return out, x @ ones

    for model in (function, lambda x: function(x) + (F.dropout(x, 0.5),)):  # native, and not
        compiled = tg.compile(model)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for _ in range(4):
                out, inside = compiled(torch.full((2, 3), exact))[:2]
                assert out.dtype == torch.float32 and inside.dtype == torch.bfloat16
                assert out.unique().tolist() == [3 * exact] and inside.unique().tolist() == [3]
        assert len(compiled.programs) == 1


def test_gradients_of_what_was_computed_under_autocast():
    ours, theirs = Training(), Training()

    def mixed(training):
        def step(x, y):
            training.optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = F.mse_loss(training.model(x).float(), y)
            loss.backward()
            training.optimizer.step()
            return loss

        return step

    fast, step = tg.compile(mixed(ours)), mixed(theirs)
    for seed in range(6):
        fast(*data(seed=seed))
        step(*data(seed=seed))
    assert len(fast.programs) == 1
    for p, q in zip(ours.parameters(), theirs.parameters()):
        assert torch.allclose(p, q, atol=2e-3)


# ---------------------------------------------------------- what cannot be lowered


def test_steps_that_torch_cannot_lower_run_as_they_are():
    parameters = [torch.ones(3), torch.ones(2)]
    options = {"weight_decay": 0.0, "momentum": 0.0, "lr": 0.5, "dampening": 0.0}
    flags = {"nesterov": False, "maximize": False, "is_first_step": False}

    def function(x):
        torch._fused_sgd_(parameters, [p * 1 for p in parameters], [], **options, **flags)
        return parameters[0] * x

    compiled = tg.compile(function)
    with pytest.warns(UserWarning, match=r"this step is not compiled: .*_fused_sgd_.*report this"):
        results = values(repeated(compiled, torch.ones(1), times=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results += values(repeated(compiled, torch.ones(1), times=2))
        results += compiled.loop(torch.ones(2, 1)).tolist()
    assert results == [[0.5**i] * 3 for i in range(1, 7)]
    assert len(compiled.programs) == 1


@pytest.mark.parametrize("error", [errors.CaptureError, errors.CompilerError])
def test_errors_that_say_what_to_do_are_raised(monkeypatch, error):
    def fail(graph, inputs):
        raise error("what to do")

    monkeypatch.setattr("tinygrad_ee559.compiling.lowering.lowered", fail)
    with pytest.raises(error, match="what to do"):
        repeated(tg.compile(lambda x: x * 2), torch.ones(1))


def test_what_a_call_is_given_and_returns_does_not_stay_in_memory():
    training = Training()
    holder = Holder(last=torch.zeros(2))

    def function(x, y, w):
        loss = training.step(x, y)
        (w * w).sum().backward()
        holder.last = x[0] * 2
        return loss, x * 2

    compiled = tg.compile(function)
    alive = []
    for seed in range(6):
        x, y = data(seed=seed)
        w = tg.Tensor(torch.ones(3), requires_grad=True)
        results = compiled(x, y, w)
        alive += map(weakref.ref, (x, y, w.data, w, w.grad, holder.last, *results))
    assert len(compiled.programs) == 1
    del x, y, w, results
    gc.collect()
    assert [i for i, reference in enumerate(alive[:-8]) if reference() is not None] == []
