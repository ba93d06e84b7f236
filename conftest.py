"""What all tests share, the examples in docstrings, docs/ and Markdown pages included."""

import signal
from unittest.mock import patch

import pytest
import torch
from hypothesis import settings

from tinygrad_ee559.rules.registry import COMPOSED, CONSTANT, RULES

# Two threads that wait for each other on a busy machine can take twenty times as long as one.
torch.set_num_threads(1)

# A failure prints the line that repeats it. No deadline: a first call into torch is slow, and a
# time limit per example would fail by chance on a busy machine.
settings.register_profile("tinygrad_ee559", settings(), print_blob=True, deadline=None)
settings.load_profile("tinygrad_ee559")


@pytest.fixture(autouse=True)
def _rules_of_examples_end_with_them(request):
    """Doctest clears an example's variables, so that its rules would no longer know `torch`."""
    if not isinstance(request.node, pytest.DoctestItem):
        yield
        return
    with patch.dict(RULES), patch.dict(COMPOSED), patch.dict(CONSTANT):
        yield


@pytest.fixture(autouse=True)
def _examples_write_to_a_folder_of_their_own(request, monkeypatch):
    """An example that draws to "graph.svg", as a reader would, leaves nothing in the repository."""
    if isinstance(request.node, pytest.DoctestItem):
        monkeypatch.chdir(request.getfixturevalue("tmp_path"))


@pytest.fixture
def ctrl_c():
    """Have Ctrl-C interrupt a test where it would not: in jobs that a shell runs behind others."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
