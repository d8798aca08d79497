"""Perceptual hashes: those of `imagehash`, computed once, whatever happens to files and to the command."""

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from glocal.curation import hashes as module
from glocal.curation.hashes import BROKEN, FILE, KEPT, MISSING, THUMBNAIL, Hashes, hash_images
from glocal.embeddings.folder import Embeddings
from glocal.errors import GlocalError
from glocal.files import printable
from glocal.report.sheets import jpeg
from tests.curation.pictures import SIZE, picture
from tests.embeddings.made import make_embeddings

imagehash = pytest.importorskip("imagehash")
NAMES = ("a b.png", "ünï.png", "#%&.png", "c.jpg", "d.jpg")


def bits_of(image: Image.Image) -> int:
    return int(str(imagehash.phash(image)), 16)


def folder_of(
    tmp_path: Path, names: tuple[str, ...] = NAMES, size: tuple[int, int] = SIZE, **options: object
) -> tuple[Embeddings, list[Path]]:
    place = tmp_path / "images"
    place.mkdir(exist_ok=True)
    paths = [place / name for name in names]
    for seed, path in enumerate(paths):
        picture(seed, size).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))
    vectors = np.random.default_rng(0).standard_normal((len(paths), 8))
    return make_embeddings(tmp_path / "E", vectors, paths=[str(path) for path in paths], **options), paths  # type: ignore[arg-type]


def computed(embeddings: Embeddings, monkeypatch: pytest.MonkeyPatch) -> tuple[Hashes, list[str]]:
    """The hashes, and which images were decoded for them."""
    decoded: list[str] = []
    plain = module.hash_content

    def watched(content: bytes, key: str) -> tuple[int, int, float]:
        decoded.append(key)
        return plain(content, key)

    monkeypatch.setattr(module, "hash_content", watched)
    found = hash_images(embeddings, workers=0, progress=False)
    monkeypatch.setattr(module, "hash_content", plain)
    return found, decoded


def test_hashes_are_those_of_imagehash_and_of_the_mirror_image(tmp_path: Path) -> None:
    embeddings, paths = folder_of(tmp_path)
    found = hash_images(embeddings, workers=2, progress=False)
    for row, path in enumerate(paths):
        image = Image.open(path).convert("RGB")
        away = 0 if path.suffix == ".png" else 2  # JPEG files are decoded at a fraction of their size
        assert (int(found.straight[row]) ^ bits_of(image)).bit_count() <= away
        assert (int(found.mirrored[row]) ^ bits_of(ImageOps.mirror(image))).bit_count() <= away
        assert found.bytes[row] == path.stat().st_size
    assert set(found.state) == {FILE}
    assert found.usable.all()


def test_large_files_are_decoded_in_small_to_nearly_the_same_hash(tmp_path: Path) -> None:
    big = picture(3, (800, 600))
    big.save(tmp_path / "big.jpg", quality=95)
    straight, _, _ = module.hash_content((tmp_path / "big.jpg").read_bytes(), "big")
    assert (straight ^ bits_of(Image.open(tmp_path / "big.jpg"))).bit_count() <= 2


def test_they_are_computed_once_and_again_for_files_that_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings, paths = folder_of(tmp_path)
    first, decoded = computed(embeddings, monkeypatch)
    assert len(decoded) == len(NAMES)
    again, decoded = computed(Embeddings(embeddings.folder), monkeypatch)
    assert decoded == []
    assert np.array_equal(again.straight, first.straight)
    picture(77).save(paths[2])
    changed, decoded = computed(embeddings, monkeypatch)
    assert decoded == [embeddings.keys[2]]
    assert int(changed.straight[2]) == bits_of(picture(77))


@pytest.mark.parametrize("content", [b"", b"no parquet", b"PAR1"])
def test_what_was_kept_and_is_damaged_is_computed_again(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embeddings, _ = folder_of(tmp_path)
    (embeddings.folder / KEPT).write_bytes(content)
    assert set(hash_images(embeddings, workers=0, progress=False).state) == {FILE}
    assert "hashes.parquet cannot be read" in capsys.readouterr().err.replace("\n", " ")


def test_an_interrupted_command_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, _ = folder_of(tmp_path, tuple(f"{n}.png" for n in range(70)), (48, 36))
    plain = module.hash_content
    done: list[str] = []

    def stopped(content: bytes, key: str) -> tuple[int, int, float]:
        if len(done) == 40:
            raise KeyboardInterrupt
        done.append(key)
        return plain(content, key)

    monkeypatch.setattr(module, "hash_content", stopped)
    with pytest.raises(KeyboardInterrupt):
        hash_images(embeddings, workers=0, progress=False)
    monkeypatch.setattr(module, "hash_content", plain)
    found, decoded = computed(embeddings, monkeypatch)
    assert 0 < len(decoded) < 70
    assert not set(decoded) & set(done[:32])  # 32 images are handed over at a time
    assert set(found.state) == {FILE}


def test_missing_files_are_said_and_thumbnails_take_their_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    thumbnails = [jpeg(picture(seed)) if seed != 1 else None for seed in range(len(NAMES))]
    embeddings, paths = folder_of(tmp_path, thumbnails=thumbnails)
    paths[0].unlink()
    paths[1].unlink()
    paths[3].write_bytes(paths[3].read_bytes()[:300])
    found = hash_images(embeddings, workers=0, progress=False)
    assert found.state.tolist() == [THUMBNAIL, MISSING, FILE, BROKEN, FILE]
    assert (int(found.straight[0]) ^ bits_of(picture(0))).bit_count() <= 4
    said = " ".join(capsys.readouterr().err.split())
    assert "2 files no longer where" in said
    assert "the thumbnails of 1 were hashed, the others take part by their embeddings alone" in said
    assert "1 image cannot be decoded" in said
    assert computed(embeddings, monkeypatch)[1] == []
    picture(0).save(paths[0])  # it is back
    assert computed(embeddings, monkeypatch)[1] == [embeddings.keys[0]]


def test_images_in_memory_have_hashes_of_their_thumbnails(tmp_path: Path) -> None:
    thumbnails = [jpeg(picture(seed)) for seed in range(3)]
    embeddings = make_embeddings(tmp_path / "E", np.eye(3), thumbnails=thumbnails)
    assert set(hash_images(embeddings, progress=False).state) == {THUMBNAIL}
    other = make_embeddings(tmp_path / "E", np.eye(3), thumbnails=thumbnails[::-1])  # embedded anew
    os.utime(other.folder / "embeddings.json", (1, 1))
    assert int(hash_images(other, progress=False).straight[0]) == bits_of(Image.open(io.BytesIO(thumbnails[2])))
    bare = make_embeddings(tmp_path / "bare", np.eye(3))
    assert set(hash_images(bare, progress=False).state) == {MISSING}


def test_names_that_are_no_utf8_are_found(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    try:
        picture(0).save(tmp_path / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    embeddings = make_embeddings(tmp_path / "E", np.eye(1), paths=[printable(str(tmp_path / name))])
    assert hash_images(embeddings, progress=False).state.tolist() == [FILE]


def test_blank_images_have_no_hash_that_counts(tmp_path: Path) -> None:
    embeddings, paths = folder_of(tmp_path, ("a.png", "b.png"))
    Image.new("RGB", (50, 50), "white").save(paths[0])
    assert hash_images(embeddings, workers=0, progress=False).usable.tolist() == [False, True]


def test_without_imagehash_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, _ = folder_of(tmp_path)
    monkeypatch.setitem(sys.modules, "imagehash", None)
    with pytest.raises(GlocalError, match=r"pip install 'glocal\[duplicates\]'; --no-hashes goes without"):
        hash_images(embeddings, progress=False)
