"""A method as a LightningModule, trained by Lightning's Trainer: an optimiser for each phase, schedules, checkpoints.

    python examples/lightning_module.py                                            # drawn shapes, seconds
    python examples/lightning_module.py --method logo                              # three updates in each step
    python examples/lightning_module.py --data photos/train --test photos/test     # yours, a folder for each class

The same command goes on where a stopped training stands: Lightning keeps its last checkpoint in --out.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

import glocal
from glocal.config import AnyRecipe, build_recipe
from glocal.data.lanes.choice import Lane, natural_size, open_lane
from glocal.data.lanes.order import BatchOrder
from glocal.data.sources.base import Source
from glocal.data.sources.opening import open_source
from glocal.methods.building import build_method
from glocal.models.backbone import Backbone
from glocal.schedules import Clock
from glocal.training.optimizers import build_optimizers, set_schedules
from glocal.views.batch import Views
from glocal.views.plan import ViewPlan

# At least half of a drawn image is shown, grey and partly inverted, which leaves little but the shape; of photographs
# what the method has.
SHAPES = {
    "scale": (0.5, 1.0),
    "jitter": {"probability": 0.8, "brightness": 0.3, "contrast": 0.3, "saturation": 0.0, "hue": 0.0},
    "grey": 1.0,
    "solarize": {"probability": 0.5, "threshold": 0.0},
}


class Steps:
    """The views of the steps from `first` up to `last`: what Lightning iterates over in an epoch."""

    def __init__(self, lane: Lane, first: int, last: int) -> None:
        self.lane, self.first, self.last = lane, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[Views]:
        return self.lane.batches(self.first, self.last)


class SelfSupervised(lightning.LightningModule):
    """A method of glocal that needs no labels, no memory bank and no look at all images between epochs.

    Args:
        recipe: resolved; its sections model, method, views and optimizer decide what is trained, and how.
        source: the images.
    """

    def __init__(self, recipe: AnyRecipe, source: Source) -> None:
        super().__init__()
        self.automatic_optimization = False  # a method may have several updates in a step
        self.recipe, self.source = recipe, source
        self.order = BatchOrder(len(source), recipe.train.batch_size, recipe.seed)
        torch.manual_seed(recipe.seed)
        self.method = build_method(recipe)

    def setup(self, stage: str) -> None:
        device = self.trainer.strategy.root_device
        plan = ViewPlan(self.recipe.views or [])
        self.lane = open_lane(self.source, self.recipe.data, plan, self.order, device, progress=False)
        self.lane.partners = self.method.partners

    def train_dataloader(self) -> Steps:
        """This epoch's views, which are a function of the step, so that a resumed training sees what it would have."""
        first = self.current_epoch * self.order.steps_per_epoch
        return Steps(self.lane, first, first + self.order.steps_per_epoch)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return list(build_optimizers(self.method, self.recipe.optimizer).values())  # in the order of method.phases

    def training_step(self, views: Views, batch_idx: int) -> None:
        steps, train = self.order.steps_per_epoch, self.recipe.train
        clock = Clock(self.current_epoch * steps + batch_idx, steps, train.epochs * steps)
        self.method.before_step(clock)  # the method's own schedules
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        for phase, optimizer in zip(self.method.phases, optimizers, strict=True):
            set_schedules(optimizer.optimizer, self.recipe.optimizer, train.batch_size, clock)  # glocal.schedules
            loss = self.method(views, phase)
            self.manual_backward(loss)
            moved = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            self.method.before_update(phase, [one.grad for one in moved if one.grad is not None])
            optimizer.step()
            optimizer.zero_grad()
        self.method.after_step()  # teacher and queue, where it has them
        self.log("loss", loss, prog_bar=True)  # the last phase's


def accuracy(backbone: Backbone, data: str, test: str) -> float:
    """k-NN accuracy in percent: images of `test` get the class that the nearest of `data` have."""
    found = glocal.evaluate(backbone, train=data, test=test, protocols="knn", k=[20], cache=False, progress=False)
    return float(found["protocols"]["knn"]["results"][0]["metrics"]["top1"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="shapes:train:2048", help="images to learn from, as for glocal pretrain")
    parser.add_argument("--test", help="labelled images to measure on; default: with shapes, shapes:test")
    parser.add_argument(
        "--method", default="simclr", help="a method of glocal for ResNets, or path/to/file.py:ClassName"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/lightning"), help="folder for Lightning's checkpoints")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=64)
    arguments = parser.parse_args()
    shapes = arguments.data.startswith("shapes")
    test = arguments.test or ("shapes:test" if shapes else None)

    source = open_source(arguments.data)
    overrides = {
        "method.name": arguments.method,
        "model.options": {"channels": [16, 32, 64, 128]},  # a narrow ResNet-18, for two cores
        "model.stem": "standard",
        "optimizer.lr": 0.5,
        "optimizer.warmup_epochs": 1,
        "train.epochs": arguments.epochs,
        "train.batch_size": arguments.batch_size,
    }
    recipe = build_recipe({}, overrides, data_size=natural_size(source))
    if shapes:
        count = len(recipe.views or [])
        views = {f"views.{number}.{key}": value for number in range(count) for key, value in SHAPES.items()}
        recipe = build_recipe({}, {**overrides, **views}, data_size=natural_size(source))

    module = SelfSupervised(recipe, source)
    if test:
        print(f"untrained: {accuracy(module.method.backbone, arguments.data, test):.1f} % k-NN accuracy")
    checkpoints = ModelCheckpoint(arguments.out, save_last=True)
    trainer = lightning.Trainer(
        max_epochs=arguments.epochs,
        devices=1,
        callbacks=[checkpoints],
        default_root_dir=arguments.out,
        logger=False,
        enable_model_summary=False,
        reload_dataloaders_every_n_epochs=1,  # each epoch has its own steps
    )
    written = arguments.out / "last.ckpt"
    trainer.fit(module, ckpt_path=str(written) if written.exists() else None)

    trained = SelfSupervised.load_from_checkpoint(written, recipe=recipe, source=source, map_location="cpu")
    print(f"checkpoint: {written}, loss {float(trainer.callback_metrics.get('loss', float('nan'))):.3f}")
    if test:
        print(f"trained: {accuracy(trained.method.backbone, arguments.data, test):.1f} % k-NN accuracy")


if __name__ == "__main__":
    main()
