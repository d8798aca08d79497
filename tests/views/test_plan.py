"""Plans: resolutions of one crop, views of a partner, geometry shared by a batch."""

from pathlib import Path

import pytest
import torch

from glocal.data.lanes.choice import Lane, open_lane
from glocal.data.lanes.order import BatchOrder
from glocal.data.settings import DataSettings
from glocal.data.sources.shapes import Shapes
from glocal.views.plan import Jitter, View, ViewPlan

VIEW = View(size=24, resolutions=(12,), jitter=Jitter(probability=0.8), grey=0.2)


def lane(kind: str, plan: ViewPlan, tmp_path: Path) -> Lane:
    settings = DataSettings(lane=kind, workers=0)  # type: ignore[arg-type]
    order = BatchOrder(64, 16, seed=3)
    return open_lane(Shapes("train", 64), settings, plan, order, torch.device("cpu"), progress=False)


def test_resolutions_show_the_same_crop_with_the_same_photometry() -> None:
    plan = ViewPlan([VIEW.model_copy(update={"count": 2})])
    assert [view.size for view in plan.views] == [24, 12, 24, 12]
    index = torch.arange(50)
    geometry, photometry = plan.draw_geometry(torch.tensor([32, 32]), 0, 0, index), plan.draw_photometry(0, 0, index)
    assert torch.equal(geometry.box[:, 0], geometry.box[:, 1])
    assert not torch.equal(geometry.box[:, 0], geometry.box[:, 2])
    assert torch.equal(photometry.brightness[:, 2], photometry.brightness[:, 3])


def test_resolutions_do_not_change_what_is_drawn() -> None:
    index, sizes = torch.arange(50), torch.tensor([32, 32])
    plain = ViewPlan([VIEW.model_copy(update={"count": 2, "resolutions": ()})]).draw_geometry(sizes, 0, 0, index)
    several = ViewPlan([VIEW.model_copy(update={"count": 2})]).draw_geometry(sizes, 0, 0, index)
    assert torch.equal(several.box[:, ::2], plain.box)


@pytest.mark.parametrize("kind", ["resident", "streaming"])
def test_a_partners_view_shows_the_partner(kind: str, tmp_path: Path) -> None:
    whole = View(size=32, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)
    mixed = lane(kind, ViewPlan([whole, whole.model_copy(update={"of": "partner"})]), tmp_path)
    mixed.partners = lambda epoch, index: (index + 1 + epoch) % 64
    images = Shapes("train", 64).images().float() / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (DataSettings().mean, DataSettings().std))
    for step, batch in enumerate(mixed.batches(0, 8)):
        other = (batch.index + 1 + step // 4) % 64
        for view, numbers in zip(batch.images, (batch.index, other), strict=True):
            assert torch.allclose(view * std + mean, images[numbers], atol=1e-2)


def test_both_lanes_show_partners_alike(tmp_path: Path) -> None:
    plan = ViewPlan([View(size=16), View(size=16, of="partner", count=2)])
    batches = []
    for kind in ("resident", "streaming"):
        paired = lane(kind, plan, tmp_path)
        paired.partners = lambda epoch, index: (3 * index + 1) % 64
        batches.append(next(iter(paired.batches(0, 1))))
    for one, other in zip(batches[0].images, batches[1].images, strict=True):
        assert (one - other).abs().max() < 0.03
    for mine, theirs in zip(batches[0].geometry, batches[1].geometry, strict=True):
        assert torch.equal(mine.box.float(), theirs.box.float())


@pytest.mark.parametrize("kind", ["resident", "streaming"])
def test_shared_geometry_gives_a_batch_one_crop_and_flip(kind: str, tmp_path: Path) -> None:
    plan = ViewPlan([View(size=16, count=2)], shared_geometry=True)
    first, second = lane(kind, plan, tmp_path).batches(0, 2)
    for geometry in first.geometry:
        assert (geometry.box == geometry.box[0]).all()
        assert (geometry.flipped == geometry.flipped[0]).all()
    assert not torch.equal(first.geometry[0].box[0], second.geometry[0].box[0])
    assert not torch.equal(first.geometry[0].box[0], first.geometry[1].box[0])


@pytest.mark.parametrize("kind", ["resident", "streaming"])
def test_plain_images_come_in_order_and_by_range(kind: str, tmp_path: Path) -> None:
    found = list(lane(kind, ViewPlan([View(size=32)]), tmp_path).plain(32, slice(10, 40)))
    assert torch.cat([index for index, _ in found]).tolist() == list(range(10, 40))
    assert torch.equal(torch.cat([images for _, images in found]), Shapes("train", 64).images()[10:40])
