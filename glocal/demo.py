"""The demonstration: a backbone learns the embedded shapes without their labels."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from glocal.evaluation import evaluate
from glocal.pages.making import write_report
from glocal.training.run import pretrain

TRAIN, TEST, K = "shapes", "shapes:test", 20
_IMAGES = 2_000  # of the map in the report


def run_demo(out: Path, *, progress: bool = True) -> Table:
    """Pretrains by the recipe `glocal-shapes`, compares k-NN accuracies on the shapes' test split, writes a report.

    Args:
        out: the run's folder; a finished run in it is measured again.
        progress: show progress bars.

    Returns:
        A table with the accuracy of raw pixels, of the untrained and of the pretrained backbone.
    """
    run = pretrain(None, out, recipe="glocal-shapes", progress=progress, report=False)
    table = Table(title=f"k-NN accuracy (k={K}) on {TEST}, 8 classes", title_justify="left")
    table.add_column("features")
    table.add_column("top-1 %", justify="right")
    for name, backbone, place in (
        ("raw pixels", "pixels", "evaluation/pixels"),
        ("untrained backbone", f"untrained:{run.folder}", "evaluation/untrained"),
        ("pretrained backbone", run.folder, "evaluation"),  # where the report looks for it
    ):
        found = evaluate(
            backbone, train=TRAIN, test=TEST, protocols=["knn"], k=[K], out=run.folder / place, progress=False
        )
        table.add_row(name, f"{found['protocols']['knn']['results'][0]['metrics']['top1']:.1f}")
    write_report(run.folder, run.folder / "report.html", images=_IMAGES, progress=False)
    return table
