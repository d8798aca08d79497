"""The pictures of docs/concepts/ and docs/methods/: what the package does to an image that is drawn here.

    python benchmarks/page_pictures.py [NAME …] [--out docs/images]

Views, boxes, mixing and matched patches are the package's own. How each picture is drawn stands beside this file:
`page_views.py`, `page_diagrams.py` and `page_trainings.py`; the image itself is in `page_scene.py`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from page_diagrams import draw_contrast, draw_lanes, draw_prediction, draw_soft
from page_scene import scene
from page_trainings import draw_correlation, draw_resume
from page_views import draw_clim, draw_dino, draw_logo, draw_views
from PIL import Image

from glocal.report.preview import preview

DRAWN: dict[str, Callable[[], Any]] = {
    "concept-views": draw_views,
    "concept-lanes": draw_lanes,
    "concept-resume": draw_resume,
    "method-global-local": draw_logo,
    "method-neighbours": draw_clim,
    "method-soft": draw_soft,
    "method-contrast": draw_contrast,
    "method-prediction": draw_prediction,
    "method-distillation": draw_dino,
    "method-decorrelation": draw_correlation,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*DRAWN, "match", []], metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    arguments = parser.parse_args()
    for name in arguments.names or [*DRAWN, "match"]:
        path = arguments.out / f"{name}.png"
        if name == "match":
            with tempfile.TemporaryDirectory() as folder:
                scene().save(Path(folder) / "scene.png")
                preview(Path(folder) / "scene.png", path, match=(0, 1), overrides={"seed": 5})
        else:
            figure = DRAWN[name]()
            figure.savefig(path, dpi=100, metadata={"Software": None})
            pyplot.close(figure)
        picture = Image.open(path).convert("RGB")
        picture = picture.resize((min(picture.width, 960), picture.height * min(picture.width, 960) // picture.width))
        picture.quantize(colors=256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG).save(
            path, optimize=True
        )
        print(f"{path}: {path.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main()
