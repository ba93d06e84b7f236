"""Trainings that are interrupted: they end as if nothing had happened, equal in every bit."""

import os
import random
import signal
import time
from types import SimpleNamespace

import pytest
import torch

from tinygrad_ee559 import Tensor, nn, optim, resuming, saving
from tinygrad_ee559.data import Batches
from tinygrad_ee559.errors import CheckpointError
from tinygrad_ee559.training import fit, seeded

EPOCHS = 5


def plain(width=6):
    return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3))


def random_and_normalized():
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))


def sgd(parameters, lr=0.1):
    return optim.SGD(parameters, lr=lr, momentum=0.9, nesterov=True)


def adam(parameters, lr=0.01):
    return optim.Adam(parameters, lr=lr, amsgrad=True)


def adam_with_a_tensor(parameters):
    return adam(parameters, lr=torch.tensor(0.01, dtype=torch.float64))


def halving(optimizer):
    return optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)


def one_cycle(optimizer):
    return optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=60)


def plateau(optimizer):
    return optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.1)


CASES = {
    "momentum": {},
    "adam": {"optimizer": adam},
    "dropout and batch norm": {"model": random_and_normalized},
    "scheduler": {"scheduler": halving},
    "scheduler that looks at the loss": {"scheduler": plateau},
    "everything": {
        "model": random_and_normalized, "optimizer": adam, "scheduler": one_cycle,
    },
    "learning rate in a tensor": {"optimizer": adam_with_a_tensor, "scheduler": halving},
    "in order": {"shuffled": False},
    "tests with a generator": {"shuffled_tests": True},
}  # fmt: skip


def training(
    model=plain, optimizer=sgd, scheduler=None, samples=50, batch_size=12, shuffled=True,
    shuffled_tests=False, drop_last=False, **options,
):  # fmt: skip
    """All that a program makes before it calls fit."""
    data = torch.Generator().manual_seed(1)
    inputs = torch.randn(samples, 4, generator=data)
    targets = torch.randint(3, (samples,), generator=data)
    order = torch.Generator().manual_seed(2)
    torch.manual_seed(3)
    made = SimpleNamespace(model=model())
    made.optimizer = optimizer(made.model.parameters(), **options)
    made.scheduler = scheduler and scheduler(made.optimizer)
    made.order = order if shuffled else None
    made.train = Batches(inputs, targets, batch_size, made.order, drop_last=drop_last)
    made.test = Batches(inputs, targets, batch_size)
    if shuffled_tests:
        made.test.generator = torch.Generator().manual_seed(4)
    return made


def go(made, path, epochs=EPOCHS, callbacks=(), keep=None):
    scheduler = made.scheduler
    looks = isinstance(scheduler, optim.lr_scheduler.ReduceLROnPlateau)
    step = [lambda epoch: scheduler.step(*[epoch.test_loss] * looks)] if scheduler else []
    if keep is None:
        keep = {"scheduler": scheduler} if scheduler else {}
    made.history = fit(
        made.model, nn.CrossEntropyLoss(), made.optimizer, made.train, epochs,
        test=made.test, callbacks=[*step, *callbacks], checkpoint=path, keep=keep,
    )  # fmt: skip
    return made


def bits(value):
    """Anything, with tensors as the bytes that they are."""
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [bits(item) for item in value]
    if hasattr(value, "as_torch"):
        value = value.as_torch()
    if isinstance(value, torch.Tensor):
        return str(value.dtype), value.numpy().tobytes()
    return value


def everything(made):
    return bits(
        {
            "model": made.model.state_dict(),
            "optimizer": made.optimizer.state_dict(),
            "scheduler": made.scheduler and made.scheduler.state_dict(),
            "random": torch.get_rng_state(),
            "trained": made.model.training,
            "orders": [g and g.get_state() for g in (made.order, made.test.generator)],
            "history": [(e.number, e.values) for e in getattr(made, "history", [])],
        }
    )


@pytest.fixture(autouse=True)
def _random_state_of_the_other_tests():
    with seeded(0):
        yield


@pytest.fixture
def always_saved(monkeypatch):
    monkeypatch.setattr(resuming, "_SECONDS_BETWEEN", -1.0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.safetensors"


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_resumed_training_ends_as_an_uninterrupted_one(case, tmp_path, always_saved):
    uninterrupted = everything(go(training(**case), None))
    assert uninterrupted != everything(go(training(**case), None, epochs=EPOCHS - 1))
    for done in range(EPOCHS + 1):
        path = tmp_path / str(done)
        if done:
            go(training(**case), path, done)
        assert everything(go(training(**case), path)) == uninterrupted, f"ended after {done}"

        def interrupt(epoch, done=done):
            if epoch.number == done + 1:
                raise KeyboardInterrupt

        path = tmp_path / f"{done} interrupted"
        if done < EPOCHS:
            with pytest.raises(KeyboardInterrupt):
                go(training(**case), path, callbacks=[interrupt])
        assert everything(go(training(**case), path)) == uninterrupted, f"interrupted after {done}"


def test_the_same_objects_go_on(path):
    made = training(**CASES["everything"])
    for epochs in (2, 2, 3, EPOCHS):
        go(made, path, epochs)
    assert everything(made) == everything(go(training(**CASES["everything"]), None))


def test_a_killed_training_ends_as_an_uninterrupted_one(path, always_saved):
    """A child process trains, and is killed while it computes or writes, whatever comes."""
    case, epochs = CASES["everything"], 40
    start = time.perf_counter()
    go(training(**case), path, epochs)
    duration = time.perf_counter() - start
    path.unlink()
    uninterrupted = everything(go(training(**case), None, epochs))

    seed = int.from_bytes(os.urandom(4), "little")
    print("seed of the moments:", seed)
    moments = random.Random(seed)
    done = [0]
    for _ in range(12):
        child = os.fork()
        if child == 0:
            try:
                go(training(**case), path, epochs)
            finally:
                os._exit(0)
        time.sleep(moments.uniform(0.05, 0.3) * duration)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if path.exists():
            done.append(len(saving.load_checkpoint(path)["history"]))
    print("epochs done:", done)
    assert done == sorted(done) and done[-1] > 0
    assert everything(go(training(**case), path, epochs)) == uninterrupted


def test_a_training_that_a_callback_has_stopped_is_over(path):
    stopped = go(training(), path, callbacks=[lambda epoch: epoch.number == 3])
    again = go(training(), path)
    assert everything(again) == everything(stopped) and len(again.history) == 3


def test_short_epochs_are_not_all_written(path, monkeypatch):
    written = []
    monkeypatch.setattr(resuming, "save_checkpoint", lambda *_, **parts: written.append(parts))
    monkeypatch.setattr(time, "monotonic", lambda: seconds[0])
    seconds = [0.0]

    def wait(_epoch):
        seconds[0] += 2.0

    go(training(), path, epochs=8, callbacks=[wait])
    assert [len(parts["history"]) for parts in written] == [3, 6, 8]


def test_further_generators_are_kept(path):
    def run(path, epochs):
        generator = torch.Generator().manual_seed(5)
        drawn = []
        callback = lambda _: drawn.append(torch.rand(1, generator=generator).item())  # noqa: E731
        go(training(), path, epochs, [callback], keep={"noise": generator})
        return drawn

    assert run(path, 2) + run(path, 4) == run(None, 4)


# ------------------------------------------------------------ what is not this run


OTHERS = {
    "width": ({"model": lambda: plain(7)}, r"its model does not fit.*0.weight.*\[7, 4\]"),
    "optimizer": ({"optimizer": adam}, "began with .*momentum=0.9|its optimizer is a SGD"),
    "learning rate": ({"lr": 0.2}, "began with .*lr=0.1.* this one has .*lr=0.2"),
    "samples": ({"samples": 51}, r"its train_data are \[50, 4\] .*here they are \[51, 4\]"),
    "batch size": ({"batch_size": 10}, "in batches of 12, and here .* in batches of 10"),
    "last batch": ({"drop_last": True}, "here they are .* without the last"),
    "order": ({"shuffled": False}, "its parts are .*train_order, and here they are"),
}


@pytest.mark.parametrize("change, message", OTHERS.values(), ids=OTHERS)
def test_another_training(change, message, path):
    go(training(), path, 2)
    content = path.read_bytes()
    other = training(**change)
    before = everything(other)
    with pytest.raises(CheckpointError, match=f"run.safetensors belongs to another.*{message}"):
        go(other, path)
    assert everything(other) == before
    assert path.read_bytes() == content


def rejected(path, message, epochs=EPOCHS, **options):
    made = training()
    before = everything(made)
    with pytest.raises(CheckpointError, match=message):
        go(made, path, epochs, **options)
    assert everything(made) == before


def test_what_is_kept_has_to_be_the_same(path):
    go(training(), path, 2, keep={"noise": torch.Generator()})
    rejected(path, "its parts are .*keep_noise, and here they are .*train_order. Choose another")


def test_fewer_epochs_than_there_are(path):
    go(training(), path, 3)
    rejected(path, "it has 3 epochs, and this one 2", epochs=2)


def test_files_that_fit_did_not_write(path):
    saving.save_checkpoint(path, model=plain())
    rejected(path, "was not written by fit. Choose another path, or delete")
    for foreign in (3, {"parts": "model"}):
        saving.save_checkpoint(path, training=foreign)
        rejected(path, "was not written by fit. Choose another path, or delete")
    saving.save(path, plain())
    rejected(path, "run.safetensors holds tensors and nothing else")
    path.write_bytes(b"foreign")
    rejected(path, "truncated or damaged .*delete it")


def test_a_folder_that_does_not_exist_is_found_before_the_first_epoch(tmp_path):
    rejected(tmp_path / "nowhere" / "run", "cannot be written: make the folder .*nowhere")


@pytest.mark.parametrize("name", ["loop", "no\0name"])
def test_a_file_that_cannot_be_is_found_before_the_first_epoch(tmp_path, name):
    (tmp_path / "loop").symlink_to("loop")
    rejected(tmp_path / name, "cannot be written")


@pytest.mark.parametrize("done", [0, 2])
def test_a_folder_that_cannot_be_written_to_is_found_before_the_first_epoch(
    path, done, monkeypatch
):
    if done:
        go(training(), path, done)
    writable = []  # root may write everywhere
    monkeypatch.setattr(os, "access", lambda *asked: writable.append(asked))
    rejected(path, f"cannot be written: make the folder {path.parent} writable")
    assert writable == [(path.parent, os.W_OK | os.X_OK)]
    if done:
        assert len(go(training(), path, done).history) == done  # nothing is to be written


@pytest.mark.parametrize("make", [torch.clone, Tensor], ids=["torch", "here"])
def test_learning_rates_in_tensors_are_compared_to_the_last_digit(path, make):
    go(training(lr=make(torch.tensor(0.1))), path, 2)
    path.with_name("copy").write_bytes(path.read_bytes())
    assert len(go(training(lr=make(torch.tensor(0.1))), path, 3).history) == 3
    with pytest.raises(CheckpointError, match="this one has .*lr=0.100000999"):
        go(training(lr=make(torch.tensor(0.100001))), path.with_name("copy"), 3)


@pytest.mark.parametrize("scheduler", [halving, one_cycle, plateau])
def test_a_scheduler_that_is_not_kept(path, scheduler):
    with pytest.raises(ValueError, match='keep={"scheduler": scheduler}'):
        go(training(scheduler=scheduler), path, keep={})
    go(training(scheduler=scheduler), None, 1, keep={})


def test_rates_that_a_schedule_once_changed_need_no_scheduler(path):
    made = training()
    made.optimizer.load_state_dict(training(scheduler=halving).optimizer.state_dict())
    assert len(go(made, path, 2).history) == 2


@pytest.mark.parametrize("thing, kind", [(torch.ones(2), "Tensor"), (3, "int"), (print, "builtin")])
def test_what_cannot_become_again_what_it_was(path, thing, kind):
    made = training()
    before = everything(made)
    with pytest.raises(TypeError, match=f"keep has noise, a {kind}.*give something with state_"):
        go(made, path, keep={"noise": thing})
    assert everything(made) == before and not path.exists()
