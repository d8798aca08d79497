"""Budgets: how much smaller than a table's recipes its rows are trained, as data that is applied to every row alike."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from typing import Any, Self

from pydantic import Field, model_validator

from glocal.config import AnyRecipe, build_recipe, load_mapping
from glocal.errors import GlocalError, did_you_mean
from glocal.models.architecture import full_name
from glocal.papers import Metric, PaperRow
from glocal.papers.measured import row_recipe
from glocal.plain import read_yaml
from glocal.settings import Settings, validated

_IN_PIXELS = ("method.resolutions", "data.resize")
_IN_EPOCHS = (
    "method.first_epoch",
    "method.queue_first_epoch",
    "optimizer.warmup_epochs",
    "optimizer.milestones",
    "train.freeze_backbone_epochs",
)
_OF_SCHEDULES = ("epochs", "warmup_epochs")


class Budget(Settings):
    """What a row is trained with instead of its recipe's; null and empty change nothing."""

    about: str = ""
    size: int | None = Field(None, ge=8)  # side of the images; views and what else is in pixels follow in proportion
    images: int | None = Field(None, ge=8)  # the first of each class, as many of each
    epochs: int | None = Field(None, ge=1)  # of a recipe's shortest row; its others in proportion
    share_of_epochs: float | None = Field(None, gt=0, le=1)  # of each row's own
    networks: dict[str, dict[str, Any]] = Field(default_factory=dict)  # settings by pattern of the network's name
    settings: dict[str, Any] = Field(default_factory=dict)  # of every row, by dotted path
    at_most: dict[str, float] = Field(default_factory=dict)  # by path, where a recipe has more
    rates: dict[str, dict[str, Any]] = Field(default_factory=dict)  # settings by method
    metrics: dict[str, Metric] = Field(default_factory=dict)  # measured of every row besides the table's
    evaluation: dict[str, Any] = Field(
        default_factory=dict
    )  # settings of protocols on augmented images, over the table's

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.epochs is not None and self.share_of_epochs is not None:
            raise ValueError("epochs and share_of_epochs both say how long a row is trained; leave one of them out")
        if "train.epochs" in self.settings:
            raise ValueError("settings: train.epochs would change nothing; say epochs or share_of_epochs instead")
        return self


@cache
def _written() -> dict[str, dict[str, Any]]:
    text = resources.files("glocal.reproduction").joinpath("budgets.yaml").read_text(encoding="utf-8")
    return dict(read_yaml(text, "budgets.yaml"))


def budget_names() -> list[str]:
    """The budgets of the package, from the smallest to the largest.

    >>> budget_names()
    ['small', 'medium', 'full']
    """
    return list(_written())


def find_budget(wanted: str | Mapping[str, Any], file: str = "") -> Budget:
    """A budget by its name, or one that is like another but for some keys: `{like: small, images: 1000}`.

    Args:
        wanted: the name, or the mapping.
        file: that it stands in, which begins the message of an error.

    Raises:
        GlocalError: there is none of that name, or a key is wrong.
    """
    where = f"{file}: " if file else ""
    changes = {} if isinstance(wanted, str) else dict(wanted)
    name = wanted if isinstance(wanted, str) else changes.pop("like", None)
    if name is not None and name not in _written():
        raise GlocalError(f"{where}there is no budget {name!r}; {did_you_mean(str(name), budget_names())}")
    return validated(Budget, {**_written().get(str(name), {}), **changes}, f"{where}budget")


def shortest_epochs(rows: Sequence[PaperRow], recipe: str | None) -> int:
    """The fewest epochs that a recipe is trained for in some row of a table."""
    return min((row_recipe(row).train.epochs for row in rows if row.recipe == recipe), default=1)


def settings_of(
    budget: Budget,
    row: PaperRow,
    rows: Sequence[PaperRow],
    *,
    epochs: int | None = None,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a row is trained with on top of its recipe: the budget's settings, then the row's own.

    Args:
        budget: how much smaller.
        row: has a recipe.
        rows: of the table; those of one recipe keep the proportion of their epochs, and the shortest has the budget's.
        epochs: instead of the budget's, where rows shall be equal in something else.
        more: settings that come last.

    Raises:
        GlocalError: a setting is wrong.
    """
    assert row.recipe is not None
    printed = row_recipe(row)
    found = dict(_network(budget, printed))
    sizes: dict[str, Any] = {}
    if budget.size is not None and budget.size != printed.data.size:
        sizes = _sizes(budget.size, printed, load_mapping(row.recipe))
        found.update(sizes)
    length = epochs or _epochs(budget, row, printed, rows)
    if length != printed.train.epochs:
        found.update(_lengths(length, printed))
    found.update(budget.settings)
    found.update(_rates(budget, printed))
    own = {path: value for path, value in row.settings.items() if path != "train.epochs"}
    own |= {path: sizes[path] for path in own if path in sizes and _above(budget.size, own[path])}
    smaller, wanted = _options(found), _options(own)
    options = {**smaller, **wanted}
    model = load_mapping(row.recipe)["model"]
    options |= _patches(budget.size, model, smaller.get("patch_size"), options.get("patch_size"))
    found = {path: value for path, value in {**found, **own}.items() if not path.startswith("model.options")}
    found = {**found, **({"model.options": options} if options else {}), "train.epochs": length, **(more or {})}
    warmup = found.get("optimizer.warmup_epochs")
    if isinstance(warmup, int | float) and 2 * warmup > length:
        found["optimizer.warmup_epochs"] = length / 2
    built = build_recipe(load_mapping(row.recipe), found)
    return {**found, **_cut(budget, built, own)}


def _network(budget: Budget, printed: AnyRecipe) -> dict[str, Any]:
    return next((its for name, its in budget.networks.items() if fnmatchcase(printed.model.name, name)), {})


def _sizes(size: int, printed: AnyRecipe, mapping: Mapping[str, Any]) -> dict[str, Any]:
    """The side of the images, and in proportion all else that is in pixels."""
    assert printed.data.size is not None  # a resolved recipe has it
    share = size / printed.data.size
    found: dict[str, Any] = {"data.size": size}
    for path in _IN_PIXELS:
        value = _at(printed, path)
        if value:
            found[path] = [round(share * one) for one in value] if isinstance(value, list) else round(share * value)
    if mapping.get("views"):  # else they are the method's own for images of this size
        for number, view in enumerate(printed.views or ()):
            found[f"views.{number}.size"] = max(8, round(share * view.size))
            found[f"views.{number}.resolutions"] = [max(8, round(share * one)) for one in view.resolutions]
            if view.blur.kernel_size is not None:
                found[f"views.{number}.blur.kernel_size"] = None  # by the view's size
    return found


def _above(size: int | None, pixels: Any) -> bool:
    """Whether a row names more pixels than the images have, as rows of larger images do."""
    return size is not None and max(pixels if isinstance(pixels, list) else [pixels], default=0) > size


def _patches(size: int | None, model: Mapping[str, Any], smaller: Any, wanted: Any) -> dict[str, int]:
    """The side of a row's patches, where the images have no two of its own: changed as the budget changes the recipe's.

    Args:
        size: side of the budget's images.
        model: the network as the recipe has it.
        smaller, wanted: the sides that the budget and the row name; None where they name none.
    """
    if size is None or not wanted or not smaller or 2 * wanted <= size:
        return {}
    named = re.search(r"patch(\d+)", full_name(str(model["name"])))
    usual = model.get("options", {}).get("patch_size") or (int(named[1]) if named else wanted)
    return {"patch_size": max(1, round(wanted * smaller / usual))}


def _epochs(budget: Budget, row: PaperRow, printed: AnyRecipe, rows: Sequence[PaperRow]) -> int:
    own = printed.train.epochs
    if budget.share_of_epochs is not None:
        return max(1, round(budget.share_of_epochs * own))
    if budget.epochs is None:
        return own
    return max(1, round(budget.epochs * own / shortest_epochs([*rows, row], row.recipe)))


def _lengths(epochs: int, printed: AnyRecipe) -> dict[str, Any]:
    """What is counted in epochs, in proportion to the training's length."""
    share = epochs / printed.train.epochs
    found: dict[str, Any] = {}
    for path in _IN_EPOCHS:
        value = _at(printed, path)
        if isinstance(value, list) and value:
            found[path] = [share * one for one in value]
        elif isinstance(value, float | int) and value:
            found[path] = round(share * value) if isinstance(value, int) else round(share * value, 3)
    method = printed.method.model_dump(mode="json")
    base = method.get("base")
    for where, its in (("method", method), ("method.base", base if isinstance(base, dict) else {})):
        for key, value in its.items():
            if isinstance(value, dict) and (value.get("epochs") or value.get("warmup_epochs")):  # a schedule
                parts = {part: round(share * value[part], 3) for part in _OF_SCHEDULES if value.get(part)}
                found[f"{where}.{key}"] = {**value, **parts}
    return found


def _rates(budget: Budget, printed: AnyRecipe) -> dict[str, Any]:
    """The settings of the row's method; of one that works on another one, first those of that one."""
    method = printed.method
    base = getattr(method, "base", None)
    if base is None:
        return budget.rates.get(method.name, {})
    found = {
        f"method.base.{path.removeprefix('method.')}" if path.startswith("method.") else path: value
        for path, value in budget.rates.get(base.name, {}).items()
    }
    return {**found, **budget.rates.get(method.name, {}), **budget.rates.get(f"{method.name}:{base.name}", {})}


def _options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The network's options among settings by path."""
    found = dict(settings.get("model.options") or {})
    start = "model.options."
    return {**found, **{path.removeprefix(start): value for path, value in settings.items() if path.startswith(start)}}


def _cut(budget: Budget, recipe: AnyRecipe, own: Mapping[str, Any]) -> dict[str, Any]:
    """What is above the budget's limits, cut to them, but where it is of the method and the row names it."""
    found = {}
    for path, most in budget.at_most.items():
        value = _at(recipe, path)
        kept = path in own and path.startswith("method.")
        if not kept and isinstance(value, int | float) and value > most:
            found[path] = type(value)(most)
    return found


def _at(recipe: AnyRecipe, path: str) -> Any:
    """A setting's value as JSON; None where the recipe has no such setting."""
    value: Any = recipe.model_dump(mode="json")
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
