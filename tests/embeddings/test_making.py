"""`glocal embed`: every vector is that of its file, in the source's order, whatever stopped the work in between."""

import errno
import io
import json
import os
import signal
import socket
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision.transforms.v2.functional import resized_crop

import glocal
from glocal.data.lanes.central import images_of
from glocal.data.sources.opening import open_source
from glocal.embeddings import making
from glocal.embeddings.folder import ABOUT, Embeddings, read_about, shard_path, shard_paths
from glocal.embeddings.shards import map_vectors
from glocal.errors import GlocalError
from glocal.evaluation.features.bench import Bench
from glocal.evaluation.features.extraction import RawPixels
from glocal.evaluation.features.opening import open_extractor
from glocal.models.loading import load_backbone
from glocal.signals import Stopped
from tests.preloaded import Command, Preloaded

SMALL_SHARDS = "import glocal.embeddings.making as making; making.SHARD_ROWS = 16\n"
SLOW = SMALL_SHARDS + (
    "import time\nwrite = making.Work._write\n"
    "making.Work._write = lambda self, number, *rest: (time.sleep(0.3 if number else 0), write(self, number, *rest))\n"
)


@pytest.fixture
def odd_folder(tmp_path: Path, shape_images: Tensor) -> Path:
    """Images of all kinds of files in two classes, two of which cannot be read."""
    folder = tmp_path / "odd"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in shape_images[:9]]
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    pictures[0].resize((150, 100)).save(folder / "a" / "turned.jpg", exif=exif)
    pictures[1].resize((101, 130)).convert("L").save(folder / "a" / "grey.png")
    pictures[2].convert("P").save(folder / "a" / "palette.png")
    pictures[3].resize((70, 90)).convert("CMYK").save(folder / "a" / "cmyk.jpg")
    deep = np.linspace(0, 4095, 96 * 120).reshape(96, 120).astype(np.uint16)
    Image.fromarray(deep).save(folder / "b" / "deep.png")
    transparent = pictures[4].convert("RGBA")
    transparent.putalpha(100)
    transparent.save(folder / "b" / "transparent.png")
    pictures[5].resize((900, 3)).save(folder / "b" / "ünï cödé\nline, 图.webp", lossless=True)
    pictures[6].save(os.fsencode(folder) + b"/b/caf\xe9.bmp")
    pictures[7].resize((500, 375)).save(folder / "b" / "photo.jpeg", quality=90)
    (folder / "a" / "broken.jpg").write_bytes(b"\xff\xd8 no image at all")
    (folder / "b" / "empty.png").touch()
    return folder


def as_it_is_seen(path: str, size: int, interpolation: str = "bilinear") -> Tensor:
    """An image file's central square by Pillow and torchvision, (3, size, size) uint8."""
    image = Image.open(path)
    if image.mode.startswith("I;16"):
        image = Image.fromarray(np.rint(np.asarray(image, np.float64) * 255 / 4095).astype(np.uint8))
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGBA":
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    height, width = pixels.shape[1:]
    side = max(1, round(min(height, width) * (1 if size <= 64 else 7 / 8)))
    return resized_crop(
        pixels, (height - side) // 2, (width - side) // 2, side, side, [size, size], interpolation, antialias=True
    )


def embed_small(monkeypatch: pytest.MonkeyPatch, rows: int = 16) -> Callable[..., Embeddings]:
    monkeypatch.setattr(making, "SHARD_ROWS", rows)
    return lambda *arguments, **options: glocal.embed(*arguments, **{"progress": False, "workers": 0, **options})


@pytest.mark.parametrize("size", [32, 96])
def test_every_vector_is_that_of_its_file_in_the_sources_order(odd_folder: Path, tmp_path: Path, size: int) -> None:
    found = glocal.embed(RawPixels(size), odd_folder, tmp_path / "e", batch_size=4, workers=1, progress=False)
    source = open_source(odd_folder)
    assert len(source) == 11
    assert found.column("index").to_pylist() == [
        place for place, key in enumerate(source.keys) if not key.endswith(("broken.jpg", "empty.png"))
    ]
    vectors = found.rows(0, len(found)).numpy()
    for row, path in enumerate(found.paths):
        assert path is not None
        expected = (as_it_is_seen(path, size).float() / 255).flatten().numpy().astype(np.float16)
        assert np.array_equal(vectors[row].astype(np.float16), expected), path
        width, height = ImageOps.exif_transpose(Image.open(path)).size
        assert found.sizes[row].tolist() == [width, height], path
    assert found.labels == ["a"] * 4 + ["b"] * 5
    assert found.about.classes == ["a", "b"]
    assert found.about.value_range == (0, 4095)
    assert [os.path.basename(path or "") for path in found.paths] == [
        os.path.basename(source.keys[place]) for place in found.column("index").to_pylist()
    ]
    assert "b/caf\\udce9.bmp" in found.keys
    skipped = (found.folder / "skipped.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in skipped] == ["a/broken.jpg", "b/empty.png"]
    assert skipped[1].split("\t")[1] == "empty file"


def test_features_are_those_of_a_network_and_of_evaluate(odd_folder: Path, tmp_path: Path) -> None:
    found = glocal.embed("untrained:timm:test_resnet", odd_folder, tmp_path / "e", workers=0, progress=False)
    backbone = load_backbone("untrained:timm:test_resnet")
    assert (found.about.interpolation, found.dim) == (backbone.interpolation, backbone.dim)
    seen = [as_it_is_seen(path or "", backbone.size, str(backbone.interpolation)) for path in found.paths]
    by_hand = backbone.features(torch.stack(seen))
    torch.testing.assert_close(found.rows(0, len(found)), by_hand, rtol=2**-10, atol=1e-6)
    photos = [row for row, path in enumerate(found.paths) if str(path).endswith(("jpg", "jpeg", "palette.png"))]
    squares = backbone.squares([Image.open(found.paths[row] or "") for row in photos])  # of several sizes, one turned
    torch.testing.assert_close(found.take(photos), backbone.features(squares), rtol=2**-10, atol=1e-6)
    bench = Bench(open_extractor("untrained:timm:test_resnet"), workers=0, progress=False)
    evaluated = bench.features(open_source(odd_folder), batch_size=32)
    assert evaluated.index.tolist() == found.column("index").to_pylist()
    assert torch.equal(found.rows(0, len(found)), evaluated.features.half().float())


def test_thumbnails_show_the_upright_image_and_can_be_left_out(odd_folder: Path, tmp_path: Path) -> None:
    found = glocal.embed("pixels", odd_folder, tmp_path / "e", thumbnails=48, workers=0, progress=False)
    for row, (path, small) in enumerate(zip(found.paths, found.thumbnails(range(len(found))), strict=True)):
        assert small is not None
        picture = Image.open(io.BytesIO(small))
        assert picture.format == "JPEG"
        width, height = found.sizes[row].tolist()
        longest = max(width, height)
        assert max(picture.size) == min(48, longest), path
        if min(width, height) > 10:
            seen = as_it_is_seen(path or "", 32).float()
            side = min(picture.size)
            left, top = (picture.width - side) // 2, (picture.height - side) // 2
            centre = picture.convert("RGB").crop((left, top, left + side, top + side)).resize((32, 32))
            difference = (torch.from_numpy(np.array(centre)).permute(2, 0, 1).float() - seen).abs().mean()
            assert difference < 25, path
    without = glocal.embed("pixels", odd_folder, tmp_path / "f", thumbnails=None, workers=0, progress=False)
    assert not without.has("thumbnail")
    assert without.thumbnails([0]) == [None]


def test_patch_tokens_are_kept_beside_the_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_backbone("untrained:timm:test_vit")
    monkeypatch.setattr(making, "_TOKEN_BYTES", 5 * 100 * 64 * 2)  # so that a shard has four images
    found = glocal.embed(backbone, "shapes:test:10", tmp_path / "e", tokens=True, progress=False)
    assert found.about.tokens == (100, 64)
    assert found.about.shard_rows == 4
    assert len(found.shards) == 3
    source = open_source("shapes:test:10")
    [(_, seen)] = images_of(source, backbone.size, interpolation="bicubic")
    tokens = torch.from_numpy(np.concatenate([map_vectors(path, "tokens") for path in found.shards]).astype("f4"))
    by_hand = backbone.tokens(seen)[:, 1:]
    torch.testing.assert_close(tokens.reshape(10, 100, 64), by_hand, rtol=2**-9, atol=5e-3)
    features = backbone.features(seen)
    torch.testing.assert_close(found.rows(0, 10), features, rtol=2**-9, atol=5e-3)
    both = backbone.features_and_patches(seen)
    assert torch.equal(both[0], features)
    assert torch.equal(both[1], by_hand)
    with pytest.raises(GlocalError, match="test_resnet untrained has no patch tokens; choose a vision transformer"):
        glocal.embed("untrained:timm:test_resnet", "shapes:test:10", tmp_path / "f", tokens=True, progress=False)


def test_images_in_memory_have_no_path(tmp_path: Path) -> None:
    found = glocal.embed("pixels", "digits:test", tmp_path / "e", progress=False)
    source = open_source("digits:test")
    images = source.images()
    assert found.paths == [None] * len(source)
    assert found.keys == list(source.keys)
    assert found.sizes.tolist() == [[32, 32]] * len(source)
    assert found.labels[:5] == [source.classes[label] for label in source.labels[:5].tolist()]
    assert torch.equal(found.rows(0, len(found)), (images.flatten(1).float() / 255).half().float())
    assert (pq.read_schema(found.shards[0]).names) == [
        *("index", "key", "path", "label", "width", "height", "vector", "thumbnail")
    ]


def test_several_sources_are_one_and_labels_may_lack(
    image_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = embed_small(monkeypatch)
    one, other = image_folder(20, name="one"), image_folder(13, name="other")
    found = embed("pixels", [str(one), str(other)], tmp_path / "e")
    assert found.about.source == [str(one), str(other)]
    assert len(found.shards) == 3
    assert found.keys[20].startswith("other/")
    assert found.paths[32] == os.path.abspath(other / found.keys[32].removeprefix("other/"))
    plain = embed("pixels", str(one / "class0"), tmp_path / "f")
    assert plain.labels == [None] * len(plain)


def test_what_is_there_is_not_computed_again(
    image_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    embed, folder, out = embed_small(monkeypatch), image_folder(50), tmp_path / "e"
    embed("pixels", folder, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert sorted(before) == [ABOUT, *(f"shard-{number:05d}.parquet" for number in range(4))]
    times = [path.stat().st_mtime_ns for path in shard_paths(out)]
    embed("pixels", folder, out)
    assert "is finished (50 images); nothing to do" in " ".join(capsys.readouterr().err.split())
    assert [path.stat().st_mtime_ns for path in shard_paths(out)] == times

    shard_paths(out)[1].unlink()
    shard_paths(out)[2].write_bytes(b"PAR1 damaged")  # now the third of four
    (out / ".shard-00001.parquet.x.part").touch()
    (out / ABOUT).write_text(before[ABOUT].decode().replace('"complete": true', '"complete": false'))
    with pytest.raises(GlocalError, match="is not complete; the same `glocal embed` command goes on with it"):
        Embeddings(out)
    embed("pixels", folder, out)
    said = " ".join(capsys.readouterr().err.split())
    assert "is damaged" in said
    assert "goes on after 32 of 50 images" in said
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def wait_for_shard(command: Command, out: Path, number: int = 1) -> None:
    deadline = time.monotonic() + 60
    while not shard_path(out, number).exists():
        assert command.running()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_killed_process_goes_on_and_ends_with_the_same_bytes(
    image_folder: Callable[..., Path], tmp_path: Path, preloaded: Preloaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = image_folder(100, ((40, 30), (33, 50))), tmp_path / "e"
    (folder / "class3" / "0003.png").write_bytes(b"no image")
    command = ["embed", "untrained:timm:test_resnet", str(folder), "--batch-size", "8", "--workers", "1"]
    command += ["--out", str(out)]
    whole = embed_small(monkeypatch)(*command[1:3], tmp_path / "whole", batch_size=8).folder

    first = preloaded.start(*command, before=SLOW)
    wait_for_shard(first, out)
    os.kill(first.pid, signal.SIGKILL)
    assert first.finish().returncode == -signal.SIGKILL
    left = {path.name: path.stat().st_mtime_ns for path in shard_paths(out)}
    assert 2 <= len(left) < 7
    assert not read_about(out).complete

    second = preloaded.start(*command, before=SLOW)
    wait_for_shard(second, out, number=len(left))
    os.kill(second.pid, signal.SIGINT)
    done = second.finish()
    assert done.returncode == 130
    assert f"goes on after {16 * len(left)} of 100 images" in " ".join(done.stderr.decode().split())
    assert b"are kept; the same command continues it" in done.stderr
    assert len(left) < len(shard_paths(out)) < 7

    last = preloaded.run(*command, before=SMALL_SHARDS)
    assert last.returncode == 0, last.stderr
    assert b"1 of its 100 images cannot be read" in last.stderr
    assert {path.name: path.stat().st_mtime_ns for path in shard_paths(out) if path.name in left} == left
    assert contents(out) == contents(whole)
    assert (out / "skipped.txt").read_text().startswith("class3/0003.png\t")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_two_processes_make_what_one_makes(
    image_folder: Callable[..., Path], tmp_path: Path, preloaded: Preloaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, both = image_folder(90), tmp_path / "both"
    (folder / "class7" / "0007.png").write_bytes(b"no image")
    command = ["embed", "untrained:timm:test_resnet", str(folder), "--workers", "0", "--out", str(both)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    ranks = [{**meeting, "LOCAL_RANK": str(rank), "RANK": str(rank)} for rank in range(2)]
    started = [preloaded.start(*command, before=SMALL_SHARDS, environment=rank) for rank in ranks]
    one = embed_small(monkeypatch)(*command[1:3], tmp_path / "one")
    done = [process.finish() for process in started]
    assert [process.returncode for process in done] == [0, 0], b"".join(process.stderr for process in done)
    assert b"".join(process.stdout for process in done).count(b"embeddings:") == 1
    assert b"".join(process.stderr for process in done).count(b"cannot be read") == 1
    assert contents(both) == contents(one.folder)
    assert len(shard_paths(both)) == 6


def test_embeddings_of_others_are_not_continued(image_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder, out = image_folder(20), tmp_path / "e"

    def embed(backbone: str = "untrained:timm:test_resnet", data: object = folder, **options: object) -> Embeddings:
        return glocal.embed(backbone, data, out, workers=0, progress=False, **options)  # type: ignore[arg-type]

    embed()
    with pytest.raises(GlocalError, match="the backbone is untrained:timm:test_resnet there, pixels now.*choose ano"):
        embed("pixels")
    with pytest.raises(GlocalError, match="thumbnails: 96 there, none now; choose another folder"):
        embed(thumbnails=None)
    with pytest.raises(GlocalError, match="precision: fp32 there, bf16 now"):
        embed(precision="bf16")
    with pytest.raises(GlocalError, match=r"20 images of .*images there, 20 images of shapes:test:20 now"):
        embed(data="shapes:test:20")
    os.utime(folder / "class1" / "0001.png", ns=(1, 1))
    with pytest.raises(GlocalError, match="the 20 images of .* are others, or were changed"):
        embed()
    Image.new("RGB", (9, 9)).save(folder / "class1" / "new.png")
    with pytest.raises(GlocalError, match=r"20 images of .* there, 21 images of .* now"):
        embed()
    (out / ABOUT).unlink()
    with pytest.raises(GlocalError, match="holds shards but no embeddings.json that says of what"):
        embed()


def test_weights_that_changed_are_named(tmp_path: Path) -> None:
    backbone = load_backbone("untrained:timm:test_resnet")
    weights = tmp_path / "weights.pth"
    torch.save(backbone.network.state_dict(), weights)
    options = {"weights": weights, "workers": 0, "progress": False}
    found = glocal.embed("timm:test_resnet", "shapes:test:8", tmp_path / "e", **options)
    assert found.about.weights == str(weights)
    other = {name: tensor + (name == "conv1.0.weight") for name, tensor in backbone.network.state_dict().items()}
    torch.save(other, weights)
    with pytest.raises(GlocalError, match=r"the weights of timm:test_resnet with .*weights.pth have changed since"):
        glocal.embed("timm:test_resnet", "shapes:test:8", tmp_path / "e", **options)


def test_wrong_input_is_named(image_folder: Callable[..., Path], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for options, message in (
        ({"out": file}, "file is a file; out must be a folder"),
        ({"out": file / "e"}, "file/e: no folder can be written there: Not a directory"),
        ({"precision": "bf61"}, "precision 'bf61': did you mean bf16"),
        ({"thumbnails": 4}, "thumbnails of 4 pixels"),
        ({"batch_size": 0}, "a batch of 0 images"),
        ({"backbone": "timm:resnet81"}, "timm:resnet81: did you mean"),
        ({"data": tmp_path / "imagse"}, "there is no folder .*imagse; did you mean .*images"),
        ({"weights": "w.pth"}, "weights"),
    ):
        given = {"backbone": "pixels", "data": image_folder(8), "out": tmp_path / "e", **options}
        with pytest.raises(GlocalError, match=message):
            glocal.embed(**given, progress=False)
        assert not (tmp_path / "e").exists(), options


def test_images_none_of_which_can_be_read_and_shards_without_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image_folder: Callable[..., Path]
) -> None:
    embed, folder = embed_small(monkeypatch, rows=4), tmp_path / "broken"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(GlocalError, match="none of its 8 images can be read; the first: 0.png"):
        embed("pixels", folder, tmp_path / "e")
    Image.new("RGB", (20, 30), "red").save(folder / "9.png")
    found = embed("pixels", folder, tmp_path / "f")
    assert found.keys == ["9.png"]
    assert len(found.shards) == 3
    assert found.rows(0, 1).shape == (1, 3072)
    assert found.take([0])[0, 0] == 1


def test_a_disk_that_is_full_costs_one_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embed, write = embed_small(monkeypatch), making.write_shard

    def full(path: Path, *arguments: Any, **options: Any) -> None:
        if path.name == "shard-00002.parquet":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, *arguments, **options)

    monkeypatch.setattr(making, "write_shard", full)
    with pytest.raises(GlocalError, match="shard-00002.parquet cannot be written: No space left on device"):
        embed("pixels", "shapes:test:64", tmp_path / "e")
    assert [path.name for path in shard_paths(tmp_path / "e")] == ["shard-00000.parquet", "shard-00001.parquet"]
    monkeypatch.setattr(making, "write_shard", write)
    assert len(embed("pixels", "shapes:test:64", tmp_path / "e")) == 64


class Exploding(nn.Module):
    """Features with a value that is given."""

    dim, size, label = 2, 8, "exploding"

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def features(self, images: Tensor) -> Tensor:
        return torch.full((len(images), 2), self.value)


@pytest.mark.parametrize(
    ("value", "message"), [(float("nan"), "has its training diverged"), (1e5, "a feature of 100000 is beyond 65,504")]
)
def test_features_that_float16_cannot_hold_are_an_error(tmp_path: Path, value: float, message: str) -> None:
    with pytest.raises(GlocalError, match=message):
        glocal.embed(Exploding(value), "shapes:test:4", tmp_path / "e", progress=False)


def test_folders_whose_names_are_no_utf8(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/im\xe9ges"
    for name in (b"caf\xe9", b"other"):
        os.makedirs(folder + b"/" + name)
        Image.new("RGB", (40, 30), "green").save(folder + b"/" + name + b"/a.png")
    found = glocal.embed("pixels", os.fsdecode(folder), tmp_path / "e", workers=0, progress=False)
    assert found.labels == found.about.classes == ["caf\\udce9", "other"]
    assert os.fsencode(found.paths[0] or "") == folder + b"/caf\xe9/a.png"
    assert os.path.exists(found.paths[0] or "")


def test_embeddings_in_the_folder_of_the_images_are_none_of_these(image_folder: Callable[..., Path]) -> None:
    folder = image_folder(16)
    out = folder / "embeddings"
    glocal.embed("pixels", folder, out, workers=0, progress=False)
    Image.new("RGB", (9, 9)).save(out / "sheet.png")
    assert len(open_source(folder)) == 16
    again = glocal.embed("pixels", folder, out, workers=0, progress=False)
    assert len(again) == 16


def test_bf16_is_close_to_fp32(tmp_path: Path) -> None:
    options = {"progress": False, "batch_size": 8}
    full = glocal.embed("untrained:timm:test_resnet", "shapes:test:8", tmp_path / "e", **options)
    short = glocal.embed("untrained:timm:test_resnet", "shapes:test:8", tmp_path / "f", precision="bf16", **options)
    one, other = full.rows(0, 8), short.rows(0, 8)
    assert not torch.equal(one, other)
    assert torch.nn.functional.cosine_similarity(one, other).min() > 0.99


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held at a time are two shards: the one that is computed and the one that is written."""
    embed = embed_small(monkeypatch, rows=64)
    made: list[weakref.ref[object]] = []
    alive, piece = [], making.Work._piece

    def watched(self: making.Work, *arguments: Any) -> Any:
        made.append(weakref.ref(found := piece(self, *arguments)))
        alive.append(sum(one() is not None for one in made))
        return found

    monkeypatch.setattr(making.Work, "_piece", watched)
    embed("pixels", "shapes:test:640", tmp_path / "e", batch_size=16)
    assert len(made) == 40
    later = sorted(alive[20:])  # the usual number: on a busy machine a shard that is written may live a little longer
    assert later[len(later) // 2] <= 2 * 64 // 16 + 1


def test_other_programs_read_the_columns(image_folder: Callable[..., Path], tmp_path: Path) -> None:
    found = glocal.embed("pixels", image_folder(24), tmp_path / "e", workers=0, progress=False)
    table = pa.concat_tables([pq.read_table(path) for path in shard_paths(found.folder)])
    assert table.column("vector").type == pa.list_(pa.float16(), 3072)
    vectors = np.stack(table.column("vector").to_numpy(zero_copy_only=False))
    assert np.array_equal(vectors.astype("f4"), found.rows(0, 24).numpy())
    assert json.loads(table.schema.metadata[b"glocal"]) == {"unreadable": []}


def test_a_shard_that_was_lost_is_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embed = embed_small(monkeypatch)
    made = embed("pixels", "shapes:test:64", tmp_path / "e")
    whole = contents(made.folder)
    made.shards[1].unlink()
    made.shards[3].write_bytes(b"damaged")
    assert len(embed("pixels", "shapes:test:64", tmp_path / "e")) == 64
    assert contents(made.folder) == whole


def test_the_documented_reader_takes_the_shards_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = embed_small(monkeypatch)("pixels", "shapes:test:40", tmp_path / "E")
    pq.write_table(pa.table({"key": ["not an image"]}), tmp_path / "E" / "hashes.parquet")
    page = (Path(__file__).parents[2] / "docs" / "embeddings.md").read_text(encoding="utf-8")
    [code] = [block for block in page.split("```python\n")[1:] if "pyarrow.dataset" in block]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code.partition("```")[0], names)
    assert names["table"].column("key").to_pylist() == made.keys


@pytest.mark.parametrize(("images", "rows"), [(10, 512), (65_535, 512), (65_536, 4096)])
def test_small_sets_have_small_shards_so_that_a_stop_costs_little(images: int, rows: int) -> None:
    assert making._shapes(RawPixels(8), images, tokens=False) == {"dim": 192, "shard_rows": rows}


def test_a_stop_says_how_many_images_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embed, piece = embed_small(monkeypatch), making.Work._piece
    parts = []

    def stopped(self: making.Work, *arguments: Any) -> Any:
        parts.append(piece(self, *arguments))
        if len(parts) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return parts[-1]

    monkeypatch.setattr(making.Work, "_piece", stopped)
    with pytest.raises(Stopped, match="^stopped after 40 of 64 images, of which 32 are kept$"):
        embed("pixels", "shapes:test:64", tmp_path / "e", batch_size=8)
    assert len(shard_paths(tmp_path / "e")) == 2
    assert len(embed("pixels", "shapes:test:64", tmp_path / "e", batch_size=8)) == 64
