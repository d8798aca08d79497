"""Where a view lies in its source image, and which patches of two views show the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from glocal.errors import GlocalError
from glocal.transfer import to_device

MatchRule = Literal["spread", "printed", "nearest"]


@dataclass
class ViewGeometry:
    """The crops that a batch of views shows.

    Attributes:
        box: (…, 4) float64: left, top, right, bottom in source pixels; right and bottom are exclusive.
        flipped: (…) bool: whether the view is mirrored left to right.
    """

    box: Tensor
    flipped: Tensor

    def view(self, number: int) -> ViewGeometry:
        """The geometry of one view out of a batch of several: (B, V, 4) → (B, 4)."""
        return ViewGeometry(self.box[:, number], self.flipped[:, number])


@dataclass
class PatchMatches:
    """Patches of two views that show the same part of the source image.

    Attributes:
        index_a, index_b: (…, M) int64: patches of the two views, row-major from 0; the CLS token is not counted.
        valid: (…, M) bool: which of the M places hold a match; the indices of the others lie in the grid as well.
    """

    index_a: Tensor
    index_b: Tensor
    valid: Tensor


def match_patches(
    a: ViewGeometry,
    b: ViewGeometry,
    grid_a: int | Tensor,
    grid_b: int | Tensor,
    *,
    rule: MatchRule = "spread",
) -> PatchMatches:
    """Matches the patches of two views of the same images, each pair of views on its own, in tensor operations.

    The first two rules are those of Javidani, Sadeghi and Araabi, "Local-Global Self-Supervised Visual Representation
    Learning", 2023, section 3.3. In both, the overlap of the two crops is a block of rows and columns of patches in
    each; of each axis the shorter list keeps all its entries and the longer one as many. They differ in which patches
    belong to the block, and which of the longer list are kept:

    `spread` is the rule of the authors' code. The block's start and length are rounded half to even and cut off at the
    grid's edge; the longer list keeps floor(linspace(0, longer − 1, shorter)), which is what the paper's figure 2
    shows: of four rows for three the first, second and fourth. The authors' code needs the same crops for the whole
    batch; this function does not.

    `printed` is the rule in the words of the section, which contradict the figure: a patch belongs to the block if
    more than half of its width and of its height lies in it; the longer list keeps every n-th entry from the first on,
    n = floor(longer / shorter): of four rows for three the first, second and third.

    `nearest` is the package's own. It takes, for each patch of b whose centre lies inside a, the patch of a whose
    centre is nearest to it in the source image: M is grid_b².

    Args:
        a, b: box (…, 4) and flipped (…) of the two views; the leading shapes broadcast.
        grid_a, grid_b: patches per side, one number or, to match views of several sizes in one call, (…) int64.
        rule: how patches are matched.

    Returns:
        Matches in row-major order: of the overlap, as seen in the source image, for the first two rules, of b for
        `nearest`.

    Raises:
        GlocalError: an unknown rule.
    """
    if rule not in get_args(MatchRule):
        raise GlocalError(f"rule={rule!r}: choose spread, printed or nearest")
    shape = torch.broadcast_shapes(a.flipped.shape, b.flipped.shape)
    box = torch.stack([a.box.expand(*shape, 4), b.box.expand(*shape, 4)])  # (2, …, 4)
    flipped = torch.stack([a.flipped.expand(shape), b.flipped.expand(shape)])
    sides = [torch.as_tensor(grid) for grid in (grid_a, grid_b)]
    grid = to_device(torch.stack([side.expand(shape) for side in sides]), box.device)
    if rule != "nearest":
        return _blocks(box, flipped, grid, min(int(side.max()) for side in sides), rule)
    return _nearest(box, flipped, grid, int(sides[1].max()))


def _blocks(box: Tensor, flipped: Tensor, grid: Tensor, most: int, rule: MatchRule) -> PatchMatches:
    # Pairs of views come last, P of them: the sums over rows and columns are then long vector operations.
    shape = flipped.shape[1:]
    box = box.reshape(2, -1, 4).permute(2, 0, 1).contiguous()  # (4, 2, P)
    flipped, grid = flipped.flatten(1), grid.flatten(1).to(box)  # (2, P)
    corner, extent = box[:2], box[2:] - box[:2]  # (2, 2, P): x and y, a and b
    start = corner.amax(dim=1, keepdim=True)
    overlap = box[2:].amin(dim=1, keepdim=True) - start  # (2, 1, P)
    # Products before quotients: what is half a patch must be half exactly.
    if rule == "spread":
        first = (grid * (start - corner) / extent).round_()
        length = torch.minimum((grid * overlap / extent).round_(), grid - first).clamp_(min=0)  # (2, 2, P)
    else:
        first = ((2 * grid * (start - corner) + extent) / (2 * extent)).floor_()
        end = ((2 * grid * (start - corner + overlap) - extent) / (2 * extent)).ceil_()
        length = (end - first).clamp_(min=0) * (2 * grid * overlap > extent)  # a sliver of one patch is no half of it
    first = torch.minimum(first, grid - 1).clamp_(min=0)
    overlapping = (overlap > 0).all(dim=0)  # (1, P)
    shorter = torch.minimum(length[:, 0], length[:, 1]) * overlapping  # (2, P)

    # A patch's index is base + factor · step, summed over the axes: columns run backwards where the view is mirrored.
    base = torch.stack([torch.where(flipped, grid - 1 - first[0], first[0]), first[1] * grid])
    factor = torch.stack([torch.where(flipped, -1.0, 1.0).to(grid), grid])
    place = torch.arange(most, dtype=box.dtype, device=box.device)[:, None, None, None]
    last = (length - 1).clamp_(min=0)
    if rule == "spread":
        # floor(linspace(0, length − 1, shorter)); half a place more keeps whole numbers clear of rounding.
        steps = (place * last).add_(0.5).div_((shorter[:, None] - 1).clamp_(min=1)).floor_()  # (m, 2, 2, P)
    else:
        steps = place * (length / shorter[:, None].clamp(min=1)).floor_()
    line = torch.minimum(steps, last).mul_(factor).add_(base).int()
    index = (line[:, None, 1] + line[None, :, 0]).flatten(0, 1).long()  # (m·m, 2, P)
    kept = place[:, 0] < shorter  # (m, 2, P)
    valid = (kept[:, None, 1] & kept[None, :, 0]).flatten(0, 1)
    index_a, index_b, valid = (x.unflatten(-1, shape).movedim(0, -1) for x in (index[:, 0], index[:, 1], valid))
    return PatchMatches(index_a, index_b, valid)


def _nearest(box: Tensor, flipped: Tensor, grid: Tensor, most: int) -> PatchMatches:
    places = torch.arange(most, device=box.device)
    there = places < grid[1, ..., None]  # (…, m)
    mirrored = torch.where(flipped[1, ..., None], grid[1, ..., None] - 1 - places, places)
    corner, extent = box[..., :2], box[..., 2:] - box[..., :2]
    # The centre's place in a, times 2 · grid_b: products of whole numbers, so what lies on a border is known to.
    odd = 2 * torch.stack([mirrored, places.expand_as(mirrored)], dim=-2) + 1  # (…, 2, m)
    offset = 2 * grid[1, ..., None] * (corner[1] - corner[0])  # (…, 2)
    place = odd * extent[1][..., None] + offset[..., None]
    whole = (2 * grid[1, ..., None] * extent[0])[..., None]
    inside = (place >= 0) & (place < whole) & there[..., None, :]
    # The nearest centre is that of the cell in which the point lies.
    cell = (place * grid[0, ..., None, None] / whole).floor().long()
    cell = torch.minimum(cell.clamp_(min=0), grid[0, ..., None, None] - 1)
    column = torch.where(flipped[0, ..., None], grid[0, ..., None] - 1 - cell[..., 0, :], cell[..., 0, :])
    index_a = cell[..., 1, :, None] * grid[0, ..., None, None] + column[..., None, :]
    row_b = torch.minimum(places, grid[1, ..., None] - 1)
    index_b = row_b[..., :, None] * grid[1, ..., None, None] + row_b[..., None, :]
    valid = inside[..., 1, :, None] & inside[..., 0, None, :]
    return PatchMatches(index_a.flatten(-2), index_b.flatten(-2), valid.flatten(-2))
