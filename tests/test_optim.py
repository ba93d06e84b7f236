"""Optimizers against torch.optim's: every bit of the updates, the interface, the errors."""

import copy
import os
import pickle
import platform
import subprocess
import sys

import pytest
import torch
from steps import close, data, interpreted, own_cache

import tinygrad_ee559 as tg
from tinygrad_ee559 import Tensor, nn, optim
from tinygrad_ee559.compiling.lanes import LANES
from tinygrad_ee559.compiling.native import Native
from tinygrad_ee559.errors import ChangedInPlaceError, StateDictError

__all__ = ["interpreted", "own_cache"]

SEED = 11
SHAPES = [(25, 2), (25,), (3, 25), (1,), ()]
VARIANTS = {
    "plain": {},
    "weight decay": {"weight_decay": 0.01},
    "momentum": {"momentum": 0.9},
    "dampening": {"momentum": 0.9, "dampening": 0.3},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "all": {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
}
ADAMS = {
    "plain": {},
    "weight decay": {"weight_decay": 0.1},
    "amsgrad": {"amsgrad": True},
    "all": {"weight_decay": 0.3, "amsgrad": True, "betas": (0.4, 0.9), "eps": 1e-3},
}


def parameters(dtype=torch.float32, shapes=SHAPES):
    """The same leaves here and in PyTorch."""
    torch.manual_seed(SEED)
    values = [torch.randn(shape, dtype=dtype) for shape in shapes]
    ours = [Tensor(value.clone(), requires_grad=True) for value in values]
    return ours, [value.clone().requires_grad_() for value in values]


def set_gradients(ours, theirs, present=None):
    for i, (p, q) in enumerate(zip(ours, theirs)):
        if present is not None and i not in present:
            p.grad = q.grad = None
            continue
        g = torch.randn_like(q)
        p.grad, q.grad = Tensor(g), g.clone()


def assert_same(ours, theirs):
    for p, q in zip(ours, theirs):
        assert torch.equal(p.as_torch(), q.detach())


# -------------------------------------------------------------------- the update


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str
)
@pytest.mark.parametrize("variant", VARIANTS)
def test_updates_are_pytorchs_to_the_bit(variant, dtype):
    ours, theirs = parameters(dtype)
    a = optim.SGD(ours, lr=0.1, **VARIANTS[variant])
    b = torch.optim.SGD(theirs, lr=0.1, **VARIANTS[variant])
    for step in range(20):
        # Not every parameter has a gradient every time, so momentum begins at different steps.
        set_gradients(ours, theirs, None if step % 3 else {0, step % 4, step % 5})
        a.param_groups[0]["lr"] = b.param_groups[0]["lr"] = 0.1 / (1 + step)
        a.step()
        b.step()
        assert_same(ours, theirs)


def compare_adams(name, ours, theirs, options, theirs_options, steps=200):
    """Train both; not every parameter has a gradient every time, so they are at different steps."""
    a = getattr(optim, name)(ours, **options)
    b = getattr(torch.optim, name)(theirs, **theirs_options)
    for step in range(steps):
        set_gradients(ours, theirs, None if step % 3 else {0, step % 4, step % 5})
        if isinstance(a.param_groups[0]["lr"], float):
            a.param_groups[0]["lr"] = b.param_groups[0]["lr"] = 0.1 / (1 + step)
        a.step()
        b.step()
        assert_same(ours, theirs)
    assert all(q.isfinite().all() for q in theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("variant", ADAMS)
@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_adams_updates_are_pytorchs_to_the_bit(name, variant, dtype):
    options = {"lr": 0.1, **ADAMS[variant]}
    compare_adams(name, *parameters(dtype), options, options)


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_adam_with_a_tensor_for_the_learning_rate(name):
    """Which rounds what is computed with it to its own dtype."""
    for lr in (torch.tensor(0.03), Tensor(torch.tensor(0.03))):
        theirs = {"lr": torch.tensor(0.03), "weight_decay": 0.3}
        compare_adams(name, *parameters(torch.float64), {**theirs, "lr": lr}, theirs, 30)


def test_adam_of_large_and_of_complex_parameters():
    large = parameters(shapes=[(600, 1000), (500, 1000), (3,)])
    compare_adams("Adam", *large, *({"lr": 0.1, "amsgrad": True},) * 2, steps=4)
    compare_adams("Adam", *parameters(torch.complex64), {"lr": 0.1}, {"lr": 0.1}, 20)


@pytest.mark.parametrize("make", [torch.tensor, Tensor], ids=["torch", "here"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_hyper_parameters_may_be_tensors(variant, make):
    ours, theirs = parameters(torch.float64)
    options = {"lr": 0.1, **VARIANTS[variant]}
    tensors = {k: v if isinstance(v, bool) else make(v) for k, v in options.items()}
    a = optim.SGD(ours, **tensors)
    b = torch.optim.SGD(theirs, **options)
    for _ in range(5):
        set_gradients(ours, theirs)
        a.step()
        b.step()
    for p, q in zip(ours, theirs):
        torch.testing.assert_close(p.as_torch(), q.detach(), rtol=1e-6, atol=1e-7)


def test_a_tensor_for_the_learning_rate_can_be_changed_on_the_way():
    lr = torch.tensor(1.0)
    x = Tensor([3.0], requires_grad=True)
    optimizer = optim.SGD([x], lr=lr)
    x.grad = Tensor([1.0])
    optimizer.step()
    lr.mul_(0.5)
    optimizer.step()
    assert x.tolist() == [1.5]
    with pytest.raises(ValueError, match="lr must be 0 or more"):
        optim.SGD([x], lr=torch.tensor(-1.0))


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_that_are_numbers_learn_as_float64_tensors_do(variant):
    values = [-0.7, 1.3]
    numbers = [Tensor(value, requires_grad=True) for value in values]
    vector = Tensor([0.5, 2.0], requires_grad=True)
    theirs = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values]
    theirs_vector = torch.tensor([0.5, 2.0], requires_grad=True)
    a = optim.SGD([*numbers, vector], lr=0.1, **VARIANTS[variant])
    b = torch.optim.SGD([*theirs, theirs_vector], lr=0.1, **VARIANTS[variant])
    for _ in range(10):
        a.zero_grad()
        b.zero_grad()
        for (x, y), v in ((numbers, vector), (theirs, theirs_vector)):
            (x * y + (y - 1) * (y - 1) + x * x).backward()
            (v * v).sum().backward()
        a.step()
        b.step()
    assert all(type(x.data) is float and x.is_leaf for x in numbers)
    assert [x.data for x in numbers] == pytest.approx([x.item() for x in theirs], rel=1e-14)
    assert torch.equal(vector.data, theirs_vector.detach())
    assert [x.data for x in numbers] != values


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_numbers_learn_as_float64_tensors_do_with_adam(name):
    values = [-0.7, 1.3]
    numbers = [Tensor(value, requires_grad=True) for value in values]
    theirs = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values]
    a = getattr(optim, name)(numbers, lr=0.1, weight_decay=0.1)
    b = getattr(torch.optim, name)(theirs, lr=0.1, weight_decay=0.1)
    for _ in range(20):
        for (x, y), optimizer in ((numbers, a), (theirs, b)):
            optimizer.zero_grad()
            (x * y + (y - 1) * (y - 1) + x * x).backward()
            optimizer.step()
    assert all(type(x.data) is float and x.is_leaf for x in numbers)
    assert [x.data for x in numbers] == pytest.approx([x.item() for x in theirs], rel=1e-14)


def test_update_is_in_place_and_bumps_the_version():
    x = Tensor([1.0, 2.0], requires_grad=True)
    data, leaf = x.data, x.node
    y = (x * x).sum()
    (x * 3).sum().backward()
    version = data._version
    optim.SGD([x], lr=1.0).step()
    assert x.data is data and x.node is leaf and data.tolist() == [-2.0, -1.0]
    assert data._version > version
    with pytest.raises(ChangedInPlaceError):
        y.backward()


def test_momentum_does_not_hold_on_to_the_gradient():
    x = Tensor([1.0], requires_grad=True)
    optimizer = optim.SGD([x], lr=1.0, momentum=0.5)
    x.grad = Tensor([1.0])
    for expected in (0.0, -1.5):  # without zero_grad: the same gradient is used twice
        optimizer.step()
        assert x.item() == expected and x.grad.item() == 1.0


@pytest.mark.parametrize(
    "kind, options", [("SGD", {"momentum": 0.9}), ("Adam", {}), ("AdamW", {"amsgrad": True})]
)
def test_frozen_parameters_and_those_without_gradient_stay(kind, options):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    model[0].requires_grad_(False)
    before = {name: value.data.clone() for name, value in model.state_dict().items()}
    optimizer = getattr(optim, kind)(model.parameters(), lr=0.1, weight_decay=0.1, **options)
    optimizer.step()  # no gradients at all
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    changed = [n for n, v in model.state_dict().items() if not torch.equal(v.data, before[n])]
    assert changed == ["1.weight", "1.bias"]


def test_groups_have_hyper_parameters_of_their_own():
    ours, theirs = parameters()
    options = {"lr": 0.1, "momentum": 0.9}
    optimizers = []
    for library, p in ((optim, ours), (torch.optim, theirs)):
        groups = [{"params": p[:2]}, {"params": iter(p[2:4]), "lr": 0.01, "momentum": 0}]
        optimizers.append(library.SGD(groups, **options))
        optimizers[-1].add_param_group({"params": p[4], "weight_decay": 0.5})
    for _ in range(3):
        set_gradients(ours, theirs)
        for optimizer in optimizers:
            optimizer.step()
        assert_same(ours, theirs)
    assert [group["lr"] for group in optimizers[0].param_groups] == [0.1, 0.01, 0.1]


def test_groups_have_hyper_parameters_of_their_own_with_adam():
    ours, theirs = parameters()
    optimizers = []
    for library, p in ((optim, ours), (torch.optim, theirs)):
        groups = [{"params": p[:2]}, {"params": p[2:4], "lr": 0.01, "betas": (0.5, 0.6)}]
        optimizers.append(library.AdamW(groups, lr=0.1))
        optimizers[-1].add_param_group({"params": p[4], "weight_decay": 0, "amsgrad": True})
    for _ in range(10):
        set_gradients(ours, theirs)
        for optimizer in optimizers:
            optimizer.step()
        assert_same(ours, theirs)


def test_zero_grad():
    x = Tensor([1.0], requires_grad=True)
    number = Tensor(2.0, requires_grad=True)
    frozen = Tensor([1.0])
    optimizer = optim.SGD([x, number, frozen], lr=0.1)
    (x * number * float("nan")).sum().backward()
    optimizer.zero_grad(set_to_none=False)
    assert x.grad.tolist() == [0.0] and number.grad.data.__class__ is float and not number.grad
    (x * number).sum().backward()
    assert x.grad.tolist() == [2.0] and number.grad.item() == 1.0
    optimizer.zero_grad()
    assert x.grad is None and number.grad is None


# --------------------------------------------------------------------- state dict


def trained(library, leaves, steps=3):
    optimizer = library.SGD(leaves, lr=0.1, momentum=0.9, weight_decay=0.01)
    for step in range(steps):
        torch.manual_seed(step)
        for leaf in leaves:
            g = torch.randn(leaf.shape)
            leaf.grad = Tensor(g) if isinstance(leaf, Tensor) else g
        optimizer.step()
    return optimizer


def test_state_dict_is_laid_out_as_pytorchs():
    ours, theirs = parameters()
    a, b = trained(optim, ours).state_dict(), trained(torch.optim, theirs).state_dict()
    assert a["state"].keys() == b["state"].keys()
    for number, state in b["state"].items():
        buffer = a["state"][number]["momentum_buffer"]
        assert type(buffer) is torch.Tensor and torch.equal(buffer, state["momentum_buffer"])
    for group, expected in zip(a["param_groups"], b["param_groups"], strict=True):
        assert group.items() <= expected.items()


@pytest.mark.parametrize("source", ["ours", "pytorch"])
def test_training_goes_on_from_a_loaded_state(source):
    ours, theirs = parameters()
    a, b = trained(optim, ours), trained(torch.optim, theirs)
    saved = copy.deepcopy((a if source == "ours" else b).state_dict())
    fresh = optim.SGD(ours, lr=7.0)
    fresh.load_state_dict(saved)
    assert fresh.param_groups[0]["lr"] == 0.1 and fresh.param_groups[0]["momentum"] == 0.9
    set_gradients(ours, theirs)
    fresh.step()
    b.step()
    assert_same(ours, theirs)


def test_pytorch_goes_on_from_our_state():
    ours, theirs = parameters()
    a = trained(optim, ours)
    for p, q in zip(ours, theirs):
        q.data.copy_(p.data)
    b = torch.optim.SGD(theirs, lr=7.0)
    b.load_state_dict(copy.deepcopy(a.state_dict()))
    set_gradients(ours, theirs)
    a.step()
    b.step()
    assert_same(ours, theirs)
    assert type(optim.SGD(ours, lr=Tensor(0.1)).state_dict()["param_groups"][0]["lr"]) is float


def test_a_loaded_state_is_a_copy():
    ours, _ = parameters()
    a = trained(optim, ours)
    state = a.state_dict()
    expected = state["state"][0]["momentum_buffer"].clone()
    fresh = optim.SGD(ours, lr=0.1)
    fresh.load_state_dict(state)
    fresh.step()
    assert torch.equal(state["state"][0]["momentum_buffer"], expected)


def test_load_state_dict_names_what_does_not_fit_and_changes_nothing():
    ours, theirs = parameters()
    optimizer = optim.SGD(ours, lr=0.5)
    with pytest.raises(StateDictError, match=r"groups of \[5\] parameters, .* groups of \[4\]"):
        optimizer.load_state_dict(trained(optim, ours[:4]).state_dict())
    state = torch.optim.SGD(theirs, lr=0.1, maximize=True).state_dict()
    state["state"] = {1: {"momentum_buffer": torch.zeros(3)}}
    del state["param_groups"][0]["nesterov"]
    with pytest.raises(StateDictError) as error:
        optimizer.load_state_dict(state)
    assert str(error.value) == (
        "this state dict does not fit SGD; nesterov is missing; maximize=True is not supported; "
        "the momentum of parameter 1 has shape [3], expected [25]"
    )
    assert optimizer.param_groups[0]["lr"] == 0.5 and not optimizer.state_dict()["state"]


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_adams_state_goes_to_pytorch_and_back(name, amsgrad):
    """The steps of one training are made here, there, and here again."""
    ours, theirs = parameters()
    moved, reference = parameters()[0], parameters()[1]
    optimizers = [
        getattr(optim, name)(ours, lr=0.1, weight_decay=0.2, amsgrad=amsgrad),
        getattr(torch.optim, name)(theirs, lr=9.0),
        getattr(optim, name)(moved, lr=9.0),
    ]
    whole = getattr(torch.optim, name)(reference, lr=0.1, weight_decay=0.2, amsgrad=amsgrad)
    previous = None
    for leaves, optimizer in zip((ours, theirs, moved), optimizers):
        if previous is not None:
            optimizer.load_state_dict(previous[1].state_dict())
            for leaf, other in zip(leaves, previous[0]):
                leaf.data.copy_(other.data)
        for step in range(5):
            gradients = [torch.randn(leaf.shape) for leaf in leaves]
            for leaf, other, g in zip(leaves, reference, gradients):
                leaf.grad = Tensor(g) if isinstance(leaf, Tensor) else g
                other.grad = g.clone()
            if not step:
                leaves[1].grad = reference[1].grad = None
            optimizer.step()
            whole.step()
            for leaf, other in zip(leaves, reference):
                assert torch.equal(leaf.data, other.data)
        previous = leaves, optimizer
    expected, found = whole.state_dict(), optimizers[2].state_dict()
    assert [state["step"].item() for state in found["state"].values()] == [15, 12, 15, 15, 15]
    for number, state in expected["state"].items():
        assert found["state"][number].keys() == state.keys()
        for key, value in state.items():
            other = found["state"][number][key]
            assert torch.equal(other, value) and other.dtype == value.dtype
    assert found["param_groups"][0].items() <= expected["param_groups"][0].items()


def as_tensors(state):
    return {name: Tensor(value) for name, value in state.items()}


def with_a_number(state):
    return {**state, "step": state["step"].item()}


@pytest.mark.parametrize("changed", [dict, as_tensors, with_a_number])
def test_states_of_all_implementations_are_taken(changed):
    ours, theirs = parameters()
    b = torch.optim.Adam(theirs, lr=0.1, foreach=True)
    set_gradients(ours, theirs)
    b.step()
    state = copy.deepcopy(b.state_dict())
    state["state"] = {number: changed(values) for number, values in state["state"].items()}
    state["param_groups"][0] |= {"fused": True, "capturable": True, "differentiable": True}
    a = optim.Adam(ours)
    a.load_state_dict(state)
    for p, q in zip(ours, theirs):
        p.data.copy_(q.data)
    set_gradients(ours, theirs)
    a.step()
    b.step()
    assert_same(ours, theirs)


def test_adamw_stays_adamw_with_a_state_of_adam():
    ours, _ = parameters()
    optimizer = optim.AdamW(ours)
    optimizer.load_state_dict(optim.Adam(ours, lr=0.5).state_dict())
    group = optimizer.param_groups[0]
    assert group["lr"] == 0.5 and group["decoupled_weight_decay"] is True


def test_a_loaded_learning_rate_is_a_copy():
    ours, _ = parameters()
    lr = torch.tensor(0.1)
    state = optim.Adam(ours, lr=lr).state_dict()
    fresh = optim.Adam(ours)
    fresh.load_state_dict(state)
    lr.fill_(7.0)
    assert fresh.param_groups[0]["lr"].item() == pytest.approx(0.1)


# ----------------------------------------------------------------------- programs


class Adams:
    """A model, an Adam, and the step for them."""

    def __init__(self, name, dtype=torch.float32, seed=0, **options):
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(3, 2), nn.Tanh()).to(dtype)
        self.optimizer = getattr(optim, name)(self.model.parameters(), **options)
        criterion = nn.MSELoss()

        def step(x, y):
            self.optimizer.zero_grad()
            loss = criterion(self.model(x), y)
            loss.backward()
            self.optimizer.step()
            return loss

        self.step = step

    def tensors(self):
        kept = self.optimizer.steps, self.optimizer.averages, self.optimizer.squares
        return [p.data for p in self.model.parameters()] + [t for d in kept for t in d.values()]


@pytest.mark.no_cover
@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize(
    "name, dtype, options",
    [
        ("Adam", torch.float32, {"lr": 0.01}),
        (
            "AdamW", torch.float64,
            {"lr": torch.tensor(0.01), "weight_decay": 0.1, "amsgrad": True},
        ),
    ],
    ids=["single", "double"],
)  # fmt: skip
def test_programs_of_adam_do_what_steps_do(name, dtype, options):
    ours, theirs = (Adams(name, dtype, **copy.deepcopy(options)) for _ in range(2))
    compiled = tg.compile(ours.step)
    for i in range(100):
        x, y = data(seed=i, dtype=dtype)
        if i == 50:
            for adams in (ours, theirs):
                lr = adams.optimizer.param_groups[0]["lr"]
                if isinstance(lr, torch.Tensor):
                    lr.mul_(0.5)  # no other program
        close([compiled(x, y).data], [theirs.step(x, y).detach().data])
    close(ours.tensors(), theirs.tensors())
    assert isinstance(compiled.programs[0]._executable, Native) and len(compiled.programs) == 1


@pytest.mark.parametrize(
    "name, rates, options",
    [
        ("Adam", [torch.tensor(lr) for lr in (0.01, 0.003, 0.001)], {"weight_decay": 0.1}),
        ("AdamW", [0.01] * 3, {"weight_decay": 0.1, "amsgrad": True}),
    ],
    ids=["tensors", "numbers"],
)
def test_ensembles_of_adams(interpreted, name, rates, options):
    ours, theirs = (
        [Adams(name, seed=s, lr=copy.deepcopy(lr), **options) for s, lr in enumerate(rates)]
        for _ in range(2)
    )
    ensemble = tg.ensemble([adams.step for adams in ours])
    x, y = data(50, 3)
    ensemble.loop(x, y)
    (together,) = ensemble._together
    assert together._layout.lanes == LANES
    for j, (one, other) in enumerate(zip(ours, theirs)):
        for i in range(50):
            other.step(x[i, j], y[i, j])
        close(one.tensors(), other.tensors())


# ------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "options, message",
    [
        ({"lr": -0.1}, "lr must be 0 or more, not -0.1"),
        ({"lr": float("nan")}, "lr must be 0 or more, not nan"),
        ({"momentum": -1}, "momentum must be 0 or more, not -1"),
        ({"weight_decay": -0.5}, "weight_decay must be 0 or more, not -0.5"),
        ({"nesterov": True}, "momentum=0.0 and dampening=0.0"),
        ({"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "momentum=0.9 and dampening=0.1"),
    ],
)
def test_hyper_parameters_out_of_range(options, message):
    x = Tensor([1.0], requires_grad=True)
    with pytest.raises(ValueError, match=message):
        optim.SGD([x], **options)
    with pytest.raises(ValueError, match=message):
        optim.SGD([{"params": [x], **options}])


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
@pytest.mark.parametrize(
    "options, message",
    [
        ({"lr": -0.1}, "lr must be 0 or more, not -0.1"),
        ({"eps": -1.0}, "eps must be 0 or more, not -1.0"),
        ({"weight_decay": float("nan")}, "weight_decay must be 0 or more, not nan"),
        ({"betas": (0.9, 1.0)}, r"betas must be from 0 to below 1, not \(0.9, 1.0\)"),
        ({"betas": (-0.1, 0.9)}, r"betas must be from 0 to below 1, not \(-0.1, 0.9\)"),
    ],
)
def test_hyper_parameters_of_adam_out_of_range(name, options, message):
    x = Tensor([1.0], requires_grad=True)
    for given in (([x], options), ([{"params": [x], **options}], {})):
        with pytest.raises(ValueError, match=message):
            getattr(optim, name)(given[0], **given[1])


def test_states_that_do_not_fit_adam():
    x = Tensor([1.0, 2.0], requires_grad=True)
    optimizer = optim.Adam([x])
    with pytest.raises(StateDictError, match="fit Adam; betas is missing; .*momentum=0.9 is not"):
        optimizer.load_state_dict(optim.SGD([x], momentum=0.9).state_dict())
    state = optimizer.state_dict()
    state["state"] = {0: {"step": torch.zeros(2), "exp_avg": torch.zeros(3)}}
    with pytest.raises(StateDictError) as error:
        optimizer.load_state_dict(state)
    assert str(error.value) == (
        "this state dict does not fit Adam; the exp_avg_sq of parameter 0 is missing; "
        "the step of parameter 0 has shape [2], expected []; "
        "the exp_avg of parameter 0 has shape [3], expected [2]"
    )
    state["state"] = {0: {"step": 1.0, "exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2)}}
    state["param_groups"][0]["amsgrad"] = True
    with pytest.raises(StateDictError, match="the max_exp_avg_sq of parameter 0 is missing"):
        optimizer.load_state_dict(state)
    assert not optimizer.steps and not optimizer.param_groups[0]["amsgrad"]


def test_an_optimizer_without_a_rule():
    with pytest.raises(NotImplementedError, match="Optimizer does not define step"):
        optim.Optimizer([Tensor([1.0], requires_grad=True)], {"lr": 0.1}).step()


def test_parameters_that_cannot_be_optimized():
    x = Tensor([1.0], requires_grad=True)
    with pytest.raises(ValueError, match="no parameters"):
        optim.SGD([])
    with pytest.raises(ValueError, match=r"parameter 1, of shape \[1\], was computed by torch.mul"):
        optim.SGD([x, x * 2])
    with pytest.raises(ValueError, match="parameter 1, of shape .* is given twice"):
        optim.SGD([x, x])
    with pytest.raises(ValueError, match="given twice"):
        optim.SGD([{"params": [x]}, {"params": x}])
    with pytest.raises(ValueError, match="no hyper-parameter beta; it has lr, momentum"):
        optim.SGD([{"params": [x], "beta": 1}])
    with pytest.raises(TypeError, match="put this tensor in a list"):
        optim.SGD(x)
    with pytest.raises(TypeError, match="parameter 0 is a Parameter, not a tinygrad_ee559.Tensor"):
        optim.SGD(torch.nn.Linear(1, 1).parameters())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about the GNU C library")
def test_a_step_gets_the_memory_that_the_last_one_freed():
    """No page of it was given back to the system: 4 MB of gradients are a thousand."""
    code = """
import resource, torch
from tinygrad_ee559 import Tensor, nn, optim

torch.set_num_threads(1)
model = nn.Sequential(*(nn.Linear(512, 512) for _ in range(4)))
optimizer = optim.SGD(model.parameters(), lr=1e-3)
x = Tensor(torch.rand(100, 512))

def step():
    optimizer.zero_grad()
    model(x).sum().backward()
    optimizer.step()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(10): step()
before = faults()
for _ in range(10): step()
print((faults() - before) / 10)
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert float(run.stdout) < 100


def test_frozen_parameters_keep_their_gradients():
    """As in PyTorch, where an optimizer goes on to use one that is left there."""

    def train(library, wrap):
        x = wrap([3.0])
        optimizer = library.optim.SGD([x], lr=0.1, momentum=0.9)
        seen = []

        def note():
            seen.append((x.detach().tolist(), None if x.grad is None else x.grad.tolist()))

        (x * x).sum().backward()
        x.requires_grad_(False)
        note()
        optimizer.step()
        note()
        x.grad = wrap([7.0]).detach()
        note()
        x.requires_grad_(True)
        (x * x).sum().backward()
        note()
        x.requires_grad_(False)
        optimizer.zero_grad(set_to_none=False)
        note()
        optimizer.zero_grad()
        note()
        optimizer.step()
        note()
        x.requires_grad_(True)
        (x * 2).sum().backward()
        optimizer.step()
        note()
        return seen

    ours = train(tg, lambda value: Tensor(value, requires_grad=True))
    theirs = train(torch, lambda value: torch.tensor(value, requires_grad=True))
    assert str(ours) == str(theirs)


def test_gradients_that_arrive_at_what_was_frozen_meanwhile():
    def train(library, wrap):
        x = wrap([3.0])
        y = (x * x).sum()
        x.requires_grad_(False)
        y.backward()
        seen = [x.grad]
        x.requires_grad_(True)
        (x * 2).sum().backward()
        return [*seen, x.grad.tolist()]

    ours = train(tg, lambda value: Tensor(value, requires_grad=True))
    assert (
        ours == train(torch, lambda value: torch.tensor(value, requires_grad=True)) == [None, [2]]
    )


def test_a_leaf_that_is_detached_keeps_its_gradient():
    def train(library, wrap):
        x = wrap([3.0])
        (x * x).sum().backward()
        x.detach_()
        return x.requires_grad, x.grad.tolist()

    ours = train(tg, lambda value: Tensor(value, requires_grad=True))
    assert ours == train(torch, lambda value: torch.tensor(value, requires_grad=True))


def test_numbers_that_are_frozen():
    x = Tensor(1.0, requires_grad=True)
    (x * 3).backward()
    x.requires_grad_(False)
    optim.SGD([x], lr=0.1).step()
    assert x.item() == pytest.approx(0.7)


def test_frozen_parameters_that_are_converted():
    x = nn.Parameter([1.0, 2.0])
    (x * x).sum().backward()
    x.requires_grad_(False)
    x.grad = None
    x.data = x.data.to(torch.int64)
    assert copy.deepcopy(x).tolist() == [1, 2]
    large = nn.Parameter(torch.zeros(10_000))
    large.requires_grad_(False)
    large.data = torch.zeros(1)
    assert len(pickle.dumps(large)) < 2000


def test_a_frozen_parameter_that_is_copied_and_pickled():
    x = Tensor([3.0], requires_grad=True)
    (x * x).sum().backward()
    x.requires_grad_(False)
    for copied in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert not copied.requires_grad
        assert copied.grad.tolist() == [6]
        copied.requires_grad_(True)
        (copied * 2).sum().backward()
        assert copied.grad.tolist() == [8] and x.grad.tolist() == [6]


@pytest.mark.parametrize("make", [lambda p: optim.SGD(p, momentum=0.9), optim.Adam])
def test_what_is_kept_has_the_order_of_the_parameters(make):
    """Whichever of them was the first to learn."""
    parameters = [nn.Parameter(torch.ones(2)) for _ in range(3)]
    optimizer = make(parameters)
    for learning in (2, 0, 1):
        parameters[learning].grad = tg.Tensor([1.0, 1.0])
        optimizer.step()
    for attribute in optimizer._kept.values():
        kept = [*getattr(optimizer, attribute)]
        assert all(one is other for one, other in zip(kept, parameters))
