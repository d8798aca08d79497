"""A linear classifier on frozen features, by SGD, as the papers train it.

Several learning rates are trained at once: every batch goes through the backbone once and feeds the classifiers of all
of them. With several, the one that is reported is chosen on `val`, or on a part of the training images that is held out
for the choice; never on the test images. What is reported is the classifier after the last epoch: the scripts of MoCo,
DINO and SCE report the best epoch on the test images, which is not done here.

Styles, each a set of values that single settings override:

- `features`: features are computed once, without augmentation, and standardised with the training images' mean and
  deviation, which plays the part of the batch normalisation that probes put before the classifier (He et al., MAE,
  appendix A) and lets one range of learning rates fit all backbones.
- `moco`: He et al., MoCo, CVPR 2020, section 4.1, and CLIM: SGD with learning rate 30 for 100 epochs, times 0.1 after
  60 and 80, batches of 256, no weight decay; random resized crops and flips, 256/224 central crops for the test.
- `dino`: `eval_linear.py` of Caron et al., ICCV 2021: the CLS tokens of the last four blocks side by side (of networks
  as wide as ViT-B: the last CLS token and the mean of the patch tokens), batches of 1,024, cosine. The authors ask to
  adapt the rate to the checkpoint (0.004 by default at this batch): several are trained. Central squares are resized
  by bicubic interpolation, crops bilinearly, as theirs are. Networks without CLS token give their pooled features.
- `sce`: Denize et al., WACV 2023, supplement, section D: as `moco`, but images of small sets (up to 64 pixels: CIFAR,
  Tiny ImageNet) are padded by 4 pixels, cut at random and flipped, those of medium sets (up to 96 pixels: STL10) are
  flipped alone, since a crop of their own size is all of them; of both, test images are resized and nothing is cut off.
  The paper counts Tiny ImageNet among its medium sets, which are not padded: linear.padding=0 gives that, and its
  rows of `glocal tables sce/2` have it. Their
  ImageNet run: learning_rates=[0.4], schedule=cosine, epochs=90, batch_size=1024.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from glocal.data.lanes.order import BatchOrder
from glocal.data.sources.base import Source, Subset
from glocal.errors import GlocalError
from glocal.evaluation.features.bench import Bench, Measurement, Protocol
from glocal.evaluation.features.extraction import POOLED, Extractor, Readout, interpolation_of
from glocal.evaluation.metrics.accuracy import accuracies
from glocal.evaluation.probes.augmented import Batch, padded_crops, resized_crops
from glocal.evaluation.probes.linear import LinearSettings, Probe
from glocal.models.backbone import Backbone

_SMALL_SIDE, _MEDIUM_SIDE = 64, 96  # images up to here are SCE's small (CIFAR) and medium (STL10) ones
_WIDE = 768  # of this dimension on, DINO's authors take the last block and the mean of its patches
_ON_DEVICE = 8 << 30  # bytes of features up to which they are kept on the device


def readout_of(backbone: Extractor, settings: LinearSettings) -> Readout:
    """The features that the settings ask for: pooled ones, or tokens of the last blocks; of images resized as they ask.

    Raises:
        GlocalError: `blocks` or `patch_mean` are set and the network has no CLS token.
    """
    share = settings.central_share(backbone.size)
    cut = "" if share is None else f", {share:g} of the side"
    pooled = POOLED if share is None else POOLED._replace(share=share, name=f"{POOLED.name}{cut}")
    interpolation = interpolation_of(backbone, settings.interpolation)
    if interpolation != interpolation_of(backbone):
        name = f"{pooled.name}, {interpolation}"
        pooled = pooled._replace(name=name, interpolation=interpolation)
    asked = settings.blocks is not None or settings.patch_mean
    if not settings.tokens and not asked:
        return pooled
    if not isinstance(backbone, Backbone) or not backbone.has_cls_token:
        if asked:
            raise GlocalError(
                f"{backbone.label} has no CLS token; leave linear.blocks and linear.patch_mean unset, or choose a "
                "vision transformer"
            )
        return pooled
    wide = backbone.dim >= _WIDE
    depth = len(backbone.network.blocks)  # type: ignore[arg-type]  # a vision transformer has them
    blocks = settings.blocks or (1 if wide else min(4, depth))
    patch_mean = wide if settings.patch_mean is None else settings.patch_mean

    def compute(backbone: Extractor, images: Tensor) -> Tensor:
        assert isinstance(backbone, Backbone)
        tokens = backbone.last_tokens(images, blocks)
        parts = [block[:, 0] for block in tokens]
        return torch.cat([*parts, tokens[-1][:, 1:].mean(dim=1)] if patch_mean else parts, dim=1)

    name = f"CLS of the last {blocks}" + ", mean of patches" * patch_mean + f", {interpolation}{cut}"
    return Readout(name, compute, share=share, interpolation=interpolation)


def measure(bench: Bench, settings: LinearSettings) -> list[Measurement]:
    """Trains on `train` and measures on `test`.

    The plain features of the training images are computed for every style: they say which images cannot be read, give
    the moments for `standardise`, and are what a held-out choice looks at. They cost a fraction of an epoch, are kept
    on the disk, and other protocols use them too.
    """
    backbone, readout = bench.backbone, readout_of(bench.backbone, settings)
    bench.resolve(interpolation=interpolation_of(backbone, settings.interpolation))
    pair = bench.labelled(readout)
    assert bench.train is not None  # `labelled` has seen it
    val, where = None, f"{100 * settings.held_out:g}% of train"
    if settings.several and bench.val is not None:
        found = bench.pair(bench.train, bench.val, readout)
        val, where = (found.test, found.test_labels), "val"
    small = pair.train.numel() * pair.train.element_size() <= _ON_DEVICE
    probe = Probe(
        settings,
        pair.train.to(bench.device) if small else pair.train,
        pair.train_labels,
        len(pair.classes),
        device=bench.device,
        progress=bench.progress,
        val=val,
    )
    kind = settings.augmentation
    if kind == "auto":
        kind = "pad" if backbone.size <= _SMALL_SIDE else "flip" if backbone.size <= _MEDIUM_SIDE else "crop"
    if kind == "none":
        trained = probe.on_features()
    else:
        readable = bench.features(bench.train, readout).index
        source: Source = bench.train if len(readable) == len(bench.train) else Subset(bench.train, readable)
        order = BatchOrder(len(source), min(settings.batch_size, len(source)), settings.seed)
        if kind == "crop":
            batches = _resized(bench, source, order, settings)
        else:
            batches = _padded(bench, source, order, settings, settings.padding if kind == "pad" else 0)
        trained = probe.on_images(
            batches,
            order.steps_per_epoch,
            torch.no_grad()(lambda images: readout.compute(backbone, images)),
        )
    how = f" (of {len(settings.learning_rates)}, chosen on {where})" * settings.several
    metrics = accuracies(probe.test(trained, pair.test), pair.test_labels)
    del metrics["mean_per_class"]  # no paper reports it of this probe
    return [Measurement(f"{settings.style}, lr={trained.rate:g}{how}", metrics)]


def _padded(bench: Bench, source: Source, order: BatchOrder, settings: LinearSettings, padding: int) -> Iterator[Batch]:
    return padded_crops(
        source,
        bench.backbone.size,
        order,
        settings.epochs,
        padding=padding,
        share=settings.central_share(bench.backbone.size),
        interpolation=interpolation_of(bench.backbone, settings.interpolation),
        device=bench.device,
        workers=bench.workers,
    )


def _resized(bench: Bench, source: Source, order: BatchOrder, settings: LinearSettings) -> Iterator[Batch]:
    return resized_crops(
        source,
        bench.backbone.size,
        order,
        settings.epochs,
        scale=settings.scale,
        device=bench.device,
        workers=bench.workers,
        progress=bench.progress,
    )


PROTOCOL = Protocol(
    name="linear",
    summary="a linear classifier by SGD in the style of features, moco (and CLIM), dino or sce; several rates at once",
    settings=LinearSettings,
    measure=measure,
)
