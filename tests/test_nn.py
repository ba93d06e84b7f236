"""Modules and initial values against torch.nn: names, numbers, errors."""

import copy
import itertools
import math

import pytest
import torch

from tinygrad_ee559 import Tensor, from_torch, nn, no_grad
from tinygrad_ee559.errors import GradientDtypeError, ModuleCycleError, StateDictError
from tinygrad_ee559.tape import Leaf

SEED = 7


class Block(nn.Module):
    """Holds parameters and modules in every way that there is."""

    def __init__(self):
        self.first = nn.Linear(2, 3)
        self.scale = nn.Parameter(torch.ones(3))
        self.layers = [nn.Linear(3, 3), (nn.ReLU(), nn.Linear(3, 3))]
        self.heads = {"a": nn.Linear(3, 1), "b": nn.Linear(3, 2)}
        self.offsets = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(1))]
        self.constant = Tensor([1.0], requires_grad=True)  # no Parameter, so not learned
        self.name = "block"

    def forward(self, x):
        for layer in (self.first, self.layers[0], *self.layers[1]):
            x = layer(x) * self.scale + self.offsets[0]
        return self.heads["a"](x), self.heads["b"](x)


def networks(seed=SEED, dtype=None):
    """The same network here and in PyTorch, from the same seed."""
    pair = []
    for library in (nn, torch.nn):
        torch.manual_seed(seed)
        pair.append(
            library.Sequential(
                library.Linear(4, 6, dtype=dtype),
                library.Tanh(),
                library.Sequential(library.Linear(6, 5, bias=False, dtype=dtype), library.ReLU()),
                library.LeakyReLU(0.2),
                library.Linear(5, 3, dtype=dtype),
                library.Sigmoid(),
            )
        )
    return pair


def values(named):
    return {name: value.detach().numpy().tolist() for name, value in named}


# ------------------------------------------------------------------- Parameter


def test_parameter_is_a_leaf_that_shares_its_data():
    data = torch.tensor([1.0, 2.0])
    parameter = nn.Parameter(data)
    assert isinstance(parameter, Tensor) and parameter.requires_grad and parameter.is_leaf
    assert parameter.data.data_ptr() == data.data_ptr()
    assert repr(parameter) == "Parameter([1., 2.], requires_grad=True)"


def test_parameter_results_are_plain_tensors():
    result = nn.Parameter([1.0, 2.0]) * 2
    assert type(result) is Tensor
    assert type(2 - nn.Parameter(2.0)) is Tensor


def test_parameter_can_be_frozen_and_hold_integers_then():
    assert not nn.Parameter([1.0], requires_grad=False).requires_grad
    assert nn.Parameter(torch.tensor([1]), requires_grad=False).dtype is torch.int64
    with pytest.raises(GradientDtypeError, match="int64"):
        nn.Parameter(torch.tensor([1]))


# ----------------------------------------------------------------------- Buffer


def with_buffers():
    """The same module here and in PyTorch, with buffers beside parameters and modules."""
    for library in (nn, torch.nn):
        torch.manual_seed(SEED)
        module = library.Module()
        module.inner = library.Linear(2, 2)
        module.count = library.Buffer(torch.tensor(0))
        module.scale = library.Parameter(torch.ones(2))
        module.mean = library.Buffer(torch.zeros(2))
        module.passing = library.Buffer(torch.ones(1), persistent=False)
        module.norm = library.BatchNorm1d(2)
        module.again = module.norm
        yield module


def test_buffers_are_found_saved_and_loaded_as_in_pytorch():
    ours, theirs = with_buffers()
    assert [n for n, _ in ours.named_buffers()] == [n for n, _ in theirs.named_buffers()]
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    assert len(list(ours.buffers())) == len(list(theirs.buffers())) == 6
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert not any(buffer.requires_grad for buffer in ours.buffers())
    theirs.mean += 2
    theirs.count += 3
    memory = ours.mean.data.data_ptr()
    assert ours.load_state_dict(theirs.state_dict()) == ([], [])
    assert ours.mean.tolist() == [2, 2] and ours.count.item() == 3
    assert ours.mean.data.data_ptr() == memory
    with pytest.raises(StateDictError, match="missing: count; mean: expected shape .2., got .3."):
        state = {**theirs.state_dict(), "mean": torch.zeros(3)}
        del state["count"]
        ours.load_state_dict(state)


def test_buffers_share_their_data_and_may_be_numbers():
    data = torch.zeros(2)
    buffer = nn.Buffer(data)
    assert isinstance(buffer, Tensor) and buffer.data.data_ptr() == data.data_ptr()
    assert repr(buffer) == "Buffer([0., 0.])" and buffer.persistent
    assert type(buffer * 2) is Tensor
    module = nn.Module()
    module.steps = nn.Buffer(0)
    module.load_state_dict({"steps": torch.tensor(3)})
    assert type(module.steps.data) is int and module.steps.data == 3


def test_buffers_are_moved_and_converted_with_the_module():
    ours, theirs = (module.to(torch.float64) for module in with_buffers())
    for (name, one), other in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        assert one.dtype == other.dtype, name
    assert ours.count.dtype is torch.int64 and type(ours.mean) is nn.Buffer
    assert ours.to("meta").count.device.type == "meta"


def test_buffers_are_copied_with_the_module():
    ours, _ = with_buffers()
    twin = copy.deepcopy(ours)
    assert list(twin.state_dict()) == list(ours.state_dict())
    assert twin.norm is twin.again and not twin.passing.persistent
    twin.mean.data.add_(1)
    assert ours.mean.tolist() == [0, 0] and twin.mean.tolist() == [1, 1]


def test_buffers_of_pytorchs_modules_are_in_the_state():
    _, theirs = with_buffers()
    model = nn.Sequential(from_torch(theirs), nn.BatchNorm1d(2))
    assert [n for n, _ in model[0].named_buffers(remove_duplicate=False)] == [
        n for n, _ in theirs.named_buffers(remove_duplicate=False)
    ]
    assert list(model[0].state_dict()) == list(theirs.state_dict())
    model.load_state_dict({k: Tensor(v.data + 1) for k, v in model.state_dict().items()})
    assert theirs.mean.tolist() == [1, 1] and theirs.norm.num_batches_tracked == 1
    assert model[0].mean.tolist() == [1, 1]
    model.to(torch.float64)
    assert theirs.mean.dtype is torch.float64 and theirs.count.dtype is torch.int64
    with pytest.raises(AttributeError, match="no attribute 'median'"):
        model[0].median  # noqa: B018


# ----------------------------------------------------------- what a module holds


def test_names_are_found_in_attributes_lists_tuples_and_dicts():
    block = Block()
    assert [name for name, _ in block.named_parameters()] == [
        "scale", "offsets.0", "offsets.1",  # its own before those of modules inside, as in PyTorch
        "first.weight", "first.bias", "layers.0.weight", "layers.0.bias",
        "layers.1.1.weight", "layers.1.1.bias",
        "heads.a.weight", "heads.a.bias", "heads.b.weight", "heads.b.bias",
    ]  # fmt: skip
    assert [name for name, _ in block.named_modules()] == [
        "", "first", "layers.0", "layers.1.0", "layers.1.1", "heads.a", "heads.b",
    ]  # fmt: skip
    assert [name for name, _ in block.named_children()] == [
        "first", "layers.0", "layers.1.0", "layers.1.1", "heads.a", "heads.b",
    ]  # fmt: skip
    assert list(block.children())[0] is block.first
    assert list(block.modules())[0] is block


def test_names_and_order_are_those_of_pytorch():
    ours, theirs = networks()
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    assert [n for n, _ in ours.named_modules()] == [n for n, _ in theirs.named_modules()]
    assert [n for n, _ in ours.named_children()] == [n for n, _ in theirs.named_children()]
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_shared_parameters_and_modules_are_listed_once_but_saved_under_each_name():
    def build(library):
        layer = library.Linear(3, 3)
        other = library.Linear(3, 3)
        other.weight = layer.weight
        return library.Sequential(layer, library.Tanh(), layer, other)

    ours, theirs = build(nn), build(torch.nn)
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    assert [n for n, _ in ours.named_modules()] == [n for n, _ in theirs.named_modules()]
    assert [n for n, _ in ours.named_children()] == [n for n, _ in theirs.named_children()]
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert repr(ours) == repr(theirs)


def test_a_cycle_is_named_with_its_path():
    outer = nn.Sequential(nn.Sequential(nn.ReLU()), nn.Tanh())
    outer[0].parents = {"up": outer}
    with pytest.raises(ModuleCycleError, match="0.parents.up is the same Sequential as the whole"):
        list(outer.parameters())
    with pytest.raises(ModuleCycleError):
        outer.state_dict()
    with pytest.raises(ModuleCycleError):
        outer.apply(lambda module: None)
    assert "(parents.up): ..." in repr(outer)

    holder = nn.Module()
    holder.inner = nn.Sequential(nn.Sequential())
    holder.inner[0].back = holder.inner
    with pytest.raises(ModuleCycleError, match="inner.0.back is the same Sequential as inner"):
        holder.train()


def test_a_module_that_stands_in_two_places_is_no_cycle():
    shared = nn.Linear(2, 2)
    assert len(list(nn.Sequential(nn.Sequential(shared), shared).parameters())) == 2


def test_repr_is_that_of_pytorch():
    ours, theirs = networks()
    assert repr(ours) == repr(theirs)
    assert repr(nn.Sequential()) == repr(torch.nn.Sequential())


def test_extra_repr_stands_before_the_children():
    class Named(nn.Sequential):
        def extra_repr(self):
            return "twice"

    assert repr(Named(nn.ReLU())) == "Named(\n  twice\n  (0): ReLU()\n)"


def test_a_module_without_forward_says_so():
    class Empty(nn.Module):
        pass

    with pytest.raises(NotImplementedError, match="Empty does not define forward"):
        Empty()(1)


# --------------------------------------------------------------------- state dict


def test_state_dict_shares_memory_and_requires_no_gradients():
    layer = nn.Linear(2, 2)
    weight = layer.state_dict()["weight"]
    assert not weight.requires_grad
    weight.data.zero_()
    assert layer.weight.data.count_nonzero() == 0


@pytest.mark.parametrize("convert", [dict, lambda s: {k: Tensor(v) for k, v in s.items()}])
def test_load_state_dict_takes_pytorchs(convert):
    _, theirs = networks(seed=1)
    ours, _ = networks(seed=2)
    parameters = list(ours.parameters())
    memory = [p.data.data_ptr() for p in parameters]
    versions = [p.data._version for p in parameters]
    assert ours.load_state_dict(convert(theirs.state_dict(keep_vars=True))) == ([], [])
    assert values(ours.named_parameters()) == values(theirs.named_parameters())
    assert [p.data.data_ptr() for p in ours.parameters()] == memory
    assert all(p.data._version > version for p, version in zip(parameters, versions))
    assert all(p.requires_grad and p.is_leaf for p in ours.parameters())


def test_load_state_dict_names_all_that_is_wrong_and_changes_nothing():
    layer = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1), nn.Linear(1, 1))
    before = values(layer.named_parameters())
    state = {name: torch.zeros_like(value.data) for name, value in layer.state_dict().items()}
    del state["0.bias"], state["2.weight"]
    state |= {"0.weight": torch.zeros(3, 3), "1.bias": [0.0], "extra": torch.zeros(1)}
    with pytest.raises(StateDictError) as error:
        layer.load_state_dict(state)
    assert str(error.value) == (
        "this state dict does not fit Sequential; missing: 0.bias, 2.weight; unexpected: extra; "
        "0.weight: expected shape [3, 2], got [3, 3]; 1.bias: expected a tensor, got list"
    )
    with pytest.raises(StateDictError, match="expected shape"):
        layer.load_state_dict(state, strict=False)
    assert values(layer.named_parameters()) == before


def test_load_state_dict_not_strict_says_what_did_not_match():
    layer = nn.Linear(2, 1)
    bias = layer.bias.item()
    keys = layer.load_state_dict({"weight": torch.zeros(1, 2), "other": torch.zeros(1)}, False)
    assert keys.missing_keys == ["bias"] and keys.unexpected_keys == ["other"]
    assert layer.weight.tolist() == [[0.0, 0.0]] and layer.bias.item() == bias


def test_load_state_dict_converts_to_the_parameters_dtype_and_keeps_numbers():
    module = nn.Module()
    module.number = nn.Parameter(1.0)
    module.vector = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    module.load_state_dict({"number": Tensor(0.1), "vector": torch.tensor([0.5])})
    assert module.number.data == 0.1 and module.vector.dtype is torch.float64
    module.load_state_dict({"number": torch.tensor(0.25), "vector": Tensor([2.0])})
    assert type(module.number.data) is float and module.number.data == 0.25
    assert module.number.node.data == 0.25  # the leaf that gradients go to agrees


# ------------------------------------------------------------------------ changes


def test_train_and_eval_reach_all_modules():
    block = Block()
    assert block.training and block.layers[1][0].training
    assert block.eval() is block
    assert not any(module.training for module in block.modules())
    assert all(module.training for module in block.train().modules())
    assert [*vars(block)] == [*vars(Block())]  # in order, for whoever compares


def test_a_module_that_computes_whether_it_is_trained():
    class Always(nn.Module):
        @property
        def training(self):
            return True

    assert Always().training and not vars(Always())


def test_a_module_that_is_not_trained_from_the_beginning():
    class Fixed(nn.Module):
        training = False

    module = Fixed()
    assert module.train().training and not module.eval().training


def test_zero_grad_and_requires_grad_():
    layer = nn.Linear(2, 1)
    layer(torch.ones(1, 2)).sum().backward()
    assert layer.weight.grad is not None
    layer.zero_grad()
    assert layer.weight.grad is None and layer.bias.grad is None
    assert layer.requires_grad_(False) is layer
    assert not layer(torch.ones(1, 2)).requires_grad
    layer.zero_grad()  # nothing to forget
    layer.zero_grad(set_to_none=False)
    assert layer.weight.grad is None
    layer.requires_grad_()(torch.ones(1, 2)).sum().backward()
    layer.zero_grad(set_to_none=False)
    assert layer.weight.grad.tolist() == [[0, 0]] and layer.bias.grad.tolist() == [0]
    layer.requires_grad_(False)
    assert layer.requires_grad_().weight.requires_grad
    assert list(layer.parameters()) == [layer.weight, layer.bias]


def test_to_converts_parameters_and_gradients_in_place():
    layer = nn.Linear(2, 1)
    layer.count = nn.Parameter(torch.tensor([3]), requires_grad=False)
    weight = layer.weight
    layer(torch.ones(1, 2)).sum().backward()
    expected = weight.data.double()
    assert layer.to(torch.float64) is layer
    assert layer.weight is weight and torch.equal(weight.data, expected)
    assert weight.grad.dtype is torch.float64 and weight.requires_grad
    assert layer.count.dtype is torch.int64
    out = layer(torch.ones(1, 2, dtype=torch.float64)).sum()
    out.backward()
    assert weight.grad.tolist() == [[2.0, 2.0]]
    assert layer.to("cpu", torch.float32).weight.dtype is torch.float32
    assert layer.to("meta").weight.device.type == "meta"
    with pytest.raises(TypeError, match="not torch.int64"):
        layer.to(torch.int64)


def test_reset_parameters_draws_as_the_constructors_do():
    def build():
        torch.manual_seed(SEED)
        return nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.PReLU(), nn.Linear(3, 1)), nn.ReLU())

    model = build()
    memory = [p.data.data_ptr() for p in model.parameters()]
    for parameter in model.parameters():
        parameter.data.fill_(9)
    torch.manual_seed(SEED)
    model.reset_parameters()
    assert values(model.state_dict().items()) == values(build().state_dict().items())
    assert [p.data.data_ptr() for p in model.parameters()] == memory


def test_reset_parameters_has_to_know_how_parameters_begin():
    class Shift(nn.Module):
        def __init__(self):
            self.by = nn.Parameter(torch.ones(2))
            self.linear = nn.Linear(2, 2)

    class Begins(Shift):
        def reset_parameters(self):
            nn.init.zeros_(self.by)
            super().reset_parameters()

    with pytest.raises(NotImplementedError, match=r"Shift has parameters of its own \(by\)"):
        nn.Sequential(Shift()).reset_parameters()
    module = Begins()
    before = module.linear.weight.tolist()
    module.reset_parameters()
    assert module.by.tolist() == [0, 0] and module.linear.weight.tolist() != before


def test_apply_visits_in_pytorchs_order():
    ours, theirs = networks()
    visits = [], []
    ours.apply(lambda module: visits[0].append(type(module).__name__))
    theirs.apply(lambda module: visits[1].append(type(module).__name__))
    assert visits[0] == visits[1]


def test_deepcopy_is_independent():
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    model.append(model[0])  # shared
    twin = copy.deepcopy(model)
    assert twin[0] is twin[2] and twin[0] is not model[0]
    assert type(twin[0].weight) is nn.Parameter
    x = torch.ones(1, 2)
    assert torch.equal(twin(x).data, model(x).data)
    twin(x).sum().backward()
    assert model[0].weight.grad is None and twin[0].weight.grad is not None
    twin[0].weight.data.zero_()
    assert model[0].weight.data.count_nonzero() == 4


def test_a_call_leaves_its_scope_on_the_result():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    before = (Tensor(1.0, requires_grad=True) * 1).node.order
    node = model(torch.ones(1, 2)).node
    outer, start, (inner, inner_start, innermost) = node.scope
    assert outer is model and inner is model[1] and innermost is None
    assert before > start > node[0].order > inner_start > node.order
    assert node[0].scope[0] is model[0]
    with no_grad():
        assert model(torch.ones(1, 2)).node is None


def test_a_module_may_return_its_input_or_something_else():
    class Same(nn.Module):
        def forward(self, x):
            return x

    leaf = Tensor([1.0], requires_grad=True)
    assert Same()(leaf) is leaf and isinstance(leaf.node, Leaf)
    assert Same()("text") == "text"


# --------------------------------------------------------------- networks of layers


@pytest.mark.parametrize("shape", [(4,), (5, 4), (2, 3, 4)])
@pytest.mark.parametrize("wrapped", [True, False], ids=["Tensor", "torch.Tensor"])
def test_network_gives_pytorchs_values_and_gradients(shape, wrapped):
    ours, theirs = networks(dtype=torch.float64)
    torch.manual_seed(SEED)
    x = torch.randn(shape, dtype=torch.float64)
    y, expected = ours(Tensor(x) if wrapped else x), theirs(x)
    assert torch.equal(y.data, expected.detach())
    (y * y).sum().backward()
    (expected * expected).sum().backward()
    for p, q in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(p.grad.data, q.grad)


def test_sequential_is_a_list_of_layers():
    layers = [nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)]
    for model in (nn.Sequential(*layers), nn.Sequential(layers)):
        assert list(model) == layers and len(model) == 3
        assert model[0] is layers[0] and model[-1] is layers[2]
        assert isinstance(model[:2], nn.Sequential) and list(model[:2]) == layers[:2]
    assert model.append(nn.Tanh()) is model and len(model) == 4
    with pytest.raises(IndexError):
        model[4]
    with pytest.raises(TypeError, match="layer 1 of a Sequential must be a Module, not builtin"):
        nn.Sequential(nn.ReLU(), torch.tanh)


def test_subclass_of_sequential_may_have_fields_of_its_own():
    model = nn.Sequential(nn.Linear(1, 1))
    model.temperature = nn.Parameter(1.0)
    names = [name for name, _ in model.named_parameters()]
    assert names == ["temperature", "0.weight", "0.bias"]


# ----------------------------------------------------------------- initial values

FILLS = {
    "uniform_": [(), (-2.0, 3.0)],
    "normal_": [(), (1.0, 0.1)],
    "constant_": [(0.3,)],
    "zeros_": [()],
    "ones_": [()],
    "xavier_uniform_": [(), (5 / 3,)],
    "xavier_normal_": [(), (5 / 3,)],
    "kaiming_uniform_": [(), (0.2,), (0.0, "fan_out", "relu"), (0, "fan_in", "tanh")],
    "orthogonal_": [(), (1.5,)],
    "kaiming_normal_": [(), (0.2,), (0.0, "fan_out", "relu"), (0, "fan_in", "selu")],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "name, args", [(name, args) for name, options in FILLS.items() for args in options]
)
def test_initial_values_are_those_of_pytorch(name, args, dtype):
    for shape in [(5, 3), (4, 3, 2, 2)]:
        theirs = torch.empty(shape, dtype=dtype)
        ours = nn.Parameter(theirs.clone())
        torch.manual_seed(SEED)
        assert getattr(nn.init, name)(ours, *args) is ours
        torch.manual_seed(SEED)
        getattr(torch.nn.init, name)(theirs, *args)
        assert torch.equal(ours.data, theirs)


@pytest.mark.parametrize(
    "name, param",
    [
        *itertools.product(["linear", "conv1d", "conv2d", "sigmoid"], [None]),
        *itertools.product(["tanh", "relu", "selu"], [None]),
        *itertools.product(["leaky_relu"], [None, 0, 0.3, math.sqrt(5)]),
    ],
)
def test_gains(name, param):
    assert nn.init.calculate_gain(name, param) == torch.nn.init.calculate_gain(name, param)


def test_initialization_refuses_what_makes_no_sense():
    with pytest.raises(ValueError, match=r"at least two dimensions .* shape \[3\]"):
        nn.init.xavier_normal_(nn.Parameter(torch.empty(3)))
    with pytest.raises(ValueError, match="at least two dimensions"):
        nn.init.orthogonal_(nn.Parameter(torch.empty(3)))
    with pytest.raises(ValueError, match="'fan_in' or 'fan_out', not 'fan'"):
        nn.init.kaiming_normal_(nn.Parameter(torch.empty(3, 3)), mode="fan")
    with pytest.raises(ValueError, match="no gain is known for 'gelu'; known are linear"):
        nn.init.calculate_gain("gelu")
