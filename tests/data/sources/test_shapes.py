"""The embedded shapes: pure, balanced, and hard for raw pixels."""

import pickle

import pytest
import torch

from glocal.data.sources.shapes import Shapes
from glocal.errors import GlocalError
from glocal.evaluation.protocols.knn import knn
from glocal.neighbors import nearest_neighbors


def test_a_smaller_set_is_the_beginning_of_a_larger_one_and_splits_differ() -> None:
    small, large = Shapes("train", 40), Shapes("train", 1100)
    assert torch.equal(small.images(), large.images()[:40])
    assert torch.equal(small[7].image, large[7].image)
    assert not torch.equal(Shapes("test", 40).images(), small.images())


def test_images_are_bytes_in_colour_and_classes_are_balanced() -> None:
    shapes = Shapes("train", 800)
    images = shapes.images()
    assert images.shape == (800, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert shapes.labels is not None
    assert torch.bincount(shapes.labels).tolist() == [100] * 8
    assert shapes.classes is not None
    assert len(shapes.classes) == 8
    assert (images.float().std(dim=(0, 2, 3)) > 30).all()


def test_nearest_neighbours_on_raw_pixels_fail() -> None:
    train, test = Shapes("train"), Shapes("test")
    bank, queries = train.images().flatten(1).float(), test.images().flatten(1).float()
    assert train.labels is not None
    assert test.labels is not None
    found = knn(bank, train.labels, queries, test.labels, k=(1, 5, 20, 200))
    assert max(found.values()) < 40
    _, index = nearest_neighbors(queries, bank, 1)
    assert (train.labels[index[:, 0]] == test.labels).float().mean() < 0.4


def test_pixels_are_not_pickled() -> None:
    shapes = Shapes("train", 500)
    shapes.images()
    again = pickle.loads(pickle.dumps(shapes))
    assert len(pickle.dumps(shapes)) < 50_000
    assert torch.equal(again.images(), shapes.images())


@pytest.mark.parametrize(
    ("split", "count", "message"), [("tset", None, "did you mean test"), ("train", 0, "at least 1")]
)
def test_wrong_splits_and_counts_are_refused(split: str, count: int | None, message: str) -> None:
    with pytest.raises(GlocalError, match=message):
        Shapes(split, count)
