"""Budgets: what a row is trained with instead of its recipe's settings."""

from pathlib import Path

import pytest

from glocal.config import build_recipe, load_mapping
from glocal.errors import GlocalError
from glocal.papers import PaperRow, find_table, load_paper, paper_names
from glocal.papers.measured import row_recipe
from glocal.reproduction.budgets import Budget, budget_names, find_budget, settings_of, shortest_epochs
from glocal.reproduction.studies import open_study

STUDIES = Path(__file__).parents[2] / "benchmarks" / "studies"


def row(label: str = "a", recipe: str = "sce-cifar10", **settings: object) -> PaperRow:
    named = {path.replace("__", "."): value for path, value in settings.items()}
    return PaperRow(label=label, values={}, recipe=recipe, settings=named)


def test_an_unknown_budget_is_told_with_the_nearest_one() -> None:
    with pytest.raises(GlocalError, match="no budget 'smal'; did you mean small"):
        find_budget("smal")


def test_a_wrong_key_of_a_budget_is_told() -> None:
    with pytest.raises(GlocalError, match=r"budget: imagse is not a setting; did you mean images\?"):
        find_budget({"like": "small", "imagse": 3})


def test_epochs_among_the_settings_are_refused() -> None:
    with pytest.raises(GlocalError, match=r"budget: settings: train.epochs would change nothing; say epochs or share"):
        find_budget({"like": "small", "settings": {"train.epochs": 3}})


def test_the_documentation_says_what_the_small_budget_is() -> None:
    text = " ".join((STUDIES.parents[1] / "docs" / "tables.md").read_text(encoding="utf-8").split())
    small = find_budget("small")
    options = small.networks["resnet*"]["model.options"]
    assert f"up to {small.images:,}, {small.epochs} epochs" in text
    assert f"train.epochs 200 → {small.epochs} network" in text
    assert ", ".join(f"{key} {value}" for key, value in options.items()) in text
    assert f"it takes {small.evaluation['linear.epochs']} epochs instead of 100" in text


def test_a_budget_like_another_has_its_other_keys() -> None:
    changed = find_budget({"like": "small", "images": 500})
    assert changed.images == 500
    assert changed.epochs == find_budget("small").epochs


def test_the_full_budget_changes_nothing() -> None:
    for printed in find_table("sce/2")[1].rows[:2]:
        found = settings_of(find_budget("full"), printed, [printed])
        assert found == {**printed.settings, "train.epochs": 200}


def test_the_medium_budget_takes_a_tenth_of_the_epochs() -> None:
    found = settings_of(find_budget("medium"), row(), [])
    assert found["train.epochs"] == 20
    assert found["optimizer.warmup_epochs"] == 0.5  # 5 of 200


def test_rows_of_one_recipe_keep_the_proportion_of_their_epochs() -> None:
    rows = [row("short", train__epochs=100), row("usual"), row("other", "simsiam-cifar10")]
    budget = Budget(epochs=12)
    lengths = [settings_of(budget, one, rows)["train.epochs"] for one in rows]
    assert lengths == [12, 24, 12]  # SimSiam's 800 epochs in print say nothing about SCE's 200
    assert shortest_epochs(rows, "sce-cifar10") == 100


def test_a_rows_own_settings_come_before_the_budgets() -> None:
    budget = Budget(settings={"method.temperature": 0.5, "optimizer.lr": 1.0}, rates={"sce": {"method.momentum": 0.5}})
    found = settings_of(budget, row(method__temperature=0.2), [])
    assert found["method.temperature"] == 0.2
    assert found["optimizer.lr"] == 1.0
    assert found["method.momentum"] == 0.5


def test_rates_come_before_settings_of_all_rows_and_reach_the_method_that_logo_works_on() -> None:
    rates = {"moco": {"optimizer.lr": 0.3, "method.momentum": 0.9}, "logo:moco": {"optimizer.lr": 0.4}}
    budget = Budget(settings={"optimizer.lr": 1.0}, rates=rates)
    assert settings_of(budget, row(recipe="moco-cifar10"), [])["optimizer.lr"] == 0.3
    found = settings_of(budget, row(recipe="logo-moco-cifar10"), [])
    assert found["method.base.momentum"] == 0.9
    assert found["optimizer.lr"] == 0.4


def test_options_of_the_network_are_joined_and_the_rows_are_the_last() -> None:
    budget = Budget(networks={"resnet*": {"model.options": {"channels": [8, 8, 8, 8], "drop_path_rate": 0.1}}})
    found = settings_of(budget, row(**{"model.options.drop_path_rate": 0.2}), [])
    assert found["model.options"] == {"channels": [8, 8, 8, 8], "drop_path_rate": 0.2}


def test_what_is_above_a_limit_is_cut_to_it() -> None:
    budget = Budget(at_most={"method.queue_size": 512, "train.batch_size": 100})
    found = settings_of(budget, row(), [])
    assert (found["method.queue_size"], found["train.batch_size"]) == (512, 100)
    assert isinstance(found["method.queue_size"], int)
    own = settings_of(budget, row(method__queue_size=1024, train__batch_size=128), [])
    assert (own["method.queue_size"], own["train.batch_size"]) == (1024, 100)  # a row is about its method


def test_what_is_in_pixels_or_epochs_follows_the_size_and_the_length() -> None:
    printed = row(recipe="sce-imagenet-multicrop")
    settings = settings_of(Budget(size=56, epochs=20), printed, [])
    found = build_recipe(load_mapping("sce-imagenet-multicrop"), settings)
    assert [view.size for view in found.views or ()] == [56, 56, 48, 40, 32, 24]
    assert found.optimizer.warmup_epochs == 1  # 10 of 200
    patches = settings_of(Budget(epochs=20), row(recipe="patchwise-dino-cifar10"), [])
    schedule = build_recipe(load_mapping("patchwise-dino-cifar10"), patches).method.teacher_temperature
    whole = row_recipe(row(recipe="patchwise-dino-cifar10")).method.teacher_temperature
    assert schedule.epochs == whole.epochs / 10
    assert (schedule.start, schedule.end) == (whole.start, whole.end)


def test_a_warm_up_takes_at_most_half_of_a_short_training() -> None:
    assert (
        settings_of(Budget(epochs=1, settings={"optimizer.warmup_epochs": 1}), row(), [])["optimizer.warmup_epochs"]
        == 0.5
    )


@pytest.mark.parametrize("paper", paper_names())
def test_every_row_of_the_papers_resolves_under_the_small_budget(paper: str) -> None:
    budget = find_budget("small")
    for table in load_paper(paper).tables:
        for printed in table.rows:
            if printed.recipe is not None:
                found = build_recipe(load_mapping(printed.recipe), settings_of(budget, printed, table.rows))
                assert found.data.size == 32, f"{paper}/{table.id}/{printed.label}"
                assert found.train.epochs >= find_budget("small").epochs or "train.epochs" in printed.settings


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_study_resolves_under_the_small_budget(path: Path) -> None:
    study, budget = open_study(path), find_budget("small")
    assert study.name == path.stem
    for printed in study.table.rows:
        if printed.recipe is None:  # what others print
            continue
        found = build_recipe(load_mapping(printed.recipe), settings_of(budget, printed, study.table.rows))
        assert (found.data.size, found.train.epochs) == (32, budget.epochs)


def test_budgets_are_named_from_small_to_large() -> None:
    assert budget_names() == ["small", "medium", "full"]


def test_patches_as_large_as_the_smaller_images_shrink_like_those_of_the_other_rows() -> None:
    rows = find_table("patchwise_dino/6")[1].rows
    sides = {one.label: settings_of(find_budget("small"), one, rows)["model.options"]["patch_size"] for one in rows}
    assert sides["DINO, ViT-Tiny/16"] == 4
    assert sides["DINO, ViT-Tiny/32"] == 8
    own = row(recipe="patchwise-dino-cifar10", model__options__patch_size=16)  # two a side
    assert settings_of(find_budget("small"), own, [])["model.options"]["patch_size"] == 16


def test_cpc_keeps_a_network_without_batch_normalisation() -> None:
    options = settings_of(find_budget("small"), row(recipe="cpc-cifar10"), [])["model.options"]
    assert options == {**find_budget("small").networks["resnet*"]["model.options"], "norm_layer": "groupnorm1"}


def test_a_comparison_names_rows_that_are_in_print(tmp_path: Path) -> None:
    text = (STUDIES / "logo-moco.yaml").read_text(encoding="utf-8")
    assert open_study(STUDIES / "logo-moco.yaml").comparisons[0].printed == ("logo/2/MoCo-LoGo", "logo/2/MoCo")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(text.replace("[logo/2/MoCo-LoGo, logo/2/MoCo]", "[logo/2/MoCo-Logo, logo/2/MoCo]"))
    with pytest.raises(GlocalError, match="table 2 has no row 'MoCo-Logo'; did you mean MoCo-LoGo"):
        open_study(wrong)
