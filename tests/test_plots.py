"""Pictures of training: what is drawn, and that the same is the same file."""

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread

from tinygrad_ee559 import Tensor, data, plots
from tinygrad_ee559.history import Epoch, History

REGIONS = {"disk": data.DISK, "ring": data.RING, "centered disk": data.CENTERED_DISK}


def history(epochs=3):
    values = {"train_loss": 0.5, "test_loss": 0.4, "test_accuracy": 0.9, "test_f1_score": 0.8}
    return History(
        Epoch(i, 1.0, {name: value / i for name, value in values.items()} | {"rate": 0.1})
        for i in range(1, epochs + 1)
    )


def boundary(path, region=data.DISK):
    points, labels = region.sample(200, torch.Generator().manual_seed(0))
    plots.decision_boundary(path, region, nearly(region), points, labels)


def nearly(region):
    """A classifier that knows the region, but for the left two fifths of its square."""

    def predict(points):
        left = points.data[:, 0] < region.low + 0.4 * (region.high - region.low)
        one = region.label(points).data * ~left
        return Tensor(torch.stack([1 - one, one], 1).float())

    return predict


PICTURES = {"history": lambda path: history().plot(path), "boundary": boundary}


@pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES)
def test_the_format_is_that_of_the_name_and_the_same_picture_the_same_file(tmp_path, draw):
    for name in ("a.png", "a.svg", "b.png", "b.svg"):
        draw(tmp_path / name)
    for suffix in ("png", "svg"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    svg = (tmp_path / "a.svg").read_text()
    assert ElementTree.fromstring(svg).tag.endswith("svg") and "dc:date" not in svg
    assert imread(tmp_path / "a.png").std() > 0.05
    with pytest.raises(ValueError, match="not supported"):
        draw(tmp_path / "a.docx")


class Shown:
    """The figure that is saved instead of a file."""

    def __init__(self, monkeypatch):
        monkeypatch.setattr(plots, "save", lambda figure, _path: setattr(self, "it", figure))

    def curves(self):
        return {
            axes.get_title(): {
                line.get_label(): np.asarray(line.get_ydata()).tolist() for line in axes.lines
            }
            for axes in self.it.axes
        }


def test_a_history_is_drawn_thing_by_thing(monkeypatch):
    shown = Shown(monkeypatch)
    drawn = history()
    drawn.plot("a.png")
    assert shown.curves() == {
        "Loss": {"train": drawn.train_loss, "test": drawn.test_loss},
        "Accuracy": {"test": drawn.test_accuracy},
        "F1 score": {"test": drawn.test_f1_score},
        "Rate": {"_child0": drawn.rate},  # matplotlib's name of a line that has none
    }
    assert [axes.get_yscale() for axes in shown.it.axes] == ["log", "linear", "linear", "linear"]


def test_losses_that_are_not_positive_have_no_logarithm(monkeypatch):
    shown = Shown(monkeypatch)
    History([Epoch(1, 1.0, {"train_loss": 1.0}), Epoch(2, 1.0, {"train_loss": 0.0})]).plot("a.png")
    assert [axes.get_yscale() for axes in shown.it.axes] == ["linear"]


def test_one_epoch_is_visible_and_none_is_an_error(monkeypatch):
    shown = Shown(monkeypatch)
    history(1).plot("one.png")
    assert {line.get_marker() for axes in shown.it.axes for line in axes.lines} == {"."}
    with pytest.raises(ValueError, match="no epochs"):
        History().plot("none.png")


def test_several_runs_are_a_mean_and_a_band_of_one_standard_deviation():
    runs = np.array([[1.0, 4.0], [2.0, 4.0], [6.0, 4.0]])
    axes = Figure().subplots()
    plots.curves(axes, [1, 2], runs, "runs")
    assert axes.lines[0].get_ydata().tolist() == [3.0, 4.0]
    (band,) = axes.collections
    at_first = band.get_paths()[0].vertices
    at_first = at_first[at_first[:, 0] == 1, 1]
    deviation = math.sqrt((4 + 1 + 9) / 2)
    assert at_first.min() == pytest.approx(3 - deviation)
    assert at_first.max() == pytest.approx(3 + deviation)

    logarithmic = Figure().subplots()
    logarithmic.set_yscale("log")
    plots.curves(logarithmic, [1, 2], [[0.1, 1], [10, 1]], "runs")
    assert logarithmic.collections[0].get_paths()[0].vertices[:, 1].min() == 0.1
    plots.curves(logarithmic, [1, 2], [[1, 1]], "one")
    assert len(logarithmic.collections) == 1


@pytest.mark.parametrize("region", REGIONS.values(), ids=REGIONS)
def test_a_decision_boundary_stands_beside_others(region):
    points, labels = region.sample(500, torch.Generator().manual_seed(0))
    predict = nearly(region)
    first, second = Figure().subplots(1, 2)
    right = plots.decision_on(second, region, predict, points, labels)
    assert not first.has_data()
    assert right == (predict(points).data.argmax(1) == labels.data).double().mean().item() < 1
    assert second.get_xlim() == second.get_ylim() == (region.low, region.high)
    _, names = second.get_legend_handles_labels()
    assert sorted(names) == ["label 0", "label 1", "learned boundary", "true boundary", "wrong"]
    dashed = [line.get_xydata() for line in second.lines if line.is_dashed()]
    assert len(dashed) == len(region.circles)
    for circle, (center, radius) in zip(dashed, region.circles):
        assert np.allclose(np.hypot(*(circle - center).T), radius)


def test_a_picture_of_the_true_labels():
    """The colors are where the labels are, not mirrored or transposed."""
    region = data.Region(-1.0, 1.0, (data.Circle((0.5, -0.25), 0.3),))
    points, labels = region.sample(10)

    def predict(points):
        one = region.label(points).data
        return Tensor(torch.stack([1 - one, one], 1).float())

    axes = Figure().subplots()
    assert plots.decision_on(axes, region, predict, points, labels) == 1
    (image,) = axes.images
    score = image.get_array()
    assert image.origin == "lower" and image.get_extent() == [-1, 1, -1, 1]
    rows, columns = np.nonzero(score > 0)
    center = np.array([columns.mean(), rows.mean()]) / (len(score) - 1) * 2 - 1
    assert center == pytest.approx([0.5, -0.25], abs=0.01)


def test_a_classifier_that_says_always_the_same(tmp_path, recwarn):
    points, labels = data.DISK.sample(50)
    same = lambda points: Tensor([[1.0, 0.0]] * len(points))  # noqa: E731
    plots.decision_boundary(tmp_path / "a.png", data.DISK, same, points, labels)
    assert not [str(w.message) for w in recwarn if re.search("contour", str(w.message))]
