"""A stage of a network before its last one, whose features are taught beside the last ones."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from glocal.models.backbone import Backbone


class Stage(NamedTuple):
    """A stage of a network.

    Attributes:
        place: in timm's `feature_info`.
        dim: the channels of its map.
    """

    place: int
    dim: int


def stage_before_last(backbone: Backbone) -> Stage | None:
    """The last stage but one; where all have one resolution (vision transformers), the block three quarters through.

    None for a network of one stage, or of stages that timm does not know (small_alexnet).
    """
    network = backbone.network
    stages = getattr(network, "feature_info", None)
    if type(network).__name__ == "Hiera":  # its forward_intermediates ends at an earlier stage
        return None
    if not isinstance(stages, list) or len(stages) < 2 or not hasattr(network, "forward_intermediates"):
        return None
    alike = stages[0]["reduction"] == stages[-1]["reduction"]
    place = max(0, 3 * len(stages) // 4 - 1) if alike else len(stages) - 2
    return Stage(place, stages[place]["num_chs"])


def unpooled_and_stage(backbone: Backbone, images: Tensor, stage: Stage) -> tuple[Tensor, Tensor]:
    """What `backbone.forward_unpooled` gives of normalised images, and the mean (B, C) of a stage's map."""
    unpooled, places = backbone(images, stage.place)
    return unpooled, places.mean(dim=(2, 3))
