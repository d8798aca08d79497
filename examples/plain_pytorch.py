"""A method, its views and its loss in your own plain PyTorch loop: no recipe, no run folder, no framework.

    python examples/plain_pytorch.py                                               # drawn shapes, seconds
    python examples/plain_pytorch.py --data photos/train --test photos/test        # yours, a folder for each class
    python examples/plain_pytorch.py --data photos/                                # without labels nothing is measured

It trains a ResNet-18 of timm by SimCLR and writes timm's weights.
"""

import argparse
from pathlib import Path

import timm
import torch

import glocal
from glocal.data.lanes.choice import natural_size, open_lane
from glocal.data.lanes.order import BatchOrder
from glocal.data.settings import DataSettings
from glocal.data.sources.opening import open_source
from glocal.methods.simclr import SimCLR, SimCLRSettings
from glocal.models.backbone import Backbone
from glocal.models.loading import choose_device
from glocal.schedules import Clock, Schedule
from glocal.views.plan import Jitter, Solarize, View, ViewPlan

SEED = 0


def views_of(data: str, size: int) -> list[View]:
    """SimCLR's own for photographs; of the shapes grey, partly inverted crops, which leave little but the shape."""
    if not data.startswith("shapes"):
        return SimCLR.view_plan(size)
    jitter = Jitter(probability=0.8, brightness=0.3, contrast=0.3, saturation=0.0, hue=0.0)
    inverted = Solarize(probability=0.5, threshold=0.0)
    return [View(count=2, size=size, scale=(0.5, 1.0), jitter=jitter, grey=1.0, solarize=inverted)]


def accuracy(backbone: Backbone, data: str, test: str) -> float:
    """k-NN accuracy in percent: images of `test` get the class that the nearest of `data` have."""
    found = glocal.evaluate(backbone, train=data, test=test, protocols="knn", k=[20], cache=False, progress=False)
    return float(found["protocols"]["knn"]["results"][0]["metrics"]["top1"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="shapes:train:2048", help="images to learn from, as for glocal pretrain")
    parser.add_argument("--test", help="labelled images to measure on; default: with shapes, shapes:test")
    parser.add_argument("--out", type=Path, default=Path("runs/plain-pytorch.pt"), help="file for the weights")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.12)
    arguments = parser.parse_args()
    test = arguments.test or ("shapes:test" if arguments.data.startswith("shapes") else None)
    torch.manual_seed(SEED)
    device = torch.device(choose_device("auto"))

    # The network: any of timm's, or your own with an attribute `num_features`. Here a narrow one, for two cores.
    source = open_source(arguments.data)
    size = natural_size(source)
    network = timm.create_model("resnet18", num_classes=0, channels=[16, 32, 64, 128], zero_init_last=False)
    backbone = Backbone(network, size=size)

    # The method: a torch module with all that it needs beside the network (head; others have a teacher and a queue).
    method = SimCLR(backbone, SimCLRSettings(temperature=0.2)).to(device)

    # The views: drawn and made in batches on the device, or by worker processes from files. A function of the step.
    order = BatchOrder(len(source), arguments.batch_size, SEED)
    lane = open_lane(source, DataSettings(), ViewPlan(views_of(arguments.data, size)), order, device)

    if test:
        print(f"untrained: {accuracy(backbone, arguments.data, test):.1f} % k-NN accuracy")
    steps = arguments.epochs * order.steps_per_epoch
    rate = Schedule(start=arguments.lr, end=0.0, warmup_epochs=1)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.0, momentum=0.9, weight_decay=5e-4)
    for step, views in enumerate(lane.batches(0, steps)):
        clock = Clock(step, order.steps_per_epoch, steps)
        for group in optimizer.param_groups:
            group["lr"] = rate.at(clock)
        method.before_step(clock)  # the method's own schedules
        loss = method(views)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step()  # teacher and queue, where it has them
        if step in (0, steps - 1) or (step + 1) % order.steps_per_epoch == 0:
            print(f"step {step + 1} of {steps}: loss {loss.item():.3f}")
    if test:
        print(f"trained: {accuracy(backbone, arguments.data, test):.1f} % k-NN accuracy")

    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), arguments.out)  # timm.create_model(…).load_state_dict(torch.load(…)) takes it
    print(f"weights: {arguments.out}")


if __name__ == "__main__":
    main()
