"""`glocal embed` beside the usual script (timm, torchvision's transforms, a DataLoader): images per second and memory.

Both read the same image files, make central squares of them (the network's own size, 7/8 of the shorter side, the
network's interpolation) and compute pooled features in fp32 with the same untrained network, the same batch, the same
number of threads and of decoding processes. The usual script is timm's: `create_transform` of the model's own
configuration on Pillow's images, normalised in the workers, the network under `torch.inference_mode`, the features as
one float16 array in an .npy file in the end. glocal writes its folder of shards, without thumbnails (`glocal`) and
with them, as it does unless told otherwise (`glocal, thumbnails`). Networks are loaded before; starting the workers is
part of each round.

Every side runs in a process of its own; the sides take turns. Rates are those of the median round, memory is the peak
of the main process above what it held with the network before; `ratio` is a side's rate over the usual script's. How
well the features agree is printed as the least cosine of a pair.

    python benchmarks/embed_vs_timm.py --data photos/ [--model resnet50] [--threads 1] [--workers 1] [--json out.json]

Without a folder, it draws its own images: enlarged shapes at 500x375.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import (
    Table,
    answer_each_line,
    command_line,
    in_turn,
    machine,
    peak_bytes,
    peak_from_here,
    print_machine,
    timed,
    write_json,
)
from lanes import drawn
from PIL import Image

SIDES = ["timm script", "glocal", "glocal, thumbnails"]


def by_script(options: argparse.Namespace, out: Path) -> Callable[[], Path]:
    import timm
    from torch.utils.data import DataLoader, Dataset

    torch.manual_seed(0)
    network = timm.create_model(options.model, pretrained=False, num_classes=0).eval().to(options.device)
    config = timm.data.resolve_data_config({}, model=network)
    transform = timm.data.create_transform(**{**config, "crop_pct": 7 / 8}, is_training=False)
    files = sorted((path for path in Path(options.data).rglob("*") if path.is_file()), key=str)

    class Images(Dataset[torch.Tensor]):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, place: int) -> torch.Tensor:
            with Image.open(files[place]) as image:
                return transform(image.convert("RGB"))

    def work() -> Path:
        pinned = torch.device(options.device).type == "cuda"
        loader = DataLoader(Images(), options.batch, num_workers=options.workers, pin_memory=pinned)
        with torch.inference_mode():
            found = [network(batch.to(options.device, non_blocking=True)).half().cpu() for batch in loader]
        np.save(out / "features.npy", torch.cat(found).numpy())
        return out / "features.npy"

    return work


def by_glocal(options: argparse.Namespace, out: Path, thumbnails: int | None) -> Callable[[], Path]:
    import glocal

    backbone = glocal.load_backbone(f"untrained:timm:{options.model}")

    def work() -> Path:
        folder = Path(tempfile.mkdtemp(dir=out))
        glocal.embed(
            backbone,
            options.data,
            folder,
            thumbnails=thumbnails,
            batch_size=options.batch,
            device=options.device,
            workers=options.workers,
            progress=False,
        )
        return folder

    return work


def serve(side: str, options: argparse.Namespace) -> None:
    """One side: waits for a line, does the work, answers with seconds, peak memory in MB and where the features are."""
    out = Path(options.out)
    made = by_script(options, out) if side == SIDES[0] else by_glocal(options, out, 96 if side == SIDES[2] else None)

    def answer() -> dict[str, Any]:
        before = peak_from_here(options.device)
        seconds, place = timed(made, options.device)
        return {"seconds": seconds, "megabytes": (peak_bytes(options.device) - before) / 1e6, "place": str(place)}

    answer_each_line(answer)


def vectors_in(place: str) -> np.ndarray:
    if place.endswith(".npy"):
        return np.load(place).astype(np.float32)
    from glocal.embeddings.folder import Embeddings

    found = Embeddings(place)
    return found.rows(0, len(found)).numpy()


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--data", help="a folder of images, all of which can be read")
    parser.add_argument("--model", default="resnet50", help="a model of timm")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.serve:
        serve(options.serve, options)
        return
    described = machine(options.device, "timm", "torchvision", "PIL")
    print_machine(described)
    with tempfile.TemporaryDirectory() as out:
        data = options.data or str(drawn(Path(out) / "images", 200, (500, 375)))
        count = sum(len(files) for _, _, files in os.walk(data))
        shared = ["--data", data, "--model", options.model, "--batch", options.batch, "--threads", options.threads]
        shared += ["--workers", options.workers, "--device", options.device, "--out", out]
        answers = in_turn({side: [__file__, "--serve", side, *shared] for side in SIDES}, 1 + options.rounds)
        vectors = {side: vectors_in(found[-1]["place"]) for side, found in answers.items()}
    print(f"\n{count} images, {options.model}, batch {options.batch}, {options.workers} worker(s)")
    table = Table({"": 22, "images/s": 10, "ratio": 8, "MB": 8, "least cosine": 14})
    rows: dict[str, dict[str, float]] = {}
    for side, found in answers.items():
        rate = count / statistics.median(one["seconds"] for one in found[1:])  # the first round warms up
        one, other = vectors[SIDES[0]], vectors[side]
        cosine = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
        rows[side] = {
            "images per second": rate,
            "ratio": rate / rows[SIDES[0]]["images per second"] if rows else 1.0,
            "megabytes": max(one["megabytes"] for one in found[1:]),
            "least cosine": float(cosine.min()),
        }
        table.row(
            side, *(f"{value:.{digits}f}" for value, digits in zip(rows[side].values(), (1, 2, 0, 4), strict=True))
        )
    write_json(options.json, described, images=count, model=options.model, batch=options.batch, sides=rows)


if __name__ == "__main__":
    main()
