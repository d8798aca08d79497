"""The page of results says what the files hold, and what they lack."""

import json
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from glocal.reproduction.studies import chosen_rows, open_study

ROOT = Path(__file__).parents[2]


@pytest.fixture
def results_page(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import results_page

    return results_page


def row(label: str, numbers: list[float], **more: Any) -> dict[str, Any]:
    runs = [
        {"seed": i, "epochs": 5, "views": 10_000, "cpu_minutes": 20, "values": {"linear": n}}
        for i, n in enumerate(numbers)
    ]
    return {"label": label, "results": {"time": {"runs": runs}}, **more}


def test_numbers_are_computed_and_what_is_missing_is_said(tmp_path: Path, results_page: Any) -> None:
    failed = {"seed": 3, "error": "out of memory"}
    rows = [row("A", [60, 61, 62]), row("B", [58, 59, 60], published={"linear": 70.5}), row("C", [50, 50, 50])]
    rows[2]["results"]["time"]["runs"].append(failed)
    rows[2]["results"]["time"]["runs"][0]["cpu_minutes"] = 50  # on another machine: the median does not change
    for run, accuracy in zip(rows[0]["results"]["time"]["runs"], [(40, 43, 41), (39, 42, 41)], strict=False):
        run["curve"] = [[epoch, 4.0 * epoch, value] for epoch, value in enumerate(accuracy, 1)]
    file = {
        **{"table": "t", "title": "A study", "command": "glocal reproduce t", "date": "2030-01-01", "rows": rows},
        **{"machine": {"cores": 2}, "budget": {"network": "resnet18", "images": 5000}, "heading": ["budget small"]},
        **{"metrics": {"linear": "linear"}, "references": {"untrained": {"linear": 30.04}}},
        "comparisons": [{"what": "A over B", "row": "A", "over": "B"}],
    }
    (tmp_path / "t.json").write_text(json.dumps(file))
    found = results_page.page(tmp_path)
    assert "\n5,000 of its own images; network resnet18:\n" in found
    assert "| 20 | **A** 61.0 ± 1.0 in 20.0 min; then B 59.0 ± 1.0 in 20.0 min (not told apart) |" in found
    assert "\n2030-01-01 · cores 2\n" in found
    assert "up to 2.5 times as long with one seed as with another: C (A study)." in found
    assert "| C | 0, 1, 2 | 5 | 10 | 20.0 |" in found
    same = {**file, "table": "u", "title": "Another study", "comparisons": [], "rows": [row("D", [70, 71, 72])]}
    (tmp_path / "u.json").write_text(json.dumps(same))
    elsewhere = {**same, "table": "v", "command": "glocal reproduce v --data shapes"}
    elsewhere["rows"] = [row("D", [70, 71, 72]), row("E", [60, 61, 62])]
    elsewhere["rows"] += [row("F", [80, 81, 82], network="a larger one")]  # nothing stands beside it
    (tmp_path / "v.json").write_text(json.dumps(elsewhere))
    found = results_page.page(tmp_path)
    assert "\n5,000 of shapes; network resnet18:\n" in found  # other images are another question
    assert "**F**" not in found
    assert "| 20 | **D** 71.0 ± 1.0 in 20.0 min; then A 61.0 ± 1.0 in 20.0 min |" in found
    assert "**A**" not in found  # of two tables the best row
    assert "| B | linear | 70.5 | 59.0 ± 1.0 | equal CPU time |" in found
    assert "| A over B | +2.0 (2.4) |" in found  # 2 / sqrt(2 / 3)
    assert "| *untrained* | – | – | – | – | 30.0 | – |" in found
    assert "| A | 0, 1, 2 | 5 | 10 | 20.0 | 61.0 ± 1.0 | 41.0, 42.5 |" in found  # the mean of the two that looked
    assert "| B | 0, 1, 2 | 5 | 10 | 20.0 | 59.0 ± 1.0 | – |" in found
    assert "- C, seed 3, failed: out of memory." in found


def test_a_row_stands_in_the_tables_in_which_it_was_measured(tmp_path: Path, results_page: Any) -> None:
    both, never = row("both", [60, 61, 62]), {"label": "never", "results": {}}
    both["results"]["views"] = row("", [50, 51, 52])["results"]["time"]
    file = {
        **{"table": "t", "title": "A study", "command": "glocal reproduce t", "metrics": {"linear": "linear"}},
        **{"rows": [both, row("in time", [58, 59, 60]), never]},
        "comparisons": [{"what": "a difference", "row": "both", "over": "in time"}],
    }
    (tmp_path / "t.json").write_text(json.dumps(file))
    found = results_page.page(tmp_path)
    views, _, time = found.partition("With equal CPU time")
    assert "| both | 0, 1, 2 |" in views
    assert "| both | 0, 1, 2 |" in time
    assert "| in time |" not in views.partition("With equal image views")[2]
    assert "| in time | 0, 1, 2 |" in time
    assert found.count("| never |") == 1
    assert found.count("| a difference | equal CPU time |") == found.count("| a difference |") == 1


def test_curves_become_a_picture(tmp_path: Path, results_page: Any) -> None:
    rows = [row("A", [60])]
    rows[0]["results"]["time"]["runs"][0]["curve"] = [[1, 4.0, 30.0], [2, 8.0, 35.0]]
    file = {"table": "t", "title": "T", "command": "c", "rows": rows, "metrics": {"linear": "linear"}}
    (tmp_path / "t.json").write_text(json.dumps(file))
    assert "](images/results-t.png)" in results_page.page(tmp_path, tmp_path / "images")
    assert (tmp_path / "images" / "results-t.png").read_bytes().startswith(b"\x89PNG")


def test_a_row_that_is_not_told_apart_from_the_best_is_named_so_and_tuning_is_no_answer(
    tmp_path: Path, results_page: Any
) -> None:
    rows = [row("A", [60, 61, 62]), row("B", [59.5, 60.5, 60.5]), row("C", [50, 50, 51])]
    file = {"table": "t", "title": "T", "command": "c", "rows": rows, "metrics": {"linear": "linear"}}
    (tmp_path / "t.json").write_text(json.dumps(file))
    found = results_page.page(tmp_path)
    assert "| **A** 61.0 ± 1.0 in 20.0 min; then B 60.2 ± 0.6 in 20.0 min (not told apart) |" in found
    (tmp_path / "t.json").write_text(json.dumps({**file, "command": "c --held-out 5"}))
    assert "**A**" not in results_page.page(tmp_path)


def test_more_minutes_have_a_line_of_their_own_and_changed_methods_are_no_answer(
    tmp_path: Path, results_page: Any
) -> None:
    rows = [row("A", [60]), row("B", [50]), row("changed", [70], settings={"method.temperature": 0.1})]
    rows[1]["results"]["time"]["runs"][0]["cpu_minutes"] = 1.5
    file = {"table": "t", "title": "T", "command": "c", "rows": rows, "metrics": {"linear": "linear"}}
    (tmp_path / "t.json").write_text(json.dumps(file))
    found = results_page.page(tmp_path)
    assert "| 2 | **B** 50.0 (one seed) in 1.5 min |" in found
    assert "| 20 | **A** 60.0 (one seed) in 20.0 min; then B 50.0 (one seed) in 1.5 min (not told apart) |" in found
    assert "\n| 60 |" not in found
    others = [rows[2], row("other", [65], settings={"method.name": "other"})]
    (tmp_path / "t.json").write_text(json.dumps({**file, "rows": others}))  # where there are no others, they are
    assert "**changed** 70.0" in results_page.page(tmp_path)
    (tmp_path / "t.json").write_text(json.dumps({**file, "rows": rows[2:]}))
    assert "**changed**" not in results_page.page(tmp_path)  # one method leaves no choice


def test_a_method_that_is_replaced_as_a_whole_section_is_another_one(results_page: Any) -> None:
    rows = [
        row("DINO", [50], recipe="sce-cifar10", settings={"method.name": "dino"}),
        row("A", [60], recipe="sce-cifar10", settings={"method": {"name": "glocal"}}),
    ]
    file = {"table": "t", "title": "T", "command": "c", "rows": rows, "metrics": {"linear": "linear"}}
    assert results_page.of_recipes([file]) == ""  # print is of the recipe's own method
    assert "**A** 60.0 (one seed) in 20.0 min; then DINO 50.0" in results_page.best([file])
    of_a = {**file, "rows": [row("A", [40], recipe="a")]}  # elsewhere a method of that name
    of_a["rows"][0]["network"] = "another"
    assert "then DINO 50.0" in results_page.best([file, of_a])


def test_the_next_one_is_another_method_and_not_other_settings(tmp_path: Path, results_page: Any) -> None:
    settings = {"optimizer.lr": 0.1}
    rows = [row("A", [60]), row("A, slowly", [59], settings=settings, recipe="a"), row("B", [50], recipe="b")]
    rows[0]["recipe"] = "a"
    file = {"table": "t", "title": "T", "command": "c", "rows": rows, "metrics": {"linear": "linear"}}
    first = results_page.best([file])
    assert "**A** 60.0 (one seed) in 20.0 min; then B 50.0" in first
    more = row("A, slowly", [59, 59.5], settings=settings, recipe="a")  # what was better once may be chance
    first = results_page.best([{**file, "rows": [rows[0], more, rows[2]]}])
    assert "**A, slowly** 59.2 ± 0.4 (two seeds) in 20.0 min; then B 50.0 (one seed)" in first


def test_runs_of_other_days_and_machines_are_named(tmp_path: Path, results_page: Any) -> None:
    rows = [row("A", [60, 61])]
    rows[0]["results"]["time"]["runs"][1] |= {"date": "2030-02-01", "machine": {"cpu": "new"}}
    file = {"table": "t", "title": "T", "command": "c", "rows": rows, "metrics": {"linear": "linear"}}
    file |= {"date": "2030-01-01", "machine": {"cpu": "old", "jobs": 2}}
    (tmp_path / "t.json").write_text(json.dumps(file))
    assert "2030-01-01 to 2030-02-01 · cpu old · cpu new" in results_page.page(tmp_path)


def test_a_difference_stands_beside_that_in_print(tmp_path: Path, results_page: Any) -> None:
    one = {"what": "LoGo", "row": "A", "over": "B", "printed": ["logo/2/MoCo-LoGo", "logo/2/MoCo"]}
    file = {"table": "t", "title": "T", "command": "c", "rows": [row("A", [60]), row("B", [50])]}
    comparisons = [one, {"what": "the other way", "row": "B", "over": "A"}]
    (tmp_path / "t.json").write_text(json.dumps({**file, "metrics": {"linear": "linear"}, "comparisons": comparisons}))
    found = results_page.page(tmp_path)
    assert "| difference | linear | in print |" in found
    assert "(one seed) | k-NN +12.6, linear top-1 +10.8 (logo/2) |" in found
    assert "(one seed) | – |" in found


def test_a_table_that_was_measured_in_several_calls_is_one(tmp_path: Path, results_page: Any) -> None:
    def part(name: str, command: str, rows: list[dict[str, Any]]) -> None:
        file = {"table": "t", "title": "T", "command": command, "rows": rows, "metrics": {"linear": "linear"}}
        file["heading"] = ["budget small", f"scaled in {command}"]
        (tmp_path / f"{name}.json").write_text(json.dumps(file))

    later = row("A", [0, 62])
    later["results"]["time"]["runs"].pop(0)
    part("t-1", "c --seeds 1", [row("A", [60]), row("B", [50])])
    part("t-2", "c --seeds 2", [later, row("C", [40])])
    found = results_page.page(tmp_path)
    assert "    c --seeds 1\n    c --seeds 2\n" in found
    assert "- budget small\n- scaled in c --seeds 1\n- scaled in c --seeds 2\n" in found
    assert "| A | 0, 1 | 5 | 10 | 20.0 | 61.0 ± 1.4 (two seeds) |" in found
    assert "| C | 0 | 5 |" in found
    whole = json.loads((tmp_path / "t-1.json").read_text())
    (tmp_path / "t-4.json").write_text(json.dumps({**whole, "title": "Larger", "budget": {"name": "medium"}}))
    assert "## Larger" in results_page.page(tmp_path)  # another budget is another table
    part("t-3", "c", [row("A", [1])])
    with pytest.raises(SystemExit, match="t: seed 0 of 'A' is in two files"):
        results_page.page(tmp_path)


def test_files_that_are_not_of_a_table_and_rows_that_are_not_there_are_named(tmp_path: Path, results_page: Any) -> None:
    place = tmp_path / "t.json"
    place.write_text("{")
    with pytest.raises(SystemExit, match=r"t\.json is no JSON"):
        results_page.page(tmp_path)
    place.write_text('{"rows": []}')
    with pytest.raises(SystemExit, match=r"t\.json is not what `glocal reproduce` writes: it has no command, metrics"):
        results_page.page(tmp_path)
    comparisons = [{"what": "A over B", "row": "A", "over": "B"}]
    file = {"table": "t", "title": "T", "command": "c", "rows": [row("A", [1])], "metrics": {"linear": "linear"}}
    place.write_text(json.dumps({**file, "comparisons": comparisons}))
    with pytest.raises(SystemExit, match="t: a comparison names the row 'B'"):
        results_page.page(tmp_path)


def test_without_results_it_says_so(tmp_path: Path, results_page: Any) -> None:
    assert "Nothing has been measured yet." in results_page.page(tmp_path)


def test_the_committed_page_is_that_of_the_files(results_page: Any) -> None:
    committed, results = ROOT / "docs" / "results.md", ROOT / "benchmarks" / "results"
    if not committed.exists():
        assert not list(results.glob("*.json")), "run benchmarks/results_page.py"
        return
    assert committed.read_text(encoding="utf-8") == results_page.page(results)


def test_every_printed_command_names_rows_that_its_table_has() -> None:
    for file in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        for command in found.get("commands") or [found["command"]]:
            _, _, table, *options = shlex.split(command)
            rows = [value for option, value in pairwise(options) if option == "--rows"]
            study = ROOT / table
            chosen_rows(
                open_study(study if study.exists() else table).table, rows
            )  # a pattern without a row is an error


@pytest.mark.parametrize(
    ("views", "minutes", "said"),
    [
        ((200, 200), (1.7, 1.8), ", which is equal image views and about equal CPU time too"),
        ((200, 200), (1.7, 3.0), ", which is equal image views too"),
        ((200, 400), (1.7, 1.7), ", which is about equal CPU time too"),
        ((200, 400), (1.7, 3.0), ""),
        ((200, 200), (1.7, None), ", which is equal image views too"),
    ],
)
def test_what_rows_of_equal_epochs_have_alike_too_is_said(
    results_page: Any, views: tuple[int, int], minutes: tuple[float, float | None], said: str
) -> None:
    rows = [row("A", [60, 61]), row("B", [58, 59])]
    for one, its, spent in zip(rows, views, minutes, strict=True):
        one["results"] = {"epochs": one["results"]["time"]}
        for run in one["results"]["epochs"]["runs"]:
            run.update(views=its, cpu_minutes=spent)
    assert results_page.also({"rows": rows}, ["epochs"]) == said
    assert results_page.also({"rows": rows}, ["epochs", "views"]) == ""
