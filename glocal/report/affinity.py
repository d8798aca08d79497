"""LoGo's Figure 2 for a run: how alike its learned affinity and the cosine find one crop and many others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure, SubFigure
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize, pad

from glocal.checkpoints import load_weights, newest_checkpoint
from glocal.config import AnyRecipe, build_recipe
from glocal.data.ranges import decode_alike
from glocal.data.sources.base import Source, Subset
from glocal.data.sources.opening import Images, open_source
from glocal.errors import GlocalError
from glocal.methods.building import build_method
from glocal.methods.logo import LoGo, LoGoSettings
from glocal.plain import read_yaml
from glocal.report.pictures import plain, save_picture, shortened, shown_views
from glocal.report.preview import check_picture, open_views
from glocal.views.pictures import as_picture
from glocal.views.plan import Blur, Jitter, Noise, RandAugment, Solarize, View

IMAGES = 4
CROPS = 10  # of each image, beside the reference crop

_LONGEST_NAME = 18
_COLORS = ("#1f5fa8", "#b86f14")


@dataclass(frozen=True)
class Affinities:
    """What `draw_affinity` draws.

    Attributes:
        images: the names of the images; the reference is a crop of the first.
        learned: (4, 10) affinity of the reference and each crop of each image under the run's regressor.
        cosine: (4, 10) cosine similarity of their representations.
    """

    images: list[str]
    learned: Tensor
    cosine: Tensor


def draw_affinity(
    run: str | Path,
    out: str | Path,
    *,
    data: Images | None = None,
    overrides: Mapping[str, Any] | None = None,
    index: int = 0,
) -> Affinities:
    """Draws one local crop, 40 others of four images, and how alike a LoGo run finds them.

    Zhang et al., "Leverage Your Local and Global Representations", CVPR 2022, supplement, Figure 2: four images of
    different classes with ten crops each, and the similarity of a reference crop to all of them, by the regressor and
    by the cosine. Each is normalised so that the 40 values span 0 to 1; the caption says "normalized" and not how.
    Crops are drawn as the run's local views, without changes of colour.

    Args:
        run: a LoGo run's folder, whose newest checkpoint is taken.
        out: the PNG file.
        data: the images, a source; None takes the run's own.
        overrides: settings by dotted path; `seed` draws other images and crops.
        index: number of the image that the reference is a crop of; the others are of other classes, if there are any.

    Raises:
        GlocalError: no LoGo run, one without a regressor or a checkpoint, or fewer than four images.
    """
    out = Path(out)
    check_picture(out)
    method, recipe = _load(Path(run), overrides)
    values = recipe.data.stored_channels is not None
    source = open_source(data if data is not None else recipe.data.source or "", values=values)
    decode_alike([source], recipe.data.decoding)
    chosen = _choose(source, index, recipe.seed)
    crops = _crops(source, chosen, recipe)  # (4, 1 + 10, 3, S, S)
    learned, cosine = compare_crops(method, crops[0, 0], crops[:, 1:])
    found = Affinities([_name(source, number) for number in chosen], learned, cosine)
    _draw(found, [as_picture(source[number].image) for number in chosen], _pixels(crops, recipe), Path(run).name, out)
    return found


@torch.no_grad()
def compare_crops(method: LoGo, reference: Tensor, crops: Tensor) -> tuple[Tensor, Tensor]:
    """The affinity of one crop and others under a method's regressor, and the cosine of their representations.

    Args:
        method: in evaluation mode.
        reference: (3, S, S) normalised.
        crops: (…, 3, S, S).

    Returns:
        Two tensors of shape (…).
    """
    shape = crops.shape[:-3]
    rows = normalize(method.base.represent(torch.cat([reference[None], crops.flatten(0, -4)])).float(), dim=1)
    first, others = rows[:1].expand(len(rows) - 1, -1), rows[1:]
    return method.regressor(first, others).view(shape), cosine_similarity(first, others, dim=1).view(shape)


def _load(folder: Path, overrides: Mapping[str, Any] | None) -> tuple[LoGo, AnyRecipe]:
    """The method of a run with all of its weights, in evaluation mode, and its recipe."""
    if not folder.is_dir():
        raise GlocalError(f"--affinity {folder}: there is no such folder; give that of a LoGo run")
    state = newest_checkpoint(folder / "checkpoints")
    if state is None:
        raise GlocalError(f"--affinity {folder}: there is no checkpoint in it; is it the folder that --out named?")
    recipe = build_recipe(read_yaml(state["recipe"], str(folder)), overrides)
    settings = recipe.method
    if not isinstance(settings, LoGoSettings):
        raise GlocalError(f"--affinity {folder}: a run of {settings.name}; only LoGo's learn an affinity")
    if settings.variant != "logo":
        raise GlocalError(f"--affinity {folder}: method.variant={settings.variant} learns no affinity; logo does")
    trained = recipe.model.untrained()  # its weights are in the checkpoint
    method = build_method(recipe.model_copy(update={"model": trained}))
    load_weights(method, state["method"], what=str(folder))
    assert isinstance(method, LoGo)
    return method.eval(), recipe


def _choose(source: Source, index: int, seed: int) -> list[int]:
    """The reference's image and three more, of as many classes as there are."""
    if len(source) < IMAGES:
        raise GlocalError(f"{source.name}: {IMAGES} images are compared, but there are {len(source)}")
    if not 0 <= index < len(source):
        raise GlocalError(f"--index {index}: {source.name} has the images 0 to {len(source) - 1}")
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen = [index]
    for new_class in (True, False):
        for number in order:
            known = source.labels is not None and bool((source.labels[chosen] == source.labels[number]).any())
            if len(chosen) < IMAGES and number not in chosen and not (new_class and known):
                chosen.append(number)
    return chosen


def _name(source: Source, number: int) -> str:
    """An image's class, or its file's name where it has none."""
    label = -1 if source.labels is None else int(source.labels[number])
    if source.classes is not None and label >= 0:
        return source.classes[label]
    return Path(source.keys[number]).name


def _crops(source: Source, chosen: list[int], recipe: AnyRecipe) -> Tensor:
    """Local crops of the chosen images in their order, not changed in colour: (4, 11, 3, S, S)."""
    local = next((view for view in recipe.views or [] if view.name == "local"), (recipe.views or [View()])[-1])
    plain = {
        "noise": Noise(),
        "channel_drop": 0.0,
        "jitter": Jitter(),
        "grey": 0.0,
        "blur": Blur(),
        "solarize": Solarize(),
        "randaugment": RandAugment(),
        "resolutions": (),
    }
    several = local.model_copy(update={**plain, "count": 1 + CROPS})
    lane = open_views(Subset(source, torch.tensor(chosen)), recipe.model_copy(update={"views": [several]}), IMAGES)
    views = next(lane.batches(0, 1))
    return torch.stack(views.images, dim=1)[views.index.argsort()]


def _pixels(crops: Tensor, recipe: AnyRecipe) -> Tensor:
    return shown_views(crops, recipe.data)


def normalised(values: Tensor) -> Tensor:
    """The values moved and scaled so that they span 0 to 1; all 0 where they are all alike.

    >>> normalised(torch.tensor([-1.0, 1.0, 3.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    return (values - values.min()) / (values.max() - values.min()).clamp_min(torch.finfo(values.dtype).tiny)


def _draw(found: Affinities, images: list[Tensor], crops: Tensor, run: str, path: Path) -> None:
    """A row for each image: the image, its crops, and under each of them two bars."""
    figure = Figure(figsize=(11, 2 + 2.15 * IMAGES), layout="constrained")
    head, body = figure.subfigures(2, 1, squeeze=False, height_ratios=[1.55, 2.15 * IMAGES])[:, 0]
    similarities = {"learned affinity": normalised(found.learned), "cosine similarity": normalised(found.cosine)}
    grid = body.subplots(2 * IMAGES, 2, height_ratios=[1.0, 0.9] * IMAGES, width_ratios=[1.35, CROPS], squeeze=False)
    for row in range(IMAGES):
        (picture, strip), (means, bars) = grid[2 * row], grid[2 * row + 1]
        picture.imshow(images[row].permute(1, 2, 0).numpy(), interpolation="nearest")
        picture.set_title(plain(shortened(found.images[row], _LONGEST_NAME)), fontsize=9)
        strip.imshow(_beside(crops[row, 1:]), extent=(0, CROPS, 0, 1), interpolation="nearest", aspect="auto")
        for axes in (picture, strip, means):
            axes.axis("off")
        for number, (what, values) in enumerate(similarities.items()):
            place = torch.arange(CROPS) + 0.32 + 0.36 * number
            bars.bar(place.tolist(), values[row].tolist(), 0.34, color=_COLORS[number], label=what)
            text = f"mean {float(values[row].mean()):.2f}"
            means.text(0.5, 0.75 - 0.25 * number, text, color=_COLORS[number], fontsize=9, ha="center")
        bars.set(xlim=(0, CROPS), ylim=(0, 1.05), yticks=[0, 0.5, 1])
        centres = [crop + 0.5 for crop in range(CROPS)]
        bars.set_xticks(centres, [str(1 + row * CROPS + crop) for crop in range(CROPS)], fontsize=7)
        bars.tick_params(axis="y", labelsize=7)
        bars.grid(axis="y", alpha=0.3)
        bars.spines[["top", "right"]].set_visible(False)
    _draw_reference(
        head, crops[0, 0], found.images[0], f"{plain(run)}: how alike a crop and {IMAGES * CROPS} others are"
    )
    head.legend(*bars.get_legend_handles_labels(), loc="center", fontsize=9, frameon=False)
    save_picture(figure, path)


def _draw_reference(head: SubFigure, crop: Tensor, name: str, title: str) -> None:
    head.suptitle(title, fontsize=11)
    place, rest = head.subplots(1, 2, width_ratios=[1.35, CROPS])
    place.imshow(crop.permute(1, 2, 0).numpy(), interpolation="nearest")
    place.set_title(f"the crop, of {plain(shortened(name, _LONGEST_NAME))}", fontsize=9)
    for axes in (place, rest):
        axes.axis("off")


def _beside(crops: Tensor) -> Any:
    """Crops in a row with white between them: (10, 3, S, S) → (S′, 10 S′, 3)."""
    gap = max(1, round(0.04 * crops.shape[-1]))
    return torch.cat(list(pad(crops, (gap, gap, gap, gap), value=1.0)), dim=2).permute(1, 2, 0).numpy()
