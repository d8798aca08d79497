"""A run: a folder with a recipe, checkpoints and logs; `pretrain` makes or continues one."""

from __future__ import annotations

import json
import operator
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy

import glocal
from glocal.config import AnyRecipe, TrainSettings, build_recipe, load_mapping
from glocal.console import note
from glocal.data.images import Decoding, allow_pixels
from glocal.data.loader import Lane, natural_size, open_lane
from glocal.data.order import BatchOrder
from glocal.data.ranges import settle_decoding
from glocal.data.sources import Source, open_source
from glocal.errors import GlocalError
from glocal.files import write_text
from glocal.methods import method_class
from glocal.methods.base import Method
from glocal.models.backbone import Backbone, build_backbone
from glocal.models.linear import blas_is_slow, use_onednn
from glocal.models.loading import choose_device, load_backbone
from glocal.report.plots import draw_loss, draw_views
from glocal.training.checkpoints import load_weights, newest_checkpoint, save_checkpoint
from glocal.training.log import RunLog, read_metrics
from glocal.training.loop import Hooks, train
from glocal.training.memory import keep_freed_memory
from glocal.training.monitors import KNNMonitor
from glocal.training.optimizers import build_optimizers
from glocal.training.precision import choose_precision
from glocal.training.rehearsal import rehearse
from glocal.training.threads import advice_on_threads
from glocal.views.plan import ViewPlan

Resume = Literal["auto", "must", "never"]

_PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
# Settings that may differ when a run is continued: they decide where and how fast it runs, not what comes out.
_FREE = {
    "data.workers",
    "data.lane",
    "data.resident_megabytes",
    "data.broken_limit",
    "train.device",
    "train.log_steps",
    "train.checkpoint_minutes",
    "train.checkpoint_steps",
    "train.keep_checkpoints",
    "train.compile",
    "train.channels_last",
    "train.keep_memory",
    "train.recompute",
}


@dataclass(frozen=True)
class Run:
    """A run's folder.

    Attributes:
        folder: holds recipe.yaml, checkpoints/, metrics.csv, monitor.csv, tensorboard/, loss.png, views.png and, where
            images could not be read, skipped.txt.
    """

    folder: Path

    @cached_property
    def recipe(self) -> AnyRecipe:
        """The recipe as it was resolved."""
        return build_recipe(load_mapping(self.folder / "recipe.yaml"))

    @property
    def metrics(self) -> dict[str, list[float]]:
        """The columns of metrics.csv: step, epoch, loss, lr, weight_decay, images_per_second."""
        return read_metrics(self.folder)

    def backbone(self) -> Backbone:
        """The trained backbone of the newest checkpoint."""
        return load_backbone(self.folder)


def pretrain(
    data: str | Path | Source | None,
    out: str | Path,
    *,
    recipe: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    resume: Resume = "auto",
    progress: bool = True,
) -> Run:
    """Pretrains a backbone on unlabelled images, or continues where a stopped run stands.

    Args:
        data: a folder of images or another source (`glocal.data.sources.open_source`); None takes the recipe's.
        out: the run's folder, made if it is not there.
        recipe: the name of a recipe or a .yaml file; None takes SCE with settings that suit the images.
        overrides: settings by dotted path, `{"train.epochs": 10}`.
        resume: auto continues a run that is in `out`, must demands one, never refuses one.
        progress: show progress.

    Returns:
        The finished run.

    Raises:
        GlocalError: wrong settings or data, or another run is in `out`.
        NonFiniteLossError: the loss became infinite or no number.
        RunInterrupted: Ctrl-C or SIGTERM; a checkpoint is written and the same call goes on from there.

    >>> run = pretrain("shapes", "runs/a", overrides={"train.epochs": 20})  # doctest: +SKIP
    """
    mapping: dict[str, Any] = {"name": "default"} if recipe is None else load_mapping(recipe)
    if data is None and not (mapping.get("data") or {}).get("source"):
        raise GlocalError("no images: give a folder or a data set (--data), or data.source in the recipe")
    source = open_source(data if data is not None else mapping["data"]["source"])
    overrides = dict(overrides or {}) | {"data.source": source.name}
    largest = overrides.get("data.max_pixels", (mapping.get("data") or {}).get("max_pixels"))
    allow_pixels(largest if isinstance(largest, int) else None)  # before the first header is read
    size = (mapping.get("data") or {}).get("size") or overrides.get("data.size") or natural_size(source)
    resolved = build_recipe(mapping, overrides, data_size=size)
    resolved = _fit_to(resolved, source)
    resolved = _settle_precision(resolved, Path(out))
    resolved = settle_decoding(resolved, source, progress=progress)
    fabric = _fabric(resolved)
    fabric.launch()
    rehearse(resolved, progress=progress and fabric.global_rank == 0)
    if fabric.device.type == "cpu" and resolved.train.keep_memory:
        keep_freed_memory()

    folder = Path(out)
    state = _prepare_folder(folder, resolved, resume)
    if progress and fabric.device.type == "cpu" and fabric.global_rank == 0 and (advice := advice_on_threads()):
        note(advice)
    torch.manual_seed(resolved.seed)
    method = build_method(resolved, weights=state is None)  # a checkpoint holds them
    if resolved.train.devices > 1 and fabric.device.type == "cuda":  # torch has it for GPUs only
        method = torch.nn.SyncBatchNorm.convert_sync_batchnorm(method)
    order = BatchOrder(
        len(source),
        resolved.train.batch_size,
        resolved.seed,
        rank=fabric.global_rank,
        processes=fabric.world_size,
        parts=resolved.train.accumulate,
    )
    total = resolved.train.epochs * order.steps_per_epoch
    first_step = 0 if state is None else int(state["step"])
    if first_step >= total:
        note(f"{folder} is finished ({total} steps); nothing to do")
        return Run(folder)
    if state is not None:
        note(f"{folder} continues after step {first_step} of {total}")

    lane = open_lane(
        source,
        resolved.data,
        ViewPlan(resolved.views or [], shared_geometry=resolved.data.shared_geometry),
        order,
        fabric.device,
        skipped_file=folder / "skipped.txt" if fabric.global_rank == 0 else None,
        progress=progress,
    )
    lane.partners = method.partners
    # On a GPU, fused kernels do not go with the clipping of scaled gradients.
    fused = fabric.device.type == "cpu" or (fabric.device.type == "cuda" and resolved.train.precision != "fp16")
    optimizers = build_optimizers(method, resolved.optimizer, fused=fused)
    if state is not None:
        _restore(state, method, optimizers, fabric, folder)
    method = suit_to_machine(method, resolved.train, fabric.device)
    _train(method, optimizers, lane, order, resolved, fabric, source, folder, first_step, progress)
    return Run(folder)


def build_method(recipe: AnyRecipe, *, weights: bool = True) -> Method:
    """The method of a resolved recipe with its networks, initialised by torch's global generator.

    Args:
        recipe: resolved.
        weights: take pretrained weights where the recipe says so; they are not needed where a checkpoint follows.
    """
    assert recipe.data.size is not None  # resolved
    model = recipe.model if weights else recipe.model.model_copy(update={"pretrained": False})
    backbone = build_backbone(model, size=recipe.data.size, mean=recipe.data.mean, std=recipe.data.std)
    method = method_class(recipe.method.name)(backbone, recipe.method)
    method.seed = recipe.seed
    return method


def _fit_to(recipe: AnyRecipe, source: Source) -> AnyRecipe:
    """Makes a recipe fit fewer images than it was written for, and says so."""
    batch, images = recipe.train.batch_size, len(source)
    parts = recipe.train.devices * recipe.train.accumulate
    if images < batch:
        fitting = images // parts * parts
        if fitting < 2:
            raise GlocalError(f"{source.name}: {images} images are too few to learn from")
        note(f"train.batch_size is {fitting} instead of {batch}: there are only {images} images")
        recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"batch_size": fitting})})
    if method_class(recipe.method.name).needs_labels:
        recipe = recipe.model_copy(update={"method": recipe.method.fit_to_classes(_count_classes(recipe, source))})
    before, after = (_flatten(m.model_dump(mode="json")) for m in (recipe.method, recipe.method.fit_to(images)))
    for key in (key for key in after if before.get(key) != after[key]):
        why = "for" if before.get(key) is None else f"instead of {before[key]}: there are only"
        note(f"method.{key} is {after[key]} {why} {images} images")
    recipe = recipe.model_copy(update={"method": recipe.method.fit_to(images)})
    if recipe.optimizer.warmup_epochs > recipe.train.epochs / 2:
        note(
            f"the warm-up takes {recipe.optimizer.warmup_epochs:g} of {recipe.train.epochs} epochs; for a short run "
            "set optimizer.warmup_epochs lower"
        )
    return recipe


def suit_to_machine(method: Method, settings: TrainSettings, device: torch.device) -> Method:
    """Lets a method's modules compute as fast, and keep as little, as the settings and the device allow."""
    if settings.channels_last:
        method = method.to(memory_format=torch.channels_last)
    if device.type == "cpu" and not settings.compile and blas_is_slow():
        use_onednn(method)
    for module in method.modules():
        if isinstance(module, Backbone):
            module.recompute = settings.recompute
            if settings.compile:
                module.compile(dynamic=False)  # batches keep their size: a graph for each resolution, no recompiling
    return method


def _count_classes(recipe: AnyRecipe, source: Source) -> int:
    """The number of classes, those without an image counted in."""
    if source.labels is None or bool((source.labels < 0).any()):
        raise GlocalError(
            f"method {recipe.method.name} learns from labels, which {source.name} does not have; give a folder with "
            "one subfolder for each class or a labelled data set such as torchvision:CIFAR10, or choose another method"
        )
    return max(int(source.labels.max()) + 1, len(source.classes or ()))


def _settle_precision(recipe: AnyRecipe, folder: Path) -> AnyRecipe:
    """The recipe with a precision in place of `auto`: that of the run in the folder, or what suits the machine."""
    if recipe.train.precision != "auto":
        return recipe
    written = folder / "recipe.yaml"
    chosen = _flatten(load_mapping(written)).get("train.precision", "fp32") if written.is_file() else None
    if chosen is None:
        chosen, reason = choose_precision(choose_device(recipe.train.device), recipe.train.devices)
        note(f"train.precision is {chosen}: {reason}")
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"precision": chosen})})


def _fabric(recipe: AnyRecipe) -> Fabric:
    device = choose_device(recipe.train.device)
    if recipe.train.precision == "fp16" and device == "cpu":
        raise GlocalError("train.precision=fp16 needs a GPU; on a CPU use bf16 or fp32")
    if device == "cuda" and recipe.train.devices > torch.cuda.device_count():
        raise GlocalError(f"train.devices={recipe.train.devices}, but {torch.cuda.device_count()} GPUs are visible")
    # An update of a method with several moves some of its parameters only.
    strategy: Any = DDPStrategy(find_unused_parameters=True) if recipe.train.devices > 1 else "auto"
    return Fabric(
        accelerator=device,
        devices=recipe.train.devices,
        strategy=strategy,
        precision=_PRECISION[recipe.train.precision],  # type: ignore[arg-type]
    )


def _prepare_folder(folder: Path, recipe: AnyRecipe, resume: Resume) -> dict[str, Any] | None:
    """Makes the run's folder, or checks that the run in it is this one; returns its newest checkpoint."""
    written = folder / "recipe.yaml"
    if folder.exists() and not folder.is_dir():
        raise GlocalError(f"{folder} is a file; give a folder for the run")
    if not written.exists():
        if resume == "must":
            raise GlocalError(f"there is no run in {folder} to continue")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GlocalError(f"{folder} cannot be made: {error.strerror}") from error
        write_text(written, recipe.to_yaml())
        about = {
            "glocal": glocal.__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
            "machine": platform.platform(),
        }
        write_text(folder / "environment.json", json.dumps(about, indent=2) + "\n")
        return None
    if resume == "never":
        raise GlocalError(f"there is a run in {folder} already; choose another folder, or --resume auto to continue it")
    before = _flatten(yaml.safe_load(written.read_text(encoding="utf-8")))
    now = _flatten(yaml.safe_load(recipe.to_yaml()))
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    changed = [key for key in changed if key not in _FREE]
    if changed:
        listed = ", ".join(f"{key} was {before.get(key)}, is {now.get(key)}" for key in changed[:3])
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise GlocalError(f"the run in {folder} has other settings: {listed}{more}; choose another folder (--out)")
    return newest_checkpoint(folder / "checkpoints")


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = dict(enumerate(value)).items()
    else:
        return {prefix.removesuffix("."): value}
    return {key: inner for name, part in items for key, inner in _flatten(part, f"{prefix}{name}.").items()}


def _restore(
    state: Mapping[str, Any],
    method: Method,
    optimizers: Mapping[str, torch.optim.Optimizer],
    fabric: Fabric,
    folder: Path,
) -> None:
    load_weights(method, state["method"], what=str(folder))
    for phase, optimizer in optimizers.items():
        optimizer.load_state_dict(state["optimizers"][phase])
    fabric.strategy.precision.load_state_dict(state["precision"])
    torch.set_rng_state(state["rng"])
    if fabric.device.type == "cuda" and "cuda_rng" in state:
        torch.cuda.set_rng_state(state["cuda_rng"], fabric.device)


def _train(
    method: Method,
    optimizers: Mapping[str, torch.optim.Optimizer],
    lane: Lane,
    order: BatchOrder,
    recipe: AnyRecipe,
    fabric: Fabric,
    source: Source,
    folder: Path,
    first_step: int,
    progress: bool,
) -> None:
    method.to(fabric.device)
    if method.needs_labels and source.labels is not None:
        method.labels = source.labels.to(fabric.device)
    evaluated = operator.attrgetter(method.evaluated)(method)
    main = fabric.global_rank == 0
    log = RunLog(folder, first_step) if main else None
    monitor = None
    if main and recipe.monitor.knn_epochs and source.labels is not None and len(source) >= 20:
        monitor = KNNMonitor(
            source,
            recipe.data.test,
            decoding=Decoding(recipe.data.range, recipe.data.max_pixels),
            images=recipe.monitor.knn_images,
            k=recipe.monitor.knn_k,
            seed=recipe.seed,
        )
        note(f"k-NN accuracy is measured every {recipe.monitor.knn_epochs} epochs on {monitor.where}")

    def save(step: int) -> str:
        name = f"checkpoints/step-{step:09d}.pt"
        if not main:
            return name
        state = {
            "step": step,
            "recipe": recipe.to_yaml(),
            "evaluated": method.evaluated,
            "method": method.state_dict(),
            "optimizers": {phase: optimizer.state_dict() for phase, optimizer in optimizers.items()},
            "precision": fabric.strategy.precision.state_dict(),
            "rng": torch.get_rng_state(),
            "versions": {"glocal": glocal.__version__, "torch": str(torch.__version__)},
        }
        if fabric.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(fabric.device)
        return str(save_checkpoint(folder / "checkpoints", state, keep=recipe.train.keep_checkpoints))

    if main and not (folder / "views.png").exists():
        draw_views(lane, recipe, folder / "views.png")
    hooks = Hooks(save, log, (lambda: monitor.measure(evaluated)) if monitor else None)
    try:
        train(method, optimizers, lane, order, recipe, fabric, hooks, first_step=first_step, progress=progress)
    finally:
        if log:
            log.close()
            draw_loss(folder)
