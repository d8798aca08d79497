"""Optimisers and what they do with each group of parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from timm.models import group_parameters
from timm.optim import Lars
from torch import Tensor, nn

from glocal.errors import GlocalError
from glocal.methods.base import Method
from glocal.models.architecture import is_transformer
from glocal.models.backbone import Backbone
from glocal.schedules import Clock, Schedule, Steps, Weight, value_at
from glocal.settings import Settings

_Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerSettings(Settings):
    """The recipe's `optimizer` section."""

    name: Literal["sgd", "adamw", "lars"] = "sgd"
    lr: float = Field(0.06, ge=0)  # for `lr_batch_size` images in a batch, scaled linearly for others
    lr_batch_size: int | None = Field(256, ge=1)  # null: lr is taken as it stands
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    final_lr: float = Field(0.0, ge=0)  # of cosine
    milestones: tuple[Annotated[float, Field(gt=0)], ...] = ()  # of step: the epochs at which lr is multiplied
    factor: float = Field(0.1, gt=0, lt=1)  # of step: by this
    warmup_epochs: float = Field(0.0, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)  # SGD and LARS
    betas: tuple[_Beta, _Beta] = (0.9, 0.999)  # AdamW
    weight_decay: Weight = 5e-4
    decay_norm_and_bias: bool = True  # false: no weight decay for biases and normalisation, no adaptation by LARS
    norm_and_bias_lr: float | None = Field(None, ge=0)  # of biases and normalisation (Barlow Twins); null: lr
    layer_decay: float | None = Field(None, gt=0, le=1)  # each layer of the backbone learns at this share of the next's
    clip: Literal["norm", "parameter"] = (
        "norm"  # what train.clip_norm bounds: all gradients' norm, or each one's (DINO)
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.schedule == "step" and not self.milestones:
            raise ValueError("schedule=step needs optimizer.milestones, for example [120, 160]")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must ascend, not {list(self.milestones)}")
        return self

    def peak_lr(self, batch_size: int) -> float:
        """The learning rate at the end of the warm-up.

        >>> OptimizerSettings(lr=0.06).peak_lr(512)
        0.12
        """
        return self.lr if self.lr_batch_size is None else self.lr * batch_size / self.lr_batch_size

    def lr_schedule(self, batch_size: int) -> Schedule | Steps:
        """The learning rate over the training for a global batch of `batch_size` images."""
        peak = self.peak_lr(batch_size)
        if self.schedule == "step":
            return Steps(start=peak, milestones=self.milestones, factor=self.factor, warmup_epochs=self.warmup_epochs)
        end = peak if self.schedule == "constant" else self.final_lr
        return Schedule(start=peak, end=end, warmup_epochs=self.warmup_epochs)


def usual_optimizer(network: str, usable: Sequence[str] = ("sgd", "adamw")) -> str:
    """What a network is usually trained with, of what a method can use: AdamW for transformers, SGD for others.

    >>> usual_optimizer("vit_small"), usual_optimizer("resnet18"), usual_optimizer("vit_small", ["sgd"])
    ('adamw', 'sgd', 'sgd')
    """
    usual = "adamw" if is_transformer(network) else "sgd"
    return usual if usual in usable else usable[0]


def usual_settings(name: str) -> dict[str, Any]:
    """What an optimiser usually has other than `OptimizerSettings` says, which are SGD's."""
    return {"lr": 0.001, "weight_decay": 0.04} if name == "adamw" else {}


def build_optimizers(
    method: Method, settings: OptimizerSettings, *, fused: bool = False
) -> dict[str, torch.optim.Optimizer]:
    """One optimiser for each phase of the method, over the parameter groups that it names.

    Args:
        method: its parameters are trained.
        settings: the recipe's `optimizer` section.
        fused: take torch's fused kernels, which pass over the parameters once; with fp16's scaler they do not clip.

    Raises:
        GlocalError: the method does not work with this optimiser.
    """
    if settings.name not in method.optimizers:
        name = getattr(getattr(method, "settings", None), "name", type(method).__name__)
        raise GlocalError(f"optimizer.name={settings.name}: method {name} needs {' or '.join(method.optimizers)}")
    groups: dict[str, list[dict[str, Any]]] = {phase: [] for phase in method.phases}
    alike = settings.decay_norm_and_bias and settings.norm_and_bias_lr is None
    scales = {} if settings.layer_decay is None else layer_scales(method.backbone, settings.layer_decay)
    for group in method.parameter_groups():
        shared: dict[str, Any] = {"constant_lr": group.constant_lr}
        for scale, parameters in _by_scale(_trainable(group.module), scales):
            if settings.layer_decay is not None:
                shared["lr_scale"] = scale
            weights, plain = (parameters, []) if alike else _split(parameters)
            if weights:
                groups[group.phase].append({"params": weights, "plain": False, **shared})
            if plain:
                groups[group.phase].append({"params": plain, "plain": True, **shared})
    return {phase: _optimizer(groups[phase], settings, fused) for phase in method.phases}


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def layer_scales(backbone: Backbone, decay: float) -> dict[nn.Parameter, float]:
    """What each parameter of a backbone multiplies the learning rate with: decay^(L − 1 − l) in layer l of L.

    The layers are timm's (`timm.optim.param_groups_layer_decay`), as in BEiT, Bao et al., ICLR 2022, appendix.

    Raises:
        GlocalError: timm knows no layers of the network.
    """
    network = backbone.network
    if not hasattr(network, "group_matcher"):
        raise GlocalError(
            f"optimizer.layer_decay: timm knows no layers of {backbone.label}; leave it out, or take another model.name"
        )
    layers = group_parameters(network, network.group_matcher(coarse=False), reverse=True)  # type: ignore[operator]
    last = max(layers.values())
    return {parameter: decay ** (last - layers.get(name, last)) for name, parameter in network.named_parameters()}


def _by_scale(
    parameters: list[nn.Parameter], scales: Mapping[nn.Parameter, float]
) -> list[tuple[float, list[nn.Parameter]]]:
    """Parameters that learn at the same share of the rate, the highest share first; heads have all of it."""
    found: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        found.setdefault(scales.get(parameter, 1.0), []).append(parameter)
    return sorted(found.items(), key=lambda one: -one[0])


def _split(parameters: list[nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Weights, and biases and normalisation: those of one dimension."""
    return [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]


def _optimizer(groups: list[dict[str, Any]], settings: OptimizerSettings, fused: bool) -> torch.optim.Optimizer:
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=settings.betas, fused=fused)
    if settings.name == "lars":
        return Lars(groups, lr=0.0, momentum=settings.momentum)  # type: ignore[no-any-return]
    optimizer = torch.optim.SGD(groups, lr=0.0, momentum=settings.momentum, fused=fused)
    if fused:
        optimizer.register_step_pre_hook(_begin_late_momentum)
    return optimizer


def _begin_late_momentum(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Momentum of zero for parameters that get a gradient later than others of their group (DINO's last layer).

    Fused SGD takes momentum of all parameters or of none. With zero, the first step's is the gradient, as without.
    """
    for group in optimizer.param_groups:
        moving = [parameter for parameter in group["params"] if parameter.grad is not None]
        late = [p for p in moving if optimizer.state.get(p, {}).get("momentum_buffer") is None]
        if group["momentum"] and 0 < len(late) < len(moving):
            for parameter in late:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def set_schedules(optimizer: torch.optim.Optimizer, settings: OptimizerSettings, batch_size: int, clock: Clock) -> None:
    """Puts this step's learning rate and weight decay into every group."""
    schedule = settings.lr_schedule(batch_size)
    decay = value_at(settings.weight_decay, clock)
    own_rate = 1.0 if settings.norm_and_bias_lr is None or not settings.lr else settings.norm_and_bias_lr / settings.lr
    for group in optimizer.param_groups:
        rate = schedule.start if group["constant_lr"] else schedule.at(clock)
        group["lr"] = (rate * own_rate if group["plain"] else rate) * group.get("lr_scale", 1.0)
        group["weight_decay"] = 0.0 if group["plain"] and not settings.decay_norm_and_bias else decay


@torch.no_grad()
def clip_each(gradients: Iterable[Tensor], limit: float) -> None:
    """Cuts each gradient, in place, to a norm of at most `limit`, whatever the others are.

    As `clip_gradients` of DINO's authors (`utils.py`). One whose norm is infinite or no number becomes no number, for
    the scaler of fp16 or the check of the loss to find.
    """
    gradients = list(gradients)
    if not gradients:
        return
    factors = [(limit / (norm + 1e-6)).clamp_(max=1) for norm in torch._foreach_norm(gradients)]
    torch._foreach_mul_(gradients, factors)
