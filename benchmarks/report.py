"""How much a report weighs and how long a browser takes until its map is there: of 300, 3,000 and 30,000 images.

    python benchmarks/report.py [--json numbers.json]

The images are drawn shapes of 64 pixels, the network is not trained: neither changes what the page is made of. Of
30,000 images 20,000 are drawn, as always above that number. Chromium runs without a window and draws by software. The
seconds up to the map are the mean of three loads of the file; those of writing are split into the map (t-SNE) and all
else.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' browser

from common import command_line, machine, print_machine, write_json

import glocal
from glocal.pages import sample
from tests.pages.browser import Browser

_SIZES = (300, 3_000, 30_000)
_LOADS = 3
_READY = "window.glocal && Bokeh.documents.length && !!Bokeh.documents[0].get_model_by_name('map-0')"
_SMALL = {"model.name": "resnet18", "model.options": {"channels": [8, 8, 8, 8]}, "train.epochs": 1}


def measured(run: Path, images: int, folder: Path) -> dict[str, Any]:
    """Bytes and seconds of one page."""
    spent = {"map": 0.0}
    project = sample.project  # type: ignore[attr-defined]

    def timed(*given: Any, **options: Any) -> Any:
        start = time.perf_counter()
        found = project(*given, **options)
        spent["map"] += time.perf_counter() - start
        return found

    start = time.perf_counter()
    with mock.patch.object(sample, "project", timed):
        page = glocal.write_report(run, folder / f"{images}.html", data=f"shapes:train:{images}", progress=False)
    written = time.perf_counter() - start
    loads = []
    for number in range(_LOADS):
        with Browser("about:blank", width=1400, height=900, folder=folder / f"chromium-{images}-{number}") as browser:
            start = time.perf_counter()
            browser.ask("Page.navigate", url=page.resolve().as_uri())
            browser.wait_for(_READY)
            loads.append(time.perf_counter() - start)
    megabytes = page.stat().st_size / 1e6
    return {"images": images, "megabytes": megabytes, "written": written, "map": spent["map"], "load": mean(loads)}


def main() -> None:
    given = command_line(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        run = glocal.pretrain(
            "shapes:train:64", folder / "run", recipe="demo-shapes", overrides={**_SMALL, "train.batch_size": 32},
            progress=False, report=False,
        )  # fmt: skip
        rows = [measured(run.folder, images, folder) for images in _SIZES]
    about = machine()
    print_machine(about)
    print("| images | MB | writing, s | of it the map, s | until the map is there, s |\n|---|---|---|---|---|")
    for row in rows:
        numbers = " | ".join(f"{row[key]:.1f}" for key in ("megabytes", "written", "map", "load"))
        print(f"| {row['images']:,} | {numbers} |")
    write_json(given.json, about, pages=rows)


if __name__ == "__main__":
    main()
