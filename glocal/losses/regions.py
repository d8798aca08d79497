"""Regions of two views that look most alike, as pairs to learn from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from glocal.errors import GlocalError
from glocal.losses.precision import full_precision
from glocal.losses.tokens import TokenPairs, view_pairs
from glocal.transfer import widest


@torch.no_grad()
@full_precision
def match_regions(teacher: Tensor, student: Tensor) -> Tensor:
    """For each of the student's regions the one of highest cosine in each view of the teacher.

    Li et al., "Efficient Self-supervised Vision Transformers for Representation Learning", ICLR 2022: j* = argmaxⱼ
    sᵢ·tⱼ / (‖sᵢ‖·‖tⱼ‖), for all regions of a view with all of another, so O(T²) for T regions.

    Args:
        teacher: (B, G, N, D) features of G views.
        student: (B, M, D) features of all views' regions.

    Returns:
        (B, M, G) int64 in 0 … N − 1; without gradient.

    >>> features = torch.eye(3)
    >>> match_regions(features[None, None], features[None, [2, 0]])[..., 0].tolist()
    [[2, 0]]
    """
    batch, views, regions, _ = teacher.shape
    similarity = normalize(student.float(), dim=-1) @ normalize(teacher.float(), dim=-1).flatten(1, 2).mT
    return similarity.view(batch, -1, views, regions).argmax(dim=-1)


def pair_regions(matches: Tensor, *, regions: Sequence[int]) -> TokenPairs:
    """Pairs every region of the student's views with its match in each other view of the teacher.

    Each (teacher view, student view) has the same share of the loss, in it each image, and in it each region of the
    student (Li et al., ICLR 2022, region-level task). Rows are those of (B, G, N) and of (B, M), flattened.

    Args:
        matches: (B, M, G) from `match_regions`; M are the regions of all student views, one view after another, the
            teacher's first.
        regions: of each student view.

    Raises:
        GlocalError: `regions` do not sum to M, or G is 1, so that the first view would have nothing to learn from.
    """
    batch, count, teachers = matches.shape
    if teachers < 2 or sum(regions) != count:
        raise GlocalError(f"matches of {tuple(matches.shape)} need 2 teacher views and {count} regions: {regions}")
    device, width = matches.device, regions[0]
    size = torch.tensor(regions, device=device)
    view = torch.arange(len(size), device=device).repeat_interleave(size)  # (M,)
    source = torch.arange(teachers, device=device)
    other = view[:, None] != source  # (M, G)
    share = 1 / (len(view_pairs(teachers, len(regions))) * batch * size[view].to(widest(device)))  # (M,)
    first = torch.where(source[0] == view, source[1], source[0])[:, None]  # a teacher view that is another one
    # Of the view itself nothing is learned: there stands the match in another one, with weight 0.
    target = (matches + width * source).where(other, matches.gather(2, first.expand(batch, -1, 1)) + width * first)
    teaches = torch.zeros(batch, teachers * width, dtype=torch.bool, device=device)
    teaches.scatter_(1, target.flatten(1), True)
    number = teaches.flatten().cumsum(0).view(batch, -1) - 1  # of each teaching region among all
    rows = teaches.flatten().nonzero()[:, 0]
    return TokenPairs(
        teacher=rows,
        position=rows % width,
        student=torch.arange(batch * count, device=device),
        target=number.gather(1, target.flatten(1)).view(-1, teachers),
        weight=(share[:, None] * other).expand(batch, -1, -1).flatten(0, 1),
        teacher_starts=[0, *teaches.sum(dim=1).cumsum(0).tolist()],
        student_starts=list(range(0, batch * count + 1, count)),
    )


def pair_in_place(batch: int, *, regions: Sequence[int]) -> TokenPairs:
    """Pairs every region with the teacher's of the same view and place; views, images and regions share alike.

    Rows are those of (B, M), flattened, where M are the regions of all views, one view after another.

    Args:
        batch: B.
        regions: of each view.

    >>> pair_in_place(1, regions=[1, 2]).weight[:, 0].tolist()
    [0.5, 0.25, 0.25]
    """
    size = torch.tensor(regions)
    rows = torch.arange(batch * int(size.sum()))
    starts = list(range(0, len(rows) + 1, int(size.sum())))
    share = 1 / (len(regions) * batch * size.double())
    return TokenPairs(
        teacher=rows,
        position=torch.arange(len(rows)) % int(size.sum()),
        student=rows,
        target=rows[:, None],
        weight=share.repeat_interleave(size).repeat(batch)[:, None],
        teacher_starts=starts,
        student_starts=starts,
    )
