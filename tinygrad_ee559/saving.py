"""Models on disk: safetensors files, written so that a good one is never lost.

    saving.save("model.safetensors", model)
    saving.load("model.safetensors", model)

The format holds names, shapes, dtypes and bytes, and nothing that could be executed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialized

from tinygrad_ee559.errors import CheckpointError, StateDictError
from tinygrad_ee559.files import replace
from tinygrad_ee559.nn import Module

_CHECKSUM = "sha256"


def save(path: str | os.PathLike[str], model: Module) -> None:
    """Write the parameters of a model to a safetensors file.

    The file appears complete or not at all: what was at `path` before stays until the new content
    is on the disk, and stays for good if writing fails.

    Args:
        path: the file; its folder must exist.
        model: what `load` will be given again, or any program that reads safetensors.

    Raises:
        CheckpointError: the file cannot be written.
    """
    state = {
        # Contiguous copies: the format allows neither strides nor parameters that share memory.
        name: tensor.as_torch().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    content = serialized(state, metadata={_CHECKSUM: _checksum(state)})
    try:
        replace(path, content)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written ({error}); what was there before is unchanged"
        ) from error


def load(path: str | os.PathLike[str], model: Module) -> None:
    """Copy saved parameters into a model.

    Args:
        path: a file that `save` wrote, or any safetensors file with the same names and shapes.
        model: made as the saved one was; unchanged if anything is wrong.

    Raises:
        CheckpointError: the file is missing, truncated or damaged, or belongs to another model.
    """
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            expected = (file.metadata() or {}).get(_CHECKSUM)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); a model saved with saving.save was expected"
        ) from error
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is truncated or damaged ({error}); a complete safetensors file was expected: "
            "save the model again"
        ) from error
    if expected is not None and _checksum(state) != expected:
        raise CheckpointError(
            f"{path} is damaged: the parameters in it do not have the checksum that they were "
            f"saved with, sha256 {expected}; save the model again"
        )
    try:
        model.load_state_dict(state)
    except StateDictError as error:
        raise CheckpointError(f"{path} was saved from another model: {error}") from error


def _checksum(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and values; safetensors itself verifies only sizes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
