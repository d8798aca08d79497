"""Commands that measure."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from glocal.cli.app import app, set_option, show
from glocal.errors import GlocalError, did_you_mean
from glocal.files import check_output_folder

PANEL = "Measure"


@app.command(rich_help_panel=PANEL)
def evaluate(
    backbone: Annotated[
        str,
        typer.Argument(help="A run's folder, a checkpoint, timm:NAME, untrained:RUN, untrained:timm:NAME, or pixels."),
    ],
    weights: Annotated[
        str | None,
        typer.Option(help="With timm:NAME: its weights, a .safetensors or .pth file, a run or a checkpoint."),
    ] = None,
    train: Annotated[
        list[str] | None, typer.Option(help="Labelled images that the protocols learn from; repeatable.")
    ] = None,
    test: Annotated[list[str] | None, typer.Option(help="Labelled images to measure on; repeatable.")] = None,
    val: Annotated[
        list[str] | None, typer.Option(help="Labelled images to choose settings on; default: a part of --train.")
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(help="A protocol (`glocal protocols`), or all; repeatable. Default: knn, linear, those in --data"),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="PROTOCOL=PATH: images in that protocol's format, e.g. retrieval=roxford5k; repeatable."),
    ] = None,
    settings: Annotated[
        list[str] | None, set_option("A protocol's setting, e.g. knn.temperature=0.1; repeatable.")
    ] = None,
    k: Annotated[list[int] | None, typer.Option("--k", help="Neighbours for knn; repeatable.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for evaluation.json, .csv and pictures; default: evaluation/ in a run.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that decode images; 0: none, where /dev/shm is small.")
    ] = None,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Keep features on the disk.")] = True,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Measure a backbone by the protocols of the papers."""
    from glocal.distributed import process_rank, processes_together
    from glocal.evaluation import IncompleteError, evaluate, results
    from glocal.settings import parse_overrides

    if out is None and Path(backbone).is_dir():
        out = Path(backbone) / "evaluation"
    if out is not None:
        check_output_folder(out)
    places = {}
    for place in data or []:
        name, equals, path = place.partition("=")
        if not equals:
            raise GlocalError(f"--data {place}: write it as PROTOCOL=PATH, for example retrieval=roxford5k")
        places[name] = path
    measure = partial(
        evaluate,
        backbone,
        weights=weights,
        train=train or None,
        test=test or None,
        val=val or None,
        protocols=protocol,
        data=places,
        settings=parse_overrides(settings or []),
        k=k,
        out=out,
        device=device,
        cache=cache,
        workers=workers,
        progress=not quiet,
        shared=True,
    )
    with processes_together():
        first = process_rank() == 0
        try:
            found = measure()
        except IncompleteError as error:
            if error.result["protocols"] and first:
                show(results.table(error.result), *results.remarks(error.result))
            raise
        if first:
            show(results.table(found), *results.remarks(found))
            if out is not None:
                show(f"written to {out}: {', '.join(sorted(path.name for path in out.iterdir() if path.is_file()))}")


@app.command(rich_help_panel=PANEL)
def compare(
    runs: Annotated[list[str], typer.Argument(help="Runs, or other folders that `glocal evaluate --out` wrote to.")],
    out: Annotated[Path, typer.Option(help="Folder for compare.csv, .json, .md and .png.")] = Path("compare"),
) -> None:
    """Show several runs on the same protocols side by side, with the published numbers of their recipes."""
    from glocal.evaluation import compare as comparing

    found = comparing.compare(runs, out)
    show(comparing.table(found), *found.notes, f"written to {out}/compare.csv, .json, .md and .png")


@app.command(rich_help_panel=PANEL)
def maps(
    backbones: Annotated[list[str], typer.Argument(help="Backbones, named as for evaluate: a panel each.")],
    data: Annotated[str, typer.Option(help="Labelled images, of which classes are drawn at random.")],
    out: Annotated[Path, typer.Option(help="The picture, a .png file.")] = Path("maps.png"),
    classes: Annotated[int, typer.Option(help="How many classes are drawn, at most 20.")] = 10,
    images: Annotated[int, typer.Option(min=10, help="Images in each map, at most.")] = 2000,
    kind: Annotated[str, typer.Option(help="tsne or umap.")] = "tsne",
    seed: Annotated[int, typer.Option(help="Of the classes, the images and the maps.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that decode images.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Draw t-SNE maps of several backbones side by side: the same images of random classes, in the same colours."""
    from glocal.evaluation.side_by_side import draw_side_by_side
    from glocal.report.maps import MAPS

    if kind not in MAPS:
        raise GlocalError(f"--kind {kind}: {did_you_mean(kind, MAPS)}")
    found = draw_side_by_side(
        backbones,
        data,
        out,
        classes=classes,
        images=images,
        kind=kind,  # type: ignore[arg-type]
        seed=seed,
        device=device,
        workers=workers,
        progress=not quiet,
    )
    show(f"{out}: {len(found.labels)} images of the classes {', '.join(found.classes)}")


@app.command(rich_help_panel=PANEL)
def tables(
    place: Annotated[
        str | None, typer.Argument(help="A paper (sce) or a table (sce/2); default: all tables are listed.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Argument(metavar="RUNS", help="A folder of runs to show beside the numbers; default: runs.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="With a table: a .csv or .json file to write it to.")] = None,
) -> None:
    """List the tables of the four papers, or show one with what runs measured beside the numbers in print."""
    from glocal.papers import find_table, load_paper, paper_names

    if place is None or "/" not in place:
        from glocal.papers.shown import overview

        if folder is not None or out is not None:
            raise GlocalError("name a table to show runs beside it or to write it, for example glocal tables sce/2")
        papers = [load_paper(name) for name in ([place] if place else paper_names())]
        show(
            overview(papers),
            "images: here, missing (torchvision's, fetched where that is possible), or a folder to name with --data",
            "glocal tables PAPER/ID shows a table, with the runs in RUNS that are its rows",
            "glocal reproduce PAPER/ID trains and measures its rows",
        )
        return
    paper, table = find_table(place)
    from glocal.papers.measured import find_runs, measured
    from glocal.papers.shown import others, remarks, save, table_of

    if folder is None and Path("runs").is_dir():
        folder = Path("runs")
    there = find_runs(folder) if folder else []
    rows = measured(table, there)
    show(table_of(paper, table, rows), *remarks(table, rows))
    if table.rows and (left := others(rows, there)):
        show(left)
    if out is not None:
        save(out, paper, table, rows)
        show(f"written to {out}")
