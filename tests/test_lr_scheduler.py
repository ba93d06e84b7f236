"""Schedules against torch.optim.lr_scheduler: equal learning rates, states, errors."""

import copy
import math

import pytest
import torch
from steps import interpreted

import tinygrad_ee559 as tg
from tinygrad_ee559 import Tensor, optim
from tinygrad_ee559.optim import lr_scheduler

__all__ = ["interpreted"]
STEPS = 100
WAYS = [(optim, torch.optim), (torch.optim, optim)]
SCHEDULES = {
    "lambda": ("LambdaLR", {"lr_lambda": lambda epoch: 0.95**epoch}),
    "lambdas": ("LambdaLR", {"lr_lambda": [lambda e: 1 / (e + 3), lambda e: math.cos(e / 70)]}),
    "step": ("StepLR", {"step_size": 7, "gamma": 0.3}),
    "milestones": ("MultiStepLR", {"milestones": [3, 30, 30, 77], "gamma": 0.7}),
    "exponential": ("ExponentialLR", {"gamma": 0.93}),
    "linear": ("LinearLR", {}),
    "linear decay": ("LinearLR", {"start_factor": 0.9, "end_factor": 0.1, "total_iters": 80}),
    "cosine": ("CosineAnnealingLR", {"T_max": 100}),
    "cosines": ("CosineAnnealingLR", {"T_max": 13, "eta_min": 0.003}),
    "one cycle": ("OneCycleLR", {"max_lr": 0.7, "total_steps": STEPS}),
    "one cycle for each": (
        "OneCycleLR",
        {
            "max_lr": [0.7, 0.3], "epochs": 11, "steps_per_epoch": 10, "pct_start": 0.41,
            "base_momentum": 0.7, "max_momentum": [0.9, 0.8], "div_factor": 3.0,
            "final_div_factor": 7.0, "anneal_strategy": "linear", "three_phase": True,
        },
    ),
    "one cycle of rates": (
        "OneCycleLR", {"max_lr": 0.7, "total_steps": STEPS, "cycle_momentum": False},
    ),
}  # fmt: skip
PLATEAUS = [
    {"patience": 2},
    {"mode": "max", "factor": 0.5, "patience": 0, "cooldown": 3, "min_lr": [0.01, 0.001]},
    {"threshold": 0.3, "threshold_mode": "abs", "patience": 1, "factor": 0.9},
    {"mode": "max", "threshold": 0.2, "threshold_mode": "abs", "patience": 3, "eps": 1e-3},
]


def optimizers(kind="SGD", tensors=False):
    """The same here and in PyTorch, with two groups."""
    pair = []
    for library in (optim, torch.optim):
        p, q = (torch.ones(2, requires_grad=True) for _ in range(2))
        if library is optim:
            p, q = (Tensor(torch.ones(2), requires_grad=True) for _ in range(2))
        lrs = [torch.tensor(0.1), torch.tensor(0.037)] if tensors else [0.1, 0.037]
        groups = [{"params": [r], "lr": lr} for r, lr in zip((p, q), lrs)]
        options = {"momentum": 0.5} if kind == "SGD" else {}
        pair.append(getattr(library, kind)(groups, **options))
    return pair


def schedule(library, optimizer, name, options, **more):
    return getattr(library.lr_scheduler, name)(optimizer, **copy.deepcopy(options), **more)


def plain(values):
    return [v.item() if isinstance(v, (torch.Tensor, Tensor)) else v for v in values]


def assert_same(one, other):
    """Equal learning rates and momenta in the groups."""
    for group, expected in zip(one.param_groups, other.param_groups, strict=True):
        for name in ("lr", "initial_lr", "momentum", "betas", "max_lr", "min_lr"):
            found, wanted = group.get(name), expected.get(name)
            assert plain([found]) == plain([wanted]), name


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler")
@pytest.mark.parametrize("tensors", [False, True], ids=["numbers", "tensors"])
@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_learning_rates_are_pytorchs(name, kind, tensors):
    a, b = optimizers(kind, tensors)
    held = [group["lr"] for group in a.param_groups]
    ours, theirs = schedule(optim, a, *SCHEDULES[name]), schedule(torch.optim, b, *SCHEDULES[name])
    seen = set()
    for _ in range(STEPS):
        assert_same(a, b)
        assert plain(ours.get_last_lr()) == plain(theirs.get_last_lr())
        seen.add(tuple(plain(ours.get_last_lr())))
        ours.step()
        theirs.step()
    assert_same(a, b)
    assert len(seen) > 3
    if tensors:
        assert all(group["lr"] is lr for group, lr in zip(a.param_groups, held))
        ours.get_last_lr()[0].fill_(7)  # a copy
        assert_same(a, b)


@pytest.mark.parametrize("tensors", [False, True], ids=["numbers", "tensors"])
@pytest.mark.parametrize("options", PLATEAUS)
def test_plateaus_are_pytorchs(options, tensors):
    a, b = optimizers(tensors=tensors)
    held = [group["lr"] for group in a.param_groups]
    ours, theirs = (schedule(lib, o, "ReduceLROnPlateau", options) for lib, o in
                    ((optim, a), (torch.optim, b)))  # fmt: skip
    torch.manual_seed(0)
    measures = torch.linspace(3, -1, STEPS) + torch.rand(STEPS)
    for measure in measures:
        ours.step(Tensor(measure))
        theirs.step(measure)
        assert_same(a, b)
        assert plain(ours.get_last_lr()) == plain(theirs.get_last_lr())
        assert ours.num_bad_epochs == theirs.num_bad_epochs
    assert float(a.param_groups[0]["lr"]) < 0.1
    assert not tensors or all(g["lr"] is lr for g, lr in zip(a.param_groups, held))


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler")
@pytest.mark.parametrize("source, target", WAYS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_states_go_on_here_and_in_pytorch(name, source, target):
    a, b = optimizers()
    optimizer, other = (a, b) if source is optim else (b, a)
    old = schedule(source, optimizer, *SCHEDULES[name])
    for _ in range(37):
        old.step()
    new = schedule(target, other, *SCHEDULES[name])
    other.load_state_dict(optimizer.state_dict())
    new.load_state_dict(old.state_dict())
    assert plain(new.get_last_lr()) == plain(old.get_last_lr())
    for _ in range(40):
        old.step()
        new.step()
        assert_same(a, b)


@pytest.mark.parametrize("source, target", WAYS)
def test_plateaus_go_on_here_and_in_pytorch(source, target):
    a, b = optimizers()
    optimizer, other = (a, b) if source is optim else (b, a)
    old = source.lr_scheduler.ReduceLROnPlateau(optimizer, "max", patience=3, cooldown=2)
    measures = [math.sin(i) for i in range(50)]
    for measure in measures[:20]:
        old.step(measure)
    new = target.lr_scheduler.ReduceLROnPlateau(other)
    other.load_state_dict(optimizer.state_dict())
    new.load_state_dict(old.state_dict())
    for measure in measures[20:]:
        old.step(measure)
        new.step(measure)
        assert_same(a, b)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler")
@pytest.mark.parametrize("name", [name for name in SCHEDULES if "cycle" not in name])
def test_schedules_begin_at_a_later_epoch(name):
    a, b = optimizers()
    for optimizer in (a, b):
        for group in optimizer.param_groups:
            group["initial_lr"] = 0.2
    ours = schedule(optim, a, *SCHEDULES[name], last_epoch=20)
    theirs = schedule(torch.optim, b, *SCHEDULES[name], last_epoch=20)
    for _ in range(30):
        assert_same(a, b)
        ours.step()
        theirs.step()


class Half:
    def __init__(self):
        self.calls = 0

    def __call__(self, epoch):
        self.calls += 1
        return 0.5**epoch


def test_state_of_functions_that_are_objects():
    optimizer, _ = optimizers()
    scheduler = lr_scheduler.LambdaLR(optimizer, [Half(), lambda epoch: 1.0])
    state = copy.deepcopy(scheduler.state_dict())
    assert state["lr_lambdas"] == [{"calls": 1}, None] and "optimizer" not in state
    scheduler.step()
    scheduler.load_state_dict(state)
    assert scheduler.lr_lambdas[0].calls == 1 and scheduler.last_epoch == 0


def test_schedules_work_together():
    a, b = optimizers()
    pairs = [
        [schedule(library, o, *SCHEDULES[name]) for name in ("linear", "exponential")]
        for library, o in ((optim, a), (torch.optim, b))
    ]
    for _ in range(20):
        for optimizer, schedules in zip((a, b), pairs):
            optimizer.step()
            for scheduler in schedules:
                scheduler.step()
        assert_same(a, b)


def test_a_learning_rate_that_is_a_tensor_of_ours():
    x = Tensor([1.0], requires_grad=True)
    for lr in (Tensor(torch.tensor(0.5)), Tensor(0.5)):
        optimizer = optim.SGD([x], lr=lr)
        scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
        scheduler.step()
        assert optimizer.param_groups[0]["lr"] is lr and lr.item() == 0.25


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_programs_go_on_with_scheduled_rates(kind, interpreted):
    def training():
        x = Tensor([1.0, 2.0], requires_grad=True)
        optimizer = getattr(optim, kind)([x], lr=torch.tensor(0.1))
        scheduler = lr_scheduler.CosineAnnealingLR(optimizer, 10)

        def step(y):
            optimizer.zero_grad()
            ((x - y) ** 2).sum().backward()
            optimizer.step()

        return x, step, scheduler

    (x, step, ours), (other, their_step, theirs) = training(), training()
    compiled = tg.compile(step)
    for i in range(12):
        y = torch.tensor([0.3, 0.1 * i])
        compiled(y)
        their_step(y)
        ours.step()
        theirs.step()
        torch.testing.assert_close(x.data, other.data)
    assert len(compiled.programs) == 1


# ------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("LambdaLR", {"lr_lambda": [lambda e: 1.0]}, "lr_lambda has 1 entries, .* 2 groups"),
        ("LinearLR", {"start_factor": 0.0}, "start_factor must be above 0 and at most 1, not 0.0"),
        ("LinearLR", {"end_factor": 1.5}, "end_factor must be from 0 to 1, not 1.5"),
        ("OneCycleLR", {"max_lr": 1.0}, "needs total_steps, or epochs and steps_per_epoch"),
        ("OneCycleLR", {"max_lr": 1.0, "total_steps": 0}, "above 0, not 0"),
        ("OneCycleLR", {"max_lr": 1.0, "total_steps": 5, "pct_start": 1.1}, "0 to 1, not 1.1"),
        (
            "OneCycleLR", {"max_lr": 1.0, "total_steps": 5, "anneal_strategy": "sine"},
            "must be 'cos' or 'linear', not 'sine'",
        ),
        ("ReduceLROnPlateau", {"factor": 1.0}, "factor must be below 1, not 1.0"),
        ("ReduceLROnPlateau", {"mode": "low"}, "mode must be 'min' or 'max', not 'low'"),
        ("ReduceLROnPlateau", {"threshold_mode": "x"}, "must be 'rel' or 'abs', not 'x'"),
    ],
)  # fmt: skip
def test_arguments_out_of_range(name, options, message):
    ours, theirs = optimizers()
    with pytest.raises(ValueError, match=message):
        schedule(optim, ours, name, options)
    with pytest.raises(ValueError):
        schedule(torch.optim, theirs, name, options)


def test_schedules_that_cannot_begin_or_go_on():
    optimizer, theirs = optimizers()
    with pytest.raises(TypeError, match="works on an Optimizer, not on a SGD"):
        lr_scheduler.StepLR(theirs, 1)
    with pytest.raises(KeyError, match="group 0 has no initial_lr"):
        lr_scheduler.StepLR(optimizer, 1, last_epoch=3)
    with pytest.raises(NotImplementedError, match="LRScheduler does not define get_lr"):
        lr_scheduler.LRScheduler(optimizer)
    scheduler = lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=5)
    with pytest.raises(ValueError, match="called 6 times, and the schedule has 5 steps"):
        for _ in range(6):
            scheduler.step()
    plain = optim.Optimizer([Tensor([1.0], requires_grad=True)], {"lr": 0.1})
    with pytest.raises(ValueError, match="neither momentum nor betas; .*cycle_momentum=False"):
        lr_scheduler.OneCycleLR(plain, 1.0, total_steps=5)
