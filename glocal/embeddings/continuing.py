"""What of a folder of embeddings is there already, and whether it is the same that is asked for."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from glocal.console import note
from glocal.data.sources.passed_over import check_holds_no_images
from glocal.distributed import process_rank
from glocal.embeddings.folder import ABOUT, About, read_about, shard_paths
from glocal.errors import GlocalError
from glocal.files import write_text

BESIDE = b"glocal"
"""Among a shard's metadata: what is known of images that it does not hold."""


def started(folder: Path, about: About) -> About:
    """What the folder holds already, or shall hold: `about`, which the first process writes where nothing is there.

    Raises:
        GlocalError: it holds other embeddings, shards of which nothing is known, or images.
    """
    if (folder / ABOUT).is_file():
        there = read_about(folder)
        different = _differences(there, about)
        if different:
            raise GlocalError(
                f"{folder} holds other embeddings: {'; '.join(different)}; choose another folder (--out), or delete "
                "this one"
            )
        return there
    if shard_paths(folder):
        raise GlocalError(f"{folder} holds shards but no {ABOUT} that says of what; choose another folder (--out)")
    if process_rank() == 0:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            check_holds_no_images(folder)
            write_text(folder / ABOUT, about.model_dump_json(indent=2) + "\n")
        except OSError as error:
            raise GlocalError(f"{folder}: no folder can be written there: {error.strerror}") from error
    return about


def _differences(there: About, now: About) -> list[str]:
    """In what embeddings that are there differ from those that are asked for, in words."""
    found = []
    if (there.fingerprint or there.label) != (now.fingerprint or now.label):
        names = [" with ".join(filter(None, (one.backbone, one.weights))) for one in (there, now)]
        changed = f"the weights of {names[0]} have changed since"
        found.append(f"the backbone is {names[0]} there, {names[1]} now" if names[0] != names[1] else changed)
    if (there.images_fingerprint, there.images) != (now.images_fingerprint, now.images):
        images = [f"{one.images:,} images of {_named(one.source)}" for one in (there, now)]
        changed = f"the {images[0]} are others, or were changed (path, size or time of a file)"
        found.append(f"{images[0]} there, {images[1]} now" if images[0] != images[1] else changed)
    elif there.images_fingerprint is None and there.source != now.source:
        found.append(f"the images are {_named(there.source)} there, {_named(now.source)} now")
    for name, what in (
        ("size", "size of the images"),
        ("interpolation", "interpolation"),
        ("value_range", "range of grey values"),
        ("precision", "precision"),
        ("tokens", "tokens"),
        ("thumbnails", "thumbnails"),
    ):
        before, after = getattr(there, name), getattr(now, name)
        if before != after:
            found.append(f"{what}: {_said(before)} there, {_said(after)} now")
    return found


def _named(source: str | list[str]) -> str:
    return source if isinstance(source, str) else ", ".join(source)


def _said(value: object) -> str:
    return "none" if value is None else str(value)


def is_whole(path: Path) -> bool:
    """Whether a shard is there; one that another program has damaged is computed anew."""
    if not path.exists():
        return False
    try:
        return BESIDE in (pq.read_metadata(path).metadata or {})
    except (pa.ArrowException, OSError) as error:
        note(f"{path} is damaged ({error}); its images are embedded anew")
        return False
