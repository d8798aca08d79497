"""The verdict says what the numbers of a run say, and gives them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from glocal.config import build_recipe
from glocal.pages.record import Record, read_record
from glocal.pages.verdict import verdict

LINES = 100


def record(
    *,
    loss: np.ndarray | None = None,
    epochs: int = 10,
    done: float = 10,
    broken: tuple[str, ...] = (),
    rates: np.ndarray | None = None,
    **measured: list[float],
) -> Record:
    at = np.linspace(done / LINES, done, LINES)
    metrics = {
        "step": at * 50,
        "epoch": at,
        "loss": np.linspace(6, 3, LINES) if loss is None else loss,
        "images_per_second": np.full(LINES, 500.0) if rates is None else rates,
    }
    measured = {"spread": [0.9] * 6, "effective_rank": [20.0] * 6, **measured}
    recipe = build_recipe({"name": "own"}, {"train.epochs": epochs}, data_size=32)
    found = {name: np.stack([np.linspace(0, done, len(its)), its], axis=1) for name, its in measured.items() if its}
    return Record(Path("runs/a"), "a", recipe, metrics, found, broken)


def said(one: Record) -> str:
    return "\n".join(f"{mood}: {text} {command}".rstrip() for mood, text, command in verdict(one))


def test_a_healthy_run_that_still_learns_is_to_be_trained_for_longer() -> None:
    text = said(record(knn=[20, 30, 35, 38, 40, 42]))
    assert "good: The training is finished: 10 epochs, 500 steps." in text
    assert (
        "good: Healthy: the embeddings are spread out (0.90; 1 is even, 0 is collapse) and use 20.0 directions" in text
    )
    assert "note: The loss is still falling: 3.894 before the last fifth, 3.288 in it, 6.000 at the start." in text
    assert "good: k-NN accuracy still improves: 40.0 % before the last fifth, 42.0 % now." in text
    assert "next: It was still learning when it ended. Train longer: glocal pretrain --out runs/a --recipe" in text
    assert "--extend --set train.epochs=20" in text
    assert "next: It has not been evaluated. With some labelled images: glocal evaluate runs/a" in text


def test_a_run_that_no_longer_learns_is_not_to_be_trained_for_longer() -> None:
    loss = np.concatenate([np.linspace(6, 3, 50), np.full(50, 3.0)])
    text = said(record(loss=loss, knn=[20, 39, 40, 40, 40.1, 40.2]))
    assert "The loss has levelled off: 3.000 before the last fifth, 3.000 in it" in text
    assert "k-NN accuracy no longer improves: 40.1 % before the last fifth, 40.2 % now." in text
    assert "More epochs of the same would change little." in text
    assert "Train longer" not in text


def test_accuracy_below_its_best_is_told_with_the_epoch_of_the_best() -> None:
    assert "bad: k-NN accuracy is 30.0 %, and was 38.0 % at epoch 6: it is falling." in said(
        record(knn=[20, 35, 40, 38, 33, 30])
    )
    assert "bad: k-NN accuracy is 30.0 %, and was 40.0 % at epoch 5: it is falling." in said(record(knn=[20, 40, 30]))


def test_one_lucky_measurement_is_no_decline() -> None:
    text = said(record(knn=[15, 20, 28, 21.5, 22, 22.5, 21.5, 22]))
    assert "falling" not in text.replace("The loss is still falling", "")
    assert "got worse" not in text


def test_what_was_measured_before_the_first_step_is_not_said_of_the_run() -> None:
    text = said(record(done=4, spread=[0.7], effective_rank=[77.0]))
    assert "note: The untrained network's embeddings have a spread of 0.70 and use 77.0 directions" in text
    assert "Healthy" not in text


def test_accuracy_that_is_not_due_yet_and_a_training_that_is_not_running_are_told() -> None:
    early = replace(record(done=0.5), running=False)
    words = "note: There is no k-NN accuracy: it needs images with labels, which get it every 10 epochs. The effective"
    assert words in said(early)
    assert "epochs). The training is not running: the same command goes on from its last checkpoint." in said(early)
    assert "not running" not in said(replace(early, running=True))
    assert "not running" not in said(replace(record(), running=False))


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        ({"spread": [0.5, 0.05]}, "bad: The embeddings have collapsed to nearly one point: spread 0.050 (1 is even)."),
        ({"effective_rank": [9.0, 1.5]}, "bad: The embeddings use 1.5 directions only (effective rank)"),
        ({"prototypes_used": [64.0], "target_information": [1e-5]}, "bad: The targets have collapsed: 64.0 of"),
    ],
)
def test_collapse_is_bad_and_something_can_be_done(measured: dict[str, list[float]], words: str) -> None:
    text = said(record(**measured))
    assert words in text
    assert "next: Against collapse: a smaller optimizer.lr" in text
    assert "Healthy" not in text


def test_without_labels_the_effective_rank_decides() -> None:
    rising = said(record(effective_rank=[5, 8, 12, 16, 20, 24]))
    assert "note: There is no k-NN accuracy: it needs images with labels. The effective rank stands in for it" in rising
    assert "Train longer" in rising
    falling = said(record(effective_rank=[24, 24, 24, 24, 24, 12]))
    assert "note: The effective rank fell from 24.0 to 12.0 in the last fifth" in falling
    assert "Train longer" not in falling


def test_a_run_under_way_gets_no_advice() -> None:
    text = said(record(done=4, knn=[20, 25, 30]))
    assert "note: 200 of 500 steps are done (4.0 of 10 epochs)." in text
    assert "next:" not in text


def test_why_a_training_failed_is_all_that_matters() -> None:
    failed = replace(record(), failed="the loss is nan at step 7; try a smaller optimizer.lr")
    text = said(failed)
    assert text.startswith("bad: The training could not go on: the loss is nan at step 7; try a smaller optimizer.lr.")
    assert "Healthy" not in text
    assert "next:" not in text
    early = replace(failed, metrics={})  # before the first line of the log
    assert said(early) == text.splitlines()[0]


def test_a_run_that_got_worse_is_not_said_to_have_levelled_off() -> None:
    text = said(record(knn=[20, 35, 40, 38, 33, 30]))
    assert "next: It got worse towards its end. A smaller optimizer.lr may help" in text
    assert "would change little" not in text
    few = said(record(knn=[39.9, 40.0, 40.1]))
    assert "next: It is too short to say whether it still improves" in few


def test_commands_can_be_typed_whatever_the_folder_is_called() -> None:
    odd = replace(record(knn=[20, 30, 35, 38, 40, 42]), folder=Path("my runs/a&b"))
    assert "glocal pretrain --out 'my runs/a&b' --recipe 'my runs/a&b'/recipe.yaml --extend" in said(odd)


def test_slow_times_and_broken_images_are_told() -> None:
    rates = np.where(np.arange(LINES) % 5 == 0, 100.0, 500.0)
    assert "500 images a second as a rule, and less than half of that in 20% of the time" in said(record(rates=rates))
    assert "bad: 2 images could not be read; skipped.txt names them." in said(record(broken=("a", "b")))


def test_a_run_that_has_logged_nothing_says_so(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(build_recipe({"name": "own"}, {}, data_size=32).to_yaml(), encoding="utf-8")
    assert said(read_record(tmp_path)) == "note: Nothing has been logged yet."


def test_a_run_of_few_lines_gets_no_judgement() -> None:
    one = record(spread=[0.8, 0.9], effective_rank=[30.0, 20.0], epochs=1, done=1)
    short = replace(one, metrics={key: value[-1:] for key, value in one.metrics.items()})
    text = said(short)
    assert "The training is finished: 1 epoch, 50 steps." in text
    assert "note: Healthy so far: the embeddings are spread out" in text
    assert "next: It is too short to say whether it still improves" in text
    assert "would change little" not in text
