"""The file for Embedding Atlas has the columns that its command line takes."""

import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import glocal
from glocal.cli import app
from glocal.embeddings.atlas import write_atlas
from glocal.errors import GlocalError


def test_the_file_holds_vectors_pictures_and_neighbours(tmp_path: Path) -> None:
    command = ["embed", "pixels", "shapes:train:40", "--out", str(tmp_path / "E"), "--atlas", "--quiet"]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert f"embedding-atlas {tmp_path / 'E' / 'atlas.parquet'} --vector vector --image image" in done.output
    embeddings = glocal.Embeddings(tmp_path / "E")
    rows = pq.read_table(tmp_path / "E" / "atlas.parquet").to_pylist()
    assert [row["key"] for row in rows] == embeddings.keys
    assert [row["label"] for row in rows] == embeddings.labels
    vectors = torch.tensor([row["vector"] for row in rows])
    assert torch.equal(vectors, embeddings.rows(0, 40))
    unit = torch.nn.functional.normalize(vectors.double(), dim=1)
    distance = (1 - unit @ unit.T).fill_diagonal_(9)
    for number, row in enumerate(rows):
        found = row["neighbors"]
        assert len(found["ids"]) == 15
        assert number not in found["ids"]
        assert found["distances"] == pytest.approx(distance[number].topk(15, largest=False).values.tolist(), abs=1e-5)
        assert found["distances"] == pytest.approx(distance[number, found["ids"]].tolist(), abs=1e-5)
    assert Image.open(io.BytesIO(rows[0]["image"]["bytes"])).size == (32, 32)


def test_without_thumbnails_and_labels_the_columns_are_empty(tmp_path: Path) -> None:
    folder = tmp_path / "flat"
    folder.mkdir()
    for number in range(4):
        Image.effect_noise((16, 16), 20 + number).convert("RGB").save(folder / f"{number}.png")
    found = glocal.embed("pixels", folder, tmp_path / "E", thumbnails=None, progress=False)
    table = pq.read_table(write_atlas(found, progress=False))
    assert table.column("label").null_count == 4
    assert all(row["bytes"] is None for row in table.column("image").to_pylist())
    one = glocal.embed("pixels", "shapes:train:1", tmp_path / "one", progress=False)
    with pytest.raises(GlocalError, match="a map needs more than one image"):
        write_atlas(one, progress=False)
