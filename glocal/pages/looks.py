"""What a network is shown: the views of some images with their crops drawn in the image."""

from __future__ import annotations

import html
import io
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from glocal.config import AnyRecipe
from glocal.data.sources.base import Source, Subset
from glocal.data.sources.resized import resized
from glocal.pages.curves import COLOURS
from glocal.report.pictures import shown_views
from glocal.report.preview import open_views
from glocal.report.sheets import data_address, jpeg
from glocal.views.pictures import as_picture

_LONG, _CROP = 320, 96  # pixels that the image and its crops have on the page, at most
_MOST = 10  # views that are drawn


def draw_looks(source: Source, recipe: AnyRecipe, places: Tensor) -> Iterator[str]:
    """For each image its views as HTML: the boxes of the crops in the image, and the crops.

    Args:
        source: the images.
        recipe: its views are those of the first epoch; those of partners are left out.
        places: (n,) int64, which images of the source.
    """
    own = [view for view in recipe.views or [] if view.of == "image"]
    chosen = resized(Subset(source, places), recipe.data.resize)
    lane = open_views(Subset(source, places), recipe.model_copy(update={"views": own}), len(places))
    views = next(lane.batches(0, 1))
    shown = range(min(len(lane.plan), _MOST))
    for row in views.index.argsort().tolist():
        sample = chosen[int(views.index[row])]
        crops = []
        for view in shown:
            pixels = shown_views(views.images[view][row].cpu(), recipe.data)
            colour = COLOURS[view % len(COLOURS)]
            name = html.escape(f"{lane.plan.views[view].name}, {pixels.shape[-1]} px")
            file = data_address(jpeg(_picture(pixels), _CROP))
            crops.append(f'<figure><img alt="" src="{file}" style="border-color:{colour}">{name}</figure>')
        boxes = [views.geometry[view].box[row].tolist() for view in shown]
        yield f'<div class="views">{_boxed(sample.image, boxes)}<div class="crops">{"".join(crops)}</div></div>'


def _boxed(image: Tensor, boxes: list[list[float]]) -> str:
    """An image with boxes (left, top, right, bottom in its pixels) in the colours of the views."""
    height, width = image.shape[1:]
    line = max(height, width) / 110
    drawn = []
    for number, (left, top, right, bottom) in enumerate(boxes):
        place = f'x="{left:g}" y="{top:g}" width="{right - left:g}" height="{bottom - top:g}"'
        drawn.append(f'<rect {place} fill="none" stroke="{COLOURS[number % len(COLOURS)]}" stroke-width="{line:.2f}"/>')
    file = data_address(jpeg(_picture(as_picture(image)), _LONG))
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="the crops in the image">'
        f'<image href="{file}" width="{width}" height="{height}"/>{"".join(drawn)}</svg>'
    )


def _picture(image: Tensor) -> Image.Image:
    """(3, H, W), uint8 or in [0, 1], as a picture."""
    pixels = image if image.dtype == torch.uint8 else (image * 255).round().to(torch.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))


def attention_pictures(images: Tensor, attention: Tensor) -> str:
    """Images beside the attention of each head, as HTML.

    Args:
        images: (B, 3, S, S) uint8, or (B, C, S, S) values.
        attention: (B, H, h, w) of `glocal.models.attention.cls_attention`.
    """
    rows = []
    for image, heads in zip(images, attention, strict=True):
        shown = data_address(jpeg(_picture(as_picture(image)), _CROP))
        drawn = [f'<figure><img alt="" src="{shown}" style="border:0">image</figure>']
        for number, head in enumerate(heads[:_MOST]):
            strength = (head / head.max()).clamp(0, 1).sqrt()  # the root shows what is not the strongest as well
            picture = Image.fromarray((255 * strength).byte().numpy()).resize((_CROP, _CROP), Image.Resampling.NEAREST)
            file = io.BytesIO()
            picture.save(file, "PNG")
            address = data_address(file.getvalue())
            drawn.append(f'<figure><img alt="" src="{address}" style="border:0">head {number + 1}</figure>')
        rows.append(f'<div class="crops views">{"".join(drawn)}</div>')
    return "".join(rows)
