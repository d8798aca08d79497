"""Proposed labels: votes and leave-one-out against plain loops, and tables as users write them."""

import csv
import math
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glocal.curation.labelling import propose_labels, remarks, tables, write_labelled, write_page, write_table
from glocal.data.sources.opening import open_source
from glocal.embeddings.folder import Embeddings
from glocal.errors import GlocalError
from glocal.files import printable
from tests.embeddings.made import make_embeddings

NAMES = ("ant", "bee", "cat")


def blobs(count: int, seed: int = 0, spread: float = 0.5) -> tuple[np.ndarray, list[str]]:
    generator = np.random.default_rng(seed)
    number = generator.integers(0, 3, count)
    return np.eye(3, 8)[number] + generator.normal(0, spread, (count, 8)), [NAMES[n] for n in number]


def vote(vectors: np.ndarray, query: int, voters: dict[int, str], k: int) -> tuple[str, float]:
    """The class with most votes and its share, of all labelled images but the query."""
    unit = vectors.astype(np.float16).astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    near = sorted(((float(unit[query] @ unit[row]), row) for row in voters if row != query), reverse=True)[:k]
    votes: dict[str, float] = {}
    for similarity, row in near:
        votes[voters[row]] = votes.get(voters[row], 0.0) + math.exp(similarity / 0.07)
    best = max(votes, key=lambda name: votes[name])
    return best, votes[best] / sum(votes.values())


@pytest.fixture
def made(tmp_path: Path) -> tuple[Embeddings, np.ndarray, list[str]]:
    vectors, labels = blobs(120)
    return make_embeddings(tmp_path / "e", vectors, shard_rows=50), vectors, labels


@pytest.mark.parametrize("k", [1, 7, 1000])
def test_votes_and_leaving_one_out_are_those_of_plain_loops(
    made: tuple[Embeddings, np.ndarray, list[str]], k: int
) -> None:
    embeddings, vectors, labels = made
    known = {row: labels[row] for row in range(0, 120, 3)}
    found = propose_labels(embeddings, {embeddings.keys[row]: label for row, label in known.items()}, k=k)
    assert found.k == min(k, 39)
    assert sorted([*found.rest.tolist(), *found.labelled.tolist()]) == list(range(120))
    for part, rows in ((found.proposed, found.rest), (found.left_out, found.labelled)):
        for place, row in enumerate(rows.tolist()):
            name, share = vote(vectors, row, known, k)
            assert found.classes[int(part.label[place])] == name
            assert float(part.confidence[place]) == pytest.approx(share, abs=1e-4)
            assert row not in part.neighbors[place].tolist()
    right = [vote(vectors, row, known, k)[0] == label for row, label in known.items()]
    assert found.accuracy == pytest.approx(100 * sum(right) / len(right), abs=1e-3)
    for name, (count, share) in found.per_class.items():
        own = [ok for ok, label in zip(right, known.values(), strict=True) if label == name]
        assert (count, share) == (len(own), pytest.approx(100 * sum(own) / len(own), abs=1e-3))


def test_levels_say_how_right_a_confidence_is(made: tuple[Embeddings, np.ndarray, list[str]]) -> None:
    embeddings, _, labels = made
    found = propose_labels(embeddings, dict(zip(embeddings.keys[:60], labels, strict=False)), k=5)
    for level in found.levels():
        pairs = zip(found.left_out.label.tolist(), found.left_out.confidence.tolist(), labels[:60], strict=True)
        sure = [found.classes[vote] == label for vote, confidence, label in pairs if confidence >= level.at_least]
        assert level.labelled == pytest.approx(len(sure) / 60, abs=1e-5)
        assert level.right == (pytest.approx(sum(sure) / len(sure), abs=1e-5) if sure else None)
        assert level.rest == pytest.approx(float((found.proposed.confidence >= level.at_least).float().mean()))
    assert found.levels()[0].rest == 1


def test_a_wrong_label_is_doubtful(tmp_path: Path) -> None:
    vectors, labels = blobs(90, spread=0.1)
    embeddings = make_embeddings(tmp_path / "e", vectors)
    given = dict(zip(embeddings.keys, labels, strict=True))
    wrong = NAMES[(NAMES.index(labels[17]) + 1) % 3]
    found = propose_labels(embeddings, {**given, embeddings.keys[17]: wrong})
    assert found.labelled[found.doubtful()].tolist() == [17]
    assert found.levels()[0].rest is None  # there are no others
    assert any("1 given label" in line for line in remarks(found))
    write_page(found, embeddings, tmp_path / "page.html")
    assert f"but labelled {wrong}" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    "text",
    [
        "key,label\n000000.png,ant\n000001.png,bee\n000002.png,cat\n",
        "000000.png,ant\n000001.png,bee\n\n000002.png,cat\n",
        "\ufeffid,Class,Path\n1,ant,000000.png\n2,bee,000001.png\n3,cat,000002.png\n4,,000003.png\n",
        'image,label\n"000000.png", ant\n000001.png,bee\n000002.png,cat\n000002.png,cat\n',
    ],
)
def test_tables_as_users_write_them(tmp_path: Path, text: str) -> None:
    embeddings = make_embeddings(tmp_path / "e", blobs(10)[0])
    (tmp_path / "some.csv").write_text(text, encoding="utf-8")
    found = propose_labels(embeddings, tmp_path / "some.csv")
    assert found.given.tolist() == [0, 1, 2] + [-1] * 7
    assert "3 of 3 classes have fewer than 5" in remarks(found)[-1]
    assert len(tables(found)) == 2


def test_images_go_by_key_path_or_their_own_name(tmp_path: Path) -> None:
    keys = ["a/1.png", "a/2.png", "b/1.png", "b/3.png"]
    paths = [str(tmp_path / "images" / key) for key in keys]
    embeddings = make_embeddings(tmp_path / "e", blobs(4)[0], keys=keys, paths=paths)
    table = tmp_path / "some.csv"
    table.write_text(f"a/1.png,x\n{paths[1]},y\nimages/b/1.png,x\n3.png,y\n")
    assert propose_labels(embeddings, table).given.tolist() == [0, 1, 0, 1]
    table.write_text("1.png,x\n3.png,y\n")
    with pytest.raises(GlocalError, match=r"some.csv, line 1: several images are called 1.png \(a/1.png, b/1.png"):
        propose_labels(embeddings, table)


def test_images_that_could_not_be_read_are_left_out_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embeddings = make_embeddings(tmp_path / "e", blobs(4)[0])
    (embeddings.folder / "skipped.txt").write_text("a/broken.jpg\tempty file\n")
    table = tmp_path / "some.csv"
    table.write_text("000000.png,x\na/broken.jpg,y\nbroken.jpg,y\n000001.png,y\n")
    assert propose_labels(embeddings, table, progress=False).given.tolist() == [0, 1, -1, -1]
    said = " ".join(capsys.readouterr().err.split())
    assert "some.csv: 2 images could not be read when the others were embedded: a/broken.jpg, broken.jpg" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the table is empty"),
        ("key,label\n", "there is no label in it"),
        ("000000.png,a\n000001.png\n", "line 2: an image and a label are expected"),
        ("a,b,c\n", "write two columns, key,label, or name columns so"),
        ("000000.png,a\n000000.png,b\n", "line 2: 000000.png is b here, but a on line 1"),
        ("000000.PNG,a\n", "line 1: .* has no image 000000.PNG; did you mean 000000.png?"),
        ("zzz,a\n", "line 1: .* has no image zzz; its keys look like 000000.png"),
        ("000000.png,a\n000001.png,a\n", "2 labelled images of one class;"),
    ],
)
def test_wrong_tables_are_named(tmp_path: Path, text: str, message: str) -> None:
    embeddings = make_embeddings(tmp_path / "e", blobs(5)[0])
    (tmp_path / "some.csv").write_text(text)
    with pytest.raises(GlocalError, match=message):
        propose_labels(embeddings, tmp_path / "some.csv")


def test_labels_of_the_source_are_used_where_none_are_given(tmp_path: Path) -> None:
    vectors, labels = blobs(20)
    embeddings = make_embeddings(tmp_path / "e", vectors, labels=[*labels[:15], *[None] * 5])
    assert propose_labels(tmp_path / "e").rest.tolist() == list(range(15, 20))
    with pytest.raises(GlocalError, match="its images have no labels"):
        propose_labels(make_embeddings(tmp_path / "f", vectors))
    with pytest.raises(GlocalError, match="k=0"):
        propose_labels(embeddings, k=0)


def test_what_is_written_can_be_used(tmp_path: Path) -> None:
    vectors, labels = blobs(30, spread=0.3)
    paths = [str(tmp_path / f"{row}.png") for row in range(30)]
    for path in paths:
        Image.new("RGB", (8, 8)).save(path)
    embeddings = make_embeddings(tmp_path / "e", vectors, paths=paths)
    found = propose_labels(embeddings, dict(zip(embeddings.keys[:20], labels, strict=False)), k=3)
    write_table(found, embeddings, tmp_path / "all.csv", at_least=0.9)
    with open(tmp_path / "all.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["origin"] for row in rows] == ["proposed"] * 10 + ["given"] * 20
    confidence = [float(row["confidence"]) for row in rows[:10]]
    assert confidence == sorted(confidence, reverse=True)
    assert all((row["label"] == row["proposed"]) == (float(row["confidence"]) >= 0.9) for row in rows[:10])
    assert {row["key"]: row["label"] for row in rows[10:]} == dict(zip(embeddings.keys[:20], labels, strict=False))
    count = write_labelled(found, embeddings, tmp_path / "source.csv", 0.9)
    source = open_source(tmp_path / "source.csv")
    assert len(source) == count == 20 + sum(c >= 0.9 for c in confidence)
    assert source.classes == sorted(set(labels))


def test_a_written_source_names_files_of_any_bytes(tmp_path: Path) -> None:
    paths = [os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9%d.png" % row) for row in range(10)]
    for path in paths:
        Image.new("RGB", (8, 8)).save(path, "PNG")
    embeddings = make_embeddings(tmp_path / "e", blobs(10)[0], paths=[printable(path) for path in paths])
    found = propose_labels(embeddings, dict(zip(embeddings.keys[:4], ["ant", "bee"] * 2, strict=False)), progress=False)
    assert write_labelled(found, embeddings, tmp_path / "source.csv", 0.0) == 10
    assert open_source(tmp_path / "source.csv")[9].image.shape == (3, 8, 8)
