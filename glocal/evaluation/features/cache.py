"""What was computed once from a backbone and images, kept on the disk by content."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from glocal.console import note, warn
from glocal.distributed import all_objects, process_rank
from glocal.files import write_atomically

Kept = tuple[dict[str, Tensor], Any]
"""Tensors by name, and whatever JSON can hold beside them."""


class FeatureCache:
    """A folder of safetensors files named by the hash of what they were computed from.

    A file that is damaged, also one with a single flipped bit, is computed anew. The files that were used least
    recently are deleted when all of them take more than the limit; a disk that is full or cannot be written to costs
    only the time to compute again.

    Args:
        folder: made when the first file is written.
        gigabytes: the limit.
        shared: several processes ask for the same and compute it together, which all of them do where one has to.
    """

    def __init__(self, folder: Path, *, gigabytes: float = 20.0, shared: bool = False) -> None:
        self.folder = folder
        self.gigabytes = gigabytes
        self.shared = shared

    def remember(self, key: Mapping[str, Any], compute: Callable[[], Kept]) -> Kept:
        """What `compute` returns, or returned when it was called for the same key.

        Args:
            key: everything that decides the result, as JSON; fingerprints of content rather than names.
            compute: returns tensors on the CPU, and JSON.
        """
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
        path = self.folder / f"{name}.safetensors"
        kept = self._read(path)
        if self.shared and not all(all_objects(kept is not None)):
            kept = None  # one has to compute it, for which it needs the others
        if kept is not None:
            return kept
        found = compute()
        try:
            if not self.shared or process_rank() == 0:
                self._save(path, found)
        except OSError as error:
            warn(f"{self.folder}: features cannot be kept there: {error}")
        return found

    def _read(self, path: Path) -> Kept | None:
        with contextlib.suppress(FileNotFoundError):
            try:
                with safe_open(path, "pt") as file:  # the tensors stay on the disk until they are read
                    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                    said = file.metadata() or {}
                beside = json.loads(said["beside"])
                known = json.loads(said["crc32"]) if "crc32" in said else None  # files of before have none
                if known is not None and known != _checksums(tensors):
                    raise ValueError("it has other bytes than were written")
                with contextlib.suppress(OSError):
                    os.utime(path)
                return tensors, beside
            except (SafetensorError, KeyError, ValueError) as error:
                note(f"{path} is damaged ({error}); its features are computed anew")
        return None

    def _save(self, path: Path, found: Kept) -> None:
        tensors, beside = found
        self.folder.mkdir(parents=True, exist_ok=True)
        said = {"beside": json.dumps(beside), "crc32": json.dumps(_checksums(tensors))}
        write_atomically(path, lambda file: _write_safetensors(file, tensors, said))
        self._forget()

    def _forget(self) -> None:
        """Deletes what was used least recently, except the newest file, until the limit holds."""
        files = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in self.folder.glob("*.safetensors"))
        left = sum(size for _, size, _ in files) - self.gigabytes * 1e9
        for _, size, path in files[:-1]:
            if left <= 0:
                break
            path.unlink(missing_ok=True)
            left -= size


_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def _checksums(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    return {name: zlib.crc32(_bytes_of(tensor)) for name, tensor in tensors.items()}


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().numpy().data


def _write_safetensors(file: IO[bytes], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """The format of safetensors, straight from the tensors' memory: its own writer holds all of them twice."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data begin at a multiple of eight bytes
    file.write(struct.pack("<Q", len(text)) + text)
    for tensor in tensors.values():
        file.write(_bytes_of(tensor))
