"""Losses against those of torch.nn: values, gradients, state, errors."""

import pytest
import torch

from tinygrad_ee559 import Tensor, dispatch, nn
from tinygrad_ee559.errors import OperandError

SEED = 7
F64 = torch.float64
REDUCTIONS = ["mean", "sum", "none"]


def numbers():
    return torch.randn(4, 5, dtype=F64)


def probabilities():
    return torch.rand(4, 5, dtype=F64)


def logarithms():
    return numbers().log_softmax(1)


def classes():
    return torch.tensor([1, 4, 0, 2])


PER_CLASS = {"weight": torch.linspace(0.5, 2, 5)}
#: The name of a loss, its options, what makes its input and its target.
LOSSES = [
    ("MSELoss", {}, numbers, numbers),
    ("L1Loss", {}, numbers, numbers),
    *[("SmoothL1Loss", {"beta": beta}, numbers, numbers) for beta in (0, 0.5, 1.0)],
    *[("HuberLoss", {"delta": delta}, numbers, numbers) for delta in (0.5, 1.0)],
    ("NLLLoss", {}, logarithms, classes),
    ("NLLLoss", {**PER_CLASS, "ignore_index": 4}, logarithms, classes),
    ("NLLLoss", PER_CLASS, lambda: logarithms()[0], lambda: torch.tensor(3)),
    (
        "NLLLoss", PER_CLASS, lambda: torch.randn(4, 5, 2, 3, dtype=F64),
        lambda: torch.randint(5, (4, 2, 3)),
    ),
    ("CrossEntropyLoss", {}, numbers, classes),
    ("CrossEntropyLoss", PER_CLASS, numbers, classes),
    ("BCELoss", {}, probabilities, probabilities),
    ("BCELoss", PER_CLASS, probabilities, probabilities),
    ("BCEWithLogitsLoss", {}, numbers, probabilities),
    ("BCEWithLogitsLoss", {"pos_weight": torch.linspace(0.5, 2, 5)}, numbers, probabilities),
    (
        "BCEWithLogitsLoss", {"weight": torch.ones(4, 1) / 3, "pos_weight": torch.arange(5.0)},
        numbers, probabilities,
    ),
    ("KLDivLoss", {}, logarithms, probabilities),
    ("KLDivLoss", {"log_target": True}, logarithms, logarithms),
]  # fmt: skip


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name, options, make_input, make_target", LOSSES)
@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
def test_loss_is_that_of_pytorch(name, options, make_input, make_target, reduction):
    torch.manual_seed(SEED)
    x, target = make_input(), make_target()
    pair = [getattr(lib, name)(reduction=reduction, **options).to(F64) for lib in (nn, torch.nn)]
    check_loss(*pair, x, target)


def test_batchmean_is_the_divergence():
    torch.manual_seed(SEED)
    pair = [library.KLDivLoss(reduction="batchmean") for library in (nn, torch.nn)]
    check_loss(*pair, logarithms(), probabilities())


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True], ids=["equal", "weighted"])
@pytest.mark.parametrize("target", ["classes", "probabilities", "pixels", "one"])
def test_cross_entropy_loss(target, weighted, smoothing, reduction):
    torch.manual_seed(SEED)
    shape = {"pixels": (4, 5, 2, 3), "one": (5,)}.get(target, (4, 5))
    x = torch.randn(shape, dtype=torch.float64)
    targets = {
        "classes": torch.tensor([1, 4, 0, 2]),
        "probabilities": torch.rand(4, 5, dtype=torch.float64).softmax(1),
        "pixels": torch.randint(5, (4, 2, 3)),
        "one": torch.tensor(3),
    }
    weight = torch.rand(5, dtype=torch.float64) if weighted else None
    options = {"reduction": reduction, "label_smoothing": smoothing}
    ours = nn.CrossEntropyLoss(weight, ignore_index=4, **options)
    # PyTorch refuses an ignored index together with probabilities only if it is not negative.
    if target == "probabilities":
        ours.ignore_index = -100
    theirs = torch.nn.CrossEntropyLoss(weight, ignore_index=ours.ignore_index, **options)
    check_loss(ours, theirs, x, targets[target])


def check_loss(ours, theirs, x, target):
    """Values, gradients and saved weights are those of PyTorch."""
    assert list(ours.state_dict()) == list(theirs.state_dict())
    a, b = Tensor(x, requires_grad=True), x.clone().requires_grad_()
    loss, expected = ours(a, target), theirs(b, target)
    torch.testing.assert_close(loss.data, expected.detach(), rtol=1e-14, atol=1e-15)
    loss.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(a.grad.data, b.grad, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(ours(x, Tensor(target)).data, expected.detach())


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", [
    "MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "BCELoss", "BCEWithLogitsLoss",
])  # fmt: skip
def test_nothing_has_to_be_taken_apart(name, reduction, monkeypatch):
    """Which takes longer than what is computed, where networks are small."""
    monkeypatch.delattr(dispatch, "taken_apart")
    x = Tensor(probabilities(), requires_grad=True)
    getattr(nn, name)(reduction=reduction)(x, probabilities()).sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("name", ["MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss"])
def test_targets_that_are_broadcast(name):
    torch.manual_seed(SEED)
    check_loss(getattr(nn, name)(), getattr(torch.nn, name)(), numbers(), numbers()[0])


def test_gradients_of_targets():
    torch.manual_seed(SEED)
    for name in ("MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "BCEWithLogitsLoss"):
        x, y = numbers(), probabilities()
        a, b = Tensor(y, requires_grad=True), y.clone().requires_grad_()
        getattr(nn, name)()(x, a).backward()
        getattr(torch.nn, name)()(x, b).backward()
        torch.testing.assert_close(a.grad.data, b.grad)


def test_weights_are_buffers():
    loss = nn.BCEWithLogitsLoss([1.0, 2.0], pos_weight=torch.ones(2))
    assert [name for name, _ in loss.named_buffers()] == ["weight", "pos_weight"]
    assert loss.to(F64).weight.dtype is F64 and not list(loss.parameters())
    assert list(nn.NLLLoss().state_dict()) == []


@pytest.mark.parametrize("make, error, message", [
    *[
        (lambda name=name: getattr(nn, name)(reduction="max"), ValueError,
         "reduction must be 'mean', 'sum' or 'none', not 'max'")
        for name in sorted({name for name, *_ in LOSSES})
    ],
    (lambda: nn.CrossEntropyLoss(label_smoothing=1.5), ValueError, "between 0 and 1, not 1.5"),
    (lambda: nn.HuberLoss(delta=0), ValueError, "delta must be positive, and is 0"),
    (lambda: nn.SmoothL1Loss(beta=-1), ValueError, "beta must not be negative, and is -1"),
    (lambda: nn.CrossEntropyLoss()(numbers(), classes()[:3]), ValueError, r"\(4\) to match .* \(3"),
    (lambda: nn.BCELoss()(Tensor([0.5]), Tensor([0.5, 1.0])), ValueError, "different to the input"),
    (lambda: nn.BCEWithLogitsLoss()(Tensor([0.5]), Tensor([1.0, 1.0])), ValueError, "must be the"),
    (lambda: nn.BCELoss()(Tensor([1.5]), Tensor([1.0])), OperandError, "between 0 and 1"),
    (lambda: nn.NLLLoss()(Tensor([[0.5]]), Tensor([1])), IndexError, "Target 1 is out of bounds"),
    (lambda: nn.NLLLoss(torch.ones(3))(Tensor([[0.5]]), Tensor([0])), OperandError, "1 classes"),
])  # fmt: skip
def test_losses_refuse_what_makes_no_sense(make, error, message):
    with pytest.raises(error, match=message):
        make()
