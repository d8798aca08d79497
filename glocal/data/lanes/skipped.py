"""Images that cannot be read: counted, named, and too many of them stop the work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from glocal.console import warn
from glocal.data.sources.base import Source
from glocal.distributed import all_objects
from glocal.errors import BrokenImageError, GlocalError
from glocal.files import harmless, write_atomically, writing


def tell_unreadable(name: str, total: int, broken: Sequence[BrokenImageError], fate: str = "are left out") -> None:
    """Warns of images or masks that could not be read; says nothing where there are none.

    Args:
        name: of the source.
        total: its images.
        broken: the errors.
        fate: what becomes of such images.
    """
    if broken:
        first = broken[0]
        warn(
            f"{name}: {len(broken)} of its {total} images cannot be read and {fate}; "
            f"the first: {first.key} ({first.reason})"
        )


def read_skipped(file: Path) -> list[str]:
    """The lines of the file that `SkippedImages` writes; none where there is no file."""
    if not file.is_file():
        return []
    text = file.read_bytes().decode("utf-8", "surrogateescape")
    return [line for line in text.split("\n") if line]


class SkippedImages:
    """The record of unreadable images.

    Args:
        source: the images. Those that `file` names already, of the run before a resume, are read again: what was
            mended or came back is forgotten.
        limit: share of them above which `record` stops the work.
        file: where each is named, one line with its key and the reason; None keeps no file.

    Attributes:
        shared: each of several processes reads some of the images: what one has found is noted in all (`exchange`).
        found: unreadable images that the others do not know of.

    Raises:
        GlocalError: the folder of an image is gone.
    """

    def __init__(self, source: Source, limit: float, file: Path | None = None) -> None:
        self.total = len(source)
        self.limit = limit
        self.file = file
        self.reasons: dict[str, str] = {}
        self.shared = False
        self.found: list[BrokenImageError] = []
        if file is not None:
            self._try_again(source, file)

    def __len__(self) -> int:
        return len(self.reasons)

    def record(self, errors: list[BrokenImageError]) -> None:
        """Notes unreadable images; one that is known already counts once.

        Raises:
            GlocalError: the folder of one is gone, of which nothing is noted; or more than the limit are unreadable, of
                which the message has the first names.
        """
        for error in errors:
            _check_not_gone(error)
        if self.shared:
            self.found += [error for error in errors if error.key not in self.reasons]
        else:
            self._note(errors)

    def exchange(self) -> None:
        """Notes what all processes have found, in all of them; they come here together.

        Raises:
            GlocalError: as `record`.
        """
        found, self.found = self.found, []
        self._note([error for errors in all_objects(found) for error in errors])

    def _note(self, errors: list[BrokenImageError]) -> None:
        for error in errors:
            if error.key in self.reasons:
                continue
            if not self.reasons:
                where = f"; all such are named in {self.file}" if self.file else ""
                warn(f"{error.key} cannot be read ({error.reason}) and is skipped{where}")
            self.reasons[error.key] = error.reason
            if self.file is not None:
                with writing(self.file), self.file.open("a", encoding="utf-8", errors="surrogateescape") as file:
                    file.write(f"{_line(error)}\n")
        if len(self) > self.limit * self.total:
            first = ", ".join(f"{key} ({reason})" for key, reason in list(self.reasons.items())[:5])
            more = ", …" if len(self) > 5 else ""
            raise GlocalError(
                f"at least {len(self)} of {self.total} images cannot be read, more than "
                f"data.broken_limit={self.limit:g} allows: {first}{more}; mend or remove them (glocal check finds all) "
                "or raise data.broken_limit"
            )

    def _try_again(self, source: Source, file: Path) -> None:
        before, lines = read_skipped(file), []
        if not before:
            return
        named = {line.partition("\t")[0] for line in before}
        for index, key in enumerate(source.keys):
            if harmless(key) in named:
                try:
                    source[index]
                except BrokenImageError as error:
                    _check_not_gone(error)
                    self.reasons[error.key] = error.reason
                    lines.append(_line(error))
        if lines != before:
            text = "".join(f"{line}\n" for line in lines)
            write_atomically(file, lambda opened: opened.write(text.encode("utf-8", "surrogateescape")))


def _check_not_gone(error: BrokenImageError) -> None:
    if error.gone:
        raise GlocalError(f"{error.gone} is gone, with {error.key} in it; when it is back, the same command goes on")


def _line(error: BrokenImageError) -> str:
    return f"{harmless(error.key)}\t{harmless(error.reason)}"
