"""What the tests of compilation share: models with their steps, and a quick stand-in for g++."""

import importlib
from contextlib import contextmanager

import pytest
import torch
from hypothesis import strategies as st
from torch import fx

from tinygrad_ee559 import nn, optim
from tinygrad_ee559.compiling import lowering
from tinygrad_ee559.compiling.executable import Artifact
from tinygrad_ee559.compiling.native import Native


@contextmanager
def threads(count):
    """Inside, torch may use so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def laid_out(matrix, layout):
    """The same matrix, or batch of matrices, otherwise in memory."""
    if layout == "columns":
        return matrix.mT.contiguous().mT
    if layout == "strided":
        return torch.stack([matrix, matrix], -1).flatten(-2)[..., ::2]
    return matrix


#: What `laid_out` knows.
LAYOUTS = st.sampled_from(["rows", "columns", "strided"])


class Training:
    """A model, its optimizer, and the step that a user would write for them."""

    def __init__(self, *layers, loss=None, seed=0, dtype=torch.float32, lr=0.05, **options):
        torch.manual_seed(seed)
        self.model = nn.Sequential(*(layer() for layer in layers or LAYERS)).to(dtype)
        self.optimizer = optim.SGD(self.model.parameters(), lr=lr, **options)
        model, optimizer, criterion = self.model, self.optimizer, loss or nn.MSELoss()

        def step(x, y):
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        self.step = step

    def parameters(self):
        return [p.data for p in self.model.parameters()]

    def momenta(self):
        buffers = self.optimizer.momentum_buffers
        return [buffers[p] for p in self.model.parameters() if p in buffers]

    def gradients(self):
        return [None if p.grad is None else p.grad.data for p in self.model.parameters()]


def accumulating(training):
    """A step that only gathers gradients."""

    def gather(x, y):
        loss = ((training.model(x) - y) ** 2).mean()
        loss.backward()
        return loss

    return gather


#: Most tests use these, and the shapes of `data`, so that the programs of one are those of others.
LAYERS = (lambda: nn.Linear(3, 8), nn.Tanh, lambda: nn.Linear(8, 2))


def data(*lead, batch=5, dtype=torch.float32, seed=1):
    """Inputs and targets of one step, or of many with `lead` dimensions."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*lead, batch, 3, generator=generator, dtype=dtype)
    return x, torch.randn(*lead, batch, 2, generator=generator, dtype=dtype)


def close(ours, theirs, factor=1.0, least=0.0):
    """Equal up to rounding: 1e-5 relative in single precision, 1e-12 in double.

    What is large decides, tensor by tensor: a number that has all but canceled has few good digits.
    A tensor counts as no smaller than `least`.
    """
    for our, their in zip(ours, theirs, strict=True):
        if their is None:
            assert our is None
            continue
        assert (our.shape, our.dtype) == (their.shape, their.dtype)
        tolerance = factor * (1e-12 if their.dtype == torch.float64 else 1e-5)
        scale = max(least, largest([their]))
        torch.testing.assert_close(our, their, rtol=0, atol=tolerance * scale)


def largest(tensors):
    """The largest absolute value in tensors, of which some may be None or empty."""
    return max((t.abs().max().item() for t in tensors if t is not None and t.numel()), default=0.0)


def same_training(one, other, factor=1.0):
    """Parameters, gradients and momenta of one training are those of the other.

    Gradients in which everything cancels, as those behind a normalization, are rounding noise: they
    count as a thousandth of the largest parameter.
    """
    least = 1e-3 * largest(other.parameters())
    close(one.parameters(), other.parameters(), factor)
    close(one.gradients(), other.gradients(), 10 * factor, least)
    close(one.momenta(), other.momenta(), 10 * factor, least)


class Interpreted(Native):
    """Runs a lowered graph operator by operator, where a native program would run C++."""

    def __init__(self, graph, inputs):
        self.graph = graph
        self.examples = [t.clone() for t in inputs]
        self.held = {}

    def hold(self, position):
        example = self._interpret([t.clone() for t in self.examples])[position]
        self.held[position] = torch.empty_like(example)
        return self.held[position]

    def run(self, inputs, starts):
        outputs = self._interpret(inputs)
        for position, memory in self.held.items():
            memory.copy_(outputs[position])
        return [output for i, output in enumerate(outputs) if i not in self.held]

    def _interpret(self, inputs):
        with torch.no_grad():
            return fx.Interpreter(self.graph).run(*inputs)

    def loop(self, inputs, steps, moving, collected, members=None):
        columns = []
        for member in range(members or 1):
            rows = []
            for step in range(steps):
                at = [(step, member) if members else (step,), (member,) if members else ()]
                given = [t[at[0 if i in moving else 1]] for i, t in enumerate(inputs)]
                outputs = self._interpret(given)
                rows.append(outputs[:collected])
            columns.append([*map(torch.stack, zip(*rows)), *outputs[collected:]])
        if not members:
            return columns[0]
        joined = enumerate(zip(*columns))
        return [torch.stack(column, int(i < collected)) for i, column in joined]


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """Programs are not those that the user has on disk; all tests of a session have them in common.

    The libraries that g++ makes are kept by Inductor too, in a folder for temporary files.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture
def interpreted(monkeypatch):
    """Programs are interpreted, without a compiler: for tests of when they run, and on what."""

    def native_program(pure, inputs, lanes=1):
        if not lowering.is_native(pure, lanes):
            return None
        loops = lowering.in_loops if lanes == 1 else lowering.in_loops_over_lanes
        return Interpreted(loops(pure, inputs), inputs)

    def artifact(graph, inputs):
        def run(*inputs):
            with torch.no_grad():
                return graph(*inputs)

        return Artifact(run)

    for room in ("program", "together"):
        module = importlib.import_module(f"tinygrad_ee559.compiling.{room}")
        monkeypatch.setattr(module, "native_program", native_program)
        monkeypatch.setattr(module, "artifact", artifact)
