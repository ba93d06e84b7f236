"""A `Tensor` as a value: what it is made of, how it prints, how it mixes with others."""

import copy
import pickle

import numpy as np
import pytest
import torch

import tinygrad_ee559 as tg


def test_a_torch_tensor_is_shared_not_copied():
    data = torch.zeros(3)
    x = tg.Tensor(data)
    data[0] = 5
    assert x.tolist() == [5, 0, 0]


def test_a_torch_tensor_that_requires_gradients_is_shared_without_them():
    data = torch.zeros(3, requires_grad=True)
    x = tg.Tensor(data)
    assert not x.requires_grad and not x.data.requires_grad
    assert x.data.data_ptr() == data.data_ptr()


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        (2.0, torch.float64),
        (2, torch.int64),
        (True, torch.bool),
        ([1.0, 2.0], torch.float32),
        ([[1, 2], [3, 4]], torch.int64),
        (np.array([1.0, 2.0]), torch.float64),
        (np.float32(1.5), torch.float32),
        (torch.tensor([1.0], dtype=torch.float16), torch.float16),
    ],
)
def test_dtypes(given, dtype):
    assert tg.Tensor(given).dtype == dtype


def test_a_number_with_a_dtype_is_a_torch_tensor():
    x = tg.Tensor(2.0, dtype=torch.float32)
    assert isinstance(x.data, torch.Tensor) and x.dtype == torch.float32 and x.shape == ()


def test_properties():
    x = tg.Tensor(torch.arange(6.0).reshape(2, 3))
    assert x.shape == (2, 3) and x.ndim == x.dim() == 2 and x.numel() == 6
    assert x.size() == (2, 3) and x.size(1) == 3
    assert x.device == torch.device("cpu") and x.is_floating_point()
    assert torch.equal(x.T.data, x.data.T) and torch.equal(x.mT.data, x.data.mT)
    assert len(x) == 2 and [row.tolist() for row in x] == [[0, 1, 2], [3, 4, 5]]
    assert 4.0 in x and 7.0 not in x


def test_conversions_to_python_and_numpy():
    x = tg.Tensor([[1.5, 2.5]])
    assert x.tolist() == [[1.5, 2.5]]
    assert np.array_equal(x.numpy(), [[1.5, 2.5]])
    assert np.array_equal(np.asarray(x, dtype=np.float64), [[1.5, 2.5]])
    assert tg.Tensor([2.5]).item() == 2.5 == float(tg.Tensor([2.5]))
    assert int(tg.Tensor(3)) == 3 and [10, 20][tg.Tensor(1)] == 20
    assert f"{tg.Tensor(1.23456):.2f}" == "1.23"


def test_numpys_names_for_options():
    x = tg.Tensor(torch.arange(6.0).reshape(2, 3), requires_grad=True)
    y = x.sum(axis=1, keepdims=True)
    assert y.shape == (2, 1)
    (y * y).sum().backward()
    assert x.grad.tolist() == [[6, 6, 6], [24, 24, 24]]


def test_numpy_refuses_what_requires_gradients():
    x = tg.Tensor([1.0], requires_grad=True)
    with pytest.raises(tg.errors.NotDifferentiableError, match=r"detach\(\)\.numpy"):
        x.numpy()


def test_repr_is_that_of_torch():
    assert repr(tg.Tensor([1.0, 2.0])) == "Tensor([1., 2.])"
    assert repr(tg.Tensor(-4.0)) == "Tensor(-4.0)"
    x = tg.Tensor([1.0], requires_grad=True)
    assert repr(x) == "Tensor([1.], requires_grad=True)"
    assert repr(x.exp()) == "Tensor([2.7183], grad_fn=torch.exp)"


def test_length_and_iteration_need_dimensions():
    with pytest.raises(TypeError, match="no length"):
        len(tg.Tensor(1.0))
    with pytest.raises(TypeError, match="iterated"):
        iter(tg.Tensor(1.0))


def test_lists_of_tensors_are_refused_with_a_hint():
    with pytest.raises(TypeError, match=r"torch\.stack"):
        tg.Tensor([tg.Tensor(1.0), tg.Tensor(2.0)])


OPERATORS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "**": lambda a, b: a**b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
LEFT = torch.tensor([1.5, 2.0, 4.0])
OTHERS = {
    "tensor": torch.tensor([2.0, 2.0, 3.0]),
    "number": 2.0,
    "whole number": 3,
    "numpy": np.array([2.0, 2.0, 3.0], dtype=np.float32),
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("raw", [False, True], ids=["Tensor", "raw"])
def test_operators_on_either_side(name, kind, raw):
    operator, other = OPERATORS[name], OTHERS[kind]
    plain = torch.from_numpy(other) if kind == "numpy" else other
    x = tg.Tensor(LEFT)
    wrapped = other if raw else tg.Tensor(other)
    for got, expected in (
        (operator(x, wrapped), operator(LEFT, plain)),
        (operator(wrapped, x), operator(plain, LEFT)),
    ):
        assert isinstance(got, tg.Tensor)
        torch.testing.assert_close(got.data, expected)


def test_matmul_and_unary_operators():
    a, b = torch.rand(2, 3), torch.rand(3, 2)
    assert torch.equal((tg.Tensor(a) @ b).data, a @ b)
    assert torch.equal((a @ tg.Tensor(b)).data, a @ b)
    assert torch.equal((-tg.Tensor(a)).data, -a) and torch.equal(abs(tg.Tensor(-a)).data, a)
    mask = a > 0.5
    assert torch.equal((~tg.Tensor(mask)).data, ~mask)
    assert torch.equal((tg.Tensor(mask) & (a > 0.7)).data, mask & (a > 0.7))


def test_torch_functions_and_methods_are_the_same():
    x = tg.Tensor([0.5, 1.0], requires_grad=True)
    for y in (torch.tanh(x), x.tanh(), torch.nn.functional.tanh(x)):
        assert y.grad_fn.rule.name == "torch.tanh"


def test_deepcopy_of_a_leaf():
    x = tg.Tensor([1.0, 2.0], requires_grad=True)
    (x * x).sum().backward()
    y = copy.deepcopy(x)
    assert y.requires_grad and y.tolist() == [1, 2] and y.grad.tolist() == [2, 4]
    y.data[0] = 7
    assert x.tolist() == [1, 2]
    with pytest.raises(tg.errors.NotDifferentiableError, match=r"detach\(\)\.clone"):
        copy.deepcopy(x * x)


@pytest.mark.parametrize("library", [tg, torch], ids=["ours", "torch's"])
def test_a_copy_shares_the_value_and_not_the_gradient(library):
    make = library.Tensor if library is tg else torch.tensor
    x = make([1.0, 2.0], requires_grad=True)
    (x * x).sum().backward()
    y = copy.copy(x)
    assert y.requires_grad and y.grad is None
    y.requires_grad_(False)
    (x * x).sum().backward()
    assert x.requires_grad and x.grad.tolist() == [4, 8] and y.grad is None
    y.data[0] = 7
    assert x.tolist() == [7, 2]


def test_copies_of_computed_tensors_buffers_and_views():
    x = tg.Tensor([1.0, 2.0], requires_grad=True)
    copy.copy(x * x).sum().backward()
    assert x.grad.tolist() == [2, 4]
    buffer = copy.copy(tg.nn.Buffer(torch.ones(2), persistent=False))
    assert type(buffer) is tg.nn.Buffer and not buffer.persistent
    assert copy.copy(tg.Tensor([1.0, 2.0])[:1]).tolist() == [1]


class Named(tg.Tensor):
    def __init__(self, data, label, **options):
        super().__init__(data, **options)
        self.label = label


class Slotted(tg.Tensor):
    __slots__ = ("label",)

    def __init__(self, data, label, **options):
        super().__init__(data, **options)
        self.label = label


class Described:
    pass


class Mixed(Named, Described):
    pass


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("kind", [Named, Slotted, Mixed])
def test_copies_of_subclasses_have_their_fields(kind, copied):
    label = ["a"]
    original = kind([1.0, 2.0], label, requires_grad=True)
    x = copied(original)
    assert type(x) is kind and x.requires_grad and x.label == ["a"]
    assert (x.label is label) == (copied is copy.copy)
    (x * x).sum().backward()
    assert x.grad.tolist() == [2, 4] and original.grad is None


class Pickled(tg.Tensor):
    def __getstate__(self):
        return {"words": "of its own"}


def test_copies_of_a_subclass_that_says_how_it_is_pickled():
    x = Pickled([1.0])
    x.label = "a"
    assert copy.copy(x).label == copy.deepcopy(x).label == "a"


def test_copies_of_tensors_that_lead_to_each_other():
    x, y = Named([1.0], "x"), Named([2.0], "y")
    x.other, y.other = y, x
    copied = copy.deepcopy(x)
    assert copied.other.other is copied and copied.other is not y


def test_unpickled_tensors_are_new():
    """Whatever the process had made that pickled them: nodes are numbered downwards."""
    x = tg.Tensor([1.0], requires_grad=True)
    x.node.order = -(10**15)
    assert pickle.loads(pickle.dumps(x)).node.order > -(10**15)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_of_views_have_memory_of_their_own(copied):
    x = tg.Tensor([1.0, 2.0, 3.0])
    y = copied(x[:2])
    y.add_(1)
    assert y.tolist() == [2, 3] and x.tolist() == [1, 2, 3]
    assert type(y) is tg.Tensor


def test_in_place_changes_outside_recording():
    x = tg.Tensor([1.0, 2.0])
    same = x
    x += 1
    x.mul_(2)
    x[0] = 9
    assert same is x and x.tolist() == [9, 6]
    w = tg.Tensor([1.0, 2.0], requires_grad=True)
    with tg.no_grad():
        w -= 0.5
    assert w.tolist() == [0.5, 1.5] and w.requires_grad and w.is_leaf
    n = tg.Tensor(1.0, requires_grad=True)
    with tg.no_grad():
        n -= 0.25
    assert n.item() == 0.75 and n.requires_grad


def test_augmented_assignment_of_a_computed_tensor_is_recorded():
    x = tg.Tensor([1.0, 2.0], requires_grad=True)
    y = x * 1
    y *= x
    y.sum().backward()
    assert x.grad.tolist() == [2, 4]


def test_users_torch_settings_stay_as_they_are(tmp_path):
    import subprocess
    import sys

    script = (
        "import torch; torch.manual_seed(3); before = (torch.get_default_dtype(), "
        "torch.get_num_threads(), torch.is_grad_enabled(), torch.random.get_rng_state().tolist())\n"
        "import tinygrad_ee559\n"
        "assert before == (torch.get_default_dtype(), torch.get_num_threads(), "
        "torch.is_grad_enabled(), torch.random.get_rng_state().tolist())\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)


def test_methods_of_torch_without_a_rule_of_their_own():
    x = tg.Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    for trace in (x.trace, lambda: tg.Tensor.trace(x)):
        x.grad = None
        trace().backward()
        assert torch.equal(x.grad.data, torch.eye(2))
    assert x.H.shape == (2, 2) and x.layout is torch.strided
    for name in ("no_such_thing", "_base"):
        assert not hasattr(x, name) and not hasattr(tg.Tensor, name)


def test_attributes_are_found_the_short_way():
    """Python is five times slower to read `x.node` if a class has one of these."""
    for name in ("__getattr__", "__getattribute__"):
        assert getattr(tg.Tensor, name, None) is getattr(object, name, None)
