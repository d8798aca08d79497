"""The command that puts many images into a few files."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from glocal.cli.app import app, show
from glocal.errors import GlocalError, counted

_NAMED = 5  # images of a damaged shard


@app.command(rich_help_panel="Use")
def pack(
    data: Annotated[list[str], typer.Argument(help="Folders or lists of images; with --check, a pack.")],
    to: Annotated[str, typer.Option(help="parquet, or tar in WebDataset's convention.")] = "parquet",
    out: Annotated[Path | None, typer.Option(help="The pack's folder; one that was stopped is continued.")] = None,
    shard_megabytes: Annotated[int, typer.Option(help="No shard is larger, but one of a single image.")] = 256,
    values: Annotated[
        bool, typer.Option("--values", help="Arrays (.npy) and DICOM files are images as well (data.channels).")
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Compare a pack's files with their checksums; with --out, write wrong ones again."
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Put many images into a few large, checksummed files that all commands take as they take the folder."""
    if check and out is None:
        _check(data, progress=not quiet)
        return
    if out is None:
        raise GlocalError("--out is missing: the folder for the pack")
    from glocal.data.packs.making import pack

    done = pack(
        data,
        out,
        to,  # type: ignore[arg-type]
        shard_megabytes=shard_megabytes,
        values=values,
        check=check,
        progress=not quiet,
    )
    size = sum(shard.bytes for shard in done.shards)
    named = shlex.quote(str(out))
    show(
        f"{out}: {counted(done.images, 'image')} in {counted(len(done.shards), 'shard')}, {size / 1e6:,.1f} MB",
        f"train:  glocal pretrain --data {named} --out RUN",
        f"check:  glocal pack --check {named}",
    )


def _check(folders: list[str], *, progress: bool) -> None:
    from glocal.data.packs.checking import check_pack

    found = [(folder, damage) for folder in folders for damage in check_pack(folder, progress=progress)]
    for folder, damage in found:
        some = ", ".join(damage.images[:_NAMED]) + (", …" if len(damage.images) > _NAMED else "")
        lost = f"; {counted(len(damage.images), 'image')} in it cannot be read: {some}" if some else ""
        show(f"{folder}/{damage.file} {damage.reason}{lost}")
    for folder in dict.fromkeys(folder for folder, _ in found):
        show(f"mend:   glocal pack {_source(folder)} --out {shlex.quote(folder)} --check")
    if found:
        raise typer.Exit(1)
    show(*(f"{folder}: all files are as they were written" for folder in folders))


def _source(folder: str) -> str:
    """What a pack was made of, for a command, with the options by which it was made."""
    from glocal.data.packs.layout import read_about

    about = read_about(Path(folder))
    source = "IMAGES" if " + " in about.source else shlex.quote(about.source)
    kind = "" if about.to == "parquet" else f" --to {about.to}"
    size = "" if about.shard_megabytes == 256 else f" --shard-megabytes {about.shard_megabytes}"
    return f"{source}{kind}{size}"
