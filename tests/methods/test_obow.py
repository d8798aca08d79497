"""OBoW: words, bags of them, and their prediction."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize

from glocal.errors import GlocalError
from glocal.losses.words import bag_of_words, bag_prediction, word_distances
from glocal.methods.obow import OBoW, OBoWSettings, _draw_word
from glocal.models.architecture import ModelSettings
from glocal.models.building import build_backbone
from glocal.views.batch import Views
from tests.methods.cases import RESNET_RUN, MethodCase, make, views

CASE = MethodCase(
    slow=True,
    trained={"loss": {"backbone", "generators"}},
    small={"words": 32},
    run={**RESNET_RUN, "method.words": 128, "method.momentum": 0.95, "optimizer.lr": 0.06},
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bags_by_loop(features: Tensor, words: Tensor, sharpness: float) -> Tensor:
    bags = torch.zeros(len(features), len(words), dtype=torch.float64)
    for image, locations in enumerate(features):
        for location in locations:
            distances = torch.stack([(location - word).square().sum() for word in words]).double()
            weights = torch.exp(-sharpness * (distances - distances.min()))
            bags[image] = torch.maximum(bags[image], weights / weights.sum())
        bags[image] /= bags[image].sum()
    return bags


def test_bags_equal_a_plain_loop() -> None:
    features, words = random(3, 6, 4), random(5, 4, seed=1)
    found = bag_of_words(word_distances(features, words), sharpness=0.7)
    assert torch.allclose(found, bags_by_loop(features, words, 0.7), rtol=1e-10)


def test_distances_are_those_of_torch_and_never_negative() -> None:
    features, words = random(2, 5, 4).float(), random(7, 4, seed=1).float()
    expected = torch.cdist(features.double(), words.double()).square()
    assert torch.allclose(word_distances(features, words).double(), expected, atol=1e-4)
    assert word_distances(1000 * features, 1000 * features[0]).amin() >= 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(word_distances(features, words), word_distances(features, words).float())


def test_the_prediction_loss_equals_a_plain_loop_and_is_nothing_for_the_right_bag() -> None:
    logits, bags = random(2, 3, 5), torch.softmax(random(3, 5, seed=1), dim=1)
    bags[0, 2] = 0.0
    bags[0] /= bags[0].sum()
    expected = 0.0
    for crop in logits:
        for row, bag in zip(crop, bags, strict=True):
            share = torch.exp(row) / torch.exp(row).sum()
            expected += sum(float(y * (y / p).log()) for y, p in zip(bag, share, strict=True) if y > 0) / 6
    assert bag_prediction(logits, bags).item() == pytest.approx(expected, rel=1e-10)
    assert bag_prediction(bags[1:].log()[None], bags[1:]).item() == pytest.approx(0.0, abs=1e-12)
    assert torch.autograd.gradcheck(lambda x: bag_prediction(x, bags), logits.requires_grad_())


def test_the_loss_is_predicted_bags_over_levels_and_sizes_of_crops() -> None:
    method, fresh = make("obow"), make("obow")
    batch = views(method)
    assert [image.shape[-1] for image in batch.images] == [16, 11, 11, 8, 8, 8, 8, 8]
    network = fresh.teacher.chain[0].network
    deep = network.layer3(network.layer2(network.layer1(network.maxpool(network.act1(network.bn1(network.conv1(
        batch.images[0]
    )))))))  # fmt: skip
    maps = [deep[..., 1:-1, 1:-1], network.layer4(deep)]  # 4 × 4 without its border, and 2 × 2
    expected = torch.zeros(())
    for level, found in enumerate(maps):
        words = fresh.vocabularies[level].keys
        features = found.flatten(2).mT
        nearest = torch.cdist(features, words).square().amin(dim=-1).mean()
        bags = bags_by_loop(features, words, float(15 / (0.99 * 0.5 + 0.01 * nearest))).float()
        weights = 8 * normalize(fresh.generators[level](normalize(words, dim=1)), dim=1)
        for size in (batch.images[1:3], batch.images[3:]):
            logits = fresh.backbone(torch.cat(size)) @ weights.T
            expected = expected + bag_prediction(logits.unflatten(0, (-1, 8)), bags) / 2
    assert method(batch).item() == pytest.approx(expected.item(), rel=1e-3)


def test_after_a_step_every_vocabulary_has_a_local_mean_of_each_image() -> None:
    method, fresh = make("obow"), make("obow")
    batch, before = views(method), method.distance.clone()
    method(batch)
    method.after_step()
    maps = fresh.teacher.chain[0].forward_maps(batch.images[0], 2)
    assert [found.shape[-1] for found in maps] == [4, 2]
    assert torch.allclose(
        method.vocabularies[0].keys[:8], avg_pool2d(maps[0][..., 1:-1, 1:-1], 2).flatten(1), atol=1e-5
    )
    assert torch.allclose(method.vocabularies[1].keys[:8], avg_pool2d(maps[1], 2).flatten(1), atol=1e-5)
    assert [vocabulary.position.item() for vocabulary in method.vocabularies] == [8, 8]
    assert not torch.equal(method.distance, before)


def test_words_are_drawn_from_counters_and_from_all_places() -> None:
    features = torch.arange(64 * 25.0).view(64, 1, 5, 5)
    first = _draw_word(features, 0, 0, 7, torch.arange(64))
    assert torch.equal(first, _draw_word(features, 0, 0, 7, torch.arange(64)))
    assert not torch.equal(first, _draw_word(features, 0, 0, 8, torch.arange(64)))
    assert set((first[:, 0] % 25).tolist()) == {6.0, 7.0, 8.0, 11.0, 12.0, 13.0, 16.0, 17.0, 18.0}


def test_what_has_no_maps_or_no_crops_is_refused() -> None:
    with pytest.raises(GlocalError, match="SmallAlexNet has 0 stages.*choose a ResNet"):
        OBoW(build_backbone(ModelSettings(name="small_alexnet"), size=64), OBoWSettings())
    method = make("obow")
    batch = views(method)
    with pytest.raises(GlocalError, match="the teacher's view and crops are needed"):
        method(Views(batch.images[:1], batch.geometry[:1], batch.index))
