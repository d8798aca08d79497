"""What a search has found, for people and for other programs: tables, sheets of pictures, files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from glocal.console import name_cell, note
from glocal.embeddings.folder import Embeddings
from glocal.embeddings.pictures import picture_of, pictures_of
from glocal.embeddings.queries import Query
from glocal.embeddings.searching import SearchResult
from glocal.files import check_output, unprintable, write_csv
from glocal.report.sheets import Section, Tile, write_sheet

_TABLES = 10  # queries that are shown in the terminal
_SECTIONS = {".png": 50, ".html": 2000}  # queries that one sheet shows
_HEADER = ("query", "rank", "similarity", "key", "path", "label")


def tables(result: SearchResult) -> Iterator[Any]:
    """A table for each of the first queries, and a line about the others."""
    labels = result.column("label")
    labelled = any(label is not None for row in labels for label in row)
    for place, query in enumerate(result.queries[:_TABLES]):
        table = Table(title=name_cell(query.name), title_justify="left")
        for column in ("rank", "similarity", "key", *(["label"] if labelled else [])):
            table.add_column(column, justify="right" if column in ("rank", "similarity") else "left")
        found = zip(result.similarities[place].tolist(), result.keys[place], labels[place], strict=True)
        for rank, (similarity, key, label) in enumerate(found, start=1):
            cells = [name_cell(key), *([name_cell(label or "")] if labelled else [])]
            table.add_row(str(rank), f"{similarity:.4f}", *cells)
        yield table
    if len(result.queries) > _TABLES:
        more, total = len(result.queries) - _TABLES, len(result.queries)
        yield f"{more:,} of {total:,} queries are not shown; --out FILE.csv has all"


def write_result(result: SearchResult, path: Path) -> None:
    """Writes a sheet of pictures (.html, .png) or a table (.csv).

    Raises:
        GlocalError: another ending, or no file can be written there.
    """
    check_output(path, option="")
    if path.suffix.lower() == ".csv":
        write_csv(path, _HEADER, _rows(result))
        return
    most = _SECTIONS[path.suffix.lower()]
    if len(result.queries) > most:
        note(f"{path}: shows the first {most} of {len(result.queries):,} queries; a .csv file takes them all")
    about = result.embeddings.about
    write_sheet(
        path,
        "Most similar images",
        list(_sections(result, most)),
        [f"{len(result.embeddings):,} images of {_named(about.source)}, by the features of {about.label}"],
    )


def _named(source: str | list[str]) -> str:
    return source if isinstance(source, str) else " + ".join(source)


def _rows(result: SearchResult) -> Iterator[Sequence[Any]]:
    paths, labels = result.column("path"), result.column("label")
    for place, query in enumerate(result.queries):
        found = zip(result.similarities[place].tolist(), result.keys[place], paths[place], labels[place], strict=True)
        for rank, (similarity, key, path, label) in enumerate(found, start=1):
            yield query.name, rank, f"{similarity:.6f}", key, path, label


def _sections(result: SearchResult, most: int) -> Iterator[Section]:
    paths, labels = result.column("path"), result.column("label")
    for place, query in enumerate(result.queries[:most]):
        rows = result.rows[place].tolist()
        shown = pictures_of(result.embeddings, rows)
        near = zip(result.similarities[place].tolist(), result.keys[place], labels[place], strict=True)
        tiles = [Tile(_picture(result.embeddings, query), ("query",), query.path, marked=True)]
        for (similarity, key, label), path, picture in zip(near, paths[place], shown, strict=True):
            caption = f"{similarity:.3f}", key.rpartition("/")[2], *([label] if label else [])
            tiles.append(Tile(picture, caption, None if path is None else unprintable(path)))
        yield Section(query.name, tiles)


def _picture(embeddings: Embeddings, query: Query) -> bytes | None:
    if query.stored:
        return pictures_of(embeddings, [query.row])[0]
    read = query.read
    return None if read is None else picture_of(lambda: read(embeddings.decoding))
