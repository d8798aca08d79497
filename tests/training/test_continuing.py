"""A run is continued with its own images and settings, replaced where it never began, and extended on demand."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

import glocal
from glocal.checkpoints import checkpoint_files, load_checkpoint
from glocal.errors import GlocalError
from glocal.schedules import Clock, Schedule
from glocal.training import loop
from glocal.training.loop import NonFiniteLossError
from glocal.training.resolving import resolve
from tests.training.test_runs import DATA, TINY, assert_equal, final_state, run

SMALL: dict[str, Any] = {"train__batch_size": 8, "method__queue_size": 16, "train__epochs": 1}


def test_other_images_are_refused_and_the_first_of_them_named(
    tmp_path: Path, image_folder: Callable[..., Path]
) -> None:
    folder = image_folder(16)
    run(tmp_path / "a", folder, **SMALL)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    shutil.copy(files[0], files[0].with_name("aaa" + files[0].suffix))
    with pytest.raises(GlocalError, match=r"has learned from 16 images, .* has 17 \(added: .*aaa.*\); give it"):
        run(tmp_path / "a", folder, **SMALL)
    files[0].with_name("aaa" + files[0].suffix).unlink()
    run(tmp_path / "a", folder, **SMALL)
    files[0].rename(files[0].with_name("zzz" + files[0].suffix))
    with pytest.raises(GlocalError, match=rf"16 images, .* has 16 \(added: .*zzz.*; removed: .*{files[0].name}\)"):
        run(tmp_path / "a", folder, **SMALL)
    (tmp_path / "a" / "images.txt").unlink()
    with pytest.raises(GlocalError, match="has 16 or other names; give it"):
        run(tmp_path / "a", folder, **SMALL)


def test_a_batch_that_grew_with_the_images_is_told_as_other_images(
    tmp_path: Path, image_folder: Callable[..., Path]
) -> None:
    folder = image_folder(16)
    run(tmp_path / "a", folder, train__epochs=1)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        shutil.copy(path, path.with_name("more" + path.name))
    with pytest.raises(GlocalError, match="has learned from 16 images, .* has 32 .* and 13 more"):
        run(tmp_path / "a", folder, train__epochs=1)


def test_images_may_move_but_not_change_their_names(
    tmp_path: Path, image_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = image_folder(16)
    run(tmp_path / "a", folder, **SMALL)
    folder.rename(tmp_path / "elsewhere")
    moved = run(tmp_path / "a", tmp_path / "elsewhere", **SMALL)
    assert moved.recipe.data.source == str(tmp_path / "elsewhere")
    assert "the same images by name" in capsys.readouterr().err


def test_a_checkpoint_stays_small_and_an_older_one_is_taken_with_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "a", train__epochs=1)
    for path in checkpoint_files(tmp_path / "a" / "checkpoints"):
        state = load_checkpoint(path)
        assert state["images"]["count"] == 192
        assert len(state["images"]["names"]) == 64
        del state["images"]
        torch.save(state, path)
    run(tmp_path / "a", train__epochs=1)
    assert "of an older glocal: whether the images are still the same is not known" in capsys.readouterr().err


def nan(*_: Any) -> torch.Tensor:
    return torch.tensor([float("nan")])


@pytest.mark.parametrize(
    ("wrong", "error"),
    [({"model__name": "resnet19"}, GlocalError), ({"optimizer__name": "lars", "optimizer__lr": 3}, NonFiniteLossError)],
)
def test_a_start_that_failed_does_not_refuse_the_corrected_command(
    wrong: dict[str, Any],
    error: type[GlocalError],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patched:
        if error is NonFiniteLossError:
            patched.setattr(loop, "_optimise", nan)
        with pytest.raises(error):
            run(tmp_path / "a", **wrong)
    failed = (tmp_path / "a" / "recipe.yaml").exists()
    if failed:
        (tmp_path / "a" / "metrics.csv").write_text("step,other\n1,2\n")
    finished = run(tmp_path / "a", train__epochs=1)
    assert ("has a recipe.yaml and no checkpoint: the run that failed" in capsys.readouterr().err) is failed
    assert finished.recipe.model.name == "resnet18"
    assert finished.recipe.optimizer.name == "sgd"
    assert set(finished.metrics) == {"step", "epoch", "loss", "lr", "weight_decay", "images_per_second"}


def test_a_wrong_stem_does_not_refuse_the_corrected_command(tmp_path: Path) -> None:
    with pytest.raises(GlocalError, match="stem"):
        run(tmp_path / "a", model__name="vit_tiny", model__options={}, model__stem="small")
    run(tmp_path / "a", train__epochs=1)


def test_without_a_checkpoint_there_is_nothing_to_continue(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "recipe.yaml").write_text("not: [a recipe")
    with pytest.raises(GlocalError, match=r"no run in .* to continue \(no checkpoint\)"):
        glocal.pretrain(DATA, tmp_path / "a", overrides=TINY, resume="must")
    with pytest.raises(GlocalError, match="this run has not saved a checkpoint yet; the same pretrain command starts"):
        glocal.load_backbone(tmp_path / "a")
    with pytest.raises(GlocalError, match=r"no run in .* to extend"):
        glocal.pretrain(DATA, tmp_path / "a", overrides=TINY, extend=True)
    (tmp_path / "a" / "environment.json").write_text('{"glocal": "0.1.0"}')  # so it is a run that failed
    glocal.pretrain(DATA, tmp_path / "a", overrides={**TINY, "train.epochs": 1}, resume="never", progress=False)


@pytest.mark.parametrize("name", ["recipe.yaml", "images.txt", "method.py", "report.html", "tensorboard/events"])
def test_files_of_others_in_the_runs_folder_are_not_touched(name: str, tmp_path: Path) -> None:
    kept = tmp_path / "a" / name
    kept.parent.mkdir(parents=True)
    kept.write_text("# mine")
    with pytest.raises(
        GlocalError, match=f"a holds {name.partition('/')[0]} of something else, .* choose another folder"
    ):
        glocal.pretrain(DATA, tmp_path / "a", overrides=TINY, progress=False)
    assert kept.read_text() == "# mine"
    assert [file.name for file in (tmp_path / "a").iterdir()] == [name.partition("/")[0]]


def test_a_run_is_not_begun_among_images_that_it_would_hide(tmp_path: Path) -> None:
    for name in ("cats/a.png", "cats/b.png", "dogs/a.png", "dogs/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    with pytest.raises(GlocalError, match="cats holds 2 images, which would be passed over as output of glocal"):
        glocal.pretrain(tmp_path, tmp_path / "cats", overrides=TINY, progress=False)
    assert sorted(file.name for file in (tmp_path / "cats").iterdir()) == ["a.png", "b.png"]


def longer(out: Path, epochs: int, *, extend: bool = True) -> glocal.Run:
    settings = {**TINY, "train.epochs": epochs, "train.checkpoint_steps": 2}
    return glocal.pretrain(DATA, out, overrides=settings, progress=False, extend=extend)


def test_an_extended_run_follows_the_longer_schedules_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer(tmp_path / "a", 1, extend=False)
    with pytest.raises(GlocalError, match=r"train.epochs was 1, is 3; continue it for longer with --extend, or choose"):
        longer(tmp_path / "a", 3, extend=False)
    finished = longer(tmp_path / "a", 3)
    peak = finished.recipe.optimizer.peak_lr(32)
    cosine = Schedule(start=peak, end=0.0)
    before, after = cosine.at(Clock(5, 6, 6)), cosine.at(Clock(6, 6, 18))
    said = " ".join(capsys.readouterr().err.split())
    assert f"the learning rate goes from {before:.3g} to {after:.3g}" in said
    assert finished.metrics["step"] == list(range(1, 19))
    rates = [cosine.at(Clock(step, 6, 6)) for step in range(6)] + [
        cosine.at(Clock(step, 6, 18)) for step in range(6, 18)
    ]
    assert finished.metrics["lr"] == pytest.approx(rates)
    written = yaml.safe_load((tmp_path / "a" / "recipe.yaml").read_text())["train"]
    assert (written["epochs"], written["extended_from"]) == (3, [1])
    longer(tmp_path / "a", 3, extend=False)  # the plain command knows it as finished
    with pytest.raises(GlocalError, match=r"has 3 epochs already; give more, not train.epochs=2"):
        longer(tmp_path / "a", 2)
    own = tmp_path / "a" / "recipe.yaml"
    with pytest.raises(GlocalError, match=r"the run has had 1 epoch already; give more, not train.epochs=1"):
        glocal.pretrain(None, tmp_path / "a", recipe=own, overrides={"train.epochs": 1}, extend=True, progress=False)
    with pytest.raises(
        GlocalError, match=r"repeat the settings of that run, or take them .*: --recipe .*a.recipe.yaml$"
    ):
        glocal.pretrain(DATA, tmp_path / "a", overrides={"train.epochs": 5}, extend=True, progress=False)
    capsys.readouterr()
    longer(tmp_path / "a", 3)
    assert "to extend it, give more than train.epochs=3" in " ".join(capsys.readouterr().err.split())


def test_a_warm_up_that_is_too_long_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    longer, half = "the warm-up of 5 epochs is longer than the training of 2;", "the warm-up takes 1.5 of 2 epochs;"
    for warmup, told in ((5, longer), (1.5, half)):
        resolve(DATA, None, {**TINY, "train.epochs": 2, "optimizer.warmup_epochs": warmup}, tmp_path, progress=False)
        assert told in " ".join(capsys.readouterr().err.split())


def test_an_extended_run_that_is_stopped_goes_on_exactly_and_its_recipe_repeats_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "stopped"):
        longer(tmp_path / name, 1, extend=False)
    longer(tmp_path / "whole", 2)
    real, count = loop._optimise, iter(range(100))

    def dies(*args: Any) -> torch.Tensor:
        if next(count) == 3:
            raise OSError("gone")
        return real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "_optimise", dies)
        with pytest.raises(OSError, match="gone"):
            longer(tmp_path / "stopped", 2)
    longer(tmp_path / "stopped", 2)
    recipe = tmp_path / "whole" / "recipe.yaml"
    glocal.pretrain(None, tmp_path / "again", recipe=recipe, progress=False)
    whole = final_state(tmp_path / "whole")
    for name in ("stopped", "again"):
        other = final_state(tmp_path / name)
        assert_equal(whole["method"], other["method"])
        assert_equal(whole["optimizers"], other["optimizers"])


def test_a_recipe_that_is_older_than_a_setting_goes_on_with_its_default(tmp_path: Path) -> None:
    run(tmp_path / "a", DATA, **SMALL)
    written = tmp_path / "a" / "recipe.yaml"
    recipe = yaml.safe_load(written.read_text())
    del recipe["optimizer"]["schedule"], recipe["train"]["extended_from"], recipe["data"]["resize"]
    written.write_text(yaml.safe_dump(recipe))
    run(tmp_path / "a", DATA, **SMALL)
    del recipe["data"]["color"]
    written.write_text(yaml.safe_dump(recipe))
    with pytest.raises(GlocalError, match="data.color was exact, is fused"):
        run(tmp_path / "a", DATA, **SMALL)
    with pytest.raises(GlocalError, match="optimizer.schedule was cosine, is step"):
        run(tmp_path / "a", DATA, **SMALL, data__color="exact", optimizer__schedule="step", optimizer__milestones=[1.0])


@pytest.mark.parametrize("loss", [float("nan"), 1.0])
def test_what_is_no_number_is_told_as_such_before_the_monitor_stumbles(
    loss: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop._optimise

    def poisoned(method: Any, *args: Any) -> torch.Tensor:
        losses = torch.full_like(real(method, *args), loss)
        method.embedding = torch.full_like(method.embedding, float("nan"))
        return losses

    monkeypatch.setattr(loop, "_optimise", poisoned)
    told = "the loss is nan at step 1;" if loss != loss else "the embeddings are no numbers at step 6;"
    with pytest.raises(NonFiniteLossError, match=told):  # a look at step 6, a line of the log at step 10
        run(tmp_path / "a", train__log_steps=10, train__checkpoint_steps=1000)
    assert not checkpoint_files(tmp_path / "a" / "checkpoints")


def test_weights_that_are_no_numbers_make_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, count = loop._optimise, iter(range(100))

    def poisoned(method: Any, *args: Any) -> torch.Tensor:
        losses = real(method, *args)
        if next(count) == 2:
            next(method.parameters()).data.fill_(float("inf"))
        return losses

    monkeypatch.setattr(loop, "_optimise", poisoned)
    with pytest.raises(NonFiniteLossError, match=r"is infinite or no number after step 3; .* is .*step-000000002\.pt"):
        run(tmp_path / "a")


def test_an_extended_run_may_have_milestones_in_the_epochs_that_are_added(tmp_path: Path) -> None:
    steps = {**TINY, "train.batch_size": 8, "method.queue_size": 16, "train.log_steps": 1, "optimizer.schedule": "step"}

    def train(epochs: int, milestones: list[float]) -> glocal.Run:
        settings = {**steps, "train.epochs": epochs, "optimizer.milestones": milestones}
        return glocal.pretrain(DATA, tmp_path / "a", overrides=settings, progress=False, extend=epochs > 2)

    train(2, [1.0])
    with pytest.raises(GlocalError, match=r"optimizer\.milestones\.1 was not set, is 1\.5"):
        train(4, [1.0, 1.5])
    done = train(4, [1.0, 3.0])
    assert done.recipe.optimizer.milestones == (1.0, 3.0)
    rates = done.metrics["lr"]
    assert rates[-1] == pytest.approx(0.01 * max(rates))


def test_a_lost_recipe_is_taken_from_the_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "a", train__epochs=1)
    written = (tmp_path / "a/recipe.yaml").read_text(encoding="utf-8")
    (tmp_path / "a/recipe.yaml").unlink()
    run(tmp_path / "a", train__epochs=1)
    assert (tmp_path / "a/recipe.yaml").read_text(encoding="utf-8") == written
    assert "has lost its recipe.yaml; that in step-000000006.pt is taken" in " ".join(capsys.readouterr().err.split())


def test_an_error_in_the_middle_of_a_step_writes_no_checkpoint_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = loop._optimise

    def failing(method: Any, *given: Any) -> Any:
        found = usual(method, *given)  # the weights have moved
        if method.now.step == 3:
            raise GlocalError("the batch does not fit")
        return found

    monkeypatch.setattr(loop, "_optimise", failing)
    with pytest.raises(GlocalError, match="the batch does not fit"):
        run(tmp_path / "a", train__checkpoint_steps=2)
    assert [path.name for path in checkpoint_files(tmp_path / "a/checkpoints")] == ["step-000000002.pt"]
