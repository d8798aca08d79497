"""The demonstration: a backbone learns the embedded shapes without their labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from glocal.evaluation import Extractor, RawPixels, evaluate
from glocal.models.backbone import Backbone
from glocal.training.run import Run, build_method, pretrain

TRAIN, TEST, K = "shapes", "shapes:test", 20


def run_demo(out: Path, *, progress: bool = True) -> Table:
    """Pretrains by the recipe `demo-shapes` and compares k-NN accuracies on the shapes' test split.

    Args:
        out: the run's folder; a finished run in it is measured again.
        progress: show progress bars.

    Returns:
        A table with the accuracy of raw pixels, of the untrained and of the pretrained backbone.
    """
    run = pretrain(None, out, recipe="demo-shapes", progress=progress)
    table = Table(title=f"k-NN accuracy (k={K}) on {TEST}, 8 classes", title_justify="left")
    table.add_column("features")
    table.add_column("top-1 %", justify="right")
    for name, backbone in (
        ("raw pixels", RawPixels(32)),
        ("untrained backbone", untrained_backbone(run)),
        ("pretrained backbone", run.backbone()),
    ):
        table.add_row(name, f"{knn_accuracy(backbone, out=run.folder / 'evaluation' / name.split()[0]):.1f}")
    return table


def untrained_backbone(run: Run) -> Backbone:
    """The run's backbone as it was before the first step."""
    torch.manual_seed(run.recipe.seed)
    return build_method(run.recipe).backbone


def knn_accuracy(backbone: Extractor, *, out: Path | None = None) -> float:
    """Top-1 accuracy in percent of a weighted k-NN on the shapes' test split."""
    found: dict[str, Any] = evaluate(
        backbone, train=TRAIN, test=TEST, protocols=["knn"], k=[K], out=out, progress=False
    )
    return float(found["protocols"]["knn"]["results"][0]["metrics"]["top1"])
