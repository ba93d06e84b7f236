"""MNIST: where its four files lie, that they are the published ones, and what is in them."""

from __future__ import annotations

import gzip
import math
import os
import struct
import tempfile
import zlib
from pathlib import Path
from textwrap import shorten

import pooch
import torch

from tinygrad_ee559.errors import DataFileError
from tinygrad_ee559.tensor import Tensor

#: The environment variable that says where MNIST lies.
VARIABLE = "TINYGRAD_EE559_DATA"
#: Tried in this order; the files of both are the original ones.
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
#: The original files of Y. LeCun, C. Cortes and C. J. C. Burges, and their published checksums.
MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}


def mnist(
    folder: str | os.PathLike[str] | None = None, train: bool = True
) -> tuple[Tensor, Tensor]:
    """The handwritten digits of MNIST, downloaded if they are not there yet.

    Args:
        folder: holds the four original gzipped files, or will; if None, the one that the
            environment variable `TINYGRAD_EE559_DATA` names, or else one in the user's cache.
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


def fetch_mnist(name: str, folder: str | os.PathLike[str] | None = None) -> Path:
    """The path of one of MNIST's files, downloaded if missing, its checksum verified.

    A file that is there is never replaced, and a download takes its place only once it is
    complete and verified.

    Args:
        name: of the file.
        folder: where it is; if None, the same one as `mnist`'s.

    Raises:
        DataFileError: the file cannot be downloaded or read, or is not the published one.
    """
    path = _folder(folder) / name
    if not os.path.exists(path):
        _download(path)
    try:
        found = pooch.file_hash(str(path), alg="md5")
    except OSError as error:
        raise DataFileError(f"{path} cannot be read ({error}); make it readable") from error
    if found != MD5[name]:
        raise DataFileError(
            f"{path}, of {path.stat().st_size} bytes, is truncated or altered: its md5 is {found}, "
            f"and the published file has {MD5[name]}; delete it to have it downloaded again"
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

    >>> content = bytes([0, 0, 8, 1] + [0, 0, 0, 3] + [5, 0, 4])
    >>> _ = Path("labels.gz").write_bytes(gzip.compress(content))
    >>> read_idx("labels.gz", dimensions=1)
    tensor([5, 0, 4], dtype=torch.uint8)
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


def _folder(folder: str | os.PathLike[str] | None) -> Path:
    """The folder that was asked for, the environment's, or the cache's."""
    if folder is None:
        folder = os.environ.get(VARIABLE) or pooch.os_cache("tinygrad_ee559") / "mnist"
    return Path(folder).expanduser()


def _download(path: Path) -> None:
    """From the first mirror that has it; pooch downloads beside it, verifies, and then renames."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise DataFileError(
            f"{path} is missing, and its folder cannot be written to ({error}); name another "
            f"folder, or set {VARIABLE} to one"
        ) from error
    expected = MD5[path.name]
    reasons = []
    for mirror in MIRRORS:
        url = mirror + path.name
        try:
            pooch.retrieve(url, known_hash=f"md5:{expected}", fname=path.name, path=path.parent)
            return
        except (OSError, ValueError) as error:  # ValueError: pooch found another checksum
            reasons.append(f"from {url} ({shorten(str(error), 120, placeholder=' ...')})")
    raise DataFileError(
        f"{path} is missing, and downloading it failed {' and '.join(reasons)}; put the original "
        f"file there, with md5 {expected}"
    )
