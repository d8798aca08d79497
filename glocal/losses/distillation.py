"""Self-distillation: the student's softmax follows the teacher's, for whole views (DINO) and matched patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from glocal.errors import GlocalError
from glocal.losses.precision import full_precision
from glocal.losses.tokens import Reduction, TokenPairs, pair_tokens, view_pairs
from glocal.views.geometry import PatchMatches

_CHUNK_BYTES = 32 << 20  # of logits held at a time


@full_precision
def dino(
    teacher_logits: Tensor,
    student_logits: Tensor,
    *,
    teacher_temperature: float,
    student_temperature: float,
    center: Tensor,
) -> Tensor:
    """DINO: cross-entropy between teacher and student of different views of an image.

    −Σₖ softmax((t − c)/τ_t)ₖ log softmax(s/τ_s)ₖ, averaged over the batch and all pairs of a teacher view and another
    student view. Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, eq. 2–4.

    Args:
        teacher_logits: (G, B, K); treated as constants.
        student_logits: (V, B, K); the first G views are the teacher's.
        teacher_temperature, student_temperature: τ_t, τ_s > 0.
        center: c, (K,).

    Returns:
        Scalar in the dtype of the inputs.
    """
    target = torch.softmax((teacher_logits.detach() - center) / teacher_temperature, dim=-1)
    teachers, (views, batch, _) = len(target), student_logits.shape
    # Σ over the other teacher views: of all of them, less the view's own.
    others = target.sum(dim=0).expand(views, -1, -1).clone()
    others[:teachers] -= target
    prediction = torch.log_softmax(student_logits / student_temperature, dim=-1)
    return -(others * prediction).sum() / (batch * len(view_pairs(teachers, views)))


@full_precision
def patchwise(
    teacher_tokens: Sequence[Tensor],
    student_tokens: Sequence[Tensor],
    matches: PatchMatches,
    *,
    teacher_temperature: float,
    student_temperature: float,
    center: Tensor,
    reduction: Reduction = "mean",
    cls_weight: float | None = None,
) -> Tensor:
    """Patch-wise DINO: DINO's cross-entropy for the CLS tokens and for matched patches of two views.

    Javidani, Sadeghi and Araabi, "Patch-Wise Self-Supervised Visual Representation Learning", 2023, section 3.4. Of
    each pair of a teacher and a student view and each image: `mean` averages over the CLS token and the matched
    patches, `sum` adds them up, `lambda` is λ times the CLS token's loss + (1 − λ) times the mean of the patches'. Then
    the mean over images and pairs. The paper gives all images of a batch the same matches, so its mean over batch and
    tokens at once is the same.

    Args:
        teacher_tokens: G tensors (B, 1 + N, K) of logits, CLS first; treated as constants.
        student_tokens: V tensors (B, 1 + Nᵥ, K) of logits; the first G views are the teacher's.
        matches: `match_patches` of the pairs in the order of `view_pairs`: (B, P, M), a the teacher's patches.
        teacher_temperature, student_temperature: τ_t, τ_s > 0.
        center: (K,), or (1 + N, K) for a centre per token position as in the authors' code.
        reduction: `mean`, `sum` or `lambda`.
        cls_weight: λ, for `lambda`.

    Returns:
        Scalar in the dtype of the inputs.

    Raises:
        GlocalError: see `pair_tokens`.
    """
    teacher, student = (torch.cat([view.flatten(0, 1) for view in side]) for side in (teacher_tokens, student_tokens))
    pairs = pair_tokens(
        PatchMatches(matches.index_a.cpu(), matches.index_b.cpu(), matches.valid.cpu()),
        batch=len(student_tokens[0]),
        teachers=len(teacher_tokens),
        tokens=[view.shape[1] for view in student_tokens],
        reduction=reduction,
        cls_weight=cls_weight,
    ).to(student.device)
    return distill(
        teacher[pairs.teacher],
        student[pairs.student],
        pairs,
        teacher_temperature=teacher_temperature,
        student_temperature=student_temperature,
        center=center,
    )


def distill(
    teacher: Tensor,
    student: Tensor,
    pairs: TokenPairs,
    *,
    teacher_temperature: float,
    student_temperature: float,
    center: Tensor,
    prototypes: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Weighted cross-entropy between paired tokens, with logits computed chunk by chunk and never held.

    Σ wₛₜ · CE(softmax((t − c)/τ_t), softmax(s/τ_s)). A student token's targets add up before they meet its logits, so
    each token passes the prototypes once, however many pairs it is in. Gradients are computed in the forward pass,
    while a chunk's logits are there; nothing is recomputed in the backward pass.

    Args:
        teacher: (T, D) rows of `pairs.teacher`, or (T, K) logits without `prototypes`; constants.
        student: (S, D) rows of `pairs.student`, or (S, K).
        pairs: who learns from whom.
        teacher_temperature, student_temperature: τ_t, τ_s > 0.
        center: (K,), or (positions, K).
        prototypes: the teacher's and the student's last layers (K, D); logits are row · prototypes.

    Returns:
        Scalar in the dtype of `student`; inside autocast, matrix products run in its dtype.

    Raises:
        GlocalError: rows that do not fit `pairs`.
    """
    if len(teacher) != len(pairs.teacher) or len(student) != len(pairs.student):
        raise GlocalError(
            f"{len(teacher)} teacher and {len(student)} student rows do not fit pairs of {len(pairs.teacher)} and "
            f"{len(pairs.student)}"
        )
    device = student.device.type
    if prototypes is not None and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        teacher, student = teacher.to(dtype), student.to(dtype)
        prototypes = (prototypes[0].to(dtype), prototypes[1].to(dtype))
    with torch.autocast(device, enabled=False):
        theirs, ours = prototypes if prototypes is not None else (None, None)
        temperatures = (teacher_temperature, student_temperature)
        loss: Tensor = _Distillation.apply(student, ours, teacher.detach(), theirs, pairs, center, *temperatures)
    return loss


class _Distillation(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        student: Tensor,
        prototypes: Tensor | None,
        teacher: Tensor,
        teacher_prototypes: Tensor | None,
        pairs: TokenPairs,
        center: Tensor,
        teacher_temperature: float,
        student_temperature: float,
    ) -> Tensor:
        full = torch.promote_types(student.dtype, torch.float32)
        weight = pairs.weight.to(full)
        mass = weight.sum(dim=1, keepdim=True)  # (S, 1)
        to_student = torch.empty_like(student)
        to_prototypes = None if prototypes is None else torch.zeros_like(prototypes, dtype=full)
        loss = torch.zeros((), dtype=full, device=student.device)
        width = center.shape[-1]
        rows = max(1, _CHUNK_BYTES // (full.itemsize * width))
        # Buffers grow once and are used again: memory that is fresh is slow to touch.
        targets, logits_buffer, mixture, gathered = (student.new_empty(0, dtype=full) for _ in range(4))
        for (t0, t1), (s0, s1) in _image_chunks(pairs, rows):
            target = _rows_of(targets, t1 - t0, width)
            for part in _slices(t0, t1, rows):
                logits = target[part.start - t0 : part.stop - t0]
                _project(teacher[part], teacher_prototypes, out=logits)
                middle = center if center.ndim == 1 else _take(center, pairs.position[part], gathered)
                logits.sub_(middle).div_(teacher_temperature)
                logits.sub_(logits.amax(dim=1, keepdim=True)).exp_()
                logits.div_(logits.sum(dim=1, keepdim=True))  # softmax in place
            for part in _slices(s0, s1, rows):
                logits = _rows_of(logits_buffer, part.stop - part.start, width)
                _project(student[part], prototypes, out=logits)
                logits.div_(student_temperature)  # (s, K)
                index, share = pairs.target[part] - t0, weight[part]
                expected = _take(target, index[:, 0], mixture).mul_(share[:, :1])
                for view in range(1, index.shape[1]):
                    expected.addcmul_(_take(target, index[:, view], gathered), share[:, view : view + 1])
                loss -= torch.bmm(expected[:, None], logits[:, :, None]).sum()
                highest = logits.amax(dim=1, keepdim=True)
                total = logits.sub_(highest).exp_().sum(dim=1, keepdim=True)
                loss += (mass[part] * (highest + total.log())).sum()
                # The gradient to the logits, (mass · softmax − expected) / τ_s, in place of the logits.
                gradient = logits.mul_(mass[part] / total).sub_(expected).div_(student_temperature).to(student.dtype)
                if prototypes is None or to_prototypes is None:
                    to_student[part] = gradient
                else:
                    torch.mm(gradient, prototypes, out=to_student[part])
                    if gradient.dtype == full:
                        to_prototypes.addmm_(gradient.T, student[part])
                    else:
                        to_prototypes += gradient.T @ student[part]
        ctx.save_for_backward(to_student, to_prototypes)
        return loss.to(full)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        to_student, to_prototypes = ctx.saved_tensors
        scaled = None if to_prototypes is None else (to_prototypes * gradient)
        return (to_student * gradient.to(to_student.dtype), scaled, *[None] * 6)


def _project(rows: Tensor, prototypes: Tensor | None, *, out: Tensor) -> None:
    """Writes the logits of some rows; on a CPU some prototypes at a time, which is a third faster there."""
    if prototypes is None:
        out.copy_(rows)
        return
    block = 4096 if rows.device.type == "cpu" else len(prototypes)
    for part in _slices(0, len(prototypes), block):
        if rows.dtype == out.dtype:
            torch.mm(rows, prototypes[part].T, out=out[:, part])
        else:
            out[:, part] = rows @ prototypes[part].T


def _take(source: Tensor, index: Tensor, buffer: Tensor) -> Tensor:
    """Rows of `source`, in the buffer."""
    return torch.index_select(source, 0, index, out=_rows_of(buffer, len(index), source.shape[1]))


def _slices(first: int, last: int, length: int) -> list[slice]:
    return [slice(start, min(start + length, last)) for start in range(first, last, length)]


def _rows_of(buffer: Tensor, rows: int, width: int) -> Tensor:
    if buffer.numel() < rows * width:
        buffer.resize_(rows * width)
    return buffer[: rows * width].view(rows, width)


def _image_chunks(pairs: TokenPairs, rows: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Ranges of teacher and of student rows of consecutive images: at most `rows` teacher rows, or one image."""
    starts = list(zip(pairs.teacher_starts, pairs.student_starts, strict=True))
    chunks, first = [], 0
    for last in range(1, len(starts)):
        if last == len(starts) - 1 or starts[last + 1][0] - starts[first][0] > rows:
            chunks.append(((starts[first][0], starts[last][0]), (starts[first][1], starts[last][1])))
            first = last
    return chunks
