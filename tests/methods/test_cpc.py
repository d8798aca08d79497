"""CPC: patches, masked contexts, and predictions in four directions."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from glocal.errors import GlocalError
from glocal.losses.predictive import patch_info_nce
from glocal.methods.cpc import CPC, ContextNetwork, CPCSettings, cut, turned
from glocal.models.architecture import ModelSettings
from glocal.models.building import build_backbone
from tests.methods.cases import RESNET, RESNET_RUN, MethodCase, make, views

LAYER_NORM = {"norm_layer": "groupnorm1"}
SMALL = {"grid": 3, "steps": (1,), "context_layers": 1, "context_dim": 16, "output_dim": 16}
CASE = MethodCase(
    slow=True,
    trained={"loss": {"backbone", "contexts", "predictors", "target"}},
    model=ModelSettings(options={**RESNET.options, **LAYER_NORM}),
    small=SMALL,
    run={
        **RESNET_RUN,
        "model.options": {**RESNET_RUN["model.options"], **LAYER_NORM},
        "optimizer.name": "adamw",
        "optimizer.lr": 0.002,
        **{f"method.{name}": value for name, value in SMALL.items()},
        "method.color_drop": 0.0,
    },
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_loop(prediction: Tensor, target: Tensor, row: Any, scale: float) -> float:
    """InfoNCE place by place; `row` says which place is predicted at another one, None where there is none."""
    total, count = 0.0, 0
    batch, height, width, _ = target.shape
    for image in range(batch):
        for place in [(i, j) for i in range(height) for j in range(width)]:
            aim = row(*place)
            if not (0 <= aim[0] < height and 0 <= aim[1] < width):
                continue
            scores = [scale * float(prediction[image, *place] @ other) for other in target.flatten(0, 2)]
            right = scale * float(prediction[image, *place] @ target[image, *aim])
            total += math.log(sum(math.exp(score) for score in scores)) - right
            count += 1
    return total / count


@pytest.mark.parametrize("ahead", [1, 2])
@pytest.mark.parametrize(
    ("direction", "step"), [("down", (1, 0)), ("up", (-1, 0)), ("right", (0, 1)), ("left", (0, -1))]
)
def test_the_loss_in_each_direction_equals_a_plain_loop(direction: Any, step: tuple[int, int], ahead: int) -> None:
    prediction, target = random(2, 3, 3, 4), random(2, 3, 3, 4, seed=1)
    found = patch_info_nce(turned(prediction, direction), turned(target, direction), ahead=ahead, scale=0.5)
    expected = by_loop(prediction, target, lambda i, j: (i + ahead * step[0], j + ahead * step[1]), 0.5)
    assert found.item() == pytest.approx(expected, rel=1e-10)


def test_a_context_knows_its_row_and_what_lies_above_it() -> None:
    torch.manual_seed(0)
    network, latents = ContextNetwork(6, 8, 3).double(), random(1, 5, 5, 6).requires_grad_()
    for row in range(5):
        [gradient] = torch.autograd.grad(network(latents)[0, row, 2].sum(), latents)
        seen = gradient[0].abs().sum(dim=(1, 2)) > 0
        assert seen.tolist() == [max(0, row - 3) <= other <= row for other in range(5)]


def test_patches_overlap_by_half() -> None:
    images = random(2, 3, 16, 16)
    patches = cut(images, 7).view(2, 7, 7, 3, 4, 4)
    for row, column in ((0, 0), (3, 5), (6, 6)):
        part = images[:, :, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4]
        assert torch.equal(patches[:, row, column], part)
    with pytest.raises(GlocalError, match="views of 16 pixels cannot be cut into 6 patches a side"):
        cut(images, 6)


def test_colours_and_flips_are_each_patchs_own_and_those_of_the_step() -> None:
    method = make("cpc", color_drop=1.0, flip=0.0)
    batch = views(method)
    patches = cut(torch.cat(batch.images), 3)
    found = method._changed(patches, batch)
    left = (found != 0).any(dim=(2, 3))  # (B·N, C)
    assert left.sum(dim=1).tolist() == [1] * len(found)
    assert left.sum(dim=0).min() > 10
    assert torch.equal(found, method._changed(patches, batch))
    method.now.step = 1
    assert not torch.equal(found, method._changed(patches, batch))
    flips = make("cpc", color_drop=0.0, flip=0.5)._changed(patches, batch)
    turned_over = (flips == patches.flip(-1)).flatten(1).all(dim=1)
    assert bool((turned_over | (flips == patches).flatten(1).all(dim=1)).all())
    assert 0.3 < float(turned_over.float().mean()) < 0.7


def test_the_method_is_the_mean_over_directions_and_steps() -> None:
    method = make("cpc", steps=(1, 2), directions=("down", "left"), color_drop=0.0, flip=0.0)
    batch = views(method)
    latents = method.backbone(cut(batch.images[0], 3)).view(8, 3, 3, -1)
    target, total = method.target(latents).detach(), 0.0
    for number, step in enumerate(((1, 0), (0, -1))):
        direction = method.settings.directions[number]
        predicted = method.predictors[number](method.contexts[number](turned(latents, direction))).detach()
        for place, ahead in enumerate((1, 2)):
            part = predicted[..., 16 * place : 16 * (place + 1)]
            back = part.flip(1).transpose(1, 2) if direction == "left" else part
            total += by_loop(back, target, lambda i, j, s=step, a=ahead: (i + a * s[0], j + a * s[1]), 0.1) / 4
    assert method(batch).item() == pytest.approx(total, rel=1e-4)


def test_rows_that_are_not_there_and_views_of_several_sizes_are_refused() -> None:
    with pytest.raises(GlocalError, match=r"method\.steps=\[3\]: of 3 rows none lies so far ahead; 2 is the most"):
        make("cpc", steps=(3,))
    method = make("cpc")
    batch = views(method)
    batch.images = (batch.images[0], batch.images[0][..., :8, :8])
    with pytest.raises(GlocalError, match="views of one size"):
        method(batch)


def test_batch_normalisation_is_noted(capsys: pytest.CaptureFixture[str]) -> None:
    make("cpc").check([], 8)
    assert capsys.readouterr().err == ""
    CPC(build_backbone(RESNET, size=16), CPCSettings(**SMALL)).check([], 8)
    assert "model.options.norm_layer=groupnorm1" in " ".join(capsys.readouterr().err.split())
