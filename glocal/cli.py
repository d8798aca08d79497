"""The command line: each command parses, calls one public function, and prints."""

from __future__ import annotations

import io
import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from glocal.errors import GlocalError, did_you_mean

app = typer.Typer(
    help="Self-supervised visual representation learning, globally and locally at once.",
    epilog="--debug, anywhere in the command, shows the traceback of an error.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Sets = Annotated[
    list[str] | None, typer.Option("--set", help="A setting by its path, e.g. train.epochs=10; repeatable.")
]


def _show(*things: Any) -> None:
    console = Console(emoji=False)
    if not console.is_terminal:  # a pipe has no width; rich would cut tables at 80 columns
        console = Console(width=160, emoji=False)
    for thing in things:
        console.print(thing, soft_wrap=isinstance(thing, str), highlight=False, markup=False)


def _version(wanted: bool) -> None:
    if wanted:
        from glocal import __version__

        print(f"glocal {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def pretrain(
    out: Annotated[Path, typer.Option(help="The run's folder; a run in it is continued.")],
    data: Annotated[
        list[str] | None,
        typer.Option(help="A folder of images, a list (.txt, .csv), or shapes, torchvision:CIFAR10, …; repeatable."),
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="A recipe's name (`glocal recipes`) or a .yaml file.")] = None,
    settings: Sets = None,
    resume: Annotated[
        str, typer.Option(help="auto: continue a run in --out; must: demand one; never: refuse one.")
    ] = "auto",
    extend: Annotated[
        bool, typer.Option("--extend", help="Train the run in --out for longer: up to the train.epochs given now.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Pretrain a backbone on unlabelled images, or continue a stopped run."""
    choices = ("auto", "must", "never")
    if resume not in choices:
        raise GlocalError(f"--resume {resume}: {did_you_mean(resume, choices)}")
    from glocal.distributed import process_rank
    from glocal.settings import parse_overrides
    from glocal.training.run import pretrain

    overrides = parse_overrides(settings or [])
    run = pretrain(
        data or None,
        out,
        recipe=recipe,
        overrides=overrides,
        resume=resume,  # type: ignore[arg-type]
        progress=not quiet,
        extend=extend,
    )
    if process_rank() > 0:
        return
    _show(
        f"run:       {run.folder} (loss.png, views.png, metrics.csv, checkpoints/)",
        f"measure:   glocal evaluate {run.folder} --train LABELLED --test LABELLED",
        f'use:       glocal.load_backbone("{run.folder}").features(images)',
    )


@app.command()
def sweep(
    grid: Annotated[
        list[str], typer.Option("--grid", help="Values of a setting, e.g. method.temperature=0.1,0.2; repeatable.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The sweep's folder, continued if it is there; default: sweeps/RECIPE.")
    ] = None,
    data: Annotated[list[str] | None, typer.Option(help="As for pretrain; repeatable.")] = None,
    recipe: Annotated[str | None, typer.Option(help="A recipe's name or a .yaml file.")] = None,
    settings: Sets = None,
    train: Annotated[
        list[str] | None,
        typer.Option(help="Labelled images that k-NN and the linear probe learn from; repeatable; default: of --data."),
    ] = None,
    test: Annotated[
        list[str] | None,
        typer.Option(help="Labelled images to measure on; repeatable; default: data.test, or a fifth held out."),
    ] = None,
    probe: Annotated[
        list[str] | None, typer.Option("--probe", help="How it is measured, e.g. linear.style=sce; repeatable.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Pretrain with every combination of some settings, and write one table of loss, k-NN and linear accuracy."""
    from glocal import sweep as sweeping
    from glocal.settings import parse_overrides

    overrides = parse_overrides(settings or [])
    out = out or Path("sweeps") / (Path(recipe).stem if recipe else "default")
    rows = sweeping.sweep(
        data or None,
        out,
        grid=sweeping.parse_grid(grid),
        recipe=recipe,
        overrides=overrides,
        train=train or None,
        test=test or None,
        probe=parse_overrides(probe or []),
        progress=not quiet,
    )
    _show(sweeping.table(rows), f"written to {out}/sweep.csv and {out}/sweep.md; the runs are in {out}/runs")


@app.command()
def views(
    data: Annotated[
        list[str] | None, typer.Option(help="A folder of images, another source, or one image file; repeatable.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The picture, a .png file.")] = Path("views.png"),
    recipe: Annotated[str | None, typer.Option(help="A recipe's name or a .yaml file: whose views.")] = None,
    settings: Sets = None,
    match: Annotated[bool, typer.Option("--match", help="Join the matched patches of two views.")] = False,
    pair: Annotated[str, typer.Option(help="With --match: the two views, counted from 0.")] = "0,1",
    affinity: Annotated[
        str | None, typer.Option(help="A LoGo run: draw how alike it finds one crop and 40 of its own or --data's.")
    ] = None,
    index: Annotated[int, typer.Option(min=0, help="With --match or --affinity: which image of the source.")] = 0,
) -> None:
    """Draw the views that a recipe makes of images, matched patches, or the affinity that a LoGo run has learned."""
    from glocal.report.affinity import draw_affinity
    from glocal.report.preview import preview
    from glocal.settings import parse_overrides

    overrides = parse_overrides(settings or [])
    if affinity is not None:
        if match or recipe is not None:
            raise GlocalError(f"--affinity {affinity}: takes the run's own recipe; leave --match and --recipe out")
        found = draw_affinity(affinity, out, data=data or None, overrides=overrides, index=index)
        _show(f"{out}: a crop of {found.images[0]} beside others of it and of {', '.join(found.images[1:])}")
        return
    if data is None:
        raise GlocalError("no images: give a folder, another source or one image file (--data)")
    if match:
        numbers = pair.split(",")
        if len(numbers) != 2 or not all(number.strip().isdigit() for number in numbers):
            raise GlocalError(f"--pair {pair}: write the numbers of two views, for example 0,2")
        chosen = (int(numbers[0]), int(numbers[1]))
        matched = preview(data, out, recipe=recipe, overrides=overrides, match=chosen, index=index)
        _show(f"{out}: {matched} matched patches")
    else:
        preview(data, out, recipe=recipe, overrides=overrides)
        _show(str(out))


@app.command()
def evaluate(
    backbone: Annotated[
        str, typer.Argument(help="A run's folder, a checkpoint, timm:NAME, untrained:RUN or :timm:NAME, or pixels.")
    ],
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
        list[str] | None, typer.Option("--set", help="A protocol's setting, e.g. knn.temperature=0.1; repeatable.")
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
    from glocal.evaluation import IncompleteError, evaluate, results
    from glocal.settings import parse_overrides

    if out is None and Path(backbone).is_dir():
        out = Path(backbone) / "evaluation"
    places = {}
    for place in data or []:
        name, equals, path = place.partition("=")
        if not equals:
            raise GlocalError(f"--data {place}: write it as PROTOCOL=PATH, for example retrieval=roxford5k")
        places[name] = path
    measure = partial(
        evaluate,
        backbone,
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
    )
    try:
        found = measure()
    except IncompleteError as error:
        if error.result["protocols"]:
            _show(results.table(error.result))
        raise
    _show(results.table(found))
    if out is not None:
        _show(f"written to {out}: {', '.join(sorted(path.name for path in out.iterdir() if path.is_file()))}")


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(help="Runs, or other folders that `glocal evaluate --out` wrote to.")],
    out: Annotated[Path, typer.Option(help="Folder for compare.csv, .json, .md and .png.")] = Path("compare"),
) -> None:
    """Show several runs on the same protocols side by side, with the published numbers of their recipes."""
    from glocal.evaluation import compare as comparing

    found = comparing.compare(runs, out)
    _show(comparing.table(found), *found.notes, f"written to {out}/compare.csv, .json, .md and .png")


@app.command()
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
    _show(f"{out}: {len(found.labels)} images of the classes {', '.join(found.classes)}")


@app.command()
def protocols(
    name: Annotated[str | None, typer.Argument(help="A protocol: show its settings.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="With a protocol: what the others then are, e.g. linear.style=moco."),
    ] = None,
) -> None:
    """List the protocols of `glocal evaluate` and what they need; or the settings of one."""
    from glocal.evaluation.protocols import protocol, protocol_names
    from glocal.settings import assign, parse_overrides, setting_rows, validated

    if name is not None:
        found = protocol(name)
        table = Table(title=f"{name}: settings (--set {name}.SETTING=VALUE)", title_justify="left")
        for column in ("setting", "default", "choices", "what it is"):
            table.add_column(column)
        raw: dict[str, Any] = {}
        for path, value in parse_overrides(settings or []).items():
            assign(raw, path.removeprefix(f"{name}."), value)
        for row in setting_rows(validated(found.settings, raw, f"protocol {name}")):
            table.add_row(f"{name}.{row[0]}", *row[1:])
        _show(f"{name}: {found.summary}", *([f"--data {name}=PATH: {found.data}"] if found.data else []), table)
        return
    table = Table(title="protocols (glocal evaluate RUN --protocol NAME)", title_justify="left")
    for column in ("name", "measures", "needs", "in all"):
        table.add_column(column)
    for name in protocol_names():
        found = protocol(name)
        needs = [*(["--train, --test"] if found.labels else []), *([f"--data {name}=PATH"] if found.data else [])]
        table.add_row(name, found.summary, " or ".join(needs), "yes" if found.usual else "")
    _show(table, "glocal protocols NAME says what PATH holds and lists the settings; in all: --protocol all runs it")


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="A recipe: show the options of its method.")] = None,
) -> None:
    """List the recipes, what each reproduces and the published number; or the options of one recipe's method."""
    from glocal.config import build_recipe, load_mapping, method_options, recipe_names

    if name is not None:
        table = Table(title=f"{name}: options (--set OPTION=VALUE, or --grid of glocal sweep)", title_justify="left")
        for column in ("option", "value", "paper's default", "choices"):
            table.add_column(column)
        for row in method_options(build_recipe(load_mapping(name))):
            table.add_row(*row)
        _show(table)
        return
    table = Table(title="recipes (glocal pretrain --recipe NAME)", title_justify="left")
    for column in ("name", "method", "backbone", "epochs", "reproduces", "published"):
        table.add_column(column)
    for name in recipe_names():
        recipe = build_recipe(load_mapping(name))
        table.add_row(
            name,
            recipe.method.name,
            recipe.model.name,
            str(recipe.train.epochs),
            recipe.reproduces,
            recipe.published,
        )
    _show(table, "glocal recipes NAME lists the options of a recipe's method: every switch of its ablations")


@app.command()
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
        _show(overview(papers), "glocal tables PAPER/ID shows a table, with the runs in RUNS that are its rows")
        return
    paper, table = find_table(place)
    from glocal.papers.measured import find_runs, measured
    from glocal.papers.shown import others, remarks, save, table_of

    if folder is None and Path("runs").is_dir():
        folder = Path("runs")
    there = find_runs(folder) if folder else []
    rows = measured(table, there)
    _show(table_of(paper, table, rows), *remarks(table, rows))
    if table.rows and (left := others(rows, there)):
        _show(left)
    if out is not None:
        save(out, paper, table, rows)
        _show(f"written to {out}")


@app.command()
def doctor() -> None:
    """Show versions, devices and what is usable here, with advice."""
    from glocal.doctor import examine, table

    findings = examine()
    _show(table(findings))
    if any(finding.status == "bad" for finding in findings):
        raise typer.Exit(1)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The run's folder.")] = Path("runs/demo"),
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Pretrain on the embedded shapes for about three minutes on two cores and show what was learned."""
    from glocal.demo import run_demo

    table = run_demo(out, progress=not quiet)
    _show(table, f"loss curve: {out}/loss.png   views: {out}/views.png")


def _other_process() -> bool:
    from glocal.distributed import process_rank

    return process_rank() > 0


def main() -> None:
    """Runs the command line; errors that a user can mend become one line and exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names that are no UTF-8, and terminals that are none
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        app()
    except BaseException as error:
        number = getattr(error, "signal", None)
        if debug or not (isinstance(error, GlocalError) or number is not None):
            raise
        text = str(error) if number is None else f"{error}; the same command continues it"
        if number is None or not _other_process():  # all processes of a training stop together: one says so
            Console(stderr=True, highlight=False, emoji=False).print(f"glocal: {text}", soft_wrap=True, markup=False)
        if number is None:
            sys.exit(2)
        sys.stdout.flush()
        os._exit(128 + number)  # worker processes and threads need not be waited for
