"""A folder for the Hugging Face Hub: weights, a model card and the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from glocal.exports import onnx, safetensors, timm
from glocal.exports.card import write_card
from glocal.exports.origin import shown_recipe
from glocal.exports.subject import Subject
from glocal.exports.target import Loaded, Target
from glocal.files import write_text

CARD, RECIPE, GRAPH = "README.md", "recipe.yaml", "model.onnx"


def write(subject: Subject, place: Path) -> None:
    """Writes timm's folder where timm can build the network, else an ONNX file beside the weights; and the card.

    Raises:
        GlocalError: neither can be.
    """
    place.mkdir(exist_ok=True)
    origin = subject.origin
    shown = replace(subject, out=Path(subject.out.resolve().name))  # strangers need not know where its author keeps it
    if not timm.why_not(subject.architecture):
        timm.write(subject, place)
        library, pieces = "timm", [timm.lines(shown)]
    else:
        onnx.write(subject, place / GRAPH)
        library, pieces = "onnx", [lines(shown)]
        if subject.architecture is not None:
            safetensors.write(subject, place / timm.WEIGHTS)
            if subject.architecture.stem != "standard":
                pieces.append(safetensors.lines(replace(shown, out=shown.out / timm.WEIGHTS)))
    write_text(place / CARD, write_card(shown, origin, library=library, lines=pieces))
    if origin.recipe is not None:
        write_text(place / RECIPE, shown_recipe(origin.recipe))


def load(path: Path) -> list[Loaded]:
    """Opens every form of the weights in the folder."""
    if (path / timm.CONFIG).exists():
        return timm.load(path)
    weights = safetensors.load(path / timm.WEIGHTS) if (path / timm.WEIGHTS).exists() else []
    return [*onnx.load(path / GRAPH), *weights]


def metadata(path: Path) -> Mapping[str, str]:
    """What the header of the weights in a folder says."""
    return timm.folder_metadata(path) or (onnx.read_metadata(path / GRAPH) if (path / GRAPH).is_file() else {})


def lines(subject: Subject) -> str:
    """Loads what is in the folder."""
    if not timm.why_not(subject.architecture):
        return timm.lines(subject)
    return onnx.lines(replace(subject, out=subject.out / GRAPH))


TARGET = Target(
    name="hub-folder",
    summary="a folder for the Hugging Face Hub: timm's two files (else ONNX), a model card and the recipe",
    endings=(),
    contents=(timm.CONFIG, timm.WEIGHTS, GRAPH, CARD, RECIPE),
    write=write,
    load=load,
    metadata=metadata,
    lines=lines,
)
