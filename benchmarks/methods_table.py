"""k-NN accuracies of the methods after the same small budget on CIFAR-10, as one table.

Every method sees the same images for the same number of epochs with the same network and batch size; each keeps the
learning rate, temperatures and views of its own recipe. Below stand what has to be beaten: raw pixels and the
untrained network. Methods with more views or updates take longer for an epoch: the minutes are in the table, and are
part of the result.

    python benchmarks/methods_table.py --data cifar10 --per-class 1000 --epochs 20 --out runs/table
    python benchmarks/methods_table.py --data cifar10 --epochs 100 --device cuda --full --out runs/table-full

`--data` holds train/CLASS and test/CLASS. Without `--full` the network is a ResNet-18 of half width with the standard
stem, small enough for a CPU. The numbers go to `table.json` in the folder of --out.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from common import command_line, machine, print_machine, write_json

import glocal
from glocal.data.sources.base import Source, Subset
from glocal.data.sources.opening import open_source

RECIPES = {
    "MoCo v2": "moco-cifar10",
    "MoCo-LoGo": "logo-moco-cifar10",
    "SimSiam": "simsiam-cifar10",
    "SimSiam-LoGo": "logo-simsiam-cifar10",
    "CLIM": "clim-cifar10",
    "SCE": "sce-cifar10",
}
SMALL = {"model.stem": "standard", "model.options": {"channels": [32, 64, 128, 256]}}
NEIGHBORS = (10, 20, 200)


def first_of_each_class(source: Source, count: int | None) -> Source:
    """The first `count` images of each class; all of them where it is None."""
    if count is None or source.labels is None or source.classes is None:
        return source
    labels = source.labels
    chosen = torch.cat([(labels == number).nonzero()[:count, 0] for number in range(len(source.classes))])
    return Subset(source, chosen)


def accuracies(backbone: Any, train: Source, test: Source, device: str) -> list[float]:
    result = glocal.evaluate(
        backbone, train=train, test=test, protocols=("knn",), k=NEIGHBORS, device=device, progress=False
    )
    return [entry["metrics"]["top1"] for entry in result["protocols"]["knn"]["results"]]


def main() -> None:
    parser = command_line(__doc__, json_option=False)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--per-class", type=int)
    parser.add_argument("--test-per-class", type=int)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--full", action="store_true", help="ResNet-18 of full width with the small stem")
    parser.add_argument("--only", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    arguments = parser.parse_args()

    train = first_of_each_class(open_source(arguments.data / "train"), arguments.per_class)
    test = first_of_each_class(open_source(arguments.data / "test"), arguments.test_per_class)
    overrides = {
        "train.epochs": arguments.epochs,
        "train.batch_size": arguments.batch,
        "train.precision": arguments.precision,
        "train.device": arguments.device,
        "optimizer.warmup_epochs": 1,
        "monitor.knn_epochs": 0,
        **({} if arguments.full else SMALL),
    }
    described = machine("cuda" if torch.cuda.is_available() and arguments.device != "cpu" else "cpu")
    print_machine({**described, "images": len(train)})
    print(f"| {'method':<14} | " + " | ".join(f"k = {k}" for k in NEIGHBORS) + " | minutes |")
    print("| --- " * (2 + len(NEIGHBORS)) + "|")
    rows: list[dict[str, Any]] = []

    def report(name: str, found: list[float], minutes: float | None) -> None:
        rows.append({"method": name, "knn": dict(zip(NEIGHBORS, found, strict=True)), "minutes": minutes})
        taken = "" if minutes is None else f"{minutes:.1f}"
        print(f"| {name:<14} | " + " | ".join(f"{value:.2f}" for value in found) + f" | {taken} |", flush=True)
        write_json(arguments.out / "table.json", described, images=len(train), rows=rows)

    arguments.out.mkdir(parents=True, exist_ok=True)
    report("raw pixels", accuracies("pixels", train, test, arguments.device), None)
    for number, name in enumerate(arguments.only):
        recipe, folder = RECIPES[name], arguments.out / RECIPES[name]
        own = {"method.first_epoch": min(5, arguments.epochs // 4)} if recipe.startswith("clim") else {}
        start = time.perf_counter()
        glocal.pretrain(train, folder, recipe=recipe, overrides={**overrides, **own}, progress=False)
        minutes = (time.perf_counter() - start) / 60
        if number == 0:
            report("untrained", accuracies(f"untrained:{folder}", train, test, arguments.device), None)
        report(name, accuracies(folder, train, test, arguments.device), minutes)


if __name__ == "__main__":
    main()
