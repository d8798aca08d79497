"""Metrics of a run as CSV and for TensorBoard; a resumed run goes on where its checkpoint stands."""

from __future__ import annotations

import csv
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from torch.utils.tensorboard import SummaryWriter

from glocal.console import warn
from glocal.files import printable, write_text, writing

TABLES = ("metrics.csv", "monitor.csv")

FAILED = "failed.txt"
"""In the run's folder: why it could not go on; gone when it does."""


class Others(Protocol):
    """Whatever else is told the numbers of a run."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers after `step` steps."""
        ...


class RunLog:
    """Writes metrics.csv (one line every few steps), monitor.csv (one line a measurement) and TensorBoard events.

    Args:
        folder: the run's folder.
        first_step: where the training (re)starts; later lines, of a run that was stopped, are dropped.
        others: are told the same.
        check: is called before each line: an error of it is that of the line.
    """

    def __init__(
        self,
        folder: Path,
        first_step: int,
        others: Others | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder = folder
        self.check = check
        self.others = others
        for name in TABLES:
            _drop_after(folder / name, first_step)
        self._excepthook, threading.excepthook = threading.excepthook, _quiet_board
        self.board = _open_board(folder / "tensorboard", first_step)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """A line of the training's numbers after `step` steps."""
        self.check()
        _append(self.folder / "metrics.csv", {"step": step, **values})
        self._draw(step, {name: value for name, value in values.items() if name != "epoch"})
        if self.others:
            self.others.metrics(step, values)

    def monitor(self, step: int, name: str, value: float) -> None:
        """One measurement after `step` steps."""
        self.check()
        _append(self.folder / "monitor.csv", {"step": step, "name": name, "value": value})
        self._draw(step, {f"monitor/{name}": value})
        if self.others:
            self.others.metrics(step, {f"monitor/{name}": value})

    def sync(self) -> None:
        """Forces the lines to the disk: after a loss of power, what a checkpoint has behind it is there."""
        for path in (self.folder / name for name in TABLES):
            if path.exists():  # of a run that measures nothing there is but one
                with writing(path), path.open("rb") as file:
                    os.fsync(file.fileno())

    def close(self) -> None:
        """Flushes what TensorBoard still holds."""
        if self.board:
            try:
                self.board.close()
            except OSError as error:
                _without_board(error)
            self.board = None
        threading.excepthook = self._excepthook

    def _draw(self, step: int, values: Mapping[str, float]) -> None:
        """Tells TensorBoard; where it cannot write, the training goes on without."""
        try:
            for name, value in values.items() if self.board else ():
                self.board.add_scalar(name, value, step)  # type: ignore[union-attr]
        except OSError as error:
            self.board = None
            _without_board(error)


def _without_board(error: OSError) -> None:
    warn(f"TensorBoard's events cannot be written ({error.strerror or error}); metrics.csv has the same numbers")


def _open_board(folder: Path, first_step: int) -> SummaryWriter | None:
    """TensorBoard's writer; None where it cannot write, or the folder's name is no UTF-8, which it cannot open."""
    if printable(str(folder)) != str(folder):
        warn(f"{folder} is no name in UTF-8: there are no events for TensorBoard; metrics.csv has the same numbers")
        return None
    try:
        return SummaryWriter(str(folder), purge_step=first_step)  # type: ignore[no-untyped-call]
    except OSError as error:
        _without_board(error)
        return None


def _quiet_board(error: threading.ExceptHookArgs) -> None:
    """For `threading.excepthook`: what TensorBoard's own thread cannot write is raised again where it is told of."""
    if not (isinstance(error.exc_value, OSError) and type(error.thread).__module__.startswith("tensorboard.")):
        threading.__excepthook__(error)


def _append(path: Path, row: Mapping[str, float | str]) -> None:
    new = not path.exists() or path.stat().st_size == 0  # empty: the disk was full at the first line
    with writing(path), path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow({key: f"{v:.8g}" if isinstance(v, float) else v for key, v in row.items()})


def _drop_after(path: Path, step: int) -> None:
    """Removes the lines that a killed run wrote after its last checkpoint, a torn last line included."""
    if not path.exists():
        return
    header, *lines = _whole_lines(path)
    kept = [line for line in lines if int(line.split(",")[0]) <= step]
    if kept:
        write_text(path, "\n".join([header, *kept, ""]))
    else:
        path.unlink()  # the header too, which may be torn


def _whole_lines(path: Path) -> list[str]:
    """The header and the lines that were written whole; a header alone, which may be torn, where there is none."""
    header, *lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    columns = header.count(",")
    return [header, *(line for line in lines[:-1] if line.count(",") == columns and line.split(",")[0].isdigit())]


def monitor_series(folder: Path, name: str) -> list[tuple[int, float]]:
    """Step and value of every measurement of that name in monitor.csv; empty where there is none."""
    path = folder / "monitor.csv"
    if not path.exists():
        return []
    rows = csv.DictReader(_whole_lines(path))
    return [(int(row["step"]), float(row["value"])) for row in rows if row["name"] == name]


def read_metrics(folder: Path) -> dict[str, list[float]]:
    """The columns of metrics.csv; empty where there is none."""
    path = folder / "metrics.csv"
    if not path.exists():
        return {}
    rows = list(csv.DictReader(_whole_lines(path)))
    return {key: [float(row[key]) for row in rows] for key in rows[0]} if rows else {}
