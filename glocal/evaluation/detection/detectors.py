"""torchvision's detectors with a pretrained backbone in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from glocal.errors import GlocalError
from glocal.models.backbone import Backbone

Norm = Literal["train", "frozen"]

_USE = "choose resnet18, resnet34, resnet50 or another ResNet that torchvision has, with model.stem=standard"


def torchvision_resnet(backbone: Backbone, *, norm: Norm = "train") -> ResNet:
    """A backbone's network as torchvision's ResNet, without classifier; the weights are copies.

    Args:
        backbone: one whose network is a ResNet of timm.
        norm: "train" gives batch normalisation that goes on learning, "frozen" such as keeps statistics, scale and
            shift.

    Raises:
        GlocalError: the network is another one, or a ResNet with a stem or blocks that torchvision's does not have.
    """
    network: Any = getattr(backbone, "network", None)
    stages = [getattr(network, f"layer{number}", None) for number in range(1, 5)]
    label = getattr(backbone, "label", type(backbone).__name__)
    if not all(isinstance(stage, nn.Sequential) and hasattr(stage[0], "conv2") for stage in stages):
        raise GlocalError(f"{label}: {type(network).__name__} cannot be put into torchvision's detectors; {_USE}")
    if getattr(getattr(network, "conv1", None), "kernel_size", None) != (7, 7):
        raise GlocalError(f"{label}: its stem is not the standard one (7×7, stride 2, pooling); {_USE}")
    first = stages[0][0]  # type: ignore[index]
    groups = first.conv2.groups
    bottleneck = hasattr(first, "conv3")
    depths = [len(stage) for stage in stages]  # type: ignore[arg-type]
    try:
        found = ResNet(
            Bottleneck if bottleneck else BasicBlock,
            depths,
            groups=groups,
            width_per_group=first.conv2.out_channels // groups if bottleneck else 64,
            norm_layer=FrozenBatchNorm2d if norm == "frozen" else nn.BatchNorm2d,
        )
        found.fc = nn.Identity()
        found.load_state_dict(network.state_dict())
        same = _same_features(network, found)
    except (RuntimeError, ValueError) as error:
        raise GlocalError(f"{label}: its parameters are not those of torchvision's ResNet; {_USE}") from error
    if not same:
        raise GlocalError(f"{label}: its blocks compute something else than torchvision's ResNet; {_USE}")
    return found


def faster_rcnn_c4(backbone: Backbone, classes: int, *, norm: Norm = "train", **options: Any) -> FasterRCNN:
    """Faster R-CNN on the fourth stage: layer1 to layer3 see the image, layer4 sees each region (R50-C4).

    As detectron2's R50-C4 with MoCo's batch normalisation after layer4: anchors of 32 to 512 pixels in three shapes at
    stride 16, regions of 14×14. What is torchvision's own stays so: its losses, and a RoIAlign without the half
    pixel's shift.

    Args:
        backbone: a ResNet of the sizes that torchvision has.
        classes: number of classes, without the background.
        norm: as in `torchvision_resnet`; "frozen" also leaves out the additional normalisation.
        options: of torchvision's FasterRCNN (min_size, max_size, box_detections_per_img, …).

    Returns:
        A model that takes and gives what torchvision's do; label 0 is the background. Its new layers are random.

    Raises:
        GlocalError: as `torchvision_resnet`.
    """
    resnet = torchvision_resnet(backbone, norm=norm)
    head = _StageFour(resnet.layer4, resnet.inplanes, norm)
    body = IntermediateLayerGetter(resnet, {"layer3": "0"})
    body.out_channels = resnet.inplanes // 2
    return FasterRCNN(
        body,
        box_head=head,
        box_predictor=FastRCNNPredictor(resnet.inplanes, classes + 1),
        box_roi_pool=MultiScaleRoIAlign(["0"], output_size=14, sampling_ratio=0),
        rpn_anchor_generator=AnchorGenerator(((32, 64, 128, 256, 512),), ((0.5, 1.0, 2.0),)),
        **{
            "rpn_pre_nms_top_n_train": 12000,
            "rpn_pre_nms_top_n_test": 6000,
            "rpn_post_nms_top_n_train": 2000,
            "rpn_post_nms_top_n_test": 1000,
            **_images(backbone, options),
        },
    )


def mask_rcnn_fpn(backbone: Backbone, classes: int, *, norm: Norm = "train", **options: Any) -> MaskRCNN:
    """Mask R-CNN on a feature pyramid of all four stages (R50-FPN).

    As detectron2's R50-FPN with batch normalisation in the pyramid, as MoCo's; losses and RoIAlign are torchvision's.

    Args:
        backbone: a ResNet of the sizes that torchvision has.
        classes: number of classes, without the background.
        norm: as in `torchvision_resnet`; "frozen" also leaves out the pyramid's normalisation.
        options: of torchvision's MaskRCNN (min_size, max_size, box_detections_per_img, …).

    Returns:
        A model that takes and gives what torchvision's do; label 0 is the background. Its new layers are random.

    Raises:
        GlocalError: as `torchvision_resnet`.
    """
    resnet = torchvision_resnet(backbone, norm=norm)
    levels = ["0", "1", "2", "3"]
    body = BackboneWithFPN(
        resnet,
        {f"layer{number}": level for number, level in enumerate(levels, start=1)},
        [resnet.inplanes // 8 * 2**number for number in range(4)],
        out_channels=256,
        norm_layer=nn.BatchNorm2d if norm == "train" else None,
    )
    return MaskRCNN(
        body,
        classes + 1,
        box_roi_pool=MultiScaleRoIAlign(levels, output_size=7, sampling_ratio=0),
        mask_roi_pool=MultiScaleRoIAlign(levels, output_size=14, sampling_ratio=0),
        **{"rpn_post_nms_top_n_train": 1000, **_images(backbone, options)},
    )


DETECTORS: dict[str, Callable[..., FasterRCNN]] = {"faster_rcnn_c4": faster_rcnn_c4, "mask_rcnn_fpn": mask_rcnn_fpn}
"""The detectors by name."""


class _StageFour(nn.Module):
    """layer4, a batch normalisation that is new (Res5ROIHeadsExtraNorm of MoCo's detection), and the mean."""

    def __init__(self, layer4: nn.Module, channels: int, norm: Norm) -> None:
        super().__init__()
        self.layer4 = layer4
        self.norm = nn.BatchNorm2d(channels) if norm == "train" else nn.Identity()

    def forward(self, regions: Tensor) -> Tensor:
        return self.norm(self.layer4(regions)).mean(dim=(2, 3))  # type: ignore[no-any-return]


def _images(backbone: Backbone, options: dict[str, Any]) -> dict[str, Any]:
    """The options, with the normalisation that the backbone was trained with."""
    return {"image_mean": backbone.mean.flatten().tolist(), "image_std": backbone.std.flatten().tolist(), **options}


@torch.no_grad()
def _same_features(network: nn.Module, copy: ResNet) -> bool:
    """Whether two networks give the same: names and shapes do not tell activations, strides and dilations."""
    device = next(network.parameters()).device
    training = network.training
    images = torch.linspace(-2, 2, 3 * 96 * 96).sin().reshape(1, 3, 96, 96)
    network.eval()
    copy.eval()
    try:
        expected = network.forward_features(images.to(device)).cpu()  # type: ignore[operator]
    finally:
        network.train(training)
    found = IntermediateLayerGetter(copy, {"layer4": "0"})(images)["0"]
    copy.train()
    # Far more than rounding in a reduced precision makes, far less than another operation does.
    return found.shape == expected.shape and bool((found - expected).abs().max() <= 0.02 * expected.abs().max())
