"""The model card: what a stranger must know of the weights, as Markdown with the Hub's fields before it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import glocal
from glocal.config import AnyRecipe
from glocal.errors import counted
from glocal.exports.origin import Number, Origin, shown_name, shown_recipe
from glocal.exports.subject import Subject
from glocal.plain import write_yaml

# Data sets of torchvision's by their names on the Hub, where these are sure.
_ON_THE_HUB = {
    "CIFAR10": "uoft-cs/cifar10",
    "CIFAR100": "uoft-cs/cifar100",
    "ImageNet": "ILSVRC/imagenet-1k",
}
_STEMS = {
    "standard": "",
    "medium": " with a first convolution of 3×3, stride 2 and no pooling",
    "small": " with a stem for small images",
}


def front_matter(subject: Subject, origin: Origin, library: str) -> dict[str, Any]:
    """The fields that the Hub reads."""
    name = subject.architecture.name if subject.architecture else type(subject.network).__name__
    method = [shown_name(origin.recipe.method.name)] if origin.recipe else []
    found: dict[str, Any] = {
        "license": subject.license or "unknown",
        "library_name": library,
        "pipeline_tag": "image-feature-extraction",
        "tags": list(dict.fromkeys(["image-feature-extraction", "self-supervised-learning", "glocal", name, *method])),
    }
    datasets = [_ON_THE_HUB[part] for one in _sources(origin) for part in one.split(":")[1:2] if part in _ON_THE_HUB]
    if datasets:
        found["datasets"] = list(dict.fromkeys(datasets))
    return found


def write_card(subject: Subject, origin: Origin, *, library: str, lines: Sequence[str]) -> str:
    """The whole card.

    Args:
        subject: what was exported.
        origin: where it comes from.
        library: what loads the folder, as the Hub calls it.
        lines: Python that loads it, each piece for itself.
    """
    parts = [
        f"---\n{write_yaml(front_matter(subject, origin, library))}---",
        f"# {subject.out.name}",
        _what(subject, origin),
        "## Use",
        *(f"```python\n{one.strip()}\n```" for one in lines),
        f"Features have {subject.backbone.dim} numbers. Images: {subject.preprocessing.sentence()}",
        "## Data",
        _data(origin),
        "## Training",
        *_training(origin),
        "## Numbers",
        *_numbers(origin.numbers),
        "## Licence",
        f"Of these weights: {subject.license}." if subject.license else "The licence of these weights is not stated.",
    ]
    return "\n\n".join(parts) + "\n"


def _what(subject: Subject, origin: Origin) -> str:
    network = subject.architecture.name if subject.architecture else type(subject.network).__name__
    stem = _STEMS[subject.architecture.stem] if subject.architecture else ""
    how = f", pretrained by {shown_name(origin.recipe.method.name)}" if origin.recipe else ""
    half = " The weights are in float16." if subject.precision == "fp16" else ""
    return (
        f"The backbone {network}{stem}{how}, without classifier: it gives features of images. Exported by glocal "
        f"{glocal.__version__}.{half}"
    )


def _sources(origin: Origin) -> list[str]:
    source = origin.recipe.data.source if origin.recipe else None
    return [] if source is None else [source] if isinstance(source, str) else source


def _data(origin: Origin) -> str:
    names = [shown_name(name) for name in _sources(origin)]
    if not names:
        return "The images that it was trained on are not known to glocal."
    many = f"{origin.images:,} images" if origin.images else "Images"
    return f"{many} of {', '.join(f'`{name}`' for name in names)}."


def _training(origin: Origin) -> list[str]:
    if origin.recipe is None:
        weights = f" with the weights in `{origin.weights}`" if origin.weights else ""
        return [
            f"It was loaded as `{shown_name(origin.name)}`{weights}." if origin.name else "It is not known to glocal."
        ]
    recipe: AnyRecipe = origin.recipe
    data = "".join(f" --data {shlex.quote(shown_name(name))}" for name in _sources(origin))
    began = recipe.model.init or ("timm's weights" if recipe.model.pretrained else "")
    said = [
        f"{shown_name(recipe.method.name)}, {counted(recipe.train.epochs, 'epoch')} with batches of "
        f"{recipe.train.batch_size} images; the weights are those after step {origin.step:,}"
        f"{f', and it began with {shown_name(began)}' if began else ''}. The recipe is `recipe.yaml`:",
        f"    glocal pretrain --recipe recipe.yaml{data} --out RUN",
    ]
    if recipe.reproduces:
        said.append(f"The recipe follows {recipe.reproduces}.")
    return [*said, f"<details><summary>recipe.yaml</summary>\n\n```yaml\n{shown_recipe(recipe)}```\n\n</details>"]


def _numbers(numbers: Sequence[Number]) -> list[str]:
    if not numbers:
        return ["Nothing was measured of these weights yet."]
    table = ["| protocol | images | setting | metric | value |", "|---|---|---|---|---:|"]
    table += [f"| {' | '.join(_cell(part) for part in number[:5])} |" for number in numbers]
    commands = dict.fromkeys(number.command for number in numbers)
    return [
        "\n".join(table),
        "Accuracies and precisions are in percent. Measured by these commands, where RUN is the run's folder:",
        "\n".join(f"    {command}" for command in commands),
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
