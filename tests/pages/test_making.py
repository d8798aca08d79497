"""The report is one page that holds all it shows, whatever the run and the names of its images."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import glocal
from glocal.cli import app
from glocal.data.sources.base import MemorySource
from glocal.data.sources.shapes import Shapes
from glocal.errors import GlocalError
from glocal.pages.live import LivePage
from glocal.pages.sample import choose
from glocal.training import run as running
from tests.pages.conftest import SMALL, STEPS

PARTS = ["Curves", "Measured", "Map of the embeddings", "Views", "Nearest neighbours", "Suspicious images"]


def headings(page: Path) -> list[str]:
    return re.findall(r"<section id=[^>]*><h2>([^<]*)</h2>", page.read_text(encoding="utf-8"))


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.S
    )
    assert found is not None
    return json.loads(found[1])  # type: ignore[no-any-return]


def test_the_page_has_its_parts_in_order_and_needs_no_network(reported: Path) -> None:
    text = reported.read_text(encoding="utf-8")
    assert headings(reported) == PARTS
    assert text.index('<ul class="verdict">') < text.index("<h2>Curves")
    assert not re.findall(r'(?:src|href)=["\'](?!data:|#)[^"\']*', re.sub(r"<script.*?</script>", "", text, flags=re.S))
    assert "The training is finished: 3 epochs" in text
    assert "96 of 128 images, of each class its share" in text


def test_neighbours_on_the_page_are_the_nearest_by_a_plain_search(
    trained: Path, reported: Path, tmp_path: Path
) -> None:
    found = data_of(reported)["maps"][0]
    source = Shapes("train", 128)
    keys = {key: number for number, key in enumerate(source.keys)}
    images = source.images()[[keys[key] for key in found["keys"]]]
    features = torch.nn.functional.normalize(glocal.load_backbone(trained).features(images), dim=1).double()
    cosine = (features @ features.T).fill_diagonal_(-1)
    for number, others in enumerate(found["neighbors"]):
        best = cosine[number].topk(len(others)).values
        assert cosine[number, others].tolist() == pytest.approx(best.tolist(), abs=2e-3)  # kept in half precision
        assert found["similarity"][number] == pytest.approx(best.tolist(), abs=2e-3)
    labels = [source.classes[source.labels[keys[key]]] for key in found["keys"]]
    assert found["groups"]["class"] == labels


def test_a_sample_gives_each_class_or_folder_its_share() -> None:
    labels = torch.tensor([0] * 700 + [1] * 200 + [2] * 100)
    source = MemorySource("some", torch.zeros(1000, 3, 4, 4, dtype=torch.uint8), labels, ["a", "b", "c"])
    chosen, by = choose(source, 100, 0)
    assert by == "class"
    assert chosen.unique().numel() == 100
    assert labels[chosen].bincount().tolist() == pytest.approx([70, 20, 10], abs=1)
    whole, by = choose(source, 1000, 0)
    assert torch.equal(whole, torch.arange(1000))
    assert by == ""
    assert not torch.equal(choose(source, 100, 1)[0], chosen)
    source.labels = None
    assert choose(source, 100, 0)[1] == ""  # all in one place
    source.keys = [f"{'abc'[label]}/{number}" for number, label in enumerate(labels.tolist())]
    chosen, by = choose(source, 100, 0)
    assert by == "folder"
    assert labels[chosen].bincount().tolist() == pytest.approx([70, 20, 10], abs=1)


def test_runs_without_a_map_leave_those_of_others(trained: Path, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    shutil.copytree(trained, begun)
    shutil.rmtree(begun / "checkpoints")
    broken = tmp_path / "broken"
    shutil.copytree(trained, broken)
    for file in (broken / "checkpoints").iterdir():
        file.write_bytes(b"nothing")
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    page = glocal.write_report([begun, broken, trained, other], tmp_path / "page.html", images=32, progress=False)
    text = page.read_text(encoding="utf-8")
    assert len(data_of(page)["maps"]) == 2
    neighbours = text[text.index("<h2>Nearest neighbours") :]
    assert re.findall("<h3>(.*?)</h3>", neighbours)[:2] == ["first", "other"]
    assert re.search(r"<h3>broken</h3><p>[^<]*checkpoint", text)  # why it has no map


def test_the_page_says_how_many_images_it_shows(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "flat"
    folder.mkdir()
    for number, image in enumerate(Shapes("train", 12).images()):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number:02d}.png")
    (folder / "bad.png").write_bytes(b"no picture")
    text = glocal.write_report(trained, tmp_path / "a.html", data=folder, progress=False).read_text(encoding="utf-8")
    assert "t-SNE of all 12 images that can be read, of 13." in text
    assert "Unreadable: 1 image" in text
    assert "bad.png" in text
    assert "cannot be read" not in capsys.readouterr().err  # which would name a file that is gone
    (folder / "bad.png").unlink()
    some = glocal.write_report(trained, tmp_path / "b.html", data=folder, images=8, progress=False)
    assert "t-SNE of 8 of 12 images. Near" in some.read_text(encoding="utf-8")


def test_a_training_that_fails_leaves_a_page_that_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None
) -> None:
    monkeypatch.setenv("GLOCAL_REPORT", "1")
    overrides = {**SMALL, **STEPS, "monitor.knn_epochs": 0, "optimizer.warmup_epochs": 0}
    with pytest.raises(GlocalError, match="the loss is"):
        glocal.pretrain(
            "shapes:train:64", tmp_path / "a", recipe="demo-shapes", overrides={**overrides, "optimizer.lr": 1e12},
            progress=False,
        )  # fmt: skip
    assert "The training could not go on: the loss is" in (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    glocal.pretrain("shapes:train:64", tmp_path / "a", recipe="demo-shapes", overrides=overrides, progress=False)
    assert not (tmp_path / "a" / "failed.txt").exists()
    assert headings(tmp_path / "a" / "report.html") == PARTS


def test_names_of_images_are_text_and_nothing_else(tmp_path: Path, trained: Path) -> None:
    folder = tmp_path / "images"
    for name in ("</script><b>bold", "{{curve-loss}}", "<!-- <script>", 'a"b'):
        place = folder / name.replace("/", "∕")
        place.mkdir(parents=True)
        for number, image in enumerate(Shapes("train", 8).images()):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f"{number}.png")
    page = glocal.write_report(trained, tmp_path / "page.html", data=folder, progress=False)
    text = page.read_text(encoding="utf-8")
    found = data_of(page)["maps"][0]
    assert set(found["groups"]["class"]) == {"<∕script><b>bold", "{{curve-loss}}", "<!-- <script>", 'a"b'}
    assert "<b>bold" not in text
    assert "<!-- <script>" not in text
    assert text.count('data-root-id="') == len(set(re.findall(r'data-root-id="([^"]+)"', text)))  # each figure once


def test_runs_side_by_side_share_their_images(trained: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    glocal.pretrain(
        "shapes:train:128", other, recipe="demo-shapes", overrides={**SMALL, **STEPS, "seed": 1}, progress=False
    )
    page = glocal.write_report([trained, other], tmp_path / "page.html", images=64, progress=False)
    first, second = data_of(page)["maps"]
    assert first["keys"] == second["keys"]
    assert first["neighbors"] != second["neighbors"]
    assert first["groups"] == second["groups"]  # the same colours mean the same
    assert "<h3>first</h3>" in page.read_text(encoding="utf-8")
    with pytest.raises(GlocalError, match="runs/none is no run: it does not exist"):
        glocal.write_report([trained, "runs/none"], tmp_path / "page.html")
    with pytest.raises(GlocalError, match="mistyped is no run: it does not exist"):
        glocal.write_report(tmp_path / "mistyped", tmp_path / "mistyped" / "report.html")
    assert not (tmp_path / "mistyped").exists()


def test_measured_numbers_stand_on_the_page(trained: Path, tmp_path: Path) -> None:
    found = glocal.evaluate(
        trained, train="shapes:train:64", test="shapes:test:64", protocols=["knn"], k=[5], out=trained / "evaluation",
        progress=False,
    )  # fmt: skip
    page = glocal.write_report(trained, tmp_path / "page.html", images=0)
    value = found["protocols"]["knn"]["results"][0]["metrics"]["top1"]
    assert f"<td class=number>{value:.2f}</td>" in page.read_text(encoding="utf-8")


VIT = {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8}


def test_transformers_show_attention_and_matched_patches(tmp_path: Path) -> None:
    settings = {"method.name": "patchwise_dino", "model.name": "vit_tiny", "model.options": VIT, "views": None}
    small = {"method.prototypes": 32, "method.hidden_dim": 16, "method.bottleneck_dim": 8}
    overrides = {**STEPS, **settings, **small, "train.epochs": 1, "optimizer.warmup_epochs": 0}
    glocal.pretrain("shapes:train:64", tmp_path / "vit", recipe="demo-shapes", overrides=overrides, progress=False)
    page = glocal.write_report(tmp_path / "vit", tmp_path / "page.html", images=32, progress=False)
    assert "Patches and attention" in headings(page)
    text = page.read_text(encoding="utf-8")
    assert "vit: what the CLS token attends to" in text
    assert "head 2</figure>" in text
    assert "vit: matched patches of two views" in text


def test_logo_shows_its_affinity(tmp_path: Path) -> None:
    overrides = {**SMALL, **STEPS, "train.epochs": 1, "optimizer.warmup_epochs": 0, "method.base.queue_size": 64}
    glocal.pretrain(
        "shapes:train:64", tmp_path / "logo", recipe="logo-moco-cifar10", overrides=overrides, progress=False
    )
    page = glocal.write_report(tmp_path / "logo", tmp_path / "page.html", images=32, progress=False)
    assert "Learned affinity" in headings(page)


def test_images_that_are_gone_leave_the_rest_of_the_page(trained: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(trained, tmp_path / "run")
    recipe = (moved / "recipe.yaml").read_text(encoding="utf-8")
    (moved / "recipe.yaml").write_text(re.sub(r"source: .*", f"source: {tmp_path / 'gone'}", recipe), encoding="utf-8")
    page = glocal.write_report(moved, tmp_path / "page.html", progress=False)
    assert headings(page) == ["Curves", "Measured", "Map of the embeddings"]
    assert "The images cannot be opened: there is no folder" in page.read_text(encoding="utf-8")
    with pytest.raises(GlocalError, match="there is no folder .*gone"):  # they were asked for
        glocal.write_report(trained, tmp_path / "other.html", data=tmp_path / "gone", progress=False)
    assert not (tmp_path / "other.html").exists()


def test_wrong_places_are_told(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GlocalError, match=r"page.png: the name must end in .html"):
        glocal.write_report(trained, tmp_path / "page.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(GlocalError, match=r"empty is no run: it holds no recipe.yaml"):
        glocal.write_report(tmp_path / "empty", tmp_path / "page.html")
    with pytest.raises(GlocalError, match="no run: name the folder"):
        glocal.write_report([], tmp_path / "page.html")
    with pytest.raises(GlocalError, match="first is named 2 times"):
        glocal.write_report([trained, f"{trained}/"], tmp_path / "page.html")
    monkeypatch.setattr("glocal.report.maps.find_spec", lambda _: None)
    with pytest.raises(GlocalError, match="UMAP needs umap-learn"):
        glocal.write_report(trained, tmp_path / "page.html", kind="umap")
    wrong = CliRunner().invoke(app, ["report", str(trained), "--map", "tsn"])
    assert "did you mean tsne" in str(wrong.exception)


def test_the_command_writes_into_the_run(trained: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(trained), "--images", "0", "--quiet"], catch_exceptions=False)
    assert str(trained / "report.html") in done.output
    assert headings(trained / "report.html") == ["Curves", "Measured"]


def test_every_training_writes_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None) -> None:
    monkeypatch.setenv("GLOCAL_REPORT", "1")
    monkeypatch.setattr("glocal.pages.live._EVERY", 0.0)
    written = []

    class Seen(LivePage):
        def _write(self, images: Callable[[], int]) -> None:
            super()._write(images)
            written.append((images(), (self.folder / "report.html").stat().st_size))

    monkeypatch.setattr(running, "LivePage", Seen)
    overrides = {**SMALL, **STEPS, "train.epochs": 1, "monitor.knn_epochs": 0}
    glocal.pretrain("shapes:train:64", tmp_path / "a", recipe="demo-shapes", overrides=overrides, progress=False)
    assert [images for images, _ in written] == [0, 0, 2000]  # after each step, and with a map in the end
    assert headings(tmp_path / "a" / "report.html") == PARTS
    glocal.pretrain(
        "shapes:train:64", tmp_path / "b", recipe="demo-shapes", overrides=overrides, progress=False, report=False
    )
    assert not (tmp_path / "b" / "report.html").exists()


@pytest.mark.parametrize(("rate", "images"), [(0.1, 300), (10.0, 1200), (5000.0, 2000)])
def test_slow_networks_have_fewer_images_on_the_map(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: float, images: int
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text((trained / "recipe.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    (run / "metrics.csv").write_text(f"step,epoch,loss,lr,images_per_second\n1,1,3.0,0.1,{rate}\n", encoding="utf-8")
    asked = []
    monkeypatch.setattr("glocal.pages.live.write_report", lambda *_, **options: asked.append(options["images"]))
    LivePage(run, Shapes("train", 8)).end(finished=True)  # two views: 30 seconds at four times the training's rate
    assert asked == [images]


def test_a_page_that_cannot_be_written_is_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source in (None, Shapes("train", 8)):
        LivePage(tmp_path / "gone", source).end(finished=True)
    assert capsys.readouterr().err.count("gone is no run: it does not exist") == 2


def test_images_in_memory_are_on_the_page_of_their_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None
) -> None:
    monkeypatch.setenv("GLOCAL_REPORT", "1")
    shapes = Shapes("train", 64)
    source = MemorySource("mine", shapes.images(), shapes.labels, shapes.classes)
    overrides = {**SMALL, **STEPS, "train.epochs": 1, "monitor.knn_epochs": 0}
    glocal.pretrain(source, tmp_path / "a", recipe="demo-shapes", overrides=overrides, progress=False)
    assert len(data_of(tmp_path / "a" / "report.html")["maps"][0]["keys"]) == 64
