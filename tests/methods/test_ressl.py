"""ReSSL: relations to the queue."""

import pytest
import torch
from torch.nn.functional import normalize

from glocal.config import build_recipe, load_mapping
from glocal.errors import GlocalError
from glocal.losses import relational
from glocal.views.batch import Views
from tests.methods.cases import RESNET_RUN, MethodCase, make, views

CASE = MethodCase(
    slow=True,
    trained={"loss": {"backbone", "projector"}},
    small={"hidden_dim": 32, "output_dim": 16},
    run={
        **RESNET_RUN,
        "method.queue_size": 128,
        "method.momentum": 0.95,
        "method.hidden_dim": 128,
        "method.output_dim": 64,
    },
    budget={
        "method.queue_size": 1024,
        "method.momentum": 0.99,
        "method.hidden_dim": 512,
        "method.output_dim": 128,
        "method.normalised_hidden": True,
        "method.target_temperature": 0.02,
        "train.epochs": 14,
    },
    falls={"method.momentum": 1.0},  # as long as its own teacher sharpens the targets, the loss says little
)


@pytest.mark.parametrize("multi_crop", [False, True])
def test_every_strong_view_takes_over_the_relations_of_the_weak_one(multi_crop: bool) -> None:
    method, fresh = (make("ressl", multi_crop=multi_crop) for _ in range(2))
    batch = views(method)
    weak, *strong = batch.images
    assert len(strong) == (5 if multi_crop else 1)
    key = normalize(fresh.teacher.chain(weak), dim=1)
    terms = [
        relational(
            normalize(fresh.projector(fresh.backbone(image)), dim=1),
            key,
            fresh.queue.keys,
            temperature=0.1,
            target_temperature=0.04,
        )
        for image in strong
    ]
    assert method(batch).item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-5)
    method.after_step()
    assert torch.allclose(method.queue.keys[:8], key, atol=1e-5)
    assert method.queue.position.item() == 8


def test_the_teachers_view_is_cropped_and_flipped_only() -> None:
    weak, strong = type(make("ressl")).view_plan(32)
    assert weak.jitter.probability == weak.grey == weak.blur.probability == 0
    assert strong.jitter.probability == 0.8


def test_one_view_is_refused() -> None:
    method = make("ressl")
    batch = views(method)
    with pytest.raises(GlocalError, match="the teacher's view and the student's are needed, but there are 1 views"):
        method(Views(batch.images[:1], batch.geometry[:1], batch.index))


@pytest.mark.parametrize("data", ["cifar10", "cifar100", "stl10", "tinyimagenet"])
def test_small_and_medium_sets_are_trained_as_sce_does_with_ressls_temperatures(data: str) -> None:
    recipe, sce = (build_recipe(load_mapping(f"{name}-{data}")) for name in ("ressl", "sce"))
    assert (recipe.method.temperature, recipe.method.target_temperature) == (0.1, 0.04)
    for name in ("queue_size", "momentum", "hidden_dim", "output_dim", "shuffle_groups"):
        assert getattr(recipe.method, name) == getattr(sce.method, name)
    assert recipe.method.normalised_hidden  # SCE's projector has it always
    for name in ("data", "model", "views", "optimizer", "train"):
        assert getattr(recipe, name) == getattr(sce, name)
