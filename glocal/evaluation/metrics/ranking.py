"""How well images are ranked: average precision and precision at k for each query, and micro average precision.

Definitions are those of the revisited Oxford and Paris benchmark (Radenović, Iscen, Tolias, Avrithis and Chum,
"Revisiting Oxford and Paris: Large-Scale Image Retrieval Benchmarking", CVPR 2018) and, for the micro average, of the
image similarity challenge (Douze et al., "The 2021 Image Similarity Dataset and Challenge", arXiv 2106.09672). Queries
are ranked some at a time, so that memory does not grow with their number. Images are sorted where their features lie;
precisions are computed on the CPU, because Apple's GPUs have no float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Relevance = Callable[[slice], tuple[Tensor, Tensor | None]]
"""Some queries → which of the N images are relevant to them and which are junk: (B, N) bool each; None is no junk."""

_SCORES = 1 << 24  # that are there at a time


class Ranking(NamedTuple):
    """What each query found.

    Attributes:
        average_precision: (Q,) float64 in [0, 1]; NaN for a query to which no image is relevant.
        precision: for each k, (Q,) float64 in [0, 1], NaN as above.
    """

    average_precision: Tensor
    precision: dict[int, Tensor]

    def means(self) -> dict[str, float]:
        """mAP and mP@k in percent over the queries to which some image is relevant; NaN where there is none."""
        found = {"mAP": self.average_precision, **{f"mP@{k}": value for k, value in self.precision.items()}}
        return {name: 100 * float(value.nanmean()) for name, value in found.items()}


def rank(
    queries: Tensor,
    images: Tensor,
    relevance: Relevance,
    *,
    at: Sequence[int] = (1, 5, 10),
    depth: int | None = None,
    seen: Callable[[int], None] = lambda queries: None,
) -> Ranking:
    """Ranks images by their inner product with each query.

    Args:
        queries: (Q, D) float; unit vectors for cosine similarity.
        images: (N, D); one that is not a number (NaN) comes behind all others.
        relevance: which images are relevant, and which are junk: taken out of the ranking.
        at: the k of the precisions.
        depth: only the first so many images are looked at; what is relevant behind them counts as not found.
        seen: called after each part with the number of its queries.
    """
    precision: list[Tensor] = []
    found: dict[int, list[Tensor]] = {k: [] for k in at}
    for scores, relevant, junk in _scored(queries, images, relevance):
        order = in_order(scores, relevant, junk)[:, :depth]
        total = _kept(relevant, junk).sum(dim=1)
        precision.append(trapezoid_precision(order, total))
        for k in at:
            found[k].append(precision_at(order, k, total))
        seen(len(scores))
    return Ranking(torch.cat(precision), {k: torch.cat(values) for k, values in found.items()})


def in_order(scores: Tensor, relevant: Tensor, junk: Tensor | None = None) -> Tensor:
    """Whether the first, second, … image of each ranking is relevant.

    Among images of one score, those that stand first come first. Junk is taken out: its places are at the end.

    Args:
        scores: (B, N), the higher the earlier.
        relevant, junk: (B, N) bool; what is both is junk.

    Returns:
        (B, N) bool.

    >>> in_order(torch.tensor([[0.1, 0.9, 0.5]]), torch.tensor([[True, False, False]])).tolist()
    [[False, False, True]]
    """
    scores = scores.nan_to_num(nan=torch.finfo(scores.dtype).min)
    if junk is not None:
        relevant = relevant & ~junk
        scores = scores.masked_fill(junk, -torch.inf)
    return relevant.gather(1, _descending(scores))


def _descending(scores: Tensor) -> Tensor:
    """The places (B, N) int64 of scores (B, N) from the highest to the lowest, equal ones in their order."""
    if scores.device.type != "cpu" or scores.dtype != torch.float32:
        return scores.argsort(dim=1, descending=True, stable=True)
    # Score and place in one whole number: NumPy sorts these several times as fast as PyTorch sorts scores with places.
    bits = (0.0 - scores).view(torch.int32)
    bits = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # floats of one sign are in the order of their bits
    both = (bits.long() << 32) | torch.arange(scores.shape[1])
    both.numpy().sort(axis=1)
    return both & 0xFFFFFFFF


def trapezoid_precision(found: Tensor, total: Tensor | None = None) -> Tensor:
    """Average precision as the area under the precision-recall curve by trapezoids, as for Oxford, Paris and Holidays.

    The j-th relevant image (from 0) at place r (from 0) adds the mean of the precisions before it, j / r (1 at the
    first place), and with it, (j + 1) / (r + 1).

    Args:
        found: (B, N) bool, whether the image at each place is relevant.
        total: (B,) int64, how many are relevant in all, where the ranking is cut off; by default those in it.

    Returns:
        (B,) float64 in [0, 1] on the CPU; NaN where none is relevant.

    >>> trapezoid_precision(torch.tensor([[True, False, True]]))
    tensor([0.7917], dtype=torch.float64)
    """
    count = found.sum(dim=1).cpu()
    row, place = found.nonzero().cpu().unbind(1)  # by rows, ascending in each
    before = torch.arange(len(row)) - (count.cumsum(0) - count)[row]
    lower = torch.where(place == 0, 1.0, before.double() / place.clamp(min=1))
    upper = (before + 1).double() / (place + 1)
    area = torch.zeros(len(found), dtype=torch.float64).index_add_(0, row, (lower + upper) / 2)
    return area / (count if total is None else total.cpu())  # 0 / 0 is NaN


def precision_at(found: Tensor, k: int, total: Tensor | None = None) -> Tensor:
    """The share of relevant images among the first k, or among those up to the last relevant one where it comes sooner.

    Args:
        found, total: as for `trapezoid_precision`.
        k: at least 1.

    Returns:
        (B,) float64 in [0, 1] on the CPU; NaN where none is relevant.

    >>> precision_at(torch.tensor([[True, False, True, False]]), 4)
    tensor([0.6667], dtype=torch.float64)
    """
    total = (found.sum(dim=1) if total is None else total).cpu()
    first = found[:, :k].cpu()
    hits = first.sum(dim=1)
    last = (torch.arange(1, first.shape[1] + 1) * first).amax(dim=1).clamp(min=1)
    last = torch.where(hits < total, k, last)  # what is not among the first k comes behind them
    return torch.where(total > 0, hits.double() / last, torch.nan)


def micro_average_precision(queries: Tensor, images: Tensor, relevance: Relevance) -> float:
    """µAP: average precision of all pairs of a query and an image in one ranking, as one threshold would cut it.

    The step-wise area under the precision-recall curve; pairs of equal score are found together (scikit-learn's
    `average_precision_score`). Queries to which no image is relevant take part: what they find is wrong. The pairs are
    counted, not kept: memory is that of the relevant pairs.

    Args:
        queries, images, relevance: as for `rank`; junk pairs are left out.

    Returns:
        µAP in [0, 1]; NaN where no pair is relevant.
    """
    parts = [scores[_kept(relevant, junk)] for scores, relevant, junk in _scored(queries, images, relevance)]
    thresholds, count = torch.cat(parts).nan_to_num(nan=-torch.inf).unique(return_counts=True)  # ascending
    pairs = torch.zeros(len(thresholds) + 1, dtype=torch.int64, device=thresholds.device)
    for scores, _, junk in _scored(queries, images, relevance):
        counted = scores.nan_to_num(nan=-torch.inf)
        counted = counted.flatten() if junk is None else counted[~junk]
        # Pairs that reach no threshold are counted at 0, those that reach the lowest i of them at i.
        reached = torch.searchsorted(thresholds, counted, right=True)
        pairs += reached.bincount(minlength=len(pairs))
    count, pairs = count.cpu(), pairs.cpu()
    found = count.flip(0).cumsum(0).flip(0)  # relevant pairs that reach each threshold
    reached = pairs[1:].flip(0).cumsum(0).flip(0)
    return float((count * found / reached.double()).sum() / count.sum())


def listed(relevant: Sequence[Tensor], junk: Sequence[Tensor], images: int) -> Relevance:
    """The relevance that lists give: for each query the numbers of the relevant images and of the junk, int64."""

    def masks(rows: slice) -> tuple[Tensor, Tensor]:
        return _mask(relevant[rows], images), _mask(junk[rows], images)

    return masks


def same_class(queries: Tensor, images: Tensor, *, themselves: bool) -> Relevance:
    """The relevance of labels (Q,) and (N,): images of the query's class.

    Args:
        queries, images: int64.
        themselves: the queries are the images; each is then no answer to itself.
    """

    def masks(rows: slice) -> tuple[Tensor, Tensor | None]:
        relevant = queries[rows, None] == images
        itself = torch.arange(len(queries))[rows, None] == torch.arange(len(images)) if themselves else None
        return relevant, itself

    return masks


def _mask(numbers: Sequence[Tensor], images: int) -> Tensor:
    mask = torch.zeros(len(numbers), images, dtype=torch.bool)
    rows = torch.arange(len(numbers)).repeat_interleave(
        torch.tensor([len(each) for each in numbers], dtype=torch.int64)
    )
    mask[rows, torch.cat([*numbers, torch.empty(0, dtype=torch.int64)])] = True
    return mask


def _kept(relevant: Tensor, junk: Tensor | None) -> Tensor:
    return relevant if junk is None else relevant & ~junk


def _scored(queries: Tensor, images: Tensor, relevance: Relevance) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Scores, relevance and junk of some queries at a time, on the images' device."""
    rows = max(1, _SCORES // max(1, len(images)))
    for first in range(0, len(queries), rows):
        part = slice(first, min(first + rows, len(queries)))
        relevant, junk = relevance(part)
        scores = queries[part].to(images) @ images.mT
        yield scores, relevant.to(images.device), None if junk is None else junk.to(images.device)
