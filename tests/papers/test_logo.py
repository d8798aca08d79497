"""LoGo's tables against what the package does."""

from importlib import resources
from typing import Any

import pytest
import yaml

from glocal.data.annotated.transfer_sets import BENCHMARKS

TABLES: dict[str, dict[str, Any]] = {
    table["id"]: table
    for table in yaml.safe_load(resources.files("glocal").joinpath("papers/logo.yaml").read_text(encoding="utf-8"))[
        "tables"
    ]
}
NAMES = {"Food": "food101", "Caltech101": "caltech101", "DTD (split 1)": "dtd"}


@pytest.mark.parametrize("row", TABLES["1"]["rows"], ids=lambda row: str(row["label"]))
def test_the_transfer_sets_are_split_as_printed(row: dict[str, Any]) -> None:
    benchmark = BENCHMARKS[NAMES.get(row["label"], row["label"].lower())]  # type: ignore[index]
    values = row["values"]
    assert (values["training"], values["validation"], values["test"]) == benchmark.sizes
    assert values["classes"] == benchmark.classes


def test_transfer_is_measured_as_printed() -> None:
    """The mean over classes where Table 1 says MPC."""
    metrics = TABLES["5"]["metrics"]
    assert {name: metric["result"] for name, metric in metrics.items()} == {
        name: benchmark.metric for name, benchmark in BENCHMARKS.items()
    }
