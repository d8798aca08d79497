"""Which images of a source have a label, and which folders are classes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from glocal.data.sources.base import Source, Subset

_SPLIT = re.compile(r"(train|training|val|valid|validation|test|testing|unlabell?ed)[-_]?(\d{4})?", re.IGNORECASE)


def labelled_part(source: Source) -> Source | None:
    """The images of a source that have a label: the source itself, a part of it, or None where no image has one.

    Of STL10's 105,000 training images 5,000 have one; the label of the others is −1.
    """
    if source.labels is None or source.classes is None:
        return None
    known = source.labels >= 0
    if bool(known.all()):
        return source
    return Subset(source, known.nonzero()[:, 0]) if bool(known.any()) else None


def are_splits(names: Sequence[str]) -> bool:
    """Whether folders are named like the parts that data sets are given in, which are no classes.

    >>> are_splits(["train", "val"]), are_splits(["train2017", "val2017"]), are_splits(["plane", "train"])
    (True, True, False)
    """
    return len(names) > 0 and all(_SPLIT.fullmatch(name) for name in names)
