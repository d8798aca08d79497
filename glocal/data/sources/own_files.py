"""Files that the rows of a table name: only those that lie where the data set's own files do are opened.

A table may come from anywhere, and its rows may name anything: the disk's other files, a device, another server.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast
from urllib.parse import unquote, urlsplit

from glocal.data.decoding.reading import largest_file, too_large
from glocal.errors import GlocalError, shortened
from glocal.regular import check_regular

_PATTERN = re.compile(r"[*?\[{]")
_ARCHIVES = ("zip://", "tar://")  # of which `datasets` names the members: zip://MEMBER::ARCHIVE


class OwnPlace(NamedTuple):
    """Where the files of a data set lie.

    Attributes:
        base: the folder or address from which relative names count; "" where there are none.
        others: more folders and addresses.
    """

    base: str
    others: tuple[str, ...] = ()

    def find(self, name: str) -> Path | str:
        """The path, or the address, of a file that a row names.

        Raises:
            GlocalError: it lies elsewhere, or is in an archive that is no regular file.
        """
        if name.startswith(_ARCHIVES) and "::" in name:
            member, _, archive = name.partition("::")
            found = self._inside(archive, name)
            if "::" not in member:
                if isinstance(found, Path):
                    check_regular(found)
                return f"{member}::{found}"
        return self._inside(name, name)

    def _inside(self, name: str, whole: str) -> Path | str:
        local = name.removeprefix("file://")
        if "://" not in name and self.base and "://" in self.base and not os.path.isabs(local):
            local = name = f"{self.base}/{name}"
        if "::" not in name and "\0" not in name:
            if "://" in local:
                if any("://" in place and _below_address(local, place) for place in (self.base, *self.others)):
                    return local
            elif os.path.isabs(local) or self.base:
                path = os.path.abspath(os.path.join(self.base, local))
                if any("://" not in place and _below(path, place) for place in (self.base, *self.others)):
                    return Path(path)
        where = f"{self.base}, where the data set lies" if self.base else "where the data set lies"
        raise GlocalError(f"its row names {shortened(whole, 60)}, which is not below {where}, and is not opened")


def own_place(place: str, *, folder: bool, elsewhere: tuple[str, ...] = ()) -> OwnPlace:
    """The place of a data set.

    Args:
        place: a folder, a file, a pattern of files, or an address of these; "" for none.
        folder: it is a folder and neither a file nor a pattern.
        elsewhere: more folders and addresses in which its files lie.
    """
    local = place.removeprefix("file://")
    if not place or "::" in place:  # of what is in an archive, rows name nothing beside it
        return OwnPlace("", elsewhere)
    base = local if folder else posixpath.dirname(_PATTERN.split(local)[0])
    return OwnPlace(base.rstrip("/") if "://" in base else os.path.abspath(base), elsewhere)


def read_address(address: str, pixels: int, channels: int) -> bytes:
    """A file that `fsspec` opens, with the limit that files have.

    Raises:
        OSError: it is larger than such an image can be.
    """
    from fsspec import open as open_anywhere

    most = largest_file(pixels, channels)
    with open_anywhere(address, "rb") as file:
        content = cast(BinaryIO, file).read(most + 1)
    if len(content) > most:
        raise OSError(too_large(len(content), pixels))
    return content


def _below(path: str, folder: str) -> bool:
    return bool(folder) and any(
        os.path.commonpath([path, top]) == top for top in {os.path.abspath(folder), os.path.realpath(folder)}
    )


def _below_address(address: str, above: str) -> bool:
    """Whether an address has the protocol and host of another, and lies below its path; the Hub's without revision."""
    try:
        one, top = (urlsplit(re.sub(r"^(hf://[^@]*)@[^/]+", r"\1", text)) for text in (address, above))
        path, folder = (posixpath.normpath(unquote(part.path) or "/") for part in (one, top))
    except ValueError:
        return False
    return one[:2] == top[:2] and path.startswith(folder.rstrip("/") + "/")
