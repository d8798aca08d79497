"""What pictures share: names as matplotlib shall draw them, and files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from glocal.data.settings import DataSettings
from glocal.files import printable, write_atomically
from glocal.views.pictures import as_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def shortened(text: str, most: int) -> str:
    """A text of at most so many letters.

    >>> shortened("Staffordshire bull terrier", 12)
    'Staffordshi…'
    """
    return text if len(text) <= most else text[: most - 1] + "…"


def plain(text: str) -> str:
    """A text that matplotlib draws as it is: $ would begin a formula, and bytes that are no UTF-8 would stop it."""
    return printable(text).replace("$", r"\$")


def shown_views(images: Tensor, data: DataSettings) -> Tensor:
    """Normalised images (…, C, H, W) as people shall see them, (…, 3, H, W) in [0, 1]: by `as_picture` if not RGB."""
    if data.stored_channels is not None:
        return as_picture(images).float() / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    return (images * std + mean).clamp(0, 1)


def save_picture(figure: Figure, path: Path, dpi: int = 130) -> None:
    """Writes a figure, whole or not at all; letters that the font lacks are boxes, without a warning for each.

    Raises:
        WriteError: it cannot be written.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_atomically(path, lambda file: figure.savefig(file, format=path.suffix[1:] or None, dpi=dpi))
