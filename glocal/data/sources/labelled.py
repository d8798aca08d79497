"""Which images of a source have a label, and which folders are classes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from glocal.data.sources.base import Source, Subset

_SPLIT = re.compile(r"(train|training|val|valid|validation|test|testing|unlabell?ed)[-_]?(\d{4})?", re.IGNORECASE)
_TO_LEARN_FROM = ("train", "unlab")  # beginnings of the names of parts that are proposed first


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


def training_part(names: Sequence[str]) -> str:
    """The part of a data set to learn from, of all its parts by name; the first where none is called so.

    >>> training_part(["test", "train2017", "val"]), training_part(["test", "unlabeled"])
    ('train2017', 'unlabeled')
    """
    return next(
        (name for start in _TO_LEARN_FROM for name in sorted(names, key=len) if name.lower().startswith(start)),
        names[0],
    )


def has_no_labels(source: Source) -> str:
    """The message about a source without labels, with what would have some."""
    part = getattr(source, "part", None)
    if part is not None:  # a folder of train/ and test/
        return f"{source.name} has no labels, for its folders are the parts of a data set; give one part, as {part}"
    beside = getattr(source, "beside", None)
    if beside is not None:
        return (
            f"{source.name} has no labels, for {beside} lies beside its folders, which else were the classes: move it"
        )
    return f"{source.name} has no labels; in a folder, the two or more folders of the first level are the classes"
