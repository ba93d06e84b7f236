"""Saved models and trainings: whole or not at all, and never a wrong number."""

import errno
import hashlib
import os
import stat
import time
from tempfile import TemporaryDirectory
from unittest import mock

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import tinygrad_ee559 as tg
from tinygrad_ee559 import nn, optim
from tinygrad_ee559.errors import CheckpointError
from tinygrad_ee559.saving import load, load_checkpoint, save, save_checkpoint
from tinygrad_ee559.training import seeded


def network(seed=0, width=3):
    with seeded(seed):
        return nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 2))


def values(model):
    return {name: tensor.data.clone() for name, tensor in model.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    save(path, network(seed=1))
    return path


def test_a_model_comes_back_to_the_bit(saved):
    model = network(seed=2)
    assert not same(values(model), values(network(seed=1)))
    load(saved, model)
    assert same(values(model), values(network(seed=1)))


def test_other_programs_read_the_file(saved):
    state = load_file(saved)
    assert same(state, values(network(seed=1)))
    torch.nn.Sequential(
        torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2)
    ).load_state_dict(state)


def test_files_of_other_programs_are_read(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file(values(network(seed=3)), path)
    model = network(seed=0)
    load(path, model)
    assert same(values(model), values(network(seed=3)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_dtypes(tmp_path, dtype):
    path = tmp_path / "model.safetensors"
    save(path, network(seed=1).to(dtype))
    model = network(seed=2).to(dtype)
    load(path, model)
    assert same(values(model), values(network(seed=1).to(dtype)))


def test_parameters_that_share_memory_or_are_strided(tmp_path):
    model = network(width=2)
    model[0].weight.data = torch.arange(4.0).reshape(2, 2).t()
    model[2].weight = model[0].weight
    save(tmp_path / "tied.safetensors", model)
    other = network(width=2)
    load(tmp_path / "tied.safetensors", other)
    for layer in (other[0], other[2]):
        assert layer.weight.tolist() == [[0, 2], [1, 3]]


# ----------------------------------------------------- what was there survives


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_good_file_survives_a_failed_save(saved, monkeypatch, step):
    good = saved.read_bytes()

    def full(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, full)
    with pytest.raises(CheckpointError, match="model.safetensors cannot be written .*No space"):
        save(saved, network(seed=2))
    assert saved.read_bytes() == good
    assert os.listdir(saved.parent) == [saved.name]


def test_an_interrupted_save_leaves_no_half_of_a_file(saved, monkeypatch):
    good = saved.read_bytes()

    def interrupt(_descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(saved, network(seed=2))
    assert saved.read_bytes() == good
    assert os.listdir(saved.parent) == [saved.name]


def test_the_content_is_on_the_disk_before_it_takes_its_place(saved, monkeypatch):
    steps = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, n=name, f=real: (steps.append(n), f(*a)))
    save(saved, network(seed=2))
    assert steps == ["fsync", "replace"]


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere.*cannot be written"):
        save(tmp_path / "nowhere" / "model.safetensors", network())


def test_a_link_stays_a_link(tmp_path, saved):
    link = tmp_path / "latest"
    link.symlink_to(saved)
    save(link, network(seed=2))
    assert link.is_symlink()
    assert same(load_file(saved), values(network(seed=2)))


@pytest.mark.parametrize("name", ["loop", "no\0name"])
def test_names_that_lead_to_no_file(tmp_path, name):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save(tmp_path / name, network())
    rejected(tmp_path / name, network(), "cannot be read")
    assert (tmp_path / "loop").is_symlink() and os.listdir(tmp_path) == ["loop"]


@pytest.mark.parametrize("mode", [0o600, 0o664])
def test_permissions_stay(saved, mode):
    saved.chmod(mode)
    save(saved, network(seed=2))
    assert stat.S_IMODE(saved.stat().st_mode) == mode


def test_permissions_are_those_of_any_new_file(tmp_path, saved):
    (tmp_path / "other").touch()
    assert stat.S_IMODE(saved.stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


def test_what_killed_writers_left_is_removed_in_time(tmp_path, saved):
    def left(name, age):
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)

    left(f".{saved.name}.{'0a' * 16}", age=1000)
    young, other = f".{saved.name}.{'0b' * 16}", f".other.{'0a' * 16}"
    left(young, age=10)
    left(other, age=1000)
    left(".hidden", age=1000)
    save(saved, network(seed=2))
    assert sorted(os.listdir(tmp_path)) == sorted([saved.name, young, other, ".hidden"])


# ---------------------------------------------------------- what cannot be loaded


def rejected(path, model, message):
    before = values(model)
    with pytest.raises(CheckpointError, match=message):
        load(path, model)
    assert same(values(model), before)


def test_a_missing_file(tmp_path):
    rejected(tmp_path / "none.safetensors", network(), "none.safetensors cannot be read")


def test_a_folder_in_its_place(tmp_path):
    rejected(tmp_path, network(), "cannot be read|truncated or damaged")


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 100, 0.5, 0.9, -1], ids=str)
def test_a_truncated_file(saved, kept):
    content = saved.read_bytes()
    kept = int(kept * len(content)) if isinstance(kept, float) else kept
    saved.write_bytes(content[:kept])
    assert saved.stat().st_size < len(content)
    rejected(saved, network(), "model.safetensors is truncated or damaged .*complete safetensors")


@pytest.mark.parametrize("bit", [0, 3, 6])
def test_no_flipped_bit_ever_loads_another_number(saved, bit):
    """A flip in the name of the checksum's field or the like does no harm; all others are found."""
    content = saved.read_bytes()
    expected = values(network(seed=1))
    data_begins = 8 + int.from_bytes(content[:8], "little")
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << bit
        saved.write_bytes(damaged)
        model = network(seed=2)
        before = values(model)
        try:
            load(saved, model)
        except CheckpointError as error:
            assert saved.name in str(error)
            assert same(values(model), before)
        else:
            assert position < data_begins
            assert same(values(model), expected), f"byte {position}"


def test_another_model(saved):
    wider = network(width=5)
    rejected(saved, wider, r"saved from another model.*0.weight.*\[5, 2\].*\[3, 2\]")
    shorter = nn.Sequential(nn.Linear(2, 3))
    rejected(saved, shorter, "saved from another model.*2.weight")


# ---------------------------------------------------------------------- checkpoints


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
keys = st.text() | st.integers() | st.booleans() | st.tuples(st.integers(), st.text())
states = st.recursive(
    scalars | st.floats().map(tg.Tensor),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(keys, inner)
        | st.dictionaries(st.sampled_from(["$tensor", "$dict", "a", "/"]), inner)
    ),
)


@settings(max_examples=60)
@given(state=states)
@example(state=[-0.0, 5e-324, 0.1, float("nan"), -float("inf"), 1 << 80, True, 1, 1.0])
@example(state={"$tensor": {"$dict": "a"}, 0: {"0": 1}})
def test_all_kinds_of_data_come_back(state):
    """repr has every digit of floats, the classes of numbers and containers, and the order."""
    with TemporaryDirectory() as folder, mock.patch("os.fsync"):
        path = f"{folder}/state.safetensors"
        save_checkpoint(path, state=state)
        assert repr(load_checkpoint(path)["state"]) == repr(state)


DTYPES = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


@pytest.mark.parametrize("dtype", [*DTYPES, torch.complex64], ids=str)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)], ids=str)
def test_tensors_come_back_to_the_bit_and_of_their_kind(tmp_path, dtype, shape):
    value = (torch.randn(shape) * 3).to(dtype)
    state = {"a": {"b": value}, "a/b": [tg.Tensor(value.t()), value.t()], 3: (value,)}
    save_checkpoint(tmp_path / "file", state=state)
    back = load_checkpoint(tmp_path / "file")["state"]
    assert back.keys() == state.keys()
    for there, here in (
        (back["a"]["b"], value),
        (back["a/b"][0].data, value.t()),
        (back["a/b"][1], value.t()),
        (back[3][0], value),
    ):
        assert type(there) is torch.Tensor and there.dtype == dtype and torch.equal(there, here)


def test_tensors_lie_under_their_paths(tmp_path):
    model = network()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    save_checkpoint(tmp_path / "file", model=model, optimizer=optimizer)
    names = load_file(tmp_path / "file")
    assert {"model/0.weight", "optimizer/state/0/momentum_buffer"} < names.keys()


def test_numbers_that_a_model_learns_are_saved_in_double_precision(tmp_path):
    class Scale(nn.Module):
        def __init__(self, factor):
            self.factor = nn.Parameter(factor)

    first, second, third = Scale(0.1), Scale(2.0), Scale(3.0)
    save(tmp_path / "model", first)
    load(tmp_path / "model", second)
    save_checkpoint(tmp_path / "checkpoint", model=first)
    load_checkpoint(tmp_path / "checkpoint", model=third)
    assert second.factor.data == third.factor.data == 0.1


def test_what_was_loaded_does_not_change_with_the_file(tmp_path):
    path = tmp_path / "file"
    save_checkpoint(path, state=torch.ones(2000))
    state = load_checkpoint(path)["state"]
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert torch.equal(state, torch.ones(2000))


@pytest.mark.parametrize(
    "thing",
    [object(), {1, 2}, b"bytes", [1, {"deep": range(3)}]],
    ids=["object", "set", "bytes", "range"],
)
def test_what_a_checkpoint_cannot_hold(tmp_path, thing):
    kind = "object|set|bytes|range"
    with pytest.raises(TypeError, match=f"^state(/1/deep)? is a ({kind}), and a checkpoint holds"):
        save_checkpoint(tmp_path / "file", state=thing)
    with pytest.raises(TypeError, match="no tensors of dtype torch.complex128"):
        save_checkpoint(tmp_path / "file", state=torch.zeros(1, dtype=torch.complex128))
    assert os.listdir(tmp_path) == []


def test_a_name_that_the_format_needs_for_itself(saved):
    good = saved.read_bytes()
    with pytest.raises(ValueError, match='"__metadata__".*choose another name'):
        save_checkpoint(saved, __metadata__=3)
    model = nn.Module()
    model.__metadata__ = nn.Parameter([1.0])
    with pytest.raises(ValueError, match='"__metadata__".*choose another name'):
        save(saved, model)
    assert saved.read_bytes() == good


class Run:
    """A model, an optimizer with momentum and a generator, as different as their seed."""

    def __init__(self, seed=0, width=3, lr=0.1):
        self.model = network(seed, width)
        self.optimizer = optim.SGD(self.model.parameters(), lr=lr, momentum=0.9)
        self.model(torch.ones(1, 2)).sum().backward()
        self.optimizer.step()
        self.generator = torch.Generator().manual_seed(seed)

    def now(self):
        state = self.optimizer.state_dict()
        momenta = {f"momentum {i}": s["momentum_buffer"].data for i, s in state["state"].items()}
        lr = {"lr": torch.tensor(state["param_groups"][0]["lr"], dtype=torch.float64)}
        tensors = {**values(self.model), **momenta, **lr, "random": self.generator.get_state()}
        return {name: tensor.clone() for name, tensor in tensors.items()}


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "run.safetensors"
    save_checkpoint(path, **vars(Run(seed=1, lr=0.3)), epoch=7)
    return path


def test_all_parts_come_back(checkpoint):
    run = Run(seed=2)
    assert load_checkpoint(checkpoint, **vars(run)) == {"epoch": 7}
    assert same(run.now(), Run(seed=1, lr=0.3).now())


def not_loaded(path, message, run, parts=None):
    before = run.now()
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path, **(parts or vars(run)))
    assert same(run.now(), before)


def test_parts_that_do_not_fit(checkpoint):
    wide = Run(width=5)
    not_loaded(checkpoint, "its model does not fit.*0.weight.*Choose another path", wide)
    run = Run()
    fits = {"generator": run.generator, "model": run.model}
    not_loaded(checkpoint, "its optimizer does not fit", run, {**fits, "optimizer": wide.optimizer})
    linear = {"model": nn.Linear(2, 1)}
    not_loaded(checkpoint, "its model is a Sequential, and the given one is a Linear", run, linear)
    not_loaded(checkpoint, "it has no scheduler; its parts are", run, {"scheduler": run.model})


@pytest.mark.parametrize("part, kind", [(7, "int"), ({}, "dict"), (torch.ones(1), "Tensor")])
def test_parts_that_cannot_be_changed(checkpoint, part, kind):
    run = Run(seed=2)
    before = run.now()
    with pytest.raises(TypeError, match=f"^epoch is a {kind}, which cannot be changed; leave it"):
        load_checkpoint(checkpoint, **vars(run), epoch=part)
    assert same(run.now(), before)


@pytest.mark.parametrize("tree", [
    "3", "[]", "{}", "no", "[" * 10_000, '{"kinds": {}, "parts": 3}', '{"kinds": [], "parts": []}',
    '{"kinds": {}, "parts": {"a": 1}}', '{"kinds": {"a": "b"}, "parts": {"a": {"$tensor": ""}}}',
])  # fmt: skip
def test_documents_that_are_no_checkpoints(tmp_path, tree):
    path = tmp_path / "other.safetensors"
    digest = hashlib.sha256(tree.encode()).hexdigest()
    save_file({}, path, metadata={"sha256": digest, "state": tree})
    not_loaded(path, "other.safetensors is undamaged, and no checkpoint", Run())


def test_nothing_has_changed_when_the_last_part_does_not_fit(checkpoint):
    """Whatever a `load_state_dict` of somebody else raises."""

    class Stubborn:
        state_dict = dict

        def load_state_dict(self, state):
            if state:
                raise ZeroDivisionError("no")

    run = Run(seed=2)
    stubborn = Stubborn()
    stubborn.state_dict = lambda: {"a": 1}
    save_checkpoint(checkpoint, **vars(Run(seed=1)), last=stubborn)
    not_loaded(checkpoint, "its last does not fit, no", run, {**vars(run), "last": Stubborn()})


def test_models_and_checkpoints_are_not_mistaken_for_each_other(saved, checkpoint):
    not_loaded(saved, "holds tensors and nothing else", Run())
    rejected(checkpoint, network(), "saved from another model.*unexpected.*model/0.weight")


def test_a_checkpoint_truncated_anywhere(checkpoint):
    run = Run(seed=2)
    before = run.now()
    for kept in reversed(range(checkpoint.stat().st_size)):
        os.truncate(checkpoint, kept)
        with pytest.raises(CheckpointError, match="run.safetensors is truncated or damaged"):
            load_checkpoint(checkpoint, **vars(run))
    assert same(run.now(), before)


def test_a_checkpoint_with_a_byte_changed_anywhere(checkpoint):
    content = checkpoint.read_bytes()
    run = Run(seed=2)
    before = run.now()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        checkpoint.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="run.safetensors.*(truncated or )?damaged"):
            load_checkpoint(checkpoint, **vars(run))
    assert same(run.now(), before)
