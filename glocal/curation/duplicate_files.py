"""What `glocal duplicates` writes: a table of all groups, and a page that shows them side by side."""

from __future__ import annotations

import time
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

from glocal.console import progress_bar, tell
from glocal.curation.chance import shown as digits
from glocal.curation.differences import Compared, Comparison, Stored, compare, exists
from glocal.curation.duplicates import Groups, Member
from glocal.curation.worked import applied
from glocal.embeddings.pictures import pictures_of
from glocal.errors import counted
from glocal.files import check_output_folder, write_csv
from glocal.report.sheets import Section, Tile, write_sheet

TABLE, PAGE = "duplicates.csv", "duplicates.html"
_HEADER = (
    "group",
    "key",
    "path",
    "width",
    "height",
    "bytes",
    "similarity",
    "hash_distance",
    "largest",
    "difference",
)
_TILES = 50  # images of a group in the page, at most
_LONG = 60  # seconds of work that are worth a line


def write_duplicates(
    groups: Groups, out: str | Path, *, shown: int = 200, workers: int | None = None, progress: bool = True
) -> None:
    """Writes duplicates.csv, a line for each image of a group, and duplicates.html, the groups side by side.

    Only the groups' own files are opened, to say what differs between each and the largest of its group.

    Args:
        groups: what `find_duplicates` found.
        out: the folder; it is made.
        shown: groups in the page, the first ones, and of each up to 50 images; the table has all.
        workers: processes that decode images; None chooses.
        progress: show a progress bar; where there is no terminal, one line says how long it takes, if that is long.

    Raises:
        GlocalError: `out` is a file or cannot be made.
    """
    out = Path(out)
    check_output_folder(out, option="")
    members = [member for group in groups for member in group]
    paths = {row: groups.embeddings.paths[row] for row in groups.row.tolist()}
    gone = {row for row, path in paths.items() if path is not None and not exists(path)}
    compared = _compared(groups, gone, shown, workers, progress)
    write_csv(out / TABLE, _HEADER, _rows(groups, members, compared))
    title, text = _words(groups, shown)
    write_sheet(out / PAGE, title, _sections(groups, compared, gone, shown), text)


def summary(groups: Groups) -> str:
    """How many groups were found, in a line."""
    total = len(groups.embeddings)
    if not len(groups):
        return f"no near-copies among {total:,} images"
    extra = counted(len(groups.row) - len(groups), "image")
    return f"{counted(len(groups), 'group')} of near-copies among {total:,} images: {extra} beside the largest of each"


def _words(groups: Groups, shown: int) -> tuple[str, list[str]]:
    left = f"{counted(shown, 'group')} of {len(groups):,} shown here; {TABLE} has all." if len(groups) > shown else ""
    text = [*groups.words, "The framed file has most pixels. Nothing was deleted.", left]
    return summary(groups), [line[:1].upper() + line[1:] for line in text if line]


def _compared(groups: Groups, gone: Container[int], shown: int, workers: int | None, progress: bool) -> list[Compared]:
    """Every image of every group beside the largest of its group, in order; with pictures of those in the page."""
    embeddings = groups.embeddings
    sources = _sources(groups, gone)
    size = dict(zip(groups.row.tolist(), groups.bytes.tolist(), strict=True))
    comparisons = [
        Comparison(
            None if member.largest else sources[group[0].row],
            sources[member.row],
            size[group[0].row],
            size[member.row],
            member.same_bytes,
            pictured=number < shown and place < _TILES,
        )
        for number, group in enumerate(groups)
        for place, member in enumerate(group)
    ]
    found: list[Compared] = []
    begun, told = time.monotonic(), False
    with progress_bar("files", visible=progress) as bar:
        task = bar.add_task("what differs", total=len(comparisons))
        for few in applied(compare, comparisons, workers=workers):
            found += few
            bar.update(task, advance=len(few))
            spent = time.monotonic() - begun
            left = spent / len(found) * (len(comparisons) - len(found))
            if not told and spent > 5:
                told = True
                if progress and bar.disable and left > _LONG:
                    tell(f"what differs in {len(comparisons):,} files of {embeddings.folder}: {left / 60:.0f} min left")
    return [
        one._replace(words=["file not found", *one.words]) if row in gone else one
        for row, one in zip(groups.row.tolist(), found, strict=True)
    ]


def _sources(groups: Groups, gone: Container[int]) -> dict[int, Stored]:
    """Where each image of a group is: its file, or where there is none a small picture."""
    embeddings = groups.embeddings
    rows = groups.row.tolist()
    without = [row for row in rows if row in gone or embeddings.paths[row] is None]
    pictures = dict(zip(without, pictures_of(embeddings, without), strict=True))
    files = {row: Stored(embeddings.paths[row], decoding=embeddings.decoding) for row in rows if row not in pictures}
    return files | {row: Stored(None, picture) for row, picture in pictures.items()}


def _rows(groups: Groups, members: Sequence[Member], compared: Sequence[Compared]) -> list[list[Any]]:
    embeddings = groups.embeddings
    rows = []
    for place, (member, found) in enumerate(zip(members, compared, strict=True)):
        width, height = embeddings.sizes[member.row].tolist()
        rows.append(
            [
                int(groups.group[place]) + 1,
                embeddings.keys[member.row],
                embeddings.paths[member.row] or "",
                width,
                height,
                int(groups.bytes[place]) or "",
                f"{member.similarity:.4f}",
                "" if member.hash_distance is None else member.hash_distance,
                "yes" if member.largest else "",
                "; ".join(found.words),
            ]
        )
    return rows


def _sections(groups: Groups, compared: Sequence[Compared], gone: Container[int], shown: int) -> list[Section]:
    embeddings = groups.embeddings
    sections, first = [], 0
    for number, group in enumerate(groups):
        if number == shown:
            break
        tiles = []
        for place, member in enumerate(group[:_TILES], start=first):
            found = compared[place]
            width, height = embeddings.sizes[member.row].tolist()
            size = f", {_bytes(int(groups.bytes[place]))}" if groups.bytes[place] else ""
            near = [] if member.largest else [_near(member)]
            tiles.append(
                Tile(
                    found.picture,
                    [
                        embeddings.keys[member.row],
                        f"{width}×{height}{size}",
                        *near,
                        *found.words,
                    ],
                    None if member.row in gone else embeddings.paths[member.row],
                    member.largest,
                )
            )
        more = len(group) - _TILES
        text = [f"{more:,} more of this group in {TABLE}"] if more > 0 else []
        sections.append(Section(f"{number + 1}: {counted(len(group), 'image')}", tiles, text))
        first += len(group)
    return sections


def _near(member: Member) -> str:
    bits = "" if member.hash_distance is None else f", {counted(member.hash_distance, 'bit')} apart"
    return f"similarity {digits(member.similarity)}{bits}"


def _bytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{max(1, round(size / 1e3))} kB"
