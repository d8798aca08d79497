"""Structure of the embedding: similarity of classes, alignment and uniformity, effective rank, and maps of it."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from glocal.console import note, progress_bar
from glocal.data.lanes.central import images_of
from glocal.data.sources.base import Source, Subset
from glocal.errors import GlocalError
from glocal.evaluation.features.bench import Bench, Measurement, Protocol
from glocal.evaluation.features.cache import Kept
from glocal.evaluation.features.extraction import Features
from glocal.evaluation.metrics.structure import alignment, class_similarity, effective_rank, spread, uniformity
from glocal.report.maps import MAPS, MOST_CLASSES, Map, check_map, choose_for_map, draw_map, project
from glocal.settings import Seed, Settings
from glocal.views.crops import render_batch
from glocal.views.geometry import ViewGeometry
from glocal.views.photometric import apply_photometry
from glocal.views.plan import Blur, Jitter, View, ViewPlan
from glocal.views.random import permutation

_FEWEST = 10  # images that a map can be made of
_LARGE_SIDE = 64  # above, training views are blurred


class StructureSettings(Settings):
    """What is measured on how many images; where a sample is taken, it is a seeded one."""

    pair_images: int = Field(20_000, ge=2)  # for uniformity and rank: all where there are no more, else a sample
    view_images: int = Field(1_000, ge=0)  # for the alignment of two views of one image; 0 leaves it out
    pictures: tuple[Map, ...] = ("tsne",)
    picture_images: int = Field(2_000, ge=_FEWEST)  # in a picture, at most
    perplexity: float = Field(30.0, gt=0)  # t-SNE's
    neighbors: int = Field(15, ge=2)  # UMAP's
    seed: Seed = 0


def measure(bench: Bench, settings: StructureSettings) -> list[Measurement]:
    """All measures on the test images, and the pictures."""
    source = bench.test
    if source is None or source.labels is None or source.classes is None:
        raise GlocalError("protocol structure needs test images with labels: --test")
    for kind in settings.pictures:
        check_map(kind)
    found = bench.features(source)
    assert found.labels is not None
    if len(found.labels) < 2:
        raise GlocalError(f"{source.name}: one image has no structure; protocol structure needs at least two")
    classes = class_similarity(found.features, found.labels)
    if classes.alone:
        note(f"{classes.alone} of {classes.classes} classes have one image: no pair of theirs is in the similarities")
    values = {
        "intra_class_similarity": classes.intra,
        "inter_class_similarity": classes.inter,
        "alignment": classes.alignment,
    }
    known = {name: value for name, value in values.items() if value is not None}
    result = [Measurement("classes", known)] if known else []
    if settings.view_images:
        result.append(Measurement("two views", {"alignment": _view_alignment(bench, source, settings)}))
    chosen, words = found.features, "all images"
    if len(chosen) > settings.pair_images:
        rows = permutation(len(chosen), settings.seed, "structure")[: settings.pair_images]
        chosen, words = chosen[rows.sort().values], f"{settings.pair_images} images"
    chosen = chosen.to(bench.device)
    whole = {"uniformity": uniformity(chosen), "effective_rank": effective_rank(chosen), "spread": spread(chosen)}
    result.append(Measurement(words, whole))
    for kind in dict.fromkeys(settings.pictures):
        path = bench.picture(f"{kind}.png")
        if path is not None:
            _draw(path, kind, found, f"{bench.backbone.label}, {source.name}", settings)
    return result


def _view_alignment(bench: Bench, source: Source, settings: StructureSettings) -> float:
    """Alignment of two views of each image, drawn as MoCo v2 draws them, from the central square."""
    size = bench.backbone.size
    chosen = permutation(len(source), settings.seed, "structure views")[: settings.view_images].sort().values
    part = Subset(source, chosen)
    blur = Blur(probability=0.5 if size > _LARGE_SIDE else 0.0)
    view = View(count=2, size=size, scale=(0.2, 1.0), jitter=Jitter(probability=0.8), grey=0.2, blur=blur)
    plan = ViewPlan([view])

    def compute() -> Kept:
        pairs = []
        with progress_bar("images", visible=bench.progress) as bar:
            task = bar.add_task("two views of each image", total=len(part))
            for index, images in images_of(part, size, batch_size=128, workers=bench.workers):
                pairs.append(torch.stack([bench.backbone.features(x) for x in _views(plan, images, index, settings)]))
                bar.update(task, advance=len(index))
        if not pairs:
            raise GlocalError(f"{part.name}: none of its images can be read")
        return {"pairs": torch.cat(pairs, dim=1).cpu()}, None

    drawn = {"views": view.model_dump(mode="json"), "seed": settings.seed, "size": size}
    kept, _ = bench.remember(part, {"structure": drawn}, compute)
    return alignment(*kept["pairs"])


def _views(plan: ViewPlan, images: Tensor, index: Tensor, settings: StructureSettings) -> list[Tensor]:
    """The views of a batch of images (B, 3, S, S) uint8, each like it."""
    geometry = plan.draw_geometry(torch.tensor(images.shape[-2:]), settings.seed, 0, index)
    photometry = plan.draw_photometry(settings.seed, 0, index)
    shown = []
    for number, view in enumerate(plan.views):
        place = geometry.view(number)
        crops = render_batch(images.float().div_(255), ViewGeometry(place.box.float(), place.flipped), view.size)
        pixels = apply_photometry(crops.clamp_(0, 1), photometry.view(number), view, mean=(0,) * 3, std=(1,) * 3)
        shown.append((pixels.clamp_(0, 1) * 255).round().byte())
    return shown


def _draw(path: Path, kind: Map, found: Features, title: str, settings: StructureSettings) -> None:
    assert found.labels is not None and found.classes is not None  # noqa: PT018
    rows, there = choose_for_map(found.labels, settings.picture_images, settings.seed)
    if len(rows) < _FEWEST:
        note(f"{path.name} is left out: a map of {len(rows)} images shows nothing")
        return
    labels = found.labels[rows]
    which = f", the {MOST_CLASSES} largest of {there:,} classes" if there > MOST_CLASSES else ""
    title = f"{title}\n{MAPS[kind]} of {len(rows):,} images{which}"
    points = project(
        found.features[rows], kind, perplexity=settings.perplexity, neighbors=settings.neighbors, seed=settings.seed
    )
    draw_map(points, labels, found.classes, title, path)


PROTOCOL = Protocol(
    name="structure",
    summary="similarity within and between classes, alignment, uniformity, effective rank; t-SNE and UMAP maps",
    settings=StructureSettings,
    measure=measure,
    rgb=True,
)
