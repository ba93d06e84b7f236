"""What programs compute is what eager steps compute."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from steps import (
    Training,
    accumulating,
    close,
    data,
    interpreted,
    own_cache,
    same_training,
)

import tinygrad_ee559 as tg
from tinygrad_ee559 import errors, nn
from tinygrad_ee559.compiling.native import Native

__all__ = ["interpreted", "own_cache"]
# Inductor, which is all Python, takes twice as long while coverage is measured.
pytestmark = [pytest.mark.usefixtures("own_cache"), pytest.mark.no_cover]

STEPS = 100
OPTIONS = st.sampled_from(
    [
        {"lr": 0.05},
        {"lr": 0.02, "momentum": 0.8},
        {"lr": 0.02, "momentum": 0.8, "nesterov": True},
        {"lr": 0.05, "weight_decay": 0.01},
        {"lr": 0.02, "momentum": 0.8, "dampening": 0.5, "weight_decay": 0.01},
        {"lr": torch.tensor(0.02), "momentum": 0.8},
    ]
)
ACTIVATIONS = {
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "leaky": nn.LeakyReLU,
    "gelu": lambda: F.gelu,
    "softmax": lambda: lambda x: F.softmax(x, -1) * x.shape[-1],
    "normed": lambda: lambda x: F.layer_norm(x, x.shape[-1:]),
}


def squares(outputs, targets):
    wanted = torch.eye(outputs.shape[1], dtype=outputs.dtype)[targets]
    return ((outputs - wanted) ** 2).sum() / outputs.shape[0]


LOSSES = {"cross-entropy": nn.CrossEntropyLoss(), "squares": squares}


class Network(nn.Module):
    def __init__(self, sizes, activations):
        self.linear = [nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])]
        self.activations = [ACTIVATIONS[a]() for a in activations]

    def forward(self, x):
        for i, linear in enumerate(self.linear):
            x = linear(x)
            if i < len(self.activations):
                x = self.activations[i](x)
        return x


@st.composite
def networks(draw):
    hidden = draw(st.lists(st.integers(1, 12), max_size=3))
    return {
        "sizes": [draw(st.integers(1, 9)), *hidden, draw(st.integers(2, 5))],
        "activations": [draw(st.sampled_from(sorted(ACTIVATIONS))) for _ in hidden],
        "loss": draw(st.sampled_from(sorted(LOSSES))),
        "batch": draw(st.integers(1, 12)),
        "dtype": draw(st.sampled_from([torch.float32, torch.float64])),
        "options": draw(OPTIONS),
    }


def check(sizes, activations, loss, batch, dtype, options, steps=STEPS):
    """Train a network twice, compiled and not; the compiled function."""
    ours, theirs = (
        Training(
            lambda: Network(sizes, activations), loss=LOSSES[loss], dtype=dtype, **options
        )
        for _ in range(2)
    )
    compiled = tg.compile(ours.step)
    generator = torch.Generator().manual_seed(sum(sizes))
    for _ in range(steps):
        x = torch.randn(batch, sizes[0], generator=generator, dtype=dtype)
        y = torch.randint(sizes[-1], (batch,), generator=generator)
        losses = compiled(x, y).data, theirs.step(x, y).detach().data
    close([losses[0]], [losses[1]])
    same_training(ours, theirs)
    assert len(compiled.programs) == 1
    return compiled


@settings(max_examples=8, derandomize=True)
@given(network=networks())
def test_random_networks_interpreted(network):
    """All but the C++: what is captured, and the operators that it is taken apart into."""
    with pytest.MonkeyPatch.context() as patch:
        interpreted.__wrapped__(patch)
        check(**network)


@pytest.mark.slow
@settings(max_examples=8, derandomize=True)
@given(network=networks())
def test_random_networks(network):
    check(**network)


@pytest.mark.parametrize(
    "network",
    [
        ([3, 8, 8, 2], ["tanh", "relu"], "squares", 5, torch.float32, {"lr": 0.05}),
        (
            [4, 9, 3], ["sigmoid"], "cross-entropy", 12, torch.float64,
            {"lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
        ),
        ([2, 7, 3], ["leaky"], "cross-entropy", 1, torch.float32, {"lr": 0.02, "momentum": 0.8}),
    ],
    ids=["squares", "double", "single sample"],
)  # fmt: skip
def test_networks(network):
    compiled = check(*network)
    assert isinstance(compiled.programs[0]._executable, Native)


def test_gradients_and_accumulation():
    ours, theirs = Training(), Training()

    compiled, eager = tg.compile(accumulating(ours)), accumulating(theirs)
    for i in range(10):
        x, y = data(seed=i)
        compiled(x, y)
        eager(x, y)
        same_training(ours, theirs)
    assert isinstance(compiled.programs[0]._executable, Native)


def test_saved_values_that_a_program_changed_are_noticed():
    training = Training()
    compiled = tg.compile(training.step)
    x, y = data()
    for _ in range(4):
        compiled(x, y)
    assert isinstance(compiled.programs[0]._executable, Native)  # which torch does not see
    for change in (lambda: compiled(x, y), lambda: compiled.loop(x[None], y[None])):
        loss = ((training.model(x) - y) ** 2).mean()
        change()
        with pytest.raises(errors.ChangedInPlaceError, match="weight"):
            loss.backward()


# ------------------------------------------------------------------------- dropout


def test_dropout():
    """The mask is another one in each step, and the same on the way back."""
    w = tg.Tensor(torch.ones(50, 40), requires_grad=True)

    def step(x):
        w.grad = None
        y = F.dropout(w * x, 0.25)
        (y * y).sum().backward()
        return y.detach()

    compiled = tg.compile(step)
    x = torch.full((50, 40), 3.0)
    masks = []
    for _ in range(12):
        y = compiled(x).data
        torch.testing.assert_close(w.grad.data, 2 * y * x * (y != 0) / 0.75)
        assert y.unique().tolist() == pytest.approx([0, 4])
        masks.append(y == 0)
    assert len(compiled.programs) == 1
    assert not any(torch.equal(one, other) for one, other in zip(masks, masks[1:]))
    dropped = torch.stack(masks[4:]).double().mean(0)
    assert dropped.mean().item() == pytest.approx(0.25, abs=0.015)  # 16,000 of them
    assert 0.1 < dropped.std().item() < 0.2  # sqrt(0.25 * 0.75 / 8) = 0.153: independent


def test_training_with_dropout_ends_where_it_ends_without_compilation():
    """The noise does not average out: the output of the one layer is penalized in proportion."""

    def train(compiled, seed):
        training = Training(lambda: nn.Linear(3, 2), lr=0.02)
        generator = torch.Generator().manual_seed(seed)
        weight = torch.tensor([[1.0, -2.0, 3.0], [0.5, 0.0, -1.0]])

        def step(x):
            training.optimizer.zero_grad()
            outputs = training.model(F.dropout(tg.Tensor(x), 0.5))
            ((outputs - x @ weight.T) ** 2).mean().backward()
            training.optimizer.step()

        run = tg.compile(step) if compiled else step
        mean = torch.zeros(2, 3)
        torch.manual_seed(seed)
        for i in range(600):
            run(torch.randn(20, 3, generator=generator))
            if i >= 300:
                mean += training.parameters()[0] / 300
        return mean

    for compiled in (False, True):
        # The minimum of E(w mask x / p - v x)^2 is v / (1 + (1 - p) / p) = v / 2.
        expected = torch.tensor([[0.5, -1.0, 1.5], [0.25, 0.0, -0.5]])
        torch.testing.assert_close(train(compiled, 1), expected, rtol=0, atol=0.15)
