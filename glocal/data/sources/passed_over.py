"""What a search for images passes over: what this package wrote, and files that are no images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

from glocal.data.decoding.reading import image_extensions
from glocal.errors import GlocalError, counted

# Folders that hold all files of one of these rows are output of glocal: a run, an evaluation, a comparison, embeddings,
# a pack.
_OUTPUT = (
    ("recipe.yaml", "checkpoints"),
    ("recipe.yaml", "environment.json"),
    ("evaluation.json", "evaluation.csv"),
    ("compare.json", "compare.csv"),
    ("embeddings.json",),
    ("glocal-pack.json",),
)
# What a run writes into a folder that holds the images as well.
RUNS_OWN = frozenset({"loss.png", "views.png", "evaluation", "checkpoints"})

# Files that belong beside images, or that every folder gathers; nobody takes them for images.
_BESIDE = frozenset(
    [
        ".txt",
        ".json",
        ".jsonl",
        ".csv",
        ".tsv",
        ".md",
        ".rst",
        ".yaml",
        ".yml",
        ".toml",
        ".xml",
        ".ini",
        ".cfg",
        ".log",
        ".html",
        ".py",
        ".ipynb",
        ".sh",
        ".db",
        ".pdf",
    ]
) | {""}
_MEND = {
    ".eps": "save them as PNG",
    ".heic": "pip install pillow-heif reads them",
    ".heif": "pip install pillow-heif reads them",
    ".avif": "Pillow 11.3 or newer reads them",
    ".dcm": "save them as 16-bit PNG",
    ".npy": "data.rgb=false learns from their values",
    ".npz": "save them as PNG or TIFF",
    ".zip": "unpack them",
    ".tar": "unpack them; those of WebDataset: hf:FOLDER/*.tar",
    ".parquet": "hf:FOLDER/*.parquet reads them",
    ".arrow": "hf:FOLDER reads them",
    ".gz": "unpack them",
}
_MOST = 5  # endings and folders that are named


def is_output(names: Collection[str]) -> bool:
    """Whether a folder that holds files and folders of these names was written by glocal."""
    return any(all(name in names for name in row) for row in _OUTPUT)


def check_holds_no_images(folder: Path) -> None:
    """Refuses a folder for output in which images lie: a search for images would pass them over from then on.

    Raises:
        GlocalError: there are some.
    """
    shown = (entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
    endings = (os.path.splitext(name)[1].lower() for name in shown)
    images = sum(ending in image_extensions() for ending in endings)
    if images:
        raise GlocalError(
            f"{folder} holds {counted(images, 'image')}, which would be passed over as output of glocal from then on; "
            "choose another folder (--out)"
        )


def count_endings(files: Iterable[str]) -> Counter[str]:
    """How many files end in what (lower case, with the dot); those that usually lie beside images are left out."""
    endings = Counter(os.path.splitext(file)[1].lower() for file in files)
    return Counter({ending: count for ending, count in endings.items() if ending not in _BESIDE})


def passed_over(endings: Counter[str], outputs: list[str], no_files: list[str] | None = None) -> str:
    """Both as the end of a sentence, "100 .heic (pip install pillow-heif reads them), 20 .dcm"; "" where it is nothing.

    Args:
        endings: of files that are no images.
        outputs: folders that glocal wrote.
        no_files: links that lead nowhere, pipes, devices and sockets with names of images.
    """
    named = [_with_mend(ending, count) for ending, count in endings.most_common(_MOST)]
    if len(endings) > _MOST:
        others = sum(count for _, count in endings.most_common()[_MOST:])
        named.append(f"{others:,} of {len(endings) - _MOST} more endings")
    if outputs:
        what = "folder that glocal writes" if len(outputs) == 1 else "folders that glocal writes"
        named.append(_listed(outputs, what))
    if no_files:
        named.append(_listed(no_files, "that cannot be opened: links that lead nowhere, pipes, devices"))
    return ", ".join(named)


def _listed(names: list[str], what: str) -> str:
    more = ", …" if len(names) > _MOST else ""
    return f"{len(names):,} {what} ({', '.join(sorted(names)[:_MOST])}{more})"


def _with_mend(ending: str, count: int) -> str:
    mend = f" ({_MEND[ending]})" if ending in _MEND else ""
    return f"{count:,} {ending}{mend}"
