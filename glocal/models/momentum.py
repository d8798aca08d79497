"""The momentum teacher: a slowly moving average of the student."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from glocal.distributed import own_part
from glocal.transfer import to_device
from glocal.views.random import permutation

Buffers = Literal["own", "average", "copy"]


class MomentumTeacher(nn.Module):
    """Copies of the student's modules, chained, that follow them by θ_t ← m·θ_t + (1 − m)·θ_s.

    He et al., "Momentum Contrast", CVPR 2020, eq. 2. Only parameters are averaged in the authors' code of MoCo, BYOL,
    DINO and SCE: the teacher runs in training mode, so its batch-norm buffers follow its own forward passes
    (`buffers="own"`). `"average"` moves floating-point buffers like parameters, `"copy"` takes the student's.

    Args:
        modules: the student's modules in the order in which data pass them, e.g. backbone and projector.
        buffers: what becomes of the buffers at each update.
    """

    def __init__(self, *modules: nn.Module, buffers: Buffers = "own") -> None:
        super().__init__()
        self.chain = nn.Sequential(*(copy.deepcopy(module) for module in modules)).requires_grad_(False)
        for module in self.chain.modules():
            if isinstance(module, DropPath):  # DINO drops paths of the student only
                module.drop_prob = 0.0
        self.buffer_rule = buffers

    @torch.no_grad()
    def forward(self, images: Tensor, groups: int = 1, step: int = 0) -> Tensor:
        """The teacher's output, without gradient.

        Args:
            images: (B, …).
            groups: batch normalisation sees the batch in this many parts (MoCo, section 3.3, "Shuffling BN": the
                student must not be able to tell the positive by the statistics that it shares with its batch).
            step: names the permutation after which the batch is parted; results come back in the given order.
        """
        if groups == 1:
            return self.chain(images)
        order = permutation(len(images), 0, "shuffling batch norm", step)
        back, order = (to_device(places, images.device) for places in (order.argsort(), order))
        parts = [self.chain(part) for part in images[order].chunk(groups)]
        return torch.cat(parts)[back]

    @torch.no_grad()
    def update(self, *modules: nn.Module, momentum: float) -> None:
        """Moves the teacher towards the student's modules in one fused operation per kind of tensor.

        Where weights are sharded, each process moves its own rows: both sides are sharded alike.

        Args:
            modules: the student's modules, as given to the constructor.
            momentum: m in [0, 1]; 1 leaves the teacher where it is.
        """
        student = nn.Sequential(*modules)
        own: list[Tensor] = [own_part(parameter) for parameter in self.chain.parameters()]
        other: list[Tensor] = [own_part(parameter) for parameter in student.parameters()]
        if self.buffer_rule != "own":
            pairs = list(zip(self.chain.buffers(), student.buffers(), strict=True))
            average = self.buffer_rule == "average"
            for mine, theirs in pairs:
                if not (average and mine.is_floating_point()):
                    mine.copy_(theirs)
            if average:
                own += [mine for mine, _ in pairs if mine.is_floating_point()]
                other += [theirs for _, theirs in pairs if theirs.is_floating_point()]
        torch._foreach_lerp_(own, other, 1 - momentum)
