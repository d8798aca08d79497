"""What a search has found, shown: pictures from where they can be had, names of any bytes."""

import csv
import dataclasses
import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import glocal
from glocal.curation.differences import Comparison, Stored, compare
from glocal.data.sources.shapes import Shapes
from glocal.embeddings import shown
from glocal.embeddings.folder import ABOUT, Embeddings
from glocal.embeddings.pictures import pictures_of
from glocal.embeddings.shown import tables, write_result
from glocal.errors import GlocalError
from glocal.files import printable
from glocal.report.sheets import jpeg
from tests.embeddings.made import make_embeddings


def colour_of(picture: bytes | None) -> list[int]:
    assert picture is not None
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).mean(axis=(0, 1)).round(-1).astype(int).tolist()


def test_pictures_are_thumbnails_else_of_the_file_else_of_the_source(tmp_path: Path) -> None:
    Image.new("RGB", (50, 40), "blue").save(tmp_path / "blue.png")
    (tmp_path / "broken.png").write_text("no image")
    red = jpeg(Image.new("RGB", (20, 20), "red"))
    paths = [str(tmp_path / name) for name in ("blue.png", "blue.png", "broken.png", "gone.png")]
    made = make_embeddings(tmp_path / "e", np.eye(4), paths=paths, thumbnails=[red, None, None, None])
    found = pictures_of(made, [1, 0, 3, 2])
    assert [colour_of(found[0]), colour_of(found[1])] == [[0, 0, 250], [250, 0, 0]]
    assert found[2:] == [None, None]

    shapes = Shapes("train", 256)
    made = make_embeddings(tmp_path / "s", np.eye(256))
    (made.folder / ABOUT).write_text(made.about.model_copy(update={"source": "shapes:train:256"}).model_dump_json())
    [picture] = pictures_of(Embeddings(made.folder), [77])
    assert picture is not None
    shown = torch.from_numpy(np.array(Image.open(io.BytesIO(picture)))).permute(2, 0, 1)
    assert (shapes.images().float() - shown.float()).abs().mean(dim=(1, 2, 3)).argmin() == 77
    (made.folder / ABOUT).write_text(made.about.model_copy(update={"source": "shapes:train:300"}).model_dump_json())
    assert pictures_of(Embeddings(made.folder), [77]) == [None]  # no longer the same images


def test_names_of_any_bytes_are_found_shown_and_linked(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    Image.new("RGB", (32, 32), "red").save(tmp_path / name, "PNG")
    path = str(tmp_path / name)
    made = make_embeddings(tmp_path / "e", np.ones((1, 3072)), keys=[printable(name)], paths=[printable(path)])
    for query in (name, path):
        found = glocal.search(made, query, 1, progress=False)
        assert found.queries[0].stored
        list(tables(found))
        for ending in (".html", ".png", ".csv"):
            write_result(found, tmp_path / f"out{ending}")
    assert "caf%E9.png" in (tmp_path / "out.html").read_text()
    with open(tmp_path / "out.csv", newline="") as file:
        [row] = csv.DictReader(file)
    assert row["key"] == r"caf\udce9.png"


def test_results_are_written_to_files_of_known_endings(tmp_path: Path) -> None:
    made = make_embeddings(tmp_path / "e", np.eye(3))
    found = glocal.search(made, made.keys[0], 2, progress=False)
    with pytest.raises(GlocalError, match="x.pdf: the name must end in .csv, .html or .png"):
        write_result(found, tmp_path / "x.pdf")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(GlocalError, match="is a folder; name a file in it"):
        write_result(found, tmp_path / "folder.png")
    write_result(found, tmp_path / "x.png")  # without a picture of any of them
    assert Image.open(tmp_path / "x.png").width >= 720


def test_pictures_of_12_bits_are_as_light_as_those_that_were_kept(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    deep = np.linspace(0, 4095, 64 * 64).reshape(64, 64).astype(np.uint16)
    for number in range(2):
        Image.fromarray(np.roll(deep, 7 * number, axis=1)).save(folder / f"{number}.png")
    options = {"workers": 0, "progress": False}
    kept = glocal.embed("pixels", folder, tmp_path / "e", **options)
    without = glocal.embed("pixels", folder, tmp_path / "f", thumbnails=None, **options)
    as_kept = colour_of(pictures_of(kept, [0])[0])
    assert as_kept == [130, 130, 130]
    assert colour_of(pictures_of(without, [0])[0]) == as_kept
    [query] = glocal.search(without, str(folder / "0.png"), 1, progress=False).queries
    assert query.path is not None
    query = dataclasses.replace(query, stored=False)
    assert colour_of(shown._picture(without, query)) == as_kept
    stored = Stored(without.paths[0], decoding=without.decoding)
    assert colour_of(compare(Comparison(None, stored)).picture) == as_kept
