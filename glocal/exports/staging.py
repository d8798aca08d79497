"""Files and folders that are there when they are whole, and never take the place of what is not theirs."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from glocal.errors import GlocalError
from glocal.exports.target import Target
from glocal.files import PUBLIC, sync_folder

_DRAWN = "?" * 8  # what mkdtemp puts into a name; more letters are those of a longer name, of another export


def check_place(out: Path, target: Target, *, overwrite: bool) -> None:
    """Refuses a place whose name does not fit, or where something lies that no export may replace.

    An earlier export is replaced. Other files need `overwrite`; folders with files of others are never replaced.

    Raises:
        GlocalError: it is refused.
    """
    if target.endings and out.suffix not in target.endings:
        raise GlocalError(f"--out {out}: a file of --to {target.name} ends in {' or '.join(target.endings)}")
    if not target.endings and out.is_file():
        raise GlocalError(f"--out {out} is a file; --to {target.name} writes a folder")
    if target.endings and out.is_dir():
        raise GlocalError(
            f"--out {out} is a folder; --to {target.name} writes a file, for example {out}/model{out.suffix}"
        )
    if out.is_dir():
        foreign = sorted(one.name for one in out.iterdir() if one.name not in target.contents or one.is_dir())
        if foreign:
            raise GlocalError(
                f"--out {out} is a folder that holds {foreign[0]}, which no export to {target.name} writes; choose a "
                "folder that is new or empty"
            )
        if not any(out.iterdir()):
            return
    if out.exists() and not overwrite and "glocal" not in target.metadata(out):
        raise GlocalError(f"--out {out} is there and no export of glocal; choose another place, or add --overwrite")


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A place beside `out` to write to; at the end of the block what lies there becomes `out`, unless the block raised.

    Raises:
        GlocalError: the folder cannot be written to, or the disk is full; nothing is left.
    """
    out = Path(os.path.abspath(out))
    room: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for remains in out.parent.glob(f".{_escaped(out.name)}.{_DRAWN}.part"):  # of one that was killed
            shutil.rmtree(remains, ignore_errors=True)
        room = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".part"))
        place = room / out.name
        yield place
        _settle(place)
        if out.is_dir() and out.samefile(os.curdir):
            _refill(out, place, room / "before")
            return
        if out.is_dir():
            os.rename(out, room / "before")
        try:
            os.replace(place, out)
        except OSError:
            if (room / "before").exists():
                os.rename(room / "before", out)
            raise
        sync_folder(out.parent)
    except OSError as error:
        raise GlocalError(f"{out} cannot be written: {error.strerror or error}; nothing was left") from error
    finally:
        if room is not None:
            shutil.rmtree(room, ignore_errors=True)


def _refill(out: Path, place: Path, before: Path) -> None:
    """Gives a folder the files of another; its own go to `before`. The folder stays: a shell stands in it.

    Raises:
        OSError: a file cannot be moved; the folder has its own ones again.
    """
    before.mkdir()
    try:
        for folder, goal in ((out, before), (place, out)):
            for file in list(folder.iterdir()):
                os.rename(file, goal / file.name)
    except OSError:
        for file in list(before.iterdir()):
            os.replace(file, out / file.name)
        raise


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _settle(place: Path) -> None:
    """Forces files to the disk, and gives them the mode of new files, which not every library does."""
    for path in place.iterdir() if place.is_dir() else [place]:
        path.chmod(PUBLIC)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    if place.is_dir():
        sync_folder(place)
