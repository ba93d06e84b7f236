"""Programs on disk, and what is said where there is no compiler."""

import os
import re
import shutil
import subprocess
import sys
import textwrap

import pytest
import torch
from steps import Training, close, data, threads

import tinygrad_ee559 as tg
from tinygrad_ee559.compiling import cache, executable, private

SCRIPT = """
    import sys, torch
    import tinygrad_ee559 as tg
    w = tg.Tensor(torch.ones(3), requires_grad=True)
    optimizer = tg.optim.SGD([w], lr=0.25)

    def step(x):
        optimizer.zero_grad()
        ((w * x) ** 2).sum().backward()
        optimizer.step()

    compiled = tg.compile(step)
    for _ in range(5):
        compiled(torch.ones(3))
    print(compiled, *w.tolist(), "torch._inductor.compile_fx" in sys.modules)
"""


def run(home, script=SCRIPT, **environment):
    """What a process prints that knows nothing of what others have compiled."""
    home.mkdir(exist_ok=True)
    unset = {"CXX", "XDG_CACHE_HOME"}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={
            **{name: value for name, value in os.environ.items() if name not in unset},
            "HOME": str(home),
            "TORCHINDUCTOR_CACHE_DIR": str(home / "inductor"),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_second_process_compiles_nothing(tmp_path):
    counting = tmp_path / "counting-g++"
    counting.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nexec g++ "$@"\n')
    counting.chmod(0o755)
    home = tmp_path / "home"
    first = run(home, CXX=str(counting))
    assert first.stdout == f"<compiled step, 1 program> {'0.03125 ' * 3}True\n", first.stderr
    kept = home / ".cache" / "tinygrad_ee559" / "compiled"
    (folder,) = kept.iterdir()
    names = {"program.so", "program.json", "program.cpp"}
    assert {file.name for file in folder.iterdir()} == names
    shutil.rmtree(home / "inductor")
    (tmp_path / "calls").unlink()
    second = run(home, CXX=str(counting))
    assert second.stdout == f"<compiled step, 1 program> {'0.03125 ' * 3}False\n", second.stderr
    assert not (tmp_path / "calls").exists()
    # Nor does it need a compiler.
    assert run(home, CXX="/nonexistent").stdout == second.stdout


@pytest.mark.parametrize("size", [4, 100])
def test_without_a_compiler(tmp_path, size):
    """The first runs are as always; then what is missing is said before anything is done."""
    script = f"""
        import torch
        import tinygrad_ee559 as tg
        compiled = tg.compile(lambda x: (x @ x).sum())
        for _ in range(3):
            print(compiled(torch.ones({size}, {size})).item(), flush=True)
    """
    result = run(tmp_path / "home", script, CXX="/nonexistent")
    assert result.returncode == 1 and result.stdout == f"{size**3}.0\n" * 2
    last = result.stderr.splitlines()[-1]
    assert "CompilerError: compiling takes a C++ compiler" in last
    assert "install g++" in last and "CXX" in last


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the programs of one test are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return cache.directory()


@pytest.fixture
def builds(monkeypatch):
    """A list of the sources that were compiled."""
    found = []
    build = private.build
    monkeypatch.setattr(private, "build", lambda source: found.append(source) or build(source))
    return found


def train():
    """A few steps, compiled, compared with eager ones."""
    ours, theirs = Training(), Training()
    compiled = tg.compile(ours.step)
    for seed in range(5):
        x, y = data(seed=seed)
        close([compiled(x, y).data], [theirs.step(x, y).data])
    assert len(compiled.programs) == 1
    return compiled


def test_equal_programs_are_compiled_once(folder, builds):
    train()
    train()
    assert len(builds) == 1
    (kept,) = folder.iterdir()
    assert (kept / "program.cpp").read_text() == builds[0]


def test_each_kind_of_input_has_its_own(folder, builds):
    def compiled(*arguments):
        fast = tg.compile(lambda x: x * 2 + 1)
        for _ in range(3):
            found = fast(*arguments)
        assert torch.equal(found, arguments[0] * 2 + 1)

    for i, argument in enumerate(
        [torch.ones(3), torch.ones(4), torch.ones(3).double(), torch.ones(3, 4).T, torch.ones(4, 3)]
    ):
        compiled(argument)
        assert len(builds) == i + 1
    compiled(torch.ones(3))
    ensemble = tg.ensemble([lambda x: x * 2 + 1] * 2)
    ensemble.loop(torch.ones(4, 2, 3))
    assert len(builds) == 6


@pytest.mark.parametrize("name", ["program.so", "program.json"])
@pytest.mark.parametrize("damage", ["empty", "garbage", "zeros", "missing"])
def test_damaged_files_are_compiled_again(folder, builds, name, damage):
    train()
    (kept,) = folder.iterdir()
    file = kept / name
    content = file.read_bytes()
    half = len(content) // 2
    damaged = {"empty": b"", "garbage": b"{garbage", "zeros": content[:half] + bytes(half)}
    file.unlink()  # a library that is in use must not change
    if damage != "missing":
        file.write_bytes(damaged[damage])
    train()
    assert len(builds) == 2
    train()
    assert len(builds) == 2  # and it is whole again


@pytest.mark.parametrize("obstacle", ["file", "read-only"])
def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch, builds, obstacle):
    place = tmp_path / "place"
    if obstacle == "file":
        place.write_text("in the way")
    else:
        place.mkdir()
        place.chmod(0o500)
        if os.access(place, os.W_OK):
            pytest.skip("root may write everywhere")
    monkeypatch.setenv("XDG_CACHE_HOME", str(place))
    train()
    train()
    assert len(builds) == 2


def test_names_depend_on_all_that_decides():
    names = {
        cache.key("graph"), cache.key("graph", "looks"), cache.key("graphl", "ooks"), cache.key(),
    }  # fmt: skip
    assert len(names) == 4 and cache.key("graph") in names


def test_names_tell_apart_what_is_compiled_differently(monkeypatch):
    """Shapes, the default dtype, lanes, and threads where products are large."""
    names = []
    monkeypatch.setattr(cache, "key", lambda *parts: names.append(parts) or "none")
    monkeypatch.setattr(executable, "_kernels", lambda *arguments: None)

    def name(size, lanes=1):
        inputs = [torch.rand(size, size)]
        graph = private.traced(lambda x: x @ x, inputs, {})
        assert executable.native_program(graph, inputs, lanes) is None
        return names[-1]

    small, large = name(4), name(70)
    assert name(4) == small
    others = [large, name(4, lanes=16), name(5)]
    with threads(2):
        others.append(name(70))
    monkeypatch.setattr(torch, "get_default_dtype", lambda: torch.float64)
    others.append(name(4))
    assert len({small, *others}) == 6


def test_names_depend_on_torch_and_the_processor(monkeypatch):
    before = cache.key("graph")
    monkeypatch.setattr(torch, "__version__", "99")
    other = cache.key("graph")
    monkeypatch.setattr(cache, "_processor", lambda: "flags: none")
    assert len({before, other, cache.key("graph")}) == 3


def test_where_the_compiler_fails_a_step_is_compiled_the_ordinary_way(monkeypatch, folder):
    """It may run out of memory, say; what comes later is compiled as always."""
    with monkeypatch.context() as patch:
        patch.setattr(executable, "source", lambda kernels, inputs: "this is no C++")
        with pytest.warns(UserWarning, match="the ordinary way.*C\\+\\+ compiler failed: .*error"):
            failing = train()
    assert failing.programs[0].kind == "artifact"
    assert train().programs[0].kind == "native"


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_shown_on_terminals_only(folder, capfd, monkeypatch, terminal):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")  # which rich takes for one
    train()
    out, err = capfd.readouterr()
    assert out == "" and bool(re.search(r"compiling \d+ operators", err)) == terminal
    assert terminal or err == ""


def test_random_numbers_of_python_are_left_alone(tmp_path):
    """None is used up, nor does one come twice in other threads that draw meanwhile."""
    script = """
        import random, sys, torch
        import tinygrad_ee559 as tg
        random.seed(0)
        before = random.getstate()
        random.setstate = None
        compiled = tg.compile(lambda x: (x * 3.75).exp().sum())
        for _ in range(3):
            compiled(torch.ones(3))
        print(compiled.programs[0].kind, "rich.style" in sys.modules, random.getstate() == before)
    """
    result = run(tmp_path / "home", script)
    assert result.stdout == "native True True\n", result.stderr


def test_nothing_is_left_behind_by_who_is_interrupted(folder, monkeypatch, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfile", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cache.store("name", __file__, "", {})
    assert [*cache.directory().iterdir()] == []
