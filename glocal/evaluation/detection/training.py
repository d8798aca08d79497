"""Fine-tuning a detector of torchvision's, and what it finds afterwards."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN

from glocal.console import note, progress_bar, warn
from glocal.data.annotated.box_batches import (
    Example,
    ExampleReader,
    Request,
    example_batches,
    plain_images,
    training_order,
)
from glocal.data.annotated.boxes import DetectionImages
from glocal.data.annotated.outlines import run_lengths
from glocal.errors import BrokenImageError, GlocalError
from glocal.evaluation.metrics.detection import Detections
from glocal.files import write_atomically
from glocal.views.random import random_bits


@dataclass(frozen=True)
class Plan:
    """SGD with momentum 0.9 and steps, as detectron2 trains.

    Attributes:
        iterations: of how many images each (`batch_size`).
        learning_rate: after the warm-up and before the first decay.
        warmup: iterations in which it grows linearly from a thousandth.
        decays: iterations from which on it is a tenth of what it was.
        weight_decay: of all but the scales and shifts of normalisation.
        bf16: compute in bfloat16 where that is safe (autocast).
        precise: iterations whose mean are the statistics of batch normalisation in the end; 0 keeps running ones.
        seed: of order, augmentation and the detector's own sampling.
    """

    iterations: int
    batch_size: int
    learning_rate: float
    warmup: int
    decays: tuple[int, ...]
    weight_decay: float = 1e-4
    bf16: bool = False
    precise: int = 200
    seed: int = 0

    def rate(self, iteration: int) -> float:
        """The learning rate at an iteration, counted from 0.

        >>> plan = Plan(100, 16, 0.02, warmup=10, decays=(60, 80))
        >>> [round(plan.rate(iteration), 6) for iteration in (0, 10, 59, 60, 80)]
        [2e-05, 0.02, 0.02, 0.002, 0.0002]
        """
        warm = min(1.0, 0.001 + 0.999 * iteration / self.warmup) if self.warmup else 1.0
        return self.learning_rate * warm * 0.1 ** sum(iteration >= decay for decay in self.decays)


class Keeper:
    """Keeps a detector that is being trained in a file, so that a failure costs little.

    Args:
        path: the file; None keeps nothing.
        about: everything that decides the outcome, as JSON: another one is another training.
        every: iterations between two states.
    """

    def __init__(self, path: Path | None, about: Mapping[str, Any], every: int = 1000) -> None:
        self.path = path
        self.about = json.dumps(about, sort_keys=True)
        self.every = every

    def load(self) -> dict[str, Any] | None:
        """The state that was kept last of the same training; None where there is none."""
        if self.path is None or not self.path.exists():
            return None
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            same = state["about"] == self.about
        except (OSError, RuntimeError, KeyError, TypeError, ValueError, EOFError, UnpicklingError) as error:
            warn(f"{self.path} cannot be read ({type(error).__name__}); the detector is trained anew")
            return None
        if not same:
            note(f"{self.path} is of another backbone or other settings; it is replaced")
            return None
        return dict(state)

    def save(self, iteration: int, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
        """Writes the state after `iteration` iterations; without an optimiser it is the last one."""
        if self.path is None:
            return
        buffer = io.BytesIO()
        state = {
            "about": self.about,
            "iteration": iteration,
            "finished": optimizer is None,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict() if optimizer else None,
        }
        torch.save(state, buffer)
        write_atomically(self.path, lambda file: file.write(buffer.getbuffer()))


def finetune(
    model: FasterRCNN,
    reader: ExampleReader,
    plan: Plan,
    *,
    keeper: Keeper | None = None,
    repeats: Tensor | None = None,
    workers: int = 0,
    progress: bool = True,
) -> list[float]:
    """Trains a detector where it lies; what `keeper` has kept of the same training is gone on with.

    Args:
        model: a detector; images come resized, so its own choice of a size plays no part.
        reader: gives examples.
        plan: how long and how fast.
        keeper: keeps the state.
        repeats: (N,) how often each image is shown per epoch (`repeat_factors`).
        workers: processes that read images.
        progress: show a progress bar.

    Returns:
        The loss of each iteration that was done here.

    Raises:
        GlocalError: there is no object to learn from, or the loss is no longer finite.
    """
    keeper = keeper or Keeper(None, {})
    device = next(model.parameters()).device
    state = keeper.load()
    if state is not None:
        model.load_state_dict(state["model"])
        if state["finished"]:
            return []
    optimizer = torch.optim.SGD(_groups(model, plan.weight_decay), lr=plan.learning_rate, momentum=0.9)
    done = 0
    if state is not None:
        optimizer.load_state_dict(state["optimizer"])
        done = int(state["iteration"])
        note(f"{keeper.path}: goes on after iteration {done} of {plan.iterations}")
    usable = reader.usable()
    masks = reader.masks
    losses: list[float] = []
    broken: dict[str, str] = {}

    def batches(first: int, last: int) -> Iterator[list[Example]]:
        order: Iterator[list[Request]] = training_order(
            reader.images, usable, plan.batch_size, seed=plan.seed, repeats=repeats
        )
        for batch in example_batches(reader, islice(order, first, last), workers):
            broken.update({error.key: error.reason for error in batch.broken})
            yield batch.examples

    resizing = model.transform._skip_resize
    model.train()
    model.transform._skip_resize = True
    cuda = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=cuda), progress_bar("iterations", visible=progress, extra=("loss",)) as bar:
            task = bar.add_task("fine-tuning", total=plan.iterations, completed=done, loss="")
            for iteration, examples in enumerate(batches(done, plan.iterations), start=done):
                if examples:
                    # torchvision samples anchors and regions with the global generator.
                    torch.manual_seed(int(random_bits(plan.seed, "detector", iteration)))
                    loss = _step(model, examples, optimizer, plan, iteration, masks=masks)
                    losses.append(loss)
                    bar.update(task, loss=f"loss {loss:.3f}")
                bar.advance(task)
                if (iteration + 1) % keeper.every == 0 and iteration + 1 < plan.iterations:
                    keeper.save(iteration + 1, model, optimizer)
            torch.manual_seed(int(random_bits(plan.seed, "precise")))
            _precise_statistics(model, batches(plan.iterations, plan.iterations + plan.precise), plan, masks=masks)
    finally:
        model.transform._skip_resize = resizing
    if broken:
        key, reason = next(iter(broken.items()))
        warn(f"{len(broken)} training images were left out, the first is {key}: {reason}")
    if not losses and done < plan.iterations:
        raise GlocalError(f"{reader.images.name}: none of its images can be read")
    keeper.save(plan.iterations, model, None)
    return losses


@torch.no_grad()
def detect(
    model: FasterRCNN, images: DetectionImages, *, workers: int = 0, progress: bool = True
) -> tuple[list[Detections], list[BrokenImageError]]:
    """What a detector finds in all images, one at a time, so that no image's padding depends on another.

    Returns:
        For each image its detections (masks as run lengths, where the model makes masks), none for an unreadable one,
        and the images that could not be read.
    """
    device = next(model.parameters()).device
    found, broken = [], []
    model.eval()
    with progress_bar("images", visible=progress) as bar:
        task = bar.add_task(f"detections in {images.name}", total=len(images))
        for _, image in plain_images(images, workers):
            if isinstance(image, BrokenImageError):
                broken.append(image)
                found.append(Detections(torch.empty(0, 4), torch.empty(0), torch.empty(0, dtype=torch.int64), []))
            else:
                [result] = model([image.to(device).float().div_(255)])
                masks = run_lengths(result["masks"][:, 0] > 0.5) if "masks" in result else None
                boxes, scores, labels = (result[name].cpu() for name in ("boxes", "scores", "labels"))
                found.append(Detections(boxes, scores, labels - 1, masks))
            bar.advance(task)
    return found, broken


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The parameters, those of normalisation without decay, as detectron2 has it."""
    norms = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.BatchNorm2d)
        for parameter in module.parameters(recurse=False)
    }
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if id(p) not in norms], "weight_decay": weight_decay},
        {"params": [p for p in trained if id(p) in norms], "weight_decay": 0.0},
    ]


def _step(
    model: FasterRCNN,
    examples: list[Example],
    optimizer: torch.optim.Optimizer,
    plan: Plan,
    iteration: int,
    *,
    masks: bool,
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = plan.rate(iteration)
    total = _loss(model, examples, plan, masks=masks)
    value = float(total.detach())
    if not math.isfinite(value):
        raise GlocalError(
            f"the detector's loss is {value} at iteration {iteration}; lower detection.learning_rate "
            f"({plan.learning_rate:g}) or lengthen detection.warmup ({plan.warmup})"
        )
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    optimizer.step()
    return value


def _loss(model: FasterRCNN, examples: list[Example], plan: Plan, *, masks: bool) -> Tensor:
    """The sum of the detector's losses; its label 0 is the background."""
    device = next(model.parameters()).device
    images = [example.image.to(device, non_blocking=True).float().div_(255) for example in examples]
    targets = []
    for example in examples:
        target = {"boxes": example.boxes.to(device), "labels": (example.labels + 1).to(device)}
        if masks:
            assert example.masks is not None  # the reader was asked for them
            target["masks"] = example.masks.to(device, non_blocking=True)
        targets.append(target)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=plan.bf16):
        losses: dict[str, Tensor] = model(images, targets)
    return torch.stack([loss.float() for loss in losses.values()]).sum()


@torch.no_grad()
def _precise_statistics(model: FasterRCNN, batches: Iterator[list[Example]], plan: Plan, *, masks: bool) -> None:
    """Gives batch normalisation the mean of its statistics over some batches (Wu and Johnson, "Rethinking 'Batch' in
    BatchNorm", 2021, section 3), which running ones of a network that still changes are not."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms or not plan.precise:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
    try:
        for examples in batches:
            if examples:
                _loss(model, examples, plan, masks=masks)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
