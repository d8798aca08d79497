"""Commands that embed images and search among them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from glocal.cli.app import app, show
from glocal.files import check_output

PANEL = "Use"


@app.command(rich_help_panel=PANEL)
def embed(
    backbone: Annotated[
        str,
        typer.Argument(help="A run's folder, a checkpoint, timm:NAME, untrained:RUN, untrained:timm:NAME, or pixels."),
    ],
    data: Annotated[
        list[str], typer.Argument(help="Folders of images, lists (.txt, .csv), or shapes, torchvision:CIFAR10, …")
    ],
    out: Annotated[Path, typer.Option(help="The folder; embeddings that are not complete are continued.")],
    weights: Annotated[
        str | None,
        typer.Option(help="With timm:NAME: its weights, a .safetensors or .pth file, a run or a checkpoint."),
    ] = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="Keep a vision transformer's patch tokens, too.")] = False,
    thumbnails: Annotated[
        int, typer.Option(help="Longer side of the small pictures that are kept, about 2 KB each; 0 keeps none.")
    ] = 96,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images at a time; default: 256 on a GPU, else 32.")
    ] = None,
    precision: Annotated[str, typer.Option(help="In which the network computes: fp32 or bf16.")] = "fp32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that decode images; 0: none, where /dev/shm is small.")
    ] = None,
    atlas: Annotated[
        bool, typer.Option("--atlas", help="Write atlas.parquet as well, which Embedding Atlas opens.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Compute the features of all images once and keep them in a folder, for search, duplicates, outliers, select
    and label."""
    from glocal.distributed import process_rank, processes_together
    from glocal.embeddings.making import embed

    with processes_together():
        found = embed(
            backbone,
            data,
            out,
            weights=weights,
            tokens=tokens,
            thumbnails=thumbnails or None,
            batch_size=batch_size,
            precision=precision,  # type: ignore[arg-type]
            device=device,
            workers=workers,
            progress=not quiet,
        )
        if process_rank() == 0:
            show(f"embeddings: {found}", f"search:     glocal search {shlex.quote(str(out))} IMAGE --out found.html")
            if atlas:
                from glocal.embeddings.atlas import COMMAND, write_atlas

                show(f"atlas:      {COMMAND.format(path=write_atlas(found, progress=not quiet))}")


@app.command(rich_help_panel=PANEL)
def search(
    embeddings: Annotated[Path, typer.Argument(metavar="E", help="A folder that `glocal embed --out` wrote.")],
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
    from glocal.embeddings.shown import tables, write_result

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
