"""The papers' tables: each row can be run or says why not, and recipes take their numbers from here."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from glocal.config import build_recipe, load_mapping, recipe_names
from glocal.errors import GlocalError
from glocal.papers import Paper, PaperTable, find_row, find_table, load_paper, paper_names
from glocal.papers.measured import protocol_settings, row_recipe, scale_of
from glocal.settings import assign, validated
from glocal.training.run import pretrain

TABLES = [(paper, table.id) for paper in paper_names() for table in load_paper(paper).tables]


@pytest.mark.parametrize(("paper", "table_id"), TABLES)
def test_each_row_is_a_recipe_that_resolves_or_says_why_it_is_none(paper: str, table_id: str) -> None:
    _, table = find_table(f"{paper}/{table_id}")
    for row in table.rows:
        assert (row.recipe is None) != (row.cannot_run == ""), row.label
        if row.recipe is not None:
            assert row_recipe(row).name == row.recipe


@pytest.mark.parametrize(("paper", "table_id"), TABLES)
def test_each_metric_is_measured_by_a_protocol_with_settings_that_it_takes(paper: str, table_id: str) -> None:
    _, table = find_table(f"{paper}/{table_id}")
    for name, metric in table.metrics.items():
        assert (metric.protocol is None) == bool(metric.why)
        for row in table.rows:
            if metric.protocol is not None:
                protocol_settings(table.metric_of(row, name))


@pytest.mark.parametrize(("paper", "table_id"), [place for place in TABLES if place[0] in ("sce", "clim")])
def test_the_settings_of_each_row_are_its_own(paper: str, table_id: str) -> None:
    """In these two papers no table has the same training twice."""
    _, table = find_table(f"{paper}/{table_id}")
    seen: dict[str, str] = {}
    for row in table.rows:
        if row.recipe is not None:
            how = row_recipe(row).to_yaml()
            assert how not in seen, f"{row.label} is run as {seen[how]}"
            seen[how] = row.label


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_with_a_row_has_its_number_from_there_and_types_none(name: str) -> None:
    from importlib import resources

    written = yaml.safe_load(resources.files("glocal.recipes").joinpath(f"{name}.yaml").read_text(encoding="utf-8"))
    assert ("row" in written) != ("published" in written)
    if "row" in written:
        found = find_row(written["row"])
        assert found.row.recipe == name
        assert build_recipe(load_mapping(name)).published == found.text
        assert scale_of(row_recipe(found.row), build_recipe(load_mapping(name))) == ()  # as it is, it is the row


@pytest.mark.parametrize(
    ("place", "values"),
    [
        ("sce/2/tau=0.2 target=0.10 CIFAR10", {"linear": 90.34}),
        ("sce/2/tau=0.1 target=0.03 CIFAR10", {"linear": 89.93}),
        ("sce/2/tau=0.1 target=0.08 CIFAR100", {"linear": 65.45}),
        ("sce/2/tau=0.2 target=0.07 STL10", {"linear": 87.54}),
        ("sce/2/tau=0.1 target=0.07 Tiny-IN", {"linear": 51.90}),
        ("sce/2/tau=0.2 target=0.10 Tiny-IN", {"linear": 49.64}),
        ("clim/1/CLIM", {"linear": 75.5}),
        ("clim/1/SwAV", {"linear": 75.3}),
        ("clim/2/CLIM", {"top1_1": 59.3, "top5_1": 81.6, "top1_10": 70.0, "top5_10": 89.3}),
        ("clim/2/PIRL", {"top1_1": 30.7, "top5_1": 57.2, "top1_10": 60.4, "top5_10": 83.8}),
        ("clim/3/CLIM", {"AP50": 82.8, "AP75": 64.5}),
        ("clim/3/SwAV", {"AP50": 82.6, "AP75": None}),
        (
            "clim/5/MoCo v2",
            {"AP_box": 25.1, "AP50_box": 40.4, "AP75_box": 26.1, "AP_mask": 25.3, "AP50_mask": 38.4, "AP75_mask": 27.0},
        ),
        ("clim/7/2x224 + 2x96 multi-crop", {"linear": 69.7}),
        ("clim/12/CLIM", {"similarity": 0.65}),
        ("clim/13/800 epochs", {"linear": 75.2}),
    ],
)
def test_cells_are_as_printed(place: str, values: dict[str, float | None]) -> None:
    assert find_row(place).row.values == values


def test_what_the_text_of_clim_says_of_coco_is_in_its_columns() -> None:
    rows = {label: find_row(f"clim/4/{label}").row.values for label in ("Supervised", "CLIM")}
    assert (rows["CLIM"]["AP_box_2x"], rows["CLIM"]["AP_mask_2x"]) == (41.8, 37.7)  # section 4.3
    assert rows["CLIM"]["AP_box_2x"] - rows["Supervised"]["AP_box_2x"] == pytest.approx(1.2)  # type: ignore[operator]


def test_the_temperature_search_is_there_cell_by_cell_and_its_best_are_the_recipes() -> None:
    _, table = find_table("sce/2")
    assert len(table.rows) == 64
    for name, data in (
        ("cifar10", "CIFAR10"),
        ("cifar100", "CIFAR100"),
        ("stl10", "STL10"),
        ("tinyimagenet", "Tiny-IN"),
    ):
        best = max(
            (row for row in table.rows if row.label.endswith(f" {data}")), key=lambda row: row.values["linear"] or 0
        )
        assert load_mapping(f"sce-{name}")["row"] == f"sce/2/{best.label}"


def test_a_row_in_words() -> None:
    assert find_row("sce/2/tau=0.1 target=0.07 Tiny-IN").text == "51.90 % linear top-1 (sce/2)"
    assert find_row("clim/12/CLIM").text == "0.65 intra-class similarity (clim/12)"
    assert find_row("clim/3/SwAV").text == "82.6 % AP50, – % AP75 (clim/3)"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("sse/2/x", "no paper 'sse'; did you mean sce?"),
        ("sce/22/x", "sce has no table '22'; it has 1, 2"),
        ("sce", "sce has no table ''"),
        ("clim/1/CLIMM", "table 1 has no row 'CLIMM'; did you mean CLIM?"),
    ],
)
def test_places_that_are_not_there_are_named_with_the_nearest(place: str, message: str) -> None:
    with pytest.raises(GlocalError, match=message):
        find_row(place)


ROW = {"label": "a", "values": {"linear": 1.0}, "recipe": "sce-cifar10"}
LINEAR = {"title": "linear (%)", "protocol": "linear", "result": "top1"}


def paper(**table: Any) -> dict[str, Any]:
    whole = {"id": "1", "title": "x", "place": "x", "metrics": {"linear": LINEAR}, "rows": [ROW], **table}
    return {"paper": "x", "title": "x", "authors": "x", "venue": "x", "source": "x", "tables": [whole]}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"rows": [{**ROW, "cannot_run": "no"}]}, "either a recipe or a reason"),
        ({"rows": [{"label": "a", "values": {}}]}, "either a recipe or a reason"),
        ({"rows": [{"label": "a", "values": {}, "cannot_run": "no", "settings": {"seed": 1}}]}, "has no settings"),
        ({"rows": [ROW, ROW]}, "table 1 has two rows 'a'"),
        ({"rows": [{**ROW, "values": {"liner": 1.0}}]}, "no metric 'liner'; did you mean linear"),
        ({"rows": [{**ROW, "evaluation": {"knn": {}}}]}, "no metric 'knn'"),
        ({"metrics": {"linear": {"title": "x", "protocol": None}}}, "protocol or a sentence"),
        ({"metrics": {"linear": {"title": "x", "protocol": "linear"}}}, "goes with the result"),
        ({"row": []}, "tables.0.row is not a setting"),
    ],
)
def test_a_file_that_is_not_as_it_should_be_is_refused_with_the_place(table: dict[str, Any], message: str) -> None:
    with pytest.raises(GlocalError, match=message):
        validated(Paper, paper(**table), "papers/x.yaml")


def test_a_row_may_change_how_it_is_measured() -> None:
    metrics = {"linear": {**LINEAR, "settings": {"linear.style": "sce"}}}
    own = {"linear": {"settings": {"linear.epochs": 5}, "setting": "sce*"}}
    whole = validated(Paper, paper(metrics=metrics, rows=[{**ROW, "evaluation": own}]), "x")
    [table] = whole.tables
    assert isinstance(table, PaperTable)
    metric = table.metric_of(table.rows[0], "linear")
    assert metric.settings == {"linear.style": "sce", "linear.epochs": 5}
    assert metric.setting == "sce*"
    assert protocol_settings(metric)["epochs"] == 5


def test_a_recipe_whose_row_is_nowhere_is_refused_and_an_old_runs_recipe_is_not(tmp_path: Any) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("row: sce/2/nowhere\nmethod: {name: sce}\n")
    with pytest.raises(GlocalError, match="table 2 has no row 'nowhere'"):
        load_mapping(path)
    path.write_text("row: sce/2/nowhere\npublished: 90 %\nmethod: {name: sce}\n")  # a table may change after a run
    assert build_recipe(load_mapping(path)).published == "90 %"
    path.write_text("published: 90.34 % linear top-1\nmethod: {name: sce}\n")
    assert build_recipe(load_mapping(path)).row == ""


def test_a_run_from_before_its_recipe_had_a_row_goes_on(tmp_path: Path) -> None:
    settings = {
        "model.options": {"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]},
        "data.size": 16,
        "train.epochs": 1,
        "train.batch_size": 16,
        "monitor.knn_epochs": 0,
    }
    start = partial(pretrain, "shapes:train:32", tmp_path / "run", recipe="sce-cifar10", overrides=settings)
    start(progress=False)
    written = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    del written["row"]
    (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump({**written, "published": "90.34 % linear top-1"}))
    start(progress=False, resume="must")  # it is finished, and not refused


@pytest.mark.parametrize(
    ("recipe", "overrides", "row", "published"),
    [
        # The number of another length is in another table of the paper; clim/13 prints the same one.
        ("clim-imagenet", {"train.epochs": 200}, "clim/7/224, 160", "72.3 % linear top-1 (clim/7)"),
        (
            "sce-cifar10",
            {"method.temperature": 0.1, "method.target_temperature": 0.03},
            "sce/2/tau=0.1 target=0.03 CIFAR10",
            "89.93 % linear top-1 (sce/2)",
        ),
        # No row: nothing is said.
        ("clim-imagenet", {"train.epochs": 7}, "", ""),
        ("sce-cifar10", {"method.name": "moco"}, "", ""),
        ("sce-cifar10", {"model.name": "resnet34"}, "", ""),
        ("sce-cifar10", {"views.1.grey": 0.5}, "", ""),
        ("sce-cifar10", {"optimizer.lr": 0.1}, "", ""),
        ("sce-cifar10", {"train.batch_size": 64}, "", ""),
        ("sce-cifar10", {"data.source": "torchvision:CIFAR100:train"}, "", ""),
        ("logo-simsiam-cifar10", {"train.epochs": 7}, "", ""),  # a number and no row
        # Of the machine, or as it was.
        (
            "sce-cifar10",
            {
                "train.precision": "bf16",
                "train.epochs": 200,
                "data.source": "torchvision:CIFAR10:train",
                "data.workers": 3,
                "monitor.knn_epochs": 0,
            },
            "sce/2/tau=0.2 target=0.10 CIFAR10",
            "90.34 % linear top-1 (sce/2)",
        ),
        ("logo-simsiam-cifar10", {"seed": 3}, "", "87.67 % k-NN (k = 1)"),
        # An override is what the user says.
        ("sce-cifar10", {"train.epochs": 7, "row": "", "published": "5 %"}, "", "5 %"),
    ],
)
def test_a_changed_recipe_has_the_number_of_what_it_is_now(
    recipe: str, overrides: dict[str, Any], row: str, published: str
) -> None:
    found = build_recipe(load_mapping(recipe), overrides)
    assert (found.row, found.published) == (row, published)


@pytest.mark.parametrize(("paper", "table_id"), TABLES)
def test_each_row_that_is_run_has_its_own_number(paper: str, table_id: str) -> None:
    """Or that of another row that is the same training."""
    _, table = find_table(f"{paper}/{table_id}")
    for row in table.rows:
        if row.recipe is not None and load_mapping(row.recipe).get("row", "").startswith(f"{paper}/"):
            its = row_recipe(row)
            assert scale_of(row_recipe(find_row(its.row).row), its) == ()
            assert its.published == find_row(its.row).text


def test_a_run_that_is_fitted_to_few_images_has_no_number(tmp_path: Path) -> None:
    settings = {
        "model.options": {"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]},
        "data.size": 16,
        "train.epochs": 1,
        "monitor.knn_epochs": 0,
    }
    for images, batch, published in ((64, 16, "90 %"), (64, 128, ""), (32, 16, "")):  # as written; batch; queue
        whole: dict[str, Any] = {"published": "90 %", "method": {"name": "sce", "queue_size": 64}}
        for path, value in {**settings, "train.batch_size": batch}.items():
            assign(whole, path, value)
        mine, folder = tmp_path / "mine.yaml", tmp_path / f"{images}-{batch}"
        mine.write_text(yaml.safe_dump(whole))
        pretrain(f"shapes:train:{images}", folder, recipe=mine, progress=False)
        assert load_mapping(folder / "recipe.yaml")["published"] == published


@pytest.mark.parametrize("table_id", ["5", "7"])
def test_patchwise_dino_retrieves_as_dino_does(table_id: str) -> None:
    """As the commands of the authors' README, DINO's: whole queries; Oxford small, Paris larger and at three scales."""
    _, table = find_table(f"patchwise_dino/{table_id}")
    for name in ("oxford_medium", "oxford_hard", "paris_medium", "paris_hard"):
        found = protocol_settings(table.metrics[name])
        size, scales = (224, [1.0]) if name.startswith("oxford") else (512, [1.0, 0.7071, 0.5])
        assert (found["query_box"], found["size"], found["scales"]) == (False, size, scales)


@pytest.mark.parametrize("table_id", ["5", "7"])
def test_patchwise_dino_detects_copies_as_section_4_3_1_says(table_id: str) -> None:
    _, table = find_table(f"patchwise_dino/{table_id}")
    for row in table.rows:
        found = protocol_settings(table.metric_of(row, "copies"))
        whole = row.recipe == "patchwise-dino-imagenet"  # all of ImageNet-1K trains the whitening
        assert found["distractor_images"] == 10_000
        assert (found["whiten_images"], found["leave_out"]) == ((None, None) if whole else (20_000, "imagenet100"))
