"""The loss curve of a run, and beneath it the k-NN accuracy where that was measured (LoGo's Figure 1)."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from glocal.report.plots import draw_loss

METRICS = "step,epoch,loss,lr\n5,0.5,3.0,0.1\n10,1.0,2.0,0.2\n40,4.0,1.0,0.0\n"
MONITOR = "step,name,value\n10,knn,30.0\n20,spread,0.5\n20,knn,45.0\n40,knn,50.0\n"


def drawn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Figure:
    figures: list[Figure] = []
    real = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: figures.append(self) or real(self, *a, **k))
    draw_loss(folder)
    assert (folder / "loss.png").stat().st_size > 0
    return figures[0]


def test_the_k_nn_accuracy_is_drawn_over_the_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "metrics.csv").write_text(METRICS)
    (tmp_path / "monitor.csv").write_text(MONITOR)
    figure = drawn(tmp_path, monkeypatch)
    curves = {axes.get_ylabel(): axes.lines[0].get_xydata().tolist() for axes in figure.axes}
    assert curves["k-NN top-1, %"] == [[1.0, 30.0], [2.0, 45.0], [4.0, 50.0]]
    assert curves["loss"] == [[0.5, 3.0], [1.0, 2.0], [4.0, 1.0]]


def test_one_point_is_seen_and_nothing_covers_the_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for lines, marker in ((METRICS.splitlines()[:2], "o"), ([*METRICS.splitlines(), "50,5.0,0.9,0.0"], "")):
        (tmp_path / "metrics.csv").write_text("\n".join(lines) + "\n")
        figure = drawn(tmp_path, monkeypatch)
        assert [axes.lines[0].get_marker() for axes in figure.axes] == [marker, marker]
        assert all(tick == int(tick) for tick in figure.axes[0].get_xticks())
        [legend] = figure.legends
        around = legend.get_window_extent()
        assert not any(around.overlaps(axes.get_window_extent()) for axes in figure.axes)


def test_without_measurements_the_sheet_has_the_loss_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "metrics.csv").write_text(METRICS)
    (tmp_path / "monitor.csv").write_text("step,name,value\n20,spread,0.5\n")
    assert [axes.get_ylabel() for axes in drawn(tmp_path, monkeypatch).axes] == ["loss", "learning rate"]
