"""Commands that list and draw what there is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from glocal.cli.app import Sets, app, set_option, show
from glocal.errors import GlocalError

PANEL = "Look up and look at"


@app.command(rich_help_panel=PANEL)
def views(
    data: Annotated[
        list[str] | None, typer.Option(help="A folder of images, another source, or one image file; repeatable.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The picture, a .png file.")] = Path("views.png"),
    recipe: Annotated[str | None, typer.Option(help="A recipe's name or a .yaml file: whose views.")] = None,
    settings: Sets = None,
    match: Annotated[bool, typer.Option("--match", help="Show which patches of two views match.")] = False,
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
        show(f"{out}: a crop of {found.images[0]} beside others of it and of {', '.join(found.images[1:])}")
        return
    if data is None:
        raise GlocalError("no images: give a folder, another source or one image file (--data)")
    if match:
        numbers = pair.split(",")
        if len(numbers) != 2 or not all(number.strip().isdigit() for number in numbers):
            raise GlocalError(f"--pair {pair}: write the numbers of two views, for example 0,2")
        chosen = (int(numbers[0]), int(numbers[1]))
        matched = preview(data, out, recipe=recipe, overrides=overrides, match=chosen, index=index)
        show(f"{out}: {matched} matched patches")
    else:
        preview(data, out, recipe=recipe, overrides=overrides)
        show(str(out))


@app.command(rich_help_panel=PANEL)
def report(
    runs: Annotated[list[str], typer.Argument(help="The folder of a run; several are shown side by side.")],
    out: Annotated[
        Path | None, typer.Option(help="The page, an .html file; default: report.html, of one run in its folder.")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="The images of the map; repeatable; default: those of the first run.")
    ] = None,
    images: Annotated[int, typer.Option(min=0, help="Images of the map, at most; 0: no map.")] = 20_000,
    kind: Annotated[str, typer.Option("--map", help="tsne or umap.")] = "tsne",
    seed: Annotated[int, typer.Option(help="Of the images and the map.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Write a page about a run: verdict, curves, numbers, map, neighbours, views, odd images. It needs no network."""
    from glocal.errors import did_you_mean
    from glocal.pages.making import write_report
    from glocal.report.maps import MAPS

    if kind not in MAPS:
        raise GlocalError(f"--map {kind}: {did_you_mean(kind, list(MAPS))}")
    out = out or (Path(runs[0]) / "report.html" if len(runs) == 1 else Path("report.html"))
    options = {"data": data or None, "images": images, "kind": kind, "seed": seed, "progress": not quiet}
    page = write_report(runs, out, **options)  # type: ignore[arg-type]
    show(f"{page} ({page.stat().st_size / 1e6:.1f} MB)")


@app.command(rich_help_panel=PANEL)
def watch(
    folder: Annotated[Path, typer.Argument(help="A folder that holds runs.")] = Path("runs"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="On 127.0.0.1; 0: a free one.")] = 8765,
) -> None:
    """Show the runs of a folder with live curves in this machine's browser, until Ctrl-C."""
    from glocal.pages.serving import Server

    with Server(folder, port) as server:
        show(f"{server.address} shows the runs in {folder}; Ctrl-C ends it")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            show("ended")


@app.command(rich_help_panel=PANEL)
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
        show(table)
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
    show(table, "glocal recipes NAME lists the options of a recipe's method: every switch of its ablations")


@app.command(rich_help_panel=PANEL)
def protocols(
    name: Annotated[str | None, typer.Argument(help="A protocol: show its settings.")] = None,
    settings: Annotated[
        list[str] | None, set_option("With a protocol: what the others then are, e.g. linear.style=moco.")
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
        show(f"{name}: {found.summary}", *([f"--data {name}=PATH: {found.data}"] if found.data else []), table)
        return
    table = Table(title="protocols (glocal evaluate RUN --protocol NAME)", title_justify="left")
    for column in ("name", "measures", "needs", "in all"):
        table.add_column(column)
    for name in protocol_names():
        found = protocol(name)
        needs = [*(["--train, --test"] if found.labels else []), *([f"--data {name}=PATH"] if found.data else [])]
        table.add_row(name, found.summary, " or ".join(needs), "yes" if found.usual else "")
    show(table, "glocal protocols NAME says what PATH holds and lists the settings; in all: --protocol all runs it")


@app.command(rich_help_panel=PANEL)
def doctor() -> None:
    """Show versions, devices and what is usable here, with advice."""
    from glocal.doctor import examine, table

    findings = examine()
    show(table(findings))
    if any(finding.status == "bad" for finding in findings):
        raise typer.Exit(1)
