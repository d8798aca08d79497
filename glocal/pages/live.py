"""The page of a run that goes on: its curves and its verdict, written again every few minutes."""

from __future__ import annotations

import time
from pathlib import Path

from glocal.console import note
from glocal.pages.making import write_report

FILE = "report.html"
_EVERY = 300.0  # seconds
_IMAGES = 2_000  # of the map in the end


class LivePage:
    """Writes the report of a training into its folder; what goes wrong with it is a note and no error.

    Args:
        folder: of the run.
        whole: with the map in the end; else curves alone.
        now: a clock, in seconds.
    """

    def __init__(self, folder: Path, *, whole: bool) -> None:
        self.folder = folder
        self.whole = whole
        self._last = time.monotonic()

    def __call__(self) -> None:
        """Writes the curves, where the last page is some minutes old."""
        if time.monotonic() - self._last > _EVERY:
            self._write(0)
            self._last = time.monotonic()

    def end(self) -> None:
        """Writes the whole page."""
        self._write(_IMAGES if self.whole else 0)

    def _write(self, images: int) -> None:
        try:
            write_report(self.folder, self.folder / FILE, images=images, progress=False)
        except Exception as error:  # the training is worth more than its page
            note(f"{self.folder / FILE} was not written: {type(error).__name__}: {error}")
