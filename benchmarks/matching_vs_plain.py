"""Patch matching of a whole batch in one call, beside a per-image Python implementation of the same rule.

Work: 64 images × 18 view pairs (2 global views of 14×14 patches as teacher, each with the other global view and 8 local
views of 6×6 patches). The peer is a plain reading of the rule with lists and numpy, pair by pair, as a data loader
would run it. Both give the same matches, which is checked before the clock starts.

    python benchmarks/matching_vs_plain.py [--device cuda] [--json out.json]
"""

from __future__ import annotations

import statistics

import numpy as np
import torch
from common import Table, command_line, machine, print_machine, seconds_of, write_json

from glocal.views.geometry import ViewGeometry, match_patches
from glocal.views.plan import View, ViewPlan

IMAGES, REPEATS = 64, 101
PAIRS = [(0, view) for view in range(1, 10)] + [(1, view) for view in range(10) if view != 1]


def block(box: list[float], overlap: list[float], flipped: bool, grid: int) -> np.ndarray:
    """The patches of a crop that lie in the overlap, as a table in the order of the source image."""
    width, height = box[2] - box[0], box[3] - box[1]
    first_column = round(grid * (overlap[0] - box[0]) / width)
    columns = round(grid * (overlap[2] - overlap[0]) / width)
    first_row = round(grid * (overlap[1] - box[1]) / height)
    rows = round(grid * (overlap[3] - overlap[1]) / height)
    table = np.arange(grid * grid).reshape(grid, grid)
    table = table[:, ::-1] if flipped else table
    return table[first_row : first_row + rows, first_column : first_column + columns]


def match_pair(
    box_a: list[float], flip_a: bool, grid_a: int, box_b: list[float], flip_b: bool, grid_b: int
) -> tuple[list[int], list[int]]:
    """One pair of views of one image."""
    overlap = [max(box_a[0], box_b[0]), max(box_a[1], box_b[1]), min(box_a[2], box_b[2]), min(box_a[3], box_b[3])]
    if overlap[0] >= overlap[2] or overlap[1] >= overlap[3]:
        return [], []
    tables = [block(box_a, overlap, flip_a, grid_a), block(box_b, overlap, flip_b, grid_b)]
    for axis in (0, 1):
        lengths = [table.shape[axis] for table in tables]
        longer = int(lengths[1] > lengths[0])
        kept = np.floor(np.linspace(0, lengths[longer] - 1, lengths[1 - longer])).astype(int)
        tables[longer] = tables[longer].take(kept, axis=axis)
    return tables[0].flatten().tolist(), tables[1].flatten().tolist()


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)

    plan = ViewPlan([View(count=2, size=224, scale=(0.4, 1.0)), View(count=8, size=96, scale=(0.05, 0.4))])
    drawn = plan.draw_geometry(torch.tensor([375, 500]), 0, 0, torch.arange(IMAGES))
    teacher, student = (torch.tensor(side) for side in zip(*PAIRS, strict=True))
    grid = torch.tensor([14, 14] + [6] * 8)
    box, flipped = drawn.box.to(device, torch.float32), drawn.flipped.to(device)
    sides = [ViewGeometry(box[:, side], flipped[:, side]) for side in (teacher, student)]
    boxes, flips = drawn.box.tolist(), drawn.flipped.tolist()

    def batched() -> object:
        return match_patches(sides[0], sides[1], grid[teacher], grid[student])

    def image_by_image() -> list[tuple[list[int], list[int]]]:
        return [
            match_pair(boxes[i][a], flips[i][a], int(grid[a]), boxes[i][b], flips[i][b], int(grid[b]))
            for i in range(IMAGES)
            for a, b in PAIRS
        ]

    ours, expected = match_patches(sides[0], sides[1], grid[teacher], grid[student]), image_by_image()
    for number, (a, b) in enumerate(expected):
        place = divmod(number, len(PAIRS))
        valid = ours.valid[place]
        assert ours.index_a[place][valid].tolist() == a, place
        assert ours.index_b[place][valid].tolist() == b, place
    fast, slow = (statistics.median(seconds_of(work, device, REPEATS)) for work in (batched, image_by_image))
    described = machine(device)
    print_machine(described)
    print(f"{IMAGES * len(PAIRS)} pairs")
    table = Table({"": 16, "ms": 9, "ratio": 9})
    table.row("one call", f"{1e3 * fast:.2f}", "1.00")
    table.row("image by image", f"{1e3 * slow:.2f}", f"{slow / fast:.2f}")
    found = {"one_call_ms": 1e3 * fast, "image_by_image_ms": 1e3 * slow, "ratio": slow / fast}
    write_json(arguments.json, described, pairs=IMAGES * len(PAIRS), **found)


if __name__ == "__main__":
    main()
