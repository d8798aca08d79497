"""In what the runs of a table differ from what is printed, in words made from the recipes themselves."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from glocal.config import AnyRecipe, differences
from glocal.models.architecture import ModelSettings
from glocal.papers import PaperTable
from glocal.papers.data_sets import data_set
from glocal.papers.measured import protocol_settings
from glocal.reproduction.planning import Planned

_NAMED = 3  # rows in a line by name; of more, their number


def heading(table: PaperTable, planned: Sequence[Planned]) -> list[str]:
    """A line for each thing in which the runs are not what is printed, and one for each choice of images."""
    found: dict[str, dict[tuple[str, str], list[str]]] = defaultdict(lambda: defaultdict(list))
    for one in planned:
        for what, printed, own in [*_of_training(one), *_of_measuring(table, one)]:
            found[what][printed, own].append(one.row.label)
    images: dict[str, list[str]] = defaultdict(list)
    for one in planned:
        images[_images(one)].append(one.row.label)
    lines = [f"images {words}{_who(labels, len(planned))}" for words, labels in images.items()]
    for what, pairs in found.items():
        told = [f"{before} → {after}{_who(labels, len(planned))}" for (before, after), labels in pairs.items()]
        lines.append(f"{what} {'; '.join(told)}")
    return lines


def networks(planned: Sequence[Planned]) -> str:
    """The networks that are trained, in words.

    Args:
        planned: the rows.
    """
    return "; ".join(dict.fromkeys(_network(one.recipe.model) for one in planned))


def _of_training(one: Planned) -> Iterator[tuple[str, str, str]]:
    """What differs, and both values in words."""
    printed, own = one.printed, one.recipe
    network = False
    for path, before, after in differences(printed, own):
        if path.startswith("model."):
            network = True
        elif path == "views":
            yield ("views", *_sizes(printed, own))
        elif path != "data.source":
            yield path, _word(before), _word(after)
    if network:
        yield "network", _network(printed.model), _network(own.model)
    if printed.train.precision != own.train.precision:
        yield "train.precision", printed.train.precision, own.train.precision


def _of_measuring(table: PaperTable, one: Planned) -> Iterator[tuple[str, str, str]]:
    for name, metric in one.metrics.items():
        if name not in table.metrics:
            continue
        before, after = protocol_settings(table.metric_of(one.row, name)), protocol_settings(metric)
        for key, value in after.items():
            if before[key] != value:
                yield f"{metric.protocol}.{key}", _word(before[key]), _word(value)


def _sizes(printed: AnyRecipe, own: AnyRecipe) -> tuple[str, str]:
    before, after = (
        " + ".join(f"{view.count} × {view.size}" for view in recipe.views or ()) for recipe in (printed, own)
    )
    return (before, after) if before != after else (before, f"{after}, otherwise drawn")


def _network(model: ModelSettings) -> str:
    options = ", ".join(f"{key} {_word(value)}" for key, value in model.options.items())
    stem = "" if model.stem == "standard" else f"{model.stem} stem"
    details = ", ".join(part for part in (stem, options) if part)
    return f"{model.name} ({details})" if details else model.name


def _images(one: Planned) -> str:
    source = one.printed.data.source
    name = source if isinstance(source, str) else data_set(one.printed.name, source).name
    same = list(one.data) == ([source] if isinstance(source, str) else list(source or ()))
    return one.about if same else f"{name} → {one.about}"


def _who(labels: Sequence[str], everybody: int) -> str:
    if len(labels) == everybody:
        return ""
    return f" ({'; '.join(labels)})" if len(labels) <= _NAMED else f" ({len(labels)} rows)"


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else "none" if value is None else json.dumps(value)
