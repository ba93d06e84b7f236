"""What a classifier got right, counted in four ways.

Outputs have one row per sample and one column per class, and the largest is the answer. Targets are
class indices, or rows that are largest at the class. The definitions are scikit-learn's; where it
warns that a score is not defined, the score is 0 here as well.
"""

from __future__ import annotations

import torch

from tinygrad_ee559.tensor import Tensor


def predicted(outputs: Tensor | torch.Tensor) -> torch.Tensor:
    """The class of the largest output of each row; of equal ones, the first.

    Args:
        outputs: `[n, classes]`.

    Returns:
        int64, `[n]`.

    Raises:
        ValueError: `outputs` has another shape, or no rows.

    >>> predicted(Tensor([[0.9, 0.1], [0.4, 0.6]]))
    tensor([0, 1])
    """
    if outputs.ndim != 2 or len(outputs) == 0:
        raise ValueError(
            f"expected outputs of shape [n, classes], at least one row, got {list(outputs.shape)}"
        )
    return _raw(outputs).argmax(1)


def correct(outputs: Tensor | torch.Tensor, targets: Tensor | torch.Tensor) -> torch.Tensor:
    """Whether the largest output of each row is that of the target.

    Args:
        outputs: `[n, classes]`.
        targets: class indices, `[n]`, or rows that are largest at the class, `[n, classes]`.

    Returns:
        Booleans, `[n]`.

    Raises:
        ValueError: the shapes are others, or there are no rows.

    >>> correct(Tensor([[0.9, 0.1], [0.6, 0.4]]), Tensor([0, 1]))
    tensor([ True, False])
    """
    return predicted(outputs) == _labels(outputs, targets)


def accuracy(outputs: Tensor | torch.Tensor, targets: Tensor | torch.Tensor) -> float:
    """The fraction of right answers.

    Args:
        outputs: `[n, classes]`.
        targets: class indices, `[n]`, or rows that are largest at the class, `[n, classes]`.

    Raises:
        ValueError: the shapes are others, or there are no rows.

    >>> accuracy(Tensor([[0.9, 0.1], [0.6, 0.4]]), Tensor([0, 1]))
    0.5
    """
    return correct(outputs, targets).double().mean().item()


def confusion_matrix(
    outputs: Tensor | torch.Tensor, targets: Tensor | torch.Tensor
) -> torch.Tensor:
    """How often each class was taken for each.

    Args:
        outputs: `[n, classes]`.
        targets: class indices, `[n]`, or rows that are largest at the class, `[n, classes]`.

    Returns:
        int64, `[classes, classes]`: true classes in rows, predicted classes in columns.

    Raises:
        ValueError: the shapes are others, there are no rows, or a target is no class.

    >>> confusion_matrix(Tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]), Tensor([0, 1, 1]))
    tensor([[1, 0],
            [1, 1]])
    """
    answers = predicted(outputs)
    labels = _labels(outputs, targets).long()
    classes = outputs.shape[1]
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise ValueError(
            f"{classes} outputs are for classes from 0 to {classes - 1}, and a target is "
            f"{wrong[0].item()}"
        )
    pairs = torch.bincount(labels * classes + answers, minlength=classes**2)
    return pairs.reshape(classes, classes)


def f1_score(
    outputs: Tensor | torch.Tensor,
    targets: Tensor | torch.Tensor,
    average: str = "binary",
) -> float:
    """The harmonic mean of precision and recall, which a rare class cannot hide in.

    Of one class it is 2 TP / (2 TP + FP + FN).

    Args:
        outputs: `[n, classes]`.
        targets: class indices, `[n]`, or rows that are largest at the class, `[n, classes]`.
        average: `"binary"`, that of class 1 of two; `"macro"`, the mean over all classes that are
            among the targets or the answers.

    Returns:
        From 0 to 1; 0 for `"binary"` if class 1 is neither among the targets nor the answers.

    Raises:
        ValueError: the shapes are others, there are no rows, a target is no class, `"binary"` is
            asked of other than two classes, or `average` is something else.

    >>> outputs, targets = Tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]), Tensor([0, 1, 1])
    >>> f1_score(outputs, targets), f1_score(outputs, targets, average="macro")
    (0.666..., 0.666...)
    """
    if average not in ("binary", "macro"):
        raise ValueError(f'average is "binary" or "macro", got {average!r}')
    counts = confusion_matrix(outputs, targets).double()
    if average == "binary" and len(counts) != 2:
        raise ValueError(
            f'average="binary" is for two classes, and there are {len(counts)}; "macro" is for any'
        )
    occurrences = counts.sum(0) + counts.sum(1)
    scores = 2 * counts.diagonal() / occurrences
    score = scores[1].nan_to_num() if average == "binary" else scores[occurrences > 0].mean()
    return score.item()


def _labels(outputs: Tensor | torch.Tensor, targets: Tensor | torch.Tensor) -> torch.Tensor:
    """The class indices that targets of either form stand for."""
    if targets.shape not in (outputs.shape[:1], outputs.shape):
        raise ValueError(
            f"outputs of shape {list(outputs.shape)} need targets of shape "
            f"{list(outputs.shape[:1])} or {list(outputs.shape)}, got {list(targets.shape)}"
        )
    labels = _raw(targets)
    return labels.argmax(1) if labels.ndim == 2 else labels


def _raw(values: Tensor | torch.Tensor) -> torch.Tensor:
    return values.as_torch() if isinstance(values, Tensor) else values
