"""Groups of near-copies: planted ones are found and nothing else, and no file is ever touched."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glocal.cli import main
from glocal.curation import duplicate_files
from glocal.curation.chance import measure_evidence
from glocal.curation.duplicate_files import PAGE, TABLE, summary, write_duplicates
from glocal.curation.duplicates import Groups, find_duplicates
from glocal.curation.hashes import THUMBNAIL, Hashes, save_hashes
from glocal.embeddings.folder import Embeddings
from glocal.errors import GlocalError
from glocal.report.sheets import jpeg
from tests.curation.pictures import HASH_STAYS, KINDS, picture
from tests.embeddings.made import make_embeddings

pytest.importorskip("imagehash")
PHOTOS = 40


def embedded(folder: Path, files: list[Path], near: dict[str, str], noise: float = 0.1) -> Embeddings:
    """Random embeddings, those of some files near those of others by name."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((len(files), 16))
    names = [file.name for file in files]
    for one, other in near.items():
        vectors[names.index(one)] = vectors[names.index(other)] + noise * rng.standard_normal(16)
    made = make_embeddings(folder, vectors, keys=names, paths=[str(file) for file in files])
    return made


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    files = []
    (tmp_path / "images").mkdir()
    for seed in range(PHOTOS):
        files.append(tmp_path / "images" / f"{seed:03d}.png")
        picture(seed, (96, 72)).save(files[-1], compress_level=1)
    return files


def planted(photos: list[Path], kinds: tuple[str, ...]) -> dict[str, str]:
    """Copies beside the photographs, one of each kind; the photograph of each by name."""
    copies = {}
    for number, kind in enumerate(kinds):
        path = photos[0].parent / f"{number:03d}-{kind}.png"
        KINDS[kind](Image.open(photos[number])).save(path)
        copies[path.name] = photos[number].name
    return copies


def names(found: Groups) -> list[set[str]]:
    return [{found.embeddings.keys[member.row] for member in group} for group in found]


def all_of(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_all_eight_kinds_are_found_and_nothing_else(photos: list[Path], tmp_path: Path) -> None:
    copies = planted(photos, tuple(KINDS))
    others = {name: photo for name, photo in copies.items() if name[4:-4] not in HASH_STAYS}
    embeddings = embedded(tmp_path / "E", all_of(photos[0].parent), others)  # hashes find the rest
    found = find_duplicates(embeddings, progress=False)
    assert sorted(map(sorted, names(found))) == sorted(sorted(pair) for pair in copies.items())
    alone = find_duplicates(embeddings, hashes=False, progress=False)
    assert sorted(map(sorted, names(alone))) == sorted(sorted(pair) for pair in others.items())


def test_a_set_without_copies_has_no_groups(photos: list[Path], tmp_path: Path) -> None:
    found = find_duplicates(embedded(tmp_path / "E", photos, {}), progress=False)
    assert len(found) == 0
    assert list(found) == []
    write_duplicates(found, tmp_path / "out", progress=False)
    assert summary(found) == f"no near-copies among {PHOTOS} images"
    assert len((tmp_path / "out" / TABLE).read_text().splitlines()) == 1


def drawn(folder: Path, count: int, vectors: np.ndarray) -> tuple[Embeddings, Hashes]:
    """Embeddings beside hashes that are drawn at random and not yet kept."""
    rng = np.random.default_rng(0)
    hashes = Hashes.empty(count)
    hashes.state[:], hashes.spread[:] = THUMBNAIL, 50
    for values in (hashes.straight, hashes.mirrored):
        values[:] = rng.integers(0, 1 << 64, count, dtype=np.uint64)
    return make_embeddings(folder, vectors), hashes


def test_moderately_near_in_both_is_enough_and_in_one_is_not(tmp_path: Path) -> None:
    count, bits = 1500, 9
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((count, 16))
    other = vectors[1].copy()
    for name, copy, expected in (("near", vectors[0] + 0.3 * rng.standard_normal(16), 1), ("far", other, 0)):
        vectors[1] = copy
        made, hashes = drawn(tmp_path / name, count, vectors)
        hashes.straight[1] = hashes.straight[0] ^ np.uint64((1 << bits) - 1)
        save_hashes(made.folder, hashes)
        evidence = measure_evidence(made, hashes)
        assert evidence.alone < bits <= evidence.reach
        found = find_duplicates(made, threshold=0.999, progress=False)
        assert [group[0].row for group in found] == [0] * expected


def test_a_set_in_which_every_image_is_copied_is_all_groups(photos: list[Path], tmp_path: Path) -> None:
    copies = {}
    for photo in photos:
        path = photo.parent / f"{photo.stem}-copy.png"
        KINDS["cropped"](Image.open(photo)).save(path)
        copies[path.name] = photo.name
    found = find_duplicates(embedded(tmp_path / "E", all_of(photos[0].parent), copies), progress=False)
    assert len(found) == PHOTOS
    assert all(len(group) == 2 for group in found)


def test_files_of_the_same_bytes_are_found_and_said_even_blank_ones(photos: list[Path], tmp_path: Path) -> None:
    Image.new("RGB", (80, 80), "white").save(photos[5])
    for name in ("x.png", "y.png"):
        (photos[0].parent / name).write_bytes(photos[5].read_bytes())
    found = find_duplicates(embedded(tmp_path / "E", all_of(photos[0].parent), {}), progress=False)
    assert names(found) == [{"005.png", "x.png", "y.png"}]
    assert [member.same_bytes for member in next(iter(found))] == [False, True, True]
    write_duplicates(found, tmp_path / "out", progress=False)
    rows = list(csv.DictReader((tmp_path / "out" / TABLE).open()))
    assert [row["difference"] for row in rows] == ["", "same bytes", "same bytes"]


def test_the_table_and_the_page_say_what_there_is_and_files_stay_as_they_were(
    photos: list[Path], tmp_path: Path
) -> None:
    odd = photos[0].parent / 'a, "b" <ü>.png'
    picture(1, (192, 144)).save(odd)  # larger than the photograph
    KINDS["mirrored"](picture(2, (96, 72))).save(photos[0].parent / "mirror.png")
    before = {path: path.read_bytes() for path in all_of(photos[0].parent)}
    embeddings = embedded(tmp_path / "E", list(before), {odd.name: "001.png", "mirror.png": "002.png"})
    sizes = np.full((len(before), 2), [96, 72])
    sizes[embeddings.places[odd.name]] = 192, 144
    embeddings.__dict__["sizes"] = sizes
    found = find_duplicates(embeddings, progress=False)
    write_duplicates(found, tmp_path / "out", shown=1, progress=False)
    rows = {row["key"]: row for row in csv.DictReader((tmp_path / "out" / TABLE).open(encoding="utf-8"))}
    assert {key for key, row in rows.items() if row["largest"] == "yes"} == {odd.name, "002.png"} or (
        rows["mirror.png"]["largest"] == "yes"
    )
    assert rows["001.png"]["group"] == rows[odd.name]["group"]
    assert rows["001.png"]["difference"] == "96×72 instead of 192×144 pixels"
    assert rows["001.png"]["path"] == str(photos[1])
    assert int(rows["001.png"]["bytes"]) == photos[1].stat().st_size
    assert "mirrored" in rows["mirror.png"]["difference"] + rows["002.png"]["difference"]
    page = (tmp_path / "out" / PAGE).read_text()
    assert page.count("<h2>") == 1
    assert "1 group of 2 shown here" in page
    assert "&lt;ü&gt;" in page
    assert found.words[0] in page.replace("&#x27;", "'").replace("Threshold", "threshold")
    assert {path: path.read_bytes() for path in all_of(photos[0].parent)} == before


@pytest.mark.parametrize("hashes", [True, False])
def test_moved_files_are_said_in_the_table_and_the_page(hashes: bool, photos: list[Path], tmp_path: Path) -> None:
    embeddings = embedded(tmp_path / "E", photos, {"001.png": "000.png"})
    for photo in photos[:2]:
        photo.unlink()
    found = find_duplicates(embeddings, hashes=hashes, progress=False)
    assert names(found) == [{"000.png", "001.png"}]
    write_duplicates(found, tmp_path / "out", progress=False)
    rows = list(csv.DictReader((tmp_path / "out" / TABLE).open()))
    assert all(row["difference"].startswith("file not found") for row in rows)
    assert (tmp_path / "out" / PAGE).read_text().count("no picture") == 2


def test_images_that_are_no_files_are_compared_by_their_thumbnails(tmp_path: Path) -> None:
    images = [picture(seed) for seed in range(40)]
    images[7] = KINDS["mirrored"](images[3])
    vectors = np.random.default_rng(0).standard_normal((40, 16))
    made = make_embeddings(tmp_path / "E", vectors, thumbnails=[jpeg(image) for image in images])
    found = find_duplicates(made, progress=False)
    assert [[member.row for member in group] for group in found] == [[3, 7]]
    write_duplicates(found, tmp_path / "out", progress=False)
    assert "mirrored" in (tmp_path / "out" / TABLE).read_text()


def test_a_given_threshold_counts_and_wrong_ones_are_refused(photos: list[Path], tmp_path: Path) -> None:
    embeddings = embedded(tmp_path / "E", photos, {"001.png": "000.png"})
    found = find_duplicates(embeddings.folder, threshold=0.5, hashes=False, progress=False)
    assert found.words == ["threshold 0.50: as it was given", "perceptual hashes were not used"]
    assert {"000.png", "001.png"} in names(found) or len(found) > 1
    with pytest.raises(GlocalError, match=r"threshold=1.5: a cosine similarity lies from -1 to 1"):
        find_duplicates(embeddings, threshold=1.5)
    one = make_embeddings(tmp_path / "one", np.eye(1))
    with pytest.raises(GlocalError, match="holds one image: copies need two"):
        find_duplicates(one, progress=False)
    with pytest.raises(GlocalError, match=r"there is no such folder; `glocal embed"):
        find_duplicates(tmp_path / "nowhere")
    with pytest.raises(GlocalError, match="is a file and no folder"):
        write_duplicates(found, photos[0], progress=False)


@pytest.mark.parametrize("same", [1000, 2000])
def test_equal_hashes_are_linked_to_the_first_of_them_alone(same: int, tmp_path: Path) -> None:
    count = 2000
    made, hashes = drawn(tmp_path / "E", count, np.random.default_rng(0).standard_normal((count, 8)))
    for values in (hashes.straight, hashes.mirrored):
        values[:same] = values[0]
    save_hashes(made.folder, hashes)
    found = find_duplicates(made, progress=False)
    assert sorted(found.row.tolist()) == list(range(same))
    assert len(found) == 1


def test_the_command_prints_what_it_found_and_where(
    photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = planted(photos, ("mirrored",))
    embeddings = embedded(tmp_path / "E", all_of(photos[0].parent), {})
    monkeypatch.setattr(
        sys, "argv", ["glocal", "duplicates", str(embeddings.folder), "--out", str(tmp_path / "out"), "--quiet"]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    said = capsys.readouterr().out
    assert f"1 group of near-copies among {PHOTOS + 1} images: 1 image beside the largest of each" in said
    assert "threshold 0." in said
    assert "nothing was deleted" in said
    assert set(copies) < {row["key"] for row in csv.DictReader((tmp_path / "out" / TABLE).open())}
    monkeypatch.chdir(tmp_path)
    for name in ("E", "mistyped"):
        monkeypatch.setattr(sys, "argv", ["glocal", "duplicates", str(tmp_path / name), "--quiet"])
        with pytest.raises(SystemExit):
            main()
    assert [path.name for path in (tmp_path / "duplicates").iterdir()] == ["E"]  # of other embeddings another folder


@pytest.mark.parametrize(("count", "copies"), [(60, 10), (200, 20)])
def test_large_groups_in_small_sets_stay_in_one_piece_without_hashes(tmp_path: Path, count: int, copies: int) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((count, 32))
    vectors[:copies] = vectors[0] + 0.05 * rng.standard_normal((copies, 32))
    found = find_duplicates(make_embeddings(tmp_path / "E", vectors), hashes=False, progress=False)
    assert [sorted(member.row for member in group) for group in found] == [list(range(copies))]


def test_pictures_are_kept_of_what_the_page_shows_alone(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = {f"{row:03d}.png": "000.png" for row in range(1, 6)} | {f"{row:03d}.png": "010.png" for row in range(11, 15)}
    found = find_duplicates(embedded(tmp_path / "E", photos, near), threshold=0.95, hashes=False, progress=False)
    assert [len(group) for group in found] == [6, 5]
    monkeypatch.setattr(duplicate_files, "_TILES", 4)
    compared = duplicate_files._compared(found, set(), 1, 0, False)
    assert [one.picture is not None for one in compared] == [True] * 4 + [False] * 7
    for shown, pictures, more in ((1, 4, ["2 more"]), (2, 8, ["2 more", "1 more"])):
        write_duplicates(found, tmp_path / "out", shown=shown, workers=0, progress=False)
        page = (tmp_path / "out" / PAGE).read_text()
        assert page.count("<img") == pictures
        assert [f"{words} of this group in duplicates.csv" in page for words in more] == [True] * len(more)
    assert len((tmp_path / "out" / TABLE).read_text().splitlines()) == 12
