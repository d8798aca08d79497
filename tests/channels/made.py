"""Sets of images that are not RGB, in which classes show once what varies besides them is learned to be passed over."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = 6


def stripes(count: int, seed: int, side: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """16-bit grey images (N, H, W): the class is the direction and width of faint stripes before strong gradients."""
    draw = np.random.default_rng(seed)
    down, across = np.mgrid[:side, :side] / side
    labels = np.arange(count) % CLASSES
    images = np.empty((count, side, side))
    for image, label in zip(images, labels, strict=True):
        turn = np.pi * (label % 3) / 3 + draw.normal(0, 0.1)
        phase = (4, 8)[label // 3] * (np.cos(turn) * across + np.sin(turn) * down) + draw.random()
        right, below = draw.normal(size=2)
        image[:] = draw.uniform(-2, 2) + right * across + below * down
        image += 0.4 * np.exp(draw.normal(0, 0.5)) * np.sin(2 * np.pi * phase) + 0.1 * draw.normal(size=image.shape)
    return np.clip(np.rint(30_000 + 4_000 * images), 0, 65_535).astype(np.uint16), labels


def spectra(count: int, seed: int, side: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Images of 12 channels (N, H, W, C) float32 in units from 0.01 to 1,000: the class is a spectrum in noise."""
    draw = np.random.default_rng(seed)
    known = np.random.default_rng(5).normal(size=(CLASSES, 12))
    labels = np.arange(count) % CLASSES
    patches = np.abs(draw.normal(size=(count, 4, 4, 1))).repeat(side // 4, 1).repeat(side // 4, 2)
    images = 0.6 * known[labels][:, None, None] * patches + 2 * draw.normal(size=(count, 1, 1, 1))
    images += 0.7 * draw.normal(size=images.shape)
    return (10.0 ** np.linspace(-2, 3, 12) * (5 + images)).astype(np.float32), labels


def save(folder: Path, images: np.ndarray, labels: np.ndarray, ending: str) -> Path:
    """A folder for each class, with a file for each image: .npy, or .tif and .png of grey ones."""
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = folder / f"class{label}"
        place.mkdir(parents=True, exist_ok=True)
        file = place / f"{number:04d}{ending}"
        if ending == ".npy":
            np.save(file, image)
        else:
            Image.fromarray(image).save(file)
    return folder
