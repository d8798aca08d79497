"""How long it takes to open a folder of very many images: the first time, and again.

Makes a tree of empty files (1,000 a folder), opens it as `--data` does in processes of their own, and removes it. The
first start walks through all folders; the second reads the list that was kept and asks each folder for its time of
change; the third does so after a file was added, which makes it walk again. Memory is what opening adds to the process
after its imports. The system's own cache of names is warm, for the tree was just made: on a network the first start is
slower, and so is the question to each folder.

    python benchmarks/opening.py --images 1000000
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

from common import PeakMemory, Table, command_line, in_own_process, machine, print_machine, write_json

_A_FOLDER = 1000
_OLD = 1_577_836_800  # folders that changed in the last seconds would be walked through again


def make_tree(folder: Path, images: int) -> None:
    for first in range(0, images, _A_FOLDER):
        place = folder / f"class{first // _A_FOLDER:05d}"
        place.mkdir()
        for number in range(first, min(first + _A_FOLDER, images)):
            os.close(os.open(place / f"image_{number:09d}.jpg", os.O_CREAT | os.O_WRONLY))
        os.utime(place, (_OLD, _OLD))
    os.utime(folder, (_OLD, _OLD))


def open_once(folder: str) -> dict[str, float]:
    """Opens the folder in this process; seconds, and the bytes that it took."""
    import glocal.data.sources.folder  # noqa: F401  # else it would count as memory of its images
    from glocal.data.sources.opening import open_source
    from glocal.training.images import ImageSet

    memory = PeakMemory("cpu")
    start = time.perf_counter()
    source = open_source(folder)
    opened = time.perf_counter()
    ImageSet.of(source)  # what a checkpoint knows of them
    return {
        "images": len(source),
        "seconds": opened - start,
        "seconds_to_hash": time.perf_counter() - opened,
        "megabytes": memory.gigabytes * 1000,
    }


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the tree is made for the time; default: the system's own")
    parser.add_argument("--once", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        print(json.dumps(open_once(options.once)))
        return
    described = machine()
    print_machine(described)
    root = Path(tempfile.mkdtemp(dir=options.folder, prefix="glocal-opening-"))
    os.environ["GLOCAL_CACHE"] = str(root / "cache")
    starts = {}
    try:
        (root / "images").mkdir()
        make_tree(root / "images", options.images)
        table = Table({"": 16, "images": 11, "seconds": 9, "to hash": 9, "MB more": 9})
        for name in ("first start", "second start", "after a change"):
            if name == "after a change":
                (root / "images" / "class00000" / "new.jpg").touch()
            found = starts[name] = in_own_process(__file__, "--once", root / "images")
            numbers = (f"{found[key]:.2f}" for key in ("seconds", "seconds_to_hash"))
            table.row(name, f"{found['images']:,}", *numbers, f"{found['megabytes']:.0f}")
        kept = sum(path.stat().st_size for path in (root / "cache").rglob("*") if path.is_file())
    finally:
        shutil.rmtree(root)
    print(f"the list takes {kept / 1e6:.1f} MB on the disk")
    write_json(options.json, described, starts=starts, bytes_of_the_list=kept)


if __name__ == "__main__":
    main()
