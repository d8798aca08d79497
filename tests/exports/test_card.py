"""Model cards say where weights come from, with numbers of exactly these weights, and no more than that."""

import json
import shlex
from pathlib import Path

import pytest
import timm
import torch
import yaml
from PIL import Image

from glocal.cli import main
from glocal.config import written_recipe
from glocal.evaluation import evaluate
from glocal.exports import export
from glocal.exports.origin import Origin, evaluate_command, origin_of, own_images, shown_recipe
from glocal.models.loading import load_backbone
from glocal.settings import parse_overrides
from glocal.training.run import pretrain
from tests.methods.test_own_file import OWN

SMALL = {
    "method.name": "sce",
    "train.epochs": 1,
    "train.batch_size": 16,
    "data.size": 32,
    "model.name": "resnet18",
    "model.options": {"channels": [8, 8, 8, 8]},
    "model.stem": "standard",
    "monitor.knn_epochs": 0,
    "train.device": "cpu",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learned from a folder of images, and was measured."""
    root = tmp_path_factory.mktemp("private")
    for number in range(48):
        place = root / "photos" / f"class{number % 6}"
        place.mkdir(parents=True, exist_ok=True)
        colour = tuple(torch.randint(0, 256, (3,), generator=torch.Generator().manual_seed(number)).tolist())
        Image.new("RGB", (40, 36), colour).save(place / f"{number}.png")
    folder = root / "run"
    pretrain(str(root / "photos"), folder, overrides=SMALL, progress=False)
    images = str(root / "photos")
    evaluate(
        str(folder), train=images, test=images, protocols="knn", k=[3], settings={"knn.temperature": 0.2},
        out=folder / "evaluation", cache=False, progress=False, workers=0,
    )  # fmt: skip
    return folder


@pytest.mark.usefixtures("no_pictures")
def test_a_card_says_data_recipe_numbers_and_licence(run: Path, tmp_path: Path) -> None:
    done = export(run, "hub-folder", tmp_path / "net", license="apache-2.0")
    assert done.checks[0].images == 6 + 4  # its own images took part
    card = (done.path / "README.md").read_text()
    _, head, body = card.split("---\n", 2)
    said = yaml.safe_load(head)
    assert said["license"] == "apache-2.0"
    assert said["library_name"] == "timm"
    assert {"glocal", "resnet18", "sce"} <= set(said["tags"])
    assert "48 images of `photos`" in body
    assert "sce, 1 epoch with batches of 16 images" in body
    measured = json.loads((run / "evaluation" / "evaluation.json").read_text())["protocols"]["knn"]["results"]
    for entry in measured:
        for metric, value in entry["metrics"].items():
            assert f"| knn | photos → photos | {entry['setting']} | {metric} | {value:.2f} |" in body
    assert "glocal evaluate RUN --train photos --test photos --protocol knn" in body
    assert str(run.parent) not in card + (done.path / "recipe.yaml").read_text()
    recipe = yaml.safe_load((done.path / "recipe.yaml").read_text())
    assert recipe["data"]["source"] == "photos"
    assert (done.path / "recipe.yaml").read_text().strip() in card


def test_the_lines_of_a_card_run(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(run, "hub-folder", tmp_path / "net")
    card = (tmp_path / "net" / "README.md").read_text()
    monkeypatch.chdir(tmp_path)
    picture = Image.open(next((run.parent / "photos").rglob("*.png")))
    names = {"image": picture}
    exec(card.split("```python\n")[1].split("```")[0], names)
    backbone = load_backbone(run)
    with torch.no_grad():
        assert torch.equal(names["features"], backbone(names["transform"](picture)[None]))


def test_the_commands_of_a_card_are_those_of_the_evaluation(run: Path) -> None:
    [found] = json.loads((run / "evaluation" / "evaluation.json").read_text())["protocols"].values()
    words = shlex.split(evaluate_command(found))
    assert words[:3] == ["glocal", "evaluate", "RUN"]
    sets = parse_overrides([words[place + 1] for place, word in enumerate(words) if word == "--set"])
    assert sets["knn.temperature"] == 0.2
    assert list(sets["knn.k"]) == [3]
    assert all(found["settings"][path.removeprefix("knn.")] == value for path, value in sets.items())


def test_numbers_of_other_weights_are_left_out(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = export(f"untrained:{run}", "hub-folder", tmp_path / "net", evaluation=run / "evaluation")
    assert "is of other weights" in " ".join(capsys.readouterr().err.split())
    assert "Nothing was measured of these weights yet" in (done.path / "README.md").read_text()


def test_images_of_a_run_are_found_by_their_names_or_done_without(run: Path, tmp_path: Path) -> None:
    backbone, origin = load_backbone(run), origin_of(run)
    [source] = own_images(origin, backbone, 3)
    assert list(source.keys) == sorted(source.keys)[:3]
    assert source[0].image.shape == (3, 36, 40)
    assert origin.images == 48
    assert own_images(Origin(), backbone, 3) == []
    (run.parent / "photos").rename(run.parent / "away")
    try:
        assert own_images(origin, backbone, 3) == []
        assert export(run, "safetensors", tmp_path / "w.safetensors").checks[0].images == 6
    finally:
        (run.parent / "away").rename(run.parent / "photos")


def test_a_checkpoint_is_exported_with_its_run(run: Path, tmp_path: Path) -> None:
    [file] = (run / "checkpoints").glob("*.pt")
    origin = origin_of(file)
    assert origin.run == run
    assert origin.recipe is not None
    assert "photos" in shown_recipe(origin.recipe)
    done = export(file, "timm", tmp_path / "t")
    network = timm.create_model(f"local-dir:{done.path}", pretrained=True).eval()
    images = torch.rand(2, 3, 32, 32)
    backbone = load_backbone(run)
    with torch.no_grad():
        assert torch.equal(network(backbone.prepare(images)), backbone.features(images))


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a method in somebody's own file on two folders, which was measured on both; the file fails by now."""
    root = tmp_path_factory.mktemp("private")
    for number in range(32):
        place = root / ("one", "two")[number % 2] / f"class{number % 4}"
        place.mkdir(parents=True, exist_ok=True)
        colour = tuple(torch.randint(0, 256, (3,), generator=torch.Generator().manual_seed(number)).tolist())
        Image.new("RGB", (40, 36), colour).save(place / f"{number}.png")
    (root / "own.py").write_text(OWN)
    sources = [str(root / "one"), str(root / "two")]
    overrides = {**SMALL, "method.name": f"{root / 'own.py'}:Own"}
    with pytest.MonkeyPatch().context() as patched:
        patched.setattr("glocal.training.run.draw_views", lambda *_, **__: None)
        patched.setattr("glocal.training.run.draw_loss", lambda *_, **__: None)
        pretrain(sources, root / "run", overrides=overrides, progress=False)
    evaluate(
        str(root / "run"), train=sources, test=sources, protocols="knn", k=[3],
        out=root / "run" / "evaluation", cache=False, progress=False, workers=0,
    )  # fmt: skip
    (root / "own.py").write_text("raise SystemError('it was executed')")
    return root / "run"


def test_a_run_of_an_own_method_is_exported_without_its_file_and_its_places(joined: Path, tmp_path: Path) -> None:
    done = export(joined, "hub-folder", tmp_path / "net")
    card, recipe = ((done.path / name).read_text() for name in ("README.md", "recipe.yaml"))
    assert str(joined.parent) not in card + recipe
    assert "own.py:Own" in yaml.safe_load(card.split("---\n")[1])["tags"]
    assert "pretrained by own.py:Own" in card
    assert "32 images of `one`, `two`" in card
    assert "glocal pretrain --recipe recipe.yaml --data one --data two --out RUN" in card
    assert "glocal evaluate RUN --train one --train two --test one --test two --protocol knn" in card
    assert "| knn | one + two → one + two |" in card
    assert yaml.safe_load(recipe)["method"]["name"] == "own.py:Own"
    assert yaml.safe_load(recipe)["data"]["source"] == ["one", "two"]


def test_images_of_several_sources_are_found(joined: Path, tmp_path: Path) -> None:
    backbone, origin = load_backbone(joined), origin_of(joined)
    found = own_images(origin, backbone, 3)
    for source, name in zip(found, ("one", "two"), strict=True):
        files = sorted((joined.parent / name).rglob("*.png"))
        assert [joined.parent / name / key for key in source.keys] == files[:3]
    assert export(joined, "safetensors", tmp_path / "w.safetensors").checks[0].images == 6 + 2 * 4


def test_the_method_in_a_method_is_shown_without_its_place() -> None:
    method = {"name": "logo", "base": {"name": "/home/anna/own.py:Own"}}
    shown = shown_recipe(written_recipe({"method": method, "data": {"test": "/home/anna/a + /home/anna/b"}}))
    assert "anna" not in shown
    assert yaml.safe_load(shown)["method"]["base"]["name"] == "own.py:Own"


def test_push_goes_with_a_hub_folder_only(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["glocal", "export", str(run), "--to", "onnx", "--out", str(tmp_path / "m.onnx"), "--push", "anna/net"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "--push uploads a folder with a model card" in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []
