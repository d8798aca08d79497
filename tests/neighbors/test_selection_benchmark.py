"""What benchmarks/selection.py counts, against plain sums."""

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def selection(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return pytest.importorskip("selection")


def test_operations_are_counted_as_they_are_done(selection: Any) -> None:
    features = selection.features_of("broad", 600, 10)
    row = selection.select(features, 10, selection.Clock("cpu"))
    assert row["neighbours flop"] == 2 * 128 * 600 * 600  # so few are searched by brute force
    assert row["clustering flop"] == 2 * 128 * 600 * 10 * row["passes"]
    assert 1 < row["passes"] <= 21


def test_growth_is_the_exponent(selection: Any) -> None:
    assert selection.growth([1.0, 2.0, 4.0], [3.0, 12.0, 48.0]) == pytest.approx(2.0)


def test_the_estimate_adds_products_and_traffic(selection: Any) -> None:
    count = selection.full_count(selection.FULL_IMAGES, selection.FULL_CLUSTERS, selection.K)
    speed = {"clustering": 1e12, "neighbours": 1e13}
    seconds = selection.estimate({"clustering": 0.5, "neighbours": 0.25}, speed, 1e12)
    assert count["clustering"]["flop"] == 21 * 10_000 * 1_281_167 * 256
    assert seconds["clustering"] == pytest.approx(21 * 1_281_167 * (2_560_000 / 0.5e12 + (1024 + 80_000) / 1e12))
    assert seconds["choice"] == pytest.approx(count["choice"]["bytes"] / 1e12)
    memory = [selection.full_memory(images, 100, 40, 10, gpu=True) for images in (10**6, 2 * 10**6)]
    assert sum(memory[1].values()) < 2 * sum(memory[0].values())
