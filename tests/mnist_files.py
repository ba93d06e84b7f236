"""Where the tests find MNIST's four original files, which are no part of the project."""

import os
from pathlib import Path

import pytest

BESIDE = Path(__file__).parents[2] / "shared" / "data" / "mnist"
MNIST = Path(os.environ.get("TINYGRAD_EE559_MNIST", BESIDE))
needs_mnist = pytest.mark.skipif(
    not MNIST.is_dir(),
    reason=f"{MNIST} does not exist; set TINYGRAD_EE559_MNIST to a folder with MNIST's files",
)
