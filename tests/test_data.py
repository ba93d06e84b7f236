"""Datasets and mini-batches; data files that are missing, truncated or altered."""

import functools
import gzip
import hashlib
import math
import signal
import struct
import threading
from http.server import HTTPServer, SimpleHTTPRequestHandler

import pytest
import torch
from mnist_files import MNIST, NOBODY, module, needs_mnist
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, TensorDataset

from tinygrad_ee559 import Tensor, data
from tinygrad_ee559.__main__ import main
from tinygrad_ee559.data import (
    Batches,
    fetch_mnist,
    mean_and_std,
    mnist,
    normalize,
    one_hot,
    read_idx,
)
from tinygrad_ee559.errors import DataFileError

RADIUS = 1 / math.sqrt(2 * math.pi)
DISKS = (data.Circle((0.5, 0.5), 0.75),)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# --------------------------------------------------- points inside and outside of circles

#: What has label 1, the least and greatest coordinates, and the fraction of them with label 1.
SQUARES = {
    "disk": (lambda x, y: math.hypot(x - 0.5, y - 0.5) < RADIUS, 0, 1, 1 / 2),
    "ring": (lambda x, y: not RADIUS < math.hypot(x, y) < 1, 0, 1, 1 - (math.pi / 4 - 1 / 8)),
    "centered_disk": (lambda x, y: math.hypot(x, y) < RADIUS, -1, 1, 1 / 8),
}


@pytest.mark.parametrize("name", SQUARES)
def test_labels_are_those_of_the_region(name):
    is_one, low, high, fraction = SQUARES[name]
    points, labels = getattr(data, name)(2000, seeded(0))
    for (x, y), label in zip(points.tolist(), labels.tolist()):
        assert label == is_one(x, y)
    # 5 standard deviations of a coin thrown 2,000 times
    ones = sum(labels.tolist())
    assert abs(ones - 2000 * fraction) < 5 * math.sqrt(2000 * fraction * (1 - fraction))
    region = getattr(data, name.upper())
    assert (region.low, region.high) == (low, high)


@pytest.mark.parametrize("name", SQUARES)
def test_points_are_uniform_in_the_square(name):
    _, low, high, _ = SQUARES[name]
    points = getattr(data, name)(10_000, seeded(1))[0].data
    assert points.min() >= low and points.max() <= high
    counts = torch.cat([torch.histc(points[:, i], 10, low, high) for i in (0, 1)])
    assert (counts - 1000).abs().max() < 5 * math.sqrt(10_000 * 0.1 * 0.9)


@pytest.mark.parametrize("name", SQUARES)
def test_points_depend_on_the_generator_alone(name):
    before = torch.get_rng_state()
    first, again, other = (getattr(data, name)(50, seeded(seed))[0].data for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", SQUARES)
def test_datasets_require_no_gradients(name):
    points, labels = getattr(data, name)(5, seeded(0))
    assert isinstance(points, Tensor) and isinstance(labels, Tensor)
    assert not points.requires_grad and not labels.requires_grad
    assert points.dtype == torch.float32 and labels.dtype == torch.int64
    assert points.shape == (5, 2) and labels.shape == (5,)


@pytest.mark.parametrize("name", SQUARES)
def test_points_of_a_grid_are_labeled_too(name):
    """As a picture needs it: of both kinds of tensor, of any shape, and across the border."""
    is_one, low, high, _ = SQUARES[name]
    side = torch.linspace(low - 0.5, high + 0.5, 20, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1)
    labels = getattr(data, name.upper()).label(grid)
    assert labels.tolist() == [[is_one(x, y) for y in side.tolist()] for x in side.tolist()]
    assert torch.equal(getattr(data, name.upper()).label(Tensor(grid)).data, labels.data)


def test_points_may_be_integers():
    points = torch.tensor([[0, 0], [1, 1], [1, 0]])
    for region in (data.DISK, data.RING, data.CENTERED_DISK, data.Region(0, 3, DISKS)):
        assert region.label(points).tolist() == region.label(points.double()).tolist()


# ----------------------------------------------------------------- small tools


def test_normalize_gives_mean_0_and_standard_deviation_1():
    values = torch.rand(1000, generator=seeded(0), dtype=torch.float64) * 7 + 3
    result = normalize(Tensor(values), values.mean().item(), values.std().item()).data
    assert result.mean().item() == pytest.approx(0, abs=1e-12)
    assert result.std().item() == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_what_is_learned_from_some_inputs_is_applied_to_others(dtype):
    train, test = (torch.randn(30, 4, generator=seeded(i), dtype=dtype) * 3 + 5 for i in (0, 1))
    train[:, 2] = 0.1  # a column that never varies, of a number that is rounded
    scaler = StandardScaler().fit(train.numpy())
    mean, std = mean_and_std(Tensor(train))
    torch.testing.assert_close(mean.data, torch.tensor(scaler.mean_, dtype=dtype))
    torch.testing.assert_close(std.data, torch.tensor(scaler.scale_, dtype=dtype))
    result = normalize(Tensor(test), mean, std)
    torch.testing.assert_close(result.data, torch.from_numpy(scaler.transform(test.numpy())))
    assert torch.equal(normalize(Tensor(test), mean.data, std.data).data, result.data)


def test_every_pixel_of_images_is_a_column():
    images = torch.rand(20, 3, 5, generator=seeded(0))
    mean, std = mean_and_std(images)
    flat_mean, flat_std = mean_and_std(images.reshape(20, 15))
    assert mean.shape == std.shape == (3, 5)
    assert torch.equal(mean.data.flatten(), flat_mean.data)
    assert torch.equal(std.data.flatten(), flat_std.data)


def test_nothing_is_learned_from_no_samples():
    with pytest.raises(ValueError, match=r"at least one sample, got inputs of shape \[0, 3\]"):
        mean_and_std(torch.zeros(0, 3))


def test_one_hot_rows():
    rows = one_hot(Tensor([2, 0, 1]), 4)
    assert rows.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0]]
    assert rows.dtype == torch.get_default_dtype()
    assert one_hot(torch.zeros(2, 3, dtype=torch.int64), 4).shape == (2, 3, 4)


@pytest.mark.parametrize("labels, wrong", [([0, 3, 1], 3), ([2, -1], -1)])
def test_labels_that_are_no_class_are_named(labels, wrong):
    with pytest.raises(ValueError, match=f"labels from 0 to 2, and there is {wrong} among"):
        one_hot(Tensor(labels), 3)


# --------------------------------------------------------------------- batches


def test_batches_in_order_without_a_generator():
    batches = Batches(torch.arange(7), torch.arange(7) * 10, batch_size=3)
    expected = [([0, 1, 2], [0, 10, 20]), ([3, 4, 5], [30, 40, 50]), ([6], [60])]
    for _ in range(2):
        assert [(x.tolist(), y.tolist()) for x, y in batches] == expected
    assert len(batches) == 3


@pytest.mark.parametrize("count, batch_size", [(7, 3), (6, 3), (1, 1), (5, 100)])
def test_shuffled_batches_give_every_pair_once(count, batch_size):
    batches = Batches(torch.arange(count), torch.arange(count) * 10, batch_size, seeded(0))
    for _ in range(3):
        pairs = [pair for x, y in batches for pair in zip(x.tolist(), y.tolist())]
        assert sorted(pairs) == [(i, 10 * i) for i in range(count)]
        sizes = [len(x) for x, _ in batches]
        assert len(sizes) == len(batches)
        assert sizes[:-1] == [batch_size] * (len(sizes) - 1) and sum(sizes) == count


def test_every_epoch_is_shuffled_anew_and_repeatably():
    def epochs(seed):
        batches = Batches(torch.arange(50), torch.arange(50), 10, seeded(seed))
        return [[n for x, _ in batches for n in x.tolist()] for _ in range(3)]

    before = torch.get_rng_state()
    assert epochs(5) == epochs(5)
    assert len({tuple(epoch) for epoch in [*epochs(5), *epochs(6)]}) == 6
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("count, batch_size", [(7, 3), (6, 3), (5, 5), (1, 1)])
@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_are_those_of_pytorchs_loader(count, batch_size, drop_last):
    rows = torch.arange(count), torch.arange(count) * 10
    expected = DataLoader(TensorDataset(*rows), batch_size, drop_last=drop_last)
    batches = Batches(*rows, batch_size, drop_last=drop_last)
    assert len(batches) == len(expected)
    for ours, theirs in zip(batches, expected, strict=True):
        assert [x.tolist() for x in ours] == [x.tolist() for x in theirs]
    shuffled = Batches(*rows, batch_size, seeded(0), drop_last=drop_last)
    assert [len(x) for x, _ in shuffled] == [len(x) for x, _ in batches]


@pytest.mark.parametrize("generator", [None, seeded(0)], ids=["in order", "shuffled"])
def test_batches_may_be_changed_in_place(generator):
    rows = torch.arange(6.0), torch.arange(6.0)
    for x, y in Batches(*rows, 4, generator):
        x.zero_(), y.zero_()
    assert all(torch.equal(values, torch.arange(6.0)) for values in rows)


@pytest.mark.parametrize("generator", [None, 0], ids=["in order", "shuffled"])
def test_samples_and_targets_of_any_rank(generator):
    numbers = torch.arange(5)
    inputs = numbers.reshape(5, 1, 1, 1).expand(5, 2, 3, 4)
    targets = Tensor(numbers.reshape(5, 1, 1).expand(5, 6, 7))
    generator = None if generator is None else seeded(generator)
    for x, y in Batches(inputs, targets, 2, generator):
        assert x.shape == (len(x), 2, 3, 4) and y.shape == (len(x), 6, 7)
        assert x.data[:, 0, 0, 0].tolist() == y.data[:, 0, 0].tolist()


def test_the_state_of_the_generator_resumes_the_order():
    def epochs(generator, number):
        batches = Batches(torch.arange(50), torch.arange(50), 8, generator)
        return [[x.tolist() for x, _ in batches] for _ in range(number)]

    generator = seeded(5)
    whole = epochs(generator, 4)
    generator.manual_seed(5)
    first = epochs(generator, 2)
    state = generator.get_state()
    resumed = seeded(99)
    resumed.set_state(state)
    assert first + epochs(resumed, 2) == whole


def test_batches_carry_no_gradients():
    inputs = Tensor([[1.0], [2.0]], requires_grad=True)
    for generator in (None, seeded(0)):
        for x, _ in Batches(inputs, torch.zeros(2), 1, generator):
            assert isinstance(x, Tensor) and not x.requires_grad


@pytest.mark.parametrize(
    "inputs, targets, batch_size, problem",
    [(3, 2, 1, "3 inputs and 2 targets"), (0, 0, 1, "0 inputs"), (3, 3, 0, "batch_size is 0")],
)
def test_batches_that_make_no_sense(inputs, targets, batch_size, problem):
    with pytest.raises(ValueError, match=problem):
        Batches(torch.zeros(inputs), torch.zeros(targets), batch_size)


def test_dropping_the_only_batch():
    with pytest.raises(ValueError, match="no batch: 3 samples do not fill one of 4"):
        Batches(torch.zeros(3), torch.zeros(3), 4, drop_last=True)


# ------------------------------------------------------------------- IDX files


def idx(*sizes, values=None):
    """An IDX file of unsigned bytes, gzipped."""
    values = bytes(range(math.prod(sizes))) if values is None else values
    return gzip.compress(struct.pack(f">BBBB{len(sizes)}I", 0, 0, 8, len(sizes), *sizes) + values)


@pytest.mark.parametrize("sizes", [(5,), (2, 3, 4), (0, 28, 28)], ids=str)
def test_an_idx_file_is_read_in_row_major_order(tmp_path, sizes):
    path = tmp_path / "some.gz"
    path.write_bytes(idx(*sizes))
    array = read_idx(path, len(sizes))
    assert array.shape == sizes and array.dtype == torch.uint8
    assert array.flatten().tolist() == list(range(math.prod(sizes)))


@pytest.mark.parametrize(
    "content, problem",
    [
        (b"", "0 values|begins with"),
        (b"no gzip at all", "gzipped IDX file was expected"),
        (idx(2, 3)[:-9], "gzipped IDX file was expected"),
        (idx(2, 3)[:20], "gzipped IDX file was expected"),
        (gzip.compress(b"\0\0\x08\x02\0\0"), "begins with the bytes 00 00 08 02"),
        (gzip.compress(struct.pack(">4B2If", 0, 0, 13, 2, 1, 1, 0.5)), "begins with .*00 00 0d 02"),
        (idx(6), "begins with the bytes 00 00 08 01, .* in 2 dimensions"),
        (idx(2, 3, values=b"12345"), "holds 5 values, .* announces 2 x 3 = 6"),
        (idx(2, 3, values=b"1234567"), "holds 7 values, .* announces 2 x 3 = 6"),
    ],
    ids=["empty", "other", "no end", "cut", "header", "floats", "1-d", "too short", "too long"],
)
def test_what_is_no_idx_file_is_named(tmp_path, content, problem):
    path = tmp_path / "some.gz"
    path.write_bytes(content)
    with pytest.raises(DataFileError, match=f"some.gz .*({problem})"):
        read_idx(path, 2)


# ------------------------------------------------- MNIST's files, here or downloaded


@pytest.fixture
def published(monkeypatch):
    """Small files in the place of MNIST's, with their checksums."""
    count = {"train": 7, "t10k": 3}
    files = {
        f"{part}-{name}-ubyte.gz": idx(n, *sizes, values=bytes([255]) * (n * math.prod(sizes)))
        for part, n in count.items()
        for name, sizes in (("images-idx3", (2, 2)), ("labels-idx1", ()))
    }
    sums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    assert sums.keys() == module.MD5.keys()
    monkeypatch.setattr(module, "MD5", sums)
    monkeypatch.setattr(module, "MIRRORS", (NOBODY,))
    return files


@pytest.fixture
def mirror(tmp_path, monkeypatch, published):
    """A folder that is served as the public mirror would be."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    folder = tmp_path / "mirror"
    folder.mkdir()
    server = HTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setattr(module, "MIRRORS", (f"http://127.0.0.1:{server.server_port}/",))
    yield folder
    server.shutdown()
    thread.join()
    server.server_close()


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def test_files_that_are_there_are_not_downloaded(tmp_path, published):
    write(tmp_path, published)
    images, labels = mnist(tmp_path)
    assert images.tolist() == [[[1.0, 1.0], [1.0, 1.0]]] * 7
    assert labels.tolist() == [255] * 7
    assert len(mnist(tmp_path, train=False)[0]) == 3


def test_missing_files_are_downloaded_once(tmp_path, mirror, published):
    write(mirror, published)
    folder = tmp_path / "new" / "folder"
    assert len(mnist(folder)[0]) == 7
    for file in mirror.iterdir():
        file.unlink()
    assert len(mnist(folder)[0]) == 7


def test_a_damaged_download_leaves_nothing_behind(tmp_path, mirror, published):
    name = "train-labels-idx1-ubyte.gz"
    write(mirror, {name: published[name][:-1]})
    folder = tmp_path / "folder"
    with pytest.raises(DataFileError, match=rf"{name} is missing, and downloading it .*md5"):
        fetch_mnist(name, folder)
    assert list(folder.iterdir()) == []


def interrupt():
    """As Ctrl-C does."""
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


@pytest.mark.parametrize(
    "halfway, error",
    [(lambda: None, DataFileError), (interrupt, KeyboardInterrupt)],
    ids=["broken off", "interrupted"],
)
@pytest.mark.usefixtures("ctrl_c")
def test_half_a_download_leaves_nothing_behind(
    tmp_path, mirror, published, monkeypatch, halfway, error
):
    def half(_handler, source, connection):
        content = source.read()
        connection.write(content[: len(content) // 2])
        connection.flush()
        halfway()

    name = "train-images-idx3-ubyte.gz"
    write(mirror, published)
    folder = tmp_path / "folder"
    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(SimpleHTTPRequestHandler, "copyfile", half)
        fetch_mnist(name, folder)
    assert list(folder.iterdir()) == []
    assert fetch_mnist(name, folder).read_bytes() == published[name]


@pytest.mark.parametrize("first", [NOBODY, "missing/", "damaged/"])
def test_the_second_mirror_is_asked_where_the_first_one_fails(
    tmp_path, mirror, published, monkeypatch, first
):
    name = "t10k-labels-idx1-ubyte.gz"
    write(mirror / "damaged", {name: published[name][:-1]})
    write(mirror / "good", {name: published[name]})
    (here,) = module.MIRRORS
    first = first if first == NOBODY else here + first
    monkeypatch.setattr(module, "MIRRORS", (first, here + "good/"))
    assert fetch_mnist(name, tmp_path).read_bytes() == published[name]

    monkeypatch.setattr(module, "MIRRORS", (first, NOBODY))
    with pytest.raises(DataFileError, match=f"failed from {first}.* and from {NOBODY}"):
        fetch_mnist(name, tmp_path / "other")


def test_a_missing_file_that_cannot_be_downloaded(tmp_path, published):
    name = "t10k-labels-idx1-ubyte.gz"
    expected = rf"{name} is missing, .* failed from {NOBODY}{name} .* md5 {module.MD5[name]}"
    with pytest.raises(DataFileError, match=expected):
        fetch_mnist(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["truncated", "empty", "altered", "extended"])
def test_a_damaged_file_is_named_and_left_alone(tmp_path, mirror, published, damage):
    write(mirror, published)  # a good one could be had, but the file is the user's
    name = "train-images-idx3-ubyte.gz"
    good = published[name]
    bad = {
        "truncated": good[:-5],
        "empty": b"",
        "altered": good[:15] + bytes([good[15] ^ 1]) + good[16:],
        "extended": good + b"\0",
    }[damage]
    write(tmp_path, {**published, name: bad})
    expected = rf"{name}, of {len(bad)} bytes, is truncated or altered: .*{module.MD5[name]}"
    with pytest.raises(DataFileError, match=expected):
        mnist(tmp_path)
    assert (tmp_path / name).read_bytes() == bad


def test_a_folder_in_the_place_of_a_file(tmp_path, published):
    name = "train-images-idx3-ubyte.gz"
    (tmp_path / name).mkdir()
    with pytest.raises(DataFileError, match=f"{name} cannot be read"):
        fetch_mnist(name, tmp_path)


@pytest.mark.parametrize("folder", ["file/folder", "/proc/self"])
def test_a_folder_that_cannot_be_written_to(tmp_path, mirror, published, folder):
    write(mirror, published)
    (tmp_path / "file").touch()
    folder = tmp_path / folder  # an absolute path stays as it is
    expected = f"^{folder}/train-.* is missing, and its folder cannot be written to .*name another"
    with pytest.raises(DataFileError, match=expected):
        mnist(folder)


def test_where_the_files_are_looked_for(tmp_path, published, monkeypatch):
    name = "train-images-idx3-ubyte.gz"

    def looks_in(folder, *arguments):
        with pytest.raises(DataFileError, match=f"^{folder / name} is missing"):
            mnist(*arguments)

    monkeypatch.setattr(module.pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(module.VARIABLE, "")
    looks_in(tmp_path / "cache" / "tinygrad_ee559" / "mnist")
    monkeypatch.setenv(module.VARIABLE, str(tmp_path / "variable"))
    looks_in(tmp_path / "variable")
    looks_in(tmp_path / "argument", tmp_path / "argument")
    looks_in(tmp_path / "home" / "digits", "~/digits")

    write(tmp_path / "variable", published)
    assert len(mnist()[0]) == 7 and len(mnist(train=False)[0]) == 3


def test_the_command_line_looks_in_the_same_places(tmp_path, published, monkeypatch, capsys):
    monkeypatch.setenv(module.VARIABLE, str(tmp_path / "variable"))
    assert main(["train", "mnist", "--out", str(tmp_path / "out")]) == 1
    assert f"tinygrad_ee559: {tmp_path / 'variable'}/train-" in capsys.readouterr().err


@needs_mnist
@pytest.mark.parametrize(
    "train, count, zeros, first",
    [(True, 60_000, 5923, [5, 0, 4, 1, 9]), (False, 10_000, 980, [7, 2, 1, 0, 4])],
    ids=["train", "test"],
)
def test_mnist_itself(train, count, zeros, first):
    images, labels = mnist(MNIST, train)
    assert images.shape == (count, 28, 28) and labels.shape == (count,)
    assert images.data.min() == 0 and images.data.max() == 1
    assert labels.tolist()[:5] == first
    assert (labels.data == 0).sum() == zeros
    if train:  # the numbers that everyone normalizes with
        assert images.data.mean().item() == pytest.approx(0.1307, abs=1e-4)
        assert images.data.std().item() == pytest.approx(0.3081, abs=1e-4)
