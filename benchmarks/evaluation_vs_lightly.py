"""`glocal evaluate` beside lightly's classifiers: k-NN and a linear probe of one frozen network on the same files.

Of all sides the network is the same untrained ResNet-18 at 32 × 32 in fp32, the images are files in a folder for each
class, batches have 256 images, k is 20 at temperature 0.07, and the probe is SGD with momentum and a cosine from 0.1.

- `lightly`: `KNNClassifier` and `LinearClassifier` in Lightning's trainer, as its benchmarks on ImageNet use them:
  features for k-NN first, then random resized crops and flips that go through the network in every epoch.
- `glocal, same work`: `linear.style=moco`, whose probe sees such crops too.
- `glocal`: what `glocal evaluate` does unless told otherwise: features once, six rates for the probe at a time, 100
  epochs on features, of which a tenth is held out for the choice. The time says what this costs; it is another probe.

Features are not kept on the disk. Every side runs in a process of its own; the sides take turns. Seconds are the median
of the rounds after the first, memory is the peak of the main process above what it held with the network before; `time`
and `memory` are a side's over lightly's.

    pip install -e '.[bench]'
    python benchmarks/evaluation_vs_lightly.py --train cifar10/train --test cifar10/test [--device cuda] [--json F]
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import (
    Table,
    answer_each_line,
    command_line,
    in_turn,
    machine,
    on_gpu,
    peak_bytes,
    peak_from_here,
    print_machine,
    timed,
    write_json,
)
from torch.utils.data import DataLoader, Dataset

from glocal.models.architecture import ModelSettings
from glocal.models.backbone import Backbone
from glocal.models.building import build_backbone
from glocal.settings import IMAGENET_MEAN, IMAGENET_STD

SIDES = ("lightly", "glocal, same work", "glocal")
SIZE, BATCH, K, TEMPERATURE, RATE = 32, 256, 20, 0.07, 0.1
Accuracies = dict[str, float]


def network() -> Backbone:
    torch.manual_seed(0)
    return build_backbone(ModelSettings(name="resnet18", stem="standard"), size=SIZE).eval()


def by_lightly(options: argparse.Namespace) -> Callable[[], Accuracies]:
    import pytorch_lightning
    from lightly.utils.benchmarking import KNNClassifier, LinearClassifier
    from torchvision import datasets, transforms

    backbone = network()
    end = [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    plain = transforms.Compose(end)
    crops = transforms.Compose([transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip(), *end])

    def loader(images: Dataset[Any], *, training: bool = False) -> DataLoader[Any]:
        return DataLoader(
            images,
            BATCH,
            shuffle=training,
            drop_last=training,
            num_workers=options.workers,
            pin_memory=on_gpu(options.device),
            persistent_workers=options.workers > 0,
        )

    train, test = (loader(datasets.ImageFolder(folder, plain)) for folder in (options.train, options.test))
    cropped = datasets.ImageFolder(options.train, crops)
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "accelerator": "gpu" if on_gpu(options.device) else "cpu", "devices": 1}

    def work() -> Accuracies:
        classes = len(cropped.classes)
        neighbours = KNNClassifier(
            backbone, classes, knn_k=K, knn_t=TEMPERATURE, train_dataloader_idx=0, val_dataloader_idx=1, topk=(1,)
        )
        [_, found] = pytorch_lightning.Trainer(**quiet).validate(neighbours, [train, test], verbose=False)
        knn = next(value for name, value in found.items() if name.startswith("val_knn_top1"))
        probe = LinearClassifier(backbone, BATCH, lr=RATE, feature_dim=backbone.dim, num_classes=classes, topk=(1,))
        trainer = pytorch_lightning.Trainer(max_epochs=options.epochs, limit_val_batches=0, **quiet)
        trainer.fit(probe, loader(cropped, training=True))
        [found] = pytorch_lightning.Trainer(**quiet).validate(probe, test, verbose=False)
        return {"knn": 100 * knn, "linear": 100 * found["val_top1"]}

    return work


def by_glocal(options: argparse.Namespace, *, same: bool) -> Callable[[], Accuracies]:
    import glocal

    backbone = network()
    settings: dict[str, Any] = {"knn.temperature": TEMPERATURE}
    if same:
        settings |= {"linear.style": "moco", "linear.learning_rates": [RATE], "linear.schedule": "cosine"}
        settings |= {"linear.epochs": options.epochs, "linear.batch_size": BATCH}

    def work() -> Accuracies:
        found = glocal.evaluate(
            backbone,
            train=options.train,
            test=options.test,
            settings=settings,
            k=[K],
            device=options.device,
            workers=options.workers,
            cache=False,
            progress=False,
        )
        return {name: found["protocols"][name]["results"][0]["metrics"]["top1"] for name in ("knn", "linear")}

    return work


def serve(side: str, options: argparse.Namespace) -> None:
    """One side: waits for a line, measures, answers with seconds, peak memory in MB and the accuracies."""
    made = by_lightly(options) if side == SIDES[0] else by_glocal(options, same=side == SIDES[1])

    def answer() -> dict[str, Any]:
        before = peak_from_here(options.device)
        seconds, found = timed(made, options.device)
        return {"seconds": seconds, "megabytes": (peak_bytes(options.device) - before) / 1e6, **found}

    answer_each_line(answer)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--train", type=Path, required=True, help="a folder of images for each class")
    parser.add_argument("--test", type=Path, required=True, help="the same of the test images")
    parser.add_argument("--epochs", type=int, default=10, help="of the probe that sees crops; papers have 90 or 100")
    parser.add_argument("--rounds", type=int, default=2, help="after one that is not counted")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.serve:
        serve(options.serve, options)
        return
    described = machine(options.device, "lightly")
    print_machine(described)
    names = ("train", "test", "epochs", "threads", "workers", "device")
    shared = [part for name in names for part in (f"--{name}", getattr(options, name))]
    answers = in_turn({side: [__file__, "--serve", side, *shared] for side in SIDES}, 1 + options.rounds)
    table = Table({"": 20, "s": 9, "time": 7, "MB": 8, "memory": 8, "k-NN %": 8, "linear %": 10})
    rows: dict[str, dict[str, float]] = {}
    for side, found in answers.items():
        seconds = statistics.median(one["seconds"] for one in found[1:])
        megabytes = max(one["megabytes"] for one in found[1:])
        first = rows.get(SIDES[0], {"seconds": seconds, "megabytes": megabytes})
        rows[side] = {
            "seconds": seconds,
            "time": seconds / first["seconds"],
            "megabytes": megabytes,
            "memory": megabytes / max(first["megabytes"], 1e-9),
            "knn": found[-1]["knn"],
            "linear": found[-1]["linear"],
        }
        table.row(side, *(f"{n:.{d}f}" for n, d in zip(rows[side].values(), (1, 2, 0, 2, 2, 2), strict=True)))
    write_json(options.json, described, epochs=options.epochs, sides=rows)


if __name__ == "__main__":
    main()
