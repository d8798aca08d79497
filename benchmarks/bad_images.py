"""What becomes of bad images: a corpus of them, written anew from a seed, read by the sources and lanes of the library.

Each kind is a folder of the corpus, with files that are damaged, that lie, that are no files, or that are right and
unusual. Then these read all of it, each in a process of its own:

- `source`: every image of the folder. One that is read is compared with what Pillow alone makes of the file (turned by
  EXIF, laid on white, RGB); of grey beyond 8 bits, which Pillow cuts off, with the size alone.
- `streaming`, `resident`: the lanes of a training, with worker processes and without.
- `central`: the images of an evaluation and of `glocal embed`; `check`: the measures of `glocal check`.
- `values`: the folder again, with `data.channels` of 1 to 3.

Whatever is not read has to be named, the same images by all of them, and nothing may come from outside of the corpus.
A process that ends otherwise, or takes longer than --seconds, is a failure, and the script ends with 1.

    python benchmarks/bad_images.py --each 42 --json bad_images.json

With --memory it measures what a single large image takes instead, in bytes a pixel above what the process had held:

    python benchmarks/bad_images.py --memory 6000
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bad_images_made import KINDS, ORIENTATION, encoded, write_corpus
from common import Table, command_line, in_own_process, machine, peak_bytes, peak_from_here, print_machine, write_json
from PIL import Image, ImageOps

from glocal.curation.measuring import measure_all
from glocal.data.decoding.images import read_image
from glocal.data.decoding.reading import open_picture, register_formats
from glocal.data.decoding.rgb import is_deep
from glocal.data.decoding.rules import Decoding
from glocal.data.lanes.central import images_of
from glocal.data.lanes.order import BatchOrder
from glocal.data.lanes.resident import read_all
from glocal.data.lanes.skipped import SkippedImages, read_skipped
from glocal.data.lanes.streaming import StreamingLane
from glocal.data.ranges import decode_as
from glocal.data.sources.base import Subset
from glocal.data.sources.folder import ImageFolder
from glocal.data.sources.resized import Resized
from glocal.errors import BrokenImageError
from glocal.settings import IMAGENET_MEAN, IMAGENET_STD
from glocal.views.plan import View, ViewPlan
from glocal.views.random import permutation

READERS = ("source", "streaming", "resident", "central", "check", "values")


def as_pillow_reads(path: Path) -> np.ndarray | None:
    """The image (H, W, 3) by Pillow alone; None where that fails. Of grey beyond 8 bits only the shape is right."""
    try:
        with warnings.catch_warnings(), open(path, "rb") as file, open_picture(file) as image:
            warnings.simplefilter("ignore")
            image.load()
            with_exif: Image.Image = image
            try:
                with_exif = ImageOps.exif_transpose(image)
            except Exception:  # damaged metadata
                with_exif = image
            if is_deep(with_exif):
                return np.empty((with_exif.height, with_exif.width, 0))
            if with_exif.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in with_exif.info:
                with_exif = Image.alpha_composite(
                    Image.new("RGBA", with_exif.size, (255,) * 4), with_exif.convert("RGBA")
                )
            return np.asarray(with_exif.convert("RGB"))
    except Exception:
        return None


def alike(expected: np.ndarray, image: np.ndarray) -> bool:
    """Whether an image is what `as_pillow_reads` gives."""
    if not expected.shape[2]:
        return expected.shape[:2] == image.shape[:2]
    return np.array_equal(expected, image)


def kind_of(key: str) -> str:
    return key.partition("/")[0]


def look_at_source(folder: Path) -> dict[str, Any]:
    """Reads every image: by kind how many are read, otherwise than by Pillow, named; and the slowest."""
    source = ImageFolder(folder)
    found: dict[str, Counter[str]] = {name: Counter() for name in KINDS}
    slowest, named, other = (0.0, ""), [], []
    for index, key in enumerate(source.keys):
        begun = time.monotonic()
        try:
            image = source[index].image.permute(1, 2, 0).numpy()
        except BrokenImageError as error:
            found[kind_of(key)]["named"] += 1
            named.append([error.key, error.reason])
        else:
            found[kind_of(key)]["read"] += 1
            expected = as_pillow_reads(folder / key)
            if expected is None or not alike(expected, image):
                other.append(key)
        slowest = max(slowest, (time.monotonic() - begun, key))
    for key in other:
        found[kind_of(key)]["otherwise than by Pillow"] += 1
    return {
        "kinds": {name: dict(counts) for name, counts in found.items()},
        "named": named,
        "otherwise": other,
        "passed over": source.passed_over,
        "slowest": slowest,
    }


def look_by(reader: str, folder: Path) -> dict[str, Any]:
    """What a lane, or another reader of a whole source, names; keys of images that it cannot read."""
    source = ImageFolder(folder, values=reader == "values")
    count = len(source)
    if reader == "source":
        return look_at_source(folder)
    if reader == "central":
        broken: list[BrokenImageError] = []
        for _ in images_of(source, 32, workers=2, skipped=broken):
            pass
        return {"named": [[error.key, error.reason] for error in broken]}
    if reader == "check":
        reasons = measure_all(source, hashed=False, workers=2).column("reason").to_pylist()
        return {
            "named": [[key, reason] for key, reason in zip(source.keys, reasons, strict=True) if reason is not None]
        }
    if reader == "values":
        named = []
        for channels in (1, 2, 3):
            decode_as(source, Decoding(channels=channels))
            for index in range(count):
                try:
                    assert bool(source[index].image.isfinite().all())
                except BrokenImageError as error:
                    named.append([error.key, error.reason])
        return {"named": named, "read": 3 * count - len(named)}
    with tempfile.TemporaryDirectory() as place:
        skipped = SkippedImages(source, 1.0, Path(place) / "skipped.txt")
        if reader == "resident":
            read_all(Resized(source, 16), skipped, progress=False)
        else:
            # In another order, for a lane gives up where a hundred images in a row cannot be read.
            mixed = Subset(source, permutation(count, 0))
            plan = ViewPlan([View(size=32), View(size=16, count=2)])
            order = BatchOrder(count, 1, 0)
            lane = StreamingLane(
                mixed, plan, order, torch.device("cpu"), IMAGENET_MEAN, IMAGENET_STD, workers=2, skipped=skipped
            )
            for views in lane.batches(0, order.steps_per_epoch):
                assert all(bool(view.isfinite().all()) for view in views.images)
        assert len(read_skipped(Path(place) / "skipped.txt")) == len(skipped)
        return {"named": [[key, reason] for key, reason in skipped.reasons.items()]}


def run(folder: Path, seconds: int) -> dict[str, Any]:
    """Every reader in a process of its own."""
    found = {}
    for reader in READERS:
        begun = time.monotonic()
        command = [sys.executable, __file__, "--reader", reader, "--out", str(folder)]
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=seconds)
            one = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"failed": done.returncode}
        except subprocess.TimeoutExpired:
            one = {"failed": f"{seconds} s"}
        found[reader] = {**one, "seconds": round(time.monotonic() - begun, 1)}
    return found


def show(found: dict[str, Any], each: int) -> list[str]:
    """Prints the tables; returns what failed."""
    failed = [f"{reader}: {one['failed']}" for reader, one in found.items() if "failed" in one]
    if "failed" not in found["source"]:
        table = Table({"kind": 28, "files": 7, "read": 7, "otherwise": 11, "named": 7, "passed over": 13})
        total: Counter[str] = Counter()
        for name, counts in found["source"]["kinds"].items():
            read, named = counts.get("read", 0), counts.get("named", 0)
            other = counts.get("otherwise than by Pillow", 0)
            row = {"files": each, "read": read, "other": other, "named": named, "over": each - read - named}
            total.update(row)
            table.row(name, *row.values())
        table.row("together", *total.values())
        print(f"passed over: {found['source']['passed over']}")
        print("the slowest took {:.1f} s: {}".format(*found["source"]["slowest"]))
        failed += [f"source: {key} is not what Pillow reads" for key in found["source"]["otherwise"]]
    table = Table({"reader": 12, "named": 7, "seconds": 9, "peak MB": 9})
    whole = {key for key, _ in found["source"].get("named", ())}
    for reader, one in found.items():
        table.row(reader, len(one.get("named", ())), one["seconds"], one.get("megabytes", ""))
        if reader != "values" and "failed" not in one and {key for key, _ in one["named"]} != whole:
            failed.append(f"{reader}: names other images than the source")
    return failed


# Memory.


def large_images(folder: Path, side: int) -> dict[str, Path]:
    """One large image of each kind of pixels."""
    grey = np.zeros((side, side), np.uint8)
    grey[::7] = 200
    plain, exif = Image.fromarray(grey), Image.Exif()
    exif[ORIENTATION] = 6
    made: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "grey PNG": (plain, "png", {}),
        "RGB PNG": (plain.convert("RGB"), "png", {}),
        "transparent PNG": (plain.convert("RGBA"), "png", {}),
        "palette with transparency": (plain.convert("P"), "png", {"transparency": 3}),
        "16-bit PNG": (Image.fromarray(grey.astype(np.uint16) * 200), "png", {}),
        "32-bit TIFF": (Image.fromarray(grey.astype(np.int32) * 200), "tif", {"compression": "tiff_deflate"}),
        "float TIFF": (Image.fromarray(grey.astype(np.float32)), "tif", {"compression": "tiff_deflate"}),
        "JPEG": (plain.convert("RGB"), "jpg", {}),
        "progressive JPEG": (plain.convert("RGB"), "jpg", {"progressive": True}),
        "turned JPEG": (plain.convert("RGB"), "jpg", {"exif": exif}),
        "WebP": (plain.convert("RGB"), "webp", {"lossless": True, "method": 0, "quality": 0}),
        "JPEG 2000": (plain.convert("RGB"), "jp2", {}),
    }
    paths = {}
    for name, (image, ending, options) in made.items():
        paths[name] = folder / f"{name}.{ending}"
        image.save(paths[name], **options)
    return paths


def memory_of(path: Path) -> dict[str, Any]:
    """What reading an image takes above what the process has held before."""
    register_formats()
    small = io.BytesIO(encoded(Image.new("RGB", (8, 8)), "JPEG"))
    read_image(small, "small")  # loads what all images need
    before = peak_from_here("cpu")
    read_image(path, path.name)
    return {"bytes": peak_bytes("cpu") - before}


def measure_memory(side: int) -> list[dict[str, Any]]:
    table = Table({"image": 28, "file, kB": 10, "peak, MB": 10, "bytes a pixel": 15})
    found = []
    with tempfile.TemporaryDirectory() as place:
        for name, path in large_images(Path(place), side).items():
            taken = in_own_process(__file__, "--one", path)["bytes"]
            size = path.stat().st_size
            found.append({"image": name, "file": size, "bytes": taken, "bytes a pixel": taken / side**2})
            table.row(name, size // 1000, taken // 1_000_000, f"{taken / side**2:.1f}")
    return found


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument(
        "--out", type=Path, help="the folder of the corpus, which must not be there; default: a new one"
    )
    parser.add_argument("--each", type=int, default=42, help="files of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=1800, help="that a reader may take for all")
    parser.add_argument("--memory", type=int, metavar="SIDE", help="measure memory for images of so many pixels a side")
    parser.add_argument("--reader", choices=READERS, help=argparse.SUPPRESS)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(memory_of(asked.one)))
        return
    if asked.reader:
        one = look_by(asked.reader, asked.out)
        print(json.dumps({**one, "megabytes": peak_bytes("cpu") // 1_000_000}))
        return
    described = machine("cpu", "PIL", "tifffile", "pydicom")
    print_machine(described)
    if asked.memory:
        write_json(asked.json, described, memory=measure_memory(asked.memory))
        return
    with tempfile.TemporaryDirectory() as place:
        inside = asked.out or Path(place) / "corpus"
        count = write_corpus(inside, asked.each, asked.seed)
        print(f"{count:,} files of {len(KINDS)} kinds, seed {asked.seed}")
        found = run(inside, asked.seconds)
        failed = show(found, asked.each)
        failed += [
            f"{path} came out of the corpus" for path in (inside.parent, Path.cwd()) if (path / "escaped").exists()
        ]
        failed += [f"{path} was written" for path in inside.parent.rglob("escaped*")]
        write_json(asked.json, described, files=count, seed=asked.seed, found=found, failed=failed)
    print("\n".join(failed) or "all were read as Pillow reads them, or named")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
