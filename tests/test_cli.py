"""The command line, as a user runs it."""

import re
import subprocess
import sys

import matplotlib
import pytest
import torch
from matplotlib.image import imread
from mnist_files import MNIST, NOBODY, module, needs_mnist

from tinygrad_ee559 import Tensor, data, mnist, plots, saving
from tinygrad_ee559.__main__ import main
from tinygrad_ee559.history import Epoch, History

PACKAGE = [sys.executable, "-m", "tinygrad_ee559"]


def run(*arguments):
    return subprocess.run([*PACKAGE, *map(str, arguments)], capture_output=True, text=True)


def is_drawn(picture, colors):
    """Whether a PNG shows as many colors as something that was really drawn has."""
    return len(torch.from_numpy(imread(picture)).flatten(0, 1).unique(dim=0)) >= colors


# ------------------------------------------------------------------ the main job


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """One run without a terminal, as in continuous integration."""
    out = tmp_path_factory.mktemp("demo") / "new" / "folder"
    process = run("demo", "--out", out, "--seed", 3)
    assert process.returncode == 0, process.stderr
    return process, out


def test_demo_prints_derivatives_beside_those_of_pytorch(demo):
    process, _ = demo
    rows = re.findall(r"│ (\S.*?) +│ +(-?[\d.]+) │ +(-?[\d.]+) │ +(\S+) │", process.stdout)
    assert len(rows) == 7  # y, two derivatives by a, and four by b
    for _, ours, theirs, difference in rows:
        assert float(ours) == pytest.approx(float(theirs), abs=1e-11)
        assert float(difference) < 1e-12


def test_demo_learns_the_disk(demo):
    process, _ = demo
    assert "1500/1500" in process.stdout  # the progress bar, in its last state
    (accuracy,) = re.findall(r"([\d.]+)% of 1,000 test points are right", process.stdout)
    assert float(accuracy) > 96
    # The bundled fontconfig may not know all that a newer system's configuration says.
    assert [x for x in process.stderr.splitlines() if "Fontconfig warning" not in x] == []
    assert "\x1b" not in process.stdout


def test_demo_says_where_the_pictures_are(demo):
    process, out = demo
    names = ["expression.svg", "network.svg", "loss.png", "boundary.png"]
    assert sorted(file.name for file in out.iterdir()) == sorted(names)
    for name in names:
        assert str(out / name) in process.stdout.split()
    for name in names[:2]:
        assert "<svg" in (out / name).read_text()
    for name in names[2:]:
        assert is_drawn(out / name, colors=50)


def test_demo_leaves_the_settings_of_the_process_alone(tmp_path, capsys):
    def settings():
        return (
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(),
            torch.get_rng_state().tolist(),
            dict(matplotlib.rcParams),
        )

    before = settings()
    assert main(["demo", "--epochs", "2", "--out", str(tmp_path)]) == 0
    assert settings() == before


# ------------------------------------------------------------------------ MNIST


@pytest.fixture
def one_thread():
    """On a busy machine, torch's threads wait for each other, most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@needs_mnist
def test_mnist_is_learned_saved_and_its_mistakes_are_drawn(tmp_path, capsys, one_thread):
    arguments = ["--data", MNIST, "--out", tmp_path, "--epochs", 4]
    assert main(["train", "mnist", *map(str, arguments)]) == 0
    output = capsys.readouterr().out
    epochs = re.findall(r"epoch +(\d): .* test accuracy ([\d.]+)%", output)
    assert [number for number, _ in epochs] == ["1", "2", "3", "4"]
    assert float(epochs[-1][1]) > 94
    for name in ("model.safetensors", "wrong.png"):
        assert str(tmp_path / name) in output.split()

    model = mnist.network(seed=5)
    saving.load(tmp_path / "model.safetensors", model)
    images, labels = data.mnist(MNIST, train=False)
    with torch.no_grad():
        answers = model(mnist.inputs_of(images)).data.argmax(1)
    accuracy = (answers == labels.data).double().mean().item()
    assert f"{accuracy:.2%}" == epochs[-1][1] + "%"
    assert is_drawn(tmp_path / "wrong.png", colors=100)


@needs_mnist
def test_a_learning_rate_that_is_too_large_saves_nothing(tmp_path, capsys, one_thread):
    arguments = ["--data", MNIST, "--out", tmp_path, "--lr", 1e6, "--samples", 1000]
    assert main(["train", "mnist", *map(str, arguments)]) == 1
    assert "try a smaller learning rate" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------- mistakes


def test_missing_data_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "MIRRORS", (NOBODY,))
    folder = tmp_path / "data"
    assert main(["train", "mnist", "--data", str(folder), "--out", str(tmp_path / "out")]) == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if not x.startswith("Downloading")]
    assert line.startswith(f"tinygrad_ee559: {folder / 'train-images-idx3-ubyte.gz'} is missing")
    assert not (tmp_path / "out").exists()


def test_a_damaged_file_is_one_sentence(tmp_path):
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"half of it")
    process = run("train", "mnist", "--data", tmp_path)
    assert process.returncode == 1 and process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert "train-images-idx3-ubyte.gz, of 10 bytes, is truncated or altered" in line


def test_a_file_in_the_place_of_the_output_folder(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["demo", "--out", str(tmp_path / "file")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tinygrad_ee559: ") and str(tmp_path / "file") in line


@pytest.mark.parametrize(
    "arguments, problem",
    [
        ([], "required: command"),
        (["fly"], "invalid choice: 'fly'"),
        (["train"], "required: dataset"),
        (["demo", "--epochs", "0"], "--epochs: expected a whole number of at least 1, got '0'"),
        (["demo", "--epochs", "many"], "--epochs: expected a whole number of at least 1"),
        (["demo", "--seed", "-1"], "--seed: expected a whole number from 0"),
        (["train", "mnist", "--data", ".", "--lr", "0"], "--lr: expected a positive number"),
        (["train", "mnist", "--data", ".", "--lr", "nan"], "--lr: expected a positive number"),
        (["train", "mnist", "--data", ".", "--samples", "some"], "--samples: expected a whole"),
        (["train", "mnist", "--data", ".", "--samples", "60001"], "60000 training images"),
    ],
    ids=" ".join,
)
def test_arguments_that_make_no_sense(arguments, problem, capsys):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert problem in capsys.readouterr().err.splitlines()[-1]


def test_interrupted_is_said_without_a_traceback(monkeypatch, capsys):
    def interrupt(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr("tinygrad_ee559.demo.run", interrupt)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == "tinygrad_ee559: interrupted\n"


# -------------------------------------------------------------- what it is made of


def test_the_engine_is_imported_without_what_only_training_needs():
    code = "import sys, tinygrad_ee559; print(*(m.split('.')[0] for m in sys.modules))"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    imported = set(modules.stdout.split())
    assert "torch" in imported
    assert not imported & {"rich", "matplotlib", "pooch", "safetensors", "requests"}


def test_pictures_leave_the_backend_and_the_figures_of_pyplot_alone(tmp_path):
    code = """
import sys
from tinygrad_ee559.history import Epoch, History
values = {"train_loss": 0.5, "test_loss": 0.4, "test_accuracy": 0.9}
History([Epoch(1, 1.0, values), Epoch(2, 1.0, values)]).plot(sys.argv[1])
sys.exit("matplotlib.pyplot" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "loss.png"]).returncode == 0
    assert is_drawn(tmp_path / "loss.png", colors=50)


def test_pictures_of_little(tmp_path):
    """One epoch, and a model without mistakes."""
    History([Epoch(1, 1.0, {"train_loss": 0.5, "test_loss": 0.4})]).plot(tmp_path / "loss.png")
    digits = Tensor(torch.zeros(3, 28, 28)), Tensor([1, 2, 3])
    plots.wrong_digits(tmp_path / "none.png", *digits, digits[1])
    for name in ("loss.png", "none.png"):
        assert is_drawn(tmp_path / name, colors=10)
