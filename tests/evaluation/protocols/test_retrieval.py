"""Image retrieval on folders in the formats that the data sets have."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from glocal.data.annotated.queries import find_query_lists
from glocal.data.lanes.whole import Fit, cut, whole_images
from glocal.data.sources.base import MemorySource
from glocal.data.sources.opening import open_source
from glocal.data.sources.shapes import Shapes
from glocal.errors import GlocalError
from glocal.evaluation import RawPixels, evaluate
from glocal.evaluation.features.bench import Bench
from glocal.evaluation.features.cache import FeatureCache
from glocal.evaluation.features.extraction import POOLED, Readout
from glocal.evaluation.features.scales import View, at_scales, size_step, smallest_side, view_for, whole_features
from glocal.evaluation.protocols.retrieval import PROTOCOL, RetrievalSettings, measure
from glocal.files import cache_folder
from glocal.models.architecture import ModelSettings
from glocal.models.backbone import Backbone
from glocal.models.building import build_backbone


def noise(seed: int, width: int = 60, height: int = 40) -> Image.Image:
    """Soft spots of colour."""
    draw = torch.Generator().manual_seed(seed)
    spots = interpolate(torch.rand(1, 3, 5, 7, generator=draw), (height, width), mode="bicubic").clamp(0, 1)[0]
    return Image.fromarray((255 * spots).byte().permute(1, 2, 0).numpy())


def landmarks(root: Path, name: str = "roxford5k", queries: int = 3, protocol: int = 2, **changes: Any) -> Path:
    """A folder as the authors of the revisited sets have it. Of each query there are in it: one image that is the part
    of the query's image in its box (easy), the whole of the query's image (hard), and the query's image turned over
    (junk); and four others."""
    folder = root / name
    (folder / "jpg").mkdir(parents=True)
    imlist, qimlist, gnd = [], [], []
    box = (9.6, 5.2, 40.4, 35.0)
    for query in range(queries):
        whole = noise(query)
        pictures = {
            f"query_{query:06d}": whole,
            f"part_{query:06d}": whole.crop((10, 5, 40, 35)),
            f"whole_{query:06d}": whole,
            f"over_{query:06d}": whole.transpose(Image.Transpose.ROTATE_180),
        }
        for key, picture in pictures.items():
            picture.save(folder / "jpg" / f"{key}.jpg", quality=98)
        first = len(imlist)
        qimlist.append(f"query_{query:06d}")
        imlist += [key for key in pictures if not key.startswith("query")]
        gnd.append({"bbx": list(box), "easy": np.array([first]), "hard": [first + 1], "junk": np.array([first + 2])})
    for other in range(4):
        noise(100 + other, 40, 60).save(folder / "jpg" / f"other_{other}.jpg")
        imlist.append(f"other_{other}")
    content = {"imlist": imlist, "qimlist": qimlist, "gnd": gnd, **changes}
    (folder / f"gnd_{name}.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    return folder


def run(backbone: Any, data: Any, **settings: Any) -> dict[str, dict[str, float]]:
    found = evaluate(
        backbone,
        data={"retrieval": str(data)},
        settings={f"retrieval.{key}": value for key, value in settings.items()},
        device="cpu",
        workers=0,
        progress=False,
    )
    return {entry["setting"]: entry["metrics"] for entry in found["protocols"]["retrieval"]["results"]}


def resnet(size: int = 32) -> Backbone:
    torch.manual_seed(0)
    settings = ModelSettings(name="resnet10t", stem="standard")
    return build_backbone(settings, size=size).eval()


def vit(**options: Any) -> Backbone:
    torch.manual_seed(0)
    options = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, **options}
    return build_backbone(ModelSettings(name="vit_tiny", options=options), size=32).eval()


def test_a_query_cut_to_its_box_finds_what_is_in_the_box_and_a_whole_query_the_whole(tmp_path: Path) -> None:
    folder = landmarks(tmp_path)
    levels = ("easy", "medium", "hard")
    boxed = run(RawPixels(16), folder, levels=levels)
    assert list(boxed) == [f"roxford5k {level}, 16 px squares" for level in levels]
    assert boxed["roxford5k easy, 16 px squares"] == {"mAP": 100, "mP@1": 100, "mP@5": 100, "mP@10": 100}
    whole = run(RawPixels(16), folder, query_box=False)
    assert list(whole) == [f"roxford5k {level}, 16 px squares, whole queries" for level in ("medium", "hard")]
    assert whole["roxford5k hard, 16 px squares, whole queries"]["mAP"] == 100
    assert whole["roxford5k medium, 16 px squares, whole queries"]["mP@1"] == 100


def test_levels_are_those_of_the_benchmark_written_as_a_loop(tmp_path: Path) -> None:
    folder = landmarks(tmp_path, queries=5)
    found = run(RawPixels(8), folder, levels=("easy", "medium", "hard"), at=(1, 2))
    truth = pickle.loads((folder / "gnd_roxford5k.pkl").read_bytes())

    def feature(name: str, box: tuple[int, ...] | None = None) -> np.ndarray:
        image = torch.from_numpy(np.array(Image.open(folder / "jpg" / f"{name}.jpg").crop(box))).permute(2, 0, 1)
        small = interpolate(image[None], (8, 8), mode="bicubic", antialias=True).double().numpy().ravel()
        return small / np.linalg.norm(small)

    images = np.stack([feature(name) for name in truth["imlist"]])
    kinds = {
        "easy": (["easy"], ["junk", "hard"]),
        "medium": (["easy", "hard"], ["junk"]),
        "hard": (["hard"], ["junk", "easy"]),
    }
    for level, (good, bad) in kinds.items():
        areas, firsts = [], []
        for name, entry in zip(truth["qimlist"], truth["gnd"], strict=True):
            order = np.argsort(-(images @ feature(name, (10, 5, 40, 35))))
            junk = np.concatenate([entry[kind] for kind in bad])
            ranks = [
                place
                for place, image in enumerate(i for i in order if i not in junk)
                if image in np.concatenate([entry[kind] for kind in good])
            ]
            areas.append(sum(((n / r if r else 1) + (n + 1) / (r + 1)) / 2 / len(ranks) for n, r in enumerate(ranks)))
            firsts.append(float(ranks[0] == 0))
        metrics = found[f"roxford5k {level}, 8 px squares"]
        assert metrics["mAP"] == pytest.approx(100 * np.mean(areas))
        assert metrics["mP@1"] == pytest.approx(100 * np.mean(firsts))


def test_a_folder_of_both_sets_gives_both_and_all_protocols_of_pickle_are_read(tmp_path: Path) -> None:
    for protocol, name in ((0, "roxford5k"), (5, "rparis6k")):
        landmarks(tmp_path, name, protocol=protocol)
    found = run(RawPixels(8), tmp_path, levels=("easy",))
    assert {setting.split(",")[0] for setting in found} == {"rparis6k easy", "roxford5k easy"}


@pytest.mark.parametrize("make", [resnet, vit])
def test_networks_of_any_size_see_whole_images_at_several_scales(make: Callable[[], Backbone], tmp_path: Path) -> None:
    folder = landmarks(tmp_path)
    found = run(make(), folder, size=48, scales=(1.0, 0.7071, 0.5), query_box=False, levels=("hard",))
    [(setting, metrics)] = found.items()
    assert setting == "roxford5k hard, 48 px, 3 scales, whole queries"
    assert metrics["mAP"] == 100  # each query is in the list as it is
    white = run(make(), folder, size=48, query_box=False, levels=("hard",), whiten=str(folder / "jpg"), whiten_dim=4)
    [(setting, metrics)] = white.items()
    assert setting == f"roxford5k hard, 48 px, whole queries, whitened on {folder / 'jpg'}"
    assert metrics["mAP"] == 100


def test_steps_of_networks_and_notes_about_those_of_one_size(capsys: pytest.CaptureFixture[str]) -> None:
    usual = View(Fit(1024), (1.0, 0.5))
    assert (size_step(resnet()), size_step(vit()), size_step(RawPixels(8))) == (1, 8, None)
    fixed = vit(dynamic_img_size=False)
    assert size_step(fixed) is None
    assert view_for(resnet(), None, None, usual=usual) == View(Fit(32))  # it knows small images only
    assert view_for(resnet(96), None, None, usual=usual) == usual
    assert view_for(vit(), 50, (1.0, 0.7), usual=usual) == View(Fit(50, 8), (1.0, 0.7))
    assert view_for(vit(), 50, None, usual=View(Fit(320, square=True))) == View(Fit(48, 8, True))
    assert smallest_side(resnet()) == smallest_side(vit(), 8) == 1
    assert capsys.readouterr().err == ""
    assert view_for(fixed, 50, None, usual=usual) == View(Fit(32, square=True))
    assert "takes images of 32 × 32 pixels only" in capsys.readouterr().err.replace("\n", " ")


def test_networks_that_refuse_small_images_see_them_enlarged(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(ModelSettings(name="convnext_atto"), size=96).eval()
    view = view_for(backbone, None, None, usual=View(Fit(1024), (1.0, 0.5)))
    assert view == View(Fit(1024, least=32), (1.0, 0.5))
    assert Fit(100, least=32).sides(30, 48, 48) == (32, 48)
    assert Fit(100, 14, least=32).sides(30, 10, 30) == (42, 42)
    noise(0, 40, 48).save(tmp_path / "a.png")
    bench = Bench(backbone, workers=0, progress=False)
    assert whole_features(bench, open_source(tmp_path), POOLED, view).isfinite().all()
    with pytest.raises(
        GlocalError, match=r"convnext_atto cannot see images of 24×20 pixels .*retrieval\.size, retrieval\.scales"
    ):
        whole_features(bench, open_source(tmp_path), POOLED, View(Fit(1024), (1.0, 0.5)))


def test_a_network_that_has_diverged_is_named_and_nothing_is_kept(tmp_path: Path) -> None:
    noise(0).save(tmp_path / "a.png")
    source = open_source(tmp_path)
    bench = Bench(RawPixels(8), workers=0, progress=False, cache=FeatureCache(tmp_path / "cache"))
    for value in (torch.nan, torch.inf):
        bad = Readout("bad", lambda backbone, images, value=value: torch.full((len(images), 4), value))
        with pytest.raises(GlocalError, match="raw pixels gives features that are infinite or no numbers for images"):
            whole_features(bench, source, bad, View(Fit(8, square=True)))
    assert not list((tmp_path / "cache").glob("*"))


def test_all_leaves_out_a_search_by_class_of_many_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(RawPixels(8), train=Shapes("train", 500), test=Shapes("test", 100), progress=False)
    assert PROTOCOL.too_much(bench, RetrievalSettings()) == ""
    assert PROTOCOL.too_much(Bench(RawPixels(8)), RetrievalSettings()) == ""
    monkeypatch.setattr("glocal.evaluation.protocols.retrieval._PAIRS", 49_999)
    assert PROTOCOL.too_much(bench, RetrievalSettings()).startswith("retrieval would rank 500 images for each of 100")
    assert PROTOCOL.too_much(bench, RetrievalSettings(data="images")) == ""


def test_images_keep_their_proportions_and_are_not_enlarged() -> None:
    assert Fit(100).sides(300, 400, 400) == (75, 100)
    assert Fit(100, 16).sides(300, 400, 400) == (80, 96)
    assert Fit(100).sides(30, 40, 40) == (30, 40)
    assert Fit(100).sides(30, 40, 400) == (8, 10)  # a part, as its image of 400 pixels shrinks
    assert Fit(100, 16).sides(1, 400, 400) == (16, 96)
    assert Fit(100, square=True).sides(30, 40, 40) == (100, 100)
    image = torch.arange(12).view(1, 3, 4)
    assert cut(image, (0.6, 1.2, 2.9, 9.0)).tolist() == [[[5, 6], [9, 10]]]
    assert cut(image, (9.0, 9.0, 9.0, 9.0)).tolist() == [[[11]]]


def test_images_of_one_size_come_together_and_broken_ones_are_left_out(image_folder: Callable[..., Path]) -> None:
    folder = image_folder(9, sizes=((32, 24), (24, 32), (10, 10)))
    source = open_source(folder)
    (folder / source.keys[4]).write_bytes(b"broken")
    skipped: list[Any] = []
    seen = {}
    for index, images in whole_images(source, Fit(16), batch_size=5, workers=0, skipped=skipped):
        for number, image in zip(index.tolist(), images, strict=True):
            seen[number] = tuple(image.shape[1:])
            height, width = source[number].image.shape[1:]
            assert seen[number] == Fit(16).sides(height, width, max(height, width))
    assert sorted(seen) == [0, 1, 2, 3, 5, 6, 7, 8]
    assert [error.key for error in skipped] == [source.keys[4]]


def test_scales_are_normalised_averaged_and_normalised() -> None:
    backbone = resnet()
    images = torch.randint(0, 256, (2, 3, 48, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = at_scales(backbone, images, POOLED, View(Fit(48), (1.0, 0.5)))
    half = interpolate(images.float() / 255, (24, 20), mode="bilinear", align_corners=False)
    parts = [backbone.features(images), backbone.features(half)]
    mean = sum(part / part.norm(dim=1, keepdim=True) for part in parts) / 2
    assert torch.allclose(found, mean / mean.norm(dim=1, keepdim=True), atol=1e-6)
    assert torch.equal(at_scales(backbone, images, POOLED, View(Fit(48))), parts[0])


def test_whole_features_are_kept_by_size_scales_and_boxes(image_folder: Callable[..., Path]) -> None:
    source, calls = open_source(image_folder(4, sizes=((20, 30),))), []
    backbone = resnet()

    def compute(backbone: Any, images: torch.Tensor) -> torch.Tensor:
        calls.append(tuple(images.shape))
        return backbone.features(images)

    bench = Bench(backbone, workers=0, progress=False, cache=FeatureCache(cache_folder()))
    readout = Readout("counted", compute)
    boxes = [(0.0, 0.0, 10.0, 10.0)] * 4
    for view, box in ((View(Fit(32)), None), (View(Fit(32)), boxes), (View(Fit(24)), None), (View(Fit(32)), None)):
        whole_features(bench, source, readout, view, boxes=box)
    assert calls == [(4, 3, 30, 20), (4, 3, 10, 10), (4, 3, 24, 16)]


def listing(folder: Path) -> Path:
    """Images a.png … f.png; b is a with other colours' strength, e is a and d of the kind of c."""
    (folder / "more").mkdir(parents=True)
    for name, seed in (("a.png", 1), ("b 1.png", 1), ("c.png", 2), ("more/d.png", 2), ("e.png", 3), ("f.png", 4)):
        noise(seed).point(lambda value: int(value * (0.9 if name in ("b 1.png", "more/d.png") else 1))).save(  # noqa: B023
            folder / name
        )
    return folder


def test_query_lists_as_csv_and_json_say_the_same(tmp_path: Path) -> None:
    folder = listing(tmp_path / "photos")
    lines = ["query,relevant,junk", "a.png,b 1.png;more/d.png,", "c.png,more/d.png,e.png", "a.png,f.png,c.png"]
    (folder / "queries.csv").write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    wanted = {"a.png": {"relevant": ["b 1.png", "more/d.png", "f.png"], "junk": ["c.png"]}}
    wanted["c.png"] = {"relevant": ["more/d.png"], "junk": ["e.png"]}
    (tmp_path / "other.json").write_text(json.dumps(wanted))
    [table], [other] = find_query_lists(folder), find_query_lists(folder, str(tmp_path / "other.json"))
    for found in (table, other):
        assert list(found.images.keys) == ["a.png", "b 1.png", "c.png", "e.png", "f.png", "more/d.png"]
        assert list(found.queries.keys) == ["a.png", "c.png"]
        relevant, junk = found.levels[""]
        assert [each.tolist() for each in relevant] == [[1, 4, 5], [5]]
        assert [each.tolist() for each in junk] == [[2, 0], [3, 2]]  # and the queries themselves


def test_any_folder_with_a_query_list_is_measured(tmp_path: Path) -> None:
    folder = listing(tmp_path / "photos")
    (folder / "queries.json").write_text(json.dumps({"a.png": ["b 1.png"], "c.png": ["more/d.png"], "f.png": []}))
    found = run(RawPixels(16), folder)
    assert found == {"photos, 16 px squares": {"mAP": 100, "mP@1": 100, "mP@5": 100, "mP@10": 100}}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "queries.csv",
            "query,relevant\na.png,b1.png\n",
            r"queries\.csv, line 2: there is no image 'b1\.png' .*b 1\.png",
        ),
        ("queries.csv", "query,relevant\nzzz,b 1.png\n", "line 2: there is no image 'zzz'.*paths are relative"),
        ("queries.csv", "query,answer\na.png,b 1.png\n", "columns query, relevant and, if wanted, junk, not"),
        ("queries.csv", "query,relevant\na.png,c.png,e.png\n", "line 2: a query and as many values as the first line"),
        ("queries.csv", "query,relevant\n,c.png\n", "line 2: a query and"),
        ("queries.csv", "query,relevant\n", "there is no query in it"),
        ("queries.csv", "", "its first line must name the columns"),
        ("queries.csv", b"query,relevant\n\xff\xfe,\n", "cannot be read as CSV"),
        ("queries.json", "{", "cannot be read as JSON"),
        ("queries.json", '["a.png"]', "write it as"),
        ("queries.json", '{"a.png": "c.png"}', "write it as .*'a.png' is not so"),
        ("queries.json", '{"a.png": {"relevent": []}}', "write it as"),
        ("queries.json", '{"a.png": []}', "no query that can be read and to which some image is relevant"),
        ("nothing.txt", "", "holds neither gnd_NAME.pkl .*retrieval.relevant=class"),
    ],
)
def test_wrong_query_lists_are_errors_in_one_line(
    name: str, content: str | bytes, message: str, tmp_path: Path
) -> None:
    folder = listing(tmp_path / "photos")
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(GlocalError, match=message) as caught:
        run(RawPixels(8), folder)
    assert "\n" not in str(caught.value)


def test_a_list_that_is_not_there_and_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(GlocalError, match="no query list mine.csv, neither in"):
        run(RawPixels(8), listing(tmp_path / "photos"), queries="mine.csv")
    with pytest.raises(GlocalError, match=r"there is no folder .*nothing; --data .* gnd_roxford5k\.pkl .*http.*jpg/"):
        run(RawPixels(8), tmp_path / "nothing")
    with pytest.raises(GlocalError, match="retrieval needs labelled images .*or --data retrieval=PATH: a folder with"):
        evaluate(RawPixels(8), protocols="retrieval", progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"imlist": None}, "no ground truth of revisited Oxford or Paris"),
        ({"gnd": []}, "3 queries in qimlist, but 0 entries in gnd"),
        ({"gnd": [{"easy": [99], "hard": [], "junk": [], "bbx": [0, 0, 1, 1]}] * 3}, "numbers from 0 to 12"),
        ({"gnd": [{"easy": [-1], "hard": [], "junk": [], "bbx": [0, 0, 1, 1]}] * 3}, "numbers from 0 to 12"),
        ({"gnd": [{"easy": [], "hard": [], "junk": [], "bbx": [0, 0, 1]}] * 3}, "easy, hard, junk and bbx"),
        ({"gnd": [{"easy": [], "hard": [], "bbx": [0, 0, 1, 1]}] * 3}, "KeyError: 'junk'"),
        ({"imlist": ["lost_1", "lost_2"], "gnd": []}, "3 queries"),
        ({"qimlist": ["lost_1", "lost_2", "lost_3"]}, r"lost_1\.jpg and 2 other images are missing: .*oxbuildings"),
        ({"more": {1, 2}}, "refused"),
        ({"more": Path("x")}, "pathlib.*refused"),
    ],
)
def test_wrong_ground_truth_is_an_error_in_one_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = landmarks(tmp_path, **changes)
    with pytest.raises(GlocalError, match=message) as caught:
        run(RawPixels(8), folder)
    assert "\n" not in str(caught.value)


def test_unreadable_images_are_never_found_and_unreadable_queries_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = landmarks(tmp_path)
    (folder / "jpg" / "part_000000.jpg").write_bytes(b"broken")
    (folder / "jpg" / "query_000001.jpg").write_bytes(b"broken")
    [metrics] = run(RawPixels(16), folder, levels=("easy",), at=(1,)).values()
    assert metrics["mP@1"] == 50  # query 0 cannot find its part, query 1 is not counted, query 2 finds its own
    assert 50 < metrics["mAP"] < 60
    assert (
        "1 of its 13 images cannot be read and are left out; the first: part_000000.jpg"
        in capsys.readouterr().err.replace("\n", " ")
    )


def test_labels_alone_are_enough_on_shapes() -> None:
    train, test = Shapes("train", 120), Shapes("test", 40)
    found = evaluate(RawPixels(32), train=train, test=test, protocols="retrieval", device="cpu", progress=False)
    [entry] = found["protocols"]["retrieval"]["results"]
    assert entry["setting"] == "same class"
    assert found["protocols"]["retrieval"]["test"]["images"] == 40
    one, other = (source.images().flatten(1).double() for source in (test, train))
    scores = (one / one.norm(dim=1, keepdim=True)) @ (other / other.norm(dim=1, keepdim=True)).mT
    first = (train.labels[scores.argmax(dim=1)] == test.labels).double().mean()
    assert entry["metrics"]["mP@1"] == pytest.approx(100 * float(first))
    assert set(entry["metrics"]) == {"mAP", "mP@1", "mP@5", "mP@10"}


def test_labels_count_by_name_and_may_be_whitened(image_folder: Callable[..., Path]) -> None:
    images = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    train = MemorySource("train", images, torch.arange(6) % 3, ["x", "y", "z"])
    test = MemorySource("test", images[[5, 3]], torch.tensor([0, 1]), ["z", "x"])
    bench = Bench(RawPixels(8), train=train, test=test, workers=0, progress=False)
    [found] = measure(bench, RetrievalSettings(at=(1,)))
    assert found.metrics["mP@1"] == 100
    [found] = measure(bench, RetrievalSettings(at=(1,), whiten=str(image_folder(16)), whiten_dim=5))
    assert found.metrics["mP@1"] == 100
    assert found.setting.startswith("same class, whitened on ")


def test_in_a_labelled_folder_each_image_searches_the_others(image_folder: Callable[..., Path]) -> None:
    folder = image_folder(8, sizes=((32, 32),))  # one of each class
    with pytest.raises(GlocalError, match="to which some image is relevant"):
        run(RawPixels(8), folder, relevant="class")
    for path in sorted(folder.glob("*/*.png")):
        Image.open(path).save(path.with_suffix(".bmp"))
    found = run(RawPixels(8), folder, relevant="class", at=(1,))
    assert found == {"same class, 8 px squares": {"mAP": 100, "mP@1": 100}}
    with pytest.raises(GlocalError, match="has no labels"):
        run(RawPixels(8), folder / "class0", relevant="class")
