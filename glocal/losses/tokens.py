"""Which student token learns from which teacher token, as flat indices and weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from glocal.errors import GlocalError
from glocal.transfer import to_device
from glocal.views.geometry import PatchMatches

Reduction = Literal["mean", "sum", "lambda"]


def view_pairs(teachers: int, students: int) -> list[tuple[int, int]]:
    """All (teacher view, student view) but those of a view with itself; the first student views are the teacher's.

    >>> view_pairs(2, 3)
    [(0, 1), (0, 2), (1, 0), (1, 2)]
    """
    return [(teacher, student) for teacher in range(teachers) for student in range(students) if teacher != student]


@dataclass
class TokenPairs:
    """The tokens that take part in a distillation, each once, in the order of the images.

    Attributes:
        teacher: (T,) int64, rows of the teacher's tokens, (views · B · tokens) flattened in this order.
        position: (T,) int64, their positions in the view; 0 is the CLS token.
        student: (S,) int64, rows of the student's tokens: the views' (B · tokens) one after another.
        target: (S, G) int64, into `teacher`: what a student token learns from in each teacher view.
        weight: (S, G): its share of the loss; 0 where there is none.
        teacher_starts, student_starts: B + 1 places at which each image's tokens start.
    """

    teacher: Tensor
    position: Tensor
    student: Tensor
    target: Tensor
    weight: Tensor
    teacher_starts: list[int]
    student_starts: list[int]

    def to(self, device: torch.device) -> TokenPairs:
        """The same with its tensors on a device."""
        tensors = ("teacher", "position", "student", "target", "weight")
        moved: dict[str, Any] = {name: to_device(getattr(self, name), device) for name in tensors}
        return replace(self, **moved)


def pair_tokens(
    matches: PatchMatches | None,
    *,
    batch: int,
    teachers: int,
    tokens: Sequence[int],
    reduction: Reduction = "mean",
    cls_weight: float | None = None,
) -> TokenPairs:
    """Pairs CLS tokens, and matched patches, of all views of a batch.

    Each (teacher view, student view) has the same share of the loss, and in it each image. Of this, `mean` gives the
    same to the CLS token and each matched patch; `sum` gives each of them the whole; `lambda` gives λ to the CLS token
    and (1 − λ)/m to each of m matched patches.

    Args:
        matches: of the pairs of views in the order of `view_pairs`, (B, P, M), on the CPU, each student patch at most
            once a pair; None pairs CLS tokens only, which is DINO.
        batch: B.
        teachers: G, the number of teacher views, which are the first student views.
        tokens: of each student view, with the CLS token.
        reduction: see above.
        cls_weight: λ in [0, 1], for `lambda`.

    Raises:
        GlocalError: an unknown reduction, or λ missing or out of place.
    """
    if reduction not in ("mean", "sum", "lambda"):
        raise GlocalError(f"reduction={reduction!r}: choose mean, sum or lambda")
    if (cls_weight is not None) != (reduction == "lambda"):
        raise GlocalError("cls_weight goes with reduction='lambda', which needs it")
    pairs = view_pairs(teachers, len(tokens))
    most, width = max(tokens), tokens[0]
    target = torch.full((batch, len(tokens), most, teachers), -1)  # place in the image's (G · tokens), or none
    weight = torch.zeros(target.shape, dtype=torch.float64)
    share = 1 / (len(pairs) * batch)
    of_teacher, of_student = (torch.tensor(side) for side in zip(*pairs, strict=True))  # (P,)
    if matches is None:
        found = torch.zeros(batch, len(pairs), dtype=torch.float64)
    else:
        if matches.valid.shape[:2] != (batch, len(pairs)):
            raise GlocalError(
                f"matches must be of (B, P, M) = ({batch}, {len(pairs)}, M), one for each pair of a teacher view and "
                f"another student view, not of {tuple(matches.valid.shape)}"
            )
        found = matches.valid.sum(dim=-1).double()  # (B, P)
        image, pair, _ = matches.valid.nonzero(as_tuple=True)
        place = (image, of_student[pair], matches.index_b[matches.valid] + 1, of_teacher[pair])
        target[place] = of_teacher[pair] * width + matches.index_a[matches.valid] + 1
        if reduction == "lambda":
            of_patch = (1 - (cls_weight or 0)) * share / found.clamp(min=1)
        else:
            of_patch = share / (1 + found) if reduction == "mean" else torch.full_like(found, share)
        weight[place] = of_patch[image, pair]
    if reduction == "lambda":
        of_cls = torch.full_like(found, (cls_weight or 0) * share)
    else:
        of_cls = share / (1 + found) if reduction == "mean" else torch.full_like(found, share)
    target[:, of_student, 0, of_teacher] = of_teacher * width
    weight[:, of_student, 0, of_teacher] = of_cls

    used = target >= 0
    learns = used.any(dim=-1)  # (B, V, tokens)
    image, view, token = learns.nonzero(as_tuple=True)  # in the order of the images
    size = torch.tensor(tokens)
    offset = batch * (size.cumsum(0) - size)
    teaches = torch.zeros(batch, teachers * width, dtype=torch.bool)
    teaches[torch.arange(batch).view(-1, 1, 1, 1).expand(used.shape)[used], target[used]] = True
    number = teaches.flatten().cumsum(0).view(batch, -1) - 1  # of each teaching token among all
    teacher_image, token_of_image = teaches.nonzero(as_tuple=True)
    teacher_view, position = token_of_image // width, token_of_image % width
    target = target[learns].clamp(min=0)
    weight = weight[learns]
    numbers = number[image[:, None], target].where(weight > 0, number[image, target.amax(dim=1)][:, None])
    return TokenPairs(
        teacher=(teacher_view * batch + teacher_image) * width + position,
        position=position,
        student=offset[view] + image * size[view] + token,
        target=numbers,
        weight=weight,
        teacher_starts=[0, *teaches.sum(dim=1).cumsum(0).tolist()],
        student_starts=[0, *learns.sum(dim=(1, 2)).cumsum(0).tolist()],
    )


class PatchRows(NamedTuple):
    """Matched patches of several views, each beside the one of a fixed view that it learns from, on the CPU.

    Attributes:
        row: (M,) int64, of the learning views' tokens (B · tokens), one view after another.
        image: (M,) int64, its image.
        token: (M,) int64, what it learns from, among the tokens of its image in the fixed view; 0 is the CLS token.
        weight: (M,): each image in each view has the same share, and so have the patches in it; 1 in all.
    """

    row: Tensor
    image: Tensor
    token: Tensor
    weight: Tensor


def patch_rows(matches: PatchMatches, tokens: Sequence[int]) -> PatchRows:
    """The rows of matched patches, without CLS tokens.

    Args:
        matches: of the fixed view (a) with each learning view (b), (B, V, M), on the CPU.
        tokens: of each learning view, with the CLS token.
    """
    image, view, _ = matches.valid.nonzero(as_tuple=True)
    size = torch.tensor(tokens)
    offset = len(matches.valid) * (size.cumsum(0) - size)
    found = matches.valid.sum(dim=-1)  # (B, V)
    return PatchRows(
        row=offset[view] + image * size[view] + 1 + matches.index_b[matches.valid],
        image=image,
        token=1 + matches.index_a[matches.valid],
        weight=1 / (found.numel() * found[image, view]),
    )
