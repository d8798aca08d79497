"""The labels that a method gives to images by itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glocal.views.random import uniform


class PseudoLabels(nn.Module):
    """Every image's cluster in each of several clusterings.

    They lie on the CPU, where a batch's indices are, and are in the checkpoint. Until they are assigned they are
    random, a pure function of seed and image.

    Args:
        clusterings: H, how many labels an image has.
        clusters: K, how many values a label has.
    """

    def __init__(self, clusterings: int, clusters: int) -> None:
        super().__init__()
        self.clusterings, self.clusters = clusterings, clusters
        self.assigned = torch.empty(0, clusterings, dtype=torch.int32)  # (N, H)

    def assign(self, labels: Tensor) -> None:
        """Takes the labels (N, H) of all images."""
        self.assigned = labels.to("cpu", torch.int32)

    def forward(self, index: Tensor, seed: int) -> Tensor:
        """The labels (B, H) int64 of the images `index` (B,), on the CPU."""
        if len(self.assigned) > 0:
            return self.assigned[index].long()
        draws = uniform(seed, "pseudo-label", index[:, None], torch.arange(self.clusterings))
        return (draws * self.clusters).long()

    def get_extra_state(self) -> Tensor:
        return self.assigned

    def set_extra_state(self, state: Tensor) -> None:
        self.assigned = state
