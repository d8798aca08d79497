"""What DINO and patch-wise DINO share: student head, momentum teacher and centre."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glocal.distributed import all_sum
from glocal.losses.distillation import distill
from glocal.losses.tokens import TokenPairs
from glocal.models.backbone import Backbone
from glocal.models.heads import PrototypeHead
from glocal.models.momentum import MomentumTeacher

_LOOKED_AT = 128  # tokens whose logits are held at once, where somebody looks at them


class Distiller(nn.Module):
    """Compares tokens of the student with those of its momentum teacher, whose logits are centred.

    Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021: teacher (section 3.1), centre
    (eq. 4).

    Args:
        backbone: the student's, or another network before the head; an identity where there is none.
        head: the student's.
        positions: token positions with a centre of their own; 1 is one centre for all.
    """

    center: Tensor

    def __init__(self, backbone: nn.Module, head: PrototypeHead, *, positions: int = 1) -> None:
        super().__init__()
        self.head = head
        self.teacher = MomentumTeacher(backbone, head)
        self.register_buffer("center", torch.zeros(positions, len(head.directions)))
        self._seen: list[tuple[Tensor, Tensor]] = []
        self._taught: tuple[Tensor, Tensor] | None = None  # some of the last step's teacher tokens, and their positions

    @property
    def teacher_backbone(self) -> Backbone:
        """The teacher's backbone: what is evaluated."""
        return self.teacher.chain[0]  # type: ignore[return-value]

    def loss(
        self,
        teacher: Tensor,
        student: Tensor,
        pairs: TokenPairs,
        *,
        teacher_temperature: float,
        student_temperature: float,
        frozen_prototypes: bool = False,
    ) -> Tensor:
        """The weighted cross-entropy between paired tokens.

        Args:
            teacher: (T, D) backbone tokens of `pairs.teacher`.
            student: (S, D) backbone tokens of `pairs.student`.
            pairs: who learns from whom.
            teacher_temperature, student_temperature: τ_t, τ_s.
            frozen_prototypes: give the student's prototypes no gradient.
        """
        theirs: PrototypeHead = self.teacher.chain[1]  # type: ignore[assignment]
        with torch.no_grad():
            key = theirs(teacher)
            position = pairs.position if len(self.center) > 1 else torch.zeros_like(pairs.position)
            # Means of logits are logits of means: the centre needs no logits.
            total = key.new_zeros(len(self.center), key.shape[1]).index_add_(0, position, key)
            count = key.new_zeros(len(self.center)).index_add_(0, position, torch.ones_like(key[:, 0]))
            self._seen.append((total, count))
            self._taught = key[:_LOOKED_AT].clone(), position[:_LOOKED_AT]
        ours = self.head.directions.detach() if frozen_prototypes else self.head.directions
        length = self.head.length.detach() if frozen_prototypes else self.head.length
        return distill(
            key,
            self.head(student),
            pairs,
            teacher_temperature=teacher_temperature,
            student_temperature=student_temperature,
            center=self.center if len(self.center) > 1 else self.center[0],
            prototypes=(theirs.directions, ours),
            lengths=(theirs.length, length),
        )

    @torch.no_grad()
    def assignments(self, temperature: float) -> Tensor | None:
        """The teacher's softmax over the prototypes of up to 128 tokens of the last step, (R, K); None before it."""
        if self._taught is None:
            return None
        rows, position = self._taught
        theirs: PrototypeHead = self.teacher.chain[1]  # type: ignore[assignment]
        return torch.softmax((theirs.logits(rows) - self.center[position]) / temperature, dim=1)

    @torch.no_grad()
    def after_step(self, backbone: nn.Module, *, momentum: float, center_momentum: float) -> None:
        """Moves the centre to the mean of the step's teacher logits, position by position, and the teacher.

        Positions that no token of the step had keep their centre.
        """
        total, count = (all_sum(torch.stack(parts).sum(dim=0)) for parts in zip(*self._seen, strict=True))
        self._seen.clear()
        theirs: PrototypeHead = self.teacher.chain[1]  # type: ignore[assignment]
        mean = theirs.logits(total / count.clamp(min=1)[:, None])
        self.center.lerp_(torch.where(count[:, None] > 0, mean, self.center), 1 - center_momentum)
        self.teacher.update(backbone, self.head, momentum=momentum)
