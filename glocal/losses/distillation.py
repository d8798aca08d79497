"""Self-distillation: the student's softmax follows the teacher's, for whole views (DINO) and matched patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from glocal.errors import GlocalError
from glocal.losses.precision import full_precision
from glocal.losses.tokens import Reduction, TokenPairs, pair_tokens, view_pairs
from glocal.views.geometry import PatchMatches

_CHUNK_BYTES = 64 << 20  # of logits held at a time
_SMALLEST_LENGTH = 1e-12  # as in torch.nn.functional.normalize
_CACHED_COLUMNS = 2048  # of a block that a CPU keeps in its cache


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

    Javidani, Sadeghi and Araabi, "Local-Global Self-Supervised Visual Representation Learning", section 3.4. Of each
    pair of a teacher and a student view and each image: `mean` averages over the CLS token and the matched patches,
    `sum` adds them up, `lambda` is λ times the CLS token's loss + (1 − λ) times the mean of the patches'. Then
    the mean over images and pairs. The paper gives all images of a batch the same matches, so its mean over batch and
    tokens at once is the same.

    Args:
        teacher_tokens: G tensors (B, 1 + N, K) of logits, CLS first; treated as constants.
        student_tokens: V tensors (B, 1 + Nᵥ, K) of logits; the first G views are the teacher's.
        matches: `match_patches` of the pairs in the order of `view_pairs`: (B, P, M), a the teacher's patches.
        teacher_temperature, student_temperature: τ_t, τ_s > 0.
        center: (K,) as in the paper's Algorithm 1, or (1 + N, K) for a centre per token position as in the code.
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
    lengths: tuple[Tensor, Tensor] | None = None,
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
        lengths: (K, 1) of each side, to which the prototypes are brought first; the layer of that length is never held:
            its factors go to the logits, and gradients are those of the prototypes as they are given.

    Returns:
        Scalar in the dtype of `student`; inside autocast to bfloat16, matrix products run in it.

    Raises:
        GlocalError: rows that do not fit `pairs`.
    """
    if len(teacher) != len(pairs.teacher) or len(student) != len(pairs.student):
        raise GlocalError(
            f"{len(teacher)} teacher and {len(student)} student rows do not fit pairs of {len(pairs.teacher)} and "
            f"{len(pairs.student)}"
        )
    device = student.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    # Gradients are made here, before a loss scale could keep them from underflow: float16 is no place for them.
    rounded = dtype if prototypes is not None and dtype != torch.float16 else None
    with torch.autocast(device, enabled=False):
        theirs, ours = _Layer.of(prototypes, lengths, 0, rounded), _Layer.of(prototypes, lengths, 1, rounded)
        weights = (None, None) if prototypes is None else (prototypes[1], None if lengths is None else lengths[1])
        temperatures = (teacher_temperature, student_temperature)
        loss: Tensor = _Distillation.apply(
            student, *weights, ours, teacher.detach(), theirs, pairs, center, *temperatures
        )
    return loss


@dataclass(frozen=True)
class _Layer:
    """A last layer without gradient, as products take it.

    Attributes:
        weight: (K, D), in the dtype of the products.
        exact: (K, D), as it was given.
        factor: (K,) by which a logit is multiplied where the layer has a length, or None.
        norm: (K, 1), the length of the weights as they are given, or None.
        length: (K,) if gradients of it are wanted, or None.
    """

    weight: Tensor
    exact: Tensor
    factor: Tensor | None
    norm: Tensor | None
    length: Tensor | None

    @classmethod
    def of(
        cls,
        prototypes: tuple[Tensor, Tensor] | None,
        lengths: tuple[Tensor, Tensor] | None,
        side: int,
        dtype: torch.dtype | None,
    ) -> _Layer | None:
        if prototypes is None:
            return None
        exact = prototypes[side].detach()
        weight = exact if dtype is None else exact.to(dtype)
        if lengths is None:
            return cls(weight, exact, None, None, None)
        norm = torch.linalg.vector_norm(exact, dim=1, keepdim=True).clamp_min_(_SMALLEST_LENGTH)
        length = lengths[side]
        trained = length.detach()[:, 0] if length.requires_grad else None
        return cls(weight, exact, (length.detach() / norm)[:, 0], norm, trained)

    def project(self, rows: Tensor, column: slice, *, out: Tensor) -> None:
        """Writes some columns of the logits of some rows, in the dtype of the products."""
        rows, weight = rows.to(self.weight.dtype), self.weight[column]
        if rows.dtype == out.dtype:
            torch.mm(rows, weight.T, out=out)
        else:
            out.copy_(rows @ weight.T)
        if self.factor is not None:
            out.mul_(self.factor[column])

    def add_gradients(
        self, gradient: Tensor, column: slice, rows: Tensor, to_rows: Tensor, product: Tensor | None
    ) -> None:
        """Adds what some columns of the gradient to the logits of some rows give.

        Args:
            gradient: (n, columns), changed in place.
            column: which.
            rows: (n, D).
            to_rows: (n, D), the gradient to the rows.
            product: (K, D), what `gradients` starts from: (gradient / norm)ᵀ · rows, times a length that is not
                trained; or None.
        """
        if self.factor is not None and self.norm is not None:
            gradient.mul_(self.factor[column] if self.length is None else 1 / self.norm[column, 0])
        rounded = gradient.to(self.weight.dtype)
        if product is not None:
            _add_product(product[column], rounded.T, rows.to(rounded.dtype))
        if self.length is not None:
            rounded = gradient.mul_(self.length[column]).to(self.weight.dtype)
        _add_product(to_rows, rounded, self.weight[column])

    def gradients(self, product: Tensor) -> tuple[Tensor, Tensor | None]:
        """Those of the weights as they were given, and of their length (K, 1), from the product, changed in place."""
        if self.norm is None:
            return product, None
        # w = ℓ·v/|v|: ∂w reaches v without its part along v, and ℓ by that part alone.
        along = torch.bmm(self.exact[:, None], product[:, :, None])[:, 0]  # (K, 1)
        product.addcmul_(self.exact, along / self.norm.square(), value=-1)
        if self.length is None:
            return product, None
        return product.mul_(self.length[:, None]), along


class _Distillation(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        student: Tensor,
        prototypes: Tensor | None,
        length: Tensor | None,
        ours: _Layer | None,
        teacher: Tensor,
        theirs: _Layer | None,
        pairs: TokenPairs,
        center: Tensor,
        teacher_temperature: float,
        student_temperature: float,
    ) -> Tensor:
        full = torch.promote_types(student.dtype, torch.float32)
        share = pairs.weight.to(full)
        mass = share.sum(dim=1, keepdim=True)  # (S, 1)
        to_student = torch.zeros_like(student, dtype=full)
        trained = any(ctx.needs_input_grad[1:3])
        to_prototypes = torch.zeros_like(ours.exact, dtype=full) if ours is not None and trained else None
        loss = torch.zeros((), dtype=full, device=student.device)
        center = center.to(full) / teacher_temperature
        columns = _columns(center.shape[-1], student.device)
        rows = _rows_at_once(center.shape[-1], full, student.device)
        buffers = [_Blocks(columns, full, student.device) for _ in range(3)]
        for (t0, t1), (s0, s1) in _image_chunks(pairs, rows):
            target = buffers[0].rows(t1 - t0)  # unnormalised: exp((t − c)/τ_t − max)
            total = torch.empty(t1 - t0, 1, dtype=full, device=student.device)
            for part in _slices(t0, t1, rows):
                here = slice(part.start - t0, part.stop - t0)
                blocks = [block[here] for block in target]
                scaled = teacher[part] / teacher_temperature
                for block, column in zip(blocks, columns, strict=True):
                    _project(scaled, theirs, column, out=block)
                    block.sub_(center[column] if center.ndim == 1 else center[pairs.position[part], column])
                total[here] = _exponentiate(blocks)[1]
            for part in _slices(s0, s1, rows):
                scaled = student[part] / student_temperature
                index = pairs.target[part] - t0  # (s, G)
                parts = share[part] / total[index][..., 0]
                logits, expected = (buffer.rows(len(index)) for buffer in buffers[1:])
                for block, mixed, source, column in zip(logits, expected, target, columns, strict=True):
                    _project(scaled, ours, column, out=block)
                    torch.index_select(source, 0, index[:, 0], out=mixed).mul_(parts[:, :1])
                    for view in range(1, index.shape[1]):
                        mixed.addcmul_(source[index[:, view]], parts[:, view : view + 1])
                    loss -= torch.bmm(mixed[:, None], block[:, :, None]).sum()
                highest, whole = _exponentiate(logits)
                loss += (mass[part] * (highest + whole.log())).sum()
                # The gradient to the logits, (mass · softmax − expected) / τ_s, block by block in their place.
                factor = mass[part] / whole / student_temperature
                for block, mixed, column in zip(logits, expected, columns, strict=True):
                    gradient = block.mul_(factor).sub_(mixed, alpha=1 / student_temperature)
                    if ours is None:
                        to_student[part, column] = gradient
                        continue
                    ours.add_gradients(gradient, column, student[part], to_student[part], to_prototypes)
        to_length = None
        if ours is not None and to_prototypes is not None:
            to_prototypes, to_length = ours.gradients(to_prototypes)
        ctx.save_for_backward(to_student, to_prototypes, to_length)
        return loss.to(full)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        to_student, to_prototypes, to_length = ctx.saved_tensors
        # A product is one more tensor as large as the last layer; a GPU would have to be waited for to know.
        if to_prototypes is not None and not (gradient.device.type == "cpu" and gradient == 1):
            to_prototypes = to_prototypes * gradient
        return (
            to_student * gradient,
            to_prototypes if ctx.needs_input_grad[1] else None,
            to_length * gradient if to_length is not None and ctx.needs_input_grad[2] else None,
            *[None] * 7,
        )


class _Blocks:
    """A table of rows × all prototypes as blocks of some columns, each of them contiguous.

    On a CPU a block stays in the cache from one operation to the next. The memory grows once and is then used again:
    fresh memory is slow to touch.
    """

    def __init__(self, columns: list[slice], dtype: torch.dtype, device: torch.device) -> None:
        self.widths = [column.stop - column.start for column in columns]
        self.memory = torch.empty(0, dtype=dtype, device=device)

    def rows(self, count: int) -> list[Tensor]:
        """Blocks (count, columns) of what the memory holds."""
        if self.memory.numel() < count * sum(self.widths):
            self.memory = self.memory.new_empty(count * sum(self.widths))
        pieces = self.memory[: count * sum(self.widths)].split([count * width for width in self.widths])
        return [piece.view(count, width) for piece, width in zip(pieces, self.widths, strict=True)]


def _project(rows: Tensor, layer: _Layer | None, column: slice, *, out: Tensor) -> None:
    """Writes some columns of the logits of some rows, which are the rows where there is no layer."""
    if layer is None:
        out.copy_(rows[:, column])
    else:
        layer.project(rows, column, out=out)


def _exponentiate(blocks: list[Tensor]) -> tuple[Tensor, Tensor]:
    """exp(x − max) in place; the maximum and the sum of each row, (n, 1)."""
    highest = torch.stack([block.amax(dim=1) for block in blocks]).amax(dim=0)[:, None]
    return highest, torch.stack([block.sub_(highest).exp_().sum(dim=1) for block in blocks]).sum(dim=0)[:, None]


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _columns(width: int, device: torch.device) -> list[slice]:
    return _slices(0, width, _CACHED_COLUMNS if device.type == "cpu" else width)


def _rows_at_once(width: int, dtype: torch.dtype, device: torch.device) -> int:
    """As many as make matrix products efficient and `_CHUNK_BYTES` hold: 256 rows are enough for a CPU."""
    rows = max(1, _CHUNK_BYTES // (dtype.itemsize * width))
    return min(rows, 256) if device.type == "cpu" else rows


def _slices(first: int, last: int, length: int) -> list[slice]:
    """As few slices of at most `length` as there can be, of nearly equal size."""
    count = -(-(last - first) // length)
    bounds = [first + (last - first) * number // max(1, count) for number in range(count + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]


def _image_chunks(pairs: TokenPairs, rows: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Ranges of teacher and of student rows of consecutive images: at most `rows` teacher rows, or one image."""
    starts = list(zip(pairs.teacher_starts, pairs.student_starts, strict=True))
    chunks, first = [], 0
    for last in range(1, len(starts)):
        if last == len(starts) - 1 or starts[last + 1][0] - starts[first][0] > rows:
            chunks.append(((starts[first][0], starts[last][0]), (starts[first][1], starts[last][1])))
            first = last
    return chunks
