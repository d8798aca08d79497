"""What the user sees while something runs: notes and progress, on the error stream, from the first process only."""

from __future__ import annotations

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

from glocal.distributed import process_rank

console = Console(stderr=True, highlight=False, emoji=False)


def note(text: str) -> None:
    """One line to the user that is no error."""
    if process_rank() == 0:
        console.print(f"[bold]note:[/] {escape(text)}", soft_wrap=True)


def tell(text: str) -> None:
    """One line of how things stand."""
    if process_rank() == 0:
        console.print(escape(text), soft_wrap=True)


def warn(text: str) -> None:
    """One line that the user should not miss."""
    if process_rank() == 0:
        console.print(f"[bold yellow]warning:[/] {escape(text)}", soft_wrap=True)


def progress_bar(unit: str, *, visible: bool = True, extra: tuple[str, ...] = ()) -> Progress:
    """A bar with a count, `extra` fields of the task, the time spent and the time left; hidden off a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        *(TextColumn(f"{{task.fields[{name}]}}") for name in extra),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not visible or process_rank() != 0 or not console.is_terminal,
        transient=True,
    )
