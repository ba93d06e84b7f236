"""Metrics against scikit-learn's."""

import pytest
import torch
from sklearn import metrics as sklearn

from tinygrad_ee559 import Tensor
from tinygrad_ee559.metrics import accuracy, confusion_matrix, correct, f1_score, predicted


def answers(count, classes, seed, among=None):
    """Outputs, and true classes; both of the first classes alone if `among` says so."""
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(count, classes, generator=generator)
    if among is not None:
        outputs[:, among:] -= 100
    labels = torch.randint(among or classes, (count,), generator=generator)
    return outputs, labels


CASES = {
    "two classes": (200, 2),
    "ten classes": (300, 10),
    "some classes missing": (50, 8, 0, 5),
    "a single class": (20, 2, 0, 1),
    "one sample": (1, 3),
}


@pytest.fixture(params=CASES)
def case(request):
    count, classes, *others = CASES[request.param]
    return answers(count, classes, *(others or [0]))


def test_accuracy_is_scikit_learns(case):
    outputs, labels = case
    expected = sklearn.accuracy_score(labels, outputs.argmax(1))
    assert accuracy(outputs, labels) == pytest.approx(expected, rel=1e-15)
    assert type(accuracy(outputs, labels)) is float


def test_confusion_matrix_is_scikit_learns(case):
    outputs, labels = case
    expected = sklearn.confusion_matrix(labels, outputs.argmax(1), labels=range(outputs.shape[1]))
    result = confusion_matrix(outputs, labels)
    assert result.dtype == torch.int64 and result.tolist() == expected.tolist()


@pytest.mark.filterwarnings("ignore:F-score is ill-defined")
@pytest.mark.parametrize("average", ["binary", "macro"])
def test_f1_score_is_scikit_learns(case, average):
    outputs, labels = case
    if average == "binary" and outputs.shape[1] != 2:
        with pytest.raises(ValueError, match='"binary" is for two classes, and there are [38]|10'):
            f1_score(outputs, labels)
        return
    expected = sklearn.f1_score(labels, outputs.argmax(1), average=average)
    assert f1_score(outputs, labels, average) == pytest.approx(expected, rel=1e-14)
    assert type(f1_score(outputs, labels, average)) is float


@pytest.mark.filterwarnings("ignore:F-score is ill-defined")
@pytest.mark.parametrize(
    "answer, truth", [([0, 0, 0], [0, 1, 0]), ([1, 0, 0], [0, 0, 0]), ([0, 0], [0, 0])]
)
@pytest.mark.parametrize("average", ["binary", "macro"])
def test_f1_score_without_positives(answer, truth, average):
    outputs = torch.nn.functional.one_hot(torch.tensor(answer), 2).float()
    expected = sklearn.f1_score(truth, answer, average=average)
    assert f1_score(outputs, torch.tensor(truth), average) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("metric", [accuracy, confusion_matrix, correct, f1_score])
def test_both_kinds_of_tensors_and_of_targets(metric):
    outputs, labels = answers(40, 2, seed=1)
    rows = torch.nn.functional.one_hot(labels, 2).float()
    expected = torch.as_tensor(metric(outputs, labels))
    for targets in (labels, labels.to(torch.uint8), labels.float(), rows, rows * 2 - 1):
        watched = outputs.clone().requires_grad_()
        for kind in (outputs, watched, Tensor(outputs), Tensor(outputs, requires_grad=True)):
            for wrap in (Tensor, torch.as_tensor):
                result = torch.as_tensor(metric(kind, wrap(targets)))
                assert torch.equal(result, expected) and not result.requires_grad


def test_many_classes_do_not_fit_in_the_dtype_of_the_targets():
    outputs, labels = answers(2000, 200, seed=2)
    expected = sklearn.confusion_matrix(labels, outputs.argmax(1), labels=range(200))
    assert confusion_matrix(outputs, labels.to(torch.uint8)).tolist() == expected.tolist()


def test_the_first_of_equal_outputs_is_the_answer():
    outputs = Tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 1.0]])
    assert predicted(outputs).tolist() == [0, 1]
    assert predicted(outputs).dtype == torch.int64


@pytest.mark.parametrize("metric", [accuracy, confusion_matrix, correct, f1_score])
@pytest.mark.parametrize(
    "outputs, targets, problem",
    [
        ((0, 2), (0,), r"at least one row, got \[0, 2\]"),
        ((3,), (3,), r"shape \[n, classes\], .* got \[3\]"),
        ((3, 2, 2), (3, 2), r"shape \[n, classes\], .* got \[3, 2, 2\]"),
        ((3, 2), (1,), r"need targets of shape \[3\] or \[3, 2\], got \[1\]"),
        ((3, 2), (3, 1), r"need targets of shape \[3\] or \[3, 2\], got \[3, 1\]"),
        ((3, 2), (), r"need targets of shape \[3\] or \[3, 2\], got \[\]"),
    ],
    ids=str,
)
def test_shapes_that_do_not_fit(metric, outputs, targets, problem):
    with pytest.raises(ValueError, match=problem):
        metric(torch.zeros(outputs), torch.zeros(targets, dtype=torch.int64))


@pytest.mark.parametrize("metric", [confusion_matrix, f1_score])
@pytest.mark.parametrize("wrong", [2, -1])
def test_targets_that_are_no_class_are_named(metric, wrong):
    with pytest.raises(ValueError, match=f"classes from 0 to 1, and a target is {wrong}"):
        metric(torch.zeros(3, 2), torch.tensor([0, wrong, 1]))


def test_an_unknown_average():
    with pytest.raises(ValueError, match="\"binary\" or \"macro\", got 'micro'"):
        f1_score(torch.zeros(3, 2), torch.tensor([0, 1, 1]), average="micro")
