"""Typed sections of settings, and errors in them as sentences."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo

from glocal.errors import GlocalError, did_you_mean, shortened, shown
from glocal.plain import MOST_LEVELS, copied, read_yaml

S = TypeVar("S", bound=BaseModel)

# Statistics of the channels of ImageNet's training images, values in [0, 1]: what torchvision's weights expect.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_BRANCHES = {
    "float",
    "constrained-float",
    "Schedule",
}


LARGEST = 10**12  # of whole numbers where a setting does not say less

Amount = Annotated[int, Field(ge=1, le=2**20)]
"""How many there are of something that takes memory: neurons of a layer, prototypes, negatives."""

Groups = Annotated[int, Field(ge=2, le=2**20)]
"""The same of what one alone says nothing: prototypes, classes, clusters."""

Side = Annotated[int, Field(ge=1, le=2**14)]
"""Side of an image in pixels."""

TrainedSide = Annotated[int, Field(ge=8, le=2**14)]
"""The same of images that a network learns from."""

Rounds = Annotated[int, Field(ge=1, le=10_000)]
"""How often something is repeated."""

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What draws begin with; NumPy, scikit-learn and Lightning take no larger one."""


class Settings(BaseModel):
    """A section of a recipe: immutable, no unknown keys, no silent conversion of types that do not fit."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _can_be_counted(cls, value: Any) -> Any:
        for number in value if isinstance(value, list | tuple) else (value,):
            if isinstance(number, int) and abs(number) > LARGEST:
                raise ValueError(f"must be at most {LARGEST:,}")
        return value


def parse_overrides(settings: Iterable[str]) -> dict[str, Any]:
    """`["train.epochs=10"]` → `{"train.epochs": 10}`; values are YAML.

    >>> parse_overrides(["train.epochs=10", "data.test=null"])
    {'train.epochs': 10, 'data.test': None}
    """
    overrides: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        where = f"--set {shortened(setting)}"
        if not equals or not key.strip():
            raise GlocalError(f"{where}: write it as {shortened(key.strip()) or 'section.key'}=VALUE")
        if not value.strip():
            raise GlocalError(f"{where}: a value must follow; null where there shall be none")
        overrides[key.strip()] = read_yaml(value, where)
    return overrides


def choices_of(field: FieldInfo) -> str:
    """The words that a setting can be, separated by commas; "" where it is no choice of words."""
    return ", ".join(str(choice) for choice in get_args(field.annotation) if isinstance(choice, str))


def setting_rows(settings: Settings) -> Iterator[tuple[str, str, str, str]]:
    """Name, value as one writes it, choices and the comment of every setting."""
    values, comments = settings.model_dump(mode="json"), _comments(type(settings))
    for key, field in type(settings).model_fields.items():
        yield key, json.dumps(values[key]).strip('"'), choices_of(field), comments.get(key, "")


def _comments(schema: type[BaseModel]) -> dict[str, str]:
    """The comments behind the fields in the source, which are what is written about them."""
    found: dict[str, str] = {}
    for kind in reversed(schema.__mro__):
        if issubclass(kind, BaseModel) and kind is not BaseModel:
            fields = re.findall(
                r"^    (\w+): (?:[^#\n]|\n {8}|\n {4}\))*?  # (.*)$", inspect.getsource(kind), re.MULTILINE
            )
            found.update(fields)
    return found


def validated(schema: type[S], raw: Mapping[str, Any], where: str) -> S:
    """The settings that a mapping gives.

    Args:
        schema: their type.
        raw: values by name, unchecked.
        where: begins the message of an error.

    Raises:
        GlocalError: an unknown key, a wrong type or value; one line that names the place and the nearest valid key.
    """
    try:
        return schema.model_validate(raw)
    except ValidationError as error:
        told = shortened(_describe(error.errors()[0], schema), 500)
        raise GlocalError(f"{where}: {told}") from None


def assign(raw: dict[str, Any], path: str, value: Any) -> None:
    """Sets a copy of a value by its dotted path; numbers are positions in lists. Unknown keys are found by the check.

    Raises:
        GlocalError: the path leads into what has no parts, or behind the end of a list.
    """
    *parents, last = path.split(".")
    if len(parents) > MOST_LEVELS:
        raise GlocalError(f"--set {shortened(path)}: there are no settings so deep")
    place: Any = raw
    for depth, part in enumerate(parents):
        if isinstance(place, list):
            inner = place[_position(place, part, path)]
        elif (inner := place.get(part)) is None:
            inner = place[part] = {}
        if not isinstance(inner, dict | list):
            raise GlocalError(f"--set {path}: {'.'.join(parents[: depth + 1])} is {shown(inner)}, which has no parts")
        place = inner
    if isinstance(place, list):
        place[_position(place, last, path)] = copied(value)
    else:
        place[last] = copied(value)


def _position(values: Sequence[Any], part: str, path: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", part) or int(part) >= len(values):
        raise GlocalError(f"--set {path}: {part!r} is no position in a list of {len(values)} (they count from 0)")
    return int(part)


# What pydantic says with "…, unable to parse string as …" behind it.
_KINDS = {
    "integer": "must be a whole number",
    "number": "must be a number",
    "boolean": "must be true or false",
}


def _describe(error: Mapping[str, Any], schema: type[BaseModel]) -> str:
    """One of pydantic's findings as a sentence that names the place and the mend."""
    location = [part for part in error["loc"] if part not in _BRANCHES]
    path = ".".join(str(part) for part in location)
    if error["type"] == "extra_forbidden":
        parent = ".".join(str(part) for part in location[:-1])
        known = _keys_at(schema, location[:-1])
        choices = [f"{parent}.{key}" if parent else key for key in known]
        return f"{path} is not a setting; {did_you_mean(path, choices, elsewhere=_paths(schema))}"
    if error["type"] == "missing":
        return f"{path} is missing"
    message = str(error["msg"]).removeprefix("Value error, ")
    message = message.replace("Input should be", "must be", 1).replace("a valid tuple", "a list, as [0.1, 0.2]")
    message = re.sub(r"^must be a valid (integer|number|boolean)\b.*", lambda found: _KINDS[found[1]], message)
    message = re.sub(r"^must be a valid dictionary( or instance of \w+)?", "must be a section of settings", message)
    message = re.sub(r"^(List|Tuple) should have at least (\d+) .*", r"must be a list of at least \2", message)
    if not message.startswith("must be"):
        return ": ".join(filter(None, (path, message)))
    told, given = f"{path} {message}, not {shown(error['input'])}", error["input"]
    if isinstance(given, str) and error["type"] == "model_type" and "name" in _keys_at(schema, location):
        told += f"; write {path}={{name: {shortened(given)}}}"
    return told


def _paths(schema: type[BaseModel]) -> list[str]:
    """The settings in the sections of a schema by their dotted paths."""
    return [f"{name}.{key}" for name in schema.model_fields for key in _keys_at(schema, [name])]


def _keys_at(schema: Any, location: Sequence[Any]) -> list[str]:
    """The valid keys of the section at `location`."""
    for part in location:
        models = [schema, *get_args(schema)]
        fields = next((m.model_fields for m in models if isinstance(m, type) and issubclass(m, BaseModel)), {})
        if isinstance(part, str) and part in fields:
            schema = fields[part].annotation
    models = [schema, *get_args(schema), *(inner for arg in get_args(schema) for inner in get_args(arg))]
    found = next((m for m in models if isinstance(m, type) and issubclass(m, BaseModel)), None)
    return list(found.model_fields) if found else []
