"""SGD against torch.optim.SGD: every bit of the updates, the interface, the errors."""

import copy

import pytest
import torch

from tinygrad_ee559 import Tensor, nn, optim
from tinygrad_ee559.errors import ChangedInPlaceError, StateDictError

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


def parameters(dtype=torch.float32):
    """The same leaves here and in PyTorch."""
    torch.manual_seed(SEED)
    values = [torch.randn(shape, dtype=dtype) for shape in SHAPES]
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


def test_frozen_parameters_and_those_without_gradient_stay():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    model[0].requires_grad_(False)
    before = {name: value.data.clone() for name, value in model.state_dict().items()}
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
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


def test_zero_grad():
    x = Tensor([1.0], requires_grad=True)
    number = Tensor(2.0, requires_grad=True)
    frozen = Tensor([1.0])
    optimizer = optim.SGD([x, number, frozen], lr=0.1)
    (x * number * float("nan")).sum().backward()
    optimizer.zero_grad(set_to_none=False)
    assert x.grad.tolist() == [0.0] and number.grad.item() == 0.0
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
        assert isinstance(buffer, Tensor) and torch.equal(buffer.data, state["momentum_buffer"])
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


def test_a_loaded_state_is_a_copy():
    ours, _ = parameters()
    a = trained(optim, ours)
    state = a.state_dict()
    expected = state["state"][0]["momentum_buffer"].data.clone()
    fresh = optim.SGD(ours, lr=0.1)
    fresh.load_state_dict(state)
    fresh.step()
    assert torch.equal(state["state"][0]["momentum_buffer"].data, expected)


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
