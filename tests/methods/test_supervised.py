"""Supervised learning: labels reach the method, and its loss is the cross-entropy with them."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import glocal
from glocal.checkpoints import newest_checkpoint
from glocal.config import build_recipe
from glocal.data.sources.base import MemorySource
from glocal.errors import GlocalError
from glocal.methods.supervised import Supervised
from glocal.views.batch import Views
from tests.methods.cases import RESNET_RUN, MethodCase, make, views

CASE = MethodCase(
    trained={"loss": {"backbone", "classifier"}},
    small={"classes": 4},
    run=RESNET_RUN,
    budget={"train.epochs": 6},
)
ONE_EPOCH = {**RESNET_RUN, "method.name": "supervised", "train.epochs": 1, "train.batch_size": 16}


def test_the_loss_is_the_cross_entropy_of_every_view_with_its_images_label() -> None:
    method, fresh = (make("supervised", label_smoothing=0.2) for _ in range(2))
    batch = views(method)
    batch = Views(
        (batch.images[0], batch.images[0].flip(3)), batch.geometry * 2, torch.tensor([5, 0, 2, 7, 1, 3, 6, 4])
    )
    loss = method(batch)
    scores = fresh.classifier(fresh.backbone(torch.cat(batch.images))).double().log_softmax(dim=1).tolist()
    total = 0.0
    for row, logs in enumerate(scores):
        label = int(batch.index[row % 8]) % 4
        total -= sum((0.8 * (k == label) + 0.2 / 4) * log for k, log in enumerate(logs))
    assert loss.item() == pytest.approx(total / 16, rel=1e-5)


def test_a_run_looks_labels_up_by_the_images_index_and_counts_the_classes(
    image_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, int] = {}
    real = Supervised.loss

    def look(self: Supervised, batch: Views) -> torch.Tensor:
        assert self.labels is not None
        seen.update(zip(batch.index.tolist(), self.labels[batch.index].tolist(), strict=True))
        return real(self, batch)

    monkeypatch.setattr(Supervised, "loss", look)
    run = glocal.pretrain(image_folder(48), tmp_path / "run", overrides=ONE_EPOCH, progress=False)
    source = glocal.data.sources.opening.open_source(tmp_path / "images")
    assert seen == {index: source[index].label for index in range(48)}
    assert run.recipe.method.classes == 8
    state = newest_checkpoint(run.folder / "checkpoints")
    assert state is not None
    assert state["method"]["classifier.weight"].shape[0] == 8
    assert not any("labels" in key for key in state["method"])


def test_another_method_gets_no_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = glocal.training.building.build_method
    keep = lambda recipe, **options: made.append(real(recipe, **options)) or made[-1]  # noqa: E731
    monkeypatch.setattr(glocal.training.building, "build_method", keep)
    overrides = {**ONE_EPOCH, "method.name": "simsiam"}
    glocal.pretrain("shapes:train:32", tmp_path / "run", overrides=overrides, progress=False)
    assert [method.labels for method in made] == [None]


def test_unlabelled_images_are_an_error_that_says_what_would_be_right(
    image_folder: Callable[..., Path], shape_images: torch.Tensor, tmp_path: Path
) -> None:
    folder = image_folder(24) / "class0"
    with pytest.raises(GlocalError, match="class0 does not have; give a folder with one subfolder for each class"):
        glocal.pretrain(folder, tmp_path / "a", overrides=ONE_EPOCH, progress=False)
    partly = MemorySource("partly", shape_images[:32], torch.arange(32) - 1, [str(name) for name in range(31)])
    with pytest.raises(GlocalError, match="learns from labels, which partly does not have"):
        glocal.pretrain(partly, tmp_path / "b", overrides=ONE_EPOCH, progress=False)


def test_wrong_numbers_of_classes_are_named() -> None:
    settings = build_recipe({}, {"method.name": "supervised"}).method
    assert settings.fit_to_classes(10).classes == 10
    assert settings.model_copy(update={"classes": 12}).fit_to_classes(10).classes == 12
    with pytest.raises(GlocalError, match="method.classes=4, but the images have 10 classes"):
        settings.model_copy(update={"classes": 4}).fit_to_classes(10)
    with pytest.raises(GlocalError, match="at least 2 classes"):
        settings.fit_to_classes(1)
    with pytest.raises(GlocalError, match="method.classes: say how many"):
        make("supervised", classes=None)
    method = make("supervised")
    method.labels = None
    with pytest.raises(GlocalError, match="has no labels"):
        method(views(method))


def test_at_first_all_classes_are_about_as_likely() -> None:
    method = make("supervised")
    assert method(views(method)).item() == pytest.approx(math.log(4), abs=0.5)
