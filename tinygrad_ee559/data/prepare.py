"""Inputs and targets in the form that training likes."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tinygrad_ee559.tensor import Tensor


def mean_and_std(inputs: Tensor | torch.Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column, for `normalize` of these inputs and of others.

    As in scikit-learn's StandardScaler, the variance is the mean of the squares (they are divided
    by n, not by n - 1), and where a column never varies its standard deviation is given as 1.

    Args:
        inputs: `[n, ...]`, floating-point; those to learn from, not those to test on.

    Returns:
        Two tensors of the shape of one sample, `[...]`, and the dtype of `inputs`.

    Raises:
        ValueError: there are no samples.

    >>> mean_and_std(Tensor([[0.0, 5.0], [2.0, 5.0], [4.0, 5.0]]))
    (Tensor([2., 5.]), Tensor([1.6330, 1.0000]))
    """
    values = Tensor(inputs).as_torch()
    if len(values) == 0:
        raise ValueError(
            f"mean and standard deviation need at least one sample, got inputs of shape "
            f"{list(values.shape)}"
        )
    std, mean = torch.std_mean(values, 0, correction=0)
    return Tensor(mean), Tensor(std.masked_fill(std == 0, 1))


def normalize(
    inputs: Tensor, mean: float | Tensor | torch.Tensor, std: float | Tensor | torch.Tensor
) -> Tensor:
    """Shift and scale inputs to mean 0 and standard deviation 1, given what they are before.

    Args:
        inputs: `[n, ...]`.
        mean: of all inputs, or one for each column, `[...]`.
        std: likewise.

    Returns:
        A tensor of the shape of `inputs`.

    >>> normalize(Tensor([0.0, 2.0]), mean=1.0, std=2.0)
    Tensor([-0.5000,  0.5000])
    >>> train, test = Tensor([[0.0, 5.0], [2.0, 7.0]]), Tensor([[1.0, 9.0]])
    >>> normalize(test, *mean_and_std(train))
    Tensor([[0., 3.]])
    """
    return (inputs - mean) / std


def one_hot(labels: Tensor | torch.Tensor, num_classes: int) -> Tensor:
    """Rows that are 1 at the label and 0 elsewhere, as targets of a mean squared error.

    Args:
        labels: int64, from 0 to `num_classes` - 1.
        num_classes: the length of a row.

    Returns:
        `[*labels.shape, num_classes]`, of torch's default dtype.

    Raises:
        ValueError: a label is no class.

    >>> one_hot(Tensor([1, 0]), 3)
    Tensor([[0., 1., 0.],
            [1., 0., 0.]])
    """
    values = Tensor(labels).as_torch()
    wrong = values[(values < 0) | (values >= num_classes)]
    if len(wrong):
        raise ValueError(
            f"{num_classes} classes have labels from 0 to {num_classes - 1}, and there is "
            f"{wrong[0].item()} among these"
        )
    return Tensor(F.one_hot(values, num_classes).to(torch.get_default_dtype()))
