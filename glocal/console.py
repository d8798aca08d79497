"""What the user sees while something runs: notes and progress, on the error stream, from the first process only."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from glocal.distributed import process_rank
from glocal.files import harmless, printable

_FIRST, _LONGEST = 10.0, 300.0  # seconds between two lines, at first and at last; they double in between

console = Console(stderr=True, highlight=False, emoji=False)


def note(text: str) -> None:
    """One line to the user that is no error."""
    if process_rank() == 0:
        console.print(f"[bold]note:[/] {escape(harmless(text))}", soft_wrap=True)


@contextmanager
def silence() -> Iterator[None]:
    """Says nothing inside: what is done there is done again, and says it then."""
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before


def tell(text: str) -> None:
    """One line of how things stand."""
    if process_rank() == 0:
        console.print(escape(harmless(text)), soft_wrap=True)


def warn(text: str) -> None:
    """One line that the user should not miss."""
    if process_rank() == 0:
        console.print(f"[bold yellow]warning:[/] {escape(harmless(text))}", soft_wrap=True)


def name_cell(text: str) -> Text:
    """A name for a table at a terminal."""
    return Text(harmless(printable(text)))


def progress_bar(unit: str, *, visible: bool = True, extra: tuple[str, ...] = (), left: str | None = None) -> Progress:
    """A bar with a count, `extra` fields of the task, the time spent and the time left; hidden off a terminal.

    The time left is that of the last half minute's pace. What moves more slowly says it in a field of the task, `left`.
    """
    usual = (TextColumn("so far,"), TimeRemainingColumn(), TextColumn("left"))
    return Progress(
        TextColumn("{task.description}", markup=False),  # names of folders are in it
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        *(TextColumn(f"{{task.fields[{name}]}}", markup=False) for name in extra),
        TimeElapsedColumn(table_column=Column(min_width=7)),  # at a narrow terminal names are cut, not times
        *(usual if left is None else (TextColumn(f"so far{{task.fields[{left}]}}"),)),
        console=console,
        disable=not visible or process_rank() != 0 or not console.is_terminal,
        transient=True,
    )


class NowAndThen:
    """Says when it is time for another line: after 10 s, then each time twice as long, up to 5 minutes.

    Args:
        now: seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._start = now()
        self._interval = _FIRST
        self._due = self._start + _FIRST

    def seconds(self) -> float | None:
        """Seconds since the start, where a line is due; else None."""
        now = self._now()
        if now < self._due:
            return None
        self._interval = min(_LONGEST, 2 * self._interval)
        self._due = now + self._interval
        return now - self._start


@contextmanager
def progress_of(
    what: str, unit: str, total: int, *, done: int = 0, visible: bool = True, clock: NowAndThen | None = None
) -> Iterator[Callable[[int], None]]:
    """Shows how far work is and how long it takes: a bar at a terminal, elsewhere a line now and then.

    Args:
        what: the work, "embedding photos".
        unit: what is counted, "images".
        total: how many there are.
        done: how many were done before.
        visible: show it.
        clock: says when lines are due.

    Yields:
        Takes how many more are done.
    """
    clock = clock or NowAndThen()
    reached = done
    with progress_bar(unit, visible=visible) as bar:
        task = bar.add_task(harmless(what), total=total, completed=done)

        def advance(count: int) -> None:
            nonlocal reached
            reached += count
            bar.update(task, advance=count)
            if not visible or console.is_terminal or reached >= total or reached == done:
                return
            seconds = clock.seconds()
            if seconds is not None:
                rate = (reached - done) / seconds
                left = timedelta(seconds=round((total - reached) / rate))
                tell(f"{what}: {reached:,} of {total:,} {unit}, {rate:,.0f} {unit}/s, {left} left")

        yield advance
