"""OBoW: online bag-of-visual-words generation.

Gidaris, Bursuc, Puy, Komodakis, Cord and Pérez, "OBoW: Online Bag-of-Visual-Words Generation for Self-Supervised
Learning", CVPR 2021 (section 3). A momentum teacher says which visual words occur in an image; the student predicts it
from crops. The words are a queue of the teacher's local features, and the layer that predicts them is made from them.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, normalize

from glocal.distributed import all_gather
from glocal.losses.precision import inner_products
from glocal.losses.words import bag_of_words, bag_prediction, word_distances
from glocal.methods.base import Method, MethodSettings
from glocal.models.backbone import Backbone
from glocal.models.heads import mlp
from glocal.models.momentum import MomentumTeacher
from glocal.models.queue import NegativeQueue
from glocal.schedules import Schedule, Share, Weight
from glocal.settings import Groups
from glocal.transfer import to_device
from glocal.views.batch import Views, by_size
from glocal.views.plan import Blur, Jitter, View
from glocal.views.random import uniform


class OBoWSettings(MethodSettings):
    """Defaults are those of ImageNet with a ResNet-50 in the authors' code."""

    name: Literal["obow"] = "obow"
    levels: int = Field(2, ge=1, le=100)  # the last stages of the network, with a vocabulary each
    words: Groups = 8192  # in a vocabulary
    inverse_delta: float = Field(15.0, gt=0)  # sharpness of the assignment, over the mean distance to the nearest word
    distance_momentum: Share = 0.99  # of that mean
    kappa: Weight = 8.0  # the length of a word's weights
    momentum: Share = Schedule(start=0.99, end=1.0)


class OBoW(Method):
    """Prediction of a momentum teacher's bags of words from crops.

    The teacher sees the central square of the image at its full side, where the authors cut 224 of 256 pixels. Small
    crops are placed at random; the authors take five of nine overlapping tiles of a larger crop. The border of a
    feature map is left out as in the authors' code, where something else is left.
    """

    Settings = OBoWSettings
    distance: Tensor  # (L,) mean squared distance of a location from its nearest word

    def __init__(self, backbone: Backbone, settings: OBoWSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        widths = backbone.map_widths(settings.levels)
        dim = backbone.dim
        self.generators = nn.ModuleList(_generator([width, 2 * dim, dim]) for width in widths)
        self.teacher = MomentumTeacher(self.backbone)
        self.vocabularies = nn.ModuleList(NegativeQueue(settings.words, width) for width in widths)
        for vocabulary in self.vocabularies:  # like features after a ReLU
            vocabulary.get_buffer("keys").normal_().relu_()
        self.register_buffer("distance", torch.full((len(widths),), 0.5))
        self.new_words: list[list[Tensor]] = []
        self.new_distances: list[Tensor] = []

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        jitter, blur = Jitter(probability=0.8), Blur(probability=0.5 if size > 64 else 0.0)
        whole = View(name="teacher", size=size, scale=(1.0, 1.0), ratio=(1.0, 1.0))
        crop = View(name="crop", count=2, size=round(size * 160 / 224), scale=(0.08, 0.6), jitter=jitter, grey=0.2)
        small = {"name": "small", "count": 5, "size": max(8, round(size * 96 / 224)), "scale": (0.08, 0.14)}
        return [whole, crop.model_copy(update={"blur": blur}), crop.model_copy(update=small)]

    def loss(self, views: Views) -> Tensor:
        """The divergence at every level, averaged; over crops of a size averaged, and summed over the sizes."""
        image, *crops = views.several(2, "the teacher's view and crops")
        vocabularies = [vocabulary.get_buffer("keys") for vocabulary in self.vocabularies]
        bags = self._bags(image, vocabularies, views.index)
        weights = [
            self.now.kappa * normalize(generator(normalize(words, dim=1)).float(), dim=1)
            for generator, words in zip(self.generators, vocabularies, strict=True)
        ]  # (K, D) of each level
        losses: list[Tensor] = []
        self.embedding = None
        for run in by_size(crops):
            features = self.backbone(run).float()  # (S·B, D)
            self.embedding = features[: len(image)].detach() if self.embedding is None else self.embedding
            features = features.unflatten(0, (-1, len(image)))
            levels = [bag_prediction(inner_products(features, w), bag) for w, bag in zip(weights, bags, strict=True)]
            losses.append(torch.stack(levels).mean())
        return torch.stack(losses).sum()

    @torch.no_grad()
    def _bags(self, image: Tensor, vocabularies: list[Tensor], index: Tensor) -> list[Tensor]:
        """The bags of words (B, K) of every level; keeps new words and the mean distance for `after_step`."""
        network: Backbone = self.teacher.chain[0]  # type: ignore[assignment]
        maps = [_inner(found.float()) for found in network.forward_maps(image, self.settings.levels)]
        self.new_words.append(
            [_draw_word(found, self.seed, level, self.now.step, index) for level, found in enumerate(maps)]
        )
        distances = [
            word_distances(found.flatten(2).mT, words) for found, words in zip(maps, vocabularies, strict=True)
        ]
        nearest = all_gather(torch.stack([d.amin(dim=-1).mean() for d in distances])[None]).mean(dim=0)  # (L,)
        self.new_distances.append(nearest)
        mean = torch.lerp(nearest, self.distance, self.now.distance_momentum).clamp(min=torch.finfo(nearest.dtype).tiny)
        sharpness = self.settings.inverse_delta / mean
        return [bag_of_words(d, sharpness=s) for d, s in zip(distances, sharpness, strict=True)]

    def after_step(self) -> None:
        for vocabulary, words in zip(self.vocabularies, zip(*self.new_words, strict=True), strict=True):
            vocabulary.enqueue(torch.cat(words))  # type: ignore[operator]
        self.distance.lerp_(torch.stack(self.new_distances).mean(dim=0), 1 - self.now.distance_momentum)
        self.new_words.clear()
        self.new_distances.clear()
        self.teacher.update(self.backbone, momentum=self.now.momentum)


def _generator(widths: list[int]) -> nn.Sequential:
    """What makes weights from words. Its statistics are always those of the vocabulary, so it keeps none."""
    made = mlp(widths, norm=True)
    for layer in made:
        if isinstance(layer, nn.BatchNorm1d):
            layer.track_running_stats = False
            layer.running_mean = layer.running_var = layer.num_batches_tracked = None
    return made


def _inner(features: Tensor) -> Tensor:
    """A feature map without its border, where it has anything else."""
    return features[..., 1:-1, 1:-1] if min(features.shape[-2:]) > 2 else features


def _draw_word(features: Tensor, seed: int, level: int, step: int, index: Tensor) -> Tensor:
    """A random local mean of 3 × 3 positions of each map: (B, C, h, w) → (B, C)."""
    means = avg_pool2d(features, kernel_size=min(3, *features.shape[-2:]), stride=1).flatten(2)  # (B, C, N)
    place = to_device((uniform(seed, "word", level, step, index) * means.shape[-1]).long(), means.device)
    return means[torch.arange(len(means), device=means.device), :, place]
