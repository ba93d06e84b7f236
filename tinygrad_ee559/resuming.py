"""`Resumable`: a training that can be interrupted, even killed, and then goes on where it was."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tinygrad_ee559.data import Batches
from tinygrad_ee559.errors import CheckpointError
from tinygrad_ee559.history import Epoch, History
from tinygrad_ee559.nn import Module
from tinygrad_ee559.optim import Optimizer
from tinygrad_ee559.saving import (
    Stateful,
    another_training,
    load_checkpoint,
    save_checkpoint,
)

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
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        model: Module,
        optimizer: Optimizer,
        batches: Mapping[str, Batches | None],
        keep: Kept,
    ) -> None:
        scheduled = any("initial_lr" in group for group in optimizer.param_groups)
        if scheduled and all(getattr(x, "optimizer", None) is not optimizer for x in keep.values()):
            raise ValueError(
                "a learning-rate scheduler changes the optimizer, and a checkpoint needs its state "
                'too; give it as keep={"scheduler": scheduler}'
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
            CheckpointError: the file is damaged or belongs to another training, and nothing was
                changed; or there is no folder for it.
        """
        if not os.path.exists(self._path):
            folder = Path(self._path).resolve().parent
            if not folder.is_dir():  # better now than after an epoch
                raise CheckpointError(f"{self._path} cannot be written: make the folder {folder}")
            return History(), False
        saved = load_checkpoint(self._path)
        training = saved.get("training")
        if training is None:
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

    def _settings_now(self) -> str:
        groups = self._optimizer.param_groups
        return "; ".join(
            ", ".join(f"{name}={group[name]!r}" for name in sorted(group) if name != "params")
            for group in groups
        )


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
