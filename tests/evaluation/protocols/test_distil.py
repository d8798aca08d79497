"""Distillation: its loss, what the student sees, and fine-tuning from the middle of a run's projector."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import glocal
from glocal.data.sources.base import MemorySource
from glocal.errors import GlocalError
from glocal.evaluation import evaluate
from glocal.evaluation.probes.distilling import StudentSettings, distil
from glocal.evaluation.probes.finetuning import Classifier, TuningSettings, fine_tune
from glocal.evaluation.protocols.distil import DistilSettings, student_of, temperature_for
from glocal.losses import knowledge_distillation
from glocal.models.architecture import ModelSettings
from glocal.models.backbone import Backbone
from glocal.models.building import build_backbone
from glocal.models.loading import load_backbone, load_projector
from tests.methods.cases import RESNET, RESNET_RUN


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_loop(student: Tensor, teacher: Tensor, temperature: float, labels: list[int], weight: float) -> float:
    """Eq. 3, image by image and class by class."""

    def probabilities(scores: Tensor, softness: float) -> list[float]:
        each = [math.exp(float(score) / softness) for score in scores]
        return [one / sum(each) for one in each]

    total = 0.0
    for ours, theirs, label in zip(student, teacher, labels, strict=True):
        target, found = probabilities(theirs, temperature), probabilities(ours, temperature)
        total -= (1 - weight) * sum(p * math.log(q) for p, q in zip(target, found, strict=True))
        if label >= 0:
            total -= weight * math.log(probabilities(ours, 1.0)[label])
    return total / len(labels)


@pytest.mark.parametrize(("temperature", "weight"), [(1.0, 0.0), (0.5, 0.0), (2.0, 0.3), (1.0, 1.0)])
def test_the_loss_equals_a_plain_loop(temperature: float, weight: float) -> None:
    student, teacher, labels = random(5, 3), random(5, 3, seed=1), [-1, 2, 0, -1, -1]
    found = knowledge_distillation(
        student, teacher, temperature=temperature, labels=torch.tensor(labels), labelled_weight=weight
    )
    assert found.item() == pytest.approx(by_loop(student, teacher, temperature, labels, weight), rel=1e-10)


def tiny(seed: int = 0) -> Backbone:
    torch.manual_seed(seed)
    return build_backbone(RESNET, size=16).eval()


def colours(count: int) -> MemorySource:
    """Noise with a stronger channel, whose number is the class."""
    labels = torch.arange(count) % 3
    images = torch.randint(0, 90, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))
    images[torch.arange(count), labels] += 120
    return MemorySource("colours", images, labels, ["red", "green", "blue"])


def test_labels_that_are_not_known_change_nothing_and_known_ones_do_with_a_weight() -> None:
    source, rows = colours(24), torch.arange(6)
    assert source.labels is not None
    wrong = MemorySource(
        "wrong", source.images(), torch.cat([source.labels[:6], source.labels[6:] * 0]), ["r", "g", "b"]
    )
    others = MemorySource("others", source.images(), (source.labels + 1) % 3, ["r", "g", "b"])
    teacher = fine_tune(tiny(), source, rows, 3, settings=TuningSettings(epochs=1), seed=0)

    def learned(images: MemorySource, weight: float) -> Tensor:
        settings = StudentSettings(epochs=2, batch_size=8, labelled_weight=weight)
        return distil(teacher, tiny(1), images, rows, settings=settings, temperature=1.0, seed=0).head.weight

    assert torch.equal(learned(source, 0.0), learned(others, 0.0))
    assert torch.equal(learned(source, 0.5), learned(wrong, 0.5))
    assert not torch.allclose(learned(source, 0.5), learned(others, 0.5))


def test_a_student_answers_as_its_teacher_does() -> None:
    source = colours(48)
    tuning = TuningSettings(epochs=20, batch_size=16, backbone_lr=0.05, head_lr=0.5)
    teacher = fine_tune(tiny(), source, torch.arange(48), 3, settings=tuning, seed=0)
    settings = StudentSettings(epochs=20, batch_size=16)
    student = distil(teacher, tiny(1), source, torch.arange(0), settings=settings, temperature=0.5, seed=0)
    with torch.no_grad():
        images = teacher.backbone.prepare(source.images())
        theirs, ours = (model(images).argmax(dim=1) for model in (teacher, student))
    assert len(theirs.unique()) == 3
    assert float((theirs == ours).float().mean()) > 0.9


def test_the_temperature_is_the_papers_for_what_the_student_is() -> None:
    backbone, other = tiny(), ModelSettings(name="resnet18", options={"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]})

    def found(**settings: object) -> float:
        chosen = DistilSettings.model_validate(settings)
        return temperature_for(student_of(backbone, chosen), backbone, chosen)

    assert found() == 0.1
    assert found(student=RESNET) == 0.1
    assert found(student=other) == 1.0
    assert found(student=other, temperature=0.3) == 0.3


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_layout_of_the_student_is_that_of_the_setting(channels_last: bool) -> None:
    source, settings = colours(8), StudentSettings(epochs=1, batch_size=8, channels_last=channels_last)
    teacher = Classifier(tiny(), 3, seed=0).eval()
    student = distil(teacher, tiny(1), source, torch.arange(0), settings=settings, temperature=1.0, seed=0)
    [weight, *_] = [one for one in student.parameters() if one.ndim == 4 and min(one.shape[1:]) > 1]
    assert weight.is_contiguous(memory_format=torch.channels_last) == channels_last


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of SimCLR v2 of two steps."""
    folder = tmp_path_factory.mktemp("run")
    overrides = {
        **RESNET_RUN,
        "method.name": "simclr_v2",
        "method.queue_size": 16,
        "train.batch_size": 32,
        "train.epochs": 1,
        "monitor.knn_epochs": 0,
    }
    glocal.pretrain("shapes:train:64", folder, overrides=overrides, progress=False, report=False)
    return folder


def test_the_first_layers_of_a_runs_projector_are_kept_and_trained(run: Path) -> None:
    backbone = load_backbone(run)
    assert backbone.checkpoint is not None
    first = load_projector(backbone.checkpoint, 1)
    assert [type(layer).__name__ for layer in first] == ["Linear", "BatchNorm1d", "ReLU"]
    state = torch.load(backbone.checkpoint, weights_only=True)["method"]
    features = torch.rand(4, backbone.dim)
    hidden = features @ state["projector.0.weight"].T
    norm = {name: state[f"projector.1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")}
    scale = norm["weight"] / (norm["running_var"] + 1e-5).sqrt()
    expected = ((hidden - norm["running_mean"]) * scale + norm["bias"]).relu()
    assert torch.allclose(first(features), expected, atol=1e-5)
    source = colours(12)
    settings = TuningSettings(epochs=2, backbone_lr=0.1)
    model = fine_tune(backbone, source, torch.arange(12), 3, settings=settings, seed=0, projector=first)
    assert torch.equal(first[0].weight, state["projector.0.weight"])
    assert not torch.equal(model.projector[0].weight, first[0].weight)
    with pytest.raises(GlocalError, match="of the projector's 3 layers the first 2 can be kept"):
        load_projector(backbone.checkpoint, 3)


def test_teacher_and_student_are_measured(run: Path) -> None:
    settings = {
        "distil.fraction": 0.5,
        "distil.projector_layers": 1,
        "distil.teacher.epochs": 1,
        "distil.epochs": 1,
        "distil.student": {"name": "resnet18", "options": {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]}},
    }
    given = {"train": "shapes:train:64", "test": "shapes:test:32", "protocols": "distil", "progress": False}
    found = evaluate(str(run), settings=settings, **given)  # type: ignore[arg-type]
    results = found["protocols"]["distil"]["results"]
    assert [result["setting"] for result in results] == [
        "teacher, 50 % of labels (32 images), 1 layer of the projector",
        "student resnet18 {options: {channels: [8, 8, 16, 16], layers: [1, 1, 1, 1]}}, τ=1",
    ]
    assert found["protocols"]["distil"]["remarks"] == [
        "shortened to epochs=1 (400 is the protocol's)",
        "shortened to teacher.epochs=1 (60 is the protocol's)",
    ]
    assert all(0 <= result["metrics"]["top1"] <= 100 for result in results)
    with pytest.raises(
        GlocalError, match=r"distil.projector_layers=1: .* has no projector; give a run or a checkpoint"
    ):
        evaluate(tiny(), settings={"distil.projector_layers": 1}, **given)  # type: ignore[arg-type]
