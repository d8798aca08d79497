"""SelfPatch: neighbours, aggregation, and patches that learn from them."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, gelu, layer_norm, log_softmax, softmax

from glocal.errors import GlocalError
from glocal.losses import dino
from glocal.methods.selfpatch import SelfPatch, SelfPatchSettings
from glocal.models.aggregation import PatchAggregation, similar_neighbors
from glocal.models.architecture import ModelSettings
from glocal.models.building import build_backbone
from tests.methods.cases import VIT, VIT_RUN, MethodCase, make, views

NO_TOKEN = {"class_token": False, "global_pool": "avg"}
HEAD = {
    "prototypes": 256,
    "patch_prototypes": 128,
    "hidden_dim": 64,
    "bottleneck_dim": 32,
    "momentum": 0.98,
    "frozen_prototype_epochs": 0,
}
CASE = MethodCase(
    slow=True,
    trained={"loss": {"backbone", "aggregation", "distiller.head", "of_patches.head"}},
    model=ModelSettings(name="vit_tiny", options={**VIT.options, **NO_TOKEN, "patch_size": 2}),
    small={
        "prototypes": 64,
        "patch_prototypes": 48,
        "hidden_dim": 32,
        "bottleneck_dim": 16,
        "frozen_prototype_epochs": 0,
    },
    run={
        **VIT_RUN,
        **{f"method.{key}": value for key, value in HEAD.items()},
        "model.options": {**VIT_RUN["model.options"], **NO_TOKEN, "patch_size": 4},
        "views.2.count": 2,  # local views
        "optimizer.lr": 0.0002,  # of the larger one that others have, targets without a centre soon name few prototypes
    },
    falls={"method.center_momentum": 1.0},  # the loss rises while the centre spreads the targets
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("side", [3, 4, 7])
def test_neighbours_equal_a_plain_loop(side: int) -> None:
    patches = random(2, side * side, 5)
    found = similar_neighbors(patches, 4)
    for image in range(2):
        for row in range(side):
            for column in range(side):
                around = {
                    (row + down) % side * side + (column + right) % side for down in (-1, 0, 1) for right in (-1, 0, 1)
                } - {row * side + column}
                assert len(around) == 8
                own = patches[image, row * side + column]
                ranked = sorted(around, key=lambda n: -float(cosine_similarity(own, patches[image, n], dim=0)))
                assert found[image, row * side + column].tolist() == ranked[:4]


@pytest.mark.parametrize("count", [4, 12])
def test_grids_without_eight_neighbours_are_refused(count: int) -> None:
    with pytest.raises(GlocalError, match=f"{count} patches are no square grid of 3 × 3"):
        similar_neighbors(random(1, count, 3), 4)


def aggregate_by_hand(module: PatchAggregation, patches: Tensor) -> Tensor:
    """Class attention as CaiT's equations 3 to 7 have it, for one image (N, D)."""
    state = dict(module.named_parameters())
    token = state["token"][0, 0]
    for number in range(2):
        own = {name.removeprefix(f"blocks.{number}."): value for name, value in state.items()}

        def linear(name: str, x: Tensor, own: dict[str, Tensor] = own) -> Tensor:
            return x @ own[f"{name}.weight"].T + own[f"{name}.bias"]

        everything = torch.cat([token[None], patches])
        width = len(token)
        u = layer_norm(everything, (width,), own["norm1.weight"], own["norm1.bias"], 1e-6)
        parts = []
        for head in range(2):
            columns = slice(head * width // 2, (head + 1) * width // 2)
            q, k, v = (linear(f"attn.{name}", u)[:, columns] for name in "qkv")
            parts.append(softmax(k @ q[0] / (width / 2) ** 0.5, dim=0) @ v)
        token = token + linear("attn.proj", torch.cat(parts))
        hidden = layer_norm(token, (width,), own["norm2.weight"], own["norm2.bias"], 1e-6)
        token = token + linear("mlp.fc2", gelu(linear("mlp.fc1", hidden)))
    return layer_norm(token, (len(token),), state["norm.weight"], state["norm.bias"], 1e-6)


def test_patches_are_aggregated_by_class_attention_each_with_its_own_neighbours() -> None:
    torch.manual_seed(0)
    module, patches = PatchAggregation(8, 2), random(2, 9, 8)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    assert torch.allclose(module(patches)[1], aggregate_by_hand(module, patches[1]), atol=1e-5)
    around, index = module.around(patches, 4), similar_neighbors(patches, 4)
    expected = aggregate_by_hand(module, patches[1, index[1, 5]])
    assert torch.allclose(around[1, 5], expected, atol=1e-5)


def test_the_method_is_dino_and_the_patches_cross_entropy_in_the_same_view() -> None:
    method, fresh = make("selfpatch", patch_weight=0.3), make("selfpatch", patch_weight=0.3)
    batch = views(method)
    teacher, student, aggregation = fresh.distiller.teacher_backbone, fresh.backbone, fresh.aggregation
    their_aggregation, their_patch_head = fresh.of_patches.teacher.chain
    their_head = fresh.distiller.teacher.chain[1]

    def patches(network: Any, image: Tensor) -> Tensor:
        return network.network.forward_features(image)

    def logits(vectors: Tensor, head: Any) -> Tensor:
        return head(vectors) @ head.prototypes().T

    whole = [aggregation(patches(student, image)) for image in batch.images]
    taught = [their_aggregation(patches(teacher, image)) for image in batch.images[:2]]
    of_views = dino(
        torch.stack([logits(vectors, their_head) for vectors in taught]),
        torch.stack([logits(vectors, fresh.distiller.head) for vectors in whole]),
        teacher_temperature=0.04,
        student_temperature=0.1,
        center=torch.zeros(64),
    )
    of_patches = torch.zeros(())
    for image in batch.images:
        target = logits(their_aggregation.around(patches(teacher, image), 4), their_patch_head)
        learned = logits(aggregation.norm(patches(student, image)), fresh.of_patches.head)
        entropy = -(softmax(target / 0.04, dim=-1) * log_softmax(learned / 0.1, dim=-1)).sum(dim=-1)
        of_patches = of_patches + entropy.mean() / len(batch.images)
    assert method(batch).item() == pytest.approx((of_views + 0.3 * of_patches).item(), rel=1e-4)


def test_teacher_and_centres_move_after_a_step() -> None:
    method = make("selfpatch", momentum=0.5)
    theirs = method.of_patches.teacher.chain[0].token.clone()
    method(views(method)).backward()
    with torch.no_grad():
        method.aggregation.token.add_(1.0)
    method.after_step()
    expected = theirs.lerp(method.aggregation.token, 0.5)
    assert torch.allclose(method.of_patches.teacher.chain[0].token, expected, atol=1e-6)
    assert method.of_patches.center.shape == (1, 48)
    assert method.of_patches.center.abs().sum() > 0


def test_a_network_with_a_class_token_is_refused() -> None:
    for model in (VIT, ModelSettings()):
        with pytest.raises(GlocalError, match="needs a vision transformer without CLS token"):
            SelfPatch(build_backbone(model, size=16), SelfPatchSettings())
