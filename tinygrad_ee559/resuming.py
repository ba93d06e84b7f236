"""`Resumable`: a training that can be interrupted, even killed, and then goes on where it was."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from tinygrad_ee559.data import Batches
from tinygrad_ee559.errors import CheckpointError
from tinygrad_ee559.files import place
from tinygrad_ee559.history import Epoch, History
from tinygrad_ee559.nn import Module
from tinygrad_ee559.optim import Optimizer
from tinygrad_ee559.saving import (
    Stateful,
    another_training,
    load_checkpoint,
    save_checkpoint,
)
from tinygrad_ee559.tensor import Tensor

Kept = Mapping[str, Stateful | torch.Generator]

_SECONDS_BETWEEN = 5.0


class Resumable:
    """All that changes while `training.fit` works, and the file that it is saved to.

    Args:
        path: the file.
        model: what is trained.
        optimizer: as it was made for the training, or as the training has left it.
        batches: those to learn from and to test on, by name; their generators are saved.
        keep: what else is saved.

    Raises:
        ValueError: a learning-rate scheduler changes the optimizer, and `keep` does not have it.
        TypeError: something in `keep` cannot become again what it was.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        model: Module,
        optimizer: Optimizer,
        batches: Mapping[str, Batches | None],
        keep: Kept,
    ) -> None:
        kept = [getattr(part, "optimizer", None) is optimizer for part in keep.values()]
        if optimizer.scheduled and not any(kept):
            raise ValueError(
                "a learning-rate scheduler changes the optimizer, and a checkpoint needs its state "
                'too; give it as keep={"scheduler": scheduler}'
            )
        for name, part in keep.items():
            if not isinstance(part, torch.Generator) and not hasattr(part, "load_state_dict"):
                raise TypeError(
                    f"keep has {name}, a {type(part).__name__}, which cannot become again what it "
                    "was; give something with state_dict and load_state_dict, or a generator"
                )
        self._path = path
        self._optimizer = optimizer
        self._parts: dict[str, Any] = {
            "model": model,
            "optimizer": optimizer,
            "random": torch.default_generator,
            **{f"{name}_order": b.generator for name, b in batches.items() if b and b.generator},
            **{f"keep_{name}": part for name, part in keep.items()},
        }
        self._training: dict[str, Any] = {
            "parts": ", ".join(self._parts),
            **{f"{name}_data": _described(b) for name, b in batches.items()},
        }
        self._settings = self._settings_now()
        self._due = time.monotonic() + _SECONDS_BETWEEN

    def load(self, epochs: int) -> tuple[History, bool]:
        """Become what was saved last, if there is a file.

        Args:
            epochs: how many the training will have.

        Returns:
            The epochs that are done, and whether a callback has stopped the training.

        Raises:
            CheckpointError: the file is damaged, belongs to another training or cannot be written;
                nothing was changed.
        """
        if not os.path.exists(self._path):
            self._check_place()
            return History(), False
        saved = load_checkpoint(self._path)
        training = saved.get("training")
        if not isinstance(training, dict) or training.keys() != self._training.keys():
            raise another_training(self._path, "it was not written by fit")
        for name, here in self._training.items():
            if training[name] != here:
                raise another_training(
                    self._path, f"its {name} are {training[name]}, and here they are {here}"
                )
        # A new optimizer is as the saved one was at first, and one that goes on as it is now.
        if self._settings not in saved["settings"]:
            raise another_training(
                self._path,
                f"its optimizer began with {saved['settings'][0]}, and this one has "
                f"{self._settings}",
            )
        if len(saved["history"]) > epochs:
            raise another_training(
                self._path, f"it has {len(saved['history'])} epochs, and this one {epochs}"
            )
        if len(saved["history"]) < epochs and not saved["stopped"]:
            self._check_place()
        load_checkpoint(self._path, **self._parts)
        self._settings = saved["settings"][0]
        return History(Epoch(**epoch) for epoch in saved["history"]), saved["stopped"]

    def save(self, history: History, stopped: bool, last: bool) -> None:
        """Write the file, unless it is only seconds old and other epochs follow.

        Raises:
            CheckpointError: the file cannot be written.
        """
        if not last and time.monotonic() < self._due:
            return
        save_checkpoint(
            self._path,
            **self._parts,
            training=self._training,
            settings=[self._settings, self._settings_now()],
            history=[asdict(epoch) for epoch in history],
            stopped=stopped,
        )
        self._due = time.monotonic() + _SECONDS_BETWEEN

    def _check_place(self) -> None:
        """Better now than after an epoch."""
        try:
            place(self._path)
        except OSError as error:
            raise CheckpointError(f"{self._path} cannot be written: {error}") from error

    def _settings_now(self) -> str:
        groups = self._optimizer.param_groups
        return "; ".join(
            ", ".join(f"{name}={_exact(group[name])}" for name in sorted(group) if name != "params")
            for group in groups
        )


def _exact(value: Any) -> str:
    """A hyper-parameter with all its digits, of which a tensor shows four."""
    return repr(value.tolist() if isinstance(value, (Tensor, torch.Tensor)) else value)


def _described(batches: Batches | None) -> str:
    if batches is None:
        return "none"
    inputs, targets = (
        f"{list(rows.shape)} {rows.dtype}" for rows in (batches.inputs, batches.targets)
    )
    return (
        f"{inputs} and {targets} in batches of {batches.batch_size}"
        f"{' without the last, smaller one' * batches.drop_last}"
    )
