"""Commands that look through images: copies, outliers, choices, labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glocal.cli.app import app, show

PANEL = "Use"


@app.command(rich_help_panel=PANEL)
def duplicates(
    embeddings: Annotated[Path, typer.Argument(metavar="E", help="A folder that `glocal embed --out` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for duplicates.csv and duplicates.html.")] = Path("duplicates"),
    threshold: Annotated[
        float | None, typer.Option(help="Similarity from which embeddings make copies; default: from the set itself.")
    ] = None,
    hashes: Annotated[bool, typer.Option("--hashes/--no-hashes", help="Use perceptual hashes beside them.")] = True,
    shown: Annotated[int, typer.Option(min=1, help="Groups in the page; the table has all.")] = 200,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that decode images.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Find groups of near-copies, and say which file is largest and what differs; nothing is deleted."""
    from glocal.curation.duplicate_files import PAGE, TABLE, summary, write_duplicates
    from glocal.curation.duplicates import find_duplicates

    found = find_duplicates(
        embeddings, threshold=threshold, hashes=hashes, device=device, workers=workers, progress=not quiet
    )
    write_duplicates(found, out, shown=shown, workers=workers, progress=not quiet)
    show(summary(found), *found.words, f"written to {out}: {TABLE}, {PAGE}; nothing was deleted")
