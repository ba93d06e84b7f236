"""Functions of shapes, of order and of copies, against torch.autograd."""

import pytest
import torch
import torch.nn.functional as F
from compare import assert_same_gradients
from expressions import check, random, split

import tinygrad_ee559 as tg
from tinygrad_ee559.errors import NotDifferentiableError, OperandError

#: Forms that functions can be called in; x has shape (2, 3, 4), z has (4, 3).
FORMS = split("""
    x.reshape(6, 4) | x.reshape(-1) | x.reshape((2, -1)) | torch.reshape(x, shape=[4, 6])
    x.view(24) | x.view(6, -1) | x.view([2, 12]) | x.view_as(x.reshape(4, 6))
    x.reshape_as(z[:2].expand(4, 2, 3))
    x.flatten() | x.flatten(1) | x.flatten(start_dim=0, end_dim=1) | x.ravel() | z.T.ravel()
    x.unflatten(2, (2, 2)) | torch.unflatten(x, dim=-1, sizes=(2, -1)) | z.T.reshape(-1)
    x[:1].squeeze() | x[:1].squeeze(0) | x[:1].squeeze(dim=(0, 1)) | x.squeeze(1)
    x[:1, :1].squeeze((0, 1))
    x.unsqueeze(0) | x.unsqueeze(-1) | torch.unsqueeze(x, dim=1) | torch.unsqueeze(input=x, dim=-2)
    torch.atleast_1d(z.sum()) | torch.atleast_2d(z[0]) | torch.atleast_3d(z, z[0], x)
    torch.atleast_2d([z, z[1]]) | torch.atleast_3d((z[0], x))
    x.expand(5, 2, 3, 4) | x[:, :1].expand(-1, 3, -1) | x[:1].expand((2, 3, 4)) | z[0].expand_as(z)
    torch.broadcast_to(z[0], (2, 4, 3)) | torch.broadcast_to(z[:, :1], size=(4, 3))
    torch.broadcast_tensors(x[:, :1], z[0, 0], z.T) | torch.broadcast_tensors(z)
    x.transpose(0, 2) | x.transpose(-1, 0) | torch.transpose(x, dim0=0, dim1=1) | z.t() | z[0].t()
    x.swapaxes(0, 1) | torch.swapaxes(x, axis0=0, axis1=2) | x.swapdims(1, 2) | z.T | x.mT
    x.movedim(0, 2) | x.movedim((0, 1), (1, 2)) | x.moveaxis(-1, 0)
    torch.movedim(x, source=0, destination=-1)
    x.permute(2, 0, 1) | x.permute((-1, 0, -2)) | torch.permute(x, dims=(1, 2, 0))
    x.flip(0) | x.flip(0, 2) | x.flip((0, -1)) | torch.flip(x, dims=[1]) | z.fliplr() | z.flipud()
    x.rot90() | x.rot90(3, (1, 2)) | x.rot90(-1, [0, 2]) | torch.rot90(z, k=2, dims=(1, 0))
    x.roll(1) | x.roll(2, 0) | x.roll((1, -2), (0, 2)) | torch.roll(x, shifts=[3], dims=[1])
    x.repeat(2, 1, 3) | x.repeat((2, 1, 1, 2)) | z.repeat(0, 2) | z.sum().repeat(3) | x.tile(2)
    x.tile((2, 1)) | x.tile(1, 2, 1, 2) | torch.tile(x, dims=(3, 1)) | z.tile(())
    z.repeat_interleave(2) | z.repeat_interleave(3, 1)
    z.repeat_interleave(torch.tensor([2, 0, 1]), 1)
    z.repeat_interleave(repeats=torch.tensor([2, 0, 1, 3]), dim=0)
    torch.repeat_interleave(z, repeats=2, dim=-1)
    torch.cat([x, x.flip(0)]) | torch.cat((z, 2 * z, z[:, :0]), 1)
    torch.cat(tensors=[z, z], dim=-1)
    torch.concat([z, z]) | torch.concatenate([z, z.detach()], dim=1)
    torch.cat([z, torch.ones(1, 3)])
    torch.cat([torch.tensor([]), z]) | torch.cat([z[0, :0], z[:, :2]], 1)
    torch.cat([z.float(), z]) | z.select_scatter(2 * z[0], dim=0, index=1)
    torch.slice_scatter(z, src=z[:, 1:] ** 2, dim=1, start=0, end=3, step=2)
    torch.stack([z, z * z]) | torch.stack((z, z, z), -1) | torch.stack(tensors=[z[0], z[1]], dim=1)
    torch.hstack([z[0], z[1]]) | torch.hstack((z, z[:, :1])) | torch.vstack([z, z[0]])
    torch.dstack([z, z]) | torch.column_stack([z, z[:, 0]]) | torch.row_stack((z[0], z))
    torch.block_diag(z, z[0], z[0, 0]) | torch.cartesian_prod(z[0], z[1], z[:, 0])
    torch.cartesian_prod(z[0]) | torch.meshgrid(z[0], z[:, 0], indexing="xy")
    torch.meshgrid([z[0], z[:, 0], z[1, 1]], indexing="ij") | torch.meshgrid(z[0], indexing="xy")
    x.split(2, 1) | x.split([1, 3], dim=-1) | x.split(3, 2)[1] | torch.split(x, 1) | x.split(5)
    x.split_with_sizes([2, 1], 1) | x.chunk(2, 2) | torch.chunk(x, chunks=3, dim=-1)[0] | x.chunk(7)
    x.tensor_split(2, 1) | x.tensor_split((1, 2), -1) | x.tensor_split(sections=3, dim=2)
    torch.tensor_split(x, indices=[1], dim=1) | x.tensor_split(torch.tensor([1, 3]), 2)
    x.unbind() | x.unbind(-1)[2] | torch.unbind(x, dim=1) | tuple(x)
    z.hsplit(3) | z[0].hsplit([1]) | z.vsplit((1, 2)) | x.dsplit(2) | x.hsplit([1, 2])
    x.narrow(1, 1, 2) | x.narrow(-1, -2, 2) | torch.narrow(x, dim=2, start=0, length=0)
    x.narrow(1, torch.tensor(1), 2) | x.narrow(2, 4, 0) | x.select(1, 2) | x.select(-1, -3)
    torch.select(x, dim=0, index=1) | x.diagonal() | x.diagonal(1, 1, 2) | x.diagonal(-1, -1, 0)
    torch.diagonal(x, offset=5) | torch.linalg.diagonal(x, offset=1) | torch.linalg.diagonal(z)
    x.unfold(2, 2, 1) | x.unfold(1, 3, 2) | x.unfold(dimension=-1, size=3, step=1)
    z.diag() | z.diag(-1) | z[0].diag() | torch.diag(z[0], diagonal=2) | z.diagflat()
    z[0].diagflat(-1)
    z.diag_embed() | x.diag_embed(1, 0, 2) | torch.diag_embed(z, offset=-2, dim1=0)
    z.tril() | z.tril(-1) | x.triu(1) | torch.triu(z, diagonal=-2)
    F.pad(x, (1, 2)) | F.pad(x, [0, 1, 2, 0, 1, 1], value=3.0) | F.pad(x, (-1, 2, 0, -1))
    F.pad(x, (1, 2), "reflect") | F.pad(x[None], (3, 1, 2, 2), mode="reflect")
    F.pad(x, (5, 2), "replicate") | F.pad(x[None], (1, 1, 0, 2), mode="replicate")
    F.pad(x, (2, 4), "circular") | F.pad(x[None], pad=(1, 0, 3, 2), mode="circular")
    F.pad(x[None, None], (1, 1, 1, 1, 1, 1), "reflect") | F.pad(x[None], (-1, 1, 0, 2), "circular")
    x.clone() | torch.clone(x, memory_format=torch.contiguous_format) | z.T.contiguous()
    z.contiguous()
    x.to(torch.float64) | x.to("cpu") | x.to("cpu", torch.float64) | x.to(z) | x.to(z, copy=True)
    x.to(tensor=z)
    x.to(dtype=torch.float64, copy=True)
    x.to(torch.float64, memory_format=torch.contiguous_format)
    x.double() | x.type(torch.float64) | x.type_as(z) | x.cpu() | x.new_ones(3) * z | x.detach() * x
""", "|")
#: The same on x without dimensions.
SCALARS = split("""
    x.reshape(1, 1) | x.view(1) | x.flatten() | x.ravel() | x.squeeze() | x.squeeze(0)
    x.unsqueeze(-1) | x.expand(2, 3) | x.expand(()) | x.transpose(0, -1) | x.t() | x.permute(())
    x.movedim(0, 0) | x.flip(()) | x.flip(0) | x.roll(2) | x.repeat(2, 3) | x.repeat(())
    x.tile(2) | x.repeat_interleave(3) | torch.stack([x, x]) | torch.hstack([x, x])
    torch.vstack([x, x]) | torch.dstack([x, x]) | torch.column_stack([x, x])
    torch.block_diag(x, x) | x.clone() | torch.atleast_1d(x) | torch.atleast_2d(x)
    torch.atleast_3d(x, x) | x.diagflat(1) | x.unfold(0, 1, 1)
    torch.broadcast_tensors(x, x.expand(3)) | torch.meshgrid(x, x, indexing='ij') | x.float()
""", "|")
#: The same on x of shape (0, 3), which has no elements.
EMPTY = split("""
    x.reshape(3, 0) | x.view(-1) | x.flatten() | x.sum_to_size(1, 3) | x.expand(2, 0, 3) | x.T
    x.permute(1, 0) | x.flip(0) | x.roll(1, 0) | x.repeat(2, 2) | x.repeat_interleave(2, 0)
    torch.cat([x, x]) | torch.cat([x, torch.ones(2, 3)]) | torch.stack([x, x]) | x.split(2, 1)
    x.chunk(3) | x.unbind(1) | x.narrow(0, 0, 0) | x.select(1, 0) | x.diagonal() | x.tril()
    F.pad(x, (1, 1)) | F.pad(x, (0, 0, 1, 1)) | x.clone() | torch.block_diag(x, x)
    x.tile(2, 1)
""", "|")
#: The same where precision is lost on the way.
CONVERSIONS = split("""
    x.float() | x.half() | x.bfloat16() | x.to(torch.float32) | x.type(torch.float32) * z
    x.type_as(z.float()) | x.to(z.half()) | x.float().double() * z | torch.cat([x, z.float()])
""", "|")


@pytest.mark.parametrize("expression", FORMS)
def test_forms(expression):
    check(expression, random(2, 3, 4, seed=1), random(4, 3, seed=2))


@pytest.mark.parametrize("expression", CONVERSIONS)
def test_conversions(expression):
    check(expression, random(3, 4, seed=1), random(3, 4, seed=2), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("expression", SCALARS)
def test_without_dimensions(expression):
    check(expression, random())


@pytest.mark.parametrize("expression", EMPTY)
def test_without_elements(expression):
    check(expression, random(0, 3))


def test_some_of_several_results():
    """Zeros stand for the gradients of results that nobody used."""
    check("x.split(2, 1)[1].sum() + x.unbind(2)[3].sum() * x.chunk(2)[0].sum()", random(2, 3, 4))
    check("torch.meshgrid(x, z, indexing='xy')[1] * 2", random(3), random(4))


def test_what_is_not_a_floating_point_number_carries_no_gradient():
    x = tg.Tensor([1.5, -2.5], requires_grad=True)
    for converted in (x.int(), x.long(), x.bool(), x.to(torch.int8), x.type(torch.uint8)):
        assert not converted.requires_grad
    assert x.long().tolist() == [1, -2]
    assert not torch.detach(x).requires_grad and x.new_zeros(3).tolist() == [0, 0, 0]


def test_what_needs_no_conversion_is_not_copied():
    x = tg.Tensor([1.5, -2.5], requires_grad=True)
    assert x.to(torch.float32).data.data_ptr() == x.data.data_ptr()
    assert x.to("cpu", copy=True).data.data_ptr() != x.data.data_ptr()
    images = tg.Tensor(torch.ones(1, 2, 3, 3)).to(memory_format=torch.channels_last)
    assert images.data.is_contiguous(memory_format=torch.channels_last)
    number = tg.Tensor(0.1, requires_grad=True)
    assert number.double() is number


def test_type_without_a_dtype_is_the_name_of_the_type():
    assert tg.Tensor([1.0]).type() == "torch.FloatTensor"


def test_half_precision_gradients_have_the_dtype_of_the_operand():
    x = tg.Tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    x.half().sum().backward()
    assert x.grad.dtype is torch.float64


def test_view_of_bytes_as_another_dtype_has_no_gradient():
    x = tg.Tensor([1.0, 2.0], requires_grad=True)
    assert x.detach().view(torch.int32).tolist() == [1065353216, 1073741824]
    with pytest.raises(NotDifferentiableError, match=r"view\(torch.float16\).*to\(torch.float16\)"):
        x.view(torch.float16).sum().backward()


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("x.reshape(5)", r"torch.reshape of float32\[2, 3\], .*: shape '\[5\]' is invalid"),
        ("torch.cat([x, x.T])", r"torch.cat of \[float32\[2, 3\], float32\[3, 2\]\]: Sizes"),
        ("x.split([1, 2], 1)[0] + x.split([1, 1])[5]", "index out of range"),
        ("x.expand(4, 3)", r"Tensor.expand of float32\[2, 3\], .*must match"),
        ("x.view(4)", r"Tensor.view of float32\[2, 3\], .*invalid"),
    ],
)
def test_errors_name_function_and_shapes(expression, message):
    with pytest.raises((OperandError, IndexError), match=message):
        eval(expression, {"torch": torch, "x": tg.Tensor(torch.ones(2, 3), requires_grad=True)})


@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x, lambda x: x.T, lambda x: x[1:], lambda x: x[:, ::2], lambda x: x[:1],
        lambda x: x[:2].expand(3, 2, 4), lambda x: x.flip(0).T[1:], lambda x: x.unfold(1, 3, 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "places", [((2, 2), (1, 2)), ((3,), (0,)), ((2, 3), (1, 1), 3), ((), (), 4), ((0, 2), (1, 1))]
)
def test_memory_read_in_other_ways(layout, places):
    """Of leaves that are laid out in unusual ways, the elements outside of them get nothing."""
    leaf = layout(random(4, 4)).detach().requires_grad_()
    assert_same_gradients(lambda x: torch.as_strided(x, *places), [leaf])


@pytest.mark.parametrize("layout", [lambda x: x, lambda x: x.T, lambda x: x[:, ::2]])
def test_what_is_scattered_into_memory(layout):
    """PyTorch gives the elements that are overwritten a gradient, and some others none."""
    x = tg.Tensor(layout(random(4, 4)), requires_grad=True)
    src = tg.Tensor(random(2, 2, seed=1), requires_grad=True)
    y = torch.as_strided_scatter(x, src, (2, 2), (1, 2), 1)
    expected = torch.as_strided_scatter(x.data, src.data, (2, 2), (1, 2), 1)
    assert torch.equal(y.data, expected)
    (y * y).sum().backward()
    assert torch.equal(x.grad.data, 2 * x.data * (expected == x.data))


def test_views_of_what_has_no_history_yet():
    w = tg.Tensor([2.0, 3.0], requires_grad=True)
    for view in (
        lambda x: x.view_as(w), lambda x: torch.hsplit(x, 1)[0], lambda x: x.as_strided((2,), (1,)),
        lambda x: torch.atleast_1d(x), lambda x: torch.broadcast_tensors(x, w)[0],
        lambda x: x.narrow(0, 0, 2),
    ):  # fmt: skip
        x = tg.Tensor([1.0, 1.0])
        view(x).mul_(w)
        assert tg.grad(x.sum(), w)[0].tolist() == [1, 1]


def test_complex_conversions():
    """A real number becomes the real part of a complex one, and the other way round."""
    z = torch.complex(random(3), random(3, seed=1)).requires_grad_()
    x = random(3).requires_grad_()
    for function in (lambda x: x.cdouble(), lambda x: x.to(torch.complex128) * 1j):
        assert_same_gradients(function, [x])
        assert_same_gradients(function, [z])


def test_shapes_keep_no_values():
    x = tg.Tensor(torch.ones(2, 3), requires_grad=True)
    for y in (x.reshape(6), x.T, torch.cat([x, x]), F.pad(x, (1, 1)), x.repeat(2, 2), x.half()):
        assert y.node.guards == ()
