"""What pictures share: names as matplotlib shall draw them, and files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from glocal.files import printable

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


def save_picture(figure: Figure, path: Path) -> None:
    """Writes a figure; letters that the font lacks are boxes, without a warning for each."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure.savefig(path, dpi=130)
