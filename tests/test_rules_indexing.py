"""Indexing, gathering and scattering, against torch.autograd."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from compare import assert_same_gradients
from expressions import check, random, split

import tinygrad_ee559 as tg
from tinygrad_ee559.errors import ChangedInPlaceError, OperandError

#: What x of shape (3, 4, 5) can be indexed with; some pick elements twice.
INDICES = split("""
    0 | -1 | slice(1, 3) | slice(None, None, 2) | slice(5, 2) | None | ... | () | (1, 2) | (1, 2, 3)
    (0, slice(1, 3)) | (slice(None), -1) | (..., 0) | (None, 1, ..., None) | (slice(0, 2), None, 3)
    (slice(None), slice(1, 4, 2), slice(-2, None)) | (1, ...) | (..., slice(2), slice(3))
    [0, 2, 2] | [-1] | [[0, 1], [1, 2]] | [slice(2), None, [0, 0]] | [] | range(2) | True | False
    (True, 1) | (0, True)
    tensor([0, 2, 2]) | tensor([[0, -1], [1, 1]]) | tensor(1) | (tensor(1), tensor(2))
    tensor([], dtype=torch.long) | tensor([2, 0], dtype=torch.int32)
    (tensor([0, 1, 1]), tensor([3, 2, 2])) | (slice(None), tensor([1, 1, 0]))
    (tensor([0, 1, 1]), slice(None), tensor([4, 2, 2])) | (..., tensor([1, 1]))
    (0, tensor([1, 1]))
    (slice(1, 3), tensor([1, 1]), None, slice(0, 4, 2)) | (None, tensor([0, 0]), ..., 1)
    (tensor([[0], [2]]), tensor([[1, 3, 1]])) | (tensor([0, 0]), 1) | (tensor([0, 0]), [1, 1], 2)
    (1, tensor([0, 0]), tensor([1, 2])) | (tensor([0, 1]), ..., tensor([0, 1])) | ([0, 0], slice(2))
    (tensor([0, 0]), tensor(1), slice(None)) | (slice(None), [0, 3, 3], [1, 1, 1])
    tensor([True, False, True]) | (slice(None), tensor([True, False, True, True]))
    (tensor([0, 0]), tensor([True, False, True, False])) | [True, False, True] | tensor(True)
    torch.arange(12).reshape(3, 4) % 3 == 0 | (..., torch.arange(20).reshape(4, 5) % 7 < 3)
    torch.arange(60).reshape(3, 4, 5) % 2 > 0 | torch.zeros(3, 4, dtype=torch.bool)
    (torch.arange(12).reshape(3, 4) % 3 == 0, 2) | (tensor(False), 1)
    (1, None, tensor([True] * 4))
    np.array([0, 2, 2]) | np.array([True, False, True]) | np.int64(2)
    (np.int64(1), np.array([1, 1]))
    np.array(1) | (slice(None), np.array([[0, 1], [1, 1]]))
""", "|")

#: What the names in the expressions stand for, beside x of shape (3, 4) and z of shape (2, 4).
NAMES = {
    "tensor": torch.tensor,
    "I": torch.tensor([[0, 2, 1, 1], [0, 1, 1, 2]]),
    "UNIQUE": torch.tensor([[0, 2, 1, 1], [2, 1, 0, 2]]),  # in each column
    "PLACES": torch.tensor([[0, 11, 3, -2], [5, 4, 7, 9]]),
    "ROWS": torch.tensor([2, 0, 2]),
    "MASK": torch.tensor([[1, 0, 0, 1], [0, 1, 1, 0], [1, 1, 0, 0]]).bool(),
}
#: Forms that functions can be called in.
FORMS = split("""
    x.gather(1, I) | torch.gather(x, dim=-2, index=I) | torch.gather(input=x, dim=0, index=I % 3)
    x.take_along_dim(I[:1], 1) | torch.take_along_dim(x, indices=I)
    x.take_along_dim(-1 - I, dim=0)
    x.index_select(0, ROWS) | torch.index_select(x, dim=1, index=ROWS)
    x.index_select(-1, ROWS[:0])
    x.scatter(0, I, 2.5) | x.scatter(0, I, z) | torch.scatter(x, dim=0, index=UNIQUE, src=z)
    torch.scatter(x, 0, I, value=1.5) | x.scatter(0, I[:, :2], z[:, :2])
    x.scatter_add(0, I, z) | torch.scatter_add(x, dim=-1, index=I, src=z)
    x.scatter_add(0, I[:1], z[:1])
    x.index_add(0, ROWS[:2], z) | x.index_add(0, ROWS[:2], z, alpha=-2)
    x.index_add(1, ROWS, 2 * x[:, :3])
    torch.index_add(x, dim=0, index=tensor([2, 2]), source=z) | x.index_copy(0, tensor([2, 0]), z)
    torch.index_copy(x, dim=1, index=tensor([3, 0]), source=z[0, :2].expand(3, 2))
    x.index_fill(0, ROWS, 3.0) | x.index_fill(1, ROWS, z[0, 0])
    torch.index_fill(x, dim=0, index=ROWS, value=2)
    x.scatter_reduce(0, I, z, "sum") | x.scatter_reduce(0, I, z, "mean", include_self=False)
    x.scatter_reduce(0, I, z, "amax") | x.scatter_reduce(dim=0, index=I, src=z, reduce="amin")
    x.scatter_reduce(0, I, z, reduce="amax", include_self=False)
    x.scatter_reduce(0, I, z, reduce="mean") | x.scatter_reduce(0, I, z, "prod")
    x.index_reduce(1, ROWS, z.reshape(-1)[:6].reshape(3, 2).repeat(1, 2)[:, :3], "prod")
    x.index_reduce(0, tensor([2, 2]), z, "mean", include_self=False)
    torch.fill(x, 2.0) | torch.fill(x, z[0, 0]) | x[1:].take(tensor([0, 5, 5]))
    x[1:].put(ROWS, z[0, :3])
    x.take(I) | x.take(tensor(5)) | torch.take(x, index=tensor([-1, -1])) | x.put(PLACES, z)
    x.put(I, z, accumulate=True) | torch.put(x, index=tensor([7]), source=z[0, :1])
    x.put(I, z, True)
    x.index_put((ROWS,), z[0]) | x.index_put((ROWS, ROWS), z[0, :3], True)
    x.index_put([x > 0], z[0, 0])
    torch.index_put(x, indices=(tensor([0, 2]),), values=z)
    x.index_put((tensor([2]),), z[:1], accumulate=True)
    x.masked_select(MASK) | x.masked_select(MASK[:1])
    torch.masked_select(z, mask=MASK[:, None, :])
    x.masked_fill(MASK, 2.0) | x.masked_fill(MASK[0], z[0, 0])
    torch.masked_fill(x, mask=MASK, value=-1)
    x[0].masked_fill(MASK, z[1, 1]) | x.masked_fill(x > 0, 0.0) | x.masked_scatter(MASK, z)
    x.masked_scatter(MASK[:1], 2 * x) | torch.masked_scatter(x, mask=MASK, source=z.T)
    F.embedding(I, x) | F.embedding(I, x, padding_idx=1) | F.embedding(I, x, padding_idx=-1)
    F.embedding(input=I, weight=x, padding_idx=0) | F.embedding(ROWS, x) | F.embedding(tensor(2), x)
    x[ROWS, 1:3] * z[1][ROWS, None] | x[x > 0] * x[MASK].sum()
""", "|")
#: The same on x without dimensions.
SCALARS = split("""
    x.gather(0, tensor(0)) | x.index_select(0, tensor([0])) | x.scatter(0, tensor(0), 2 * x)
    x.scatter_add(0, tensor(0), x) | x.index_add(0, tensor([0]), x)
    x.index_copy(0, tensor([0]), x * x)
    x.index_fill(0, tensor([0]), 1.0) | x.take(tensor([0, 0])) | x.put(tensor(0), x * x)
    x.masked_select(tensor(True)) | x.masked_fill(tensor(True), 2.0) | x.masked_fill(MASK, 2.0)
    x.masked_scatter(tensor(True), 2 * x) | x[...] | x[None] | x[()] | x[True] | x[tensor(False)]
    x[None, ..., None] | x.scatter_reduce(0, tensor(0), 2 * x, "mean")
""", "|")
TIES = split("""
    x.scatter_reduce(0, I, z, "amax") | x.scatter_reduce(0, I, z, "amin")
    x.scatter_reduce(1, I, z, "amin")
""", "|")


@pytest.mark.filterwarnings("ignore:index_reduce")
@pytest.mark.parametrize("expression", FORMS)
def test_forms(expression):
    check(expression, random(3, 4, seed=1), random(2, 4, seed=2), names=NAMES)


@pytest.mark.parametrize("expression", SCALARS)
def test_without_dimensions(expression):
    check(expression, random(seed=1), names=NAMES)


@pytest.mark.parametrize("expression", TIES)
def test_ties(expression):
    x = torch.tensor([[1.0, 2.0, 3.0, 1.0], [2.0, 2.0, 3.0, 1.0], [1.0, 3.0, 3.0, 3.0]]).double()
    check(expression, x, x[:2].flip(1), names=NAMES)


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
@pytest.mark.parametrize("index", INDICES)
def test_indices(index):
    check(f"x[{index}]", random(3, 4, 5, seed=1), names={"tensor": torch.tensor, "np": np})


@pytest.mark.parametrize("index", ["[0, 1, 1]", "(slice(1, 3), [0, 0])", "0", "[[0, 2], [1, 1]]"])
def test_our_own_tensors_as_indices(index):
    """They are what torch tensors are, alone and in tuples, in a slice and as masks."""
    inner = index.replace("[[", "tensor([[").replace("]]", "]])")
    if "[[" not in index:
        inner = index.replace("[", "tensor([").replace("]", "])")
    results = []
    for tensor in (torch.tensor, tg.Tensor):
        x = tg.Tensor(random(3, 4, seed=1), requires_grad=True)
        y = x[eval(inner, {"tensor": tensor})]
        (y * y).sum().backward()
        results.append((y.tolist(), x.grad.tolist()))
    assert results[0] == results[1]


def test_our_own_tensors_in_slices_and_as_masks():
    x = tg.Tensor(random(3, 4, seed=1), requires_grad=True)
    first, last = tg.Tensor(1), tg.Tensor(torch.tensor(3))
    assert torch.equal(x[first:last].data, x.data[1:3])
    assert torch.equal(x[x > 0].data, x.data[x.data > 0])
    x[first:last][x[first:last] > 0].sum().backward()
    expected = (x.data > 0).double()
    expected[0] = 0
    assert torch.equal(x.grad.data, expected)


@pytest.mark.parametrize(
    "pick",
    [
        lambda x, i: x[i],
        lambda x, i: x[:, i],
        lambda x, i: x[i, i],
        lambda x, i: x.index_select(0, i),
        lambda x, i: x.take(i),
        lambda x, i: x.index_put((i,), x[0]),
        lambda x, i: F.embedding(i, x),
    ],
)
def test_indices_changed_in_place_are_noticed(pick):
    index = torch.tensor([0, 1, 1])
    y = pick(tg.Tensor(torch.ones(3, 4), requires_grad=True), index)
    index[0] = 2
    with pytest.raises(ChangedInPlaceError, match="changed in place"):
        y.sum().backward()


def test_a_list_changed_in_place_does_no_harm():
    index = [0, 1, 1]
    x = tg.Tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = x[index]
    index[0] = 2
    y.sum().backward()
    assert x.grad.tolist() == [1, 2, 0]


def test_indexing_keeps_no_values():
    x = tg.Tensor(torch.ones(3, 4), requires_grad=True)
    for y in (x[0], x[1:], x[..., None], x[[0, 0]]):
        assert y.node.guards == ()
    for y in (x[torch.tensor([0, 0])], x.gather(0, torch.tensor([[1]])), x.take(torch.tensor([1]))):
        assert all(saved.dtype is torch.int64 for saved, _ in y.node.guards)


def test_a_filling_number_gets_a_gradient():
    value = tg.Tensor(0.5, requires_grad=True)
    mask = torch.tensor([True, False, True])
    (torch.masked_fill(tg.Tensor([1.0, 2.0, 3.0]), mask, value) * 3).sum().backward()
    assert value.grad.item() == 6


def test_products_at_an_index_with_zeros():
    """To the first order; the second derivative is not defined in PyTorch."""
    x = torch.tensor([0.0, 2.0, 3.0, 0.0, 5.0], dtype=torch.float64, requires_grad=True)
    index = torch.tensor([0, 0, 1, 1, 2, 2, 3])
    for zeros in ([], [0], [2, 3], [2, 4, 5], [6]):
        src = torch.arange(1.0, 8.0, dtype=torch.float64)
        src[zeros] = 0
        for include_self in (True, False):
            args = [x, 0, index, src.requires_grad_(), "prod"]
            assert_same_gradients(
                torch.scatter_reduce, args, {"include_self": include_self}, order=1
            )
            src = src.detach()


def test_an_extreme_that_excludes_its_own_element_leaves_it_no_part_of_the_gradient():
    """PyTorch loses half of the gradient here, as it counts the excluded element among the ties."""
    x, src = tg.Tensor([4.0, 4.0], requires_grad=True), tg.Tensor([4.0], requires_grad=True)
    y = x.scatter_reduce(0, torch.tensor([0]), src, "amax", include_self=False)
    y.sum().backward()
    assert x.grad.tolist() == [0, 1] and src.grad.tolist() == [1]


def test_no_index_at_all_into_a_table():
    """PyTorch has no second derivative of it."""
    check("F.embedding(I[:0], x)", random(3, 4), names=NAMES, order=1)


def test_one_hot_is_constant():
    codes = F.one_hot(tg.Tensor([2, 0]), num_classes=3)
    assert codes.tolist() == [[0, 0, 1], [1, 0, 0]] and not codes.requires_grad


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("x[5]", r"Tensor.__getitem__ of float32\[3, 4\], 5: index 5 is out of bounds"),
        ("x[0, 0, 0]", r"Tensor.__getitem__ of float32\[3, 4\], .*too many indices"),
        ("x[torch.tensor([7])]", r"Tensor.__getitem__ of float32\[3, 4\], int64\[1\]: index 7 is"),
        ("x.gather(0, torch.tensor([1]))", r"torch.gather of float32\[3, 4\], 0, int64\[1\]"),
    ],
)
def test_errors_name_function_and_shapes(expression, message):
    with pytest.raises(OperandError, match=message):
        eval(expression, {"torch": torch, "x": tg.Tensor(torch.ones(3, 4), requires_grad=True)})
