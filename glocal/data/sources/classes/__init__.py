"""Lists of classes: subsets of data sets that papers use, as text files with one class a line."""

from __future__ import annotations

from importlib import resources

import torch

from glocal.data.sources.base import Source, Subset
from glocal.errors import GlocalError, did_you_mean
from glocal.regular import open_regular_text


def class_lists() -> list[str]:
    """The names of the lists in the package.

    >>> class_lists()
    ['imagenet100']
    """
    files = (file.name for file in resources.files(__name__).iterdir())
    return sorted(name.removesuffix(".txt") for name in files if name.endswith(".txt"))


def read_class_list(name: str) -> list[str]:
    """The classes of a list.

    Args:
        name: a list of the package, or a text file with one class a line; lines that start with # are comments.

    Raises:
        GlocalError: there is no such list, or it is empty.
    """
    try:
        if name.endswith(".txt"):
            with open_regular_text(name) as file:
                text = file.read()
        elif name in class_lists():
            text = resources.files(__name__).joinpath(f"{name}.txt").read_text(encoding="utf-8")
        else:
            raise GlocalError(f"@{name}: there is no list of classes {name}; {did_you_mean(name, class_lists())}")
    except OSError as error:
        raise GlocalError(f"@{name}: cannot be read: {error.strerror}") from error
    classes = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not classes:
        raise GlocalError(f"@{name}: the list is empty")
    return classes


def only_classes(source: Source, name: str) -> Source:
    """The images of a source whose class is in a list; classes are numbered anew, in the list's sorted order.

    Raises:
        GlocalError: an unlabelled source, or one that lacks a class of the list.
    """
    wanted = sorted(read_class_list(name))
    if source.labels is None or source.classes is None:
        raise GlocalError(f"{source.name}@{name}: the images have no classes to choose from")
    missing = [name for name in wanted if name not in source.classes]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise GlocalError(f"{source.name}@{name}: there is no class {missing[0]}{more}")
    number = torch.full((len(source.classes),), -1)
    for new, label in enumerate(wanted):
        number[source.classes.index(label)] = new
    chosen = ((source.labels >= 0) & (number[source.labels] >= 0)).nonzero()[:, 0]
    subset = Subset(source, chosen)
    subset.name = f"{source.name}@{name}"
    subset.classes = wanted
    subset.labels = number[source.labels[chosen]]
    return subset
