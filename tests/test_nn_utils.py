"""Clipped gradients against torch.nn.utils, to the bit, and in compiled steps."""

import math

import pytest
import torch
from steps import interpreted

import tinygrad_ee559 as tg
from tinygrad_ee559 import nn, optim

__all__ = ["interpreted"]

SEED = 5


def gradients(dtype=torch.float32):
    generator = torch.Generator().manual_seed(SEED)
    return [torch.randn(n, 3, generator=generator, dtype=dtype) for n in (1, 4, 2)]


def both(dtype=torch.float32):
    """The same parameters twice, with gradients but for the last."""
    found = []
    for wrap in (tg.Tensor, torch.Tensor.requires_grad_):
        parameters = [g.clone() for g in gradients(dtype)] + [torch.ones(2, dtype=dtype)]
        if wrap is tg.Tensor:
            parameters = [tg.Tensor(p, requires_grad=True) for p in parameters]
        else:
            parameters = [p.requires_grad_() for p in parameters]
        for p, g in zip(parameters, gradients(dtype)):
            p.grad = tg.Tensor(g) if wrap is tg.Tensor else g
        found.append(parameters)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("norm_type", [0.5, 1.0, 2.0, math.inf, "inf"])
@pytest.mark.parametrize("max_norm", [0.1, 1000.0])
def test_norms(max_norm, norm_type, dtype):
    ours, theirs = both(dtype)
    norm = nn.utils.clip_grad_norm_(ours, max_norm, norm_type)
    assert norm.item() == torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type).item()
    for our, their in zip(ours[:-1], theirs):
        assert our.grad.dtype == dtype and our.grad.tolist() == their.grad.tolist()
    assert ours[-1].grad is None


def test_values():
    ours, theirs = both()
    nn.utils.clip_grad_value_(iter(ours), 0.3)
    torch.nn.utils.clip_grad_value_(theirs, 0.3)
    for our, their in zip(ours[:-1], theirs):
        assert our.grad.tolist() == their.grad.tolist()


def test_a_tensor_alone_and_numbers():
    x = tg.Tensor(3.0, requires_grad=True)
    (x * x).backward()
    assert nn.utils.clip_grad_norm_(x, 1.0).item() == 6
    assert x.grad.data.__class__ is float and x.grad.item() == pytest.approx(1, abs=1e-6)
    nn.utils.clip_grad_value_(x, 0.5)
    assert x.grad.item() == 0.5


def test_nothing_to_clip():
    x = tg.Tensor([3.0], requires_grad=True)
    assert nn.utils.clip_grad_norm_([x], 1.0).item() == 0
    nn.utils.clip_grad_value_([x], 1.0)
    assert x.grad is None


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_norms_that_are_not_finite(value):
    x = tg.Tensor([3.0], requires_grad=True)
    x.grad = tg.Tensor([value])
    with pytest.raises(RuntimeError, match="gradients is (inf|nan), which cannot be clipped"):
        nn.utils.clip_grad_norm_(x, 1.0, error_if_nonfinite=True)
    nn.utils.clip_grad_norm_(x, 1.0)
    assert math.isnan(x.grad.item())


def test_in_compiled_steps(interpreted):
    def training():
        torch.manual_seed(SEED)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).to(torch.float64)
        optimizer = optim.SGD(model.parameters(), lr=0.5)

        def step(x):
            optimizer.zero_grad()
            loss = (model(x) ** 2).mean()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            nn.utils.clip_grad_value_(model.parameters(), 0.05)
            optimizer.step()
            return loss, norm

        return step

    ours, theirs = tg.compile(training()), training()
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(6, 3, generator=generator, dtype=torch.float64)
        for our, their in zip(ours(x), theirs(x)):
            assert our.item() == pytest.approx(their.item(), rel=1e-12)
    assert len(ours.programs) == 1
