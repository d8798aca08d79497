"""Every setting takes every value: it is accepted and works, or is refused in one line that names the setting.

Values come from the types and bounds of the settings, and from a collection of wild ones. More of them than there is
time for in the suite: `GLOCAL_EXAMPLES=100 pytest tests/test_every_setting.py`.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from glocal.config import Recipe, build_recipe
from glocal.errors import GlocalError
from glocal.evaluation.protocols import protocol, protocol_names
from glocal.methods import method_class, method_names
from glocal.plain import read_yaml, write_yaml
from glocal.settings import assign, validated
from glocal.training.rehearsal import shadow
from glocal.views.color import shown
from glocal.views.crops import render_batch
from glocal.views.plan import View, ViewPlan
from tests.methods.cases import case

EXAMPLES = int(os.environ.get("GLOCAL_EXAMPLES", "2"))
# The same values on every machine, however slow that is; nothing is written beside the tests, and no smaller value is
# looked for where one fails, which would take minutes.
SAME = settings(
    derandomize=True,
    phases=[Phase.generate],
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

NUMBERS = (0, 1, -1, 7, 2**31, 2**63, 2**64, -(2**63), 10**20, 10**5000, 0.5, -0.5, 1e-320, 1e308, -1e308)
NO_NUMBERS = (
    math.nan,
    math.inf,
    -math.inf,
    True,
    False,
    None,
    "",
    "x",
    "0.5",
    "null",
    "é\n\x00\ud800",
    "9" * 500,
    b"x",
)
TREES: tuple[Any, ...] = ([], {}, [[]], [None], {"a": {"b": 1}}, [1, 1, 1], [0.5, 0.1], [2**63] * 2, ["x"] * 1000)
SCHEDULES = ({"start": 0, "end": 1e9}, {"start": -1, "end": 1}, {"start": math.nan, "end": 1}, {"start": 1})
WILD: SearchStrategy[Any] = st.sampled_from((*NUMBERS, *NO_NUMBERS, *TREES, *SCHEDULES)) | st.integers() | st.floats()


def own_values(kind: Any, bounds: Mapping[str, float]) -> SearchStrategy[Any]:
    """Values that a setting of this type, and within these bounds (ge, gt, le, lt), says that it takes."""
    inner, origin = get_args(kind), get_origin(kind)
    if origin is Annotated:
        return own_values(inner[0], {**bounds, **bounds_in(inner[1:])})
    if origin in (Union, UnionType):
        return st.one_of([own_values(one, bounds) for one in inner])
    if origin is Literal:
        return st.sampled_from(inner)
    if origin is tuple and inner[-1] is not ...:
        return st.tuples(*(own_values(one, {}) for one in inner)).map(list)
    if origin in (tuple, list):
        return st.lists(own_values(inner[0], {}), max_size=3)
    if kind is bool or kind is type(None):
        return st.just(None) if kind is not bool else st.booleans()
    if kind is int:
        least, most = int(bounds.get("ge", -5)), int(bounds.get("le", bounds.get("lt", 10**12 + 1) - 1))
        return st.sampled_from([least, least + 1, most]) | st.integers(least, min(most, 300))
    if kind is float:
        least, most = bounds.get("ge", bounds.get("gt", -1e3)), bounds.get("le", bounds.get("lt", 1e3))
        return st.floats(least, most, exclude_min="gt" in bounds, exclude_max="lt" in bounds)
    if isinstance(kind, type) and issubclass(kind, BaseModel) and kind.model_fields:
        return st.fixed_dictionaries({}, optional={key: values_of(kind, key) for key in kind.model_fields})
    return st.text(max_size=5) | st.just({})


def bounds_in(metadata: tuple[Any, ...]) -> dict[str, float]:
    """Of what pydantic notes beside a type."""
    found: dict[str, float] = {}
    for one in metadata:
        if isinstance(one, FieldInfo):
            found |= bounds_in(tuple(one.metadata))
        found |= {name: getattr(one, name) for name in ("ge", "gt", "le", "lt") if hasattr(one, name)}
    return found


def values_of(schema: type[BaseModel], key: str) -> SearchStrategy[Any]:
    field = schema.model_fields[key]
    return own_values(field.annotation, bounds_in(tuple(field.metadata)))


def paths_of(schema: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, SearchStrategy[Any]]]:
    """Every setting of a section by its dotted path, with values that it says that it takes; sections too."""
    for key, field in schema.model_fields.items():
        yield f"{prefix}{key}", values_of(schema, key)
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from paths_of(kind, f"{prefix}{key}.")


T = TypeVar("T")


def refused_or(make: Callable[[], T], *names: str) -> T | None:
    """What is made; None where it was refused as promised: in a line that is not long and has one of the names."""
    try:
        return make()
    except GlocalError as error:
        told = str(error)
        assert "\n" not in told
        assert len(told) < 1000
        assert any(name in told for name in names), f"{told!r} names none of {names}"
        return None


METHODS = {name: dict(paths_of(method_class(name).Settings, "method.")) for name in method_names()}
SECTIONS = {
    **METHODS,
    "base of logo": dict(paths_of(method_class("sce").Settings, "method.base.")),
    "recipe": {path: values for path, values in paths_of(Recipe[Any]) if not path.startswith("method.")},
    "views": dict(paths_of(View, "views.0.")),
}


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_of_a_recipe_is_accepted_or_refused_by_its_name(section: str) -> None:
    name = section if section in METHODS else "sce"
    mapping = {"method": {"name": "logo", "base": {"name": "sce"}} if section == "base of logo" else {"name": name}}

    @settings(SAME, max_examples=EXAMPLES)
    @given(st.fixed_dictionaries({path: st.one_of(values, WILD) for path, values in SECTIONS[section].items()}))
    def every_value(values: dict[str, Any]) -> None:
        for path, value in values.items():
            last = path.rpartition(".")[2]
            # A name is what the first word of an error is about; views are made for what decides their number and size.
            recipe = refused_or(lambda: build_recipe(mapping, {path: value}, data_size=32), last, "views")  # noqa: B023
            if recipe is not None:
                written = recipe.model_dump(mode="json")
                if isinstance(value, str):  # all else is written alike, and slowly
                    written = read_yaml(write_yaml(written), "written")
                assert build_recipe(written) == recipe, path

    every_value()


@pytest.mark.parametrize("name", protocol_names())
def test_every_setting_of_a_protocol_is_accepted_or_refused_by_its_name(name: str) -> None:
    schema = protocol(name).settings

    @settings(SAME, max_examples=EXAMPLES)
    @given(st.fixed_dictionaries({path: st.one_of(values, WILD) for path, values in paths_of(schema)}))
    def every_value(values: dict[str, Any]) -> None:
        for path, value in values.items():
            raw: dict[str, Any] = {}
            assign(raw, path, value)
            refused_or(lambda: validated(schema, raw, "here"), path.rpartition(".")[2])  # noqa: B023

    every_value()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_built_with_whatever_it_accepts(name: str) -> None:
    own = case(name)
    mapping = {"method": {"name": name, **own.small}, "model": own.model.model_dump(), "data": {"size": 16}}
    paths = METHODS[name].items()

    @settings(SAME, max_examples=EXAMPLES)
    @given(st.fixed_dictionaries({}, optional={path: values for path, values in paths if path != "method.name"}))
    def every_method(chosen: dict[str, Any]) -> None:
        recipe = refused_or(lambda: build_recipe(mapping, chosen), "method", "views")
        if recipe is not None:
            refused_or(lambda: shadow(recipe), "method", "model", "views")

    every_method()


@settings(SAME, max_examples=5 * EXAMPLES)
@given(st.fixed_dictionaries({}, optional={key: values_of(View, key) for key in View.model_fields}))
def test_views_can_be_shown_with_whatever_they_accept(chosen: dict[str, Any]) -> None:
    chosen = {**chosen, "size": min(chosen.get("size", 8), 24), "resolutions": []}
    recipe = refused_or(lambda: build_recipe({"views": [chosen]}, data_size=16), "views")
    if recipe is None:
        return
    plan, index = ViewPlan((recipe.views or [])[:1]), torch.arange(2)
    geometry, drawn = plan.draw_geometry(torch.tensor([16, 12]), 0, 0, index), plan.draw_photometry(0, 0, index)
    view, images = plan.views[0], torch.rand(2, 3, 16, 12)
    crops = render_batch(images, geometry.view(0), view.size, view.interpolation)
    for way in ("exact", "fused"):
        found = shown(crops.clone(), drawn.view(0), view, mean=recipe.data.mean, std=recipe.data.std, way=way)
        assert found.shape == (2, 3, view.size, view.size)
        assert bool(found.isfinite().all())
