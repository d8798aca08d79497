"""Copy detection on Copydays: finding the originals of strongly altered copies among distractors.

Douze, Jégou, Sandhawalia, Amsaleg and Schmid, "Evaluation of GIST descriptors for web-scale image search", CIVR 2009;
features, size, whitening and distractors as in Caron et al., "Emerging Properties in Self-Supervised Vision
Transformers" (DINO), ICCV 2021, section 4.2.2. Apart from their code: the whole ranking counts (theirs looks at the
first 20 images: `copy_detection.depth=20`), and the whitening is that of the covariance (theirs takes the second moment
about zero).

The distractors and the images for the whitening can be drawn from one large set, some of its classes left out: for
networks that learned from CIFAR-10 or ImageNet-100, Javidani, Sadeghi and Araabi, "Local-Global Self-Supervised Visual
Representation Learning", section 4.3.1, draw 10,000 and 20,000 from ImageNet without the classes of ImageNet-100, here
`distractors=imagenet/train whiten=imagenet/train distractor_images=10000 whiten_images=20000 leave_out=imagenet100`.
The two draws have no image in common. For networks that learned from ImageNet-1K all of it trains the whitening: leave
whiten_images and leave_out as they are; distractors from the same folder are then among its images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from glocal.data.lanes.whole import Fit
from glocal.data.sources.base import Source
from glocal.data.sources.folder import ImageFolder
from glocal.data.sources.opening import open_source
from glocal.errors import GlocalError
from glocal.evaluation.draws import classes_named, draw_images, outside_classes, without
from glocal.evaluation.features.bench import Bench, Measurement, Protocol
from glocal.evaluation.features.gem import gem_readout
from glocal.evaluation.features.scales import View, readable_rows, view_for, whole_features
from glocal.evaluation.features.whitening import comparable, learn_whitening
from glocal.evaluation.metrics.ranking import listed, micro_average_precision, rank
from glocal.settings import Seed, Settings
from glocal.transfer import exact_device

_USUAL = View(Fit(320, square=True))
_ORIGIN = "https://lear.inrialpes.fr/~jegou/data.php#copydays"
_COPYDAYS = f"Copydays as extracted: original/ and strong/ with their .jpg files, from {_ORIGIN}"


class CopyDetectionSettings(Settings):
    """Copies as queries; originals and distractors ranked by cosine similarity."""

    data: str | None = None
    distractors: str | None = None  # images that are no originals; DINO's: 10,000 of YFCC100M
    whiten: str | None = None  # images on which a PCA whitening is learned; DINO's: 20,000 others of YFCC100M
    whiten_dim: PositiveInt | None = None  # directions that it keeps; null keeps all
    distractor_images: PositiveInt | None = None  # as many are drawn; null takes all
    whiten_images: PositiveInt | None = None  # as many are drawn, none of them a distractor; null takes all
    leave_out: str | tuple[str, ...] | None = None  # classes not drawn: imagenet100, a .txt file, or their names
    seed: Seed = 0  # of the draws
    copies: str = "strong"  # the folder of the queries
    size: PositiveInt | None = None  # side of the squares; null: 320, or the network's own up to 64
    power: float = Field(4.0, gt=0)  # of the generalised mean over the patches
    depth: PositiveInt | None = None  # mAP looks at the first so many images; null looks at all
    prefix: PositiveInt = 4  # letters at the beginning of its name that a copy shares with its original


def measure(bench: Bench, settings: CopyDetectionSettings) -> list[Measurement]:
    """mAP over the copies and µAP over all pairs of a copy and an image."""
    assert settings.data is not None  # Protocol.missing has asked for it
    originals, copies = (_block(Path(settings.data), name) for name in ("original", settings.copies))
    truth = originals_of(copies.keys, originals.keys, settings.prefix)
    if not any(len(numbers) for numbers in truth):
        raise GlocalError(
            f"{copies.name}: no name begins with the same {settings.prefix} letters as one in {originals.name}, "
            "as 200001.jpg and 200000.jpg do; copy_detection.prefix says how many"
        )
    far, third = drawn_images(settings)
    bench.decode(originals, copies, *(source for source in (far, third) if source is not None))
    readout, what = gem_readout(bench.backbone, settings.power)
    view = view_for(bench.backbone, settings.size, None, usual=_USUAL)
    bench.resolve(size=view.fit.size)

    queries, images = (whole_features(bench, source, readout, view) for source in (copies, originals))
    distractors = "no distractors"
    if far is not None:
        more = whole_features(bench, far, readout, view)
        more = more[readable_rows(more)]
        images = torch.cat([images, more])
        distractors = f"{len(more):,} distractors"
    whitening, whitened = None, "not whitened"
    if third is not None:
        features = whole_features(bench, third, readout, view)
        features = features[readable_rows(features)]
        whitening = learn_whitening(features.to(exact_device(bench.device)), settings.whiten_dim)
        whitened = f"whitened on {len(features):,} images"

    readable = readable_rows(queries)
    chosen = [truth[row] for row in readable.nonzero()[:, 0].tolist()]
    relevance = listed(chosen, [torch.empty(0, dtype=torch.int64)] * len(chosen), len(images))
    queries, images = (comparable(part, whitening, bench.device) for part in (queries[readable], images))
    ranking = rank(queries, images, relevance, at=(), depth=settings.depth)
    found = {**ranking.means(), "uAP": 100 * micro_average_precision(queries, images, relevance)}
    cut = "" if settings.depth is None else f", first {settings.depth}"
    return [Measurement(f"{settings.copies}, {distractors}, {whitened}, {what}, {view}{cut}", found)]


def drawn_images(settings: CopyDetectionSettings) -> tuple[Source | None, Source | None]:
    """The distractors and the images on which the whitening is learned; None for what is not asked for.

    Raises:
        GlocalError: a number, or classes to leave out, without images that they are of; too few images; no such class.
    """
    for count, images in (("distractor_images", "distractors"), ("whiten_images", "whiten")):
        if getattr(settings, count) is not None and getattr(settings, images) is None:
            raise GlocalError(f"copy_detection.{count} needs images to draw from: set copy_detection.{images}")
    left_out = classes_named(settings.leave_out)
    if left_out and settings.distractors is None and settings.whiten is None:
        raise GlocalError("copy_detection.leave_out is of copy_detection.distractors and .whiten; give one of them")
    far = third = None
    if settings.distractors is not None:
        whole = open_source(settings.distractors)
        allowed = outside_classes(whole, left_out)
        far = draw_images(whole, allowed, settings.distractor_images, settings.seed, "copy_detection.distractor_images")
    if settings.whiten is not None:
        whole = open_source(settings.whiten)
        allowed = outside_classes(whole, left_out)
        if far is not None and settings.whiten_images is not None:
            allowed = without(whole, allowed, far)
        third = draw_images(whole, allowed, settings.whiten_images, settings.seed, "copy_detection.whiten_images")
    return far, third


def originals_of(copies: Sequence[str], originals: Sequence[str], prefix: int = 4) -> list[Tensor]:
    """For each copy the positions of its originals, int64: those whose file names begin with the same letters.

    Raises:
        GlocalError: two originals begin alike, so that it cannot be told whose copies they are.

    >>> originals_of(["200001.jpg", "200102.jpg"], ["200000.jpg", "200100.jpg"])
    [tensor([0]), tensor([1])]
    """
    number: dict[str, int] = {}
    for place, key in enumerate(originals):
        before = number.setdefault(Path(key).name[:prefix], place)
        if before != place:
            raise GlocalError(
                f"the originals {originals[before]} and {key} begin with the same {prefix} letters; copies are "
                "assigned by these (copy_detection.prefix)"
            )
    own = [number.get(Path(key).name[:prefix]) for key in copies]
    return [torch.tensor([] if place is None else [place], dtype=torch.int64) for place in own]


def _block(folder: Path, name: str) -> ImageFolder:
    if not (folder / name).is_dir():
        raise GlocalError(f"there is no folder {folder / name}: put {_COPYDAYS} into {folder}")
    return ImageFolder(folder / name)


PROTOCOL = Protocol(
    name="copy_detection",
    summary="finding the originals of strongly altered copies (Copydays): mAP, µAP",
    settings=CopyDetectionSettings,
    measure=measure,
    rgb=True,
    labels=False,
    data=_COPYDAYS,
)
