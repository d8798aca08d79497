"""Optimisers and what they do with each group of parameters."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from timm.optim import Lars
from torch import nn

from glocal.errors import GlocalError
from glocal.methods.base import Method
from glocal.settings import Settings
from glocal.training.schedules import Clock, Schedule, Scheduled, value_at


class OptimizerSettings(Settings):
    """The recipe's `optimizer` section."""

    name: Literal["sgd", "adamw", "lars"] = "sgd"
    lr: float = Field(0.06, ge=0)  # for `lr_batch_size` images in a batch, scaled linearly for others
    lr_batch_size: int | None = Field(256, ge=1)  # null: lr is taken as it stands
    schedule: Literal["cosine", "constant"] = "cosine"
    final_lr: float = Field(0.0, ge=0)
    warmup_epochs: float = Field(0.0, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)  # SGD and LARS
    betas: tuple[float, float] = (0.9, 0.999)  # AdamW
    weight_decay: Scheduled = 5e-4
    decay_norm_and_bias: bool = True  # false: no weight decay for biases and normalisation

    def peak_lr(self, batch_size: int) -> float:
        """The learning rate at the end of the warm-up.

        >>> OptimizerSettings(lr=0.06).peak_lr(512)
        0.12
        """
        return self.lr if self.lr_batch_size is None else self.lr * batch_size / self.lr_batch_size

    def lr_schedule(self, batch_size: int) -> Schedule:
        """The learning rate over the training for a global batch of `batch_size` images."""
        peak = self.peak_lr(batch_size)
        end = peak if self.schedule == "constant" else self.final_lr
        return Schedule(start=peak, end=end, warmup_epochs=self.warmup_epochs)


def build_optimizers(method: Method, settings: OptimizerSettings) -> dict[str, torch.optim.Optimizer]:
    """One optimiser for each phase of the method, over the parameter groups that it names.

    Raises:
        GlocalError: the method does not work with this optimiser.
    """
    if settings.name not in method.optimizers:
        name = getattr(getattr(method, "settings", None), "name", type(method).__name__)
        raise GlocalError(f"optimizer.name={settings.name}: method {name} needs {' or '.join(method.optimizers)}")
    groups: dict[str, list[dict[str, Any]]] = {phase: [] for phase in method.phases}
    for group in method.parameter_groups():
        decayed, plain = _split(group.module, settings.decay_norm_and_bias)
        options = {"constant_lr": group.constant_lr}
        if decayed:
            groups[group.phase].append({"params": decayed, "decay": True, **options})
        if plain:
            groups[group.phase].append({"params": plain, "decay": False, **options})
    return {phase: _optimizer(groups[phase], settings) for phase in method.phases}


def _split(module: nn.Module, decay_all: bool) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trainable parameters with and without weight decay; one-dimensional ones are biases and normalisation."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if decay_all:
        return trainable, []
    return [p for p in trainable if p.ndim > 1], [p for p in trainable if p.ndim <= 1]


def _optimizer(groups: list[dict[str, Any]], settings: OptimizerSettings) -> torch.optim.Optimizer:
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=settings.betas)
    if settings.name == "lars":
        return Lars(groups, lr=0.0, momentum=settings.momentum)  # type: ignore[no-any-return]
    return torch.optim.SGD(groups, lr=0.0, momentum=settings.momentum)


def set_schedules(optimizer: torch.optim.Optimizer, settings: OptimizerSettings, batch_size: int, clock: Clock) -> None:
    """Puts this step's learning rate and weight decay into every group."""
    schedule = settings.lr_schedule(batch_size)
    decay = value_at(settings.weight_decay, clock)
    for group in optimizer.param_groups:
        group["lr"] = schedule.start if group["constant_lr"] else schedule.at(clock)
        group["weight_decay"] = decay if group["decay"] else 0.0
