"""Schedules of the learning rate, with PyTorch's names and its learning rates to the bit::

    scheduler = lr_scheduler.StepLR(optimizer, step_size=30)
    for epoch in range(100):
        ...  # optimizer.step(), for every batch
        scheduler.step()

A learning rate that is a tensor is changed in place, so that programs of `tinygrad_ee559.compile`
go on with the new one. Most schedules compute the next rate from the last one, not from the number
of the epoch, as PyTorch's do: so several of them work together on one optimizer.
"""

from __future__ import annotations

import math
import types
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch

from tinygrad_ee559.optim.optimizer import Optimizer, raw
from tinygrad_ee559.tensor import Tensor


class LRScheduler:
    """The base class of schedules; subclasses define `get_lr`.

    Args:
        optimizer: whose groups' learning rates are set, at once and by every `step`.
        last_epoch: the number of the last epoch, to go on from there; -1 begins anew, and notes the
            learning rates as "initial_lr" in the groups.

    Raises:
        TypeError: `optimizer` is none.
        KeyError: `last_epoch` is given, and a group has no "initial_lr".

    >>> from tinygrad_ee559 import Tensor, optim
    >>> class Harmonic(LRScheduler):
    ...     def get_lr(self):
    ...         return [lr / (self.last_epoch + 1) for lr in self.base_lrs]
    >>> scheduler = Harmonic(optim.SGD([Tensor(1.0, requires_grad=True)], lr=0.5))
    >>> scheduler.step()
    >>> scheduler.get_last_lr()
    [0.25]
    """

    #: Whether the learning rates are set for the first time.
    _is_initial = False

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        _check_optimizer(optimizer)
        self.optimizer = optimizer
        optimizer.scheduled = True
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", _value(group["lr"]))
            elif "initial_lr" not in group:
                raise KeyError(
                    f"group {i} has no initial_lr, which a schedule that goes on after epoch "
                    f"{last_epoch} needs; load the optimizer's state dict first"
                )
        self.base_lrs = [_value(group["initial_lr"]) for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._step_count = 0
        self._is_initial = True
        self.step()
        self._is_initial = False

    def get_lr(self) -> list[Any]:
        """The learning rates of the groups in epoch `last_epoch`; `step` asks for them."""
        raise NotImplementedError(f"{type(self).__name__} does not define get_lr()")

    def step(self) -> None:
        """Begin the next epoch: set the learning rates of all groups."""
        self._step_count += 1
        self.last_epoch += 1
        for group, lr in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            _put(group, "lr", lr)
        self._last_lr = self._now()

    def get_last_lr(self) -> list[Any]:
        """The learning rates that were set last, one for each group; of tensors, copies."""
        return self._last_lr

    def _now(self) -> list[Any]:
        return [_value(group["lr"]) for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """All attributes but the optimizer."""
        return {name: value for name, value in vars(self).items() if name != "optimizer"}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over the state of a schedule of the same class, or of PyTorch's.

        The learning rates of the optimizer stay as they are; they are in the optimizer's own state
        dict.
        """
        vars(self).update(state_dict)


class LambdaLR(LRScheduler):
    """The initial learning rate times a function of the epoch's number.

    Args:
        optimizer, last_epoch: as in `LRScheduler`.
        lr_lambda: the function, or one for each group. Of objects that can be called, the state
            dict holds the attributes; of functions, nothing.

    >>> from tinygrad_ee559 import Tensor, optim
    >>> optimizer = optim.SGD([Tensor(1.0, requires_grad=True)], lr=0.8)
    >>> scheduler = LambdaLR(optimizer, lambda epoch: 0.5**epoch)
    >>> scheduler.step()
    >>> optimizer.param_groups[0]["lr"]
    0.4
    """

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | list[Callable[[int], float]],
        last_epoch: int = -1,
    ) -> None:
        _check_optimizer(optimizer)
        self.lr_lambdas: list[Any] = _for_groups(optimizer, "lr_lambda", lr_lambda)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        return [lr * f(self.last_epoch) for lr, f in zip(self.base_lrs, self.lr_lambdas)]

    def state_dict(self) -> dict[str, Any]:
        saved = [
            None if isinstance(f, types.FunctionType) else dict(vars(f)) for f in self.lr_lambdas
        ]
        return {**super().state_dict(), "lr_lambdas": saved}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        functions = self.lr_lambdas
        for function, saved in zip(functions, state_dict["lr_lambdas"], strict=True):
            if saved is not None:
                vars(function).update(saved)
        super().load_state_dict({**state_dict, "lr_lambdas": functions})


class StepLR(LRScheduler):
    """Multiplies the learning rate by `gamma` every `step_size` epochs.

    Args:
        optimizer, last_epoch: as in `LRScheduler`.
        step_size: how many epochs it stays the same.
        gamma: the factor.

    >>> from tinygrad_ee559 import Tensor, optim
    >>> scheduler = StepLR(optim.SGD([Tensor(1.0, requires_grad=True)], lr=1.0), 2, gamma=0.5)
    >>> for _ in range(4):
    ...     scheduler.step()
    >>> scheduler.get_last_lr()
    [0.25]
    """

    def __init__(
        self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        if self.last_epoch == 0 or self.last_epoch % self.step_size:
            return self._now()
        return [lr * self.gamma for lr in self._now()]


class MultiStepLR(LRScheduler):
    """Multiplies the learning rate by `gamma` in each of some epochs.

    Args:
        optimizer, last_epoch: as in `LRScheduler`.
        milestones: the numbers of these epochs.
        gamma: the factor.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Iterable[int],
        gamma: float = 0.1,
        last_epoch: int = -1,
    ) -> None:
        self.milestones = Counter(milestones)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        if self.last_epoch not in self.milestones:
            return self._now()
        return [lr * self.gamma ** self.milestones[self.last_epoch] for lr in self._now()]


class ExponentialLR(LRScheduler):
    """Multiplies the learning rate by `gamma` in every epoch.

    Args:
        optimizer, last_epoch: as in `LRScheduler`.
        gamma: the factor.
    """

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        return self._now() if self._is_initial else [lr * self.gamma for lr in self._now()]


class LinearLR(LRScheduler):
    """A factor of the learning rate that changes along a line: a warm-up, or a decay.

    Args:
        optimizer, last_epoch: as in `LRScheduler`.
        start_factor: the factor in the first epoch, above 0 and up to 1.
        end_factor: the factor that it comes to, from 0 to 1.
        total_iters: after so many epochs.

    Raises:
        ValueError: a factor is out of range.

    >>> from tinygrad_ee559 import Tensor, optim
    >>> optimizer = optim.SGD([Tensor(1.0, requires_grad=True)], lr=1.0)
    >>> scheduler = LinearLR(optimizer, start_factor=0.5, total_iters=2)
    >>> for _ in range(3):
    ...     print(scheduler.get_last_lr())
    ...     scheduler.step()
    [0.5]
    [0.75]
    [1.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        if not 0 < start_factor <= 1:
            raise ValueError(f"start_factor must be above 0 and at most 1, not {start_factor}")
        if not 0 <= end_factor <= 1:
            raise ValueError(f"end_factor must be from 0 to 1, not {end_factor}")
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        if self.last_epoch == 0:
            return [lr * self.start_factor for lr in self._now()]
        if self._is_initial or self.last_epoch > self.total_iters:
            return self._now()
        slope = self.end_factor - self.start_factor
        before = self.total_iters * self.start_factor + (self.last_epoch - 1) * slope
        return [lr * (1.0 + slope / before) for lr in self._now()]


class CosineAnnealingLR(LRScheduler):
    """Half a cosine from the initial learning rate to `eta_min`, and back (SGDR, without restarts).

    After t epochs, eta_min + (initial - eta_min) * (1 + cos(pi * t / T_max)) / 2; see Loshchilov
    and Hutter 2017, https://arxiv.org/abs/1608.03983.

    Args:
        optimizer, last_epoch: as in `LRScheduler`.
        T_max: the epochs on the way down.
        eta_min: the smallest learning rate.

    >>> from tinygrad_ee559 import Tensor, optim
    >>> optimizer = optim.SGD([Tensor(1.0, requires_grad=True)], lr=1.0)
    >>> scheduler = CosineAnnealingLR(optimizer, T_max=10)
    >>> for _ in range(5):
    ...     scheduler.step()
    >>> round(scheduler.get_last_lr()[0], 6)
    0.5
    """

    def __init__(
        self,
        optimizer: Optimizer,
        T_max: int,  # noqa: N803
        eta_min: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        t, period, least = self.last_epoch, self.T_max, self.eta_min
        if self._is_initial:
            return self._now()
        if (t - 1 - period) % (2 * period) == 0:  # at the bottom, where factors cannot lead out
            rise = 1 - math.cos(math.pi / period)
            return [lr + (base - least) * rise / 2 for lr, base in zip(self._now(), self.base_lrs)]
        factor = (1 + math.cos(math.pi * t / period)) / (1 + math.cos(math.pi * (t - 1) / period))
        return [factor * (lr - least) + least for lr in self._now()]


class OneCycleLR(LRScheduler):
    """One rise of the learning rate to `max_lr`, and a fall to almost nothing.

    Called after every batch, not every epoch. The momentum, or the first of Adam's betas, goes the
    other way. See Smith and Topin 2019, https://arxiv.org/abs/1708.07120.

    Args:
        optimizer, last_epoch: as in `LRScheduler`.
        max_lr: the largest learning rate, or one for each group.
        total_steps: how long it takes; or else
        epochs, steps_per_epoch: two numbers of which this is the product.
        pct_start: the fraction of the steps on the way up.
        anneal_strategy: "cos" for half a cosine up and one down, "linear" for lines.
        cycle_momentum: whether momentum changes too. Betas are numbers, and part of programs: with
            Adam, steps that are compiled want False.
        base_momentum: the smallest momentum, where the learning rate is largest.
        max_momentum: the largest.
        div_factor: begins at max_lr / div_factor,
        final_div_factor: and ends at the initial learning rate / final_div_factor.
        three_phase: first down to the initial learning rate, as fast as up, and then to the end.

    Raises:
        ValueError: neither `total_steps` nor `epochs` and `steps_per_epoch` are given, an argument
            is out of range, or `step` is called more than `total_steps` times.

    >>> from tinygrad_ee559 import Tensor, optim
    >>> optimizer = optim.SGD([Tensor(1.0, requires_grad=True)], momentum=0.9)
    >>> scheduler = OneCycleLR(optimizer, max_lr=1.0, total_steps=11, pct_start=0.5)
    >>> for _ in range(10):
    ...     scheduler.step()
    >>> scheduler.get_last_lr()
    [4e-06]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        _check_optimizer(optimizer)
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError("OneCycleLR needs total_steps, or epochs and steps_per_epoch")
            total_steps = epochs * steps_per_epoch
        if total_steps <= 0:
            raise ValueError(f"the number of steps must be above 0, not {total_steps}")
        if not 0 <= pct_start <= 1:
            raise ValueError(f"pct_start must be from 0 to 1, not {pct_start}")
        if anneal_strategy not in _ANNEALING:
            raise ValueError(f"anneal_strategy must be 'cos' or 'linear', not {anneal_strategy!r}")
        self.total_steps = total_steps
        top = float(pct_start * total_steps) - 1
        self._schedule_phases = [
            _phase(top, "initial_lr", "max_lr", "max_momentum", "base_momentum")
        ]
        if three_phase:
            back = float(2 * pct_start * total_steps) - 2
            self._schedule_phases += [
                _phase(back, "max_lr", "initial_lr", "base_momentum", "max_momentum"),
                _phase(total_steps - 1, "initial_lr", "min_lr", "max_momentum", "max_momentum"),
            ]
        else:
            self._schedule_phases += [
                _phase(total_steps - 1, "max_lr", "min_lr", "base_momentum", "max_momentum")
            ]
        self._anneal_func_type = anneal_strategy
        self.cycle_momentum = cycle_momentum
        self.use_beta1 = "betas" in optimizer.defaults
        if cycle_momentum and not self.use_beta1 and "momentum" not in optimizer.defaults:
            raise ValueError(
                f"{type(optimizer).__name__} has neither momentum nor betas; give OneCycleLR "
                "cycle_momentum=False"
            )
        if last_epoch == -1:
            lrs = _for_groups(optimizer, "max_lr", max_lr)
            tops = _for_groups(optimizer, "max_momentum", max_momentum)
            bases = _for_groups(optimizer, "base_momentum", base_momentum)
            for group, lr, upper, lower in zip(optimizer.param_groups, lrs, tops, bases):
                initial = lr / div_factor
                group.update(initial_lr=initial, max_lr=lr, min_lr=initial / final_div_factor)
                if cycle_momentum:
                    group.update(max_momentum=upper, base_momentum=lower)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        t, phases = self.last_epoch, self._schedule_phases
        if t > self.total_steps:
            raise ValueError(
                f"step() was called {t} times, and the schedule has {self.total_steps} steps"
            )
        start = 0.0
        for phase in phases:
            end = phase["end_step"]
            if t <= end or phase is phases[-1]:
                break
            start = end
        part = (t - start) / (end - start)
        anneal = _ANNEALING[self._anneal_func_type]
        lrs = []
        for group in self.optimizer.param_groups:
            lrs.append(anneal(group[phase["start_lr"]], group[phase["end_lr"]], part))
            if self.cycle_momentum:
                momenta = group[phase["start_momentum"]], group[phase["end_momentum"]]
                momentum = anneal(*momenta, part)
                if self.use_beta1:
                    group["betas"] = (momentum, *group["betas"][1:])
                else:
                    _put(group, "momentum", momentum)
        return lrs


class ReduceLROnPlateau(LRScheduler):
    """Multiplies the learning rate by `factor` when a measure has not become better for a while.

    Args:
        optimizer: whose groups' learning rates are set.
        mode: "min" if the measure should fall, as a loss; "max" if it should rise.
        factor: below 1.
        patience: how many epochs without progress are borne.
        threshold: progress is more than this,
        threshold_mode: as a fraction of the best measure so far ("rel"), or as such ("abs").
        cooldown: how many epochs after a reduction do not count.
        min_lr: the smallest learning rate, or one for each group.
        eps: smaller changes of the learning rate are left out.

    Raises:
        ValueError: an argument is out of range.

    >>> from tinygrad_ee559 import Tensor, optim
    >>> optimizer = optim.SGD([Tensor(1.0, requires_grad=True)], lr=1.0)
    >>> scheduler = ReduceLROnPlateau(optimizer, patience=1)
    >>> for loss in (0.5, 0.4, 0.4, 0.4):
    ...     scheduler.step(loss)
    >>> scheduler.get_last_lr()
    [0.1]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: int = 0,
        min_lr: float | list[float] = 0,
        eps: float = 1e-8,
    ) -> None:
        _check_optimizer(optimizer)
        if factor >= 1.0:
            raise ValueError(f"factor must be below 1, not {factor}")
        if mode not in ("min", "max"):
            raise ValueError(f"mode must be 'min' or 'max', not {mode!r}")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"threshold_mode must be 'rel' or 'abs', not {threshold_mode!r}")
        self.optimizer = optimizer
        optimizer.scheduled = True
        self.mode, self.threshold, self.threshold_mode = mode, threshold, threshold_mode
        self.factor, self.patience, self.cooldown, self.eps = factor, patience, cooldown, eps
        self.min_lrs = _for_groups(optimizer, "min_lr", min_lr)
        self.best = math.inf if mode == "min" else -math.inf
        self.cooldown_counter = self.num_bad_epochs = self.last_epoch = 0
        self._last_lr = self._now()

    def step(self, metrics: Any) -> None:  # type: ignore[override]
        """End an epoch.

        Args:
            metrics: the measure: a number, or a tensor with one element.
        """
        measure = float(metrics)
        self.last_epoch += 1
        self.num_bad_epochs += 1
        if self._is_better(measure):
            self.best = measure
            self.num_bad_epochs = 0
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self._reduce()
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0
        self._last_lr = self._now()

    def _is_better(self, measure: float) -> bool:
        sign = -1 if self.mode == "min" else 1
        if self.threshold_mode == "rel":
            bound = self.best * (1.0 + sign * self.threshold)
        else:
            bound = self.best + sign * self.threshold
        return measure < bound if self.mode == "min" else measure > bound

    def _reduce(self) -> None:
        for group, least in zip(self.optimizer.param_groups, self.min_lrs, strict=True):
            lr = float(raw(group["lr"]))
            lower = max(lr * self.factor, least)
            if lr - lower > self.eps:
                _put(group, "lr", lower)


def _check_optimizer(optimizer: Any) -> None:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"a schedule works on an Optimizer, not on a {type(optimizer).__name__}")


def _for_groups(optimizer: Optimizer, name: str, given: Any) -> list[Any]:
    """What is given for each group, or once for all."""
    count = len(optimizer.param_groups)
    if not isinstance(given, (list, tuple)):
        return [given] * count
    if len(given) != count:
        raise ValueError(f"{name} has {len(given)} entries, and the optimizer {count} groups")
    return list(given)


def _value(held: Any) -> Any:
    """A hyper-parameter as it is now; of a tensor, a copy."""
    value = raw(held)
    return value.clone() if isinstance(value, torch.Tensor) else value


def _put(group: dict[str, Any], name: str, value: Any) -> None:
    """Set a hyper-parameter of a group; a tensor keeps its place."""
    held = group[name]
    if isinstance(raw(held), torch.Tensor):
        raw(held).fill_(float(value))
    elif isinstance(held, Tensor):
        held.data = float(value)
    else:
        group[name] = value


def _phase(
    end_step: float, start_lr: str, end_lr: str, start_momentum: str, end_momentum: str
) -> dict[str, Any]:
    """A part of `OneCycleLR`, by the names of what it goes from and to in the groups."""
    return {
        "end_step": end_step,
        "start_lr": start_lr,
        "end_lr": end_lr,
        "start_momentum": start_momentum,
        "end_momentum": end_momentum,
    }


def _along_cosine(start: Any, end: Any, part: float) -> Any:
    return end + (start - end) / 2.0 * (math.cos(math.pi * part) + 1)


def _along_line(start: Any, end: Any, part: float) -> Any:
    return (end - start) * part + start


_ANNEALING = {"cos": _along_cosine, "linear": _along_line}
