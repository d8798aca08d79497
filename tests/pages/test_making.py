"""The report is one page that holds all it shows, whatever the run and the names of its images."""

import json
import re
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

PARTS = ["Curves", "Measured", "Map of the embeddings", "Nearest neighbours", "Views", "Suspicious images"]


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


def test_a_sample_gives_each_class_its_share() -> None:
    labels = torch.tensor([0] * 700 + [1] * 200 + [2] * 100)
    source = MemorySource("some", torch.zeros(1000, 3, 4, 4, dtype=torch.uint8), labels, ["a", "b", "c"])
    chosen = choose(source, 100, 0)
    assert chosen.unique().numel() == 100
    assert labels[chosen].bincount().tolist() == pytest.approx([70, 20, 10], abs=1)
    assert torch.equal(choose(source, 1000, 0), torch.arange(1000))
    assert not torch.equal(choose(source, 100, 1), chosen)


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
    assert "<h3>first</h3>" in page.read_text(encoding="utf-8")
    with pytest.raises(GlocalError, match="runs/none is no run: it does not exist"):
        glocal.write_report([trained, "runs/none"], tmp_path / "page.html")


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
    page = glocal.write_report(trained, tmp_path / "page.html", data=tmp_path / "gone", progress=False)
    assert headings(page) == ["Curves", "Measured", "Map of the embeddings"]
    assert "The images cannot be opened: there is no folder" in page.read_text(encoding="utf-8")


def test_wrong_places_are_told(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(GlocalError, match=r"page.png: the name must end in .html"):
        glocal.write_report(trained, tmp_path / "page.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(GlocalError, match=r"empty is no run: it holds no recipe.yaml"):
        glocal.write_report(tmp_path / "empty", tmp_path / "page.html")
    with pytest.raises(GlocalError, match="no run: name the folder"):
        glocal.write_report([], tmp_path / "page.html")
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
    LivePage(run, Shapes("train", 8)).end()  # two views: 30 seconds at four times the training's rate
    assert asked == [images]


def test_a_page_that_cannot_be_written_is_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source in (None, Shapes("train", 8)):
        LivePage(tmp_path / "gone", source).end()
    assert capsys.readouterr().err.count("report.html was not written: GlocalError") == 2


def test_images_in_memory_are_on_the_page_of_their_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None
) -> None:
    monkeypatch.setenv("GLOCAL_REPORT", "1")
    shapes = Shapes("train", 64)
    source = MemorySource("mine", shapes.images(), shapes.labels, shapes.classes)
    overrides = {**SMALL, **STEPS, "train.epochs": 1, "monitor.knn_epochs": 0}
    glocal.pretrain(source, tmp_path / "a", recipe="demo-shapes", overrides=overrides, progress=False)
    assert len(data_of(tmp_path / "a" / "report.html")["maps"][0]["keys"]) == 64
