"""Where the tests find MNIST's four original files, which are no part of the project."""

import os
from importlib import import_module
from pathlib import Path

import pytest

# Where mirrors and checksums are. As an attribute of the package, `data.mnist` is the function.
module = import_module("tinygrad_ee559.data.mnist")

BESIDE = Path(__file__).parents[2] / "shared" / "data" / "mnist"
MNIST = Path(os.environ.get(module.VARIABLE) or BESIDE)
needs_mnist = pytest.mark.skipif(
    not MNIST.is_dir(),
    reason=f"{MNIST} does not exist; set {module.VARIABLE} to a folder with MNIST's files",
)
NOBODY = "http://127.0.0.1:9/"  # listens there
