"""Which images a printed row is trained on, and whether they are on this machine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from glocal.config import load_mapping
from glocal.data.sources.torchvision import is_downloaded
from glocal.papers import PaperRow

_OF_TORCHVISION = "torchvision:"
_IN_NAMES = {  # of recipes whose images are a folder of the user's
    "imagenet": "ImageNet",
    "imagenet100": "ImageNet-100",
    "tinyimagenet": "Tiny ImageNet",
    "coco": "COCO",
}


class DataSet(NamedTuple):
    """The images of a row.

    Attributes:
        name: of the data set.
        here: they are on this machine; None where they are a folder that the user has to name.
    """

    name: str
    here: bool | None


def data_set(recipe: str, source: str | Sequence[str] | None) -> DataSet:
    """The images that a recipe is for; nothing is downloaded.

    Args:
        recipe: its name, which says the data set where it has no source.
        source: its `data.source`.
    """
    if source is None:
        found = re.search(r"(?:tiny)?imagenet(?:100)?|coco", recipe)
        return DataSet(_IN_NAMES[found[0]] if found else "images of one's own", None)
    if not isinstance(source, str):
        return DataSet(" + ".join(source), None)
    if not source.startswith(_OF_TORCHVISION):
        return DataSet(source, True if source.partition(":")[0] in ("shapes", "digits") else None)
    name = source.removeprefix(_OF_TORCHVISION).partition(":")[0]
    return DataSet(name, is_downloaded(name))


def data_sets(rows: Sequence[PaperRow]) -> list[DataSet]:
    """Those of all rows that can be run, each once, in the order of the rows."""
    recipes = dict.fromkeys(row.recipe for row in rows if row.recipe is not None)
    found = [data_set(name, (load_mapping(name).get("data") or {}).get("source")) for name in recipes]
    return list(dict.fromkeys(found))


def in_words(sets: Sequence[DataSet]) -> str:
    """Data sets with what is to do for them.

    >>> in_words([DataSet("CIFAR10", True), DataSet("STL10", False), DataSet("ImageNet", None)])
    'CIFAR10 (here), STL10 (missing), ImageNet (--data)'
    """
    words = {True: "here", False: "missing", None: "--data"}
    return ", ".join(f"{one.name} ({words[one.here]})" for one in sets)
