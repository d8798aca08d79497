"""The comparison itself, beside a plain loop."""

from pathlib import Path

import numpy as np
import pytest
import torch

from glocal.errors import GlocalError
from glocal.exports.checking import check, difference, made_images
from glocal.exports.exporting import _ready, architecture_of
from glocal.exports.preprocessing import Preprocessing
from glocal.exports.subject import Subject
from glocal.exports.target import Loaded
from tests.exports.made import narrow


@pytest.mark.parametrize("shape", [(4, 7), (3, 5, 6)])
def test_differences_are_those_of_a_loop(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    wanted = torch.randn(shape, generator=generator)
    given = wanted + 0.01 * torch.randn(shape, generator=generator)
    found = difference("features", wanted, given)
    largest, furthest = 0.0, 0.0
    for one, other in zip(wanted.numpy().astype(np.float64), given.numpy().astype(np.float64), strict=True):
        largest = max(largest, float(np.abs(one - other).max()))
        furthest = max(furthest, float(np.sqrt(((one - other) ** 2).sum()) / np.sqrt((one**2).sum())))
    assert found.absolute == pytest.approx(largest, rel=1e-9)
    assert found.relative == pytest.approx(furthest, rel=1e-9)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_numbers_that_are_none_differ_without_end(wrong: float) -> None:
    given = torch.ones(2, 3)
    given[1, 2] = wrong
    assert difference("features", torch.ones(2, 3), given).relative == float("inf")


@pytest.mark.parametrize("size", [8, 33, 224])
def test_made_images_are_unlike_one_another(size: int) -> None:
    made = made_images(size)
    assert made.shape == (6, 3, size, size)
    assert made.dtype == torch.uint8
    assert torch.equal(made, made_images(size))
    assert (made.float().std(dim=(1, 2, 3)) > 10).all()
    assert torch.cdist(made.float().flatten(1), made.float().flatten(1)).fill_diagonal_(1e9).min() > 100


def subject() -> Subject:
    made = _ready(narrow())
    return Subject(made, architecture_of(made), Preprocessing.of(made), "fp32", Path("x"))


def test_files_that_take_one_batch_size_only_are_found() -> None:
    its = subject()
    seen = []

    def run(images: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.append(len(images))
        return {"features": its.network(images[:2])}

    with torch.no_grad(), pytest.raises(GlocalError, match=r"gives \(2, 32\) for features of 3 images, not \(3, 32\)"):
        check(its, Loaded("onnx", its.preprocessing, run, ("features",), 1e-4), made_images(32))
    assert seen == [1, 2, 3]


def test_missing_outputs_are_found() -> None:
    its = subject()
    loaded = Loaded("onnx", its.preprocessing, lambda images: {}, ("features",), 1e-4)
    with pytest.raises(GlocalError, match="gives nothing for features of 1 images"):
        check(its, loaded, made_images(32))


def test_preprocessing_goes_through_text_and_back() -> None:
    its = Preprocessing(size=224, crop=7 / 8, mean=(0.485, 0.456, 0.406), std=(0.1, 0.2, 0.3), interpolation="bicubic")
    assert Preprocessing.from_metadata(its.metadata()) == its
    assert "the central square of 7/8 of the shorter side, resized to 224 × 224 pixels (bicubic" in its.sentence()
    with pytest.raises(GlocalError, match="does not say how images are prepared: 'std'"):
        Preprocessing.from_metadata({key: value for key, value in its.metadata().items() if key != "std"})
    assert Preprocessing.of(narrow()).mean == (0.4, 0.5, 0.6)  # float32 in as few digits as name it
