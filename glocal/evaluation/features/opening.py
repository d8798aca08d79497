"""Opening what features are taken of by its name: a backbone, or the pixels that it has to beat."""

from __future__ import annotations

from pathlib import Path

import torch

from glocal.errors import GlocalError
from glocal.evaluation.features.extraction import Extractor, RawPixels
from glocal.memory import keep_freed_memory


def open_extractor(
    given: Extractor | str | Path, weights: str | Path | None = None, *, device: str = "cpu"
) -> Extractor:
    """What gives features, on its device.

    Args:
        given: a run's folder, a checkpoint, `timm:NAME`, `untrained:RUN`, `untrained:timm:NAME`, `pixels` (32×32 raw
            pixels), or a backbone itself.
        weights: with `timm:NAME`, a file of weights instead of those that timm knows.
        device: where a network shall be.

    Raises:
        GlocalError: there is none of that name (`glocal.load_backbone`), or weights are given for one that has its own.
    """
    from glocal.models.loading import load_backbone

    if not isinstance(given, str | Path):
        if weights is not None:
            raise GlocalError("weights go with timm:NAME, not with a backbone that has its own")
        opened: Extractor = given
    elif str(given) == "pixels" and weights is None:
        opened = RawPixels()
    else:
        opened = load_backbone(given, weights)
    if isinstance(opened, torch.nn.Module):
        opened.to(device)
        if device == "cpu":  # the system would clear new memory page by page for longer than the network computes
            keep_freed_memory()
            opened.to(memory_format=torch.channels_last)
    return opened
