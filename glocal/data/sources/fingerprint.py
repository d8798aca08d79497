"""Telling whether two sources hold the same images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from itertools import chain

import numpy as np
from torch import Tensor

from glocal.data.decoding.rules import Decoding
from glocal.data.sources.base import Source, Subset
from glocal.data.sources.joined import JoinedSource


def fingerprint(source: Source) -> str | None:
    """A hash of a source's images: of their bytes where they lie in memory, of path, size and time of change of files,
    what a pack or a table knows of its own.

    None where neither can be known.
    """
    if isinstance(source, Subset):
        whole = fingerprint(source.source)
        return None if whole is None else _digest([whole.encode(), source.indices.numpy().tobytes()])
    if isinstance(source, JoinedSource):
        parts = [fingerprint(part) for part in source.parts]
        return None if None in parts else _digest(str(part).encode() for part in parts)
    if hasattr(source, "images"):
        images: Tensor = source.images()
        return _digest([str(tuple(images.shape)).encode(), np.ascontiguousarray(images.numpy()).data])
    if hasattr(source, "files"):
        of_files = (os.fsencode(f"{path}\0{_state(path)}\0") for path in source.files())
        return _digest(chain(_how_decoded(source), of_files))
    if hasattr(source, "digest"):
        return _digest([*_how_decoded(source), source.digest.encode()])
    return None


def _how_decoded(source: Source) -> list[bytes]:
    decoding: Decoding = getattr(source, "decoding", Decoding())
    how = [] if decoding.value_range is None else [f"{decoding.value_range}\0".encode()]
    return how + ([] if decoding.channels is None else [f"{decoding.channels} {decoding.channel_axis}\0".encode()])


def _state(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:  # it came away, and is told as unreadable
        return "gone"
    return f"{status.st_size}\0{status.st_mtime_ns}"


def _digest(parts: Iterable[bytes | memoryview]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()
