"""What is to be done for each row of a table: with which images and settings, how long, and how it is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from glocal.config import AnyRecipe, build_recipe, load_mapping
from glocal.errors import GlocalError
from glocal.evaluation.protocols import protocol
from glocal.papers import Metric, PaperRow, PaperTable
from glocal.papers.measured import protocol_settings, row_recipe
from glocal.reproduction.budgets import Budget, settings_of
from glocal.reproduction.images import Given, Images, belonging_to, check_names, images_for, open_images
from glocal.reproduction.jobs import digest_of_recipe
from glocal.settings import validated
from glocal.views.plan import ViewPlan


@dataclass(frozen=True)
class Choices:
    """What holds for all rows.

    Attributes:
        budget: how much smaller than in print.
        data, test: images that the user names.
        held_out: measure on so many training images of each class.
        settings: come last, over the budget's and the rows' own.
    """

    budget: Budget
    data: Given
    test: Given
    held_out: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Planned:
    """A row that can be run here.

    Attributes:
        row: as printed.
        settings: on top of its recipe, in the budget's epochs.
        epochs: of the budget.
        data, test: names of its images.
        images: how many it learns from.
        about: which these are, in words.
        metrics: what is measured, by name.
        notes: what is not measured, and why.
    """

    row: PaperRow
    settings: dict[str, Any]
    epochs: int
    data: tuple[str, ...]
    test: tuple[str, ...]
    images: int
    about: str
    metrics: dict[str, Metric]
    notes: tuple[str, ...]

    @cached_property
    def printed(self) -> AnyRecipe:
        """The recipe of the row."""
        return row_recipe(self.row)

    @cached_property
    def digest(self) -> str:
        """Of what the row's recipe says, which a result remembers."""
        assert self.row.recipe  # a row that can be run
        return digest_of_recipe(self.row.recipe)

    @cached_property
    def recipe(self) -> AnyRecipe:
        """The recipe that is run, fitted to the number of images."""
        assert self.row.recipe is not None
        source = list(self.data) if len(self.data) > 1 else self.data[0]
        built = build_recipe(load_mapping(self.row.recipe), {**self.settings, "data.source": source})
        batch = min(built.train.batch_size, self.images)
        fitted = {
            "method": built.method.fit_to(self.images),
            "train": built.train.model_copy(update={"batch_size": batch}),
        }
        return built.model_copy(update=fitted)

    @property
    def views(self) -> int:
        """The views of an image in a step."""
        return len(ViewPlan(self.recipe.views or ()))

    @property
    def views_of_epoch(self) -> int:
        """The views that an epoch shows."""
        return self.views * self.images


def plan_row(
    table: PaperTable, row: PaperRow, choices: Choices, opened: dict[Any, Images | GlocalError]
) -> Planned | str:
    """A row's plan, or why it cannot be run here.

    Args:
        table: the row's.
        row: one of its rows.
        choices: what holds for all rows.
        opened: images that were opened for other rows, by what names them.

    Raises:
        GlocalError: the row can be run and a setting of it is wrong.
    """
    if row.recipe is None:
        return row.cannot_run
    printed = row_recipe(row)
    source = printed.data.source
    own = (source,) if isinstance(source, str) else tuple(source or ())
    data = images_for(choices.data, own[0] if len(own) == 1 else None, row.label) or own
    if not data:
        return f"no images: its recipe, {row.recipe}, names no data set that can be fetched; give --data PATH"
    test: tuple[str, ...] = ()
    if choices.held_out is None:
        named = images_for(choices.test, own[0] if len(own) == 1 else None, row.label)
        test = named or ((printed.data.test,) if printed.data.test and data == own else belonging_to(data))
    place = (data, test)
    if place not in opened:
        try:
            opened[place] = open_images(data, test, images=choices.budget.images, held_out=choices.held_out)
        except GlocalError as error:
            opened[place] = error
    images = opened[place]
    if isinstance(images, GlocalError):
        return f"no images: {images}"
    epochs = None
    if "train.epochs" in choices.settings:  # what is counted in epochs follows them: they are checked first
        wished = {"train.epochs": choices.settings["train.epochs"]}
        epochs = build_recipe(load_mapping(row.recipe), wished).train.epochs
    settings = settings_of(choices.budget, row, table.rows, epochs=epochs, more=choices.settings)
    metrics, notes = metrics_of(table, row, choices.budget, len(images.learn))
    if not metrics:
        return f"nothing of it can be measured: {'; '.join(notes) or 'it has no metrics'}"
    return Planned(
        row,
        settings,
        int(settings["train.epochs"]),
        data,
        test,
        len(images.train),
        images.words,
        metrics,
        tuple(notes),
    )


def check_images(table: PaperTable, choices: Choices) -> None:
    """Refuses names of data sets that no row of the table has.

    Raises:
        GlocalError: there is one.
    """
    sources = {row.label: row_recipe(row).data.source for row in table.rows if row.recipe is not None}
    rows = {label: source if isinstance(source, str) else None for label, source in sources.items()}
    for given, option in ((choices.data, "--data"), (choices.test, "--test")):
        check_names(given, option, rows, table.id)


def metrics_of(table: PaperTable, row: PaperRow, budget: Budget, images: int) -> tuple[dict[str, Metric], list[str]]:
    """What is measured of a row: what is printed of it (all that the table has, where nothing is), and the budget's.

    Args:
        images: that protocols learn from; more neighbours than these cannot vote.

    Returns:
        The metrics by name, and what is not measured, with the reason.
    """
    found: dict[str, Metric] = {}
    notes = []
    for name in [name for name in table.metrics if name in row.values] or list(table.metrics):
        metric = table.metric_of(row, name)
        if metric.protocol is None:
            notes.append(f"{metric.title} is not measured: {metric.why}")
            continue
        scaled = scaled_metric(metric, budget)
        its = validated(protocol(metric.protocol).settings, protocol_settings(scaled), f"protocol {metric.protocol}")
        missing = protocol(metric.protocol).missing(its, labelled=True)
        if missing:
            notes.append(f"{metric.title} is not measured: {missing}")
        else:
            found[name] = scaled
    for name, metric in budget.metrics.items():
        too_many = max(metric.settings.get("knn.k") or (0,)) > images
        if name not in table.metrics and not too_many and not any(_same(metric, one) for one in found.values()):
            found[name] = metric
    return found, notes


def _same(one: Metric, other: Metric) -> bool:
    """Whether two metrics are measured alike, whatever they are called."""
    if (one.protocol, one.setting, one.result) != (other.protocol, other.setting, other.result):
        return False
    first, second = protocol_settings(one), protocol_settings(other)
    numbers = ("k",)  # of neighbours: which are meant says the metric's `setting`
    return all(first[key] == second[key] for key in first if key not in numbers)


def scaled_metric(metric: Metric, budget: Budget) -> Metric:
    """A metric with the budget's settings of its protocol, where that shows the network new crops in every epoch.

    A probe on features that are computed once takes no time that would have to be saved.
    """
    own = {path: value for path, value in budget.evaluation.items() if path.startswith(f"{metric.protocol}.")}
    if not own or protocol_settings(metric).get("augmentation", "none") == "none":
        return metric
    return metric.model_copy(update={"settings": {**metric.settings, **own}})


def with_epochs(planned: Planned, table: PaperTable, choices: Choices, epochs: int) -> dict[str, Any]:
    """The settings of a row in another number of epochs."""
    if epochs == planned.epochs:
        return planned.settings
    more = {path: value for path, value in choices.settings.items() if path != "train.epochs"}
    return settings_of(choices.budget, planned.row, table.rows, epochs=epochs, more=more)


def metric_titles(table: PaperTable, planned: Sequence[Planned]) -> dict[str, str]:
    """The titles of all metrics that are measured of some row, the table's first."""
    measured = {name: metric.title for one in planned for name, metric in one.metrics.items()}
    own = {name: metric.title for name, metric in table.metrics.items() if metric.protocol is not None}
    return {**{name: title for name, title in own.items() if name in measured}, **measured}
