"""The page of a run that goes on: its curves and its verdict, written again every few minutes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from glocal.console import note
from glocal.data.sources.base import Source
from glocal.errors import in_a_line
from glocal.pages.making import write_report
from glocal.pages.record import read_record

FILE = "report.html"
_EVERY = 300.0  # seconds
_FEWEST, _IMAGES = 300, 2_000  # of the map in the end
_PATIENCE = 30.0  # seconds that their embeddings may take, about


class LivePage:
    """Writes the report of a training into its folder; what goes wrong with it is a note and no error.

    Args:
        folder: of the run.
        source: its images, of which some are on the map in the end; None: curves alone.
    """

    def __init__(self, folder: Path, source: Source | None) -> None:
        self.folder = folder
        self.source = source
        self._last = time.monotonic()

    def __call__(self) -> None:
        """Writes the curves, where the last page is some minutes old."""
        if time.monotonic() - self._last > _EVERY:
            self._write(lambda: 0)
            self._last = time.monotonic()

    def end(self, *, finished: bool) -> None:
        """Writes the whole page, or of a training that was stopped, or failed, what there is."""
        self._write(self._affordable if finished else lambda: 0)

    def _affordable(self) -> int:
        """How many images are embedded soon: a training step costs each image's views forward and backward."""
        if self.source is None:
            return 0
        record = read_record(self.folder)
        rates = record.metrics.get("images_per_second", np.array([np.inf]))
        views = sum(view.count for view in record.recipe.views or ()) or 1
        return int(np.clip(_PATIENCE * 2 * views * np.median(rates), _FEWEST, _IMAGES))

    def _write(self, images: Callable[[], int]) -> None:
        place = self.folder / FILE
        try:
            write_report(self.folder, place, data=self.source, images=images(), progress=False)
        except Exception as error:  # the training is worth more than its page
            note(f"{place} was not written: {in_a_line(error)}")
