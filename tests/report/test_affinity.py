"""LoGo's Figure 2 of a run: the numbers are its regressor's, and what cannot be drawn is named."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn.functional import cosine_similarity

from glocal.checkpoints import newest_checkpoint
from glocal.config import AnyRecipe, build_recipe, load_mapping
from glocal.data.sources.base import MemorySource
from glocal.data.sources.opening import open_source
from glocal.errors import GlocalError
from glocal.methods.building import build_method
from glocal.methods.logo import LoGo
from glocal.report import affinity as drawing
from glocal.report.affinity import compare_crops, draw_affinity
from glocal.training.run import pretrain

SMALL = {
    "model.name": "resnet18",
    "model.options": {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]},
    "model.stem": "standard",
    "train.batch_size": 16,
    "train.epochs": 1,
    "data.source": "shapes",
}
LOGO = {**SMALL, "method.name": "logo", "method.base": {"name": "moco", "queue_size": 32}}


def images(count: int) -> MemorySource:
    source = open_source("shapes")
    assert source.labels is not None
    return MemorySource("few", torch.stack([source[i].image for i in range(count)]), source.labels[:count], None)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("affinity") / "a"
    pretrain(images(32), folder, overrides={**LOGO}, progress=False)
    return folder


def trained(folder: Path) -> tuple[LoGo, AnyRecipe]:
    recipe = build_recipe(load_mapping(folder / "recipe.yaml"))
    method = build_method(recipe)
    state = newest_checkpoint(folder / "checkpoints")
    assert state is not None
    method.load_state_dict(state["method"])
    assert isinstance(method, LoGo)
    return method.eval(), recipe


def test_the_picture_s_numbers_are_those_of_the_run_s_regressor(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    real = compare_crops

    def watched(method: LoGo, reference: torch.Tensor, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.extend([reference, crops])
        return real(method, reference, crops)

    monkeypatch.setattr(drawing, "compare_crops", watched)
    found = draw_affinity(run, tmp_path / "a.png", data="shapes", index=3)
    assert Image.open(tmp_path / "a.png").width > 1000
    method, _ = trained(run)
    reference, crops = seen
    assert crops.shape == (4, 10, 3, 32, 32)
    with torch.no_grad():
        one = method.base.represent(reference[None])
        for image in range(4):
            for crop in range(10):
                other = method.base.represent(crops[image, crop][None])
                unit = one / one.norm(), other / other.norm()
                assert torch.allclose(found.learned[image, crop], method.regressor(*unit)[0], atol=1e-5)
                assert torch.allclose(found.cosine[image, crop], cosine_similarity(one, other)[0], atol=1e-5)


@pytest.mark.slow
def test_the_images_are_of_different_classes_and_the_seed_draws_others(run: Path, tmp_path: Path) -> None:
    first = draw_affinity(run, tmp_path / "a.png", data="shapes", index=3)
    again = draw_affinity(run, tmp_path / "a.png", data="shapes", index=3)
    other = draw_affinity(run, tmp_path / "a.png", data="shapes", index=3, overrides={"seed": 5})
    source = open_source("shapes")
    assert source.classes is not None
    assert source.labels is not None
    assert first.images[0] == source.classes[int(source.labels[3])] == other.images[0]
    assert len(set(first.images)) == 4
    assert torch.equal(first.learned, again.learned)
    assert not torch.equal(first.learned, other.learned)


def test_images_without_labels_are_named_by_their_files(run: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(4):
        Image.new("RGB", (40, 40), (60 * number, 10, 10)).save(tmp_path / "photos" / f"{number}.png")
    found = draw_affinity(run, tmp_path / "a.png", data=tmp_path / "photos")
    assert sorted(found.images) == ["0.png", "1.png", "2.png", "3.png"]


def test_what_cannot_be_drawn_is_named(run: Path, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    with pytest.raises(GlocalError, match="there is no such folder"):
        draw_affinity(tmp_path / "absent", picture)
    with pytest.raises(GlocalError, match="there is no checkpoint"):
        draw_affinity(tmp_path, picture)
    with pytest.raises(GlocalError, match="the picture is a .png file"):
        draw_affinity(run, tmp_path / "a.jpg")
    with pytest.raises(GlocalError, match="4 images are compared, but there are 3"):
        draw_affinity(run, picture, data=images(3))
    with pytest.raises(GlocalError, match="--index 4: few has the images 0 to 3"):
        draw_affinity(run, picture, data=images(4), index=4)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"method.name": "moco", "method.queue_size": 32},
            "a run of moco; only LoGo's learn an affinity",
        ),
        ({**LOGO, "method.variant": "no_dissimilarity"}, "method.variant=no_dissimilarity learns no affinity"),
    ],
)
def test_a_run_without_a_regressor_is_refused(overrides: dict[str, object], message: str, tmp_path: Path) -> None:
    pretrain(images(32), tmp_path / "run", overrides={**SMALL, **overrides}, progress=False)
    with pytest.raises(GlocalError, match=message):
        draw_affinity(tmp_path / "run", tmp_path / "a.png")
