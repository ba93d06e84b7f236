"""Every script in examples/ runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mnist_files import MNIST, needs_mnist

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
ARGUMENTS = {"mnist.py": [MNIST]}
MARKS = {"mnist.py": needs_mnist}


def test_there_are_examples():
    assert EXAMPLES


@pytest.mark.parametrize(
    "script",
    [pytest.param(path, id=path.name, marks=MARKS.get(path.name, ())) for path in EXAMPLES],
)
def test_example(script, tmp_path):
    command = [sys.executable, script, *ARGUMENTS.get(script.name, [])]
    process = subprocess.run(
        command,
        cwd=tmp_path,
        # On a busy machine, torch's threads wait for each other.
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
