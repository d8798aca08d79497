"""What a reader has to know beside a number: a training that was cut short, test images that were learned from."""

from __future__ import annotations

import os
from collections.abc import Iterator

from glocal.data.sources.base import MemorySource, Source
from glocal.evaluation.features.extraction import Extractor
from glocal.settings import Settings

_LENGTHS = ("epochs", "iterations")


def shortened(settings: Settings) -> Iterator[str]:
    """In words, where something was trained for less than its protocol, in the same style, asks for."""
    style = getattr(settings, "style", None)
    usual = type(settings)() if style is None else type(settings)(style=style)  # type: ignore[call-arg]
    yield from _shorter(settings, usual, "")


def _shorter(settings: Settings, usual: Settings, section: str) -> Iterator[str]:
    for name in type(settings).model_fields:
        own, asked = getattr(settings, name), getattr(usual, name)
        if isinstance(own, Settings) and isinstance(asked, Settings):  # distil's teacher
            yield from _shorter(own, asked, f"{section}{name}.")
        elif name in _LENGTHS and own is not None and asked is not None and own < asked:
            yield f"shortened to {section}{name}={own} ({asked} is the protocol's)"


def seen_before(backbone: Extractor, test: Source | None) -> Iterator[str]:
    """In words, where the backbone's run has learned from images that it is measured on, their labels unseen."""
    learned = getattr(backbone, "learned_from", ())
    if test is None or not learned:
        return
    whole = test
    while hasattr(whole, "source"):  # of a part, what it is a part of
        whole = whole.source
    names = {_set_of(str(name)) for name in getattr(whole, "names", [whole.name])}
    files = [os.path.realpath(path) for path in test.files()] if hasattr(test, "files") else []
    for place in learned:
        inside = sum(path.startswith(os.path.join(os.path.realpath(place), "")) for path in files)
        if _set_of(place) in names or inside:
            part = f"{inside:,} of {len(files):,}" if 0 < inside < len(files) else "the"
            yield f"the backbone was pretrained on {part} test images themselves ({place}), without their labels"
            return


def also_train(train: Source | None, test: Source | None) -> Iterator[str]:
    """In words, where images that are measured on are those of training as well, with their labels."""
    if train is None or test is None:
        return
    if hasattr(train, "files") and hasattr(test, "files"):
        places = _Places()
        known = {places.of(path) for path in train.files()}
        files = test.files()
        count, whole = sum(places.of(path) in known for path in files), len(files)
    else:
        named = type(train) is not MemorySource and train.name == test.name  # those in memory have any name
        count, whole = (len(test) if named or train is test else 0), len(test)
    if count:
        part = "the" if count == whole else f"{count:,} of {whole:,}"
        yield f"{part} test images are among the training images (--train) as well, so the number says little"


class _Places:
    """Files by where they really are; each folder is asked once."""

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}

    def of(self, path: str) -> str:
        folder, name = os.path.split(path)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        return os.path.join(self._folders[folder], name)


def _set_of(name: str) -> str:
    """Without the number of shapes, of which more begin with the same ones."""
    return ":".join(name.split(":")[:2]) if name.startswith("shapes:") else name
