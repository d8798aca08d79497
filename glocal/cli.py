"""The command line: each command parses, calls one public function, and prints."""

from __future__ import annotations

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
        str | None, typer.Option(help="A folder of images, or shapes, digits, torchvision:CIFAR10, …")
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
        data,
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
    data: Annotated[str | None, typer.Option(help="As for pretrain.")] = None,
    recipe: Annotated[str | None, typer.Option(help="A recipe's name or a .yaml file.")] = None,
    settings: Sets = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Pretrain with every combination of some settings, and write one table of loss and k-NN accuracy."""
    from glocal import sweep as sweeping
    from glocal.settings import parse_overrides

    overrides = parse_overrides(settings or [])
    out = out or Path("sweeps") / (Path(recipe).stem if recipe else "default")
    rows = sweeping.sweep(
        data, out, grid=sweeping.parse_grid(grid), recipe=recipe, overrides=overrides, progress=not quiet
    )
    _show(sweeping.table(rows), f"written to {out}/sweep.csv and {out}/sweep.md; the runs are in {out}/runs")


@app.command()
def views(
    data: Annotated[str, typer.Option(help="A folder of images, another source, or one image file.")],
    out: Annotated[Path, typer.Option(help="The picture, a .png file.")] = Path("views.png"),
    recipe: Annotated[str | None, typer.Option(help="A recipe's name or a .yaml file: whose views.")] = None,
    settings: Sets = None,
    match: Annotated[bool, typer.Option("--match", help="Join the matched patches of two views.")] = False,
    pair: Annotated[str, typer.Option(help="With --match: the two views, counted from 0.")] = "0,1",
    index: Annotated[int, typer.Option(min=0, help="With --match: which image of the source.")] = 0,
) -> None:
    """Draw the views that a recipe makes of images, or two of them with their matched patches joined."""
    from glocal.report.preview import preview
    from glocal.settings import parse_overrides

    overrides = parse_overrides(settings or [])
    if match:
        numbers = pair.split(",")
        if len(numbers) != 2 or not all(number.strip().isdigit() for number in numbers):
            raise GlocalError(f"--pair {pair}: write the numbers of two views, for example 0,2")
        chosen = (int(numbers[0]), int(numbers[1]))
        found = preview(data, out, recipe=recipe, overrides=overrides, match=chosen, index=index)
        _show(f"{out}: {found} matched patches")
    else:
        preview(data, out, recipe=recipe, overrides=overrides)
        _show(str(out))


@app.command()
def evaluate(
    backbone: Annotated[
        str, typer.Argument(help="A run's folder, a checkpoint, timm:NAME, untrained:RUN or :timm:NAME, or pixels.")
    ],
    train: Annotated[str | None, typer.Option(help="Labelled images that the protocols learn from.")] = None,
    test: Annotated[str | None, typer.Option(help="Labelled images to measure on.")] = None,
    val: Annotated[
        str | None, typer.Option(help="Labelled images to choose settings on; default: a part of --train.")
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
        train=train,
        test=test,
        val=val,
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
    """Pretrain on the embedded shapes for about two minutes and show what was learned."""
    from glocal.demo import run_demo

    table = run_demo(out, progress=not quiet)
    _show(table, f"loss curve: {out}/loss.png   views: {out}/views.png")


def _other_process() -> bool:
    from glocal.distributed import process_rank

    return process_rank() > 0


def main() -> None:
    """Runs the command line; errors that a user can mend become one line and exit code 2."""
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
