"""Which images a row learns from and is measured on: those of its recipe, or others that are named for it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from glocal.data.sources.base import Source, Subset
from glocal.data.sources.labelled import has_no_labels, labelled_part
from glocal.data.sources.opening import open_source
from glocal.errors import GlocalError, counted, did_you_mean

_TORCHVISION = "torchvision:"
_TESTS = ("test", "val", "validation")


class Given(NamedTuple):
    """What `--data` or `--test` name: images for all rows, and images in place of a data set's."""

    everywhere: tuple[str, ...]
    instead: dict[str, str]  # by the data set's name in small letters, without torchvision:


def parse_given(places: Sequence[str], option: str) -> Given:
    """`["cifar10/train"]`, or `["cifar10=data/cifar10/train", "stl10=data/stl10"]`.

    Raises:
        GlocalError: both ways, or a data set twice.
    """
    everywhere: list[str] = []
    instead: dict[str, str] = {}
    for place in places:
        name, equals, path = place.partition("=")
        if not equals or Path(place).exists():
            everywhere.append(place)
            continue
        key = name.lower().removeprefix(_TORCHVISION)
        if key in instead:
            raise GlocalError(f"{option} {place}: {name} has images already; give one path for a data set")
        instead[key] = path
    if everywhere and instead:
        raise GlocalError(
            f"{option} {everywhere[0]} is for all rows, {option} {next(iter(instead))}=… for some; give the one or the "
            "other"
        )
    return Given(tuple(everywhere), instead)


def images_for(given: Given, source: str | None, label: str) -> tuple[str, ...]:
    """What is given for a row; empty where nothing is.

    Args:
        given: by the user.
        source: `data.source` of the row's recipe.
        label: the row's, whose words may name its data set (CIFAR10).
    """
    if given.everywhere:
        return given.everywhere
    return next(((given.instead[name],) for name in _names(source, label) if name in given.instead), ())


def _names(source: str | None, label: str) -> list[str]:
    """What a row's data set may be called."""
    names = [name for name in re.split(r"[^\w.:-]+", label.lower()) if name]
    whole = (source or "").lower().removeprefix(_TORCHVISION)
    return [whole, whole.split(":")[0], *names] if whole else names


def check_names(given: Given, option: str, rows: Mapping[str, str | None], table: str) -> None:
    """Refuses images in place of a data set that no row has: its name is mistyped, and the row would have others.

    Args:
        given: by the user.
        option: by which.
        rows: the data sets of the table's rows, by label.
        table: that the rows are of.
    """
    known = {name for label, source in rows.items() for name in _names(source, label)}
    for name in given.instead:
        if name not in known:
            sets = {_names(source, "")[-1] for source in rows.values() if source}
            raise GlocalError(
                f"{option} {name}=…: no row of table {table} has these images; {did_you_mean(name, sets or known)}"
            )


def belonging_to(train: Sequence[str]) -> tuple[str, ...]:
    """The test images that belong to training images: another part of the data set, or the folder beside `train`."""
    if len(train) != 1:
        return ()
    name = train[0]
    kind, *parts = name.split(":")
    if kind == "torchvision" and parts:
        return (f"torchvision:{parts[0]}:test",)
    if kind in ("shapes", "digits") and not Path(name).is_dir():
        return (f"{kind}:test",)
    path = Path(name)
    found = (path.with_name(part) for part in _TESTS)
    return next(((str(place),) for place in found if path.name.startswith("train") and place.is_dir()), ())


class Images(NamedTuple):
    """The images of a row.

    Attributes:
        train: to pretrain on.
        learn: the labelled ones that protocols learn from.
        test: that are measured on.
        words: what was taken of which, for a heading.
    """

    train: Source
    learn: Source
    test: Source
    words: str


def open_images(
    train: Sequence[str], test: Sequence[str], *, images: int | None = None, held_out: int | None = None
) -> Images:
    """Opens the images of a row, or a part of them.

    Args:
        train: names of the images to pretrain on; the protocols learn from the labelled ones among these.
        test: names of those to measure on; none where some are held out.
        images: at most so many to train on, as many of each class: its first ones. Of a source without labels, and of
            one with labels here and there, they are spread evenly over all.
        held_out: measure on so many training images of each class, which follow on the first ones and are not trained
            on, instead of on `test`.

    Raises:
        GlocalError: images are missing, have no labels, or are too few.
    """
    whole = open_source(list(train))
    labels = labelled_part(whole)
    if held_out is not None:
        if labels is not whole:
            why = (
                has_no_labels(whole) if labels is None else f"only {len(labels):,} images of {whole.name} have a label"
            )
            raise GlocalError(f"--held-out takes images of each class, and {why}")
        first, after, each = _first_and_after(whole, images, held_out)
        chosen = Subset(whole, first)
        words = f"{_of_each(each, chosen)}, measured on the {held_out:,} that follow of each class"
        return Images(chosen, chosen, Subset(whole, after), f"{whole.name}: {words}")
    part, words = _some(whole, images)
    if labels is None:
        raise GlocalError(f"nothing can be measured: {has_no_labels(whole)}")
    learn = part if labels is whole else _some(labels, images)[0]
    if not test:
        raise GlocalError(f"which images to measure on is not known for {whole.name}; name them with --test")
    measured = open_source(list(test))
    if labelled_part(measured) is None:
        raise GlocalError(f"nothing can be measured: {has_no_labels(measured)}")
    return Images(part, learn, measured, f"{whole.name}: {words}, measured on {measured.name} ({len(measured):,})")


def _some(whole: Source, images: int | None) -> tuple[Source, str]:
    if images is None or images >= len(whole):
        return whole, f"all {len(whole):,} images"
    if labelled_part(whole) is whole:
        first, _, each = _first_and_after(whole, images, 0)
        part: Source = Subset(whole, first)
        return part, _of_each(each, part)
    spread = torch.linspace(0, len(whole) - 1, images).round().long().clamp_(max=len(whole) - 1)
    return Subset(whole, spread), f"{images:,} images spread evenly over {len(whole):,}"


def _of_each(each: int | None, part: Source) -> str:
    if each is None:
        return f"all others ({len(part):,} images)"
    return f"the first {counted(each, 'image')} of each class ({len(part):,})"


def _first_and_after(source: Source, images: int | None, after: int) -> tuple[Tensor, Tensor, int | None]:
    """Positions of the first images of each class, of those that follow on them, and how many of each class came first.

    Without a number of images the first ones are all that leave enough for those that follow.
    """
    assert source.labels is not None
    assert source.classes is not None
    places = [(source.labels == number).nonzero()[:, 0] for number in range(len(source.classes))]
    places = [of_class for of_class in places if len(of_class)]
    each = None if images is None else max(1, images // len(places))
    first, then = [], []
    for of_class in places:
        count = len(of_class) - after if each is None else each
        if after and (count < 1 or len(of_class) < count + after):
            name = source.classes[int(source.labels[of_class[0]])]
            raise GlocalError(
                f"--held-out {after}: class {name} of {source.name} has {counted(len(of_class), 'image')}, of which "
                f"{max(count, 1)} are trained on; hold out at most {max(0, len(of_class) - max(count, 1))}"
            )
        first.append(of_class[:count])
        then.append(of_class[count : count + after])
    return torch.cat(first).sort().values, torch.cat(then).sort().values, each
