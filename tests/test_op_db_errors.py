"""What PyTorch's operators reject is rejected here: the same kind of error, torch's own words."""

import re
import warnings

import pytest
import torch
from compare import differentiable, map_tensors
from op_db import as_method, operators

import tinygrad_ee559 as tg

WITH_ERRORS = {name: op for name, op in operators().items() if op.error_inputs_func is not None}


def on_tape(tensor):
    return tg.Tensor(tensor.detach(), requires_grad=differentiable(tensor))


def rejected(function, args, kwargs):
    try:
        function(*args, **kwargs)
    except Exception:
        return True
    return False


def chain(error):
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("name", WITH_ERRORS)
def test_errors_are_torchs(name):
    op = WITH_ERRORS[name]
    for number, wrong in enumerate(op.error_inputs("cpu")):
        sample = wrong.sample_input
        given = ((sample.input, *sample.args), sample.kwargs)
        if "out" in sample.kwargs:
            continue  # results in given places are not recorded
        function = as_method(op) if isinstance(sample.input, torch.Tensor) else op.op
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            args, kwargs = map_tensors(lambda t: t.detach(), given)
            if not rejected(function, args, kwargs):
                continue  # nor does PyTorch
            args, kwargs = map_tensors(on_tape, given)
            with pytest.raises(wrong.error_type) as caught:
                function(*args, **kwargs)
        words = list(chain(caught.value))
        assert any(re.search(wrong.error_regex, text) for text in words), (number, words)
    assert torch.is_grad_enabled()
