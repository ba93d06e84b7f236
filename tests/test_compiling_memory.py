"""Memory: which tensors share it after a run, and what is written while it is still read."""

import pytest
import torch
from steps import interpreted, own_cache

import tinygrad_ee559 as tg
from tinygrad_ee559 import errors, optim
from tinygrad_ee559.compiling.memory import neighbors, share

__all__ = ["interpreted", "own_cache"]


class Holder:
    """An object with any attributes."""

    def __init__(self, **attributes):
        vars(self).update(attributes)


def raw(value):
    return value.as_torch() if isinstance(value, tg.Tensor) else value


def apart(*tensors):
    """Whether each tensor has memory of its own."""
    memories = {raw(t).untyped_storage().data_ptr() for t in tensors}
    return len(memories) == len(tensors)


NUMBERED = [torch.arange(3.0) + i for i in range(5)]


# ------------------------------------------------------------------ outputs that are equal


def of_equals(holder):
    """A step whose outputs are equal, are inputs, or are parts of each other."""

    def step(x):
        holder.state.add_(x)
        holder.one, holder.other = holder.state.clone(), holder.state.clone()
        y = torch.tanh(x)
        holder.last = y.detach()
        return y, y * 1, y[1:], torch.zeros(2), torch.zeros(2), holder.state

    return step


@pytest.mark.parametrize("kind", ["native", "artifact"])
def test_equal_outputs_have_memory_of_their_own(own_cache, kind):
    ours, theirs = Holder(state=torch.ones(3)), Holder(state=torch.ones(3))
    plain, expecting = of_equals(ours), of_equals(theirs)

    def drawing(x):
        torch.rand(1)
        return plain(x)

    fast = tg.compile(plain if kind == "native" else drawing)
    for x in NUMBERED:
        found, expected = fast(x), expecting(x)
        for a, b in zip(found, expected):
            assert a.tolist() == pytest.approx(b.tolist())
        assert found[-1] is ours.state
        kept = [ours.one, ours.other, ours.state]
        assert [t.tolist() for t in kept] == [theirs.state.tolist()] * 3
    assert apart(*found, ours.one, ours.other, ours.last)
    assert fast.programs[0].kind == kind


def test_equal_outputs_of_a_loop(own_cache):
    holder, other = Holder(state=torch.ones(3)), Holder(state=torch.ones(3))
    fast, step = tg.compile(of_equals(holder)), of_equals(other)
    found = fast.loop(torch.stack(NUMBERED))
    rows = [[t.clone() for t in step(x)] for x in NUMBERED]
    for a, b in zip(found, zip(*rows)):
        torch.testing.assert_close(a, torch.stack(b))
    assert apart(*found, holder.state, holder.one, holder.other, holder.last)
    assert holder.last.tolist() == other.last.tolist()
    assert fast.programs[0].kind == "native"


def test_equal_gradients_are_clipped_once(own_cache):
    p, q = (tg.Tensor(torch.ones(3), requires_grad=True) for _ in range(2))

    def step(x):
        p.grad = q.grad = None
        ((p + q) * x).sum().backward()
        return p.grad

    fast = tg.compile(step)
    for x in NUMBERED:
        found = fast(x)
        for leaf in (p, q):
            leaf.grad.mul_(0.5)
        assert p.grad.tolist() == q.grad.tolist() == found.tolist() == (x / 2).tolist()
    assert fast.programs[0].kind == "native"


def test_a_result_that_is_also_left_in_a_place_is_one_tensor(interpreted):
    holder = Holder(h=torch.zeros(3))

    def step(x):
        holder.h = torch.tanh(x)
        return holder.h

    fast = tg.compile(step)
    for x in NUMBERED:
        assert fast(x) is holder.h
    assert len(fast.programs) == 1


# ------------------------------------------------- what is written while it is still read


def shifted(x):
    x[1:] = x[:-1].clone()


def shifted_by_indices(x):
    x[torch.arange(1, len(x))] = x[:-1].clone()


def added_where_it_says(x):
    x.index_put_((x[:3].flatten()[:3].long() % 3,), x[:3].clone(), accumulate=True)


def added_at_rows_that_it_names(x):
    x.index_add_(0, x.flatten()[:3].long().abs() % 3, x[:3] + 1)


@pytest.mark.parametrize("kind", ["native", "artifact"])
@pytest.mark.parametrize(
    "change", [shifted, shifted_by_indices, added_where_it_says, added_at_rows_that_it_names]
)
def test_parts_that_move_within_a_tensor(own_cache, kind, change):
    def step(x):
        change(x)
        return None if kind == "native" else torch.rand(1)

    fast = tg.compile(step)
    for shape in [(40,)] * 3 + [(40, 8)] * 3:
        found = torch.randn(shape) * 3
        expected = found.clone()
        fast(found)
        change(expected)
        assert found.tolist() == expected.tolist()
    assert [program.kind for program in fast.programs] == [kind, kind]


def test_what_is_scattered_is_read_afterwards(own_cache):
    """Inductor forgets that scattering gave it a new name, once its reader was fused with others,
    and fuses both; torch.compile does so too."""

    def training():
        generator = torch.Generator().manual_seed(0)
        weights = [
            tg.Tensor(torch.randn(4, 4, generator=generator, dtype=torch.float64))
            for _ in range(2)
        ]
        for weight in weights:
            weight.requires_grad_()
        optimizer = optim.SGD(weights, lr=1e-3, momentum=0.9)

        def weighed(x):
            return (x * torch.arange(16, dtype=torch.float64).cos().view(4, 4)).sum()

        def step(x):
            optimizer.zero_grad()
            ordered = torch.sort(weights[0] * x, dim=1, descending=True).values * x
            chosen = torch.where(x > 0, weights[1], weights[1].T)
            loss = weighed(ordered) + weighed(chosen)
            loss.backward()
            optimizer.step()
            return loss, ordered.detach(), chosen.detach()

        return step, weights

    (ours, our_weights), (theirs, their_weights) = training(), training()
    fast = tg.compile(ours)
    for seed in range(6):
        x = torch.randn(4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        fast(x), theirs(x)
        for our, their in zip(our_weights, their_weights):
            torch.testing.assert_close(our.grad.data, their.grad.data, rtol=0, atol=1e-12)
            torch.testing.assert_close(our.data, their.data, rtol=0, atol=1e-12)
    assert [program.kind for program in fast.programs] == ["artifact"]


def _put_beside(x, i):
    a = x * 2
    joined = torch.stack([a, x + 1])
    return joined.sum(0) * torch.index_put(a, (i,), x[i], accumulate=True)


def _written_after_joining(x, i):
    a = x * 2
    joined, copy = torch.cat([a, x + 1]), a.clone()
    copy[i] = 0.0
    return joined, copy


def _written_as_a_view(x, i):
    a = x * 2
    joined = torch.cat([a, x + 1])
    return joined.exp(), a.view(-1).index_put((i,), x[0])


def _written_into_what_is_joined(x, i):
    a, b = x * 2, x + 1
    joined = torch.cat([a, b])
    joined[i] = x[i]
    joined[4:] = 7
    return joined, a * b


@pytest.mark.parametrize("kind", ["native", "artifact"])
@pytest.mark.parametrize(
    "function",
    [_put_beside, _written_after_joining, _written_as_a_view, _written_into_what_is_joined],
    ids=lambda function: function.__name__,
)
def test_nothing_is_written_into_the_parts_of_what_was_joined(own_cache, kind, function):
    """Inductor computes parts where the whole is, and may then write into them in place;
    torch.compile does so too."""

    def both(x, i):
        library = [torch.cumsum(x, 0)] if kind == "artifact" else []
        return function(x, i), library

    fast = tg.compile(both)
    x, i = torch.randn(3, 3, dtype=torch.float64), torch.tensor([1, 0, 2])
    expected = both(x, i)
    for _ in range(4):
        torch.testing.assert_close(fast(x, i), expected, rtol=1e-12, atol=1e-12)
    assert [program.kind for program in fast.programs] == [kind]


@pytest.mark.parametrize("size", [2, 3, 4, 17])
def test_gradients_of_chosen_rows_are_added_up_before_they_are_multiplied(own_cache, size):
    weight = tg.Tensor(torch.randn(size, size, dtype=torch.float64), requires_grad=True)

    def step(i):
        weight.grad = None
        h = weight @ weight
        (h * h)[i].sum().backward()

    fast, i = tg.compile(step), torch.tensor([1, 0])
    step(i)
    expected = weight.grad.data.clone()
    for _ in range(4):
        fast(i)
        torch.testing.assert_close(weight.grad.data, expected, rtol=1e-12, atol=1e-12)
    assert len(fast.programs) == 1


@pytest.mark.parametrize(
    "function",
    [
        lambda x, i: torch.index_select(x, 0, i) * 1,
        lambda x, i: torch.index_add(x, 0, i, x[:2], alpha=2),
        lambda x, i: torch.index_copy(x, 1, i, x[:, :2]),
    ],
    ids=["select", "add", "copy"],
)
def test_indices_that_may_not_be_negative(own_cache, function):
    x, fast = torch.arange(9.0).view(3, 3), tg.compile(function)
    for indices in ([0, 1], [2, 0], [1, 1], [2, 1]):
        i = torch.tensor(indices)
        assert fast(x, i).tolist() == function(x, i).tolist()
    for i in (torch.tensor([0, -1]), torch.tensor([3, 0])):
        with pytest.raises((IndexError, RuntimeError)):
            function(x, i)
        with pytest.raises(errors.OperandError, match="is not below 3, or is negative"):
            fast(x, i)
    assert len(fast.programs) == 1


# -------------------------------------------------------- changes in place that are watched


def test_updates_between_forward_and_backward_are_seen(interpreted):
    weight = tg.Tensor(torch.ones(3), requires_grad=True)
    weight.grad = tg.Tensor(torch.ones(3))
    optimizer = optim.SGD([weight], lr=0.1)

    def step(x):
        loss = (weight * weight * x).sum()
        optimizer.step()
        loss.backward()

    with pytest.raises(errors.ChangedInPlaceError):
        step(torch.ones(3))
    with pytest.raises(errors.ChangedInPlaceError):
        tg.compile(step)(torch.ones(3))


@pytest.mark.parametrize("watched", [False, True])
def test_versions_count_changes_once(watched):
    def change(tensors, x):
        torch._foreach_mul_(tensors, 2.0)
        torch._foreach_add_(tensors, tensors)
        tensors[0].add_(1)
        torch.tanh(x, out=tensors[0])

    tensors = [torch.ones(3), torch.ones(3)]
    before = [t._version for t in tensors]
    function = tg.compile(change) if watched else change
    function(tensors, torch.ones(3))
    assert [t._version - v for t, v in zip(tensors, before)] == [4, 2]


def test_data_of_torch_tensors_is_not_assigned(interpreted):
    holder = Holder(mean=torch.zeros(2))

    def step(x):
        holder.mean.data = holder.mean.data * 0.5 + x
        return x.sum()

    for _ in range(2):
        with pytest.raises(errors.CaptureError, match=r"shape \[2\], is assigned.*copy_"):
            tg.compile(step)(torch.ones(2))
    assert holder.mean.tolist() == [0, 0]


def test_data_of_our_tensors_may_be_assigned(interpreted):
    def averaging(mean):
        def step(x):
            mean.data = mean.data * 0.5 + x
            return x.sum()

        return step

    ours, theirs = tg.Tensor(torch.zeros(3)), tg.Tensor(torch.zeros(3))
    fast, step = tg.compile(averaging(ours)), averaging(theirs)
    for x in NUMBERED:
        fast(x), step(x)
        assert ours.tolist() == theirs.tolist()
    assert len(fast.programs) == 1


def refused(function, match):
    """A step is refused in its first run."""
    with pytest.raises(errors.CaptureError, match=f"^{__file__}, line .*{match}"):
        tg.compile(function)(torch.arange(3.0))


def test_lists_that_have_a_tensor_twice(interpreted):
    def twice(x):
        x = x.clone()
        torch._foreach_mul_([x, x], 0.5)
        return x

    def a_part_too(x):
        x = x.clone()
        torch._foreach_add_([x, x[:1]], 1.0)
        return x

    def each_by_the_other(x):
        a, b = x.clone(), x * 2
        torch._foreach_add_([a, b], [b, a])
        return a + 10 * b

    refused(twice, r"_foreach_mul_.* entry 0 of a list, of shape \[3\], .* entry 1, of shape \[3\]")
    refused(a_part_too, r"entry 0 .* entry 1, of shape \[1\]")
    refused(each_by_the_other, "entry 0 .* entry 1")


def test_lists_whose_entries_are_parts_of_one_tensor(interpreted):
    def step(x):
        flat = torch.cat([x, x])
        parts = [*flat.split(2)]
        torch._foreach_add_(parts, parts, alpha=2)
        return flat

    fast = tg.compile(step)
    for x in NUMBERED:
        assert fast(x).tolist() == step(x).tolist()


def test_expanded_tensors_are_not_changed(interpreted):
    def zeroed(x):
        x[:1].clone().expand(3).zero_()
        return x

    def added(x):
        x[:1].clone().expand(3).add_(1)
        return x

    def transposed(x):
        return x[:1].expand(3, 1).t_() * 2

    refused(zeroed, r"zero_ changes a tensor in place that was expanded to shape \[3\]")
    with pytest.raises(RuntimeError, match="single memory location"):  # torch's own
        tg.compile(added)(torch.ones(3))
    assert tg.compile(transposed)(torch.ones(3)).tolist() == [[2, 2, 2]]


@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized")
def test_out_that_is_resized(interpreted):
    def resized(x):
        out = torch.zeros(1)
        torch.tanh(x, out=out)
        return out

    def part_that_is_resized(x):
        torch.tanh(x, out=torch.zeros(4)[:0])
        return x * 2

    def filled(x):
        out = torch.empty(0)
        torch.tanh(x, out=out)
        return out

    refused(resized, r"tanh.out is given a tensor of shape \[1\] as out=, .* one of shape \[3\]")
    refused(part_that_is_resized, r"tanh.out is given a tensor of shape \[0\] as out=")
    fast = tg.compile(filled)
    for x in NUMBERED:
        assert fast(x).tolist() == filled(x).tolist()


# ------------------------------------------------------------------------ results of loops

STEPS = torch.arange(12.0).view(4, 3)


def test_loops_over_steps_that_return_a_wrapped_number(interpreted):
    fast = tg.compile(lambda x: (tg.Tensor(2.0), x * 2))
    for _ in range(2):
        number, doubled = fast.loop(STEPS)
        assert isinstance(number, tg.Tensor) and number.data == 2.0
        assert doubled.tolist() == (2 * STEPS).tolist()


def test_ensembles_of_steps_that_return_a_wrapped_number(interpreted):
    def member(factor):
        weight = torch.full((3,), factor)
        return lambda x: (tg.Tensor(2.0), x * weight)

    together = tg.ensemble([member(1.0), member(2.0)])
    streams = torch.stack([STEPS, STEPS], 1)
    for steps in (streams[:1], streams, streams):
        number, products = together.loop(steps)
        assert isinstance(number, tg.Tensor) and number.data == 2.0
        assert products.tolist() == torch.stack([steps[:, 0], 2 * steps[:, 1]], 1).tolist()


def test_loops_over_steps_whose_results_vary(interpreted):
    def growing(holder):
        result, holder.h = holder.h * 1, torch.cat([holder.h, torch.ones(3)])
        return result

    def wrapped_later(holder):
        holder.calls += 1
        return torch.ones(3) if holder.calls < 3 else tg.Tensor(torch.ones(3))

    def a_number_later(holder):
        holder.calls += 1
        return torch.ones(3) if holder.calls < 3 else 1.0

    def nested_later(holder):
        holder.calls += 1
        return torch.ones(3) if holder.calls < 3 else [torch.ones(3)]

    for function, message in (
        (growing, r"result 0 is a torch.Tensor of shape \[0\] in step 0 and .*\[3\] in step 1"),
        (wrapped_later, r"a torch.Tensor of shape \[3\] in step 0 and a Tensor .* in step 2"),
        (a_number_later, r"a torch.Tensor of shape \[3\] in step 0 and no tensor in step 2"),
        (nested_later, "nested .* in step 2"),
    ):
        holder = Holder(h=torch.zeros(0), calls=0)
        fast = tg.compile(lambda x, function=function, holder=holder: function(holder))
        with pytest.raises(errors.CaptureError, match=message):
            fast.loop(STEPS[:3])


@pytest.mark.parametrize("empty", [torch.empty(0), torch.ones(2)])
def test_one_tensor_beside_new_gradients_on_all_paths(own_cache, empty):
    p = tg.Tensor(torch.ones(5), requires_grad=True)
    q = tg.Tensor(torch.ones(3), requires_grad=True)

    def step(e):
        p.grad = None
        (p * p).sum().backward()
        q.data = q.data * 0.5
        return q.data, e + 1

    fast = tg.compile(step)
    for i in range(4):
        kept, _ = fast(empty)
        assert p.grad.tolist() == [2.0] * 5
        assert q.tolist() == kept.tolist() == [0.5 ** (i + 1)] * 3


def test_neighbors():
    """Between whose first and last numbers there is memory of both."""
    memory = torch.zeros(20)
    tensors = [
        memory[:4], memory[2:6], memory[6:8], memory[8:16:2], memory[9:17:2], memory[3:3], memory,
    ]  # fmt: skip
    found = {frozenset(pair) for pair in neighbors(tensors)}
    assert found == {frozenset(p) for p in [(0, 1), (3, 4), *((i, 6) for i in range(5))]}
    assert [share(tensors[i], tensors[j]) for i, j in [(0, 1), (3, 4), (2, 6), (5, 6)]] == [
        True, False, True, False,
    ]  # fmt: skip
