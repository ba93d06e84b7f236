"""Data to learn from: points in and around a disk, handwritten digits, and mini-batches of them."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from textwrap import shorten

import pooch
import torch
import torch.nn.functional as F

from tinygrad_ee559.errors import DataFileError
from tinygrad_ee559.tensor import Tensor, lift

#: Center and radius of the disk; it covers half of the unit square.
DISK_CENTER = 0.5
DISK_RADIUS = 1 / math.sqrt(2 * math.pi)

MNIST_MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"
#: The original files of Y. LeCun, C. Cortes and C. J. C. Burges, and their published checksums.
MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}


class Batches:
    """Mini-batches of inputs and targets; every loop over it is one epoch.

    Args:
        inputs: what the model sees, one sample per row; a tensor of either kind.
        targets: what it should answer, one per row of `inputs`.
        batch_size: rows per batch; the last batch has what is left.
        generator: shuffles anew in every epoch; without one, rows come in their order.

    Yields:
        Pairs of tensors without gradients.

    Raises:
        ValueError: there are no rows, their numbers differ, or a batch would be empty.

    >>> batches = Batches(torch.arange(5), torch.arange(5), batch_size=2)
    >>> len(batches)
    3
    >>> [inputs.tolist() for inputs, targets in batches]
    [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        inputs: Tensor | torch.Tensor,
        targets: Tensor | torch.Tensor,
        batch_size: int,
        generator: torch.Generator | None = None,
    ) -> None:
        if len(inputs) != len(targets) or len(inputs) == 0:
            raise ValueError(
                f"batches need as many inputs as targets, at least one, and there are "
                f"{len(inputs)} inputs and {len(targets)} targets"
            )
        if batch_size < 1:
            raise ValueError(f"a batch needs at least one sample, and batch_size is {batch_size}")
        self.inputs = Tensor(inputs).as_torch()
        self.targets = Tensor(targets).as_torch()
        self.batch_size = batch_size
        self.generator = generator

    def __len__(self) -> int:
        return math.ceil(len(self.inputs) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.generator is None:
            in_order = (torch.split(rows, self.batch_size) for rows in (self.inputs, self.targets))
            for inputs, targets in zip(*in_order):
                yield lift(inputs, None), lift(targets, None)
            return
        order = torch.randperm(
            len(self.inputs), generator=self.generator, device=self.generator.device
        )
        for picked in torch.split(order.to(self.inputs.device), self.batch_size):
            inputs = self.inputs.index_select(0, picked)
            targets = self.targets.index_select(0, picked)
            yield lift(inputs, None), lift(targets, None)


def disk(count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Points of the unit square and whether they are inside the disk that covers half of it.

    Args:
        count: the number of points.
        generator: draws them; torch's global one if None.

    Returns:
        Points, `[count, 2]`, uniform in [0, 1]; labels, int64 `[count]`, 1 inside the disk of
        radius 1/√(2π) around (0.5, 0.5) and 0 outside. Neither requires gradients.

    >>> points, labels = disk(1000, torch.Generator().manual_seed(0))
    >>> points.shape, labels.sum()
    (torch.Size([1000, 2]), Tensor(490))
    """
    points = torch.rand(count, 2, generator=generator)
    inside = (points - DISK_CENTER).square().sum(1) < DISK_RADIUS**2
    return Tensor(points), Tensor(inside.long())


def mnist(folder: str | os.PathLike[str], train: bool = True) -> tuple[Tensor, Tensor]:
    """The handwritten digits of MNIST, downloaded into `folder` if they are not there yet.

    Args:
        folder: holds the four original gzipped files, or will.
        train: the 60,000 training images; otherwise the 10,000 test images.

    Returns:
        Images, `[n, 28, 28]` of torch's default dtype, from 0 (paper) to 1 (ink); labels, int64
        `[n]`. Neither requires gradients.

    Raises:
        DataFileError: a file is missing and cannot be downloaded, or is truncated or altered.
    """
    images, labels = (
        read_idx(fetch_mnist(f"{'train' if train else 't10k'}-{kind}-ubyte.gz", folder), dimensions)
        for kind, dimensions in (("images-idx3", 3), ("labels-idx1", 1))
    )
    return Tensor(images.to(torch.get_default_dtype()).div_(255)), Tensor(labels.long())


def fetch_mnist(name: str, folder: str | os.PathLike[str]) -> Path:
    """The path of one of MNIST's files in `folder`, downloaded if missing, its checksum verified.

    A file that is there is never replaced, and a download takes its place only once it is
    complete and verified.

    Raises:
        DataFileError: the file cannot be downloaded or read, or is not the published one.
    """
    path = Path(folder) / name
    expected = MNIST_MD5[name]
    if not path.exists():
        url = MNIST_MIRROR + name
        try:
            pooch.retrieve(url, known_hash=f"md5:{expected}", fname=name, path=folder)
        except (OSError, ValueError) as error:  # ValueError: pooch found another checksum
            reason = shorten(str(error), 120, placeholder=" ...")
            raise DataFileError(
                f"{path} is missing, and downloading it from {url} failed ({reason}); put the "
                f"original file there, with md5 {expected}"
            ) from error
    try:
        found = pooch.file_hash(str(path), alg="md5")
    except OSError as error:
        raise DataFileError(f"{path} cannot be read ({error}); make it readable") from error
    if found != expected:
        raise DataFileError(
            f"{path}, of {path.stat().st_size} bytes, is truncated or altered: its md5 is {found}, "
            f"and the published file has {expected}; delete it to have it downloaded again"
        )
    return path


def read_idx(path: str | os.PathLike[str], dimensions: int) -> torch.Tensor:
    """The array of bytes in a gzipped IDX file.

    The format, big-endian: two zero bytes, the type (8: unsigned byte), the number of dimensions,
    the size of each as 32 bits, then the values in row-major order.

    Args:
        path: the file.
        dimensions: how many the array should have.

    Returns:
        A uint8 tensor of the sizes that the file names.

    Raises:
        DataFileError: the file cannot be read, or is no such array.
    """
    try:
        content = bytearray(gzip.decompress(Path(path).read_bytes()))
    except (OSError, EOFError, zlib.error) as error:
        raise DataFileError(
            f"{path} cannot be read ({error}); a gzipped IDX file was expected"
        ) from error
    magic = bytes([0, 0, 8, dimensions])
    header = 4 + 4 * dimensions
    if content[:4] != magic or len(content) < header:
        raise DataFileError(
            f"{path} begins with the bytes {content[:4].hex(' ')}, and an IDX file of unsigned "
            f"bytes in {dimensions} dimensions with {magic.hex(' ')} and {dimensions} sizes"
        )
    sizes = struct.unpack_from(f">{dimensions}I", content, 4)
    if len(content) - header != math.prod(sizes):
        raise DataFileError(
            f"{path} holds {len(content) - header} values, and its header announces "
            f"{' x '.join(map(str, sizes))} = {math.prod(sizes)}"
        )
    if 0 in sizes:
        return torch.empty(sizes, dtype=torch.uint8)
    return torch.frombuffer(content, dtype=torch.uint8, offset=header).reshape(sizes)


def normalize(inputs: Tensor, mean: float, std: float) -> Tensor:
    """Shift and scale inputs to mean 0 and standard deviation 1, given what they are before.

    >>> normalize(Tensor([0.0, 2.0]), mean=1.0, std=2.0)
    Tensor([-0.5000,  0.5000])
    """
    return (inputs - mean) / std


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Rows that are 1 at the label and 0 elsewhere, as targets of a mean squared error.

    Returns:
        `[len(labels), num_classes]`, of torch's default dtype.

    >>> one_hot(Tensor([1, 0]), 3)
    Tensor([[0., 1., 0.],
            [1., 0., 0.]])
    """
    return Tensor(F.one_hot(labels.as_torch(), num_classes).to(torch.get_default_dtype()))
