"""Typed sections of settings, and errors in them as sentences."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from glocal.errors import GlocalError, did_you_mean

S = TypeVar("S", bound=BaseModel)

# Statistics of the channels of ImageNet's training images, values in [0, 1]: what torchvision's weights expect.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_BRANCHES = {
    "float",
    "constrained-float",
    "Schedule",
}


# Numbers by YAML 1.2's core schema (section 10.3.2), with underscores between digits as in Python. YAML 1.1, which
# PyYAML follows, takes 1e-1 for text, 010 for 8 and 1:30 for 90.
_INTEGER = re.compile(r"[-+]?[0-9]+(?:_[0-9]+)*|0o[0-7]+|0x[0-9a-fA-F]+")
_DECIMAL = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:_[0-9]+)*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_TIMES = "tag:yaml.org,2002:timestamp"  # no setting is a date; 1.2 has none either


class _RepeatedKeyError(yaml.YAMLError):
    """A key stands twice in a mapping, of which YAML's loaders silently keep the last."""


def _resolvers(before: Mapping[str, list[tuple[str, Any]]]) -> dict[str, list[tuple[str, Any]]]:
    """What tells text from numbers, by the first character, with YAML 1.2's numbers in place of 1.1's."""
    found = {first: [rule for rule in rules if rule[0] not in (*_NUMBERS, _TIMES)] for first, rules in before.items()}
    for tag, number in zip(_NUMBERS, (_INTEGER, _DECIMAL), strict=True):
        for first in "-+.0123456789":
            found.setdefault(first, []).append((tag, re.compile(rf"(?:{number.pattern})\Z")))
    return found


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = _resolvers(yaml.SafeLoader.yaml_implicit_resolvers)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode):
                if key.value in lines:
                    raise _RepeatedKeyError(
                        f"{key.value} is written twice, in lines {lines[key.value]} and {line}; keep one of them"
                    )
                lines[key.value] = line
        return node


def _integer(_: _Loader, node: yaml.ScalarNode) -> int:
    digits = node.value.lower()
    return int(digits, 0) if digits[:2] in ("0o", "0x") else int(digits)


def _decimal(_: _Loader, node: yaml.ScalarNode) -> float:
    return float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan"))


for _tag, _construct in zip(_NUMBERS, (_integer, _decimal), strict=True):
    _Loader.add_constructor(_tag, _construct)


class _Dumper(yaml.SafeDumper):
    """Puts text in quotes that `_Loader` would take for a number."""

    yaml_implicit_resolvers = _resolvers(yaml.SafeDumper.yaml_implicit_resolvers)


def read_yaml(text: str, where: str) -> Any:
    """Plain values out of YAML: numbers as in YAML 1.2 (1e-1 is one), and no key twice.

    Args:
        text: YAML.
        where: begins the message of an error.

    Raises:
        GlocalError: no valid YAML, or a key stands twice in a mapping.

    >>> read_yaml("{drop_path_rate: 1e-1, name: 1e, epochs: 010}", "example")
    {'drop_path_rate': 0.1, 'name': '1e', 'epochs': 10}
    """
    try:
        return yaml.load(text, _Loader)
    except _RepeatedKeyError as error:
        raise GlocalError(f"{where}: {error}") from None
    except yaml.YAMLError as error:
        raise GlocalError(f"{where}: no valid YAML: {' '.join(str(error).split())}") from error


def write_yaml(value: Mapping[str, Any]) -> str:
    """YAML that `read_yaml` reads back."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=100)


class Settings(BaseModel):
    """A section of a recipe: immutable, no unknown keys, no silent conversion of types that do not fit."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


def parse_overrides(settings: Iterable[str]) -> dict[str, Any]:
    """`["train.epochs=10"]` → `{"train.epochs": 10}`; values are YAML.

    >>> parse_overrides(["train.epochs=10", "data.test=null"])
    {'train.epochs': 10, 'data.test': None}
    """
    overrides: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise GlocalError(f"--set {setting}: write it as section.key=value, for example train.epochs=10")
        overrides[key.strip()] = read_yaml(value, f"--set {setting}")
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
            fields = re.findall(r"^    (\w+): (?:[^#\n]|\n {8})*?  # (.*)$", inspect.getsource(kind), re.MULTILINE)
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
        raise GlocalError(f"{where}: {_describe(error.errors()[0], schema)}") from None


def assign(raw: dict[str, Any], path: str, value: Any) -> None:
    """Sets a value by its dotted path; numbers are positions in lists. Unknown keys are found by the check."""
    *parents, last = path.split(".")
    place: Any = raw
    for depth, part in enumerate(parents):
        if isinstance(place, list):
            place = place[_position(place, part, path)]
        else:
            if place.get(part) is None or not isinstance(place[part], dict | list):
                if depth and isinstance(place.get(part), str | int | float):
                    raise GlocalError(f"--set {path}: {'.'.join(parents[: depth + 1])} has no parts")
                place[part] = {}
            place = place[part]
    if isinstance(place, list):
        place[_position(place, last, path)] = value
    else:
        place[last] = value


def _position(values: Sequence[Any], part: str, path: str) -> int:
    if not part.isdigit() or int(part) >= len(values):
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
    return (
        f"{path} {message}, not {error['input']!r}"
        if message.startswith("must be")
        else ": ".join(filter(None, (path, message)))
    )


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
