"""From a recipe's `model` section to a backbone."""

from __future__ import annotations

from collections.abc import Sequence

import timm
from timm.models.resnet import ResNet

from glocal.data.decoding.rules import Decoding
from glocal.errors import GlocalError, one_line, shown
from glocal.models.alexnet import SmallAlexNet
from glocal.models.architecture import (
    SMALL_ALEXNET,
    Architecture,
    ModelSettings,
    Stem,
    entry_family,
    has_plain_stem,
    known_name,
    set_stem,
    statistics_of_weights,
)
from glocal.models.backbone import Backbone
from glocal.models.hub import check_weights_at_hand
from glocal.settings import IMAGENET_MEAN, IMAGENET_STD


def _naming(settings: ModelSettings) -> str:
    return "model.pretrained" if settings.pretrained else f"model.init={settings.init}"


def build_backbone(
    settings: ModelSettings,
    *,
    size: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    channels: int | None = None,
) -> Backbone:
    """Builds the network of a recipe's `model` section, randomly initialised by torch's global generator.

    timm's own weights are put in where the section asks for them; those of a file are not
    (`glocal.models.fitting.load_into`).

    Residual branches of ResNets do not start at zero (torchvision's default, which the papers use) unless
    `options.zero_init_last` says so. Vision transformers take any image size that their patches divide.

    Args:
        settings: the section.
        size: side of the images in pixels.
        mean, std: per channel; None takes what the pretrained weights expect, or ImageNet's where there are none.
        channels: of images whose values come in their own units; None: they are RGB. timm adapts its own weights.

    Raises:
        GlocalError: unknown name, an option that the model does not take, a small or medium stem on another family or
            on pretrained weights, or weights that cannot be had.
    """
    settings = settings.for_size(size)
    known = statistics_of_weights(settings)
    if channels is not None:
        mean, std = mean or (0.0,) * channels, std or (1.0,) * channels
    mean = mean or (known.mean if known else IMAGENET_MEAN)
    std = std or (known.std if known else IMAGENET_STD)
    inputs = channels or 3
    if settings.name == SMALL_ALEXNET:
        if settings.options or settings.known_to_timm or settings.stem != "standard":
            raise GlocalError(f"model: {SMALL_ALEXNET} has no options, no pretrained weights and no stem but its own")
        found = Backbone(SmallAlexNet(inputs), size=size, mean=mean, std=std, label=settings.name)
        found.architecture = Architecture(SMALL_ALEXNET, {} if inputs == 3 else {"channels": inputs})
        found.decoding = None if channels is None else Decoding(channels=channels)
        return found
    name = known_name(settings.name)
    options = dict(settings.options)
    if options.get("in_chans", inputs) != inputs:
        come = "as RGB, grey ones with three equal channels" if channels is None else f"with data.channels={channels}"
        raise GlocalError(
            f"model.options.in_chans={options['in_chans']}: all images come {come}; leave it out, it follows "
            "data.channels"
        )
    if inputs != 3:
        options["in_chans"] = inputs
    stem: Stem = "standard" if settings.stem == "auto" else settings.stem  # never auto, after for_size
    if stem != "standard" and settings.known_to_timm:
        raise GlocalError(
            f"model.stem={stem} does not go with {_naming(settings)}: a new first convolution has no pretrained "
            "weights; use model.stem=standard"
        )
    if entry_family(name) is ResNet:
        options.setdefault("zero_init_last", False)
    elif name.startswith("vit_"):
        options = {"img_size": size, "dynamic_img_size": True, **options}
    if settings.known_to_timm:
        check_weights_at_hand(name, _naming(settings), options)
    try:
        network = timm.create_model(name, pretrained=settings.known_to_timm, num_classes=0, **options)
    except TypeError as error:
        raise GlocalError(
            f"model.options: {settings.name} does not take them: {error}; if they are of another network, replace the "
            f"whole section: 'model={{name: {settings.name}}}'"
        ) from error
    except Exception as error:  # every hub client fails in its own way; so do networks with options that do not fit
        if settings.known_to_timm:
            raise GlocalError(
                f"{_naming(settings)}: the weights of {settings.name} cannot be had: {one_line(error)}"
            ) from error
        given = f" with model.options={shown(settings.options)}" if settings.options else ""
        raise GlocalError(
            f"model.name={settings.name}{given} cannot be built for images of {size} pixels (data.size): "
            f"{one_line(error)}"
        ) from error
    if stem != "standard":
        if not has_plain_stem(network):
            raise GlocalError(
                f"model.stem: the {stem} stem is for ResNets whose stem is one convolution and a pooling, not for "
                f"{settings.name}; use standard"
            )
        set_stem(network, stem)
    found = Backbone(network, size=size, mean=mean, std=std, label=settings.name)
    found.architecture = Architecture(name, options, stem)
    found.decoding = None if channels is None else Decoding(channels=channels)
    return found
