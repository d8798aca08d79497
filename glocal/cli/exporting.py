"""Commands that write a backbone for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glocal.cli.app import app, show
from glocal.errors import GlocalError

PANEL = "Use"


@app.command(rich_help_panel=PANEL)
def export(
    backbone: Annotated[str, typer.Argument(help="A run's folder, a checkpoint, or timm:NAME.")],
    to: Annotated[str, typer.Option(help="timm, torchvision, safetensors, onnx or hub-folder.")],
    out: Annotated[Path, typer.Option(help="The file, or for timm and hub-folder the folder.")],
    weights: Annotated[
        str | None,
        typer.Option(help="With timm:NAME: its weights, a .safetensors or .pth file, a run or a checkpoint."),
    ] = None,
    precision: Annotated[str, typer.Option(help="Of the weights: fp32 or fp16.")] = "fp32",
    license: Annotated[
        str | None, typer.Option(help="Of the weights, as the Hugging Face Hub names it: apache-2.0, mit, …")
    ] = None,
    data: Annotated[list[str] | None, typer.Option(help="Images to check the file with, too; repeatable.")] = None,
    evaluation: Annotated[
        Path | None, typer.Option(help="Folder of the evaluation that the model card shows; default: the run's.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is no export of glocal.")] = False,
    push: Annotated[
        str | None, typer.Option(help="USER/NAME: with hub-folder, upload the folder to the Hugging Face Hub.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="With --push: a new repository is private.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Write a backbone for timm, torchvision, ONNX Runtime or the Hub, and check that it gives the same features."""
    if push is not None and to != "hub-folder":
        raise GlocalError(f"--push uploads a folder with a model card: add --to hub-folder in place of --to {to}")
    from glocal.exports import check_push, export, push_to_hub

    if push is not None:
        check_push(push)  # an export takes minutes
    done = export(
        backbone,
        to,
        out,
        weights=weights,
        precision=precision,  # type: ignore[arg-type]
        license=license,
        overwrite=overwrite,
        images=data or None,
        evaluation=evaluation,
        progress=not quiet,
    )
    show(f"{done.path}: {done.target}, {done.precision}, {done.bytes / 1e6:.1f} MB")
    for check in done.checks:
        for one in check.differences:
            show(
                f"checked: {check.name}, {check.images} images: largest difference of {one.output} {one.absolute:.1e}, "
                f"{one.relative:.1e} of their length (tolerance {check.tolerance:.0e})"
            )
    if push is not None:
        show(f"pushed:  {push_to_hub(done.path, push, private=private)}")
    show("load it:", *(f"    {line}" for line in done.lines.splitlines() if line))
