"""The nearest neighbours of all images, kept beside the embeddings: all of them, or those that were found so far."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from glocal.console import note, warn
from glocal.embeddings.folder import Embeddings
from glocal.files import write_atomically

ALL, PART = "neighbors.safetensors", "neighbors.part.safetensors"
_FORMAT = "1"


class KeptNeighbors:
    """Reads and writes neighbours in the folder of embeddings. Where it cannot be written, a warning says so once.

    Args:
        embeddings: that they are of; those of embeddings that were written anew count as none.
    """

    def __init__(self, embeddings: Embeddings) -> None:
        self.folder = embeddings.folder
        self.count = len(embeddings)
        self.about = {"format": _FORMAT, "embeddings": embeddings.signature}
        self.writable = True

    def all(self, k: int) -> tuple[Tensor, Tensor] | None:
        """Similarity and index (N, k) of all images; None where they are not kept, or fewer than k of each."""
        found = self._read(self.folder / ALL, k)
        return found if found is not None and len(found[0]) == self.count else None

    def part(self, k: int) -> tuple[Tensor, Tensor] | None:
        """Similarity and index (n, k) of the first n images, of a search that was stopped; None where there is none."""
        return self._read(self.folder / PART, k)

    def write_part(self, similarity: Tensor, index: Tensor) -> None:
        """Keeps those of the first images."""
        self._write(self.folder / PART, similarity, index)

    def write_all(self, similarity: Tensor, index: Tensor) -> None:
        """Keeps those of all images, instead of a part."""
        self._write(self.folder / ALL, similarity, index)
        with contextlib.suppress(OSError):
            (self.folder / PART).unlink(missing_ok=True)

    def _read(self, path: Path, k: int) -> tuple[Tensor, Tensor] | None:
        if not path.exists():
            return None
        try:
            with safe_open(path, "pt") as file:
                if file.metadata() != self.about:
                    return None
                similarity, index = (file.get_slice(name) for name in ("similarity", "index"))
                if similarity.get_shape()[1] < k:
                    return None
                return similarity[:, :k], index[:, :k].long()
        except (OSError, SafetensorError) as error:
            note(f"{path} cannot be read ({' '.join(str(error).split())}): neighbours are searched again")
            return None

    def _write(self, path: Path, similarity: Tensor, index: Tensor) -> None:
        if not self.writable:
            return
        content = {"similarity": similarity.contiguous(), "index": index.to(torch.int32)}
        try:
            write_atomically(path, lambda file: file.write(save(content, self.about)))
        except OSError as error:
            self.writable = False
            warn(f"{path} cannot be written ({error.strerror}): the neighbours will be searched again")
