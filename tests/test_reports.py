"""The five reports, in their small versions: what they write, and that nothing gets lost."""

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from matplotlib.image import imread
from mnist_files import MNIST, needs_mnist

from tinygrad_ee559.__main__ import main
from tinygrad_ee559.data import RING

ROOT = Path(__file__).parent.parent
EXAMPLES, PAGES = ROOT / "examples", ROOT / "docs" / "reports"
sys.path.insert(0, str(EXAMPLES))  # as the command does it
from reports import batch_size, initialization, loss_functions, momentum, readability  # noqa: E402
from reports.base.table import Number, mean_of  # noqa: E402

FIGURES = {
    1: {"data", "rates-ReLU", "rates-Tanh", "batches-ReLU", "batches-Tanh"},
    2: set(),
    3: {"data", "regions"},
    4: {"curves"},
    5: {"classes", "framework"},
}


def report(number, out, *options):
    arguments = ["reports", str(number), "--quick", "--out", str(out), *options]
    return main([*arguments, "--data", str(MNIST)])


def tables(folder, name="results"):
    return {t["title"]: t["rows"] for t in json.loads((folder / f"{name}.json").read_text())}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of a report, which is run when it is first asked for."""
    folders = {}

    def folder_of(number):
        if number not in folders:
            folders[number] = tmp_path_factory.mktemp(f"report{number}")
            assert report(number, folders[number]) == 0
        return folders[number]

    return folder_of


def test_they_are_listed(capsys):
    assert main(["reports"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2", "3", "4", "5"]
    for wrong in (["6"], ["--quick"], ["--resume"], ["two"]):
        with pytest.raises(SystemExit):
            main(["reports", *wrong])


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(1, marks=pytest.mark.no_cover),  # Inductor runs
        2,
        pytest.param(3, marks=needs_mnist),
        4,
        5,
    ],
)
def test_tables_and_figures(number, written):
    folder = written(number)
    drawn = {path.stem for path in folder.iterdir() if path.suffix in (".png", ".svg")}
    assert drawn == FIGURES[number]
    for name in drawn:
        pixels = imread(folder / f"{name}.png")
        assert pixels.std() > 0.03, f"{name}.png is empty"
        assert (folder / f"{name}.svg").read_text().rstrip().endswith("</svg>")
    text = (folder / "results.md").read_text()
    for title, rows in tables(folder).items():
        assert f"**{title}**" in text and rows


BESIDE_PYTORCH = [2, pytest.param(3, marks=needs_mnist), 4, 5]


@pytest.mark.parametrize("number", BESIDE_PYTORCH)
def test_here_and_in_pytorch_the_numbers_are_equal(number, written):
    rows = [r for t in tables(written(number)).values() for r in t if "PyTorch here" in r]
    assert rows and all(row["here"] == row["PyTorch here"] for row in rows)


@pytest.mark.parametrize("number, count", [(2, 12), pytest.param(3, 3, marks=needs_mnist), (4, 6)])
def test_here_and_in_pytorch_the_parameters_are_equal(number, count, written):
    rows = tables(written(number))["The parameters after the last epoch, here and in PyTorch"]
    assert [row["equal to the last bit"] for row in rows] == ["2 of 2 runs"] * count


@pytest.mark.parametrize("number", BESIDE_PYTORCH)
def test_the_pages_have_the_tables_that_the_code_makes(number, written):
    def stated(folder):
        return {
            title: [{key: row[key] for key in ("", "report") if key in row} for row in rows]
            for title, rows in tables(folder).items()
            if "training images" not in title
        }

    assert stated(PAGES / str(number)) == stated(written(number))


def test_what_is_repeated_is_what_the_issue_says():
    """The numbers of the published experiments, written out once more."""
    def of(setup):
        return setup.lr, setup.momentum, setup.batch_size, setup.epochs

    assert batch_size.RATES == (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
    assert batch_size.BATCH_SIZES == (1, 5, 10, 20, 50, 100, 200)
    assert (batch_size.SETUP.epochs, batch_size.SETUP.region) == (500, RING)
    assert of(initialization.SETUP) == (0.15, 0, 100, 250)
    assert of(loss_functions.SETUP) == (0.03, 0, 100, 2000)
    assert of(loss_functions.DIGITS) == (0.02, 0, 100, 100)
    assert of(readability.RELU) == (0.05, 0, 100, 250)
    assert of(momentum.SETUP)[1:] == (0.9, 100, 100)
    modules = (batch_size, initialization, loss_functions, readability, momentum)
    assert [module.RUNS for module in modules] == [10] * 5
    assert initialization.THEIRS["ReLU", "xavier"][1] == Number(5.03, 1.41)


def test_every_model_of_the_sweep_has_a_seed_of_its_own():
    kinds = itertools.product(
        batch_size.ACTIVATIONS, batch_size.BATCH_SIZES, batch_size.TRIED, range(batch_size.RUNS)
    )
    seeds = [batch_size.seed_of(*kind) for kind in kinds]
    assert len(set(seeds)) == len(seeds) == 840


def test_means_and_standard_deviations():
    assert mean_of([0.1, 0.2, 0.3], 100) == Number(pytest.approx(20), pytest.approx(10))
    assert str(Number(1.2345, 0.5, digits=3)) == "1.234 ± 0.500"  # 1.2345 is less than it looks


def test_parameters_are_reset(written):
    last = tables(written(5))["Reset and trained again"][-1]
    assert last == {"": "equal to the last bit", "first": "", "again": "yes"}


@pytest.mark.no_cover
def test_the_ensemble_agrees_with_pytorch(written):
    rows = tables(written(1))["The first run in PyTorch, as far as it was made: test loss"]
    assert len(rows) == 4
    for row in rows:
        assert row["here"] == pytest.approx(row["PyTorch here"], rel=1e-4)


@pytest.mark.parametrize("number", [pytest.param(1, marks=pytest.mark.no_cover), 5])
def test_two_runs_give_the_same_tables_and_pictures(number, written, tmp_path):
    assert report(number, tmp_path) == 0
    figures = [f"{name}.{suffix}" for name in FIGURES[number] for suffix in ("png", "svg")]
    for name in ("results.md", "results.json", *figures):
        assert (tmp_path / name).read_bytes() == (written(number) / name).read_bytes(), name


def test_a_run_that_is_resumed_does_what_is_left_only(written, tmp_path, capsys):
    assert report(5, tmp_path) == 0
    work = tmp_path / "work"
    (gone, *kept) = sorted(work.iterdir())
    times = [path.stat().st_mtime_ns for path in kept]
    gone.unlink()
    (tmp_path / "results.json").unlink()
    assert report(5, tmp_path, "--resume") == 0
    assert [path.stat().st_mtime_ns for path in kept] == times and gone.exists()
    assert (tmp_path / "results.json").read_bytes() == (written(5) / "results.json").read_bytes()
    capsys.readouterr()
    assert report(5, tmp_path) == 0  # without --resume, all is done again
    assert all(path.stat().st_mtime_ns not in times for path in work.iterdir())


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied"])
def test_damaged_work_is_one_sentence(damage, written, tmp_path, capsys):
    assert report(5, tmp_path) == 0
    path = sorted((tmp_path / "work").iterdir())[2]
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-5] ^= 1
    path.write_bytes(content[: {"truncated": len(content) // 2, "emptied": 0}.get(damage)])
    capsys.readouterr()
    assert report(5, tmp_path, "--resume") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tinygrad_ee559: {path} ") and "delete the file" in line


def test_a_quick_run_is_not_resumed_by_a_full_one(tmp_path, written, capsys):
    shutil.copytree(written(5) / "work", tmp_path / "work")
    assert main(["reports", "5", "--resume", "--out", str(tmp_path)]) == 1
    assert "belongs to another run, Momentum, quick" in capsys.readouterr().err


def test_an_out_that_is_a_file_is_one_sentence(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert report(5, tmp_path / "file") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "file") in line


def test_work_of_another_run_is_one_sentence(tmp_path, capsys):
    assert report(4, tmp_path) == 0
    for path in (tmp_path / "work").iterdir():
        path.rename(path.with_name(path.name.replace("ReLU", "xavier")))
    capsys.readouterr()
    assert report(5, tmp_path, "--resume") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "belongs to another run" in line and "without --resume" in line


# Imports once; every child then begins with the report itself.
_CHILDREN = """
import os, random, signal, sys, time
from tinygrad_ee559.__main__ import main

out, seed, longest = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
generator = random.Random(seed)
sys.path.insert(0, sys.argv[4])
import reports
from tinygrad_ee559 import resuming

resuming._SECONDS_BETWEEN = -1.0  # so that a training is met half done
killed = 0
while True:
    child = os.fork()
    if child == 0:
        os._exit(main(["reports", "5", "--quick", "--resume", "--out", out]))
    if killed < 20:
        time.sleep(generator.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        killed += 1
    elif os.WEXITSTATUS(status) != 0 or killed >= 20:
        sys.exit(os.WEXITSTATUS(status))
    else:  # done before it was killed: once more, from nothing
        for name in os.listdir(out + "/work"):
            os.unlink(out + "/work/" + name)
"""


def test_killed_at_twenty_random_moments_it_ends_in_the_same_table(written, tmp_path):
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    process = subprocess.run(
        [sys.executable, "-c", _CHILDREN, str(tmp_path), str(seed), "0.6", str(EXAMPLES)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    for name in ("results.md", "results.json", "classes.svg"):
        assert (tmp_path / name).read_bytes() == (written(5) / name).read_bytes(), name
    assert not list(tmp_path.rglob("*.training"))


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_keeps_what_is_done(tmp_path, written):
    command = [sys.executable, "-m", "tinygrad_ee559", "reports", "5", "--quick", "--out", tmp_path]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("work/*.done")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    # Python ends itself by the signal where the interrupt came inside of an exec.
    assert process.returncode in (130, -signal.SIGINT)
    assert error == "tinygrad_ee559: interrupted; --resume goes on from here\n"
    assert report(5, tmp_path, "--resume") == 0
    assert (tmp_path / "results.json").read_bytes() == (written(5) / "results.json").read_bytes()
