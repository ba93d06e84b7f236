"""Models and trainings on disk: safetensors files, written so that a good one is never lost.

    saving.save("model.safetensors", model)
    saving.load("model.safetensors", model)

    saving.save_checkpoint("run.safetensors", model=model, optimizer=optimizer, epoch=3)
    epoch = saving.load_checkpoint("run.safetensors", model=model, optimizer=optimizer)["epoch"]

The format holds names, shapes, dtypes and bytes, and nothing that could be executed. What is not a
tensor is JSON in its metadata.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Container, Mapping
from typing import Any, Protocol, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialized

from tinygrad_ee559.errors import CheckpointError, StateDictError
from tinygrad_ee559.files import replace
from tinygrad_ee559.nn import Module
from tinygrad_ee559.tensor import Tensor

_CHECKSUM = "sha256"
_STATE = "state"


class Stateful(Protocol):
    """Whatever can say what it is like now, and become like that again."""

    def state_dict(self) -> Mapping[Any, Any]:
        """The state."""

    def load_state_dict(self, state_dict: Any, /) -> object:
        """Take over a state."""


def save(path: str | os.PathLike[str], model: Module) -> None:
    """Write the parameters and buffers of a model to a safetensors file.

    The file appears complete or not at all: what was at `path` before stays until the new content
    is on the disk, and stays for good if writing fails.

    Args:
        path: the file; its folder must exist.
        model: what `load` will be given again, or any program that reads safetensors.

    Raises:
        CheckpointError: the file cannot be written.
        TypeError: the format has no such dtype (torch.complex128).
    """
    _write(path, {name: _stored(tensor) for name, tensor in model.state_dict().items()}, None)


def load(path: str | os.PathLike[str], model: Module) -> None:
    """Copy saved parameters and buffers into a model.

    Args:
        path: a file that `save` wrote, or any safetensors file with the same names and shapes.
        model: made as the saved one was; unchanged if anything is wrong.

    Raises:
        CheckpointError: the file is missing, truncated or damaged, or belongs to another model.
    """
    tensors, _ = _read(path)
    try:
        model.load_state_dict(tensors)
    except StateDictError as error:
        raise CheckpointError(f"{path} was saved from another model: {error}") from error


def save_checkpoint(path: str | os.PathLike[str], /, **parts: Any) -> None:
    """Write all that a training needs to be continued to one safetensors file.

    Like `save`, it writes all of the file or nothing.

    Args:
        path: the file; its folder must exist.
        parts: by name, what is saved: anything with `state_dict` and `load_state_dict`, such as
            models, optimizers and learning-rate schedulers; generators of random numbers; and data
            made of dicts, lists, tuples, tensors, numbers, strings, booleans and None. Numbers come
            back exactly, infinities and NaN included.

    Raises:
        CheckpointError: the file cannot be written.
        TypeError: something in the data or in a state dict is none of these; says where it is.
        ValueError: a part is named "__metadata__", a name that the format needs for itself.

    >>> from tinygrad_ee559 import nn
    >>> model, generator = nn.Linear(2, 1), torch.Generator().manual_seed(0)
    >>> save_checkpoint("run.safetensors", model=model, generator=generator, losses=[0.5, 0.25])
    >>> expected = torch.rand(3, generator=generator)
    >>> load_checkpoint("run.safetensors", model=model, generator=generator)
    {'losses': [0.5, 0.25]}
    >>> torch.equal(torch.rand(3, generator=generator), expected)
    True
    """
    _check_names(parts)
    tree, tensors = _encoded({name: _state_of(part) for name, part in parts.items()})
    kinds = {name: type(part).__name__ for name, part in parts.items()}
    _write(path, tensors, json.dumps({"kinds": kinds, "parts": tree}))


def load_checkpoint(
    path: str | os.PathLike[str], /, **parts: Stateful | torch.Generator
) -> dict[str, Any]:
    """Have models, optimizers, schedulers and generators become what was saved of them.

    Args:
        path: a file that `save_checkpoint` wrote.
        parts: what is changed, under the names under which it was saved; if anything is wrong, all
            of it stays as it is.

    Returns:
        What else the file holds, by name: saved data as they were, and the state dicts of parts
        that were saved and not asked for. What was a `Tensor` is one again.

    Raises:
        CheckpointError: the file is missing, truncated or damaged, is no checkpoint, or its parts
            are of other kinds or shapes than those that were given.
        TypeError: one of `parts` cannot be changed.
    """
    for name, part in parts.items():
        if not isinstance(part, torch.Generator) and not hasattr(part, "load_state_dict"):
            raise TypeError(
                f"{name} is a {type(part).__name__}, which cannot be changed; leave it out, and it "
                "is returned"
            )
    kinds, saved = _kinds_and_states(path)
    problems = [f"it has no {name}" for name in parts if name not in saved]
    problems += [
        f"its {name} is a {kinds[name]}, and the given one is a {type(part).__name__}"
        for name, part in parts.items()
        if name in saved and kinds[name] != type(part).__name__
    ]
    if problems:
        raise another_training(path, f"{'; '.join(problems)}; its parts are {', '.join(saved)}")
    # Copies: the state dict of a model shares the memory that is about to be changed.
    before = {name: _decoded(*_encoded(_state_of(part))) for name, part in parts.items()}
    begun = []
    for name, part in parts.items():
        begun.append(name)
        try:
            _restore(part, saved[name])
        except Exception as error:
            for other in begun:
                _restore(parts[other], before[other])
            raise another_training(path, f"its {name} does not fit, {error}") from error
    return {name: part for name, part in saved.items() if name not in parts}


def another_training(path: str | os.PathLike[str], difference: str) -> CheckpointError:
    """The error that says that a training cannot be continued from this file."""
    return CheckpointError(
        f"{path} belongs to another training: {difference}. Choose another path, or delete the "
        "file to begin anew"
    )


# --------------------------------------------------------------------- the parts


def _kinds_and_states(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, Any]]:
    """What a checkpoint holds, by name."""
    tensors, tree = _read(path)
    if tree is None:
        raise CheckpointError(
            f"{path} holds tensors and nothing else, as saving.save writes them for a model alone; "
            "a checkpoint written by saving.save_checkpoint was expected"
        )
    try:
        document = json.loads(tree)
        kinds, saved = document["kinds"], _decoded(document["parts"], tensors)
        if kinds.keys() != saved.keys():
            raise ValueError(f"kinds of {', '.join(kinds)}, and parts {', '.join(saved)}")
    except Exception as error:
        raise CheckpointError(
            f"{path} is undamaged, and no checkpoint ({type(error).__name__}: {error}); one that "
            "saving.save_checkpoint wrote was expected"
        ) from error
    return kinds, saved


def _state_of(part: Any) -> Any:
    if isinstance(part, torch.Generator):
        return part.get_state()
    return part.state_dict() if hasattr(part, "state_dict") else part


def _restore(part: Stateful | torch.Generator, state: Any) -> None:
    if isinstance(part, torch.Generator):
        part.set_state(state)
    else:
        part.load_state_dict(state)


# ------------------------------------------------- anything, as tensors and JSON


def _encoded(state: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """A state in terms of JSON, and its tensors by the paths that stand there for them.

    What JSON lacks is an object with one key that begins with a dollar sign.
    """
    tensors: dict[str, torch.Tensor] = {}
    return _tree(state, "", tensors), tensors


def _tree(value: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    """The JSON of what stands at a path; its tensors are added to those that were found before."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor) and not isinstance(value.data, torch.Tensor):
        return {"$number": value.data}
    if isinstance(value, (Tensor, torch.Tensor)):
        while path in tensors:  # {"a": {"b": ...}, "a/b": ...}
            path += "'"
        tensors[path] = _stored(value)
        return {"$Tensor" if isinstance(value, Tensor) else "$tensor": path}
    below = f"{path}/" if path else ""
    if isinstance(value, Mapping):
        items = [(key, _tree(item, f"{below}{key}", tensors)) for key, item in value.items()]
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return dict(items)
        return {"$dict": [[_tree(key, path, tensors), item] for key, item in items]}
    if isinstance(value, (list, tuple)):
        items = [_tree(item, f"{below}{i}", tensors) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    raise TypeError(
        f"{path} is a {type(value).__name__}, and a checkpoint holds dicts, lists, tuples, "
        "tensors, numbers, strings, booleans and None; convert it to some of these, or give it "
        "state_dict and load_state_dict"
    )


def _decoded(tree: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """The state that `_encoded` was given."""
    if isinstance(tree, list):
        return [_decoded(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) == 1:
        ((key, value),) = tree.items()
        if key == "$number":
            return Tensor(value)
        if key == "$tensor":
            return tensors[value]
        if key == "$Tensor":
            return Tensor(tensors[value])
        if key == "$tuple":
            return tuple(_decoded(value, tensors))
        if key == "$dict":
            return {_decoded(name, tensors): _decoded(item, tensors) for name, item in value}
    return {name: _decoded(item, tensors) for name, item in tree.items()}


def _stored(tensor: Tensor | torch.Tensor) -> torch.Tensor:
    """A contiguous copy: the format allows neither strides nor tensors that share memory."""
    data = tensor.data if isinstance(tensor, Tensor) else tensor
    if not isinstance(data, torch.Tensor):  # a number, in double precision
        return torch.tensor(data, dtype=torch.float64)
    return data.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


# --------------------------------------------------------------------- the file


def _write(
    path: str | os.PathLike[str], tensors: dict[str, torch.Tensor], tree: str | None
) -> None:
    _check_names(tensors)
    metadata = {_CHECKSUM: _checksum(tensors, tree)}
    if tree is not None:
        metadata[_STATE] = tree
    try:
        content = serialized(tensors, metadata=metadata)
    except KeyError as error:
        raise TypeError(f"safetensors files hold no tensors of dtype {error}") from error
    try:
        replace(path, content)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written ({error}); what was there before is unchanged"
        ) from error


def _check_names(names: Container[str]) -> None:
    if "__metadata__" in names:
        raise ValueError(
            'nothing can be saved under the name "__metadata__", which safetensors files have for '
            "what is not a tensor; choose another name"
        )


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], str | None]:
    """The tensors in a file and, if it is a checkpoint, the JSON that says where they belong."""
    try:
        with safe_open(path, framework="pt") as file:
            # Copies: what safetensors gives changes with the file as long as it lives.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            metadata = cast(dict[str, str], file.metadata() or {})
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); a model saved with saving.save was expected, or a "
            "training saved with saving.save_checkpoint"
        ) from error
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is truncated or damaged ({error}); a complete safetensors file was expected: "
            "save it again, or delete it"
        ) from error
    expected, tree = metadata.get(_CHECKSUM), metadata.get(_STATE)
    if (expected or tree) and _checksum(tensors, tree) != expected:
        raise CheckpointError(
            f"{path} is damaged: its content does not have the checksum that it was saved with, "
            f"sha256 {expected}; save it again, or delete it"
        )
    return tensors, tree


def _checksum(tensors: Mapping[str, torch.Tensor], tree: str | None) -> str:
    """SHA-256 over names, dtypes, shapes and values; safetensors itself verifies only sizes."""
    digest = hashlib.sha256((tree or "").encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
