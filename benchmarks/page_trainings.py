"""The pictures for which something is trained: one layer on random numbers, for the correlations of Barlow Twins, and a
run that is killed and goes on. That run is a real one: two trainings of half a minute, of which one is killed.
"""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot
from page_scene import COLOURS, INK

from glocal.losses import barlow_twins


def draw_correlation() -> Any:
    """Barlow Twins on a toy: the correlations between the dimensions of two views, before and after 300 steps."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(512, 16, generator=generator)
    spread = torch.randn(16, 24, generator=generator)
    first, second = (hidden @ spread + 2.0 * torch.randn(512, 24, generator=generator) for _ in range(2))
    layer = torch.nn.Linear(24, 16, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.rand(16, 24, generator=generator))
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)

    def correlation() -> np.ndarray:
        with torch.no_grad():
            sides = [layer(side) for side in (first, second)]
            sides = [(side - side.mean(0)) / side.std(0) for side in sides]
            return (sides[0].T @ sides[1] / len(first)).numpy()

    before = correlation()
    for _ in range(300):
        optimizer.zero_grad()
        barlow_twins(layer(first), layer(second), coefficient=0.05).backward()
        optimizer.step()
    figure, axes = pyplot.subplots(1, 2, figsize=(7.2, 3.0), layout="constrained")
    for place, matrix, title in zip(axes, (before, correlation()), ("before", "after 300 steps"), strict=True):
        drawn = place.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
        place.set_title(title, fontsize=9, color=INK)
        place.set_xlabel("dimensions of the second view", fontsize=8)
        place.tick_params(labelsize=7)
    axes[0].set_ylabel("dimensions of the first view", fontsize=8)
    figure.colorbar(drawn, ax=axes, shrink=0.85).ax.tick_params(labelsize=7)
    return figure


def draw_resume() -> Any:
    """The loss of a run, and of the same run that was killed and continued."""
    settings = {
        "train.epochs": 6,
        "train.batch_size": 32,
        "train.log_steps": 1,
        "train.checkpoint_steps": 20,
        "monitor.knn_epochs": 0,
        "method.name": "simclr",
    }
    command = [
        sys.executable,
        "-m",
        "glocal",
        "pretrain",
        "--data",
        "shapes:train:480",
        "--recipe",
        "demo-shapes",
        "--no-report",
    ]
    command += [f"--set={key}={value}" for key, value in settings.items()]
    quiet: dict[str, Any] = {
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
        "env": {**os.environ, "OMP_NUM_THREADS": "1"},
    }
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        subprocess.run([*command, "--out", str(whole)], check=True, **quiet)
        process = subprocess.Popen([*command, "--out", str(killed)], **quiet)
        while len(_losses(killed)) < 45:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        cut = _losses(killed)
        subprocess.run([*command, "--out", str(killed)], check=True, **quiet)
        once, again = _losses(whole), _losses(killed)
        weights = [sorted((run / "checkpoints").glob("*"))[-1].name for run in (whole, killed)]
    assert once == again, f"the losses differ: {weights}"
    figure, axes = pyplot.subplots(figsize=(9.6, 2.9), layout="constrained")
    axes.plot(list(once), list(once.values()), color=COLOURS[0], linewidth=5, alpha=0.35, label="never stopped")
    axes.plot(list(again), list(again.values()), color=COLOURS[1], linewidth=1.2, label="killed and continued")
    axes.axvline(max(cut), color=INK, linestyle=":")
    axes.axvline(max(step for step in once if step % 20 == 0 and step <= max(cut)), color=INK, linestyle="--")
    axes.text(
        max(cut) + 1,
        max(once.values()),
        "killed at the dotted line; goes on from\nthe checkpoint at the dashed line",
        fontsize=8,
        va="top",
    )
    axes.set_xlabel("step", fontsize=9)
    axes.set_ylabel("loss", fontsize=9)
    axes.legend(fontsize=8, frameon=False, loc="upper right")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _losses(run: Path) -> dict[int, float]:
    """The loss of each step in a run's metrics.csv."""
    try:
        with (run / "metrics.csv").open(encoding="utf-8") as file:
            return {int(row["step"]): float(row["loss"]) for row in csv.DictReader(file) if row["loss"]}
    except (OSError, ValueError, TypeError, KeyError):
        return {}
