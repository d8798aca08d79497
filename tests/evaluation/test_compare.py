"""Comparisons: what is lined up, what is not, and what a reader is told."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from glocal.errors import GlocalError
from glocal.evaluation import evaluate
from glocal.evaluation.compare import Comparison, compare, markdown, table
from glocal.evaluation.features.extraction import RawPixels
from glocal.report import compare_plot

Entries = list[tuple[str, dict[str, float | None]]]


def run(
    place: Path,
    protocols: dict[str, Entries],
    *,
    published: str | None = None,
    images: tuple[str, int] = ("shapes:train → x", 800),
    settings: dict[str, Any] | None = None,
) -> Path:
    """A run's folder with an evaluation; a folder with an evaluation alone where nothing is published."""
    folder = place / "evaluation" if published is not None else place
    folder.mkdir(parents=True)
    if published is not None:
        (place / "recipe.yaml").write_text(yaml.safe_dump({"reproduces": "a table", "published": published}))
    found = {
        name: {
            "train": {"name": "train", "images": 100, "skipped": []},
            "test": {"name": images[0], "images": images[1], "skipped": []},
            "settings": settings or {},
            "results": [{"setting": setting, "metrics": metrics} for setting, metrics in entries],
        }
        for name, entries in protocols.items()
    }
    result = {"backbone": f"backbone of {place.name}", "fingerprint": place.name, "protocols": found}
    (folder / "evaluation.json").write_text(json.dumps(result))
    return place


def rows(comparison: Comparison) -> dict[tuple[str, str, str], tuple[float | None, ...]]:
    return {(row.protocol, row.setting, row.metric): row.values for row in comparison.rows}


def printed(comparison: Comparison) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(comparison))
    return console.export_text()


def test_what_each_run_chose_for_itself_does_not_keep_rows_apart(tmp_path: Path) -> None:
    first = run(
        tmp_path / "a",
        {
            "linear": [("features, lr=0.1 (of 6, chosen on 10% of train)", {"top1": 70.0})],
            "logistic": [("L-BFGS, C=1", {"top1": 71.0})],
            "transfer": [("food101: C=0.31, stopped at 50 iterations", {"top1": 50.0})],
            "svm": [("k=16 per class, 5 samples, C=0.5", {"mAP": 40.0, "mAP_std": 0.5})],
        },
    )
    second = run(
        tmp_path / "b",
        {
            "linear": [("features, lr=0.3 (of 6, chosen on 10% of train)", {"top1": 72.0})],
            "logistic": [("L-BFGS, C=1e-05", {"top1": 69.0})],
            "transfer": [("food101: C=2", {"top1": 51.0})],
            "svm": [("k=16 per class, 5 samples, C=0.25", {"mAP": 41.0, "mAP_std": 0.25})],
        },
    )
    found = compare([first, second])
    assert rows(found) == {
        ("linear", "features (of 6, chosen on 10% of train)", "top1"): (70, 72),
        ("logistic", "L-BFGS", "top1"): (71, 69),
        ("transfer", "food101", "top1"): (50, 51),
        ("svm", "k=16 per class, 5 samples", "mAP"): (40, 41),
    }
    assert found.rows[1].chosen == ("L-BFGS, C=1", "L-BFGS, C=1e-05")
    assert found.rows[3].deviations == (0.5, 0.25)
    assert [row.best for row in found.rows] == [(1,), (0,), (1,), (1,)]


def test_settings_that_one_run_has_several_of_are_kept_whole(tmp_path: Path) -> None:
    entries: Entries = [("SGD, lr=0.1", {"top1": 60.0}), ("SGD, lr=0.3", {"top1": 61.0})]
    both = run(tmp_path / "a", {"linear": entries})
    found = compare([both, run(tmp_path / "b", {"linear": entries})])
    assert rows(found) == {("linear", "SGD, lr=0.1", "top1"): (60, 60), ("linear", "SGD, lr=0.3", "top1"): (61, 61)}


def test_numbers_of_neighbours_are_no_choice(tmp_path: Path) -> None:
    first = run(tmp_path / "a", {"knn": [("k=10", {"top1": 1.0}), ("k=20", {"top1": 2.0})]})
    second = run(tmp_path / "b", {"knn": [("k=20", {"top1": 3.0}), ("k=20, unweighted", {"top1": 4.0})]})
    assert rows(compare([first, second])) == {
        ("knn", "k=10", "top1"): (1, None),
        ("knn", "k=20", "top1"): (2, 3),
        ("knn", "k=20, unweighted", "top1"): (None, 4),
    }


def test_the_best_is_bold_where_more_is_better(tmp_path: Path) -> None:
    entries: Entries = [("all images", {"uniformity": -2.0, "mAP": 50.0, "AP50": 60.0, "top1": 5.0})]
    other: Entries = [("all images", {"uniformity": -1.0, "mAP": 50.001, "AP50": 59.0})]
    found = compare([run(tmp_path / "a", {"structure": entries}), run(tmp_path / "b", {"structure": other})])
    assert {row.metric: row.best for row in found.rows} == {
        "uniformity": (),
        "mAP": (0, 1),  # as they are printed, they are equal
        "AP50": (0,),
        "top1": (),
    }
    text = markdown(found)
    assert "| **60.00** | 59.00 |" in text
    assert "| -2.0000 | -1.0000 |" in text
    assert "| 5.00 | – |" in text


def test_published_numbers_stand_below(tmp_path: Path) -> None:
    entries: dict[str, Entries] = {"knn": [("k=20", {"top1": 2.0})]}
    folders = [
        run(tmp_path / "a", entries, published="90.34 % linear | top-1"),
        run(tmp_path / "b", entries, published=""),
        run(tmp_path / "c", entries),
    ]
    found = compare(folders)
    assert [each.name for each in found.runs] == ["a", "b", "backbone of c"]
    assert found.runs[0].reproduces == "a table"
    assert "90.34 % linear | top-1" in printed(found).splitlines()[-2]
    assert markdown(found).splitlines()[-1] == "|  | published |  |  | 90.34 % linear \\| top-1 | – | – |"
    assert "published" not in markdown(compare(folders[1:]))
    assert compare([tmp_path / "a" / "evaluation"]).runs[0].published == "90.34 % linear | top-1"
    assert compare([tmp_path / "a" / "evaluation" / "evaluation.json"]).runs[0].name == "a"


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    entries: dict[str, Entries] = {"knn": [("k=20", {"top1": 2.0})]}
    folders = [run(tmp_path / place / "x", entries, published="") for place in ("one", "two")]
    assert [each.name for each in compare(folders).runs] == [str(folder) for folder in folders]
    assert len({each.name for each in compare([folders[0], folders[0]]).runs}) == 2


def test_differences_that_are_not_the_backbones_are_noted(tmp_path: Path) -> None:
    entries: dict[str, Entries] = {"knn": [("k=20", {"top1": 2.0})]}
    first = run(tmp_path / "a", entries, settings={"temperature": 0.07, "seed": 0, "data": "here"})
    warm = run(tmp_path / "b", entries, settings={"temperature": 0.1, "seed": 0, "data": "there"})
    fewer = run(tmp_path / "c", entries, images=("shapes:train → x", 799), settings={"temperature": 0.07, "seed": 0})
    other = run(tmp_path / "d", entries, images=("another", 800), settings={"temperature": 0.07, "seed": 0})
    assert compare([first, warm]).notes == ("knn.temperature differs: backbone of a: 0.07, backbone of b: 0.1",)
    assert "different numbers of images: backbone of a: 100 and 800, backbone of c: 100 and 799" in " ".join(
        compare([first, fewer]).notes
    )
    found = compare([first, other])
    assert found.notes == ("measured on different images, which have rows of their own: knn",)
    assert [row.values for row in found.rows] == [(2, None), (None, 2)]
    assert found.notes[0] in markdown(found)
    assert compare([first]).notes == ()


def test_files_hold_every_number(tmp_path: Path) -> None:
    folders = [
        run(tmp_path / "a", {"knn": [("k=20", {"top1": 2.0})]}, published="3 %"),
        run(tmp_path / "b", {"svm": [("all", {"mAP": 4.0, "mAP_std": 0.5})], "structure": [("x", {"rank": 3.0})]}),
    ]
    found = compare(folders, tmp_path / "deep" / "out")
    lines = list(csv.DictReader((tmp_path / "deep" / "out" / "compare.csv").open()))
    assert [(line["run"], line["metric"], line["value"], line["deviation"]) for line in lines] == [
        ("a", "top1", "2.0", ""),
        ("backbone of b", "mAP", "4.0", "0.5"),
        ("backbone of b", "rank", "3.0", ""),
    ]
    kept = json.loads((tmp_path / "deep" / "out" / "compare.json").read_text())
    assert [row["values"] for row in kept["rows"]] == [[2.0, None], [None, 4.0], [None, 3.0]]
    assert kept["runs"][0]["published"] == "3 %"
    assert (tmp_path / "deep" / "out" / "compare.md").read_text() == markdown(found)
    assert "4.00 ± 0.50" in printed(found)
    assert Image.open(tmp_path / "deep" / "out" / "compare.png").size[0] > 800


def test_the_picture_shows_what_one_run_alone_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(tmp_path / "a", {"knn": [("k=10", {"top1": 50.0})], "linear": [("SGD", {"top1": 60.0})]})
    second = run(tmp_path / "b", {"knn": [("k=10", {"top1": 40.0})]})
    kept: list[Figure] = []
    monkeypatch.setattr(compare_plot, "save_picture", lambda figure, path: kept.append(figure))
    compare_plot.draw_comparison(compare([first, second]), tmp_path / "compare.png")
    titles = [axes.get_title(loc="left") for axes in kept[0].axes]
    assert [title.partition(":")[0] for title in titles] == ["knn", "linear"]


def test_a_comparison_without_percents_has_no_picture(tmp_path: Path) -> None:
    folder = run(tmp_path / "a", {"structure": [("all images", {"effective_rank": 7.0, "spread": None})]})
    found = compare([folder, folder], tmp_path / "out")
    assert found.rows[1].values == (None, None)
    assert not (tmp_path / "out" / "compare.png").exists()


def test_real_evaluations_are_compared(tmp_path: Path) -> None:
    for size in (8, 16):
        evaluate(
            RawPixels(size),
            train="shapes:train:64",
            test="shapes:test:64",
            protocols=["knn", "structure"],
            settings={"structure.pictures": [], "structure.view_images": 4},
            out=tmp_path / str(size),
            progress=False,
        )
    found = compare([tmp_path / "8", tmp_path / "16"], tmp_path / "out")
    assert len(found.rows) == 12 + 7
    assert all(None not in row.values for row in found.rows)
    assert found.notes == ()
    assert "raw pixels" in found.runs[0].backbone


def test_what_cannot_be_compared_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(GlocalError, match="name the folders of two runs"):
        compare([])
    with pytest.raises(GlocalError, match="nowhere is no run: there is no such folder"):
        compare([tmp_path / "nowhere"])
    with pytest.raises(GlocalError, match=r"no evaluation yet; `glocal evaluate .* --train LABELLED --test LABELLED`"):
        compare([tmp_path])
    (tmp_path / "evaluation.json").write_text('{"backbone": "b", "protocols": {"knn": {}}}')
    with pytest.raises(GlocalError, match="is no evaluation of glocal"):
        compare([tmp_path])
    (tmp_path / "evaluation.json").write_text("{")
    with pytest.raises(GlocalError, match="cannot be read"):
        compare([tmp_path])
