"""Which images a folder holds: found by a walk, which is not repeated as long as no folder has changed."""

from __future__ import annotations

import hashlib
import json
import os
import time
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from glocal.console import NowAndThen, note, tell, warn
from glocal.data.sources.names import Names
from glocal.data.sources.passed_over import RUNS_OWN, count_endings, is_output, passed_over
from glocal.errors import GlocalError, counted
from glocal.files import cache_folder, write_atomically

FEWEST = 10_000  # images from which a walk is worth keeping
_VERSION = 1
_UNSURE = 2_000_000_000  # ns: a folder may change once more in the tick of its file system's clock
_TOLD = 1000  # folders between two looks at the clock


class Folder(NamedTuple):
    """A folder that a walk came to, as far as it tells whether names came or went in it since.

    Attributes:
        path: relative to the folder of the walk; that by which it was come to, where links lead to it.
        inode, changed: its number, and its time of change in ns; zero of a link that leads nowhere.
        written: it is output of glocal, which was not entered.
    """

    path: str
    inode: int
    changed: int
    written: bool


class Listing(NamedTuple):
    """What a folder holds.

    Attributes:
        images: their paths relative to it, in order.
        passed_over: what was passed over that might be missed, in words; "" where there is nothing.
        folders: that the walk came to.
    """

    images: Names
    passed_over: str
    folders: list[Folder]


class Found(NamedTuple):
    """What a walk found, images or not: paths of files, of what is neither file nor folder, and of folders that glocal
    wrote; all folders."""

    files: list[str]
    no_files: list[str]
    outputs: list[str]
    folders: list[Folder]


def list_images(folder: Path, extensions: Collection[str], without: str | Path | None = None) -> Listing:
    """The images in a folder, from the walk before where no folder has changed since; a note says where some have.

    What is kept of a walk tells names that came or went, not files that were written anew under their names.

    Args:
        folder: the path.
        extensions: of images, in lower case and with the dot.
        without: a folder that is passed over.

    Raises:
        GlocalError: a folder cannot be read.
    """
    apart = None if without is None else os.path.realpath(without)
    kept = _Kept(folder, extensions, apart)
    before = kept.read()
    if before is not None and not _changed(folder, before.folders, apart):
        return before
    started = time.time_ns()
    found = walk(folder, apart)
    keys = [key for key in found.files if os.path.splitext(key)[1].lower() in extensions]
    others = (key for key in found.files if os.path.splitext(key)[1].lower() not in extensions)
    no_files = [key for key in found.no_files if os.path.splitext(key)[1].lower() in extensions]
    listing = Listing(Names(keys), passed_over(count_endings(others), found.outputs, no_files), found.folders)
    if before is not None:
        _tell_difference(folder, before.images, listing.images)
    if len(keys) >= FEWEST:
        kept.write(listing, started)
    return listing


def walk(folder: Path, without: str | None = None) -> Found:
    """All files in a folder in the order of their paths, which have forward slashes; each real folder is entered once.

    Args:
        folder: the path.
        without: the real path of a folder that is passed over as if glocal had written it.

    Raises:
        GlocalError: a folder cannot be read.
    """
    found = Found([], [], [], [])
    entered: set[tuple[int, int]] = set()
    waiting = [("", str(folder))]
    links: list[tuple[str, str]] = []  # entered last, so that real folders go before links to them
    clock = NowAndThen()
    while waiting or links:
        prefix, path = waiting.pop() if waiting else links.pop(0)
        try:
            status = os.stat(path)
            again = (status.st_dev, status.st_ino) in entered
            entered.add((status.st_dev, status.st_ino))
            entries = [] if again else sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as error:
            raise GlocalError(f"{path}: cannot be read: {error.strerror}") from error
        written = is_output({entry.name for entry in entries}) or os.path.realpath(path) == without
        found.folders.append(Folder(prefix, status.st_ino, status.st_mtime_ns, written and prefix != ""))
        if again:
            continue
        if written and prefix:
            if entries:
                found.outputs.append(prefix.removesuffix("/"))
            continue
        for entry in entries:
            if entry.name.startswith(".") or (written and entry.name in RUNS_OWN):
                continue
            place = (f"{prefix}{entry.name}/", entry.path)
            if entry.is_symlink():  # os.path takes a dangling or circular link for nothing; entry.is_dir() raises
                if os.path.isdir(entry.path):
                    links.append(place)
                elif os.path.isfile(entry.path):
                    found.files.append(prefix + entry.name)
                else:
                    found.no_files.append(prefix + entry.name)
                    # What may come to be there is no folder.
                    found.folders.append(Folder(prefix + entry.name, 0, 0, False))
            elif entry.is_dir():
                waiting.append(place)
            elif entry.is_file():
                found.files.append(prefix + entry.name)
            else:
                found.no_files.append(prefix + entry.name)
        if len(found.folders) % _TOLD == 0 and clock.seconds() is not None:
            tell(f"{folder}: {len(found.files):,} files in {len(found.folders):,} folders so far")
    found.files.sort()
    return found


def _changed(folder: Path, folders: Sequence[Folder], without: str | None) -> bool:
    """Whether names may have come or gone: a folder's time of change tells of its own entries, so all are asked."""
    for before in folders:
        path = os.path.join(folder, before.path) if before.path else str(folder)
        try:
            if before.written:  # what is in it does not count, as long as it is that
                if not (os.path.realpath(path) == without or is_output(os.listdir(path))):
                    return True
                continue
            status = os.stat(path)
            now = (status.st_ino, status.st_mtime_ns)
        except OSError:
            now = (0, 0)
        if now != (before.inode, before.changed):
            return True
    return False


def _tell_difference(folder: Path, before: Names, now: Names) -> None:
    if before == now:
        return
    counts = []
    for names, others, word in ((now, before, "more"), (before, now, "that are gone")):
        count = len(names) - int(pc.sum(pc.is_in(names.array, value_set=others.array)).as_py() or 0)
        if count:
            counts.append(f"{counted(count, 'image')} {word}")
    note(f"{folder} has changed since its {len(before):,} images were listed: {', '.join(counts)}")


class _Kept:
    """The walk before, in a file of the cache.

    Args:
        folder: of the walk.
        extensions, without: as for `list_images`; another walk for each.
    """

    def __init__(self, folder: Path, extensions: Collection[str], without: str | None) -> None:
        # The folder that a run is about to make is another one for each run, and counts where it is in this one only.
        real = os.path.realpath(folder)
        inside = without if without is not None and f"{without}{os.sep}".startswith(f"{real}{os.sep}") else ""
        known = "\0".join([str(_VERSION), real, inside, *sorted(extensions)])
        name = hashlib.sha256(known.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        self.path = cache_folder() / "listings" / f"{name}.safetensors"

    def read(self) -> Listing | None:
        """What is kept; None where there is nothing, or where it is damaged."""
        try:
            with safe_open(self.path, "numpy") as file:
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                about = json.loads((file.metadata() or {})["about"])
            if _checksum(found) != about["checksum"]:
                raise SafetensorError("its checksum is another")
            paths = Names.of_buffers(found["folders"], found["folder_ends"])
            rows = zip(paths, *(found[name].tolist() for name in ("inodes", "changed", "written")), strict=True)
            images = Names.of_buffers(found["images"], found["image_ends"])
            return Listing(images, about["passed_over"], [Folder(*row) for row in rows])
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            note(f"{self.path} is damaged ({error}); the folder is listed anew")
            return None

    def write(self, listing: Listing, started: int) -> None:
        """Keeps a walk that began at `started` (ns); folders that changed just then will be looked at again."""
        content, ends = listing.images.buffers()
        paths, path_ends = Names(folder.path for folder in listing.folders).buffers()
        sure = [folder.changed < started - _UNSURE for folder in listing.folders]
        changed = [folder.changed if known else -1 for folder, known in zip(listing.folders, sure, strict=True)]
        found = {
            "images": content,
            "image_ends": ends,
            "folders": paths,
            "folder_ends": path_ends,
            "inodes": np.array([folder.inode for folder in listing.folders], np.uint64),
            "changed": np.array(changed, np.int64),
            "written": np.array([folder.written for folder in listing.folders]),
        }
        about = json.dumps({"checksum": _checksum(found), "passed_over": listing.passed_over})
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, lambda file: file.write(save(found, {"about": about})))
        except OSError as error:  # costs only the time of another walk
            warn(f"{self.path}: the list of images cannot be kept there: {error.strerror}")


def _checksum(arrays: dict[str, np.ndarray]) -> int:
    found = 0
    for name in sorted(arrays):
        found = zlib.crc32(np.ascontiguousarray(arrays[name]).view(np.uint8).data, found)
    return found
