"""Images to search for, images to search in, and which of these are right: what image retrieval is measured on."""

from __future__ import annotations

import csv
import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glocal.data.annotated.pickles import read_plain_pickle
from glocal.data.lanes.whole import Box
from glocal.data.sources.base import Source
from glocal.data.sources.folder import ImageFiles, ImageFolder
from glocal.errors import GlocalError
from glocal.plain import read_json
from glocal.regular import open_regular_text

LANDMARKS = {
    "roxford5k": "https://www.robots.ox.ac.uk/~vgg/data/oxbuildings/",
    "rparis6k": "https://www.robots.ox.ac.uk/~vgg/data/parisbuildings/",
}
"""Where the images of the revisited sets come from."""
GROUND_TRUTH = "http://cmp.felk.cvut.cz/revisitop/data/datasets"
"""Where their ground truth comes from: …/NAME/gnd_NAME.pkl."""

DATA = (
    f"a folder with gnd_roxford5k.pkl or gnd_rparis6k.pkl ({GROUND_TRUTH}/NAME/gnd_NAME.pkl) and the images in jpg/ "
    f"({' and '.join(LANDMARKS.values())}), or of any images with queries.csv or queries.json"
)
"""Which files, and where they come from, in one sentence."""

_LISTS = ("queries.csv", "queries.json")
_LEVELS = {  # which lists are relevant and which are junk; Radenović et al., CVPR 2018
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}


@dataclass(frozen=True)
class QueryList:
    """Queries and the images that they search in.

    Attributes:
        name: what it is called.
        queries, images: sources.
        boxes: for each query the part of its image that is searched for; None for all of it.
        levels: for each level of difficulty, the relevant images and the junk of each query, as int64 positions in
            `images`; lists without levels have the one level "".
    """

    name: str
    queries: Source
    images: Source
    boxes: list[Box] | None
    levels: dict[str, tuple[list[Tensor], list[Tensor]]]


def find_query_lists(folder: Path, queries: str | None = None) -> list[QueryList]:
    """The query lists of a folder.

    - revisited Oxford and Paris as their authors have them: `gnd_NAME.pkl`, and the images in `jpg/`; or a folder of
      such folders
    - any folder of images with a list (`read_query_list`): `queries.csv`, `queries.json`, or the file named

    Args:
        folder: the folder.
        queries: a list's path, or its name in the folder; None takes what is there.

    Raises:
        GlocalError: there is neither, or something in it is missing or wrong.
    """
    if not folder.is_dir():
        raise GlocalError(f"there is no folder {folder}; --data retrieval=PATH names {DATA}")
    if queries is not None:
        path = next((place for place in (folder / queries, Path(queries)) if place.is_file()), None)
        if path is None:
            raise GlocalError(f"there is no query list {queries}, neither in {folder} nor from here")
        return [read_query_list(path, folder)]
    official = sorted(folder.glob("gnd_*.pkl")) or sorted(folder.glob("*/gnd_*.pkl"))
    if official:
        return [read_revisited(path) for path in official]
    for name in _LISTS:
        if (folder / name).is_file():
            return [read_query_list(folder / name, folder)]
    raise GlocalError(
        f"{folder} holds neither gnd_NAME.pkl (revisited Oxford and Paris: {GROUND_TRUTH}/roxford5k/gnd_roxford5k.pkl, "
        f"with the images in jpg/ beside it) nor {' or '.join(_LISTS)}; images of one class count as relevant to one "
        "another with --set retrieval.relevant=class"
    )


def read_revisited(path: Path) -> QueryList:
    """Revisited Oxford or Paris: `gnd_NAME.pkl` with the images `jpg/*.jpg` beside it.

    The pickle is read without being executed (`glocal.data.annotated.pickles`).

    Raises:
        GlocalError: the file holds something else, or images are missing; the message says where they come from.
    """
    name = path.stem.removeprefix("gnd_")
    truth = read_plain_pickle(path)
    try:
        images, queries = [str(key) for key in truth["imlist"]], [str(key) for key in truth["qimlist"]]
        entries = [_entry(entry, len(images)) for entry in truth["gnd"]]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise GlocalError(
            f"{path}: no ground truth of revisited Oxford or Paris, which has imlist, qimlist and gnd with easy, hard, "
            f"junk and bbx ({type(error).__name__}: {error})"
        ) from None
    if len(entries) != len(queries):
        raise GlocalError(f"{path}: {len(queries)} queries in qimlist, but {len(entries)} entries in gnd")
    folder = path.parent / "jpg"
    there = set(os.listdir(folder)) if folder.is_dir() else set()
    missing = [key for key in (*queries, *images) if f"{key}.jpg" not in there]
    if missing:
        others = f" and {len(missing) - 1} other images" if len(missing) > 1 else ""
        origin = LANDMARKS.get(name, "the authors of the data set")
        raise GlocalError(f"{folder / missing[0]}.jpg{others} are missing: put there the images from {origin}")
    levels = {
        level: tuple([torch.cat([entry[kind] for kind in kinds]) for entry, _ in entries] for kinds in parts)
        for level, parts in _LEVELS.items()
    }
    return QueryList(
        name,
        ImageFiles(folder, [f"{key}.jpg" for key in queries], name=f"{name} queries"),
        ImageFiles(folder, [f"{key}.jpg" for key in images], name=name),
        [box for _, box in entries],
        levels,  # type: ignore[arg-type]
    )


def _entry(entry: Mapping[str, Any], images: int) -> tuple[dict[str, Tensor], Box]:
    lists = {}
    for kind in ("easy", "hard", "junk"):
        numbers = np.asarray(entry[kind]).ravel()
        if len(numbers) and (numbers.dtype.kind not in "iu" or numbers.min() < 0 or numbers.max() >= images):
            raise ValueError(f"{kind} must be numbers from 0 to {images - 1}")
        lists[kind] = torch.from_numpy(numbers.astype(np.int64))
    left, top, right, bottom = (float(side) for side in np.asarray(entry["bbx"], dtype=np.float64).ravel())
    return lists, (left, top, right, bottom)


def read_query_list(path: Path, folder: Path) -> QueryList:
    """A list of queries among the images of a folder.

    CSV has the columns `query`, `relevant` and, if wanted, `junk`: paths of images relative to the folder. Several
    relevant images stand in several lines of the same query, or in one line with `;` between them. Junk is neither
    right nor wrong. JSON is `{query: [relevant, …]}` or `{query: {"relevant": […], "junk": […]}}`. All images of the
    folder are searched; a query does not find itself.

    Raises:
        GlocalError: a file that is no such list, or one that names an image that is not there; line and name are given.
    """
    whole = ImageFolder(folder)
    number = {key: place for place, key in enumerate(whole.keys)}
    wanted = _from_json(path) if path.suffix.lower() == ".json" else _from_csv(path)
    if not wanted:
        raise GlocalError(f"{path}: there is no query in it")

    def places(keys: Sequence[str], where: str) -> Tensor:
        for key in keys:
            if key not in number:
                near = difflib.get_close_matches(key, whole.keys, n=1)
                hint = f"did you mean {near[0]}?" if near else "paths are relative to the folder; ; separates several"
                raise GlocalError(f"{path}, {where}: there is no image {key!r} in {folder}; {hint}")
        return torch.tensor(sorted({number[key] for key in keys}), dtype=torch.int64)

    relevant, junk = [], []
    for query, (where, right, neither) in wanted.items():
        itself = places([query], where)
        relevant.append(places(right, where))
        junk.append(torch.cat([places(neither, where), itself]))
    queries = ImageFiles(folder, list(wanted), name=f"{path.name} of {folder}")
    return QueryList(folder.name, queries, whole, None, {"": (relevant, junk)})


_Wanted = dict[str, tuple[str, list[str], list[str]]]  # query → where it stands, relevant, junk


def _from_csv(path: Path) -> _Wanted:
    wanted: _Wanted = {}
    try:
        with open_regular_text(path, newline="") as file:
            lines = csv.DictReader(file)
            columns = [*(lines.fieldnames or ())]
            if not {"query", "relevant"} <= set(columns) or not set(columns) <= {"query", "relevant", "junk"}:
                raise GlocalError(
                    f"{path}: its first line must name the columns query, relevant and, if wanted, junk, not {columns}"
                )
            for line in lines:
                where = f"line {lines.line_num}"
                query = (line["query"] or "").strip()
                if not query or None in line:
                    raise GlocalError(f"{path}, {where}: a query and as many values as the first line are expected")
                _, relevant, junk = wanted.setdefault(query, (where, [], []))
                relevant += _names(line["relevant"])
                junk += _names(line.get("junk"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise GlocalError(f"{path}: cannot be read as CSV: {error}") from None
    return wanted


def _names(cell: str | None) -> list[str]:
    return [name.strip() for name in (cell or "").split(";") if name.strip()]


def _from_json(path: Path) -> _Wanted:
    found = read_json(path)
    wanted: _Wanted = {}
    for query, entry in found.items() if isinstance(found, dict) else [("", None)]:
        lists = {"relevant": entry} if isinstance(entry, list) else entry
        if not isinstance(lists, dict) or not set(lists) <= {"relevant", "junk"} or not _all_names(lists.values()):
            raise GlocalError(
                f"{path}: write it as {{query: [relevant, …]}} or {{query: {{relevant: […], junk: […]}}}}, names of "
                f"images in quotes{f'; {query!r} is not so' if query else ''}"
            )
        wanted[query] = (f"query {query}", lists.get("relevant", []), lists.get("junk", []))
    return wanted


def _all_names(lists: Any) -> bool:
    return all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists)
