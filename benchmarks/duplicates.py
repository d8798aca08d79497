"""How many planted near-copies `glocal duplicates` finds, and how many of its pairs are none.

Of a folder of photographs, copies of eight kinds are planted (PLAN below, 25 photographs each, each photograph once),
and all are embedded by the given backbones. A copy is found if it is in one group with its photograph; of all pairs
within groups, those of one photograph are right. The rules were settled while looking at this plan with
its first seed, so take another one (--seed) for numbers that owe it nothing. The same rules look at the photographs
without copies, where every group is a false one.

Beside them, in the same table, what is usual: `imagehash.phash` at 10 bits (8 is the default of many tools), and a
fixed cosine of 0.95 or 0.9 on the same embeddings; their pairs become groups by the same function.

    python benchmarks/duplicates.py photos/ --backbone pixels \\
        --backbone timm:tf_efficientnet_lite0=tf_efficientnet_lite0.safetensors --json duplicates.json

With --rows it measures time, peak memory and recall on embeddings that are drawn at random instead, one number of rows
after another, each in a process of its own:

    python benchmarks/duplicates.py --rows 75000 150000 300000
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from common import Table, command_line, in_own_process, machine, peak_bytes, print_machine, write_json
from PIL import Image, ImageDraw, ImageEnhance, ImageFont, ImageOps

from glocal.curation.chance import measure_evidence
from glocal.curation.duplicates import find_duplicates
from glocal.curation.grouping import groups_of_pairs
from glocal.curation.hashes import THUMBNAIL, Hashes, hash_images, save_hashes
from glocal.embeddings.folder import ABOUT, SHARD_ROWS, About, Embeddings
from glocal.embeddings.making import embed
from glocal.embeddings.shards import vectors_column, write_shard

EACH = 25  # photographs of each kind
RESIZED, CROPPED, QUALITY, DEGREES, BAR, BRIGHTER = 0.5, 0.7, 20, 5, 0.15, 1.4
USUAL_QUALITY = 95  # of JPEG files, but for those that are compressed again


def resized(image: Image.Image, _: random.Random) -> Image.Image:
    return image.resize((round(RESIZED * image.width), round(RESIZED * image.height)), Image.Resampling.LANCZOS)


def cropped(image: Image.Image, rng: random.Random) -> Image.Image:
    """70 % of either side, anywhere."""
    width, height = round(CROPPED * image.width), round(CROPPED * image.height)
    left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    return image.crop((left, top, left + width, top + height))


def captioned(image: Image.Image, _: random.Random) -> Image.Image:
    """A black bar below, 15 % of the height, with white letters."""
    bar = round(BAR * image.height)
    framed = Image.new("RGB", (image.width, image.height + bar), "black")
    framed.paste(image)
    font = ImageFont.load_default(max(8, bar // 2))
    ImageDraw.Draw(framed).text((bar // 4, image.height + bar // 4), "a caption", fill="white", font=font)
    return framed


PLAN: dict[str, Callable[[Image.Image, random.Random], Image.Image]] = {
    "resized": resized,
    "cropped": cropped,
    "compressed": lambda image, _: image,
    "mirrored": lambda image, _: ImageOps.mirror(image),
    "grey": lambda image, _: image.convert("L"),
    "rotated": lambda image, _: image.rotate(DEGREES, Image.Resampling.BICUBIC),
    "captioned": captioned,
    "brightened": lambda image, _: ImageEnhance.Brightness(image).enhance(BRIGHTER),
}


def plant(photos: Sequence[Path], out: Path, each: int, seed: int) -> dict[str, tuple[str, str]]:
    """Writes copies; the kind and the photograph of each by name."""
    if each * len(PLAN) > len(photos):
        raise SystemExit(f"{len(photos)} photographs are too few for {each} copies of {len(PLAN)} kinds each")
    rng = random.Random(seed)
    chosen = rng.sample(photos, each * len(PLAN))
    out.mkdir(parents=True)
    planted = {}
    for number, photo in enumerate(chosen):
        kind = list(PLAN)[number // each]
        copy = PLAN[kind](Image.open(photo).convert("RGB"), rng)
        name = f"{photo.stem}-{kind}.jpg"
        copy.save(out / name, quality=QUALITY if kind == "compressed" else USUAL_QUALITY)
        planted[name] = kind, photo.name
    return planted


class Truth:
    """Which rows are of one photograph, and what groups are worth."""

    def __init__(self, embeddings: Embeddings, planted: dict[str, tuple[str, str]]) -> None:
        names = [Path(key).name for key in embeddings.keys]
        place = {name: row for row, name in enumerate(names)}
        self.kinds = [planted[name][0] if name in planted else "" for name in names]
        self.photo = np.array([place[planted[name][1]] if name in planted else row for row, name in enumerate(names)])

    def measure(self, group: np.ndarray) -> dict[str, Any]:
        """Precision of pairs and recall of copies in percent, overall and by kind, and how many groups there are."""
        first, second = np.triu_indices(len(group), 1)
        together = (group[first] == group[second]) & (group[first] >= 0)
        right = together & (self.photo[first] == self.photo[second])
        copies = np.array([row for row, kind in enumerate(self.kinds) if kind])
        found = (group[copies] >= 0) & (group[copies] == group[self.photo[copies]])
        kinds = np.array(self.kinds)[copies]
        return {
            "precision": 100 * float(right.sum() / max(1, together.sum())),
            "recall": 100 * float(found.mean()),
            "kinds": {kind: 100 * float(found[kinds == kind].mean()) for kind in PLAN},
            "groups": len(np.unique(group[group >= 0])),
        }


def rows_of(embeddings: Embeddings, **options: Any) -> np.ndarray:
    """The group of each row as `find_duplicates` has it."""
    found = find_duplicates(embeddings, progress=False, **options)
    group = np.full(len(embeddings), -1)
    group[found.row] = found.group
    return group


def by_cosine(embeddings: Embeddings, least: float) -> np.ndarray:
    vectors = torch.nn.functional.normalize(embeddings.rows(0, len(embeddings)), dim=1)
    first, second = np.nonzero(np.triu((vectors @ vectors.T).numpy() >= least, 1))
    return groups_of_pairs(first, second, len(vectors))


def by_hash(hashes: Hashes, bits: int, *, mirrored: bool) -> np.ndarray:
    first, second = np.triu_indices(len(hashes), 1)
    if mirrored:
        distance = hashes.distance(first, second)
    else:
        distance = np.bitwise_count(hashes.straight[first] ^ hashes.straight[second])
    near = (distance <= bits) & hashes.usable[first] & hashes.usable[second]
    return groups_of_pairs(first[near], second[near], len(hashes))


def measure(photos: Path, backbones: Sequence[str], each: int, seed: int) -> list[dict[str, Any]]:
    """The rows of the table."""
    files = sorted(path for path in photos.rglob("*") if path.is_file())
    names = list(PLAN)
    table = Table({"": 46, "precision": 10, "recall": 8, **dict.fromkeys(names, 12), "clean": 7})
    found = []
    with tempfile.TemporaryDirectory() as place:
        planted = plant(files, Path(place) / "copies", each, seed)

        def row(name: str, truth: Truth, group: np.ndarray, clean: np.ndarray) -> None:
            one = truth.measure(group)
            false = len(np.unique(clean[clean >= 0]))
            found.append({"by": name, **one, "false groups without copies": false})
            table.row(
                name,
                f"{one['precision']:.1f}",
                f"{one['recall']:.1f}",
                *(f"{one['kinds'][kind]:.0f}" for kind in names),
                false,
            )

        for number, backbone in enumerate(backbones):
            name, _, weights = backbone.partition("=")
            both, alone = (
                embed(name, data, Path(place) / f"{number}-{what}", weights=weights or None, progress=False)
                for what, data in (("both", [str(photos), str(Path(place) / "copies")]), ("clean", str(photos)))
            )
            truth = Truth(both, planted)
            if number == 0:
                kept = {what: hash_images(of, progress=False) for what, of in (("both", both), ("clean", alone))}
                reach = {"both": measure_evidence(both, kept["both"]), "clean": measure_evidence(alone, kept["clean"])}
                groups = (by_hash(kept[what], reach[what].alone, mirrored=True) for what in kept)
                row("hashes alone, as near as chance is not", truth, *groups)
                for bits in (8, 10):
                    groups = (by_hash(kept[what], bits, mirrored=False) for what in kept)
                    row(f"imagehash.phash within {bits} bits", truth, *groups)
            row(f"{name}: embeddings alone", truth, *(rows_of(of, hashes=False) for of in (both, alone)))
            row(f"{name}: embeddings and hashes", truth, *(rows_of(of) for of in (both, alone)))
            for least in (0.95, 0.9):
                row(f"{name}: cosine of {least}", truth, *(by_cosine(of, least) for of in (both, alone)))
    return found


# Rows that are drawn at random.

DIM, INNER, CLUSTERS, COPIES = 64, 16, 1000, 0.01
NOISE = 0.15  # of a copy's embedding, of the deviation within a cluster
FLIPPED = 2  # bits of a copy's hash


def draw(folder: Path, rows: int, seed: int) -> int:
    """Embeddings in clusters of fewer dimensions with hashes, the last of them copies; how many copies."""
    rng = np.random.default_rng(seed)
    copies = round(COPIES * rows)
    centre = rng.standard_normal((CLUSTERS, DIM)).astype(np.float32)
    basis = rng.standard_normal((CLUSTERS, INNER, DIM)).astype(np.float32) / np.sqrt(INNER)
    folder.mkdir(parents=True)
    vectors = np.empty((rows, DIM), np.float16)
    kind = rng.integers(0, CLUSTERS, rows)
    for start in range(0, rows, SHARD_ROWS):
        here = kind[start : start + SHARD_ROWS]
        inner = rng.standard_normal((len(here), 1, INNER)).astype(np.float32)
        vectors[start : start + SHARD_ROWS] = centre[here] + (inner @ basis[here])[:, 0]
    vectors[-copies:] = vectors[:copies] + NOISE * rng.standard_normal((copies, DIM)).astype(np.float32) / np.sqrt(DIM)
    hashes = Hashes.empty(rows)
    hashes.state[:] = THUMBNAIL
    hashes.spread[:] = 50
    for values in (hashes.straight, hashes.mirrored):
        values[:] = rng.integers(0, 1 << 64, rows, dtype=np.uint64)
        for _ in range(FLIPPED):
            values[-copies:] = (values[:copies] if _ == 0 else values[-copies:]) ^ (
                np.uint64(1) << rng.integers(0, 64, copies, dtype=np.uint64)
            )
    for number, start in enumerate(range(0, rows, SHARD_ROWS)):
        some = vectors[start : start + SHARD_ROWS]
        count = len(some)
        columns = {
            "index": pa.array(range(start, start + count), pa.int64()),
            "key": [f"{row:07d}" for row in range(start, start + count)],
            "path": pa.nulls(count, pa.string()),
            "label": pa.nulls(count, pa.string()),
            "width": pa.array([32] * count, pa.int32()),
            "height": pa.array([32] * count, pa.int32()),
            "vector": vectors_column(some),
        }
        write_shard(folder / f"shard-{number:05d}.parquet", pa.table(columns))
    about = About(
        backbone="drawn", label="drawn", fingerprint=None, source="drawn", images=rows, size=32, dim=DIM, complete=True
    )
    (folder / ABOUT).write_text(about.model_dump_json())
    save_hashes(folder, hashes)
    return copies


def find(folder: Path, copies: int) -> dict[str, Any]:
    """Time, memory and recall, in this process."""
    embeddings = Embeddings(folder)
    before = peak_bytes("cpu")
    start = time.perf_counter()
    found = find_duplicates(embeddings, progress=False)
    seconds = time.perf_counter() - start
    group = np.full(len(embeddings), -1)
    group[found.row] = found.group
    right = (group[:copies] >= 0) & (group[:copies] == group[-copies:])
    return {
        "rows": len(embeddings),
        "seconds": seconds,
        "peak_gb": peak_bytes("cpu") / 1e9,
        "imports_gb": before / 1e9,
        "recall": 100 * float(right.mean()),
        "precision": 100 * float(right.sum() / max(1, len(found.row) - len(found))),
        "threshold": found.threshold.similarity,
    }


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("photos", type=Path, nargs="?", help="a folder of at least 200 photographs")
    parser.add_argument("--backbone", action="append", help="as glocal embed takes it, timm:NAME=FILE with weights")
    parser.add_argument("--each", type=int, default=EACH, help="copies of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, nargs="*", help="draw so many rows instead")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(find(Path(asked.one[0]), int(asked.one[1]))))
        return
    described = machine("cpu", "imagehash")
    print_machine(described)
    if asked.rows:
        table = Table({"rows": 10, "seconds": 10, "peak GB": 10, "recall": 10, "precision": 11, "threshold": 11})
        found = []
        for rows in asked.rows:
            with tempfile.TemporaryDirectory() as place:
                folder = Path(place) / "E"
                found.append(in_own_process(__file__, "--one", folder, draw(folder, rows, asked.seed)))
            one = found[-1]
            numbers = (f"{one['seconds']:.0f}", f"{one['peak_gb']:.2f}", f"{one['recall']:.1f}")
            table.row(rows, *numbers, f"{one['precision']:.1f}", f"{one['threshold']:.3f}")
    elif asked.photos:
        found = measure(asked.photos, asked.backbone or ["pixels"], asked.each, asked.seed)
    else:
        sys.exit("name a folder of photographs, or --rows")
    write_json(asked.json, described, found=found)


if __name__ == "__main__":
    main()
