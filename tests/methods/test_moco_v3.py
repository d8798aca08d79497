"""MoCo v3: keys of the batch instead of a queue."""

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from glocal.methods import method_class
from glocal.models.building import build_backbone
from tests.methods.cases import RESNET_RUN, VIT, MethodCase, make, views

CASE = MethodCase(
    slow=True,
    trained={"loss": {"backbone", "projector", "predictor"}},
    small={"hidden_dim": 32, "output_dim": 16},
    run={**RESNET_RUN, "method.hidden_dim": 128, "method.output_dim": 64, "method.momentum": 0.95},
    budget={"method.momentum": 0.98, "method.hidden_dim": 512, "method.temperature": 0.1, "train.epochs": 10},
)


def test_it_is_cross_entropy_over_the_other_views_keys_times_twice_the_temperature() -> None:
    method, fresh = (make("moco_v3", temperature=0.3) for _ in range(2))
    batch = views(method)
    q = [normalize(fresh.predictor(fresh.projector(fresh.backbone(image))), dim=1) for image in batch.images]
    k = [normalize(fresh.teacher.chain(image), dim=1) for image in batch.images]
    terms = [2 * 0.3 * cross_entropy(q[i] @ k[1 - i].T / 0.3, torch.arange(8)) for i in range(2)]
    assert method(batch).item() == pytest.approx((terms[0] + terms[1]).item(), rel=1e-5)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_vision_transformer_keeps_its_random_patch_embedding(frozen: bool) -> None:
    kind = method_class("moco_v3")
    settings = kind.Settings(hidden_dim=32, output_dim=16, frozen_patches=frozen, predictor_norm=True)
    method = kind(build_backbone(VIT, size=16), settings)
    method(views(method)).backward()
    patches = list(method.backbone.network.patch_embed.parameters())
    assert all((parameter.grad is None) == frozen for parameter in patches)
    assert any(parameter.grad is not None for parameter in method.backbone.network.blocks.parameters())
