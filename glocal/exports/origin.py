"""Where a backbone comes from: the run, its images, and what was measured of it."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from glocal.checkpoints import load_checkpoint, newest_checkpoint
from glocal.config import AnyRecipe, written_recipe
from glocal.console import note
from glocal.data.packs.layout import is_pack
from glocal.data.ranges import decode_as
from glocal.data.sources.base import Source
from glocal.data.sources.folder import ImageFiles
from glocal.data.sources.joined import titles
from glocal.data.sources.opening import open_source
from glocal.errors import GlocalError
from glocal.evaluation import results
from glocal.evaluation.protocols import protocol
from glocal.models.backbone import Backbone
from glocal.plain import read_yaml, write_yaml

_JOINS = " + "  # the names of several sources (`glocal.data.sources.joined`)
_BEFORE_PATHS = re.compile(r"( \+ |@(?=/)|:(?=/[^/]))")  # what stands before a path in a name
_LINES = 10_000  # of images.txt by which a few images of a folder are looked for


class Number(NamedTuple):
    """One number that was measured of a backbone.

    Attributes:
        protocol, images, setting, metric: what it says.
        value: as tables show it.
        command: what measures it again.
    """

    protocol: str
    images: str
    setting: str
    metric: str
    value: str
    command: str


@dataclass(frozen=True)
class Origin:
    """What is known of where a backbone comes from.

    Attributes:
        name: as it was named; None for one that was handed over.
        weights: the name of the file whose weights it has, where they were named apart.
        run: the run's folder; None where it is of no run.
        recipe: the run's.
        step: optimiser steps of its training.
        images: how many images it has learned from.
        numbers: what was measured of exactly this backbone.
    """

    name: str | None = None
    weights: str | None = None
    run: Path | None = None
    recipe: AnyRecipe | None = None
    step: int | None = None
    images: int | None = None
    numbers: tuple[Number, ...] = field(default=(), repr=False)


def origin_of(name: str | Path, weights: str | Path | None = None) -> Origin:
    """What is known of a backbone by the names that `load_backbone` takes."""
    text = str(name)
    if weights is not None or not Path(name).exists():  # timm:NAME, untrained:RUN
        return Origin(name=text, weights=None if weights is None else Path(weights).name)
    path = Path(name)
    state = newest_checkpoint(path / "checkpoints") if path.is_dir() else load_checkpoint(path)
    if state is None:
        return Origin(name=text)
    folder = path if path.is_dir() else path.resolve().parent.parent
    return Origin(
        name=text,
        run=folder if (folder / "recipe.yaml").is_file() else None,
        recipe=written_recipe(read_yaml(state["recipe"], text)),
        step=state["step"],
        images=state.get("images", {}).get("count"),
    )


def numbers_of(backbone: Backbone, folder: Path | None) -> tuple[Number, ...]:
    """What an `evaluation.json` says of a backbone; nothing, with a note, where it is of other weights.

    Args:
        backbone: whose fingerprint the file must have.
        folder: the one of the file; None, or without the file: nothing.

    Raises:
        GlocalError: the file is damaged.
    """
    if folder is None or not (folder / "evaluation.json").is_file():
        return ()
    found = results.load(folder)
    if found.get("fingerprint") != backbone.fingerprint():
        note(f"{folder}/evaluation.json is of other weights ({found.get('backbone')}): the model card is without them")
        return ()
    return tuple(_numbers(found))


def _numbers(result: Mapping[str, Any]) -> Iterator[Number]:
    for one in result["protocols"].values():
        command = evaluate_command(one)
        for row in results.rows({**result, "protocols": {"": one}}):
            images = f"{shown_name(one['train']['name'])} → {shown_name(one['test']['name'])}" if "train" in one else ""
            value = results.shown(row.metric, row.value)
            yield Number(row.protocol, images or shown_name(row.images), row.setting, row.metric, value, command)


def evaluate_command(found: Mapping[str, Any]) -> str:
    """The command that measures again what one entry of `evaluation.json` says; RUN stands for the backbone."""
    name = found["protocol"]
    usual = _defaults(name)
    parts = ["glocal", "evaluate", "RUN"]
    for kind in ("train", "val", "test"):
        if kind in found:
            parts += [word for name in shown_names(found[kind]["name"]) for word in (f"--{kind}", name)]
    parts += ["--protocol", name]
    if found.get("data"):
        parts += ["--data", f"{name}={shown_name(found['data'])}"]
    for key, value in found["settings"].items():
        if key != "data" and value is not None and usual.get(key, value) != value:
            parts += ["--set", f"{name}.{key}={_as_yaml(value)}"]
    return shlex.join(parts)


def _defaults(name: str) -> dict[str, Any]:
    try:
        return protocol(name).settings().model_dump(mode="json")
    except (GlocalError, ValueError):  # of another version, or a setting without a default
        return {}


def _as_yaml(value: Any) -> str:
    """A setting as one writes it behind `--set`, which reads YAML."""
    text = shown_name(value) if isinstance(value, str) else ""
    return text if text and read_yaml(text, "a setting") == text else json.dumps(value)


def shown_names(name: str) -> list[str]:
    """The names for others of the sources that one name joins.

    >>> shown_names("/home/anna/a + digits")
    ['a', 'digits']
    """
    return [shown_name(one) for one in name.split(_JOINS)]


def shown_name(name: str) -> str:
    """A name for others: of absolute paths the last part alone, for they say where its author keeps things.

    It may be of a source, of several joined ones, of a class in a file, or of a backbone.

    >>> shown_name("/home/anna/private/photos"), shown_name("torchvision:CIFAR10:test")
    ('photos', 'torchvision:CIFAR10:test')
    >>> shown_name("/home/anna/a + /home/anna/b@/home/anna/few.txt"), shown_name("untrained:/home/anna/run")
    ('a + b@few.txt', 'untrained:run')
    """
    return "".join(
        os.path.basename(part.rstrip("/\\")) if os.path.isabs(part) else part for part in _BEFORE_PATHS.split(name)
    )


def shown_recipe(recipe: AnyRecipe) -> str:
    """A recipe as YAML, without absolute paths."""
    return write_yaml(_shown(recipe.model_dump(mode="json")))


def _shown(value: Any) -> Any:
    if isinstance(value, str):
        return shown_name(value)
    if isinstance(value, Mapping):
        return {key: _shown(one) for key, one in value.items()}
    return [_shown(one) for one in value] if isinstance(value, list) else value


def own_images(origin: Origin, backbone: Backbone, count: int) -> list[Source]:
    """Sources of a few images each that a run has learned from: those of its first few that are on this machine.

    Nothing is downloaded for it, and folders are not searched: a run keeps the names of its images.

    Args:
        origin: says which run it is.
        backbone: knows how they are decoded.
        count: how many sources at most, and how many images of a folder.
    """
    named = origin.recipe.data.source if origin.recipe is not None else None
    names = [named] if isinstance(named, str) else named or []
    before = [f"{title}/" for title in titles(names)] if len(names) > 1 else [""] * len(names)
    found = []
    for name, start in list(zip(names, before, strict=True))[:count]:
        source = _source_on_this_machine(name, origin.run, start, count)
        if source is not None:
            if backbone.decoding is not None:
                decode_as(source, backbone.decoding)
            found.append(source)
    return found


def _source_on_this_machine(name: str, run: Path | None, before: str, count: int) -> Source | None:
    """One source, of which the run's names of images begin with `before`."""
    try:
        if Path(name).is_dir() and not is_pack(name):
            return _some_files(Path(name), run, before, count)
        return None if name.startswith(("torchvision:", "hf:")) else open_source(name)
    except (GlocalError, OSError):  # moved, deleted or changed since
        return None


def _some_files(folder: Path, run: Path | None, before: str, count: int) -> Source | None:
    names = None if run is None else run / "images.txt"
    if names is None or not names.is_file():
        return None
    with names.open(encoding="utf-8", errors="surrogateescape") as lines:
        own = (line.rstrip("\n").removeprefix(before) for line in lines if line.startswith(before))
        keys = list(islice((key for key in islice(own, _LINES) if (folder / key).is_file()), count))
    return ImageFiles(folder, keys) if keys else None
