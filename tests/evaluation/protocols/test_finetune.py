"""Fine-tuning with few labels: the images that are drawn, the training against a plain loop, lists, end to end."""

import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy, interpolate

from glocal.data.lanes.order import BatchOrder
from glocal.data.lanes.resident import ResidentLane
from glocal.data.sources.base import MemorySource, Source, Subset
from glocal.data.sources.opening import open_source
from glocal.errors import GlocalError
from glocal.evaluation import RawPixels, evaluate
from glocal.evaluation.probes.finetuning import Classifier, TuningSettings, draw_balanced, fine_tune, measure_accuracy
from glocal.evaluation.protocols.finetune import read_list
from glocal.models.backbone import Backbone
from glocal.settings import IMAGENET_MEAN, IMAGENET_STD
from glocal.views.plan import View, ViewPlan

COLOURS = ["red", "green", "blue"]


class TinyNetwork(nn.Module):
    """One convolution, normalised, and its mean over the image."""

    num_features = 6

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 6, 3, stride=2)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(self.convolution(images)).relu().mean(dim=(2, 3))


def tiny() -> Backbone:
    torch.manual_seed(0)
    return Backbone(TinyNetwork(), size=16, label="tiny").eval()


def colours(count: int, classes: list[str] = COLOURS) -> MemorySource:
    """Noise with a stronger channel; the class is the channel's name."""
    labels = torch.arange(count) % len(classes)
    images = torch.randint(0, 90, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))
    channels = torch.tensor([COLOURS.index(name) for name in classes])[labels]
    images[torch.arange(count), channels] += 120
    return MemorySource("colours", images, labels, classes)


def test_the_split_is_balanced_and_every_class_is_in_it() -> None:
    labels = torch.tensor([0] * 500 + [1] * 300 + [2] * 190 + [3] * 10)
    for fraction, expected in ((0.001, [1] * 4), (0.01, [2, 2, 3, 3]), (0.1, [10, 30, 30, 30]), (1.0, None)):
        rows = draw_balanced(labels, fraction, seed=0)
        counts = torch.bincount(labels[rows], minlength=4).tolist()
        assert sorted(counts) == (sorted(expected) if expected else [10, 190, 300, 500])
        assert len(rows.unique()) == len(rows)
    assert torch.equal(draw_balanced(labels, 0.1, seed=3), draw_balanced(labels, 0.1, seed=3))
    assert not torch.equal(draw_balanced(labels, 0.1, seed=3), draw_balanced(labels, 0.1, seed=4))


@pytest.mark.parametrize("channels_last", [True, False])
def test_training_equals_a_plain_loop(channels_last: bool) -> None:
    source, rows, backbone = colours(30), torch.tensor([0, 3, 4, 7, 8, 11, 12, 13, 20, 23, 29]), tiny()
    settings = TuningSettings(
        epochs=5,
        batch_size=4,
        decay_epochs=2,
        backbone_lr=0.05,
        head_lr=0.4,
        weight_decay=0.01,
        channels_last=channels_last,
    )
    found = fine_tune(backbone, source, rows, 3, settings=settings, seed=7)

    network, head = tiny().train(), nn.Linear(6, 3)
    begin = fine_tune(backbone, source, rows, 3, settings=TuningSettings(epochs=1, backbone_lr=0, head_lr=0), seed=7)
    head.load_state_dict(begin.head.state_dict())
    assert float(head.weight.detach().std()) == pytest.approx(0.01, rel=0.5)
    order = BatchOrder(len(rows), 4, 7)
    plan = ViewPlan([View(size=16, scale=(0.08, 1.0))])
    part = Subset(source, rows)
    lane = ResidentLane(part.images(), plan, order, torch.device("cpu"), IMAGENET_MEAN, IMAGENET_STD)
    speed = {parameter: torch.zeros_like(parameter) for parameter in (*network.parameters(), *head.parameters())}
    for epoch in range(5):
        lowered = (1, 1, 0.1, 0.1, 0.01)[epoch]
        for views in lane.batches(2 * epoch, 2 * epoch + 2):
            loss = cross_entropy(head(network(views.images[0])), part.labels[views.index])
            gradients = torch.autograd.grad(loss, list(speed))
            with torch.no_grad():
                for (parameter, velocity), gradient in zip(speed.items(), gradients, strict=True):
                    velocity.mul_(0.9).add_(gradient + 0.01 * parameter)
                    rate = 0.4 if any(parameter is mine for mine in head.parameters()) else 0.05
                    parameter.sub_(rate * lowered * velocity)
    expected = network.network.state_dict()
    for name, value in found.backbone.network.state_dict().items():
        assert torch.allclose(value, expected[name], atol=1e-5), name
    assert torch.allclose(found.head.weight, head.weight, atol=1e-5)


def test_the_backbone_that_is_given_stays_as_it_is() -> None:
    backbone = tiny()
    before = backbone.fingerprint()
    backbone.requires_grad_(False)
    found = fine_tune(backbone, colours(12), torch.arange(12), 3, settings=TuningSettings(epochs=2), seed=0)
    assert backbone.fingerprint() == before
    assert not backbone.training
    assert found.backbone.fingerprint() != before
    assert all(parameter.requires_grad for parameter in found.backbone.parameters())


def test_a_network_may_give_more_features_than_it_says() -> None:
    backbone = tiny()
    backbone.dim = 4  # as timm's MobileNetV3, whose `num_features` is the width before its last convolution
    found = fine_tune(backbone, colours(12), torch.arange(12), 3, settings=TuningSettings(epochs=1), seed=0)
    assert found.head.in_features == 6


def test_accuracy_equals_a_plain_loop_and_goes_by_the_names_of_classes() -> None:
    train, test = colours(30), colours(40, ["blue", "red"])
    settings = TuningSettings(epochs=3)
    model = fine_tune(tiny(), train, torch.arange(30), 3, settings=settings, seed=0)
    found = measure_accuracy(model, test, torch.tensor([2, 0]), settings=settings)
    right = 0
    for sample in (test[row] for row in range(40)):
        with torch.no_grad():
            scores = model.head(model.backbone.features(sample.image[None]))[0]
        right += COLOURS[int(scores.argmax())] == ["blue", "red"][sample.label or 0]
    assert found.top1 == pytest.approx(100 * right / 40)
    assert found.top5 is None  # three classes


def test_top5_counts_the_five_highest_scores() -> None:
    source = open_source("shapes:train:40")
    settings = TuningSettings(epochs=1)
    model = fine_tune(tiny(), source, torch.arange(40), 8, settings=settings, seed=0)
    found = measure_accuracy(model, source, torch.arange(8), settings=settings)
    right = {1: 0, 5: 0}
    for image, label, _ in (source[row] for row in range(40)):
        image = torch.nn.functional.interpolate(image[None].float(), size=16, mode="bilinear", antialias=True)
        with torch.no_grad():
            scores = model.head(model.backbone.features(image.round().byte()))[0]
        for k in right:
            right[k] += label in scores.argsort(descending=True)[:k].tolist()
    assert found.top1 == pytest.approx(100 * right[1] / 40)
    assert found.top5 == pytest.approx(100 * right[5] / 40)


def test_finetune_end_to_end_reports_the_mean_of_its_seeds() -> None:
    settings = {"finetune.fractions": [0.05, 0.5], "finetune.epochs": 6, "finetune.backbone_lr": 0.01}
    given = {"train": colours(60), "test": colours(30), "protocols": "finetune", "device": "cpu", "progress": False}

    def run(**more: object) -> dict[str, dict[str, float]]:
        chosen = {**settings, **{f"finetune.{name}": value for name, value in more.items()}}
        found = evaluate(tiny(), settings=chosen, **given)["protocols"]["finetune"]  # type: ignore[arg-type]
        return {entry["setting"]: entry["metrics"] for entry in found["results"]}

    three = run(seeds=3)
    assert list(three) == ["5 % of labels (3 images), 3 seeds", "50 % of labels (30 images), 3 seeds"]
    alone = [run(seeds=1, seed=seed)["5 % of labels (3 images), 1 seed"] for seed in range(3)]
    assert all(list(metrics) == ["top1"] for metrics in alone)
    values = [metrics["top1"] for metrics in alone]
    assert three["5 % of labels (3 images), 3 seeds"]["top1"] == pytest.approx(statistics.mean(values))
    assert three["5 % of labels (3 images), 3 seeds"]["top1_std"] == pytest.approx(statistics.stdev(values))
    assert three["50 % of labels (30 images), 3 seeds"]["top1"] > 90
    assert run(seeds=1, precision="bf16")["50 % of labels (30 images), 1 seed"]["top1"] > 80


def test_lists_are_found_by_the_names_of_files(image_folder: Callable[..., Path], tmp_path: Path) -> None:
    source = open_source(image_folder(16))
    path = tmp_path / "list.txt"
    path.write_text("0009.png\n0001.png\nclass3/0003.png\n\n0001.png\n")
    assert [source.keys[row] for row in read_list(path, source).tolist()] == [
        "class1/0001.png",
        "class1/0009.png",
        "class3/0003.png",
    ]
    path.write_text("0009.png\n0016.png\n")
    with pytest.raises(GlocalError, match=r"list\.txt, line 2: .* has no image 0016\.png"):
        read_list(path, source)
    path.write_text("\n")
    with pytest.raises(GlocalError, match=r"list\.txt names no image"):
        read_list(path, source)
    (tmp_path / "images" / "class2" / "0009.png").write_bytes(b"")
    path.write_text("0009.png\n")
    with pytest.raises(GlocalError, match=r"line 1: several images of .* are named 0009\.png"):
        read_list(path, open_source(tmp_path / "images"))


@pytest.mark.parametrize("beside", [True, False])
def test_simclrs_lists_are_taken_where_they_are(
    image_folder: Callable[..., Path], tmp_path: Path, beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = image_folder(32)
    lists = tmp_path if beside else tmp_path / "lists"
    lists.mkdir(exist_ok=True)
    names = [f"{number:04d}.png" for number in (0, 8, 1, 9, 2, 10)]
    (lists / "1percent.txt").write_text("\n".join(names) + "\n")
    seen: list[list[str]] = []

    models: list[Classifier] = []

    def remember(backbone: Backbone, source: Source, rows: torch.Tensor, *more: object, **others: object) -> Classifier:
        seen.append(sorted(source.keys[row].rpartition("/")[2] for row in rows.tolist()))
        models.append(fine_tune(backbone, source, rows, *more, **others))  # type: ignore[arg-type]
        return models[-1]

    monkeypatch.setattr("glocal.evaluation.protocols.finetune.fine_tune", remember)
    settings = {"finetune.fractions": [0.01], "finetune.epochs": 1, "finetune.seeds": 2}
    if not beside:
        settings["finetune.lists"] = str(lists)
    given = {"train": folder, "test": folder, "protocols": "finetune", "workers": 0, "progress": False}
    evaluate(tiny(), settings=settings, **given)  # type: ignore[arg-type]
    assert seen == [sorted(names)] * 2
    (folder / "class1" / "0009.png").write_bytes(b"")  # its label is not given to the image that would stand in
    seen.clear()
    models.clear()
    found = evaluate(tiny(), settings=settings, **given)  # type: ignore[arg-type]
    assert seen == [sorted(set(names) - {"0009.png"})] * 2
    right = []
    for path in sorted(folder.glob("*/*.png")):
        if path.name == "0009.png":
            continue
        image = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None].float()
        small = interpolate(image, size=16, mode="bilinear", antialias=True).round().byte()
        with torch.no_grad():
            scores = [model.head(model.backbone.features(small))[0] for model in models]
        right += [path.parent.name == f"class{int(each.argmax())}" for each in scores]
    assert found["protocols"]["finetune"]["results"][0]["metrics"]["top1"] == pytest.approx(100 * sum(right) / 62)
    with pytest.raises(GlocalError, match=r"there is no .*10percent\.txt; SimCLR's lists for ImageNet are at https"):
        evaluate(tiny(), settings={"finetune.lists": str(lists)}, **given)  # type: ignore[arg-type]


def test_images_of_several_sizes_are_decoded_as_they_are_needed(image_folder: Callable[..., Path]) -> None:
    folder = image_folder(32, ((32, 32), (40, 50)))
    settings = {"finetune.fractions": [0.5], "finetune.epochs": 2, "finetune.seeds": 1}
    given = {"train": folder, "test": folder, "protocols": "finetune", "workers": 0, "progress": False}
    found = evaluate(tiny(), settings=settings, **given)  # type: ignore[arg-type]
    assert set(found["protocols"]["finetune"]["results"][0]["metrics"]) == {"top1", "top5"}


def test_what_cannot_be_trained_is_refused(image_folder: Callable[..., Path]) -> None:
    source = colours(12)

    def run(backbone: object, train: object = source, **settings: object) -> None:
        chosen = {f"finetune.{name}": value for name, value in {"epochs": 2, "seeds": 1, **settings}.items()}
        evaluate(
            backbone,  # type: ignore[arg-type]
            train=train,  # type: ignore[arg-type]
            test=source,
            protocols="finetune",
            settings=chosen,
            progress=False,
        )

    with pytest.raises(GlocalError, match="raw pixels has nothing to train; give a run, a checkpoint, timm:NAME"):
        run(RawPixels())
    with pytest.raises(GlocalError, match=r"the loss is (nan|inf) in epoch \d; try a smaller finetune\.head_lr or"):
        run(tiny(), backbone_lr=1e38, epochs=6)
    one = MemorySource("one", source.images()[:1], torch.zeros(1, dtype=torch.int64), COLOURS)
    with pytest.raises(GlocalError, match="1 labelled image of .* is too few; take a larger fraction"):
        run(tiny(), train=one)
    with pytest.raises(GlocalError, match=r"finetune: fractions\.0 must be less than or equal to 1, not 10"):
        run(tiny(), fractions=[10])
    with pytest.raises(GlocalError, match="has no labels; in a folder"):
        run(tiny(), train=image_folder(8) / "class0")
