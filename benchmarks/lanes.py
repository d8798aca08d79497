"""Our lanes as benchmarks of views run them: images of a folder, views of them, and their rates.

`views_vs_lightly.py` has lightly's transforms beside them, `growth.py` what limits them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from glocal.data.lanes.order import BatchOrder
from glocal.data.lanes.resident import ResidentLane
from glocal.data.lanes.streaming import StreamingLane
from glocal.data.sources.base import Source, Subset
from glocal.data.sources.folder import ImageFolder
from glocal.data.sources.opening import open_source
from glocal.data.sources.shapes import Shapes
from glocal.settings import IMAGENET_MEAN, IMAGENET_STD
from glocal.views.plan import Blur, Color, Jitter, Solarize, View, ViewPlan

Work = Callable[[], int]
"""Makes the views of some images and says of how many."""

COLORS: tuple[Color, ...] = ("exact", "fused")
JITTER = Jitter(probability=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)  # DINOTransform's defaults
SMALL_JITTER = Jitter(probability=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)  # MoCoV2Transform's


def dino_views() -> list[View]:
    """The views of lightly's DINOTransform with its default settings and 8 local views."""
    large = View(size=224, scale=(0.4, 1.0), interpolation="bicubic", jitter=JITTER, grey=0.2)
    local = large.model_copy(update={"size": 96, "scale": (0.05, 0.4), "count": 8, "blur": Blur(probability=0.5)})
    first = large.model_copy(update={"blur": Blur(probability=1.0)})
    second = large.model_copy(update={"blur": Blur(probability=0.1), "solarize": Solarize(probability=0.2)})
    return [first, second, local]


def rates(works: dict[str, Work], rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """The best images per second of each work; they take turns, and the first round is not counted."""
    best = dict.fromkeys(works, 0.0)
    for number in range(rounds + 1):
        for name, work in works.items():
            start = clock()
            images = work()
            if number > 0:
                best[name] = max(best[name], images / (clock() - start))
    return best


def part_of(folder: Path, limit: int) -> tuple[Source, list[Path]]:
    """Images spread over a folder, as a source and as files."""
    source = open_source(folder)
    assert isinstance(source, ImageFolder)
    source = Subset(source, torch.linspace(0, len(source) - 1, min(limit, len(source))).long())
    return source, [folder / key for key in source.keys]


def through_lane(lane: StreamingLane | ResidentLane, steps: int) -> int:
    images = sum(len(views.index) for views in lane.batches(0, steps))
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return images


def resident_works(pixels: torch.Tensor, batch: int, device: torch.device) -> dict[Color, Work]:
    plan = ViewPlan([View(count=2, size=32, jitter=SMALL_JITTER, grey=0.2)])
    order = BatchOrder(len(pixels), min(batch, len(pixels)), seed=0)
    lanes: dict[Color, ResidentLane] = {
        color: ResidentLane(pixels, plan, order, device, IMAGENET_MEAN, IMAGENET_STD, color=color) for color in COLORS
    }
    return {color: partial(through_lane, lane, order.steps_per_epoch) for color, lane in lanes.items()}


def drawn(folder: Path, count: int, size: tuple[int, int]) -> Path:
    for index, image in enumerate(Shapes("train", count).images()):
        place = folder / f"{index % 8}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).resize(size).save(place / f"{index}.jpg", quality=90)
    return folder
