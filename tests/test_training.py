"""The training loop: what it computes, what it reports, what it leaves alone."""

import copy
import functools
import io
import math
import pickle

import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn import metrics as sklearn_metrics

from tinygrad_ee559 import demo, nn, optim
from tinygrad_ee559.data import Batches
from tinygrad_ee559.history import Epoch, History
from tinygrad_ee559.metrics import confusion_matrix, f1_score
from tinygrad_ee559.training import evaluate, fit, seeded, train_epoch


def data(seed, count=230):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 4, generator=generator)
    targets = torch.randn(count, 3, generator=generator)
    return inputs, targets


def batches(seed, shuffled=True):
    generator = torch.Generator().manual_seed(seed) if shuffled else None
    return Batches(*data(seed), batch_size=50, generator=generator)


def model_and_optimizer(lr=0.1):
    with seeded(0):
        model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    return model, optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def model_and_loss_and_optimizer():
    model, optimizer = model_and_optimizer()
    return model, nn.MSELoss(), optimizer


def test_fit_equals_the_same_loop_in_pytorch_to_the_bit():
    model, optimizer = model_and_optimizer()
    scheduler = optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=4)
    history = fit(
        model,
        nn.MSELoss(),
        optimizer,
        batches(1),
        epochs=4,
        test=batches(2, shuffled=False),
        callbacks=[lambda _: scheduler.step()],
    )

    with seeded(0):
        torch_model = torch.nn.Sequential(
            torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)
        )
    torch_optimizer = torch.optim.SGD(torch_model.parameters(), lr=0.1, momentum=0.9)
    torch_scheduler = torch.optim.lr_scheduler.LinearLR(torch_optimizer, 1.0, 0.0, total_iters=4)
    torch_loss = torch.nn.MSELoss()
    train = batches(1)
    for epoch in history:
        losses = []
        for inputs, targets in train:
            torch_optimizer.zero_grad()
            loss = torch_loss(torch_model(inputs.data), targets.data)
            loss.backward()
            torch_optimizer.step()
            losses.append(loss.detach())
        assert epoch.train_loss == torch.stack(losses).mean().item()
        with torch.no_grad():
            inputs, targets = data(2)
            outputs = torch_model(inputs)
            losses = [torch_loss(o, t) for o, t in zip(outputs.split(50), targets.split(50))]
        assert epoch.test_loss == pytest.approx(torch.stack(losses).mean().item(), rel=1e-6)
        right = (outputs.argmax(1) == targets.argmax(1)).sum().item()
        assert epoch.test_accuracy == right / 230
        torch_scheduler.step()
    for ours, theirs in zip(model.parameters(), torch_model.parameters(), strict=True):
        assert torch.equal(ours.data, theirs.detach())


def test_epochs_are_numbered_and_reported_in_order():
    model, optimizer = model_and_optimizer()
    seen = []
    history = fit(
        model,
        nn.MSELoss(),
        optimizer,
        batches(1),
        epochs=3,
        test=batches(2),
        callbacks=[lambda epoch: seen.append(("a", epoch)), lambda e: seen.append(("b", e))],
    )
    assert [epoch.number for epoch in history] == [1, 2, 3]
    assert seen == [(name, epoch) for epoch in history for name in "ab"]


@pytest.mark.parametrize("kind", [bool, np.bool_])
def test_a_callback_that_returns_true_ends_training_after_all_callbacks(kind):
    seen = []
    history = fit(
        *model_and_loss_and_optimizer(),
        batches(1),
        epochs=9,
        callbacks=[lambda e: kind(e.number == 3), lambda e: seen.append(e.number) or 1],
    )
    assert len(history) == 3 and seen == [1, 2, 3]


def test_only_training_counts_as_time(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    class Slow(nn.Module):
        def __init__(self):
            self.inside = nn.Linear(4, 3)

        def forward(self, x):
            clock[0] += 1 if self.training else 100
            return self.inside(x)

    model = Slow()

    def wait(_epoch):
        clock[0] += 1000

    optimizer = optim.SGD(model.parameters(), lr=0.1)
    options = {"test": batches(2), "callbacks": [wait]}
    history = fit(model, nn.MSELoss(), optimizer, batches(1), 2, **options)
    assert [epoch.seconds for epoch in history] == [5, 5]


def test_metrics_see_all_of_the_test_set_at_once():
    model, optimizer = model_and_optimizer()
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(95, 4), torch.randint(3, (95,), generator=generator)

    def macro(outputs, targets):
        return f1_score(outputs, targets, average="macro")

    def count(outputs, targets):
        return confusion_matrix(outputs, targets).sum()

    test = Batches(inputs, labels, 10)
    (epoch,) = fit(
        model, nn.CrossEntropyLoss(), optimizer, test, 1, test=test, metrics=(macro, count)
    )
    answers = model(inputs).data.argmax(1)
    assert list(epoch.values) == ["train_loss", "test_loss", "test_macro", "test_count"]
    assert epoch.test_macro == pytest.approx(
        sklearn_metrics.f1_score(labels, answers, average="macro")
    )
    assert epoch.test_count == 95


@pytest.mark.parametrize(
    "metrics, message",
    [
        ([f1_score, f1_score], "names of their own, and these are loss, f1_score, f1_score"),
        ([lambda outputs, targets: 0.0] * 2, "these are loss, <lambda>, <lambda>"),
        ([functools.partial(f1_score, average="macro")], "needs a name, and functools.partial"),
    ],
)
def test_metrics_need_names(metrics, message):
    model, loss, optimizer = model_and_loss_and_optimizer()
    with pytest.raises(ValueError, match=message):
        fit(model, loss, optimizer, batches(1), 1, test=batches(2), metrics=metrics)
    assert not optimizer.momentum_buffers  # no step was taken


def test_history_has_what_was_measured_in_every_epoch_as_columns():
    history = History(
        [Epoch(1, 0.5, {"train_loss": 2.0}), Epoch(2, 0.5, {"train_loss": 1.0, "test_loss": 3.0})]
    )
    assert history.train_loss == [2.0, 1.0]
    assert history.columns() == {"train_loss": [2.0, 1.0]}
    assert history[1:].columns() == {"train_loss": [1.0], "test_loss": [3.0]}
    for thing, name, known in (
        (history, "test_loss", "train_loss"),
        (history[0], "test_accuracy", "train_loss"),
        (History(), "train_loss", "no values"),
    ):
        with pytest.raises(AttributeError, match=f"{name} was not measured; known are {known}"):
            getattr(thing, name)
    assert copy.deepcopy(history) == history and pickle.loads(pickle.dumps(history)) == history


def test_callbacks_may_add_values():
    model, optimizer = model_and_optimizer()

    def learning_rate(epoch):
        epoch.values["learning_rate"] = optimizer.param_groups[0]["lr"]

    history = fit(model, nn.MSELoss(), optimizer, batches(1), 2, callbacks=[learning_rate])
    assert history.learning_rate == [0.1, 0.1]
    assert not hasattr(history, "test_loss")


class Watched(nn.Module):
    """Notes how it is called."""

    def __init__(self):
        self.inside = nn.Linear(4, 3)
        self.calls = []

    def forward(self, x):
        self.calls.append((self.training, self.inside.training, torch.is_grad_enabled()))
        return self.inside(x)


def test_modules_know_whether_they_are_trained():
    model = Watched()
    evaluate(model, nn.MSELoss(), batches(1))
    assert set(model.calls) == {(False, False, False)}
    model.calls.clear()
    train_epoch(model, nn.MSELoss(), optim.SGD(model.parameters(), lr=0.1), batches(1))
    assert set(model.calls) == {(True, True, True)}


def test_evaluation_changes_no_parameter_and_leaves_no_gradient():
    model, _ = model_and_optimizer()
    before = {name: value.data.clone() for name, value in model.state_dict().items()}
    evaluate(model, nn.MSELoss(), batches(1))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.data, before[name]) and parameter.grad is None


def test_divergence_is_an_error_that_says_what_to_do():
    model, optimizer = model_and_optimizer(lr=1e10)
    with pytest.raises(FloatingPointError, match="the loss became .* in epoch [1-9].*smaller lear"):
        fit(model, nn.MSELoss(), optimizer, batches(1), epochs=20, test=batches(2))


def run(console):
    model, optimizer = model_and_optimizer()
    fit(model, nn.MSELoss(), optimizer, batches(1), 2, test=batches(2), console=console)


def test_without_a_terminal_progress_is_one_plain_line():
    text = io.StringIO()
    run(Console(file=text, width=120))
    (line,) = text.getvalue().splitlines()
    assert "10/10" in line and "test accuracy" in line and "\x1b" not in line


def test_on_a_terminal_progress_is_live():
    text = io.StringIO()
    run(Console(file=text, width=120, force_terminal=True))
    assert "\x1b[" in text.getvalue() and "10/10" in text.getvalue()


def test_without_a_console_nothing_is_shown(capfd):
    run(None)
    assert capfd.readouterr() == ("", "")


def test_seeded_does_not_disturb_the_random_numbers_of_the_caller():
    before = torch.get_rng_state()
    with seeded(7):
        first = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    with seeded(7):
        assert torch.equal(torch.rand(3), first)
    with pytest.raises(ValueError), seeded(7):
        raise ValueError
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("seed", range(5))
def test_the_disk_is_learned_whatever_the_seed(seed):
    history = demo.train_disk(epochs=150, seed=seed).history
    assert history[-1].test_accuracy > 0.97
    assert history[-1].train_loss < history[0].train_loss / 10
    assert math.isfinite(history[-1].test_loss)


def test_the_same_seed_is_the_same_run():
    first, again, other = (demo.train_disk(3, seed).history[-1].train_loss for seed in (1, 1, 2))
    assert first == again != other
