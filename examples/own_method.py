"""A method of your own in one file, outside of the package, trained by glocal's own loop.

    python examples/own_method.py                                        # drawn shapes, seconds
    python examples/own_method.py --data photos/ --out runs/mine         # your images
    glocal pretrain --data photos/ --out runs/mine --set method.name=examples/own_method.py:DecoupledContrast

The method is decoupled contrastive learning (Yeh et al., ECCV 2022): SimCLR's loss without the positive pair in the
denominator. Recipes, resuming, logs, several devices and evaluation are those of every other method.
"""

import argparse
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

import glocal
from glocal.methods import Method
from glocal.methods.base import MethodSettings
from glocal.models.backbone import Backbone
from glocal.models.heads import mlp
from glocal.schedules import Temperature
from glocal.views.batch import Views
from glocal.views.plan import Jitter, Solarize, View


class DecoupledContrastSettings(MethodSettings):
    """What a recipe can set, with defaults: `--set method.temperature=0.1`. Wrong names and values are told."""

    temperature: Temperature = 0.2  # a number or a schedule
    output_dim: int = Field(64, ge=1)


class DecoupledContrast(Method):
    """Two views of an image attract each other and are pushed away from those of the batch's other images."""

    Settings = DecoupledContrastSettings
    compares_batch = True  # so that a note says what splitting the batch changes

    def __init__(self, backbone: Backbone, settings: DecoupledContrastSettings) -> None:
        super().__init__(backbone, settings)
        self.projector = mlp([backbone.dim, backbone.dim, settings.output_dim], norm=True)

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        """Two crops, grey and half of them inverted: little but the shape is left to agree on. A recipe's `views` go
        before it."""
        inverted = Solarize(probability=0.5, threshold=0.0)
        jitter = Jitter(probability=0.8, brightness=0.3, contrast=0.3, saturation=0.0, hue=0.0)
        return [View(count=2, size=size, scale=(0.5, 1.0), jitter=jitter, grey=1.0, solarize=inverted)]

    def loss(self, views: Views) -> Tensor:
        first, second = (normalize(self.projector(self.backbone(view)).float(), dim=1) for view in views.pair())
        self.embedding = first.detach()  # (B, D): what the collapse monitor looks at
        both = torch.cat([first, second])  # (2B, D)
        similarity = both @ both.T / self.now.temperature  # (2B, 2B)
        positive = (first * second).sum(dim=1).repeat(2) / self.now.temperature  # (2B,)
        same_image = torch.eye(len(first), dtype=torch.bool, device=both.device).repeat(2, 2)
        negatives = similarity.masked_fill(same_image, float("-inf")).logsumexp(dim=1)  # (2B,)
        return (negatives - positive).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="shapes:train:2048", help="a folder of images, torchvision:CIFAR10, …")
    parser.add_argument("--train", default="shapes:train:2048", help="labelled images that k-NN learns from")
    parser.add_argument("--test", default="shapes:test", help="labelled images that it is measured on")
    parser.add_argument("--out", default="runs/own-method", help="the run's folder; a stopped run in it is continued")
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_args()

    run = glocal.pretrain(
        arguments.data,
        arguments.out,
        overrides={
            "method.name": f"{__file__}:{DecoupledContrast.__name__}",
            "model.options": {"channels": [16, 32, 64, 128]},  # a narrow ResNet-18, for two cores
            "model.stem": "standard",
            "optimizer.lr": 0.5,
            "train.epochs": arguments.epochs,
            "train.batch_size": 64,
            "monitor.knn_epochs": 0,
        },
    )
    for name, backbone in (("untrained", f"untrained:{run.folder}"), ("trained", run.folder)):
        found = glocal.evaluate(backbone, train=arguments.train, test=arguments.test, protocols="knn", k=[20])
        print(f"{name}: {found['protocols']['knn']['results'][0]['metrics']['top1']:.1f} % k-NN accuracy")


if __name__ == "__main__":
    main()
