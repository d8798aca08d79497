"""The pictures of what a method looks at: the views that it cuts from the image of `page_scene.py`, and two images
mixed into one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib import pyplot
from page_scene import COLOURS, crops, scene, show, views_of

from glocal.views.mixing import cutmix


def draw_views() -> Any:
    """Two whole views of SimCLR and what was drawn for them."""
    return crops(views_of("simclr", 7), ["0", "1"], ["first view", "second view"], columns=2)


def draw_logo() -> Any:
    """LoGo's two global and two local crops."""
    names = ["g1", "g2", "l1", "l2"]
    return crops(views_of("logo", 9), names, ["global", "global", "local", "local"], columns=2)


def draw_dino() -> Any:
    """DINO's global views and some of its local ones."""
    found = views_of("dino", 4)
    return crops(found, ["g1", "g2", "l1", "l2", "l3", "l4"], ["teacher", "teacher", *["student"] * 4])


def draw_clim() -> Any:
    """An image, a neighbour, and the two mixed by CutMix."""
    anchor, neighbour = (
        torch.from_numpy(np.array(scene(number))).permute(2, 0, 1)[None].float() / 255 for number in (0, 1)
    )
    mixed, share = cutmix(anchor, neighbour, torch.tensor([0.6]), torch.tensor([[0.62, 0.55]], dtype=torch.float64))
    figure, axes = pyplot.subplots(1, 3, figsize=(9.6, 2.7), layout="constrained")
    titles = (
        "the image",
        "its positive: a neighbour nearer to the centre",
        f"the query: λ = {float(share):.2f} of the image",
    )
    for place, picture, title, colour in zip(axes, (anchor, neighbour, mixed), titles, COLOURS, strict=False):
        show(place, picture[0].permute(1, 2, 0).numpy(), title, colour, 3)
    return figure
