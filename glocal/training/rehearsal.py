"""What would end in an error in the first step, found before a run's folder is made: sizes and shares of the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from glocal.config import AnyRecipe
from glocal.console import note
from glocal.data.lanes.order import check_shares
from glocal.errors import GlocalError, one_line
from glocal.methods import method_class
from glocal.methods.base import Method
from glocal.models.backbone import Backbone
from glocal.models.building import build_backbone
from glocal.training.optimizers import layer_scales
from glocal.training.sharded import check_sharded
from glocal.views.batch import Views
from glocal.views.plan import ViewPlan

M = TypeVar("M", bound=nn.Module)

_FEWEST_PATCHES = 4  # a side; those of a local crop are half as many


def rehearse(recipe: AnyRecipe, *, progress: bool = True) -> Method:
    """Builds a resolved recipe's networks without memory, sends views through, and looks at the shares of the batch.

    Args:
        recipe: what is to be trained.
        progress: say what parts of a batch change.

    Returns:
        The method that was built, whose weights are worth nothing.

    Raises:
        GlocalError: a batch that its shares do not divide, a network that does not take the size of a view, batch
            normalisation over one image, layers' rates for a network without layers, or views that the method cannot
            learn from.
    """
    check_shares(recipe.train.batch_size, recipe.train.processes, recipe.train.accumulate)
    method = shadow(recipe)
    if recipe.train.sharded:
        check_sharded(method, recipe)
    if recipe.optimizer.layer_decay is not None:
        layer_scales(method.backbone, recipe.optimizer.layer_decay)
    _check_sizes(method.backbone, recipe)
    _check_shares(method, recipe)
    method.check(recipe.views or [], recipe.train.batch_size // recipe.train.accumulate)
    _check_views(method, recipe)
    if progress:
        for line in notes_on(method, recipe):
            note(line)
    return method


def notes_on(method: Method, recipe: AnyRecipe) -> list[str]:
    """What a user may not expect of a recipe: stems and patches of small images, and what parts of a batch change."""
    lines = []
    size, train = recipe.data.size or 0, recipe.train
    small = recipe.model.untrained().model_copy(update={"stem": "auto"}).for_size(size).stem == "small"
    if recipe.model.from_weights and small and recipe.model.stem == "standard":
        lines.append(f"model.stem is standard at {size} pixels, for the pretrained first convolution is kept")
    if recipe.model.from_weights and recipe.model.keep_statistics and _normalises(method.backbone):
        lines.append(
            "model.keep_statistics is true: batch normalisation of the backbone keeps the statistics of the weights; "
            "false lets it follow the new images"
        )
    patch = getattr(getattr(method.backbone.network, "patch_embed", None), "patch_size", None)
    patch = patch[0] if isinstance(patch, Sequence) else patch  # timm has both
    if isinstance(patch, int) and size // patch < _FEWEST_PATCHES and size % 8 == 0:
        count = size // patch
        lines.append(
            f"views of {size} pixels have only {count} × {count} patches of {patch}; --set "
            f"model.options.patch_size={size // 8} gives 8 × 8, in more time"
        )
    compared = train.batch_size // train.accumulate  # what processes compute is gathered, parts are not
    changes = []
    if method.compares_batch and compared < train.batch_size:
        changes.append(f"the loss compares an image with the {compared} of its part")
    if _normalises(method) and compared < train.batch_size:
        changes.append(f"batch normalisation sees {compared} images at a time")
    if changes:
        lines.append(
            f"train.accumulate={train.accumulate} is not the same as the whole batch of {train.batch_size}: "
            f"{' and '.join(changes)}, so losses and results differ"
        )
    return lines


def shadow(recipe: AnyRecipe) -> Method:
    """The recipe's method on the meta device, or, where a network cannot be built there, on the CPU."""
    return _without_memory(lambda: _build(recipe))


def shadow_backbone(recipe: AnyRecipe) -> Backbone:
    """The same of the recipe's backbone alone."""
    return _without_memory(lambda: _build_backbone(recipe))


def _without_memory(build: Callable[[], M]) -> M:
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return build()
        except GlocalError:
            pass  # the CPU says whether it is the recipe or the meta device
        except (NotImplementedError, RuntimeError):
            pass
        return build()


def _build(recipe: AnyRecipe) -> Method:
    return method_class(recipe.method.name)(_build_backbone(recipe), recipe.method)


def _build_backbone(recipe: AnyRecipe) -> Backbone:
    model, data = recipe.model, recipe.data
    assert data.size is not None  # resolved
    if model.known_to_timm and model.stem not in ("auto", "standard"):
        build_backbone(model, size=data.size)  # says what is wrong before any weights are looked for
    return build_backbone(
        model.untrained(), size=data.size, mean=data.mean, std=data.std, channels=data.stored_channels
    )


def _check_sizes(backbone: Backbone, recipe: AnyRecipe) -> None:
    """Sends two images of every size that the views have through the network."""
    places = {recipe.data.size or 0: f"data.size={recipe.data.size}"}
    for number, view in enumerate(recipe.views or []):
        places.setdefault(view.size, f"views.{number}.size={view.size}")
    sizes = [view.size for view in recipe.views or []] or [recipe.data.size or 0]
    for size in dict.fromkeys(sizes):
        error = _failure(backbone, size)
        if error is not None and backbone.mean.is_meta:  # is it the size or the meta device?
            error = _failure(_on_cpu(recipe), size)
        if error is not None:
            mend = "change the size or choose another network"
            if size != sizes[0]:
                how = ", ".join(filter(None, ("views", method_class(recipe.method.name).of_one_size)))
                mend = f"it takes those of {sizes[0]}: leave the others out ({how}) or choose another network"
            raise GlocalError(
                f"model.name={recipe.model.name} does not take images of {size} pixels ({places[size]}): "
                f"{one_line(error)}; {mend}"
            ) from error


def _on_cpu(recipe: AnyRecipe) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        return _build_backbone(recipe)


def _failure(backbone: Backbone, size: int) -> Exception | None:
    """What the network raises for two images of a size, if anything; an error of the package's own is let through."""
    images: Tensor = torch.zeros(2, len(backbone.mean), size, size, device=backbone.mean.device)
    try:
        with torch.no_grad():
            backbone.train()(images)
    except GlocalError:
        raise
    except Exception as error:  # networks check their input in many ways
        return error
    return None


def _check_views(method: Method, recipe: AnyRecipe) -> None:
    """Lets the method look at two images without memory; what it says of their views is told, all else is not."""
    if not method.backbone.mean.is_meta or not recipe.views:
        return
    plan, index = ViewPlan(recipe.views), torch.arange(2)
    drawn = plan.draw_geometry(torch.tensor([64, 64]), recipe.seed, 0, index)
    channels = len(method.backbone.mean)
    images = tuple(torch.empty(2, channels, view.size, view.size, device="meta") for view in plan.views)
    views = Views(images, tuple(drawn.view(number) for number in range(len(plan))), index)
    if method.needs_labels:
        method.labels = torch.empty(2, dtype=torch.int64, device="meta")
    method.train()
    for phase in method.phases:
        try:
            with torch.no_grad():
                method(views, phase)
        except GlocalError:
            raise
        except Exception:  # values that are read, for which there is no memory
            return


def _check_shares(method: Method, recipe: AnyRecipe) -> None:
    train = recipe.train
    if train.batch_size // train.accumulate >= 2:  # processes look at their images together
        return
    if _normalises(method) or method.compares_batch:
        why = "batch normalisation needs two" if _normalises(method) else "its loss compares it with others"
        raise GlocalError(
            f"train.batch_size={train.batch_size} in train.accumulate={train.accumulate} parts leaves 1 image at a "
            f"time, but {why}; raise train.batch_size to {2 * train.accumulate} or more, or lower train.accumulate"
        )


def _normalises(module: nn.Module) -> bool:
    """Whether something in it looks at the statistics of a batch."""
    return any(isinstance(layer, _BatchNorm) for layer in module.modules())
