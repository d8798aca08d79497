"""Nested settings as one level of dotted paths."""

from __future__ import annotations

from typing import Any


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": [1, 2]}} → {"a.b.0": 1, "a.b.1": 2}."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = dict(enumerate(value)).items()
    else:
        return {prefix.removesuffix("."): value}
    return {key: inner for name, part in items for key, inner in flatten(part, f"{prefix}{name}.").items()}
