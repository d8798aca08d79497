"""The lanes of the loader: the same views, in any number of processes, and what happens to broken images."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import resize

from glocal.data.decoding.stored import StoredImage
from glocal.data.lanes.central import images_of
from glocal.data.lanes.choice import _processes, natural_size, open_lane
from glocal.data.lanes.order import BatchOrder
from glocal.data.lanes.resident import MixedSizesError, ResidentLane
from glocal.data.lanes.skipped import SkippedImages, read_skipped
from glocal.data.lanes.streaming import StreamingLane
from glocal.data.settings import DataSettings
from glocal.data.sources.base import Source
from glocal.data.sources.opening import open_source
from glocal.errors import BrokenImageError, GlocalError
from glocal.views.color import APPLY_COLOR
from glocal.views.plan import Blur, Color, Jitter, Solarize, View, ViewPlan

VIEWS = [
    View(size=24, count=2, jitter=Jitter(probability=0.8), grey=0.3, blur=Blur(probability=0.5)),
    View(size=16, scale=(0.1, 0.4), solarize=Solarize(probability=0.3)),
]
CPU = torch.device("cpu")


def open_both(
    folder: Path, *, workers: int = 2, color: Color = "exact", **order: int
) -> tuple[ResidentLane, StreamingLane]:
    source, plan = open_source(folder), ViewPlan(VIEWS)
    lanes = []
    for lane in ("resident", "streaming"):
        settings = DataSettings(lane=lane, workers=workers, color=color, mean=(0, 0, 0), std=(1, 1, 1))
        full = {"length": len(source), "batch_size": 16, "seed": 3, **order}
        lanes.append(open_lane(source, settings, plan, BatchOrder(**full), CPU, progress=False))
    assert isinstance(lanes[0], ResidentLane)
    assert isinstance(lanes[1], StreamingLane)
    return lanes[0], lanes[1]


def test_images_may_first_become_squares_of_one_size(image_folder: Callable[..., Path]) -> None:
    """As patch-wise DINO's authors do before they crop: torchvision's Resize((side, side))."""
    source = open_source(image_folder(20, sizes=((32, 32), (80, 40))))
    order = BatchOrder(length=20, batch_size=8, seed=3)
    plan = ViewPlan([View(size=24, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)])  # the whole square
    for kind in ("resident", "streaming"):
        settings = DataSettings(lane=kind, resize=48, workers=0, mean=(0, 0, 0), std=(1, 1, 1))
        lane = open_lane(source, settings, plan, order, CPU, progress=False)
        batch = next(iter(lane.batches(0, 1)))
        assert batch.geometry[0].box.tolist() == [[0.0, 0.0, 48.0, 48.0]] * 8
        for row, index in enumerate(batch.index.tolist()):
            squeezed = resize(source[index].image, [48, 48], antialias=True)
            expected = resize(squeezed, [24, 24], antialias=True).float() / 255
            assert (batch.images[0][row] - expected).abs().max() < 2 / 255


@pytest.mark.parametrize("color", ["exact", "fused"])
def test_both_lanes_show_the_same_views(color: Color, image_folder: Callable[..., Path]) -> None:
    resident, streaming = open_both(image_folder(40), color=color)
    batches = list(zip(resident.batches(1, 5), streaming.batches(1, 5), strict=True))
    assert len(batches) == 4
    for ours, theirs in batches:
        assert torch.equal(ours.index, theirs.index)
        for a, b in zip(ours.geometry, theirs.geometry, strict=True):
            assert torch.equal(a.box, b.box)
            assert torch.equal(a.flipped, b.flipped)
        for a, b in zip(ours.images, theirs.images, strict=True):
            assert a.shape == b.shape
            # Crops are within a grey level; colour operations and solarisation's threshold may widen that.
            assert ((a - b).abs() < 4 / 255).float().mean() > 0.99


def test_photometric_parameters_do_not_depend_on_the_lane(
    image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, list[torch.Tensor]] = {"resident": [], "streaming": []}
    for lane, found in zip(open_both(image_folder(40), workers=0), drawn.values(), strict=True):

        def spy(images, parameters, view, *, mean, std, found=found):  # type: ignore[no-untyped-def]
            found += [
                parameters.brightness,
                parameters.hue,
                parameters.order,
                parameters.sigma,
                parameters.blur,
            ]
            return images

        monkeypatch.setitem(APPLY_COLOR, "exact", spy)
        list(lane.batches(0, 3))
    pairs = list(zip(drawn["resident"], drawn["streaming"], strict=True))
    assert len(pairs) == 3 * 3 * 5
    assert all(torch.equal(a, b) for a, b in pairs)


def test_two_processes_show_the_views_of_one(image_folder: Callable[..., Path]) -> None:
    folder = image_folder(40)
    (whole, _), *shares = (open_both(folder), *(open_both(folder, rank=r, processes=2) for r in (0, 1)))
    for one, first, second in zip(
        whole.batches(0, 4), shares[0][0].batches(0, 4), shares[1][0].batches(0, 4), strict=True
    ):
        assert torch.equal(one.index, torch.cat([first.index, second.index]))
        for number in range(3):
            both = torch.cat([first.images[number], second.images[number]])
            assert torch.allclose(one.images[number], both, atol=1e-6)


def test_a_stream_that_starts_late_is_the_end_of_the_whole(image_folder: Callable[..., Path]) -> None:
    _, streaming = open_both(image_folder(40))
    whole, late = list(streaming.batches(0, 5)), list(streaming.batches(3, 5))
    for a, b in zip(whole[3:], late, strict=True):
        assert torch.equal(a.index, b.index)
        assert all(torch.equal(x, y) for x, y in zip(a.images, b.images, strict=True))


def test_each_epoch_shows_every_image_at_most_once_and_parts_share_a_step() -> None:
    order = BatchOrder(length=50, batch_size=16, seed=0, parts=2)
    assert order.steps_per_epoch == 3
    epochs = list(order.batches(0, 6))
    first = torch.cat([index for epoch, index in epochs if epoch == 0])
    second = torch.cat([index for epoch, index in epochs if epoch == 1])
    assert len(first) == len(set(first.tolist())) == 48
    assert not torch.equal(first, second)
    whole = [index for _, index in BatchOrder(length=50, batch_size=16, seed=0).batches(0, 6)]
    assert torch.equal(torch.cat(whole), torch.cat([index for _, index in epochs]))


@pytest.mark.parametrize("length", [48, 50, 59])
@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_every_image_comes_at_most_once_in_an_epoch_whatever_the_number_of_processes(
    processes: int, length: int
) -> None:
    one = [index for _, index in BatchOrder(length, 12, seed=5).batches(0, 8)]
    shares = [BatchOrder(length, 12, seed=5, rank=rank, processes=processes) for rank in range(processes)]
    steps = list(zip(*(share.batches(0, 8) for share in shares), strict=True))
    assert len(steps) == 8
    for whole, step in zip(one, steps, strict=True):
        assert torch.equal(torch.cat([index for _, index in step]), whole)
    left = []
    for epoch in (0, 1):
        shown = torch.cat([index for step in steps for number, index in step if number == epoch]).tolist()
        left.append(set(range(length)) - set(shown))
        assert len(shown) == len(set(shown)) == 48
        assert len(left[-1]) == length - 48
    assert length == 48 or left[0] != left[1]


@pytest.mark.parametrize(("workers", "length"), [(0, 24), (0, 29), (2, 24), (2, 29)])
def test_every_image_comes_at_most_once_in_an_epoch_whatever_the_number_of_workers(workers: int, length: int) -> None:
    source, plan = open_source(f"shapes:train:{length}"), ViewPlan(VIEWS)
    shown = []
    for rank in (0, 1):
        order = BatchOrder(length, 8, seed=5, rank=rank, processes=2)
        settings = DataSettings(lane="streaming", workers=workers)
        batches = open_lane(source, settings, plan, order, CPU, progress=False).batches(0, 3)
        found = [batch.index for batch in batches]
        assert torch.equal(torch.cat(found), torch.cat([index for _, index in order.batches(0, 3)]))
        shown += found
    assert len(set(torch.cat(shown).tolist())) == len(torch.cat(shown)) == 24


def break_files(folder: Path, count: int) -> list[str]:
    files = sorted(folder.rglob("*.png"))[:count]
    for file in files:
        file.write_bytes(file.read_bytes()[:60])
    return [str(file.relative_to(folder)) for file in files]


@pytest.mark.parametrize("lane", ["resident", "streaming"])
def test_broken_images_are_replaced_counted_and_named(
    lane: str, image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = image_folder(40)
    names = break_files(folder, 3)
    source = open_source(folder)
    settings = DataSettings(lane=lane, workers=1, broken_limit=0.1)
    order = BatchOrder(length=40, batch_size=8, seed=0)
    skipped = tmp_path / "skipped.txt"
    opened = open_lane(source, settings, ViewPlan(VIEWS), order, CPU, skipped_file=skipped, progress=False)
    batches = list(opened.batches(0, 10))
    assert all(len(batch.index) == 8 for batch in batches)
    lines = skipped.read_text().splitlines()
    assert sorted(line.split("\t")[0] for line in lines) == sorted(names)


def test_both_lanes_put_the_same_image_in_a_broken_ones_place(image_folder: Callable[..., Path]) -> None:
    folder = image_folder(40)
    break_files(folder, 2)
    source, plan = open_source(folder), ViewPlan([View(size=32)])
    order = BatchOrder(length=40, batch_size=40, seed=0)
    shown = []
    for lane in ("resident", "streaming"):
        settings = DataSettings(lane=lane, workers=0, broken_limit=0.1)
        shown.append(next(iter(open_lane(source, settings, plan, order, CPU, progress=False).batches(0, 1))))
    assert (shown[0].images[0] - shown[1].images[0]).abs().max() < 1.5 / 255 / 0.2


@pytest.mark.parametrize("lane", ["resident", "streaming"])
def test_too_many_broken_images_stop_the_run_with_names(
    lane: str, image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = image_folder(40)
    names = break_files(folder, 3)
    order = BatchOrder(length=40, batch_size=8, seed=0)
    settings = DataSettings(lane=lane, workers=1, broken_limit=0.05)
    with pytest.raises(GlocalError, match=r"3 of 40 images cannot be read.*broken_limit") as caught:
        list(open_lane(open_source(folder), settings, ViewPlan(VIEWS), order, CPU, progress=False).batches(0, 5))
    assert any(name in str(caught.value) for name in names)


def test_images_of_several_sizes_are_streamed_and_refused_as_resident(
    image_folder: Callable[..., Path],
) -> None:
    source = open_source(image_folder(20, sizes=((32, 32), (40, 28))))
    order, plan = BatchOrder(length=20, batch_size=8, seed=0), ViewPlan(VIEWS)
    assert isinstance(open_lane(source, DataSettings(), plan, order, CPU, progress=False), StreamingLane)
    with pytest.raises(MixedSizesError, match=r"class\d/\d+\.png is (32x32|40x28).*data.lane=streaming"):
        open_lane(source, DataSettings(lane="resident"), plan, order, CPU, progress=False)


def choice_of(folder: Path, capsys: pytest.CaptureFixture[str], plan: ViewPlan | None = None, **data: int) -> str:
    source = open_source(folder)
    order = BatchOrder(length=len(source), batch_size=8, seed=0)
    open_lane(source, DataSettings(**data), plan or ViewPlan(VIEWS), order, CPU)
    return " ".join(capsys.readouterr().err.split())


def test_the_chosen_lane_is_named_with_its_reason(
    image_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    alike, mixed = image_folder(40, sizes=((128, 128),)), image_folder(20, sizes=((32, 32), (40, 28)), name="mixed")
    assert "data.lane: resident; all images have one size" in choice_of(alike, capsys)
    said = choice_of(mixed, capsys)
    assert "streaming" in said
    assert "do not all have the same size" in said
    said = choice_of(alike, capsys, resident_megabytes=0)
    assert "streaming" in said
    assert "they take 1 MB, more than data.resident_megabytes=0" in said
    monkeypatch.setattr("glocal.data.lanes.choice._megabytes_of", lambda device: 1)
    assert "more than half of the 1 MB of cpu" in choice_of(alike, capsys)


def test_processes_are_as_many_as_shared_memory_has_room_for(
    image_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = image_folder(20, sizes=((32, 32), (40, 28)))
    batch = 8 * 3 * (2 * 24**2 + 16**2)
    monkeypatch.setattr("glocal.data.lanes.choice.default_workers", lambda: 3)
    for room, expected in ((12, "3 processes decode"), (5, "2 processes decode"), (1, "this process decodes")):
        monkeypatch.setattr("shutil.disk_usage", lambda path, room=room: SimpleNamespace(free=room * batch))
        assert expected in choice_of(folder, capsys)
    plan = ViewPlan([View(size=24)])
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=12 * 4 * 3 * 24**2))
    for processes, expected in ((1, (3, 2)), (2, (3, 1)), (6, (1, 1))):  # of the training: each has room for its share
        order = BatchOrder(length=48, batch_size=4 * processes, seed=0, processes=processes)
        assert _processes(DataSettings(), plan, order) == expected
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    assert "1 process decodes" in choice_of(folder, capsys, workers=1)


def large_photographs(folder: Path, orientations: tuple[int, ...]) -> Path:
    """JPEG files of odd sizes with some texture, larger than their views, each with a rotation in its metadata."""
    folder.mkdir()
    for number, orientation in enumerate(orientations):
        generator = torch.Generator().manual_seed(number)
        noise = torch.rand(1, 3, 9, 12, generator=generator)
        pixels = torch.nn.functional.interpolate(noise, (277, 373), mode="bicubic")[0]
        pixels = pixels.add_(torch.rand(277, 373, generator=generator), alpha=0.4).sub_(0.2).clamp_(0, 1)
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = Image.fromarray(pixels.mul(255).byte().permute(1, 2, 0).numpy())
        image.save(folder / f"{number}.jpg", quality=95, subsampling=0, exif=exif)
    return folder


def test_images_decoded_at_reduced_scale_show_the_same_crops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = large_photographs(tmp_path / "large", tuple(range(1, 9)))
    plan, order = ViewPlan([View(size=24, count=2, scale=(0.4, 1.0))]), BatchOrder(length=8, batch_size=8, seed=0)
    settings = DataSettings(lane="streaming", workers=0, mean=(0, 0, 0), std=(1, 1, 1))
    factors: list[int] = []
    reduce = StoredImage.reduction

    def spy(*given: Any) -> int:
        factors.append(reduce(*given))
        return factors[-1]

    monkeypatch.setattr(StoredImage, "reduction", spy)
    reduced = next(iter(open_lane(open_source(folder), settings, plan, order, CPU).batches(0, 1)))
    assert set(factors) <= {2, 4}
    monkeypatch.setattr(StoredImage, "reduction", lambda *_: 1)
    whole = next(iter(open_lane(open_source(folder), settings, plan, order, CPU).batches(0, 1)))
    for ours, theirs, one, other in zip(reduced.images, whole.images, reduced.geometry, whole.geometry, strict=True):
        assert torch.equal(one.box, other.box)
        # A crop in the wrong place by half a pixel of the view differs by ten times this.
        assert (ours - theirs).square().mean(dim=(1, 2, 3)).max() < 1e-4  # 40 dB


def test_a_file_that_breaks_behind_its_header_is_replaced_with_its_neighbours_geometry(
    tmp_path: Path, image_folder: Callable[..., Path]
) -> None:
    folder = image_folder(20, sizes=((32, 32), (40, 28)))
    files = sorted(folder.rglob("*.png"))
    source = open_source(folder)
    whole = [source[number].image for number in range(20)]
    files[4].write_bytes(files[4].read_bytes()[:-300])  # its header is in order
    plan, order = ViewPlan([View(size=16)]), BatchOrder(length=20, batch_size=20, seed=0)
    lane = open_lane(source, DataSettings(workers=0, broken_limit=0.1), plan, order, CPU, progress=False)
    views = next(iter(lane.batches(0, 1)))
    height, width = whole[5].shape[1:]
    place = views.geometry[0].box[views.index == 4][0]
    drawn = plan.draw_geometry(torch.tensor([[height, width]]), 0, 0, torch.tensor([4]))
    assert torch.equal(place, drawn.box[0, 0].float())


def test_natural_size_is_that_of_small_images_and_224_of_large(image_folder: Callable[..., Path]) -> None:
    assert natural_size(open_source(image_folder(16))) == 32
    assert natural_size(open_source(image_folder(16, sizes=((300, 200),), name="large"))) == 224


def test_evaluation_images_keep_their_order_and_leave_broken_ones_out(
    image_folder: Callable[..., Path],
) -> None:
    folder = image_folder(20)
    names = break_files(folder, 2)
    source, skipped = open_source(folder), []
    found = list(images_of(source, 32, batch_size=6, workers=1, skipped=skipped))
    index = torch.cat([part for part, _ in found])
    images = torch.cat([part for _, part in found])
    assert sorted(error.key for error in skipped) == sorted(names)
    assert len(index) == 18
    assert torch.equal(index, index.sort().values)
    assert torch.equal(images[0], source[int(index[0])].image)


def test_a_batch_larger_than_the_data_is_an_error() -> None:
    with pytest.raises(GlocalError, match="train.batch_size is 64, but there are only 50 images"):
        BatchOrder(length=50, batch_size=64, seed=0)
    with pytest.raises(GlocalError, match=r"multiple of train.devices=2 x train.accumulate=3: take \d+ or \d+"):
        BatchOrder(length=50, batch_size=16, seed=0, processes=2, parts=3)


def test_remarks_on_damaged_files_do_not_reach_the_terminal_from_a_loader(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = large_photographs(tmp_path / "large", (1,) * 4)
    for file in folder.iterdir():
        content = bytearray(file.read_bytes())
        content[-2:-2] = b"stray bytes before the end"  # libjpeg remarks on them and goes on
        file.write_bytes(content)
    plan, order = ViewPlan([View(size=128)]), BatchOrder(length=4, batch_size=4, seed=0)
    for workers in (1, 0):
        settings = DataSettings(lane="streaming", workers=workers)
        lane = open_lane(open_source(folder), settings, plan, order, CPU, progress=False)
        assert len(list(lane.batches(0, 1))) == 1
        said = capfd.readouterr().err
        assert ("Corrupt JPEG data" in said) == (workers == 0)


def test_images_that_came_back_are_forgotten(image_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder, file = image_folder(40), tmp_path / "skipped.txt"
    whole = {path: path.read_bytes() for path in folder.rglob("*.png")}
    first, second = break_files(folder, 2)
    source = open_source(folder)
    skipped = SkippedImages(source, 0.1, file)
    skipped.record([broken(source, name) for name in (first, second)])
    (folder / second).write_bytes(whole[folder / second])
    again = SkippedImages(source, 0.1, file)
    assert list(again.reasons) == [first]
    assert [line.split("\t")[0] for line in file.read_text().splitlines()] == [first]


def test_a_folder_that_is_gone_stops_the_run_and_is_no_images_fault(
    image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder, file = image_folder(40), tmp_path / "skipped.txt"
    source, order = open_source(folder), BatchOrder(length=40, batch_size=8, seed=0)
    settings = DataSettings(lane="streaming", workers=1, broken_limit=0.1)
    opened = open_lane(source, settings, ViewPlan(VIEWS), order, CPU, skipped_file=file, progress=False)
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(GlocalError, match=rf"^{folder} is gone, with .* in it; when it is back, the same command"):
        list(opened.batches(0, 5))
    assert not file.exists()
    (tmp_path / "elsewhere").rename(folder)
    assert len(list(opened.batches(0, 5))) == 5


def test_names_with_line_breaks_stay_in_their_line(tmp_path: Path) -> None:
    for name in ("a\nb\t.png", "c.png"):
        (tmp_path / name).write_bytes(b"")
    source, file = open_source(tmp_path), tmp_path / "skipped.txt"
    skipped = SkippedImages(source, 1.0, file)
    skipped.record([broken(source, name) for name in source.keys])
    assert [line.split("\t")[0] for line in read_skipped(file)] == ["a\\nb\\t.png", "c.png"]
    assert list(SkippedImages(source, 1.0, file).reasons) == list(source.keys)


def broken(source: Source, name: str) -> BrokenImageError:
    with pytest.raises(BrokenImageError) as caught:
        source[list(source.keys).index(name)]
    return caught.value


def test_a_server_that_is_gone_is_no_images_fault(
    image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(image_folder(4))

    def stale(path: Path, *_: int) -> bytes:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    monkeypatch.setattr("glocal.data.decoding.images.read_file", stale)
    error = broken(source, source.keys[0])
    assert error.gone
    with pytest.raises(GlocalError, match="is gone, with"):
        SkippedImages(source, 0.5).record([error])
