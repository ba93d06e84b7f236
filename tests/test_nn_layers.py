"""Layers against those of torch.nn from the same seed: parameters, values, gradients, state."""

import copy

import pytest
import torch
from steps import close, own_cache

import tinygrad_ee559 as tg
from tinygrad_ee559 import Tensor, dispatch, nn, optim
from tinygrad_ee559.errors import OperandError

__all__ = ["own_cache"]

SEED = 7
F64 = torch.float64
IMAGES, SEQUENCES = (3, 4, 9, 8), (3, 4, 11)
ACTIVATIONS = [
    "ReLU", "LeakyReLU", "PReLU", "ELU", "GELU", "SiLU", "Softplus", "Tanh", "Hardtanh", "Sigmoid",
]  # fmt: skip
#: Gradients that PyTorch rounds otherwise, by layer and place: those of the biases of convolutions,
#: which it adds up in another order, those behind a padding that repeats the input, which are sums
#: too, and that of ELU in place, which it computes from the result.
ROUNDED = {("Conv1d", 2), ("Conv2d", 2), ("Conv2d with padding_mode", 0), ("ELU with inplace", 0)}
#: The name of a layer, its arguments, the shape of its input.
LAYERS = [
    ("Linear", (4, 3), {}, (5, 4)),
    ("Identity", (54, "unused"), {"any": 1}, (5, 4)),
    ("Flatten", (), {}, IMAGES),
    ("Flatten", (0, 2), {}, IMAGES),
    *[(name, (), {}, (5, 4)) for name in ACTIVATIONS],
    *[(name, (), {"inplace": True}, (5, 4)) for name in (
        "ReLU", "LeakyReLU", "ELU", "SiLU", "Hardtanh", "Dropout",
    )],
    ("LeakyReLU", (0.2,), {}, (5, 4)),
    ("PReLU", (4, 0.1), {}, IMAGES),
    ("PReLU", (1, 0.1), {}, (5,)),
    ("ELU", (0.5,), {}, (5, 4)),
    ("GELU", ("tanh",), {}, (5, 4)),
    ("Softplus", (2.0, 1.0), {}, (5, 4)),
    ("Hardtanh", (-0.5, 0.25), {}, (5, 4)),
    *[(name, (dim,), {}, IMAGES) for name in ("Softmax", "LogSoftmax") for dim in (1, -1)],
    ("Dropout", (), {}, (50, 4)),
    *[("Dropout", (p,), {}, (50, 4)) for p in (0, 0.2, 1)],
    ("BatchNorm1d", (4,), {}, (5, 4)),
    ("BatchNorm1d", (4,), {}, SEQUENCES),
    ("BatchNorm2d", (4,), {}, IMAGES),
    ("BatchNorm2d", (4, 1e-3, None), {}, IMAGES),
    ("BatchNorm2d", (4, 1e-5, 0.5, False), {}, IMAGES),
    ("BatchNorm2d", (4,), {"track_running_stats": False}, IMAGES),
    ("BatchNorm2d", (4,), {"bias": False}, IMAGES),
    ("LayerNorm", (8,), {}, IMAGES),
    ("LayerNorm", ([9, 8], 1e-3), {}, IMAGES),
    ("LayerNorm", (8,), {"elementwise_affine": False}, IMAGES),
    ("LayerNorm", (8,), {"bias": False}, IMAGES),
    ("Conv1d", (4, 6, 3), {}, SEQUENCES),
    ("Conv1d", (4, 6, 4), {"padding": "same", "dilation": 2}, SEQUENCES),
    ("Conv1d", (4, 6, 3), {}, (4, 11)),
    ("Conv2d", (4, 6, 3), {}, IMAGES),
    ("Conv2d", (4, 6, (3, 2), (2, 1), (1, 0), (1, 2)), {}, IMAGES),
    ("Conv2d", (4, 6, 3), {"groups": 2, "bias": False, "padding": "same"}, IMAGES),
    ("Conv2d", (4, 6, 3), {"padding": "valid", "stride": 2}, IMAGES),
    ("Conv2d", (4, 6, 3), {}, (4, 9, 8)),
    *[
        ("Conv2d", (4, 2, (3, 2)), {"padding": padding, "padding_mode": mode}, IMAGES)
        for padding, mode in ((1, "reflect"), ("same", "replicate"), ((1, 0), "circular"))
    ],
    ("MaxPool1d", (2,), {}, SEQUENCES),
    ("MaxPool1d", (3, 2, 1), {"ceil_mode": True}, SEQUENCES),
    ("MaxPool1d", ((3,), (2,), (1,), (2,), True), {}, (4, 11)),
    ("MaxPool2d", (2,), {}, IMAGES),
    ("MaxPool2d", ((3, 2), 2, (1, 0), (1, 2)), {}, IMAGES),
    ("MaxPool2d", (2,), {"return_indices": True}, IMAGES),
    ("AvgPool1d", (2,), {}, SEQUENCES),
    ("AvgPool1d", (3, 2, 1), {"count_include_pad": False}, SEQUENCES),
    ("AvgPool1d", (3, 2, 1, True), {}, (4, 11)),
    ("AvgPool2d", (2,), {}, IMAGES),
    ("AvgPool2d", ((3, 2), 2, 1, True), {"divisor_override": 5}, IMAGES),
    *[("AdaptiveAvgPool2d", (size,), {}, IMAGES) for size in (1, (3, 2), (None, 4))],
    ("Embedding", (6, 3), {}, "indices"),
    ("Embedding", (6, 3, -2), {}, "indices"),
]  # fmt: skip


def pair(name, args, kwargs, **more):
    """A layer here and in PyTorch, from the same seed; the generator is left in the same state."""
    made = []
    for library in (nn, torch.nn):
        torch.manual_seed(SEED)
        made.append(getattr(library, name)(*args, **kwargs, **more))
        made.append(torch.get_rng_state())
    ours, after, theirs, their_after = made
    assert torch.equal(after, their_after)
    return ours, theirs


def same_state(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype, name
        assert torch.equal(ours[name].data, value), name


def first(output):
    return output[0] if isinstance(output, tuple) else output


def values_and_gradients(layer, x, mode):
    """What a layer gives in both libraries, from the same seed."""
    torch.manual_seed(SEED)
    layer.train(mode)
    wrap = Tensor if isinstance(layer, nn.Module) else torch.Tensor.detach
    x = wrap(x.clone())
    if x.dtype.is_floating_point:
        x.requires_grad_()
        output = layer(x * 1)  # no leaf, as it may be changed in place
    else:
        output = layer(x)
    y = first(output)
    (y * torch.linspace(-1, 1, y.shape.numel(), dtype=F64).reshape(y.shape)).sum().backward()
    raws = [t.data for t in (output if isinstance(output, tuple) else [y])]
    grads = [t.grad for t in (x, *layer.parameters())]
    return [t.detach() for t in raws], [None if g is None else g.data for g in grads]


def places(name, options, i):
    """The names under which a gradient may be in `ROUNDED`."""
    return {(name, i), *((f"{name} with {option}", i) for option in options)}


@pytest.mark.parametrize(
    "name, args, kwargs, shape",
    LAYERS,
    ids=lambda v: str(v).strip("(){}").replace(" ", "") if isinstance(v, (str, tuple, dict)) else v,
)
def test_layer_is_that_of_pytorch(name, args, kwargs, shape):
    ours, theirs = pair(name, args, kwargs)
    same_state(ours, theirs)
    ours.to(F64), theirs.to(F64)
    same_state(ours, theirs)
    assert repr(ours) == repr(theirs)
    torch.manual_seed(SEED)
    x = torch.randint(6, (4, 5)) if shape == "indices" else torch.randn(shape, dtype=F64)
    for mode in (True, False):
        values, grads = values_and_gradients(ours, x, mode)
        expected, expected_grads = values_and_gradients(theirs, x, mode)
        for value, other in zip(values, expected, strict=True):
            assert value.dtype == other.dtype and torch.equal(value, other)
        for i, (grad, other) in enumerate(zip(grads, expected_grads, strict=True)):
            assert (grad is None) == (other is None)
            if grad is not None and not ROUNDED.isdisjoint(places(name, kwargs, i)):
                torch.testing.assert_close(grad, other, rtol=1e-12, atol=1e-13)
            elif grad is not None:
                assert torch.equal(grad, other)
        same_state(ours, theirs)  # running statistics
    for source, target in ((ours, theirs), (theirs, ours)):
        state = {k: torch.full_like(Tensor(v).data, 2) for k, v in source.state_dict().items()}
        source.load_state_dict(state)
        target.load_state_dict({k: Tensor(v).data for k, v in source.state_dict().items()})
        same_state(ours, theirs)
    ours.to(torch.float32)
    torch.manual_seed(SEED)
    ours.reset_parameters()
    same_state(ours, pair(name, args, kwargs)[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [(2, 25), (784, 10), (1, 1), (3, 0), (0, 3)])
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_linear_begins_as_pytorchs(sizes, bias, dtype):
    torch.manual_seed(SEED)
    ours = nn.Linear(*sizes, bias=bias, dtype=dtype)
    after = torch.rand(1)
    torch.manual_seed(SEED)
    theirs = torch.nn.Linear(*sizes, bias=bias, dtype=dtype)
    assert torch.equal(ours.weight.data, theirs.weight)
    assert (ours.bias is None) == (theirs.bias is None)
    assert ours.bias is None or torch.equal(ours.bias.data, theirs.bias)
    assert torch.equal(after, torch.rand(1))  # and the generator is left in the same state
    assert repr(ours) == repr(theirs)


def test_linear_on_a_device():
    assert nn.Linear(2, 2, device="meta").weight.device.type == "meta"


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_take_torch_tensors_tensors_and_numbers(name):
    ours, theirs = (getattr(library, name)().to(F64) for library in (nn, torch.nn))
    x = torch.linspace(-2, 2, 9, dtype=F64)
    expected = theirs(x).detach()
    assert torch.equal(Tensor(ours(x)).data, expected)
    assert torch.equal(ours(Tensor(x)).data, expected)
    number = ours(Tensor(-2.0))
    assert number.item() == pytest.approx(expected[0].item(), rel=1e-15)
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("name, args", [
    *[(name, ()) for name in ACTIVATIONS],
    ("PReLU", (4,)), ("MaxPool1d", (2,)), ("AvgPool1d", (2,)),
])  # fmt: skip
def test_nothing_has_to_be_taken_apart(name, args, monkeypatch):
    """Which takes longer than what is computed, where layers are small."""
    monkeypatch.delattr(dispatch, "taken_apart")
    x = Tensor(torch.ones(2, 4, 6), requires_grad=True)
    getattr(nn, name)(*args)(x).sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("name, args", [
    ("Linear", (2, 3)), ("Conv2d", (2, 4, 3)), ("BatchNorm2d", (3,)), ("LayerNorm", (3,)),
    ("Embedding", (3, 2)), ("PReLU", ()),
])  # fmt: skip
def test_layers_have_a_device_and_a_dtype(name, args):
    assert getattr(nn, name)(*args, device="meta").weight.device.type == "meta"
    ours, theirs = pair(name, args, {}, dtype=F64)
    same_state(ours, theirs)


def test_gradients_that_were_not_wanted_are_not_there():
    """An index that is padding, and the frozen statistics of an evaluated normalization."""
    layer = nn.Embedding(4, 2, padding_idx=1)
    layer(torch.tensor([1, 2, 2])).sum().backward()
    assert layer.weight.grad.tolist() == [[0, 0], [0, 0], [2, 2], [0, 0]]
    norm = nn.BatchNorm1d(2).eval()
    before = copy.deepcopy(norm.state_dict())
    norm(torch.randn(3, 2)).sum().backward()
    assert all(torch.equal(before[k].data, v.data) for k, v in norm.state_dict().items())
    assert not any(b.requires_grad or b.grad for b in norm.buffers())


def test_statistics_may_stop_being_tracked():
    ours, theirs = pair("BatchNorm1d", (4,), {})
    x = torch.randn(5, 4)
    for layer in (ours, theirs):
        layer.track_running_stats = False
    assert torch.equal(ours(x).data, theirs(x).detach())
    same_state(ours, theirs)


@pytest.mark.parametrize("make, error, message", [
    (lambda: nn.Dropout(1.5), ValueError, "between 0 and 1, not 1.5"),
    (lambda: nn.Hardtanh(1, 1), ValueError, "max_val must be larger than min_val, not 1 with 1"),
    (lambda: nn.Embedding(3, 2, 3), ValueError, "one of 3 rows, not 3"),
    (lambda: nn.Embedding(3, 2, -4), ValueError, "one of 3 rows, not -4"),
    (lambda: nn.Conv2d(4, 6, 3, groups=4), ValueError, "4 does not divide 4 and 6"),
    (lambda: nn.Conv2d(4, 6, 3, groups=0), ValueError, "0 does not divide"),
    (lambda: nn.Conv2d(4, 6, (3, 3, 3)), ValueError, "kernel_size must be a number or 2 of them"),
    (lambda: nn.Conv1d(4, 6, 3, stride=(1, 1)), ValueError, "stride must be a number or 1 of"),
    (lambda: nn.Conv1d(4, 6, 3, padding="full"), ValueError, "'same', 'valid', .* not 'full'"),
    (lambda: nn.Conv1d(4, 6, 3, 2, "same"), ValueError, r"stride of 1, not \(2,\)"),
    (lambda: nn.Conv1d(4, 6, 3, padding_mode="edge"), ValueError, "zeros, reflect, .* not 'edge'"),
    (lambda: nn.Conv2d(4, 6, 3)(torch.ones(1, 3, 9, 9)), OperandError, "to have 4 channels"),
    (lambda: nn.Conv2d(4, 6, 3)(torch.ones(9, 9)), OperandError, r"float32\[9, 9\]"),
    (lambda: nn.MaxPool2d(3)(torch.ones(1, 4, 2, 2)), OperandError, "too small"),
    (lambda: nn.AvgPool2d(3)(torch.ones(1, 4, 2, 2)), OperandError, "too small"),
    (lambda: nn.LayerNorm(3)(torch.ones(2, 4)), OperandError, r"normalized_shape=\[3\]"),
    (lambda: nn.BatchNorm2d(4)(torch.ones(2, 3, 2, 2)), ValueError, r"4 channels, .* \[2, 3, 2, 2"),
    (lambda: nn.BatchNorm2d(4)(torch.ones(2, 4)), ValueError, r"of 4 dimensions .* \[2, 4\]"),
    (lambda: nn.BatchNorm1d(4)(torch.ones(4)), ValueError, "of 2 or 3 dimensions"),
    (lambda: nn.BatchNorm1d(4)(torch.ones(1, 4)), ValueError, r"more than one value .*\[1, 4\]"),
    (lambda: nn.Embedding(3, 2)(torch.tensor([3])), IndexError, "out of range"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("mode", [True, False], ids=["trained", "evaluated"])
@pytest.mark.parametrize("name, shape", [("BatchNorm1d", (0, 4)), ("BatchNorm2d", (0, 4, 2, 2))])
def test_a_batch_of_nothing(name, shape, mode):
    ours, theirs = (layer.train(mode) for layer in pair(name, (4,), {}))
    ours(torch.ones(shape)).sum().backward()
    theirs(torch.ones(shape)).sum().backward()
    same_state(ours, theirs)
    assert torch.equal(ours.weight.grad.data, theirs.weight.grad)


def test_one_value_per_channel_is_enough_in_evaluation():
    layer = nn.BatchNorm1d(4).eval()
    assert layer(torch.ones(1, 4)).shape == (1, 4)


def test_a_change_in_place_of_a_leaf_is_refused():
    with pytest.raises(RuntimeError, match="leaf that requires gradients"):
        nn.ReLU(inplace=True)(Tensor([1.0], requires_grad=True))


# ---------------------------------------------------------------- whole networks


def images(library):
    """Images in ten classes."""
    return library.Sequential(
        library.Conv2d(1, 4, 3, padding=1, bias=False),
        library.BatchNorm2d(4),
        library.ReLU(),
        library.MaxPool2d(2),
        library.Conv2d(4, 6, 3, groups=2, bias=False),
        library.GELU(),
        library.AvgPool2d(2),
        library.Flatten(),
        library.Dropout(0.3),
        library.Linear(6, 10),
        library.BatchNorm1d(10, momentum=None),
        library.LogSoftmax(1),
    )


def dense(library):
    return library.Sequential(
        library.Flatten(),
        library.Linear(64, 20),
        library.BatchNorm1d(20),
        library.LeakyReLU(0.1),
        library.Dropout(0.5),
        library.Linear(20, 20),
        library.LayerNorm(20),
        library.SiLU(),
        library.Dropout(0.2),
        library.Linear(20, 10),
        library.LogSoftmax(1),
    )


def train(library, optimizers, network, dtype, steps):
    torch.manual_seed(SEED)
    model = network(library).to(dtype)
    loss_function = library.NLLLoss()
    optimizer = optimizers.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = torch.randn(60, 1, 8, 8, dtype=dtype), torch.randint(10, (60,))
    losses = []
    for _ in range(steps):
        batch = torch.randint(len(x), (20,))
        optimizer.zero_grad()
        loss = loss_function(model(x[batch]), y[batch])
        loss.backward()
        optimizer.step()
        losses.append(loss.detach().data)
    return model, torch.stack(losses)


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("network", [dense, images])
def test_training_is_pytorchs_in_every_bit(network, dtype):
    ours, losses = train(nn, optim, network, dtype, 30)
    theirs, expected = train(torch.nn, torch.optim, network, dtype, 30)
    assert torch.equal(losses, expected)
    same_state(ours, theirs)
    assert losses[-5:].mean() < losses[:5].mean()
    x = torch.randn(7, 1, 8, 8, dtype=dtype)
    assert torch.equal(ours.eval()(x).data, theirs.eval()(x).detach())


def test_a_network_begins_anew_as_one_that_is_new():
    model, _ = train(nn, optim, images, torch.float32, 3)
    torch.manual_seed(SEED)
    model.reset_parameters()
    torch.manual_seed(SEED)
    same_state(model, images(torch.nn))


def test_a_network_of_layers_can_be_drawn(tmp_path):
    model = images(nn)
    tg.draw(model(torch.ones(2, 1, 8, 8)).sum(), tmp_path / "graph.dot")
    dot = (tmp_path / "graph.dot").read_text()
    for name in ("Conv2d", "BatchNorm2d", "MaxPool2d", "AvgPool2d", "Dropout", "Flatten"):
        assert name in dot, name


@pytest.mark.no_cover
@pytest.mark.usefixtures("own_cache")
def test_a_compiled_step_changes_statistics_in_place():
    """Dropout of nothing, as programs draw other random numbers; its mode is that of the model."""

    def training():
        torch.manual_seed(SEED)
        model = nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.0)
        )
        optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        loss_function = nn.CrossEntropyLoss()

        def step(x, y):
            optimizer.zero_grad()
            loss = loss_function(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        return model, step

    (ours, step), (theirs, eager) = training(), training()
    compiled = tg.compile(step)
    statistics = list(ours.buffers())
    for i in range(6):
        generator = torch.Generator().manual_seed(i)
        x, y = torch.randn(5, 1, 8, 8, generator=generator), torch.tensor([0, 1, 2, 0, 1])
        close([compiled(x, y).data], [eager(x, y).detach().data], 10)
    assert len(compiled.programs) == 1
    assert all(one is other for one, other in zip(ours.buffers(), statistics, strict=True))
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert ours["1.num_batches_tracked"].item() == ours["1.num_batches_tracked"].item() == 6
    close([t.data for t in ours.values()], [t.data for t in theirs.values()], 10, least=0.1)
