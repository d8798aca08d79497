"""Commands that embed images and search among them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glocal.cli.app import app, show

PANEL = "Use"


@app.command(rich_help_panel=PANEL)
def search(
    embeddings: Annotated[Path, typer.Argument(help="A folder that `glocal embed` wrote.")],
    queries: Annotated[
        list[str], typer.Argument(metavar="QUERY…", help="Image files, folders of them, or keys of the embeddings.")
    ],
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Images to find for each query.")] = 20,
    out: Annotated[
        list[Path] | None,
        typer.Option(help="A sheet of pictures (.html, .png) or a table (.csv) to write; repeatable."),
    ] = None,
    exclude_self: Annotated[
        bool, typer.Option("--exclude-self", help="Leave out the query itself, by its key or path; copies stay.")
    ] = False,
    index: Annotated[
        bool | None,
        typer.Option(
            "--index/--exact",
            help="Search an index (faiss), built when it is not there, or compare with every image. Default: an index "
            "above a million images.",
        ),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Where the backbone of the embeddings lies now; default: where it lay then.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Where its file of weights lies now, if it was given one.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that decode images.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars and notes.")] = False,
) -> None:
    """Find the images most similar to given ones."""
    from glocal.embeddings.searching import search
    from glocal.embeddings.shown import check_output, tables, write_result

    for path in out or []:
        check_output(path)
    found = search(
        embeddings,
        queries,
        k,
        exclude_self=exclude_self,
        backbone=backbone,
        weights=weights,
        index=index,
        device=device,
        workers=workers,
        progress=not quiet,
    )
    show(*tables(found))
    for path in out or []:
        write_result(found, path)
        show(f"written to {path}")
