"""Images per second of the two lanes and of lightly's MoCoV2Transform through a DataLoader.

All three read the same folder of JPEG files and produce the same kind of two views: random resized crop (scale 0.2 to
1), flip, colour jitter (0.4, 0.4, 0.4, 0.1) with probability 0.8, greyscale 0.2, Gaussian blur 0.5, normalisation.
lightly's transform works on single images in worker processes, as its documentation shows. All get the same batch
size and as many worker processes as there are cores (lightly, streaming) or threads (resident). Reading the files is
part of the work of lightly and of the streaming lane in every epoch; the resident lane reads them once, before the
clock starts (its reading time is printed apart).

    pip install -e '.[bench]'
    python benchmarks/views.py --small cifar10/train --large photos/ [--device cuda] [--json out.json]

Without folders, it draws its own images: shapes at 32x32 and enlarged shapes at 500x375.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets.folder import default_loader

from glocal.data.order import BatchOrder
from glocal.data.resident import MixedSizesError, ResidentLane, read_all
from glocal.data.shapes import Shapes
from glocal.data.skipped import SkippedImages
from glocal.data.sources import Subset, open_source
from glocal.data.streaming import StreamingLane
from glocal.models.backbone import IMAGENET_MEAN, IMAGENET_STD
from glocal.views.plan import Blur, Jitter, View, ViewPlan

BATCH, REPEATS = 64, 3


class Files(torch.utils.data.Dataset[Any]):
    """A folder's files through a transform, as a user of lightly would have them."""

    def __init__(self, files: list[Path], transform: Callable[[Any], Any]) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        return self.transform(default_loader(str(self.files[index])))


def rate(make: Callable[[], Iterator[Any]], device: torch.device) -> float:
    """Median images per second of going through everything; the start of worker processes is part of it."""
    rates = []
    for _ in range(REPEATS):
        start, images = time.perf_counter(), 0
        for views in make():
            images += len(views[0])
        if device.type == "cuda":
            torch.cuda.synchronize()
        rates.append(images / (time.perf_counter() - start))
    return statistics.median(rates)


def lightly_views(files: list[Path], size: int, workers: int, device: torch.device) -> Iterator[Any]:
    from lightly.transforms import MoCoV2Transform

    transform = MoCoV2Transform(input_size=size)
    loader = DataLoader(Files(files, transform), BATCH, shuffle=True, num_workers=workers, drop_last=True)
    for views in loader:
        yield [view.to(device) for view in views]


def measure(folder: Path, size: int, limit: int, device: torch.device) -> dict[str, float | None]:
    """The rates of the three on up to `limit` images of a folder, in images per second."""
    source = open_source(folder)
    source = Subset(source, torch.linspace(0, len(source) - 1, min(limit, len(source))).long())
    files = [folder / key for key in source.keys]
    workers = len(os.sched_getaffinity(0))
    view = View(count=2, size=size, jitter=Jitter(probability=0.8), grey=0.2, blur=Blur(probability=0.5))
    plan, order = ViewPlan([view]), BatchOrder(len(source), BATCH, seed=0)
    skipped = SkippedImages(len(source), 1.0)
    common = (plan, order, device, IMAGENET_MEAN, IMAGENET_STD)
    streaming = StreamingLane(source, *common, workers=workers, skipped=skipped)
    steps = order.steps_per_epoch
    rates: dict[str, float | None] = {
        "lightly": rate(lambda: lightly_views(files, size, workers, device), device),
        "streaming": rate(lambda: (views.images for views in streaming.batches(0, steps)), device),
    }
    try:
        start = time.perf_counter()
        images = read_all(source, skipped, progress=False)
        rates["reading"] = len(source) / (time.perf_counter() - start)
        resident = ResidentLane(images, *common)
        rates["resident"] = rate(lambda: (views.images for views in resident.batches(0, steps)), device)
    except MixedSizesError:
        rates["resident"] = None  # images of several sizes have no resident lane
    return rates


def drawn(folder: Path, count: int, size: tuple[int, int]) -> Path:
    for index, image in enumerate(Shapes("train", count).images()):
        place = folder / f"{index % 8}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).resize(size).save(place / f"{index}.jpg", quality=90)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=Path)
    parser.add_argument("--large", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    with tempfile.TemporaryDirectory() as scratch:
        small = arguments.small or drawn(Path(scratch) / "small", 5000, (32, 32))
        large = arguments.large or drawn(Path(scratch) / "large", 256, (500, 375))
        found = {"32x32": measure(small, 32, 5000, device), "224x224": measure(large, 224, 512, device)}
        if found["224x224"]["resident"] is None:  # the same pictures at one size
            same = Path(scratch) / "same"
            same.mkdir()
            for file in sorted(large.rglob("*"))[:512]:
                if file.is_file():
                    default_loader(str(file)).resize((400, 300)).save(same / f"{file.stem}.jpg", quality=90)
            found["224x224, all 400x300"] = measure(same, 224, 512, device)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": str(torch.__version__),
    }
    print(" ".join(f"{key}={value}" for key, value in machine.items()))
    print(
        f"{'views':24}{'lightly':>12}{'streaming':>12}{'resident':>12}{'streaming/lightly':>20}{'resident/lightly':>18}"
    )
    for name, rates in found.items():
        reference = rates["lightly"]
        assert reference is not None
        cells = [f"{rates[key]:.0f}" if rates[key] else "-" for key in ("lightly", "streaming", "resident")]
        ratios = [f"{rates[key] / reference:.2f}" if rates[key] else "-" for key in ("streaming", "resident")]
        print(f"{name:24}{cells[0]:>12}{cells[1]:>12}{cells[2]:>12}{ratios[0]:>20}{ratios[1]:>18}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "images_per_second": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
