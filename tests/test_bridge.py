"""PyTorch's own modules on the tape: networks that nobody wrote for this library."""

import copy
import threading

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import nn

import tinygrad_ee559 as tg
from tinygrad_ee559 import errors

transformers.logging.set_verbosity_error()


class Block(nn.Module):
    """The basic block of a residual network (He et al. 2015)."""

    def __init__(self, channels, out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.down = None
        if stride != 1 or channels != out:
            shortcut = nn.Conv2d(channels, out, 1, stride, bias=False)
            self.down = nn.Sequential(shortcut, nn.BatchNorm2d(out))

    def forward(self, x):
        short = x if self.down is None else self.down(x)
        y = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        y += short
        return self.relu(y)


def resnet18(width=8):
    layers = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)]
    layers += [nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    channels = width
    for out, stride in ((width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)):
        layers += [Block(channels, out, stride), Block(out, out, 1)]
        channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


class Filled(nn.Module):
    """Makes a tensor, and assigns to its parts what it computes."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        out = torch.zeros(x.shape[0], 2, 4, dtype=x.dtype)
        out[:, 0] = self.linear(x)
        out[:, 1] = out[:, 0] * x
        return out


def inputs(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def words(*shape):
    return torch.randint(0, 50, shape)


def encoder(**options):
    return nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, **options), 2
    )


def gpt2():
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2,
            bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
    )


def bert():
    return transformers.BertModel(
        transformers.BertConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=16,
        )  # fmt: skip
    )


def vit():
    return transformers.ViTModel(
        transformers.ViTConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            image_size=16, patch_size=4,
        )  # fmt: skip
    )


def llama():
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, intermediate_size=32, max_position_embeddings=16,
        )  # fmt: skip
    )


#: What makes the network, its inputs, and what of its result is differentiated.
NETWORKS = {
    "multilayer perceptron": (
        lambda: nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Dropout(0.4), nn.Linear(7, 2)),
        lambda: [inputs(3, 5)], lambda y: y,
    ),
    "TransformerEncoder": (encoder, lambda: [inputs(2, 5, 16)], lambda y: y),
    "TransformerEncoder, evaluated": (
        lambda: encoder().eval(), lambda: [inputs(2, 5, 16)], lambda y: y
    ),
    "TransformerEncoder, gelu, norm first": (
        lambda: encoder(activation="gelu", norm_first=True),
        lambda: [inputs(2, 5, 16)], lambda y: y,
    ),
    "TransformerDecoder": (
        lambda: nn.TransformerDecoder(
            nn.TransformerDecoderLayer(16, 4, 32, batch_first=True), 2
        ),
        lambda: [inputs(2, 5, 16), inputs(2, 7, 16)], lambda y: y,
    ),
    "LSTM": (
        lambda: nn.LSTM(6, 5, 2, bidirectional=True), lambda: [inputs(4, 3, 6)], lambda y: y[0]
    ),
    "LSTM, last cell": (
        lambda: nn.LSTM(6, 5, 2, batch_first=True, dropout=0.3),
        lambda: [inputs(3, 4, 6)], lambda y: y[1][1],
    ),
    "GRU": (lambda: nn.GRU(6, 5, 2, batch_first=True), lambda: [inputs(3, 4, 6)], lambda y: y[0]),
    "RNN": (lambda: nn.RNN(6, 5), lambda: [inputs(4, 3, 6)], lambda y: y[0]),
    "ResNet-18": (resnet18, lambda: [inputs(2, 3, 64, 64)], lambda y: y),
    "ResNet-18, evaluated": (
        lambda: resnet18().eval(), lambda: [inputs(2, 3, 64, 64)], lambda y: y
    ),
    "GPT-2": (gpt2, lambda: [words(2, 9)], lambda y: y.logits),
    "BERT": (bert, lambda: [words(2, 9)], lambda y: y.last_hidden_state),
    "ViT": (vit, lambda: [inputs(2, 3, 16, 16)], lambda y: y.last_hidden_state),
    "LLaMA": (llama, lambda: [words(2, 9)], lambda y: y.logits),
    "parts assigned to": (Filled, lambda: [inputs(3, 4)], lambda y: y),
}  # fmt: skip


def on_tape(value):
    return tg.Tensor(value) if value.is_floating_point() else value


def assert_same(module, given, pick, rtol=1e-9):
    """The result, and the gradients of all parameters and of the input, are those of PyTorch."""
    buffers = {k: b.clone() for k, b in module.named_buffers()}
    torch.manual_seed(1)
    result = pick(module(*given))
    weights = torch.randn(result.shape, dtype=result.dtype)
    (result * weights).sum().backward()
    expected = {path: p.grad for path, p in module.named_parameters()}
    after = {k: b.clone() for k, b in module.named_buffers()}
    with torch.no_grad():
        for k, b in module.named_buffers():
            b.copy_(buffers[k])

    ours = tg.from_torch(module)
    torch.manual_seed(1)
    found = pick(ours(*map(on_tape, given)))
    torch.testing.assert_close(found.data, result.detach(), rtol=rtol, atol=rtol)
    (found * weights).sum().backward()
    named = dict(ours.named_parameters())
    assert named.keys() == expected.keys()
    scale = max(g.norm() for g in expected.values() if g is not None)
    for path, gradient in expected.items():
        if gradient is None:
            gradient = torch.zeros_like(named[path].data)
        grad = named[path].grad
        own = torch.zeros_like(gradient) if grad is None else grad.data
        assert (own - gradient).norm() <= rtol * max(gradient.norm(), 1e-3 * scale), path
    for k, b in module.named_buffers():
        torch.testing.assert_close(b, after[k], msg=lambda text, k=k: f"{k}: {text}")


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_every_parameter_are_pytorchs(name):
    make, given, pick = NETWORKS[name]
    torch.manual_seed(0)
    assert_same(make().double(), given(), pick)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_networks_in_single_precision(kind):
    torch.manual_seed(0)
    assert_same(kind(6, 5, 2).float(), [torch.randn(4, 3, 6)], lambda y: y[0], rtol=1e-5)


def test_a_network_is_trained_as_in_pytorch():
    torch.manual_seed(0)
    theirs, ours = resnet18(4).double(), resnet18(4).double()
    ours.load_state_dict(theirs.state_dict())
    model = tg.from_torch(ours)
    x, y = inputs(4, 3, 32, 32), torch.randint(0, 10, (4,))
    there = torch.optim.SGD(theirs.parameters(), lr=0.01, momentum=0.9)
    here = tg.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for _ in range(3):
        there.zero_grad()
        F.cross_entropy(theirs(x), y).backward()
        there.step()
        here.zero_grad()
        F.cross_entropy(model(tg.Tensor(x)), tg.Tensor(y)).backward()
        here.step()
    assert tg.to_torch(model) is ours
    for (path, a), b in zip(theirs.state_dict().items(), ours.state_dict().values()):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11, msg=lambda t, p=path: f"{p}: {t}")


def test_the_structure_is_that_of_the_module():
    module = nn.Sequential(nn.Linear(2, 3), nn.ModuleDict({"head": nn.Linear(3, 1)}))
    model = tg.from_torch(module)
    assert dict(model.named_parameters()).keys() == dict(module.named_parameters()).keys()
    assert model[0].weight.data.data_ptr() == module[0].weight.data_ptr()
    assert "(0): Linear(in_features=2, out_features=3, bias=True)" in repr(model)
    model.eval()
    assert not module.training and not module[0].training
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        model.nonsense  # noqa: B018


def test_shared_parameters_stay_shared():
    module = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    module[1].weight = module[0].weight
    model = tg.from_torch(module)
    assert model[0].weight is model[1].weight
    x = inputs(2, 3).float()
    model(tg.Tensor(x)).sum().backward()
    module(x).sum().backward()
    torch.testing.assert_close(model[0].weight.grad.data, module[0].weight.grad)


def test_frozen_parameters_stay_frozen():
    module = nn.Linear(2, 2)
    module.weight.requires_grad_(False)
    model = tg.from_torch(module)
    model(tg.Tensor(torch.ones(1, 2))).sum().backward()
    assert model.weight.grad is None and model.bias.grad is not None


def test_weights_that_were_moved_are_given_back():
    module = nn.Linear(2, 2)
    model = tg.from_torch(module).to(torch.float64)
    assert tg.to_torch(model).weight.dtype == torch.float64
    assert module.weight.data_ptr() == model.weight.data.data_ptr()


def test_parameters_begin_anew_as_pytorchs():
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.LSTM(2, 2))
    model = tg.nn.Sequential(tg.from_torch(module), tg.nn.Linear(2, 2))
    model.to(torch.float64)
    model[0](tg.Tensor(inputs(4, 3)))
    torch.manual_seed(0)
    model.reset_parameters()
    state = {name: value.data for name, value in model[0].state_dict().items()}
    torch.manual_seed(0)
    for layer in module:
        layer.reset_parameters()
    for name, value in module.state_dict().items():
        assert value.dtype == state[name].dtype and torch.equal(value, state[name]), name


def test_parameters_that_do_not_say_how_they_begin():
    module = nn.Module()
    module.shift = nn.Parameter(torch.ones(2))
    with pytest.raises(NotImplementedError, match=r"Module has parameters of its own \(shift\)"):
        tg.from_torch(nn.Sequential(module)).reset_parameters()


def test_modules_can_be_drawn_in_their_frames(tmp_path):
    model = tg.from_torch(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)))
    tg.draw(model(tg.Tensor(torch.ones(4, 2))), tmp_path / "graph.dot")
    text = (tmp_path / "graph.dot").read_text()
    for title in ("Sequential", "0: Linear", "1: ReLU", "2.weight"):
        assert title in text


def test_functions_of_parameters_work_on_them_too():
    module = nn.Linear(2, 2).double()
    model = tg.from_torch(module)
    w = inputs(2, 2)
    jacobian = tg.func.jacrev(
        lambda w: tg.func.functional_call(model, {"weight": w}, (inputs(2) * 0 + 1,))
    )(w)
    expected = torch.func.jacrev(
        lambda w: torch.func.functional_call(module, {"weight": w}, (inputs(2) * 0 + 1,))
    )(w)
    torch.testing.assert_close(jacobian.data, expected)


def test_only_pytorchs_modules_cross_the_bridge():
    with pytest.raises(TypeError, match=r"takes a torch\.nn\.Module, not a Linear"):
        tg.from_torch(tg.nn.Linear(1, 1))
    with pytest.raises(TypeError, match="Linear was made here"):
        tg.to_torch(tg.nn.Linear(1, 1))


def test_a_module_that_cannot_be_differentiated_says_what_it_calls():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x)

    with pytest.raises(errors.NoRuleError, match="bessel_j0"):
        tg.from_torch(Odd())(tg.Tensor([1.0], requires_grad=True))


def test_what_a_module_remembers_is_no_stand_in():
    class Remembers(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 2)
            self.register_buffer("average", torch.zeros(2))

        def forward(self, x):
            self.last = self.linear(x)
            self.average = 0.9 * self.average + 0.1 * self.last.mean(0)
            return self.last

    module = Remembers()
    model = tg.from_torch(module)
    average = model.average
    for _ in range(2):
        model(tg.Tensor(torch.ones(3, 2)))
    assert isinstance(module.last, tg.Tensor) and type(module.average) is torch.Tensor
    assert average.data is module.average  # another one than at first
    average.data = torch.ones(2)
    assert module.average.tolist() == [1, 1]
    kept = copy.deepcopy(average)
    average.mul_(3)
    assert module.average.tolist() == [3, 3] and kept.tolist() == [1, 1]
    assert not isinstance(model.linear.weight.node, torch.Tensor)
    assert tg.to_torch(model.to(torch.float64)).average.dtype == torch.float64


def test_threads_take_turns():
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    model = tg.from_torch(module)
    wrong = []

    def work():
        try:
            for _ in range(20):
                model(tg.Tensor(torch.ones(2, 4))).sum().backward()
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and type(module[0].weight) is nn.Parameter


def test_spectral_norm_updates_its_vectors():
    torch.manual_seed(0)
    module = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3))
    module.parametrizations.weight.original.data.normal_()
    before = module.parametrizations.weight[0]._u.clone()
    tg.from_torch(module)(tg.Tensor(torch.ones(1, 3))).sum().backward()
    assert not torch.equal(module.parametrizations.weight[0]._u, before)


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1.0

    @staticmethod
    def backward(ctx, g):
        return -g


class Reversed(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x):
        with torch.no_grad():
            scale = self.linear.weight.abs().max()
        return Reverse.apply(self.linear(x)) * scale


def test_a_backward_written_for_torchs_autograd_is_refused():
    model = tg.from_torch(Reversed())
    with pytest.raises(errors.NoRuleError, match=r"Reverse is a torch\.autograd\.Function"):
        model(tg.Tensor(torch.ones(1, 2)))
    with tg.no_grad():
        assert model(tg.Tensor(torch.ones(1, 2))).shape == (1, 2)
