"""Opening a source by its name, one string."""

from __future__ import annotations

import os
from pathlib import Path

from glocal.data.sources.base import Source
from glocal.errors import GlocalError


def open_source(name: str | Path | Source) -> Source:
    """Opens a source by its name.

    - a folder of images, nested or flat: `photos/`
    - `shapes`, `shapes:test`, `shapes:train:20000`: drawn by the package (`glocal.data.sources.shapes`)
    - `digits`, `digits:test`: scikit-learn's handwritten digits at 32×32
    - `torchvision:CIFAR10`, `torchvision:CIFAR10:test`, `torchvision:STL10:unlabeled`, …: torchvision's data sets

    `NAME@imagenet100` keeps the images of the classes in a list of the package, `NAME@FILE.txt` those of a file's
    (`glocal.data.sources.classes`). A folder that exists goes before a data set of the same name.

    Raises:
        GlocalError: no such folder or data set; the message names the nearest.
    """
    if not isinstance(name, str | Path):
        return name
    text = str(name)
    if "@" in text and not os.path.exists(text):
        from glocal.data.sources.classes import only_classes

        whole, _, classes = text.rpartition("@")
        return only_classes(open_source(whole), classes)
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
        if kind == "torchvision":
            from glocal.data.sources.torchvision import open_torchvision

            return open_torchvision(parts[0] if parts else "", ":".join(parts[1:]) or "train")
    from glocal.data.sources.folder import ImageFolder

    return ImageFolder(text)
