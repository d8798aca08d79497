"""The way of a backbone into a file: written beside its place, run on the same images, and only then put there."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import torch

from glocal.console import progress_bar
from glocal.data.ranges import decode_as
from glocal.data.sources.opening import Images, open_source
from glocal.errors import GlocalError, did_you_mean
from glocal.exports import hub, onnx, safetensors, timm, torchvision
from glocal.exports.checking import Check, check, images_from, made_images, made_values
from glocal.exports.origin import Origin, numbers_of, origin_of, own_images
from glocal.exports.preprocessing import Preprocessing
from glocal.exports.staging import check_place, staged
from glocal.exports.subject import Precision, Subject, architecture_of
from glocal.exports.target import Target
from glocal.models.backbone import Backbone
from glocal.models.loading import load_backbone

TARGETS = {one.TARGET.name: one.TARGET for one in (timm, torchvision, safetensors, onnx, hub)}
_OWN_IMAGES = 4  # of each of the run's sources, at most as many, and of the images that are given, in a check


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the file or folder.
        target: its format.
        precision: of the weights.
        bytes: its size.
        checks: what running it on the same images found.
        lines: Python that loads it without glocal.
    """

    path: Path
    target: str
    precision: Precision
    bytes: int
    checks: tuple[Check, ...]
    lines: str


def target_named(name: str) -> Target:
    """A target by its name.

    Raises:
        GlocalError: there is none.
    """
    if name not in TARGETS:
        raise GlocalError(f"--to {name}: {did_you_mean(name, TARGETS)}")
    return TARGETS[name]


def export(
    backbone: Backbone | str | Path,
    to: str,
    out: str | Path,
    *,
    weights: str | Path | None = None,
    precision: Precision = "fp32",
    license: str | None = None,
    overwrite: bool = False,
    images: Images | None = None,
    evaluation: str | Path | None = None,
    progress: bool = True,
) -> Exported:
    """Writes a backbone as a file or a folder for other programs, and checks it.

    The file is written beside its place, opened as its users will open it, and run on the same images as the backbone:
    made ones, a few of the run's own where they are on this machine, and a few of `images`. Only if all outputs agree
    within the tolerance of the target and the precision, it gets its name.

    Args:
        backbone: a backbone, or what `load_backbone` takes.
        to: timm, torchvision, safetensors, onnx or hub-folder.
        out: the file or folder. An earlier export is replaced.
        weights: with `timm:NAME`, a file of weights for it, as for `load_backbone`.
        precision: fp32, or fp16: weights in half the space.
        license: of the weights, an identifier of the Hugging Face Hub (apache-2.0, mit, cc-by-nc-4.0, …).
        overwrite: replace a file that is no export, too. Folders that hold other files never are.
        images: more images to check with.
        evaluation: a folder with the evaluation.json whose numbers a model card shows; by default, that of the run.
        progress: show a bar.

    Raises:
        GlocalError: an unknown target or precision, a network that the target cannot hold, a place that is taken or
            cannot be written, a missing package, or a file that differs. Nothing is left then.
    """
    target, out = target_named(to), Path(out)
    if precision not in get_args(Precision):
        raise GlocalError(f"--precision {precision}: {did_you_mean(precision, get_args(Precision))}")
    check_place(out, target, overwrite=overwrite)
    if isinstance(backbone, Backbone):
        origin, loaded = Origin(), _ready(backbone)
    else:
        origin, loaded = origin_of(backbone, weights), load_backbone(backbone, weights)
    more = [] if images is None else [open_source(images, values=loaded.channels is not None)]
    if loaded.decoding is not None and loaded.channels is not None:
        for source in more:
            decode_as(source, loaded.decoding)
    if evaluation is not None and not (Path(evaluation) / "evaluation.json").is_file():
        raise GlocalError(f"--evaluation {evaluation}: there is no evaluation.json; give the --out of glocal evaluate")
    folder = Path(evaluation) if evaluation is not None else origin.run and origin.run / "evaluation"
    subject = Subject(
        backbone=loaded,
        architecture=architecture_of(loaded),
        preprocessing=Preprocessing.of(loaded),
        precision=precision,
        out=out,
        license=license or _known_license(loaded, origin),
        origin=replace(origin, numbers=numbers_of(loaded, folder)),
    )
    seen = images_from([*own_images(origin, loaded, _OWN_IMAGES), *more], subject, _OWN_IMAGES)
    made = made_images(loaded.size) if loaded.channels is None else made_values(subject.preprocessing)
    shown = torch.cat([made, seen])
    with progress_bar("steps", visible=progress) as bar:
        task = bar.add_task(f"writing {to}", total=2)
        with staged(out) as place:
            target.write(subject, place)
            bar.update(task, advance=1, description="checking")
            checks = tuple(check(subject, one, shown) for one in target.load(place))
    return Exported(out, to, precision, _size(out), checks, target.lines(subject))


def _ready(backbone: Backbone) -> Backbone:
    """A copy on the CPU, in float32 and evaluation mode: the one that was handed over may be training elsewhere."""
    return copy.deepcopy(backbone).to("cpu", torch.float32).eval()


def _known_license(backbone: Backbone, origin: Origin) -> str | None:
    """That of timm's pretrained weights, where timm notes it and they are exported as they are."""
    if origin.name is None or not origin.name.startswith("timm:") or origin.weights is not None:
        return None
    return (getattr(backbone.network, "pretrained_cfg", None) or {}).get("license")


def _size(path: Path) -> int:
    return sum(one.stat().st_size for one in (path.iterdir() if path.is_dir() else [path]))
