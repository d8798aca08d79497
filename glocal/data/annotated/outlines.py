"""What an object covers: polygons or run lengths, drawn as masks and written again."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from glocal.errors import GlocalError

Outline = list[np.ndarray] | dict[str, Any]
"""Polygons, each (2·P,) float64 x, y, x, y, … in pixels; or COCO's run lengths {"size", "counts"}."""


def filled(outline: Outline, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    """An outline as a mask of another size than its image's.

    Polygons are scaled before they are filled, so that the mask is as sharp as its size allows.

    Args:
        outline: in pixels of the image.
        before: height and width of the image.
        after: height and width of the mask.

    Returns:
        (H, W) uint8 of zeros and ones.

    Raises:
        GlocalError: faster-coco-eval is not installed.
    """
    tools = mask_tools()
    if isinstance(outline, dict):
        mask = torch.from_numpy(tools.decode([tools.segmToRle(outline, before[1], before[0])])[..., 0].copy())
        return interpolate(mask[None, None], size=after, mode="nearest-exact")[0, 0]
    scale = after[1] / before[1], after[0] / before[0]
    polygons = [(part.reshape(-1, 2) * scale).flatten().tolist() for part in outline]
    return torch.from_numpy(tools.decode([tools.segmToRle(polygons, after[1], after[0])])[..., 0].copy())


def run_lengths(masks: Tensor) -> list[dict[str, Any]]:
    """Masks (K, H, W) of zeros and ones as COCO's run lengths.

    Raises:
        GlocalError: faster-coco-eval is not installed.
    """
    rows = masks.to("cpu", torch.uint8).permute(1, 2, 0).numpy()
    found: list[dict[str, Any]] = mask_tools().encode(np.asfortranarray(rows))
    return found


def mask_tools() -> ModuleType:
    """faster-coco-eval's functions of masks, which are those of COCO's own tools.

    Raises:
        GlocalError: it is not installed.
    """
    try:
        from faster_coco_eval.core import mask  # type: ignore[import-untyped]
    except ImportError as error:
        raise GlocalError(MISSING) from error
    return mask


MISSING = "detection needs faster-coco-eval: pip install 'glocal[detection]'"
