"""Commands that train."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from glocal.cli.app import Sets, app, show
from glocal.errors import GlocalError, did_you_mean

PANEL = "Train"


@app.command(rich_help_panel=PANEL)
def pretrain(
    out: Annotated[Path, typer.Option(help="The run's folder; a run in it is continued.")],
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="A folder of images, a list (.txt, .csv), a pack, hf:NAME, shapes, torchvision:CIFAR10, …; repeatable."
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="A recipe's name (`glocal recipes`) or a .yaml file; default: glocal, from weights sce."),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(help="Begin with weights: timm:NAME, a run, a checkpoint, or a .safetensors or .pth file."),
    ] = None,
    settings: Sets = None,
    resume: Annotated[
        str, typer.Option(help="auto: continue a run in --out; must: demand one; never: refuse one.")
    ] = "auto",
    extend: Annotated[
        bool, typer.Option("--extend", help="Train the run in --out for longer: up to the train.epochs given now.")
    ] = False,
    time: Annotated[
        str | None,
        typer.Option(
            help="Plan the training to end in this time (30m, 1h30): fewer epochs, then smaller views, then a smaller "
            "network."
        ),
    ] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="The same weights twice on one device (train.deterministic).")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="Write report.html: curves now and then, all in the end.")
    ] = True,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Pretrain a backbone on unlabelled images, or continue a stopped run."""
    from glocal.training.budget import Budget

    budget = None if time is None else Budget.of(time)  # from here on: torch is still to be loaded
    choices = ("auto", "must", "never")
    if resume not in choices:
        raise GlocalError(f"--resume {resume}: {did_you_mean(resume, choices)}")
    from glocal.distributed import process_rank
    from glocal.settings import parse_overrides
    from glocal.training.run import pretrain

    overrides = parse_overrides(settings or [])
    if deterministic:
        overrides["train.deterministic"] = True
    run = pretrain(
        data or None,
        out,
        recipe=recipe,
        init=init,
        overrides=overrides,
        resume=resume,  # type: ignore[arg-type]
        progress=not quiet,
        extend=extend,
        time=budget,
        report=report,
    )
    if process_rank() > 0:
        return
    named = shlex.quote(str(run.folder))
    show(
        f"run:       {run.folder} (loss.png, views.png, metrics.csv, checkpoints/)",
        *([f"look:      {run.folder}/report.html"] if (run.folder / "report.html").exists() else []),
        f"measure:   glocal evaluate {named} --train LABELLED --test LABELLED",
        f'use:       glocal.load_backbone("{run.folder}").features(images)',
    )


def _grid_well_formed(settings: list[str]) -> list[str]:
    if settings:
        from glocal.sweep import parse_grid

        parse_grid(settings)
    return settings


@app.command(rich_help_panel=PANEL)
def sweep(
    grid: Annotated[
        list[str],
        typer.Option(
            "--grid",
            help="Values of a setting, e.g. method.temperature=0.1,0.2; repeatable.",
            callback=_grid_well_formed,
        ),
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
    show(sweeping.table(rows), f"written to {out}/sweep.csv and {out}/sweep.md; the runs are in {out}/runs")
    failed = sum(bool(row["error"]) for row in rows)
    if failed:
        show(f"{failed} of {len(rows)} runs failed; the same command tries them again")
        raise typer.Exit(1)


@app.command(rich_help_panel=PANEL)
def demo(
    out: Annotated[Path, typer.Option(help="The run's folder.")] = Path("runs/demo"),
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Pretrain on the embedded shapes for about three minutes on two cores and show what was learned."""
    from glocal.demo import run_demo

    table = run_demo(out, progress=not quiet)
    show(table, f"look: {out}/report.html   loss curve: {out}/loss.png   views: {out}/views.png")
