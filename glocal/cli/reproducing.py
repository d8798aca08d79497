"""The command that runs a printed table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glocal.cli.app import Sets, app, show
from glocal.cli.measuring import PANEL


@app.command(rich_help_panel=PANEL)
def reproduce(
    table: Annotated[str, typer.Argument(help="A table of the papers (sce/2, see `glocal tables`), or a .yaml file.")],
    out: Annotated[
        Path | None, typer.Option(help="The folder, continued if it is there; default: reproduced/TABLE.")
    ] = None,
    rows: Annotated[
        list[str] | None, typer.Option("--rows", help='Rows by label, e.g. "tau=0.2*"; repeatable; default: all.')
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="Images to pretrain on, or SET=PATH (cifar10=cifar10/train) in place of one; repeatable."),
    ] = None,
    test: Annotated[
        list[str] | None, typer.Option(help="Images to measure on, in the same way; default: those beside --data.")
    ] = None,
    held_out: Annotated[
        int | None, typer.Option(help="Measure on so many training images of each class, not trained on.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="small, medium or full: network, images, epochs. Default: small on a CPU.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each row; the table has mean ± deviation.")] = 1,
    equal: Annotated[
        list[str] | None, typer.Option(help="What rows have alike: epochs, views or time; repeatable: a column each.")
    ] = None,
    settings: Sets = None,
    references: Annotated[
        bool, typer.Option("--references/--no-references", help="Measure the untrained network and pixels too.")
    ] = True,
    reuse: Annotated[
        list[str] | None, typer.Option(help="Folder of another table: runs that are the same are not done again.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Runs side by side; default: one a core, each with one thread, or one a GPU.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Pretrain and measure the rows of a printed table, and set the numbers beside those in print."""
    from glocal.reproduction import writing
    from glocal.reproduction.reproducing import reproduce
    from glocal.settings import parse_overrides

    name = Path(table).stem if table.endswith((".yaml", ".yml")) else table.replace("/", "-")
    place = out or Path("reproduced") / name
    found = reproduce(
        table,
        place,
        rows=rows,
        data=data or (),
        test=test or (),
        held_out=held_out,
        budget=budget,
        seeds=seeds,
        equal=equal or ("epochs",),
        settings=parse_overrides(settings or []),
        references=references,
        reuse=reuse or (),
        jobs=jobs,
        device=device,
        progress=not quiet,
    )
    show(writing.table(found), *found["heading"], *writing.remarks(found))
    show(f"written to {place}: reproduced.json, .md and .png; the runs are in {place}/runs")
    failed = writing.failures(found)
    if failed:
        show(f"{failed} of the runs failed; the same command tries them again")
        raise typer.Exit(1)
