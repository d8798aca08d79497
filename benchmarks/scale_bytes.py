"""What is held or written for every image, in bytes, by what holds it; times 14.2 million and 10⁹.

Each thing is made for a small set by the library itself, its memory is counted or measured, and divided by the images:
strings and dictionaries by `sys.getsizeof`, tensors and arrays by their bytes, what is written by the size of the file,
peaks by the process' own peak. Names are of 30 letters, as `class00000/image_000000000.jpg`.

    python benchmarks/scale_bytes.py [--data packed/photos] [--json bytes.json]
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from common import Table, command_line, machine, peak_bytes, peak_from_here, print_machine, write_json
from torch import Tensor

from glocal.data.lanes import order
from glocal.data.lanes.order import BatchOrder
from glocal.data.lanes.skipped import SkippedImages
from glocal.data.packs.making import pack
from glocal.data.sources.base import Source, Subset
from glocal.data.sources.joined import JoinedSource
from glocal.data.sources.opening import open_source
from glocal.errors import BrokenImageError
from glocal.models.labels import PseudoLabels
from glocal.models.memory import MemoryBank
from glocal.training.images import FILE, ImageSet, write_names
from glocal.training.loop import embed_all
from glocal.views.random import permutation

SIZES = (14_197_122, 1_000_000_000)
_FEW, _MANY = 20_000, 400_000  # images of what is counted, and of what is measured


def bytes_of(thing: Any, seen: set[int]) -> int:
    """The memory of an object and all that it holds, each thing once."""
    if id(thing) in seen or isinstance(thing, type) or callable(thing):
        return 0
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        return thing.untyped_storage().nbytes()
    if isinstance(thing, np.ndarray | pa.Array | pa.ChunkedArray):
        return int(thing.nbytes)
    own = sys.getsizeof(thing)
    if isinstance(thing, Mapping):
        return own + sum(bytes_of(key, seen) + bytes_of(value, seen) for key, value in thing.items())
    if isinstance(thing, list | tuple | set | frozenset):
        return own + sum(bytes_of(one, seen) for one in thing)
    return own + (bytes_of(vars(thing), seen) if hasattr(thing, "__dict__") else 0)


def peak_of(work: Callable[[], Any]) -> int:
    """Bytes of the process above what it held before, at most."""
    before = peak_from_here("cpu")
    work()
    return peak_bytes("cpu") - before


def make_folder(folder: Path, images: int) -> Source:
    """Empty files in 20 folders; names are all that is looked at."""
    for number in range(images):
        place = folder / f"class{number % 20:05d}"
        place.mkdir(parents=True, exist_ok=True)
        os.close(os.open(place / f"image_{number:09d}.jpg", os.O_CREAT | os.O_WRONLY))
    return open_source(str(folder))


def of_names(root: Path) -> Iterator[tuple[str, float]]:
    """What knows the images by name."""
    source = make_folder(root / "images", _FEW)
    yield "a folder: names and labels, in one buffer", bytes_of(source, set()) / _FEW
    pack(str(root / "images"), root / "packed", progress=False)
    yield "a pack: the same and the places of images", bytes_of(open_source(str(root / "packed")), set()) / _FEW
    table = root / "images.csv"
    table.write_text("".join(["path,label\n", *(f"images/{key},{os.path.dirname(key)}\n" for key in source.keys)]))
    yield "a list (CSV): names as Python's strings", bytes_of(open_source(str(table)), set()) / _FEW
    yield "a part of it (Subset): more", bytes_of(Subset(source, torch.arange(_FEW)), held(source)) / _FEW
    one, two = (make_folder(root / name, _FEW // 2) for name in ("one", "two"))
    yield "several joined: more", bytes_of(JoinedSource([one, two]), held(one) | held(two)) / (len(one) + len(two))
    yield "paths of files (embed, fingerprint)", bytes_of(source.files(), set()) / _FEW  # type: ignore[attr-defined]
    write_names(source, root)
    yield "images.txt, on the disk", (root / FILE).stat().st_size / _FEW
    yield "what a checkpoint knows of them", bytes_of(ImageSet.of(source).state(), set()) / _FEW
    skipped = SkippedImages(source, 0.01)
    errors = [BrokenImageError(source.keys[index], "image file is truncated") for index in range(_FEW // 100)]
    skipped.record(errors)
    yield "1 % that cannot be read", bytes_of(skipped.reasons, held(source)) / _FEW


def held(source: Source) -> set[int]:
    """What `bytes_of` has seen after it has counted a source."""
    seen: set[int] = set()
    bytes_of(source, seen)
    return seen


def of_orders() -> Iterator[tuple[str, float]]:
    """The order of an epoch; beyond 2²⁴ images nothing of it is held (`scale.py`)."""
    whole = BatchOrder(_FEW, _FEW, 0)
    tables = [index for _, index in whole.batches(0, 2)]  # of two epochs, as many as are kept
    assert order._whole_order.cache_info().maxsize == len(tables)
    yield "order up to 2²⁴ images: two epochs", sum(table.untyped_storage().nbytes() for table in tables) / _FEW
    yield "the same while it is made", peak_of(lambda: permutation(10 * _MANY, 0, "shuffle", 0)) / (10 * _MANY)


def of_methods() -> Iterator[tuple[str, float]]:
    """What methods keep of every image, with their defaults."""
    yield "memory bank (NPID, local aggregation)", bytes_of(MemoryBank(_FEW, 128).rows, set()) / _FEW
    yield "clusters (local aggregation)", torch.zeros(10, _FEW, dtype=torch.int32).nbytes / _FEW
    yield "embeddings while all are looked at: peak", peak_of(look_at_all) / _MANY
    yield "positives (CLIM, glocal)", torch.zeros(_FEW, 10, dtype=torch.int32).nbytes / _FEW
    labels = PseudoLabels(3, 3000)
    labels.assign(torch.zeros(_FEW, 3))
    yield "pseudo-labels (DeepCluster-v2)", labels.assigned.nbytes / _FEW
    yield "clusters (PCL, three clusterings)", 3 * torch.zeros(_FEW, dtype=torch.int64).nbytes / _FEW


def look_at_all() -> Tensor:
    """The loop's own pass over all images, with a network of no cost."""

    def plain(_: int, rows: slice) -> Iterator[tuple[Tensor, Tensor]]:
        for first in range(rows.start, rows.stop, 256):
            index = torch.arange(first, min(first + 256, rows.stop))
            yield index, torch.zeros(len(index), 3, 1, 1)

    backbone = SimpleNamespace(size=1, prepare=lambda images: images)
    method: Any = SimpleNamespace(
        training=True,
        backbone=backbone,
        eval=lambda: None,
        train=lambda _: None,
        embed=lambda images: torch.randn(len(images), 128),
    )
    fabric: Any = SimpleNamespace(autocast=nullcontext, device=torch.device("cpu"))
    lane: Any = SimpleNamespace(plain=plain)
    return embed_all(method, lane, _MANY, fabric)


def of_embeddings() -> Iterator[tuple[str, float]]:
    """What is made of a finished backbone's features. Bytes of thumbnails are those of docs/embeddings.md."""
    for name, width in (("ViT-S", 384), ("ResNet-50", 2048)):
        yield f"features of {name} in an evaluation", torch.zeros(1, width).nbytes
        yield f"`embed` with {name}: vectors, on the disk", torch.zeros(1, width).half().nbytes
    yield "`embed`: thumbnails, on the disk", 2200
    near, index = torch.zeros(1, 32), torch.zeros(1, 32, dtype=torch.int64)
    yield "32 neighbours of each", near.nbytes + index.nbytes
    yield "32 neighbours of each, on the disk", near.nbytes + index.int().nbytes


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--data", nargs="+", default=[], help="sources that are opened and counted as well")
    options = parser.parse_args()
    described = machine()
    print_machine(described)
    table = Table({"held or written": 48, "an image": 10, "14.2 million": 14, "10⁹": 12})
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in (of_names(Path(folder)), of_orders(), of_methods(), of_embeddings()):
            found.update(part)
    for name in options.data:
        source = open_source(name)
        found[f"{name}: as it is opened"] = bytes_of(source, set()) / len(source)
    for name, of_one in found.items():
        table.row(name, f"{of_one:,.1f}", *(f"{of_one * size / 1e9:,.1f} GB" for size in SIZES))
    write_json(options.json, described, sizes=SIZES, bytes_an_image=found)


if __name__ == "__main__":
    main()
