"""Projection and prediction heads."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def mlp(widths: Sequence[int], *, norm: bool, last_norm: bool = False) -> nn.Sequential:
    """A multi-layer perceptron with ReLU between its layers.

    Args:
        widths: input, hidden and output widths: `[512, 512, 256]` has two layers.
        norm: batch normalisation after every hidden layer; these layers then have no bias of their own.
        last_norm: batch normalisation without learned scale and shift after the last layer (SimSiam's projector).

    >>> [type(layer).__name__ for layer in mlp([8, 4, 2], norm=True)]
    ['Linear', 'BatchNorm1d', 'ReLU', 'Linear']
    """
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(pairwise(widths), start=2):
        last = number == len(widths)
        layers.append(nn.Linear(before, after, bias=not (last_norm if last else norm)))
        if last and last_norm:
            layers.append(nn.BatchNorm1d(after, affine=False))
        if not last:
            layers += [nn.BatchNorm1d(after), nn.ReLU(inplace=True)] if norm else [nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
