"""Plain values out of users' YAML and JSON: bounded, nothing executed, and errors in one line."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from glocal.errors import GlocalError, in_a_line, shortened
from glocal.regular import open_regular

MOST_CHARACTERS = 500_000  # of YAML, every alias written out; the largest file in this package has 20,000
MOST_LEVELS = 50  # of lists and mappings in one another
_TOO_LONG = f"has more than {MOST_CHARACTERS:,} characters; is it the right file?"

# Numbers by YAML 1.2's core schema (section 10.3.2), with underscores between digits as in Python. YAML 1.1, which
# PyYAML follows, takes 1e-1 for text, 010 for 8 and 1:30 for 90.
_INTEGER = re.compile(r"[-+]?[0-9]+(?:_[0-9]+)*|0o[0-7]+|0x[0-9a-fA-F]+")
_DECIMAL = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:_[0-9]+)*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_OLD = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value")  # a date, and =, which are text in YAML 1.2
_PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}
_MOST_DIGITS = 100  # of a whole number; the largest that a setting takes has 13


class _RefusedError(yaml.YAMLError):
    """YAML that is valid and not read: what is wrong with it stands in the message."""


class _Extent(NamedTuple):
    """How much a value is when every alias is written out."""

    characters: int
    levels: int


def _resolvers(before: Mapping[str, list[tuple[str, Any]]]) -> dict[str, list[tuple[str, Any]]]:
    """What tells text from numbers, by the first character, with YAML 1.2's numbers in place of 1.1's."""
    found = {first: [rule for rule in rules if rule[0] not in (*_NUMBERS, *_OLD)] for first, rules in before.items()}
    for tag, number in zip(_NUMBERS, (_INTEGER, _DECIMAL), strict=True):
        for first in "-+.0123456789":
            found.setdefault(first, []).append((tag, re.compile(rf"(?:{number.pattern})\Z")))
    return found


class _Loader(yaml.SafeLoader):
    """Counts while it composes, before anything is made of the text, so that no alias can make much of little."""

    yaml_implicit_resolvers = _resolvers(yaml.SafeLoader.yaml_implicit_resolvers)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._above = 0  # lists and mappings around the present place
        self._extents: dict[yaml.Node, _Extent] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        line = self.peek_event().start_mark.line + 1
        alias = self.check_event(yaml.AliasEvent)
        if self._above > MOST_LEVELS:
            raise _RefusedError(f"line {line} is nested deeper than {MOST_LEVELS} levels")
        self._above += 1
        node: Any = super().compose_node(parent, index)
        self._above -= 1
        if not alias:
            self._extents[node] = self._extent(node)
        elif node not in self._extents:
            raise _RefusedError(f"the alias in line {line} is part of what it stands for")
        extent = self._extents[node]
        if extent.characters > MOST_CHARACTERS:
            raise _RefusedError(f"with its aliases written out, it has more than {MOST_CHARACTERS:,} characters")
        if self._above + extent.levels > MOST_LEVELS:
            raise _RefusedError(f"the alias in line {line} is nested deeper than {MOST_LEVELS} levels")
        return node

    def _extent(self, node: yaml.Node) -> _Extent:
        if isinstance(node, yaml.ScalarNode):
            return _Extent(1 + len(node.value), 0)
        pairs = isinstance(node, yaml.MappingNode)
        parts = [self._extents[part] for value in node.value for part in (value if pairs else (value,))]
        return _Extent(1 + sum(part.characters for part in parts), 1 + max((part.levels for part in parts), default=0))

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode):
                if key.value in lines:  # of which YAML's loaders silently keep the last
                    raise _RefusedError(
                        f"{key.value} is written twice, in lines {lines[key.value]} and {line}; keep one of them"
                    )
                lines[key.value] = line
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        line = node.start_mark.line + 1
        if node.tag not in _PLAIN:  # dates, bytes, sets; Python's own are unknown to this loader anyway
            raise _RefusedError(f"the tag {shortened(node.tag)} in line {line} is not read; write a plain value")
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError) as error:  # !!int x
            kind = node.tag.rpartition(":")[2]
            raise _RefusedError(f"{shortened(node.value)!r} in line {line} is no {kind}") from error


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    digits = str(loader.construct_scalar(node)).lower()
    if len(digits) > _MOST_DIGITS:
        raise _RefusedError(
            f"the number in line {node.start_mark.line + 1} has {len(digits):,} digits; {_MOST_DIGITS} are read at most"
        )
    return int(digits, 0) if digits[:2] in ("0o", "0x") else int(digits)


def _decimal(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(str(loader.construct_scalar(node)).lower().replace(".inf", "inf").replace(".nan", "nan"))


for _tag, _construct in zip(_NUMBERS, (_integer, _decimal), strict=True):
    _Loader.add_constructor(_tag, _construct)


class _Dumper(yaml.SafeDumper):
    """Puts text in quotes that `_Loader` would take for a number, and writes out what stands in several places."""

    yaml_implicit_resolvers = _resolvers(yaml.SafeDumper.yaml_implicit_resolvers)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def read_yaml(text: str, where: str) -> Any:
    """Plain values out of YAML: numbers as in YAML 1.2 (1e-1 is one), and no key twice.

    What an alias stands for is a value of its own, so one can be changed without the other.

    Args:
        text: YAML.
        where: begins the message of an error.

    Raises:
        GlocalError: no valid YAML; a key that stands twice in a mapping, a tag, or a number of many digits; or more
            than `MOST_CHARACTERS` or `MOST_LEVELS`, aliases written out.

    >>> read_yaml("{drop_path_rate: 1e-1, name: 1e, epochs: 010}", "example")
    {'drop_path_rate': 0.1, 'name': '1e', 'epochs': 10}
    """
    if len(text) > MOST_CHARACTERS:
        raise GlocalError(f"{where}: {_TOO_LONG}")
    try:
        return copied(yaml.load(text, _Loader))
    except _RefusedError as error:
        raise GlocalError(f"{where}: {error}") from None
    except yaml.YAMLError as error:
        raise GlocalError(f"{where}: no valid YAML: {in_a_line(error).partition(': ')[2]}") from error


def read_yaml_file(path: Path, where: str) -> Any:
    """`read_yaml` of a file.

    Raises:
        GlocalError: also where it cannot be read, or is no text in UTF-8.
    """
    try:
        with open_regular(path) as file:
            content = file.read(MOST_CHARACTERS + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with the character 0
        raise GlocalError(f"{where}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > MOST_CHARACTERS:
        raise GlocalError(f"{where}: {_TOO_LONG}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise GlocalError(f"{where}: is no text in UTF-8 (byte {error.start}); save it as UTF-8") from None
    return read_yaml(text, where)


def write_yaml(value: Mapping[str, Any]) -> str:
    """YAML that `read_yaml` reads back."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=100)


def typed(value: Any) -> str:
    """A plain value as one writes it behind `--set KEY=`: a line of YAML.

    >>> typed({"start": 0.99, "kind": "cosine"}), typed(None), typed([3]), typed("own")
    ('{start: 0.99, kind: cosine}', 'null', '[3]', 'own')
    """
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=True, width=math.inf)
    return text.removesuffix("...\n").strip()


def read_json(path: Path) -> Any:
    """Plain values out of a file of JSON, of any size.

    Raises:
        GlocalError: it cannot be read, or is no JSON.
    """
    try:
        with open_regular(path) as file:
            return json.loads(file.read())
    except FileNotFoundError:
        raise GlocalError(f"there is no {path}") from None
    except OSError as error:
        raise GlocalError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise GlocalError(f"{path}: cannot be read as JSON: {in_a_line(error).partition(': ')[2]}") from error


def copied(value: Any) -> Any:
    """The same tree of mappings and lists, none of which is shared with another place or another tree."""
    if isinstance(value, Mapping):
        return {key: copied(part) for key, part in value.items()}
    return [copied(part) for part in value] if isinstance(value, list) else value
