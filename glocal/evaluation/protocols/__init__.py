"""Protocols: one file each, found by their file's name."""

from __future__ import annotations

import importlib
import pkgutil

from glocal.errors import GlocalError, did_you_mean
from glocal.evaluation.features.bench import Protocol


def protocol_names() -> list[str]:
    """The names of all protocols, sorted.

    >>> "knn" in protocol_names()
    True
    """
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def protocol(name: str) -> Protocol:
    """The protocol that the file `glocal/evaluation/protocols/NAME.py` defines.

    Raises:
        GlocalError: there is no such file; the message names the nearest.
    """
    if name not in protocol_names():
        several = " (one --protocol for each)" if "," in name else ""
        raise GlocalError(f"there is no protocol {name!r}{several}; {did_you_mean(name.lower(), protocol_names())}")
    found: Protocol = importlib.import_module(f"{__name__}.{name}").PROTOCOL
    return found
