"""Images drawn at random from a larger set: distractors, and those on which a whitening is learned."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence

import torch
from torch import Tensor

from glocal.data.sources.base import Source, Subset
from glocal.data.sources.classes import class_lists, read_class_list
from glocal.errors import GlocalError, did_you_mean
from glocal.views.random import permutation


def classes_named(given: str | Sequence[str] | None) -> list[str]:
    """Classes from their names, from the name of a list in the package, or from a .txt file with one a line.

    Raises:
        GlocalError: there is no such list.

    >>> len(classes_named("imagenet100")), classes_named(["n01440764"])
    (100, ['n01440764'])
    """
    if not isinstance(given, str):
        return list(given or ())
    if given in class_lists() or given.endswith(".txt"):
        return read_class_list(given)
    raise GlocalError(
        f"leave_out={given} is no list of classes; {did_you_mean(given, class_lists())}, or give a .txt file with one "
        f"class a line, or the classes: [{given}]"
    )


def outside_classes(source: Source, classes: Collection[str]) -> Tensor:
    """Positions (M,) int64 of the images that are of none of these classes; of all images where none is named.

    Raises:
        GlocalError: the images have no classes, or a class is not among them.
    """
    if not classes:
        return torch.arange(len(source))
    if source.labels is None or source.classes is None:
        raise GlocalError(
            f"{source.name} has no classes to leave out; give the folder whose folders are the classes, for example "
            "imagenet/train"
        )
    missing = sorted(set(classes) - set(source.classes))
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        near = did_you_mean(missing[0], source.classes) if len(source.classes) <= 20 else "check the names"
        raise GlocalError(f"{source.name}: there is no class {missing[0]}{more} to leave out; {near}")
    left_out = torch.tensor([name in classes for name in source.classes])
    return (~left_out[source.labels.clamp(min=0)] | (source.labels < 0)).nonzero()[:, 0]


def draw_images(source: Source, allowed: Tensor, count: int | None, seed: int, what: str) -> Source:
    """So many of the allowed images of a source, drawn without replacement; all of these where no count is given.

    Args:
        source: the images.
        allowed: (M,) int64, their positions, ascending.
        count: how many.
        seed: of the draw, which depends on it, on `what` and on an image's place in the source alone.
        what: the setting that gives the count, for the draw and for the error.

    Raises:
        GlocalError: fewer are allowed.
    """
    if count is None:
        return source if len(allowed) == len(source) else Subset(source, allowed)
    if count > len(allowed):
        rest = f" of its {len(source):,} that are neither left out nor drawn before"
        some = rest if len(allowed) < len(source) else ""
        raise GlocalError(
            f"{what}={count}: {source.name} has {len(allowed):,} images{some}; give more images or a smaller number"
        )
    order = permutation(len(source), seed, what)
    chosen = order[torch.isin(order, allowed)][:count]
    return Subset(source, chosen.sort().values)


def without(source: Source, allowed: Tensor, others: Source) -> Tensor:
    """Those of the allowed positions whose images are not among the others, files going by their path."""
    there = set(_identities(others))
    own = _identities(source)
    return torch.tensor([place for place in allowed.tolist() if own[place] not in there], dtype=torch.int64)


def _identities(source: Source) -> list[Hashable]:
    """What tells an image from all others, whatever the source that it comes in."""
    if isinstance(source, Subset):
        whole = _identities(source.source)
        return [whole[place] for place in source.indices.tolist()]
    if hasattr(source, "files"):
        return list(source.files())
    return [(source.name, key) for key in source.keys]
