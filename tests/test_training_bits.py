"""The same training run here and in PyTorch, from the same seed: equal in every bit."""

import pytest
import torch

from tinygrad_ee559 import nn, optim

SEED = 3
STEPS = 200
VARIANTS = {
    "plain": {"lr": 0.1},
    "momentum": {"lr": 0.05, "momentum": 0.9},
    "nesterov": {"lr": 0.05, "momentum": 0.9, "nesterov": True},
    "weight decay": {"lr": 0.1, "weight_decay": 1e-3},
    "dampening": {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 1e-4},
    "Adam": {"lr": 3e-3, "weight_decay": 1e-4},
    "AdamW": {"lr": 3e-3, "amsgrad": True},
}


@pytest.fixture(autouse=True)
def _one_thread():
    """Threads that wait for each other make small layers slow on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def disk(library, activation):
    """2-25-25-25-2 with the squared error."""
    model = library.Sequential(
        library.Linear(2, 25), activation(),
        library.Linear(25, 25), activation(),
        library.Linear(25, 25), activation(),
        library.Linear(25, 2),
    )  # fmt: skip
    return model, library.MSELoss()


def digits(library, activation):
    """20-64-64-10 with the cross-entropy."""
    model = library.Sequential(
        library.Linear(20, 64), activation(),
        library.Linear(64, 64), activation(),
        library.Linear(64, 10),
    )  # fmt: skip
    return model, library.CrossEntropyLoss()


def disk_data(dtype):
    x = torch.rand(1000, 2, dtype=dtype)
    inside = ((x - 0.5) ** 2).sum(1) < 1 / (2 * torch.pi)
    return x, torch.nn.functional.one_hot(inside.long(), 2).to(dtype)


def digits_data(dtype):
    return torch.randn(1000, 20, dtype=dtype), torch.randint(10, (1000,))


def train(library, optimizers, network, activation, data, dtype, variant):
    """The losses of a run and its final parameters, as raw torch tensors."""
    torch.manual_seed(SEED)
    x, y = data(dtype)
    model, loss_function = network(library, getattr(library, activation))
    model.to(dtype)
    kind = getattr(optimizers, variant if variant.startswith("Adam") else "SGD")
    optimizer = kind(model.parameters(), **VARIANTS[variant])
    losses = []
    for _ in range(STEPS):
        batch = torch.randint(len(x), (100,))
        optimizer.zero_grad()
        loss = loss_function(model(x[batch]), y[batch])
        loss.backward()
        optimizer.step()
        losses.append(loss.detach().data)
    return torch.stack(losses), [p.data for p in model.parameters()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "network, activation, data",
    [
        (disk, "ReLU", disk_data),
        (disk, "LeakyReLU", disk_data),
        (digits, "ReLU", digits_data),
        (digits, "Tanh", digits_data),
    ],
    ids=["disk-relu", "disk-leaky-relu", "digits-relu", "digits-tanh"],
)
def test_run_is_pytorchs_in_every_bit(network, activation, data, variant, dtype):
    run = (network, activation, data, dtype, variant)
    losses, parameters = train(nn, optim, *run)
    expected_losses, expected_parameters = train(torch.nn, torch.optim, *run)
    assert torch.equal(losses, expected_losses)
    for p, q in zip(parameters, expected_parameters, strict=True):
        assert torch.equal(p, q)
    assert losses[-20:].mean() < losses[:20].mean()  # and it is a run that learns something
