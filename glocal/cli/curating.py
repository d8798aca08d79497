"""Commands that look through images: copies, outliers, choices, labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glocal.cli.app import app, show
from glocal.files import RESULTS, check_output, check_output_folder

PANEL = "Use"


@app.command(rich_help_panel=PANEL)
def duplicates(
    embeddings: Annotated[Path, typer.Argument(metavar="E", help="A folder that `glocal embed --out` wrote.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for duplicates.csv and duplicates.html; default: duplicates/NAME, E's.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Similarity from which embeddings make copies; default: from the set itself.")
    ] = None,
    hashes: Annotated[
        bool, typer.Option("--hashes/--no-hashes", help="Use perceptual hashes beside embeddings.")
    ] = True,
    shown: Annotated[int, typer.Option(min=1, help="Groups in the page; the table has all.")] = 200,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that decode images.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Find groups of near-copies, and say which file is largest and what differs; nothing is deleted."""
    from glocal.curation.duplicate_files import PAGE, TABLE, summary, write_duplicates
    from glocal.curation.duplicates import find_duplicates
    from glocal.embeddings.folder import read_about

    out = out or Path("duplicates") / embeddings.resolve().name
    read_about(embeddings)  # a mistyped name leaves no folder
    check_output_folder(out)
    found = find_duplicates(
        embeddings, threshold=threshold, hashes=hashes, device=device, workers=workers, progress=not quiet
    )
    write_duplicates(found, out, shown=shown, workers=workers, progress=not quiet)
    show(summary(found), *found.words, f"written to {out}: {TABLE}, {PAGE}; nothing was deleted")


@app.command(rich_help_panel=PANEL)
def outliers(
    embeddings: Annotated[Path, typer.Argument(metavar="E", help="A folder that `glocal embed --out` wrote.")],
    out: Annotated[
        list[Path] | None,
        typer.Option(help="A table of all images (.csv) or a sheet of the farthest ones (.html, .png); repeatable."),
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Images on the sheet.")] = 40,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Nearest neighbours that are looked at.")] = 10,
    rule: Annotated[str, typer.Option(help="distance, or local: relative to the neighbours' own.")] = "distance",
    threshold: Annotated[
        float, typer.Option(help="Robust standard deviations above the median from which an image is an outlier.")
    ] = 3.0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Find the images that are far from all others."""
    from glocal.curation.outliers import explained, find_outliers, table, write_page, write_table
    from glocal.embeddings.folder import Embeddings

    opened, paths = Embeddings(embeddings), out or []
    for path in paths:
        check_output(path)
    found = find_outliers(
        opened,
        k=k,
        rule=rule,  # type: ignore[arg-type]
        threshold=threshold,
        device=device,
        progress=not quiet,
    )
    show(table(found, opened), explained(found))
    for path in paths:
        if path.suffix.lower() == ".csv":
            write_table(found, opened, path)
        else:
            write_page(found, opened, path, n)
        show(f"written to {path}")


@app.command(rich_help_panel=PANEL)
def select(
    embeddings: Annotated[Path, typer.Argument(metavar="E", help="A folder that `glocal embed --out` wrote.")],
    n: Annotated[int, typer.Option("-n", help="How many images to choose.")],
    out: Annotated[
        list[Path] | None,
        typer.Option(help="A list for --data (.txt), a table (.csv) or a sheet (.html, .png); repeatable."),
    ] = None,
    rule: Annotated[
        str, typer.Option(help="kcentre: no image far from the chosen ones; kmeans: where the images are many.")
    ] = "kcentre",
    include: Annotated[
        Path | None,
        typer.Option(help="A list of images that you have already, by key or path; the choice complements them."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the first image, and of the random subsets to compare with.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Choose a few images that stand for all, to label or to learn from."""
    from glocal.curation.naming import check_all_are_files
    from glocal.curation.selection import select, table, write_list, write_page, write_table
    from glocal.embeddings.folder import Embeddings

    opened, paths = Embeddings(embeddings), out or []
    for path in paths:
        check_output(path, (".txt", *RESULTS))
        if path.suffix.lower() == ".txt":
            check_all_are_files(opened, path)
    found = select(
        opened,
        n,
        rule=rule,  # type: ignore[arg-type]
        include=include,
        seed=seed,
        progress=not quiet,
    )
    show(table(found, opened))
    if not paths:
        from glocal.console import note

        note("--out chosen.txt names the images; .csv, .html and .png work too")
    write = {".txt": write_list, ".csv": write_table}
    for path in paths:
        write.get(path.suffix.lower(), write_page)(found, opened, path)
        show(f"written to {path}")


@app.command(rich_help_panel=PANEL)
def label(
    embeddings: Annotated[Path, typer.Argument(metavar="E", help="A folder that `glocal embed --out` wrote.")],
    labels: Annotated[
        Path | None,
        typer.Option(help="A table (.csv) of key or path, and label; default: the labels that the images have."),
    ] = None,
    out: Annotated[
        list[Path] | None,
        typer.Option(help="A table of all images (.csv) or a sheet of those to look at (.html, .png); repeatable."),
    ] = None,
    at_least: Annotated[float, typer.Option(min=0, max=1, help="Confidence below which no label is written.")] = 0.0,
    source: Annotated[
        Path | None,
        typer.Option(
            help="Write given labels and proposals (from --at-least on) as a table path,label for --data and --train."
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Nearest labelled images that vote.")] = 20,
    temperature: Annotated[float, typer.Option(help="Of the votes: exp(similarity / temperature).")] = 0.07,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Propose labels for unlabelled images from their labelled neighbours, and measure how often that is right."""
    from glocal.curation import labelling
    from glocal.curation.naming import check_all_are_files
    from glocal.embeddings.folder import Embeddings

    opened, paths = Embeddings(embeddings), out or []
    for path in paths:
        check_output(path)
    if source is not None:
        check_output(source, (".csv",), option="--source")
        check_all_are_files(opened, source)
    found = labelling.propose_labels(opened, labels, k=k, temperature=temperature, device=device, progress=not quiet)
    show(*labelling.tables(found), *labelling.remarks(found))
    for path in paths:
        if path.suffix.lower() == ".csv":
            labelling.write_table(found, opened, path, at_least=at_least)
        else:
            labelling.write_page(found, opened, path)
        show(f"written to {path}")
    if source is not None:
        count = labelling.write_labelled(found, opened, source, at_least)
        show(f"written to {source}: {count:,} labelled images")


@app.command(rich_help_panel=PANEL)
def check(
    data: Annotated[list[str], typer.Argument(help="Images to learn from: folders, lists (.txt, .csv), or data sets.")],
    test: Annotated[
        list[str] | None, typer.Option(help="Test images; tells which of them are also learned from. Repeatable.")
    ] = None,
    out: Annotated[
        list[Path] | None,
        typer.Option(help="A table of all that was found (.csv) or a sheet of it (.html, .png); repeatable."),
    ] = None,
    near: Annotated[bool, typer.Option("--near/--exact", help="Look for near copies, or for exact ones alone.")] = True,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if anything is found but notes.")] = False,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Keep what is measured on the disk.")] = True,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that read and decode images.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Look for what is wrong with images before a training: broken, copied, odd, blurred, leaked from the test."""
    from glocal.curation.check_report import table, write_page, write_table
    from glocal.curation.checking import check as look

    paths = out or []
    for path in paths:
        check_output(path)
    report = look(data, test or None, near=near, cache=cache, workers=workers, progress=not quiet)
    show(*([table(report)] if report.findings else [*report.summary, "nothing was found"]), *report.notes)
    for path in paths:
        if path.suffix.lower() == ".csv":
            write_table(report, path)
        else:
            write_page(report, path)
        show(f"written to {path}")
    if strict and not report.clean:
        raise typer.Exit(1)
