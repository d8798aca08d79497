"""Images that cannot be read: counted, named, and too many of them stop the work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from glocal.console import warn
from glocal.errors import BrokenImageError, GlocalError


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


class SkippedImages:
    """The record of unreadable images.

    Args:
        total: images in the source.
        limit: share of them above which `record` stops the work.
        file: where each is named, one line with its key and the reason; None keeps no file. Lines that it holds
            already (of the run before a resume) are counted.
    """

    def __init__(self, total: int, limit: float, file: Path | None = None) -> None:
        self.total = total
        self.limit = limit
        self.file = file
        self.reasons: dict[str, str] = {}
        if file is not None and file.exists():
            for line in file.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
                key, _, reason = line.partition("\t")
                self.reasons[key] = reason

    def __len__(self) -> int:
        return len(self.reasons)

    def record(self, errors: list[BrokenImageError]) -> None:
        """Notes unreadable images; one that is known already counts once.

        Raises:
            GlocalError: more than the limit are unreadable; the message has the first names.
        """
        for error in errors:
            if error.key in self.reasons:
                continue
            if not self.reasons:
                where = f"; all such are named in {self.file}" if self.file else ""
                warn(f"{error.key} cannot be read ({error.reason}) and is skipped{where}")
            self.reasons[error.key] = error.reason
            if self.file is not None:
                with self.file.open("a", encoding="utf-8", errors="surrogateescape") as file:
                    file.write(f"{error.key}\t{error.reason}\n")
        if len(self) > self.limit * self.total:
            first = ", ".join(f"{key} ({reason})" for key, reason in list(self.reasons.items())[:5])
            more = ", …" if len(self) > 5 else ""
            raise GlocalError(
                f"at least {len(self)} of {self.total} images cannot be read, more than "
                f"data.broken_limit={self.limit:g} allows: {first}{more}; mend or remove them (glocal check finds all) "
                "or raise data.broken_limit"
            )
