"""Linear maps, softmax, dropout and losses, against torch.autograd."""

import math
import weakref

import pytest
import torch
import torch.nn.functional as F
from compare import assert_same_gradients, assert_second_order_by_differences, tensors

import tinygrad_ee559 as tg
from tinygrad_ee559.dispatch import StandIn
from tinygrad_ee559.errors import RuleError

pytestmark = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")  # of kl_div


def random(*shapes, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes
    ]


def classes(*shape, count, seed=0):
    return torch.randint(count, shape, generator=torch.Generator().manual_seed(seed))


# --------------------------------------------------------------------- linear maps


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 5, 3), (2, 1, 5, 3), (0, 3)], ids=str)
def test_linear(shape, bias):
    assert_same_gradients(F.linear, random(shape, (4, 3), (4,))[: 2 + bias])


@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 5, 3)], ids=str)
def test_linear_with_a_vector_for_its_weight(shape):
    assert_same_gradients(F.linear, random(shape, (3,)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("batch", "n", "m"),
    [
        ((100,), 2, 25), ((100,), 25, 25), ((100,), 25, 2), ((100,), 784, 512), ((100,), 512, 10),
        ((1,), 5, 3), ((33,), 17, 1), ((33,), 1, 17), ((8, 7), 20, 30), ((3, 4, 7), 20, 30),
    ],
)  # fmt: skip
def test_linear_has_the_bits_of_pytorch(batch, n, m, dtype):
    theirs = random((*batch, n), (m, n), (m,), dtype=dtype)
    ours = [tg.Tensor(x.detach(), requires_grad=True) for x in theirs]
    (cotangent,) = random((*batch, m), seed=1, dtype=dtype)
    expected = torch.autograd.grad(F.linear(*theirs), theirs, cotangent)
    found = tg.grad(F.linear(*ours), ours, tg.Tensor(cotangent.detach()))
    for g, true in zip(found, expected):
        assert torch.equal(g.data, true)
        assert g.data.stride() == true.stride()


def network(sizes, dtype, seed=0):
    """Weights and biases, scaled like PyTorch's own."""
    shapes = [s for n, m in zip(sizes, sizes[1:]) for s in ((m, n), (m,))]
    parameters = random(*shapes, seed=seed, dtype=dtype)
    widths = [n for n in sizes[:-1] for _ in range(2)]
    return [p.detach() / math.sqrt(n) for p, n in zip(parameters, widths)]


def forward(x, parameters, activation):
    for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2]):
        x = activation(F.linear(x, weight, bias))
    return F.linear(x, *parameters[-2:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("activation", [torch.relu, torch.tanh])
@pytest.mark.parametrize("task", ["mse", "cross_entropy"])
def test_training_has_the_bits_of_pytorch(task, activation, dtype):
    """Ten steps of SGD by hand: every gradient and every parameter, to the last bit."""
    if task == "mse":
        sizes, loss = (2, 25, 25, 25, 2), F.mse_loss
        (targets,) = random((10, 100, 2), seed=2, dtype=dtype)
        targets = targets.detach()
    else:
        sizes, loss = (20, 32, 32, 10), F.cross_entropy
        targets = classes(10, 100, count=10, seed=2)
    (inputs,) = random((10, 100, sizes[0]), seed=1, dtype=dtype)
    theirs = [p.clone().requires_grad_() for p in network(sizes, dtype)]
    ours = [tg.Tensor(p.clone(), requires_grad=True) for p in network(sizes, dtype)]
    for x, target in zip(inputs.detach(), targets):
        their_loss = loss(forward(x, theirs, activation), target)
        our_loss = loss(forward(tg.Tensor(x), ours, activation), tg.Tensor(target))
        assert torch.equal(our_loss.data, their_loss)
        their_loss.backward()
        our_loss.backward()
        with torch.no_grad():
            for our, their in zip(ours, theirs):
                assert torch.equal(our.grad.data, their.grad)
                their -= 0.1 * their.grad
                our -= 0.1 * our.grad
                assert torch.equal(our.data, their)
                our.grad = their.grad = None


# --------------------------------------------------------------- softmax and dropout


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
@pytest.mark.parametrize("function", [F.softmax, F.log_softmax, F.softmin])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 4), (2, 3, 4, 5)], ids=str)
def test_softmax_chooses_the_dimension_that_torch_chooses(function, shape):
    assert_same_gradients(function, random(shape))


@pytest.mark.parametrize("function", [torch.softmax, torch.log_softmax])
def test_softmax_to_the_third_order(function):
    assert_same_gradients(function, random((2, 3)), {"dim": 1}, order=3)
    assert_same_gradients(getattr(torch.special, function.__name__), random((2, 3)), {"dim": 0})


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_dropout_draws_what_torch_draws(p, seed):
    (x,) = random((50, 40))
    for change in (lambda x: x, torch.t, lambda x: x[:, ::2]):  # memory is drawn in its own order
        torch.manual_seed(seed)
        expected = F.dropout(change(x), p)
        after = torch.rand(1)
        torch.manual_seed(seed)
        found = F.dropout(change(tg.Tensor(x.detach(), requires_grad=True)), p)
        assert torch.equal(found.data, expected)
        assert torch.rand(1) == after


def test_dropout_outside_training_and_its_errors():
    x = tg.Tensor([1.0, 2.0], requires_grad=True)
    assert F.dropout(x, 0.5, training=False) is x
    with pytest.raises(ValueError, match="between 0 and 1, but got 1.5"):
        F.dropout(x, 1.5)


# --------------------------------------------------------------------------- losses

REDUCTIONS = ["none", "mean", "sum"]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    ("function", "kwargs"),
    [
        (F.mse_loss, {}), (F.l1_loss, {}), (F.huber_loss, {"delta": 0.5}),
        (F.smooth_l1_loss, {"beta": 0.5}), (F.smooth_l1_loss, {"beta": 0.0}),
        (F.kl_div, {"log_target": True}),
    ],
)  # fmt: skip
def test_losses_of_two_tensors(function, kwargs, reduction):
    """The target may want gradients too."""
    assert_same_gradients(function, random((4, 3), (4, 3)), {**kwargs, "reduction": reduction})


def test_mse_to_the_third_order():
    assert_same_gradients(F.mse_loss, random((4, 3), (4, 3)), order=3)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("function", [F.mse_loss, F.huber_loss])
def test_weighted_losses(function, reduction):
    x, target, weight = random((4, 3), (4, 3), (4, 3))
    kwargs = {"weight": weight.detach().abs(), "reduction": reduction}
    assert_same_gradients(function, (x, target), kwargs)


@pytest.mark.parametrize(
    "function", [F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss], ids=lambda f: f.__name__
)
def test_a_target_of_another_shape_is_broadcast_with_a_warning(function):
    with pytest.warns(UserWarning, match="Using a target size"):
        assert_same_gradients(function, random((4, 1), (4,)))


@pytest.mark.filterwarnings("ignore:size_average and reduce args")
@pytest.mark.parametrize("size_average", [None, True, False])
@pytest.mark.parametrize("reduce", [None, True, False])
@pytest.mark.parametrize("function", [F.mse_loss, F.soft_margin_loss, F.cross_entropy])
def test_the_older_options_for_reductions(function, size_average, reduce):
    x, target = random((4, 3), (4, 3))
    kwargs = {"size_average": size_average, "reduce": reduce}
    assert_same_gradients(function, (x, target.detach().softmax(1)), kwargs)


@pytest.mark.parametrize("function", [F.mse_loss, F.cross_entropy, F.hinge_embedding_loss])
def test_an_unknown_reduction(function):
    x = tg.Tensor([[1.0, 2.0]], requires_grad=True)
    with pytest.raises(ValueError, match="product is not a valid"):
        function(x, x.detach(), reduction="product")


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("ignore_index", [-100, 1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "shape", [(4,), (6, 4), (6, 4, 3), (2, 4, 3, 5), (2, 4, 3, 2, 2)], ids=str
)
def test_losses_of_classes(shape, weighted, ignore_index, reduction):
    """A vector and a batch of scores, sequences, images, and volumes."""
    (x,) = random(shape)
    target = classes(*shape[:1], *shape[2:], count=4) if len(shape) > 1 else classes(count=4)
    weight = torch.tensor([0.5, 1.0, 2.0, 0.1], dtype=torch.float64) if weighted else None
    options = {"weight": weight, "ignore_index": ignore_index, "reduction": reduction}
    assert_same_gradients(F.nll_loss, (x, target), options)
    for label_smoothing in (0.0, 0.2):
        smooth = {**options, "label_smoothing": label_smoothing}
        assert_same_gradients(F.cross_entropy, (x, target), smooth)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    "target",
    [[[0, 1, -1, -1], [3, -1, 1, 2], [-1, 0, 1, 2]], [[2, 2, 1, 0]] * 3, [1, -1, 0, 2]],
    ids=["ended", "repeated", "one sample"],
)
def test_margins_of_several_classes(target, reduction):
    target = torch.tensor(target)
    (x,) = random(target.shape)
    options = {"reduction": reduction}
    assert_same_gradients(F.multilabel_margin_loss, (x, target), options, order=1)
    assert_second_order_by_differences(F.multilabel_margin_loss, (x, target), options)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_margins_of_several_classes_in_a_program(requires_grad):
    """Torch's own decomposition counts what comes after the last target."""
    x, target = torch.tensor([[0.5, -0.2, 0.1], [2.0, 1.0, -1.0]]), torch.tensor([[0, -1, 2]] * 2)
    held = tg.Tensor(x, requires_grad=requires_grad)
    fast = tg.compile(lambda target: F.multilabel_margin_loss(held, target).detach())
    for _ in range(3):
        found = fast(target)
    assert len(fast.programs) == 1
    assert torch.allclose(found.data, F.multilabel_margin_loss(x, target))


def test_margins_of_targets_of_another_shape():
    x = tg.Tensor(torch.zeros(2, 3), requires_grad=True)
    with pytest.raises(RuntimeError, match="inconsistent target size"):
        F.multilabel_margin_loss(x, torch.zeros(2, 2, dtype=torch.int64))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize("shape", [(4,), (6, 4), (2, 4, 3)], ids=str)
def test_cross_entropy_of_probabilities(shape, label_smoothing, reduction):
    x, target = random(shape, shape)
    target = target.detach().softmax(0 if len(shape) == 1 else 1).requires_grad_()
    weight = torch.tensor([0.5, 1.0, 2.0, 0.1], dtype=torch.float64)
    for options in ({}, {"weight": weight}):
        kwargs = {**options, "label_smoothing": label_smoothing, "reduction": reduction}
        assert_same_gradients(F.cross_entropy, (x, target), kwargs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight": True, "ignore_index": 3},
        {"weight": True, "ignore_index": 3, "label_smoothing": 0.1},
    ],
    ids=str,
)
def test_cross_entropy_has_the_bits_of_pytorch(options, reduction, dtype):
    (x,) = random((100, 10), dtype=dtype)
    target = classes(100, count=10)
    if "weight" in options:
        options = {**options, "weight": random((10,), dtype=dtype)[0].detach().abs()}
    ours = tg.Tensor(x.detach(), requires_grad=True)
    expected = F.cross_entropy(x, target, reduction=reduction, **options)
    found = F.cross_entropy(ours, target, reduction=reduction, **options)
    assert torch.equal(found.data, expected)
    expected.sum().backward()
    found.sum().backward()
    assert torch.equal(ours.grad.data, x.grad)


def test_cross_entropy_does_not_keep_the_scores():
    x = tg.Tensor(torch.ones(4, 3), requires_grad=True)
    scores = x * 2
    loss = F.cross_entropy(scores, torch.tensor([0, 1, 2, 0]))
    reference = weakref.ref(scores.data)
    del scores
    assert reference() is None
    loss.backward()
    assert x.grad.shape == (4, 3)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_binary_cross_entropies(weighted, reduction):
    """The target may want gradients too, and weights are broadcast."""
    x, target, weight = random((4, 3), (4, 3), (3,))
    options = {"reduction": reduction, "weight": weight.detach().abs() if weighted else None}
    probabilities = [t.detach().sigmoid().requires_grad_() for t in (x, target)]
    assert_same_gradients(F.binary_cross_entropy, probabilities, options)
    for pos_weight in (None, weight.detach().abs() + 1):
        kwargs = {**options, "pos_weight": pos_weight}
        assert_same_gradients(F.binary_cross_entropy_with_logits, (x, target), kwargs)


@pytest.mark.parametrize(
    "function", [F.binary_cross_entropy, F.binary_cross_entropy_with_logits]
)
def test_binary_cross_entropies_do_not_broadcast_the_target(function):
    x = tg.Tensor(torch.full((4, 1), 0.5), requires_grad=True)
    with pytest.raises(ValueError, match=r"[Tt]arget size .*\[4\].* input size .*\[4, 1\]"):
        function(x, torch.ones(4))


def test_binary_cross_entropy_at_certainty_is_finite():
    """PyTorch bounds the logarithms by -100 and the denominators by 1e-12."""
    x = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    assert_same_gradients(F.binary_cross_entropy, (x, target), order=1)


def test_gradients_of_class_weights_do_not_exist():
    x, weight = (tg.Tensor(t.detach(), requires_grad=True) for t in random((4, 3), (3,)))
    with pytest.raises(RuleError, match="nll_loss: .* argument weight"):
        F.nll_loss(x, classes(4, count=3), weight)


def test_linear_cross_entropy_in_pieces_is_the_whole():
    if not hasattr(F, "linear_cross_entropy"):
        pytest.skip("from torch 2.13 on")
    x, weight = random((5, 3), (4, 3))
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=2)
    target = classes(5, count=4)

    def function(x, weight):
        return F.linear_cross_entropy(x, weight, target, options=options)

    assert_same_gradients(function, (x, weight), order=1)
    ours = [tg.Tensor(t.detach(), requires_grad=True) for t in (x, weight)]
    assert tg.gradgradcheck(function, ours)


# ------------------------------------------------------- beyond PyTorch's own derivatives


def ctc_by_definition(scores, targets, input_lengths, target_lengths, blank):
    """-log of the sum over all paths, by the recursion of the paper, one sample after another."""
    log_probs = scores.log_softmax(-1)
    losses = []
    for n, (steps, length) in enumerate(zip(input_lengths, target_lengths)):
        labels = [blank]
        for label in targets[n, :length].tolist():
            labels += [label, blank]
        alpha = {s: log_probs[0, n, labels[s]] for s in range(min(2, len(labels)))}
        for t in range(1, steps):
            ways = {
                s: [
                    alpha[r]
                    for r in (s, s - 1, s - 2)
                    if r in alpha
                    and (r > s - 2 or labels[s] not in (blank, labels[r]))
                ]
                for s in range(len(labels))
            }
            alpha = {
                s: torch.logsumexp(torch.stack(w), 0) + log_probs[t, n, labels[s]]
                for s, w in ways.items()
                if w
            }
        last = [alpha[s] for s in (len(labels) - 1, len(labels) - 2) if s in alpha]
        losses.append(-torch.logsumexp(torch.stack(last), 0))
    return torch.stack(losses)


@pytest.mark.parametrize("blank", [0, 2])
@pytest.mark.parametrize("form", ["rows", "one after another", "tensors"])
def test_ctc_loss_to_the_third_order(form, blank):
    """PyTorch's kernel has no second derivative; the definition, in plain operations, has all."""
    (theirs,) = random((7, 3, 5))
    ours = tg.Tensor(theirs.detach(), requires_grad=True)
    others = torch.tensor([c for c in range(5) if c != blank])
    rows = others[torch.tensor([[0, 0, 1], [2, 0, 0], [3, 1, 0]])]
    input_lengths, target_lengths = [7, 5, 6], [3, 0, 2]
    expected = ctc_by_definition(theirs, rows, input_lengths, target_lengths, blank)
    targets = rows if form == "rows" else torch.cat([r[:n] for r, n in zip(rows, target_lengths)])
    if form == "tensors":
        input_lengths, target_lengths = map(torch.tensor, (input_lengths, target_lengths))
    found = F.ctc_loss(
        ours.log_softmax(-1), targets, input_lengths, target_lengths, blank, reduction="none"
    )
    for order in range(4):
        torch.testing.assert_close(found.data, expected.detach())
        if order < 3:
            (found,) = tg.grad((found * found).sum(), ours, create_graph=True)
            (expected,) = torch.autograd.grad(
                (expected * expected).sum(), theirs, create_graph=True
            )


@pytest.mark.parametrize("zero_infinity", [False, True])
def test_ctc_loss_of_a_target_that_does_not_fit(zero_infinity):
    (x,) = random((3, 2, 4))
    targets = torch.tensor([[1, 1, 2], [1, 2, 3]])

    def function(x):
        scores = x.log_softmax(-1)
        return F.ctc_loss(scores, targets, [3, 3], [3, 3], zero_infinity=zero_infinity)

    assert_same_gradients(function, (x,), order=1)
    x = tg.Tensor(x.detach(), requires_grad=True)
    (g,) = tg.grad(function(x), x, create_graph=True)
    (h,) = tg.grad((g * g).sum(), x)
    assert h[:, 1].isfinite().all()
    assert zero_infinity == bool((h[:, 0] == 0).all())


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding_idx", [None, 2])
@pytest.mark.parametrize("include_last_offset", [False, True])
def test_bags_of_words(mode, padding_idx, include_last_offset):
    """PyTorch has no second derivatives of them. One bag is empty."""
    table, weights = random((5, 3), (6,))
    words = torch.tensor([1, 2, 3, 2, 2, 0])
    offsets = torch.tensor([0, 2, 2, 6] if include_last_offset else [0, 2, 2])

    def bags(table, weights=None):
        return F.embedding_bag(
            words, table, offsets, mode=mode, per_sample_weights=weights, padding_idx=padding_idx,
            include_last_offset=include_last_offset,
        )  # fmt: skip

    inputs = (table, weights) if mode == "sum" else (table,)
    assert_same_gradients(bags, inputs, order=1)
    ours = [tg.Tensor(t.detach(), requires_grad=True) for t in inputs]
    assert tg.gradgradcheck(lambda *inputs: bags(*inputs) ** 2, ours)


MASK = torch.tensor([[True, False, True, True]] * 3)


@pytest.mark.parametrize(
    "options",
    [
        {}, {"is_causal": True}, {"attn_mask": MASK},
        {"attn_mask": torch.where(MASK, 0.3, -0.2).double()}, {"dropout_p": 0.3}, {"scale": 0.1},
        {"attn_mask": MASK & torch.tensor([[True], [False], [True]])}, {"enable_gqa": True},
    ],
    ids=str,
)  # fmt: skip
def test_attention_to_the_third_order(options):
    """By the path that PyTorch can differentiate so often; a query may attend to nothing."""
    heads = 2 if "enable_gqa" in options else 4
    inputs = random((2, 4, 3, 5), (2, heads, 4, 5), (2, heads, 4, 5))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert_same_gradients(F.scaled_dot_product_attention, inputs, options, order=3)
    assert_same_gradients(F.scaled_dot_product_attention, inputs, options, order=1)


# ------------------------------------------------------------- modules of torch.nn


def map_floats(change, value):
    if isinstance(value, torch.Tensor):
        return change(value) if value.is_floating_point() else value
    return type(value)(map_floats(change, v) for v in value) if value.__class__ is tuple else value


def assert_same_as_module(module, *inputs, dtype=torch.float64, seed=0):
    """Values, gradients and buffers of a module whose parameters are stood in for by ours."""
    module = module.to(dtype)
    ours = {
        name: tg.Tensor(p.detach().clone(), requires_grad=True)
        for name, p in module.named_parameters()
    }
    buffers = {name: b.clone() for name, b in module.named_buffers()}
    theirs = list(module.parameters())
    leaves = list(ours.values())

    def our_input(t):
        leaves.append(tg.Tensor(t.detach().to(dtype), requires_grad=True))
        return StandIn(leaves[-1])

    def their_input(t):
        theirs.append(t.detach().to(dtype).requires_grad_())
        return theirs[-1]

    torch.manual_seed(seed)
    state = {**{name: StandIn(p) for name, p in ours.items()}, **buffers}
    found = torch.func.functional_call(module, state, map_floats(our_input, inputs))
    torch.manual_seed(seed)
    expected = module(*map_floats(their_input, inputs))
    tolerance = {"rtol": 1e-7, "atol": 1e-9} if dtype is torch.float64 else {}
    found, expected = list(tensors(found)), list(tensors(expected))
    for our, their in zip(found, expected, strict=True):
        torch.testing.assert_close(our.tensor.data, their.detach(), **tolerance)
    for name, buffer in module.named_buffers():
        torch.testing.assert_close(buffers[name], buffer)
    sum((our.tensor**3).sum() for our in found).backward()
    sum((their**3).sum() for their in expected).backward()
    for our, their in zip(leaves, theirs, strict=True):
        torch.testing.assert_close(our.grad.data, their.grad, **tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "options",
    [{}, {"bidirectional": True}, {"num_layers": 2, "dropout": 0.4, "bias": False}],
    ids=str,
)
@pytest.mark.parametrize("network", [torch.nn.LSTM, torch.nn.GRU, torch.nn.RNN])
def test_recurrent_networks(network, options, dtype):
    torch.manual_seed(0)
    assert_same_as_module(network(3, 4, **options), torch.randn(5, 2, 3), dtype=dtype)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", [torch.nn.BatchNorm2d, torch.nn.InstanceNorm2d])
def test_normalizations_remember_what_they_saw(norm, training):
    module = norm(3, affine=True, track_running_stats=True).train(training)
    assert_same_as_module(module, torch.randn(4, 3, 2, 2))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 2), (5, 3, 2, 2)], ids=str)
def test_weights_of_a_normalization_that_are_not_contiguous(shape, training):
    """Torch's kernel of the gradient takes them as if they were."""
    torch.manual_seed(0)
    x, weights = torch.randn(shape, dtype=torch.float64), torch.rand(3, 2, dtype=torch.float64)
    statistics = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    gradients = []
    for weight in (weights[:, 1], weights[:, 1].clone()):
        y = tg.Tensor(x, requires_grad=True)
        wrapped = tg.Tensor(weight, requires_grad=True)
        (F.batch_norm(y, *statistics, wrapped, training=training, momentum=0) ** 3).sum().backward()
        gradients.append((y.grad.data, wrapped.grad.data))
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_transformer(training):
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).train(training)
    assert_same_as_module(layer, torch.randn(2, 4, 8))


@pytest.mark.parametrize(
    "activation",
    [
        torch.nn.ReLU, torch.nn.ReLU6, torch.nn.ELU, torch.nn.SELU, torch.nn.CELU,
        torch.nn.LeakyReLU, torch.nn.Hardtanh, torch.nn.Hardswish, torch.nn.Hardsigmoid,
        torch.nn.SiLU, torch.nn.Mish, torch.nn.RReLU, torch.nn.Dropout,
    ],
)  # fmt: skip
@pytest.mark.parametrize("inplace", [False, True])
def test_activations_in_place(activation, inplace):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), activation(inplace=inplace))
    assert_same_as_module(module, torch.randn(5, 4))
