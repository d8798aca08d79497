"""Opening a source by its name, one string, or by several names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from glocal.console import note
from glocal.data.sources.base import Source
from glocal.errors import GlocalError

Images = str | Path | Source | Sequence[str | Path | Source]
"""What `open_source` opens."""


def open_source(name: Images, *, without: str | Path | None = None, values: bool = False) -> Source:
    """Opens a source by its name, or several as one (`glocal.data.sources.joined`).

    - a folder of images, nested or flat: `photos/`
    - a list of image files: `photos.txt`, `photos.csv` (`glocal.data.sources.listed`)
    - a folder that `glocal pack` wrote: `packed/photos` (`glocal.data.sources.packed`)
    - `shapes`, `shapes:test`, `shapes:train:20000`: drawn by the package (`glocal.data.sources.shapes`)
    - `digits`, `digits:test`: scikit-learn's handwritten digits at 32×32
    - `torchvision:CIFAR10`, `torchvision:CIFAR10:test`, `torchvision:STL10:unlabeled`, …: torchvision's data sets
    - `hf:uoft-cs/cifar10`, `hf:FOLDER/*.parquet`, `hf:s3://…/*.tar`, …: what Hugging Face's `datasets` opens
      (`glocal.data.sources.huggingface`)

    `NAME@imagenet100` keeps the images of the classes in a list of the package, `NAME@FILE.txt` those of a file's
    (`glocal.data.sources.classes`). A folder that exists goes before a data set of the same name.

    Files in a folder that might be missed (HEIC, DICOM, …) and folders that glocal wrote are counted in a note.

    Args:
        name: one name, or several.
        without: a folder whose images do not count, wherever it lies: the one that a run is about to make.
        values: arrays and DICOM files in folders are images as well (`data.channels`).

    Raises:
        GlocalError: no such folder or data set, of which the message names the nearest; or it is no name.
    """
    if isinstance(name, str | Path):
        return _open_one(name, without, values)
    if isinstance(name, Source):
        return name
    if not isinstance(name, Sequence):
        raise GlocalError(
            f"images are named by a folder, a list or a data set, not given as {type(name).__name__}; those in memory "
            "are a glocal.data.sources.base.MemorySource"
        )
    parts = [open_source(one, without=without, values=values) for one in name]
    if not parts:
        raise GlocalError("no images: the list of sources is empty")
    if len(parts) == 1:
        return parts[0]
    from glocal.data.sources.joined import JoinedSource

    return JoinedSource(parts)


def names_of(source: Source) -> str | list[str]:
    """What `open_source` opens a source by: its name, or those of its parts."""
    return getattr(source, "names", source.name)


def _open_one(name: str | Path, without: str | Path | None, values: bool) -> Source:
    if name == "":
        raise GlocalError("the name of the images is empty; give a folder, a list or a data set")
    if str(name).startswith("~"):  # which no shell has replaced: from Python, or quoted
        name = os.path.expanduser(name)
    text = str(name)
    if "@" in text and not os.path.exists(text):
        from glocal.data.sources.classes import only_classes

        whole, _, classes = text.rpartition("@")
        return only_classes(_open_one(whole, without, values), classes)
    kind, *parts = text.split(":")
    if isinstance(name, str) and not os.path.isdir(text):
        if kind == "shapes":
            from glocal.data.sources.shapes import Shapes

            if len(parts) > 2 or not all(part.isdecimal() for part in parts[1:]):
                raise GlocalError(f"{text}: write shapes, shapes:test or shapes:train:20000")
            return Shapes(parts[0] if parts else "train", int(parts[1]) if len(parts) == 2 else None)
        if kind == "digits":
            from glocal.data.sources.digits import open_digits

            return open_digits(":".join(parts) or "train")
        if kind == "hf":
            from glocal.data.sources.huggingface import DatasetImages

            return DatasetImages(text)
        if kind == "torchvision":
            from glocal.data.sources.torchvision import open_torchvision

            return open_torchvision(parts[0] if parts else "", ":".join(parts[1:]) or "train")
    from glocal.data.packs.layout import is_pack
    from glocal.data.sources.folder import ImageFolder
    from glocal.data.sources.listed import ListedImages, is_list

    if is_list(text) and not os.path.isdir(text):
        return ListedImages(text)
    if is_pack(text):
        from glocal.data.sources.packed import PackedImages

        return PackedImages(text)
    folder = ImageFolder(text, without=without, values=values)
    if folder.passed_over:
        note(f"{text}: {len(folder):,} image{'s' if len(folder) > 1 else ''}; passed over: {folder.passed_over}")
    return folder
