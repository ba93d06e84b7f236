"""Datasets and mini-batches; data files that are missing, truncated or altered."""

import functools
import gzip
import hashlib
import math
import struct
import threading
from http.server import HTTPServer, SimpleHTTPRequestHandler

import pytest
import torch
from mnist_files import MNIST, needs_mnist

from tinygrad_ee559 import Tensor, data
from tinygrad_ee559.data import Batches, disk, fetch_mnist, mnist, normalize, one_hot, read_idx
from tinygrad_ee559.errors import DataFileError


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------- the disk


def test_disk_labels_are_one_inside_the_circle_of_half_the_area():
    points, labels = disk(2000, seeded(0))
    radius = 1 / math.sqrt(2 * math.pi)
    assert math.pi * radius**2 == pytest.approx(0.5)
    for (x, y), label in zip(points.tolist(), labels.tolist()):
        assert label == (math.hypot(x - 0.5, y - 0.5) < radius)
    # 5 standard deviations of a fair coin thrown 2,000 times
    assert abs(sum(labels.tolist()) - 1000) < 5 * math.sqrt(2000) / 2


def test_disk_is_uniform_in_the_unit_square():
    points = disk(10_000, seeded(1))[0].data
    assert points.min() >= 0 and points.max() <= 1
    counts = torch.histc(points[:, 0], 10, 0, 1), torch.histc(points[:, 1], 10, 0, 1)
    for count in torch.cat(counts).tolist():
        assert abs(count - 1000) < 5 * math.sqrt(10_000 * 0.1 * 0.9)


def test_disk_depends_on_its_generator_alone():
    before = torch.get_rng_state()
    first, again, other = (disk(50, seeded(seed))[0].data for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_datasets_require_no_gradients():
    points, labels = disk(5, seeded(0))
    assert isinstance(points, Tensor) and isinstance(labels, Tensor)
    assert not points.requires_grad and not labels.requires_grad
    assert points.dtype == torch.float32 and labels.dtype == torch.int64


# ----------------------------------------------------------------- small tools


def test_normalize_gives_mean_0_and_standard_deviation_1():
    values = torch.rand(1000, generator=seeded(0), dtype=torch.float64) * 7 + 3
    result = normalize(Tensor(values), values.mean().item(), values.std().item()).data
    assert result.mean().item() == pytest.approx(0, abs=1e-12)
    assert result.std().item() == pytest.approx(1)


def test_one_hot_rows():
    rows = one_hot(Tensor([2, 0, 1]), 4)
    assert rows.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0]]
    assert rows.dtype == torch.get_default_dtype()


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
    assert sums.keys() == data.MNIST_MD5.keys()
    monkeypatch.setattr(data, "MNIST_MD5", sums)
    monkeypatch.setattr(data, "MNIST_MIRROR", "http://127.0.0.1:9/")  # nobody listens
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
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(data, "MNIST_MIRROR", f"http://127.0.0.1:{server.server_port}/")
    yield folder
    server.shutdown()
    thread.join()
    server.server_close()


def write(folder, files):
    folder.mkdir(exist_ok=True)
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


def test_a_missing_file_that_cannot_be_downloaded(tmp_path, published):
    name = "t10k-labels-idx1-ubyte.gz"
    expected = rf"{name} is missing, .*127.0.0.1:9/{name} failed .* md5 {data.MNIST_MD5[name]}"
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
    expected = rf"{name}, of {len(bad)} bytes, is truncated or altered: .*{data.MNIST_MD5[name]}"
    with pytest.raises(DataFileError, match=expected):
        mnist(tmp_path)
    assert (tmp_path / name).read_bytes() == bad


def test_a_folder_in_the_place_of_a_file(tmp_path, published):
    name = "train-images-idx3-ubyte.gz"
    (tmp_path / name).mkdir()
    with pytest.raises(DataFileError, match=f"{name} cannot be read"):
        fetch_mnist(name, tmp_path)


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
