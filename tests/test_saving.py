"""Saved models: whole or not at all, and never a wrong number."""

import errno
import os
import stat

import pytest
import torch
from safetensors.torch import load_file, save_file

from tinygrad_ee559 import nn
from tinygrad_ee559.errors import CheckpointError
from tinygrad_ee559.saving import load, save
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


def test_permissions_are_those_of_any_new_file(tmp_path, saved):
    (tmp_path / "other").touch()
    assert stat.S_IMODE(saved.stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


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
