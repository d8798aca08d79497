"""Pictures of images with their true and predicted masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from glocal.data.annotated.masks import UNKNOWN
from glocal.report.pictures import plain, save_picture, shortened
from glocal.views.pictures import as_picture

_IN_LEGEND = 20
_LONGEST_NAME = 24
_ROWS = ("image", "truth", "prediction")


def class_name(number: int, classes: Sequence[str] | None) -> str:
    """The name of a class, or its number.

    >>> class_name(1, ["ground", "disc"]), class_name(7, None)
    ('disc', 'class 7')
    """
    known = classes is not None and number < len(classes) and classes[number]
    return str(classes[number]) if classes is not None and known else f"class {number}"


def draw_segmentation(
    examples: Sequence[tuple[Tensor, Tensor, Tensor]], classes: Sequence[str] | None, title: str, path: Path
) -> None:
    """Draws a column for each image (3, S, S) uint8 with its true and predicted masks (S, S), and a legend.

    The 20 classes that cover most are named; class 0 is grey. Pixels whose truth is 255 are white in both masks.
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    truth = torch.stack([mask.long().cpu() for _, mask, _ in examples])
    said = torch.stack([mask.long().cpu() for _, _, mask in examples]).masked_fill_(truth == UNKNOWN, UNKNOWN)
    pixels = torch.stack([truth, said]).flatten().bincount(minlength=UNKNOWN + 1)
    numbers = [number for number in pixels[:UNKNOWN].argsort(descending=True, stable=True).tolist() if pixels[number]]
    tab = colormaps["tab20"]
    # The ten strong colours first, then their ten light ones; greys are for class 0.
    strong = [tab(place) for place in (*range(0, 20, 2), *range(1, 20, 2)) if place // 2 != 7]
    colors = torch.ones(UNKNOWN + 1, 3)
    for place, number in enumerate(sorted(number for number in numbers if number)):
        colors[number] = torch.tensor(to_rgb(strong[place % len(strong)]))
    colors[0] = 0.8

    figure = Figure(figsize=(max(5.0, 1.7 * len(examples) + 1.8), 5.6), layout="constrained")
    grid = figure.subplots(len(_ROWS), len(examples), squeeze=False)
    for column, (image, _, _) in enumerate(examples):
        shown = (as_picture(image.cpu()).permute(1, 2, 0), colors[truth[column]], colors[said[column]])
        for row, picture in enumerate(shown):
            axes = grid[row][column]
            axes.imshow(picture.numpy(), interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            if column == 0:
                axes.set_ylabel(_ROWS[row], fontsize=10)
    handles = [
        Patch(facecolor=tuple(colors[number].tolist()), label=" " + plain(shortened(name, _LONGEST_NAME)))
        for number in sorted(numbers[:_IN_LEGEND])
        for name in [class_name(number, classes)]  # " " because what begins with _ would be left out
    ]
    if pixels[UNKNOWN]:
        handles.append(Patch(facecolor="white", edgecolor="0.6", label=" does not count"))
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=9)
    figure.suptitle(plain(title), fontsize=11)
    save_picture(figure, path)
