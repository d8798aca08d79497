"""JPEG files by torchvision's decoder, and what makes one of them too slow to decode."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from PIL import Image
from torch import Tensor

MOST_SCANS = 250  # of a progressive JPEG file; usual ones have about ten, and each is a pass over all pixels


def scans_of(image: Image.Image, content: Callable[[], bytes]) -> int:
    """How many scans there are of an opened progressive JPEG file; 0 for other images, whose content is not read."""
    return content().count(b"\xff\xda") if "progressive" in image.info else 0


def jpeg_pixels(content: bytes) -> Tensor | None:
    """A JPEG file's pixels by torchvision; None where it cannot: Pillow knows more kinds and says what is wrong."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions announce that the decoder will move to another package
        try:
            from torchvision.io import ImageReadMode, decode_jpeg

            stored = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            with _without_libjpegs_remarks():
                pixels: Tensor = decode_jpeg(stored, mode=ImageReadMode.RGB)
            return pixels
        except (ImportError, RuntimeError):
            return None


@contextmanager
def _without_libjpegs_remarks() -> Iterator[None]:
    """libjpeg writes remarks on damaged files to the terminal past Python, once each time that the file is read.

    Only a process of a loader can turn its error output off for a moment: in the main one other threads write to it.
    """
    if torch.utils.data.get_worker_info() is None:
        yield
        return
    terminal, nowhere = _error_outputs()
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)


@cache
def _error_outputs() -> tuple[int, int]:
    """This process' error output and one that leads nowhere, as file descriptors."""
    return os.dup(2), os.open(os.devnull, os.O_WRONLY)
