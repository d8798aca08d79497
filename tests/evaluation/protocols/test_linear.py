"""The linear probe: against torch's SGD, its augmentations against plain loops, and end to end."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import cross_entropy, interpolate, pad

from glocal.data.annotated.held_out import hold_out
from glocal.data.lanes.order import BatchOrder
from glocal.data.sources.base import MemorySource, Subset
from glocal.errors import GlocalError
from glocal.evaluation import evaluate
from glocal.evaluation.features.bench import Bench
from glocal.evaluation.features.extraction import POOLED, RawPixels
from glocal.evaluation.metrics.accuracy import accuracies, moments
from glocal.evaluation.probes.augmented import crop_padded, draw_padded, padded_crops, resized_crops
from glocal.evaluation.probes.linear import LinearSettings, Probe
from glocal.evaluation.probes.sgd import Classifiers
from glocal.evaluation.protocols.linear import readout_of
from glocal.models.architecture import ModelSettings
from glocal.models.backbone import Backbone
from glocal.models.building import build_backbone
from glocal.settings import validated


def blobs(rows: int, seed: int, classes: int = 7, spread: float = 1.6) -> tuple[torch.Tensor, torch.Tensor]:
    centres = 2 * torch.randn(classes, 5, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (rows,), generator=generator)
    return centres[labels] + spread * torch.randn(rows, 5, generator=generator) + 3, labels


def tiny_vit(width: int = 32) -> Backbone:
    torch.manual_seed(0)
    options = {"patch_size": 8, "embed_dim": width, "depth": 5, "num_heads": 2}
    return build_backbone(ModelSettings(name="vit_tiny", options=options), size=32)


Labelled = tuple[torch.Tensor, torch.Tensor]


def probed(train: Labelled, test: Labelled, settings: LinearSettings) -> dict[str, float]:
    """Accuracies of the probe on features, and its learning rate."""
    probe = Probe(settings, *train, int(train[1].max()) + 1, progress=False)
    trained = probe.on_features()
    return {**accuracies(probe.test(trained, test[0]), test[1]), "rate": trained.rate}


class Colour:
    """A backbone of the mean colour; counts the images that it saw."""

    size, dim, label, seen = 32, 3, "mean colour", 0

    def features(self, images: torch.Tensor) -> torch.Tensor:
        assert images.dtype == torch.uint8
        self.seen += len(images)
        return images.float().mean(dim=(2, 3)) / 50


def colours(count: int, size: int = 32) -> MemorySource:
    """Images of three classes: noise with a stronger channel."""
    generator = torch.Generator().manual_seed(count)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 160, (count, 3, size, size), generator=generator)
    images[torch.arange(count), labels] += 40
    return MemorySource("colours", images.byte(), labels, ["red", "green", "blue"])


# ---------------------------------------------------------------- training


def test_classifiers_take_the_steps_of_torchs_sgd() -> None:
    features, labels = blobs(64, 0)
    together = Classifiers(5, 7, (0.05, 0.5), momentum=0.9, weight_decay=0.01)
    layers, optimizers = [], []
    for number, rate in enumerate((0.05, 0.5)):
        layer = torch.nn.Linear(5, 7)
        layer.weight.data, layer.bias.data = together.weight[:, number].mT.clone(), together.bias[number].clone()
        decays = [{"params": [layer.weight], "weight_decay": 0.01}, {"params": [layer.bias]}]
        layers.append(layer)
        optimizers.append(torch.optim.SGD(decays, lr=rate, momentum=0.9))
    for step in range(12):
        rows = slice(16 * (step % 4), 16 * (step % 4) + 16)
        share = 1.0 if step < 6 else 0.1
        together.step(features[rows], labels[rows], share=share)
        for layer, optimizer, rate in zip(layers, optimizers, (0.05, 0.5), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * share
            optimizer.zero_grad()
            cross_entropy(layer(features[rows]), labels[rows]).backward()
            optimizer.step()
    for number, layer in enumerate(layers):
        torch.testing.assert_close(together.weight[:, number].mT, layer.weight, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together.scores_of(number, features), layer(features), atol=1e-4, rtol=1e-4)


def test_learning_rates_trained_together_do_not_disturb_one_another() -> None:
    features, labels = blobs(200, 0)
    settings = {"epochs": 3, "batch_size": 32}
    val = blobs(50, 1)
    together = Probe(LinearSettings(learning_rates=(0.01, 0.3), **settings), features, labels, 7, val=val)
    found = together.on_features().classifiers
    for number, rate in enumerate((0.01, 0.3)):
        alone = Probe(LinearSettings(learning_rates=(rate,), **settings), features, labels, 7, val=val)
        expected = alone.on_features().classifiers
        torch.testing.assert_close(found.weight[:, number], expected.weight[:, 0], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found.weight[:, 0], found.weight[:, 1])


def test_images_that_are_not_for_a_classifier_do_not_change_it() -> None:
    features, labels = blobs(40, 0)
    learn = torch.rand(40, 2, generator=torch.Generator().manual_seed(0)) < 0.6
    masked = Classifiers(5, 7, (0.1, 0.1))
    masked.step(features, labels, learn=learn)
    for number in range(2):
        rows = learn[:, number]
        alone = Classifiers(5, 7, (0.1,))
        alone.step(features[rows], labels[rows])
        torch.testing.assert_close(masked.weight[:, number], alone.weight[:, 0])


def test_sgd_probe_comes_near_the_exact_solution() -> None:
    train, test = blobs(600, 0), blobs(400, 1)
    exact = LogisticRegression(C=1e3, max_iter=1000).fit(train[0].numpy(), train[1].numpy())
    found = probed(train, test, LinearSettings(epochs=30))
    assert found["top1"] == pytest.approx(100 * exact.score(test[0].numpy(), test[1].numpy()), abs=2.0)
    assert found["top5"] > found["top1"]


def test_the_rate_is_chosen_without_the_test_set_and_on_val_where_it_is_given() -> None:
    train, test = blobs(300, 0), blobs(100, 1)
    settings = LinearSettings(epochs=3)
    wrong = (test[0], (test[1] + 1) % 7)
    chosen = [probed(train, each, settings)["rate"] for each in (test, wrong)]
    assert chosen[0] == chosen[1]
    # A rate of 1e-9 leaves the initial weights, whose guesses are the labels of this val.
    settings = LinearSettings(learning_rates=(0.1, 1e-9), epochs=3, standardise=False)
    guesses = Classifiers(5, 7, (1.0,)).scores_of(0, test[0]).argmax(dim=1)
    for labels, best in ((test[1], 0.1), (guesses, 1e-9)):
        probe = Probe(settings, *train, 7, val=(test[0], labels), progress=False)
        assert probe.on_features().rate == best


def test_a_classifier_that_diverged_is_never_chosen_and_named_when_it_is_all_there_is() -> None:
    train, test = blobs(300, 0), blobs(100, 1)
    both = LinearSettings(learning_rates=(1e38, 0.1), epochs=3, batch_size=16)
    assert probed(train, test, both)["rate"] == 0.1
    with pytest.raises(GlocalError, match=r"diverged at the learning rate 1e\+38; set smaller linear.learning_rates"):
        probed(train, test, LinearSettings(learning_rates=(1e38,), epochs=3, batch_size=16))


# ---------------------------------------------------------------- settings


def test_styles_are_sets_of_values_that_single_settings_override() -> None:
    moco = LinearSettings(style="moco")
    assert (moco.learning_rates, moco.batch_size, moco.augmentation, moco.standardise) == ((30.0,), 256, "crop", False)
    assert [moco.share(epoch) for epoch in (0, 59, 60, 79, 80, 99)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    short = LinearSettings(style="moco", epochs=10, learning_rates=(1.0, 30.0))
    assert [short.share(epoch) for epoch in (5, 6, 8)] == pytest.approx([1, 0.1, 0.01])
    dino = LinearSettings(style="dino")
    assert dino.batch_size == 1024
    assert dino.share(0) == 1
    assert dino.share(50) == pytest.approx(0.5)
    assert LinearSettings(style="sce").augmentation == "auto"
    assert LinearSettings.model_validate(dino.model_dump()) == dino  # results hold every value
    with pytest.raises(GlocalError, match="style must be 'features', 'moco', 'dino' or 'sce'"):
        validated(LinearSettings, {"style": "mocco"}, "protocol linear")
    with pytest.raises(GlocalError, match="learning_rates"):
        validated(LinearSettings, {"learning_rates": []}, "protocol linear")


# ---------------------------------------------------------------- held-out images and accuracies


def test_held_out_images_are_balanced_and_add_up() -> None:
    labels = torch.cat([torch.full((count,), number) for number, count in enumerate((50, 30, 21, 1))])
    labels = labels[torch.randperm(102, generator=torch.Generator().manual_seed(1))]
    held = hold_out(labels, 20, seed=3)
    assert held.sum() == 20
    # Shares 9.8, 5.9, 4.1, 0.2: rounded down to 9, 5, 4, 0; the two largest fractions get one more.
    assert torch.bincount(labels[held], minlength=4).tolist() == [10, 6, 4, 0]
    assert torch.equal(held, hold_out(labels, 20, seed=3))
    assert not torch.equal(held, hold_out(labels, 20, seed=4))
    with pytest.raises(GlocalError, match="3 images of 3 classes are too few to hold some out"):
        hold_out(torch.tensor([0, 1, 2]), 1, seed=0)


def test_accuracies_equal_plain_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(90, 8, generator=generator), torch.randint(0, 5, (90,), generator=generator)
    labels[labels == 2] = 7  # class 2 has no image, class 7 has
    scores[torch.arange(90), labels] += 1
    right = [int(row.argmax()) == int(label) for row, label in zip(scores, labels, strict=True)]
    five = [int(label) in row.topk(5).indices.tolist() for row, label in zip(scores, labels, strict=True)]
    by_class: dict[int, list[bool]] = {}
    for hit, label in zip(right, labels.tolist(), strict=True):
        by_class.setdefault(label, []).append(hit)
    means = [sum(hits) / len(hits) for hits in by_class.values()]
    found = accuracies(scores, labels)
    assert found["top1"] == pytest.approx(100 * sum(right) / 90)
    assert found["top5"] == pytest.approx(100 * sum(five) / 90)
    assert found["mean_per_class"] == pytest.approx(100 * sum(means) / len(means))
    assert "top5" not in accuracies(scores[:, :5], labels.clamp(max=4))


def test_constant_features_do_not_blow_up() -> None:
    features = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    mean, deviation = moments(features)
    assert ((features - mean) / deviation).tolist() == [[-1, 0], [1, 0]]


# ---------------------------------------------------------------- augmentation


def test_padded_crops_equal_a_plain_loop_and_use_every_place() -> None:
    index = torch.arange(600)
    top, left, flipped = draw_padded(index, 2, 7, 4)
    assert set(top.tolist()) == set(left.tolist()) == set(range(9))
    assert 240 < int(flipped.sum()) < 360
    subset = draw_padded(index[[5, 17]], 2, 7, 4)  # a draw depends on the image alone, not on its batch
    assert torch.equal(subset[0], top[[5, 17]])
    assert not torch.equal(draw_padded(index, 3, 7, 4)[0], top)
    images = colours(20).images()
    found = crop_padded(images, top[:20], left[:20], flipped[:20], 4)
    for number, image in enumerate(images):
        y, x = int(top[number]), int(left[number])
        expected = pad(image, (4, 4, 4, 4))[:, y : y + 32, x : x + 32]
        assert torch.equal(found[number], expected.flip(-1) if flipped[number] else expected)


@pytest.mark.parametrize("kind", [padded_crops, resized_crops])
def test_batches_cover_the_epochs_and_name_their_images(kind: Callable[..., object]) -> None:
    source = colours(50)
    order = BatchOrder(50, 16, seed=1)
    batches = list(kind(source, 32, order, 2))  # type: ignore[call-overload]
    assert [batch.epoch for batch in batches] == [0, 0, 0, 1, 1, 1]
    for batch in batches:
        assert batch.images.shape == (16, 3, 32, 32)
        assert batch.images.dtype == torch.uint8
        strongest = batch.images.float().mean(dim=(2, 3)).argmax(dim=1)
        assert torch.equal(strongest, source.labels[batch.places])  # type: ignore[index]
    assert len(set(torch.cat([batch.places for batch in batches[:3]]).tolist())) == 48


# ---------------------------------------------------------------- end to end


@pytest.mark.parametrize(("style", "augmentation"), [("moco", "crop"), ("sce", "pad"), ("dino", "crop")])
def test_augmented_styles_learn_in_one_pass_over_the_images(style: str, augmentation: str) -> None:
    backbone, train, test = Colour(), colours(90), colours(60)
    settings = {"linear.style": style, "linear.epochs": 4, "linear.batch_size": 30}
    rates = {"linear.learning_rates": [1e-6, 1.0, 3.0]}
    found = evaluate(
        backbone,
        train=train,
        test=test,
        protocols="linear",
        settings={**settings, **rates},
        cache=False,
        progress=False,
    )
    [entry] = found["protocols"]["linear"]["results"]
    assert entry["metrics"]["top1"] > 90
    assert "(of 3, chosen on 10% of train)" in entry["setting"]
    assert not entry["setting"].startswith(f"{style}, lr=1e-06")
    assert backbone.seen == 90 + 60 + 4 * 90  # the plain features of both, and four epochs, for all rates
    assert found["protocols"]["linear"]["settings"]["augmentation"] in {augmentation, "auto"}


class Keeping(Colour):
    """Colour at some size that keeps what it saw."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.kept: list[torch.Tensor] = []

    def features(self, images: torch.Tensor) -> torch.Tensor:
        self.kept.append(images)
        return super().features(images)


@pytest.mark.parametrize(("size", "borders"), [(32, True), (64, True), (96, False)])
def test_sce_pads_small_images_and_neither_pads_nor_cuts_medium_ones(size: int, borders: bool) -> None:
    """SCE, supplement, section D: padding on small sets only; test images of both are resized, not cut."""
    backbone, train, test = Keeping(size), colours(30, size), colours(12, size)
    settings = {"linear.style": "sce", "linear.epochs": 1, "linear.batch_size": 30}
    evaluate(backbone, train=train, test=test, protocols="linear", settings=settings, cache=False, progress=False)
    plain, measured, learned = backbone.kept
    assert torch.equal(plain, train.images())
    assert torch.equal(measured, test.images())
    whole = [
        any(torch.equal(view, image) or torch.equal(view, image.flip(-1)) for image in train.images())
        for view in learned
    ]
    assert all(whole) is not borders
    if borders:
        black = [int((view.sum(dim=0) == 0).all(dim=1).sum()) for view in learned]  # rows of the border
        assert max(black) == 4
    else:
        assert 5 < sum(any(torch.equal(view, image) for image in train.images()) for view in learned) < 25  # half


def test_sce_and_others_cut_large_test_images() -> None:
    for style, size in (("sce", 112), ("moco", 96)):
        readout = readout_of(Keeping(size), LinearSettings(style=style))  # type: ignore[arg-type]
        assert readout == POOLED  # 7/8 of the side: 224 of 256
    for size in (32, 64):
        assert readout_of(Keeping(size), LinearSettings(style="sce")) == POOLED  # kept features are shared
    assert readout_of(Keeping(96), LinearSettings(style="sce")).share == 1
    assert readout_of(Keeping(64), LinearSettings(whole_to=32)).share == pytest.approx(224 / 256)
    assert readout_of(Keeping(96), LinearSettings(style="sce")).name != POOLED.name


def test_one_learning_rate_is_not_chosen_and_val_is_named(tmp_path: Path) -> None:
    train, test = colours(90), colours(60)
    arguments = {"train": train, "test": test, "protocols": "linear", "cache": False, "progress": False}
    moco = {"linear.style": "moco", "linear.epochs": 2}
    [one] = evaluate(Colour(), **arguments, settings=moco)["protocols"]["linear"]["results"]  # type: ignore[arg-type]
    assert one["setting"] == "moco, lr=30"
    [val] = evaluate(Colour(), **arguments, val=colours(30), settings={"linear.epochs": 3})["protocols"]["linear"][  # type: ignore[arg-type]
        "results"
    ]
    assert val["setting"].endswith("(of 6, chosen on val)")


def test_broken_images_take_their_labels_with_them(tmp_path: Path) -> None:
    for channel, name in enumerate(("blue", "green", "red")):  # in the order of their names
        (tmp_path / name).mkdir()
        for number in range(12):
            pixels = torch.zeros(40, 36, 3, dtype=torch.uint8)
            pixels[..., channel] = 150 + number
            Image.fromarray(pixels.numpy()).save(tmp_path / name / f"{number:02d}.png")
    for number in range(6):
        (tmp_path / "blue" / f"{number:02d}.png").write_bytes(b"")
    settings = {"linear.style": "moco", "linear.learning_rates": [1.0], "linear.epochs": 20, "linear.batch_size": 15}
    found = evaluate(
        Colour(),
        train=tmp_path,
        test=tmp_path,
        protocols="linear",
        settings=settings,
        workers=0,
        cache=False,
        progress=False,
    )["protocols"]["linear"]
    assert found["train"]["images"] == 30
    assert found["results"][0]["metrics"]["top1"] == 100.0


def test_dino_reads_the_cls_tokens_of_the_last_blocks() -> None:
    backbone, images = tiny_vit(), colours(3).images()
    four = readout_of(backbone, LinearSettings(style="dino"))
    found = four.compute(backbone, images)
    assert found.shape == (3, 4 * 32)
    after: list[torch.Tensor] = []
    network = backbone.network
    hooks = [block.register_forward_hook(lambda *found: after.append(found[2])) for block in network.blocks]  # type: ignore[union-attr,operator]
    tokens = backbone.tokens(images)
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        expected = torch.cat([network.norm(tokens)[:, 0] for tokens in after[1:]], dim=1)  # type: ignore[operator]
    torch.testing.assert_close(found, expected)
    patches = readout_of(backbone, LinearSettings(style="dino", blocks=1, patch_mean=True))
    assert patches.name != four.name
    torch.testing.assert_close(
        patches.compute(backbone, images), torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1)
    )


def test_dino_sees_bicubic_central_squares_and_the_others_bilinear_ones() -> None:
    images = torch.randint(0, 256, (2, 3, 60, 60), generator=torch.Generator().manual_seed(0)).byte()
    source = MemorySource("noise", images, torch.arange(2), ["a", "b"])
    for style, mode, other in (("dino", "bicubic", "bilinear"), ("moco", "bilinear", "bicubic")):
        readout = readout_of(RawPixels(32), LinearSettings(style=style))
        found = Bench(RawPixels(32), progress=False).features(source, readout).features.view(2, 3, 32, 32)
        for how, most in ((mode, 0.6), (other, None)):
            expected = interpolate(images.float(), (32, 32), mode=how, antialias=True).clamp(0, 255)
            difference = float((255 * found - expected).abs().max())
            assert difference < most if most else difference > 5
    assert LinearSettings(style="dino", interpolation="bilinear").interpolation == "bilinear"
    vit = tiny_vit()
    assert readout_of(vit, LinearSettings(style="dino")).interpolation == "bicubic"


def test_too_few_images_say_what_can_be_given_instead() -> None:
    source = Subset(colours(3), torch.arange(3))
    with pytest.raises(GlocalError, match=r"give --val, or one rate, --set linear\.learning_rates=\[0\.1\]"):
        evaluate(Colour(), train=source, test=source, protocols="linear", cache=False, progress=False)


def test_dino_takes_pooled_features_where_there_is_no_cls_token() -> None:
    resnet = build_backbone(ModelSettings(name="resnet18", options={"channels": [8, 8, 8, 8]}), size=32)
    assert readout_of(resnet, LinearSettings(style="dino")).name == "pooled, bicubic"
    assert readout_of(resnet, LinearSettings(style="moco")) is POOLED
    with pytest.raises(GlocalError, match="resnet18 has no CLS token; leave linear.blocks"):
        readout_of(resnet, LinearSettings(style="dino", blocks=2))
    with pytest.raises(GlocalError, match="has 5 blocks, not 6"):
        tiny_vit().last_tokens(colours(1).images(), 6)
