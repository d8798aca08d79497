"""Which images a run learns from: their names in order, known to its checkpoints by a number and a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from glocal.data.sources.base import Source
from glocal.errors import GlocalError
from glocal.files import write_atomically

FILE = "images.txt"
_NAMED = 3  # names in a message


@dataclass(frozen=True)
class ImageSet:
    """What a checkpoint knows of the images; which image is in which step depends on nothing else.

    Attributes:
        count: images.
        names: SHA-256 of their names (`Source.keys`) in order.
    """

    count: int
    names: str

    @classmethod
    def of(cls, source: Source) -> ImageSet:
        """That of a source."""
        found = hashlib.sha256()
        for key in source.keys:
            found.update(_bytes(key) + b"\0")
        return cls(len(source), found.hexdigest())

    def state(self) -> dict[str, int | str]:
        """Plain values for a checkpoint."""
        return asdict(self)


def write_names(source: Source, folder: Path) -> None:
    """Writes the names of the images, a line each: once for a run, so that a later difference can be named."""
    lines = (_bytes(key).replace(b"\n", b"\\n") + b"\n" for key in source.keys)
    write_atomically(folder / FILE, lambda file: file.writelines(lines))


def check_images(state: Mapping[str, int | str], source: Source, folder: Path) -> None:
    """Refuses other images than those that the run in a folder has learned from.

    Args:
        state: what its checkpoint knows, from `ImageSet.state`.
        source: the images that are given now.
        folder: the run's.

    Raises:
        GlocalError: they are not the same in the same order; with numbers and the first names.
    """
    before, now = ImageSet(**state), ImageSet.of(source)  # type: ignore[arg-type]
    if before == now:
        return
    raise GlocalError(
        f"the run in {folder} has learned from {before.count} images, {source.name} has {now.count}"
        f"{_difference(source, folder / FILE)}; give it the same images, or choose another folder (--out)"
    )


def _difference(source: Source, file: Path) -> str:
    """The first names that came and went, as far as the run's folder still knows."""
    if not file.is_file():
        return " or other names"
    before = dict.fromkeys(file.read_bytes().decode("utf-8", "surrogateescape").split("\n")[:-1])
    now = dict.fromkeys(key.replace("\n", "\\n") for key in source.keys)
    parts = [
        f"{word}: {_first(names)}"
        for word, names in (
            ("added", [name for name in now if name not in before]),
            ("removed", [name for name in before if name not in now]),
        )
        if names
    ]
    return f" ({'; '.join(parts)})" if parts else ", in another order"


def _first(names: list[str]) -> str:
    shown = ", ".join(name.encode("utf-8", "backslashreplace").decode() for name in names[:_NAMED])
    return f"{shown} and {len(names) - _NAMED} more" if len(names) > _NAMED else shown


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")
