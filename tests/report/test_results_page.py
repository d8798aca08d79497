"""The page of results says what the files hold, and what they lack."""

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def results_page(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import results_page

    return results_page


def row(label: str, numbers: list[float], **more: Any) -> dict[str, Any]:
    runs = [{"seed": i, "epochs": 5, "cpu_minutes": 20, "values": {"linear": n}} for i, n in enumerate(numbers)]
    return {"label": label, "results": {"time": {"runs": runs}}, **more}


def test_numbers_are_computed_and_what_is_missing_is_said(tmp_path: Path, results_page: Any) -> None:
    failed = {"seed": 3, "error": "out of memory"}
    rows = [row("A", [60, 61, 62]), row("B", [58, 59, 60], published={"linear": 70.5}), row("C", [50, 50, 50])]
    rows[2]["results"]["time"]["runs"].append(failed)
    file = {
        **{"table": "t", "title": "A study", "command": "glocal reproduce t", "date": "2030-01-01", "rows": rows},
        **{"machine": {"cores": 2}, "budget": {"network": "resnet18", "images": 5000, "minutes": 20}},
        **{"metrics": {"linear": "linear"}, "references": {"untrained": {"linear": 30.04}}},
        "comparisons": [{"what": "A over B", "row": "A", "over": "B"}],
    }
    (tmp_path / "t.json").write_text(json.dumps(file))
    found = results_page.page(tmp_path)
    assert "| resnet18 | 5000 | 20 | equal CPU time | linear | A (t) | 61.0 ± 1.0 | B (t) |" in found
    assert "| B | linear | 70.5 | 59.0 ± 1.0 | equal CPU time |" in found
    assert "+2.0 linear (three seeds, difference is 2.4 times its standard error)" in found  # 2 / sqrt(2 / 3)
    assert "| reference: untrained | – | – | – | 30.0 |" in found
    assert "Missing: C, seed 3: out of memory." in found


def test_curves_become_a_picture(tmp_path: Path, results_page: Any) -> None:
    rows = [row("A", [60])]
    rows[0]["results"]["time"]["runs"][0]["curve"] = [[1, 4.0, 30.0], [2, 8.0, 35.0]]
    file = {"table": "t", "title": "T", "command": "c", "rows": rows, "metrics": {"linear": "linear"}}
    (tmp_path / "t.json").write_text(json.dumps(file))
    assert "](images/results-t.png)" in results_page.page(tmp_path, tmp_path / "images")
    assert (tmp_path / "images" / "results-t.png").read_bytes().startswith(b"\x89PNG")


def test_without_results_it_says_so(tmp_path: Path, results_page: Any) -> None:
    assert "Nothing has been measured yet." in results_page.page(tmp_path)


def test_the_committed_page_is_that_of_the_files(results_page: Any) -> None:
    committed, results = ROOT / "docs" / "results.md", ROOT / "benchmarks" / "results"
    if not committed.exists():
        assert not list(results.glob("*.json")), "run benchmarks/results_page.py"
        return
    assert committed.read_text(encoding="utf-8") == results_page.page(results)
