"""`glocal.search` and `glocal search`: what can be searched for, what is found, and what is wrong with a query."""

import csv
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import glocal
from glocal.data.sources.folder import ImageFolder
from glocal.embeddings.folder import ABOUT, Embeddings
from glocal.errors import GlocalError
from glocal.evaluation import RawPixels, extract
from tests.embeddings.made import make_embeddings
from tests.preloaded import Preloaded


@pytest.fixture
def photos(image_folder: Callable[..., Path]) -> Path:
    return image_folder(24, ((32, 32), (40, 48)))


@pytest.fixture
def made(tmp_path: Path, photos: Path) -> Embeddings:
    """By raw pixels, of 24 files in 8 folders."""
    source = ImageFolder(photos)
    assert source.labels is not None
    assert source.classes is not None
    found = extract(RawPixels(), source, workers=0, progress=False)
    labels = [source.classes[label] for label in source.labels.tolist()]
    return make_embeddings(
        tmp_path / "e", found.features.numpy(), keys=list(source.keys), paths=source.files(), labels=labels
    )


def nearest(made: Embeddings, vector: np.ndarray) -> list[int]:
    bank = made.rows(0, len(made)).double().numpy()
    cosine = bank @ vector / np.linalg.norm(bank, axis=1) / np.linalg.norm(vector)
    return np.argsort(-cosine).tolist()


def test_keys_files_folders_and_images_in_memory_find_the_same(made: Embeddings, photos: Path) -> None:
    key = made.keys[5]
    with Image.open(photos / key) as image:
        picture = image.convert("RGB")
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)
    wanted = [made.keys[row] for row in nearest(made, made.take([5])[0].double().numpy())][:4]
    for query in (
        key,
        Path(key).name,  # the last part of one key
        photos / key,
        str(photos / key),
        picture,
        np.asarray(picture),
        pixels,
        pixels[None].float() / 255,
        made.take([5]),
    ):
        found = glocal.search(made, query, 4, device="cpu", progress=False)
        assert found.keys == [wanted], query
        assert found.similarities[0, 0] > 0.99999
    whole = glocal.search(made.folder, photos, 1, progress=False)
    assert [row for [row] in whole.rows.tolist()] == list(range(24))
    several = glocal.search(made, [key, picture, photos / made.keys[7]], 1, progress=False)
    assert [row for [row] in several.rows.tolist()] == [5, 5, 7]
    assert [query.row for query in several.queries] == [5, -1, 7]
    assert several.column("label")[0] == [key.split("/")[0]]


def test_sources_that_are_no_files_are_searched_for_by_their_names(tmp_path: Path) -> None:
    made = glocal.embed("pixels", "shapes:train:40", tmp_path / "s", thumbnails=None, progress=False)
    itself = glocal.search(made, "shapes:train:40", 1, progress=False)
    assert [row for [row] in itself.rows.tolist()] == list(range(40))
    assert all(query.stored for query in itself.queries)
    others = glocal.search(made, "shapes:test", 1, progress=False)
    assert others.rows.shape[0] > 40
    assert not any(query.stored for query in others.queries)


def test_what_is_embedded_again_has_the_vector_that_was_stored(photos: Path, tmp_path: Path) -> None:
    made = glocal.embed("pixels", photos, tmp_path / "e2", thumbnails=None, progress=False, workers=0)
    copies = []
    for number, key in enumerate(made.keys):
        copies.append(tmp_path / f"{number:04d}.png")
        copies[-1].write_bytes((photos / key).read_bytes())
    found = glocal.search(made, copies, 1, progress=False)
    assert [row for [row] in found.rows.tolist()] == list(range(24))
    assert torch.allclose(found.similarities, torch.ones(24, 1), atol=1e-5)


def test_the_query_itself_is_left_out_but_not_its_copies(made: Embeddings, photos: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.png"
    copy.write_bytes((photos / made.keys[3]).read_bytes())
    for query in (made.keys[3], photos / made.keys[3]):
        found = glocal.search(made, query, 24, exclude_self=True, progress=False)
        assert 3 not in found.rows
        assert found.rows.shape == (1, 23)
    assert glocal.search(made, copy, 1, exclude_self=True, progress=False).rows.tolist() == [[3]]


def test_images_are_embedded_only_where_their_vector_is_not_known(
    made: Embeddings, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    class Watched(RawPixels):
        def features(self, images: Tensor) -> Tensor:
            seen.append(len(images))
            return super().features(images)

    other = made.keys[9]
    glocal.search(made, [made.keys[0], photos / other], 2, backbone=Watched(), progress=False)
    assert seen == []
    Image.new("RGB", (40, 40), "white").save(photos / other)  # written after it was embedded
    later = made.shards[0].stat().st_mtime + 5
    os.utime(photos / other, (later, later))
    found = glocal.search(made, photos / other, 24, exclude_self=True, backbone=Watched(), progress=False)
    assert seen == [1]
    assert 9 not in found.rows  # still the same file
    assert found.rows[0].tolist() == [row for row in nearest(made, np.ones(3072)) if row != 9]


def test_an_older_file_that_was_put_in_the_place_of_another_is_seen(
    tmp_path: Path, image_folder: Callable[..., Path]
) -> None:
    folder = image_folder(8)
    made = glocal.embed("pixels", folder, tmp_path / "e", workers=0, progress=False)
    first, second = (folder / key for key in made.keys[:2])
    time.sleep(0.05)
    shutil.copy2(second, first)  # with the time that it was written
    found = glocal.search(made, first, 1, progress=False)
    assert found.rows.tolist() == [[1]]


def test_broken_queries_are_named_and_the_others_go_on(
    made: Embeddings, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, empty = tmp_path / "broken.jpg", tmp_path / "empty.png"
    broken.write_text("no image")
    empty.write_text("")
    found = glocal.search(made, [broken, made.keys[1], empty], 2, progress=False)
    assert [query.row for query in found.queries] == [1]
    assert [error.key for error in found.skipped] == [str(broken), str(empty)]
    assert f"left out: {broken}" in capsys.readouterr().err.replace("\n", "")
    with pytest.raises(GlocalError, match=r"broken\.jpg: no image .* \(1 more cannot be read either\); nothing"):
        glocal.search(made, [broken, empty], 2, progress=False)


def test_what_cannot_be_searched_for_is_said(made: Embeddings, tmp_path: Path) -> None:
    for query, message in (
        ("0005", r"0005 is no image file, no folder, and no key of .*; keys with it: class5/0005.png"),
        ("class5/0005.pgn", "did you mean class5/0005.png"),
        ("zzzz", "keys look like class0/0000.png"),
        ([], "no queries"),
        (torch.ones(2, 5), r"vectors of shape \(2, 5\): those of .* have 3072 values"),
        (torch.full((3072,), torch.nan), "must be finite"),
        (torch.full((3, 8, 8), 7.0), r"floating point must lie in \[0, 1\]"),
        (torch.ones(4, 8, 8), r"must have the shape \(B, 3, height, width\)"),
    ):
        with pytest.raises(GlocalError, match=message):
            glocal.search(made, query, 2, progress=False)
    with pytest.raises(GlocalError, match="k=0: at least 1"):
        glocal.search(made, made.keys[0], 0)
    with pytest.raises(GlocalError, match="there is no such folder"):
        glocal.search(tmp_path / "nothing", made.keys[0])


def test_an_end_that_several_keys_have_is_refused_with_their_names(tmp_path: Path) -> None:
    keys = [*(f"{folder}/a.png" for folder in "abcdefgh"), "b/ba.png"]
    made = make_embeddings(tmp_path / "e", np.eye(9), keys=keys)
    with pytest.raises(GlocalError, match=r"a.png: 8 keys of .* end so, choose one: a/a.png, .*, e/a.png and 3 more"):
        glocal.search(made, "a.png")
    assert glocal.search(made, "ba.png", 1, progress=False).rows.tolist() == [[8]]
    assert glocal.search(made, "c/a.png", 1, progress=False).rows.tolist() == [[2]]


def test_a_key_goes_before_a_file_of_its_name_and_says_so(
    made: Embeddings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "class1").mkdir()
    Image.new("RGB", (32, 32), "white").save(tmp_path / "class1" / "0001.png")
    row = made.places["class1/0001.png"]
    assert glocal.search(made, "class1/0001.png", 1, progress=False).rows.tolist() == [[row]]
    assert "write ./class1/0001.png to search for that" in capsys.readouterr().err.replace("\n", " ")
    white = glocal.search(made, "./class1/0001.png", 24, progress=False)
    assert white.rows[0].tolist() == nearest(made, np.ones(3072))


def test_more_images_than_there_are_are_not_asked_for(made: Embeddings, capsys: pytest.CaptureFixture[str]) -> None:
    assert glocal.search(made, made.keys[0], 100).rows.shape == (1, 24)
    assert "k=100, but" in capsys.readouterr().err
    alone = make_embeddings(made.folder.parent / "one", np.ones((1, 4)))
    with pytest.raises(GlocalError, match="holds no image besides the query"):
        glocal.search(alone, alone.keys[0], exclude_self=True, progress=False)


def test_another_backbone_than_that_of_the_embeddings_is_refused(made: Embeddings, tmp_path: Path) -> None:
    query = torch.zeros(3, 32, 32, dtype=torch.uint8)

    class Narrow(RawPixels):
        def features(self, images: Tensor) -> Tensor:
            return super().features(images)[:, :48]

    with pytest.raises(GlocalError, match=r"gives 48 values for an image, but .* has 3072"):
        glocal.search(made, query, backbone=Narrow(), progress=False)
    about = made.about.model_copy(update={"fingerprint": "pixels at 32"})
    (made.folder / ABOUT).write_text(about.model_dump_json())
    glocal.search(made.folder, query, 2, progress=False)
    about = about.model_copy(update={"fingerprint": "other"})
    (made.folder / ABOUT).write_text(about.model_dump_json())
    with pytest.raises(GlocalError, match="raw pixels is not the backbone that .* was made by"):
        glocal.search(made.folder, query, progress=False)
    gone = about.model_copy(update={"backbone": str(tmp_path / "gone")})
    (made.folder / ABOUT).write_text(gone.model_dump_json())
    with pytest.raises(GlocalError, match=r"there is no run folder or checkpoint .*gone; .* --backbone"):
        glocal.search(made.folder, query, progress=False)
    glocal.search(made.folder, made.keys[0], 2, progress=False)  # needs no backbone


def test_the_command_prints_tables_and_writes_sheets(
    made: Embeddings, photos: Path, tmp_path: Path, preloaded: Preloaded
) -> None:
    out = [tmp_path / "new" / name for name in ("sheet.png", "page.html", "table.csv")]
    options = [part for path in out for part in ("--out", str(path))]
    done = preloaded.run("search", str(made.folder), made.keys[2], str(photos), "-k", "3", "--exclude-self", *options)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.decode()
    assert made.keys[2] in printed
    assert "15 of 25 queries are not shown" in printed
    assert all(f"written to {path}" in printed for path in out)
    with open(out[2], newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 25 * 3
    assert rows[0]["query"] == made.keys[2]
    assert [row["rank"] for row in rows[:3]] == ["1", "2", "3"]
    assert os.path.isfile(rows[0]["path"])
    assert rows[0]["label"] == rows[0]["key"].split("/")[0]
    assert out[1].read_text().count("data:image/jpeg;base64,") == 25 * 4
    with Image.open(out[0]) as sheet:
        assert sheet.height > 25 * 160
    assert preloaded.run("search", str(made.folder), made.keys[2], "--out", "sheet.pdf").returncode == 2


def test_no_module_has_the_name_of_a_public_function() -> None:
    """Importing a module puts it in place of the function."""
    for name in glocal._HOME:
        assert importlib.util.find_spec(f"glocal.{name}") is None, name


# Each in a process of its own, which finds torch loaded and nothing of glocal.
_EACH = """
import os, sys, torch
for order in sys.argv[1:]:
    process = os.fork()
    if process == 0:
        exec(order)
        import glocal, types
        os._exit(0 if isinstance(glocal.search, types.FunctionType) else 1)
    assert os.waitpid(process, 0)[1] == 0, order
"""


def test_search_is_a_function_whatever_was_imported_before() -> None:
    orders = ["import glocal.embeddings.searching", "from glocal import search"]
    subprocess.run([sys.executable, "-c", _EACH, *orders], check=True, timeout=120)
