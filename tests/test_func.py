"""Transforms of functions, compared with torch.func's."""

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

import tinygrad_ee559 as tg
from tinygrad_ee559 import errors

torch.manual_seed(0)
x = torch.randn(3, dtype=torch.float64)
A = torch.randn(4, 3, dtype=torch.float64)
X = torch.randn(5, 3, dtype=torch.float64)


def number(x):
    return (torch.sin(x) * x**2).sum()


def vector(x):
    return torch.tanh(A @ x)


def layer(w, x):
    return torch.tanh(w @ x)


def table(x, y):
    return x * y.sum(), {"s": x.sum() + y}


def batched_loss(T, w):
    return T.vmap(lambda x: layer(w, x))(X).pow(2).sum()


#: The same programs for both libraries; T is tinygrad_ee559.func or torch.func.
PROGRAMS = {
    "grad": lambda T: T.grad(number)(x),
    "grad of grad": lambda T: T.grad(lambda x: T.grad(number)(x)[0])(x),
    "grad with respect to nested arguments": lambda T: T.grad(
        lambda x, d: (x * d["a"]).sum() * d["b"].sum(), argnums=(0, 1)
    )(x, {"a": x, "b": x * 2}),
    "grad_and_value with aux": lambda T: T.grad_and_value(
        lambda x: (number(x), x * 2), has_aux=True
    )(x),
    "vjp": lambda T: T.vjp(vector, x)[1](torch.ones(4, dtype=torch.float64)),
    "vjp of several results": lambda T: T.vjp(table, x, x)[1]((x, {"s": 2 * x})),
    "vjp with aux": lambda T: T.vjp(lambda x: (vector(x), x), x, has_aux=True)[2],
    "jvp": lambda T: T.jvp(vector, (x,), (x * 2,)),
    "jvp with aux": lambda T: T.jvp(lambda x: (vector(x), x * 3), (x,), (x,), has_aux=True),
    "jvp of two arguments": lambda T: T.jvp(layer, (A, x), (A, x * 2)),
    "jvp of what does not depend": lambda T: T.jvp(lambda x: x.detach() * 2, (x,), (x,))[0],
    "jacrev": lambda T: T.jacrev(vector)(x),
    "jacrev of tables": lambda T: T.jacrev(table, argnums=(0, 1))(x, x),
    "jacrev with aux": lambda T: T.jacrev(lambda x: (vector(x), x), has_aux=True)(x),
    "jacrev in chunks": lambda T: T.jacrev(vector, chunk_size=3)(x),
    "jacfwd": lambda T: T.jacfwd(vector)(x),
    "jacfwd of tables": lambda T: T.jacfwd(table, argnums=(0, 1))(x, x),
    "jacfwd with aux": lambda T: T.jacfwd(lambda x: (vector(x), x * 2), has_aux=True)(x),
    "jacrev of jacrev": lambda T: T.jacrev(T.jacrev(vector))(x),
    "jacfwd of jacfwd": lambda T: T.jacfwd(T.jacfwd(vector))(x),
    "jacrev of jacfwd": lambda T: T.jacrev(T.jacfwd(vector))(x),
    "hessian": lambda T: T.hessian(number)(x),
    "hessian of a vector": lambda T: T.hessian(vector)(x),
    "hessian of two arguments": lambda T: T.hessian(
        lambda a, x: layer(a, x).pow(2).sum(), argnums=(0, 1)
    )(A, x),
    "vmap": lambda T: T.vmap(vector)(X),
    "vmap in and out": lambda T: T.vmap(lambda a, b: a * b, (1, None), 1)(X, x.new_ones(5)),
    "vmap of vmap": lambda T: T.vmap(T.vmap(torch.sin))(X),
    "vmap in chunks": lambda T: T.vmap(T.grad(number), chunk_size=2)(X),
    "vmap of keyword arguments": lambda T: T.vmap(lambda x, scale: x * scale)(X, scale=x),
    "vmap of grad": lambda T: T.vmap(T.grad(number))(X),
    "vmap of jvp": lambda T: T.vmap(lambda x, t: T.jvp(vector, (x,), (t,))[1])(X, X),
    "vmap of jacrev": lambda T: T.vmap(T.jacrev(vector))(X),
    "vmap of hessian": lambda T: T.vmap(T.hessian(number))(X),
    "grad of vmap": lambda T: T.grad(lambda X: T.vmap(vector)(X).pow(2).sum())(X),
    "grad of vmap over what it finds": lambda T: T.grad(lambda w: batched_loss(T, w))(A),
    "grad of grad of vmap": lambda T: T.grad(
        lambda w: T.grad(lambda v: batched_loss(T, v))(w).pow(2).sum()
    )(A),
    "jvp of vmap": lambda T: T.jvp(lambda X: T.vmap(vector)(X), (X,), (X,)),
    "hessian of vmap": lambda T: T.hessian(lambda w: batched_loss(T, w))(A),
    "vmap of random numbers": lambda T: T.vmap(
        lambda x: torch.randn_like(x) * x, randomness="same"
    )(X),
}


def raw(value):
    return value.as_torch() if isinstance(value, tg.Tensor) else value


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_give_the_same_as_in_torch(name):
    torch.manual_seed(1)
    expected = PROGRAMS[name](torch.func)
    torch.manual_seed(1)
    found = PROGRAMS[name](tg.func)
    assert all(isinstance(leaf, tg.Tensor) for leaf in tree_leaves(found))
    assert not any(leaf.requires_grad for leaf in tree_leaves(found)), "nothing outside wants any"
    torch.testing.assert_close(tree_map(raw, found), expected, rtol=1e-9, atol=1e-11)


def test_transforms_inside_a_recorded_computation():
    """A gradient of `func` is recorded where a tensor outside wants gradients."""
    w = tg.Tensor(A, requires_grad=True)
    tg.func.grad(lambda x: layer(w, x).pow(2).sum())(x).sum().backward()
    v = A.clone().requires_grad_()
    torch.func.grad(lambda x: layer(v, x).pow(2).sum())(x).sum().backward()
    torch.testing.assert_close(w.grad.data, v.grad)
    with tg.no_grad():
        assert not tg.func.grad(lambda x: layer(w, x).sum())(x).requires_grad


def test_numbers_stay_numbers():
    third = tg.func.grad(tg.func.grad(tg.func.grad(lambda x: x**4)))(tg.Tensor(2.0))
    assert third.data == 48.0 and type(third.data) is float
    assert tg.func.jvp(lambda x: x * x, (tg.Tensor(3.0),), (tg.Tensor(1.0),))[1].item() == 6.0


def networks(count):
    torch.manual_seed(3)
    ours = [
        tg.nn.Sequential(tg.nn.Linear(3, 4), tg.nn.Tanh(), tg.nn.Linear(4, 2)).to(torch.float64)
        for _ in range(count)
    ]
    theirs = [
        nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double() for _ in range(count)
    ]
    for our, their in zip(ours, theirs):
        their.load_state_dict({k: v.data for k, v in our.state_dict().items()})
    return ours, theirs


def test_gradients_per_sample():
    (our,), (their,) = networks(1)
    classes = torch.randint(0, 2, (5,))

    def per_sample(T, model):
        def loss(parameters, x, target):
            scores = T.functional_call(model, parameters, (x[None],))
            return torch.nn.functional.cross_entropy(scores, target[None])

        parameters = {k: p.detach() for k, p in model.named_parameters()}
        return T.vmap(T.grad(loss), (None, 0, 0))(parameters, X, classes)

    found, expected = per_sample(tg.func, our), per_sample(torch.func, their)
    torch.testing.assert_close(tree_map(raw, found), dict(expected))


def test_an_ensemble_gets_the_gradients_of_its_members():
    ours, _ = networks(4)
    parameters, buffers = tg.func.stack_module_state(ours)
    assert buffers == {} and parameters["0.weight"].requires_grad
    call = lambda p, x: tg.func.functional_call(ours[0], p, (x,))  # noqa: E731
    tg.func.vmap(call, (0, None))(parameters, X).pow(2).sum().backward()
    for i, model in enumerate(ours):
        model(tg.Tensor(X)).pow(2).sum().backward()
        for path, parameter in model.named_parameters():
            torch.testing.assert_close(parameters[path].grad.data[i], parameter.grad.data)


def test_a_functional_call_leaves_the_module_as_it_was():
    module = tg.nn.Linear(2, 1)
    weight, data, node = module.weight, module.weight.data, module.weight.node
    with pytest.raises(Exception, match="shape|size"):
        tg.func.functional_call(module, {"weight": torch.ones(1, 7)}, torch.ones(2))
    assert module.weight is weight and weight.data is data and weight.node is node
    message = "no parameter or buffer wieght; it has weight, bias"
    with pytest.raises(errors.StateDictError, match=message):
        tg.func.functional_call(module, {"wieght": torch.ones(1, 2)}, torch.ones(2))


def test_dropout_in_a_batch_is_the_same_on_the_way_back():
    w = tg.Tensor(torch.ones(3), requires_grad=True)
    drop = lambda x: torch.nn.functional.dropout(x * w, 0.5)  # noqa: E731
    torch.manual_seed(5)
    y = tg.func.vmap(drop, randomness="different")(torch.ones(6, 3))
    torch.rand(7)  # what is drawn in between does not matter
    y.sum().backward()
    torch.testing.assert_close(w.grad.data, y.data.sum(0))


def test_mistakes_are_named():
    with pytest.raises(errors.GradientShapeError, match=r"one number.*shape \(3,\)"):
        tg.func.grad(torch.sin)(x)
    with pytest.raises(ValueError, match="argnums has 2, and there are 1"):
        tg.func.grad(number, argnums=2)(x)
    with pytest.raises(errors.GradientShapeError, match=r"shape \(3,\).*shape \(4,\)"):
        tg.func.vjp(vector, x)[1](torch.ones(3))
    with pytest.raises(TypeError, match="no tensor"):
        tg.func.vjp(lambda _: 3, x)
    with pytest.raises(ValueError, match="2 primals and 1 tangents"):
        tg.func.jvp(layer, (A, x), (A,))
    with pytest.raises(errors.StateDictError, match="at least one module"):
        tg.func.stack_module_state([])
    with pytest.raises(errors.StateDictError, match="module 1 has"):
        tg.func.stack_module_state([tg.nn.Linear(2, 3), tg.nn.Linear(2, 4)])


def test_what_cannot_be_batched_is_named():
    with pytest.raises(RuntimeError, match=r"torch\.nonzero|nonzero"):
        tg.func.vmap(lambda x: torch.nonzero(x))(X)
    with pytest.raises(ValueError, match="fit|inconsistent|sizes"):
        tg.func.vmap(lambda a, b: a + b)(X, A)


def test_only_real_and_complex_numbers_have_derivatives():
    with pytest.raises(errors.GradientDtypeError, match="int64"):
        tg.func.grad(lambda x: (x * 0.5).sum())(torch.tensor([1, 2]))


def test_numbers_inside_vmap():
    a = tg.Tensor(2.0, requires_grad=True)
    tg.func.vmap(lambda x: x * a)(torch.tensor([1.0, 2.0])).sum().backward()
    assert a.grad.item() == 3
    assert tg.func.jacrev(lambda x: x * x)(tg.Tensor(3.0)).item() == 6
    assert tg.func.jacfwd(lambda x: x * x)(tg.Tensor(3.0)).item() == 6


def test_buffers_are_given_and_stacked_as_parameters_are():
    ours = [tg.nn.BatchNorm1d(2) for _ in range(3)]
    theirs = [torch.nn.BatchNorm1d(2) for _ in range(3)]
    for i, norms in enumerate(zip(ours, theirs)):
        for norm in norms:
            norm.running_mean.data.fill_(i)
    parameters, buffers = tg.func.stack_module_state(ours)
    expected = torch.func.stack_module_state(theirs)
    for stacked, other in zip((parameters, buffers), expected):
        assert list(stacked) == list(other)
        assert all(torch.equal(stacked[k].data, other[k].data) for k in other)
    x = torch.randn(4, 2)
    for norm in (*ours, *theirs):
        norm.eval()
    y = tg.func.vmap(lambda p, b: tg.func.functional_call(ours[0], (p, b), tg.Tensor(x)))(
        parameters, buffers
    )
    for i in range(3):
        torch.testing.assert_close(y.data[i], theirs[i](x).detach())
    ours[0].train(), theirs[0].train()
    given = {"running_mean": torch.ones(2), "weight": torch.full((2,), 3.0)}
    y = tg.func.functional_call(ours[0], given, tg.Tensor(x))
    other = {k: v.clone() for k, v in given.items()} | {"running_mean": torch.ones(2)}
    assert torch.equal(y.data, torch.func.functional_call(theirs[0], other, x).detach())
    assert torch.equal(given["running_mean"], other["running_mean"])
    assert not torch.equal(given["running_mean"], torch.ones(2))
    assert ours[0].running_mean.tolist() == [0, 0]
