"""Checkpoints: written atomically, loaded without executing anything, the newest few kept."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import re
import textwrap
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from glocal.console import warn
from glocal.errors import GlocalError
from glocal.files import remove_remains, sync_folder, write_atomically, writing

FORMAT = 1

# What reading a file that is torn, or no checkpoint, ends in; zip's own reader says the last two of some flags.
_DAMAGE = (
    *(OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError),
    *(zipfile.BadZipFile, zlib.error, NotImplementedError),
)
_NEEDED = {"format": int, "step": int, "recipe": str, "method": dict, "evaluated": str}
_RESUMED = {"optimizers": dict, "precision": dict, "rng": Tensor}
_NAME = re.compile(r"step-(\d{9,})\.pt")

# The comment that ends the zip archive: the hash of all before it, with the comment's length, two bytes, at zero.
_SEAL = b"sha256:"
_SEALED = len(_SEAL) + 64


class NewerFormatError(GlocalError):
    """A checkpoint that a newer version has written; those before it are older states of the run, and no substitute."""


def checkpoint_files(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the newest first; files with other names, copies say, are none."""
    found = ((_NAME.fullmatch(path.name), path) for path in folder.glob("step-*.pt"))
    return [path for _, path in sorted(((int(name[1]), path) for name, path in found if name), reverse=True)]


def save_checkpoint(folder: Path, state: Mapping[str, Any], *, keep: int) -> Path:
    """Writes `state` (with its "step") and deletes all other checkpoints but the newest `keep` - 1.

    Returns:
        The new file.

    Raises:
        WriteError: it cannot be written, or the folder that `folder` is in is gone; older checkpoints stay.
    """
    if not folder.is_dir():
        with writing(folder):
            folder.mkdir()
        sync_folder(folder.parent)
    remove_remains(folder, ["step-*"])
    path = folder / f"step-{state['step']:09d}.pt"
    write_atomically(path, lambda file: _write_sealed({**state, "format": FORMAT}, file))
    for old in [other for other in checkpoint_files(folder) if other != path][keep - 1 :]:
        old.unlink(missing_ok=True)
    return path


class _Hashed(io.RawIOBase):
    """A file whose bytes are hashed on their way: torch writes one after another."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.hash = file, hashlib.sha256()

    def write(self, data: Any, /) -> int:
        self.hash.update(data)
        return self.file.write(data)


def _write_sealed(state: Mapping[str, Any], file: IO[bytes]) -> None:
    """As torch.save, and a hash of all: the checksums of zip leave out what its directory says of each part."""
    hashed = _Hashed(file)
    torch.save(dict(state), hashed)  # type: ignore[arg-type]
    file.seek(-2, os.SEEK_END)
    file.write(_end(hashed.hash))


def _end(found: Any) -> bytes:
    """The comment of the archive, and before it its length in two bytes."""
    return _SEALED.to_bytes(2, "little") + _SEAL + found.hexdigest().encode()


def _check_seal(path: Path) -> None:
    """Compares the hash; of a file without one, of an earlier version, the checksums of its parts.

    Raises:
        BadZipFile, OSError: it is damaged.
    """
    with path.open("rb") as file:
        left = max(0, file.seek(0, os.SEEK_END) - _SEALED - 2)
        file.seek(left)
        length, seal = file.read(2), file.read()
        if seal.startswith(_SEAL):
            file.seek(0)
            found = hashlib.sha256()
            while left and (block := file.read(min(left, 1 << 20))):
                found.update(block)
                left -= len(block)
            found.update(bytes(2))
            if length + seal != _end(found):
                raise zipfile.BadZipFile("its content has another checksum than when it was written")
            return
        if seal[-22:-18] != b"PK\5\6" or seal[-2:] != bytes(2):
            raise zipfile.BadZipFile("its end is not as it was written")
    with zipfile.ZipFile(path) as parts:
        odd = next((part.filename for part in parts.infolist() if part.external_attr or part.compress_type), None)
        if damaged := odd or parts.testzip():
            raise zipfile.BadZipFile(f"{damaged} has another checksum than when it was written")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint to the CPU; only tensors and plain values are accepted (`weights_only`).

    Raises:
        GlocalError: the file is missing, damaged, not of this package or of a newer format.
    """
    try:
        _check_seal(path)  # torch looks at no checksum
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise GlocalError(f"there is no checkpoint {path}") from None
    except _DAMAGE as error:
        # torch's advice for files that it will not unpickle is a page long, and no advice for users of this package
        code = isinstance(error, pickle.UnpicklingError)
        why = "it holds more than numbers, and code is never executed" if code else str(error)
        raise GlocalError(f"{path} is no readable checkpoint: {textwrap.shorten(why, 120, placeholder='…')}") from error
    if not isinstance(state, dict) or "format" not in state or "method" not in state:
        raise GlocalError(f"{path} is no checkpoint of glocal; name its network: `timm:NAME --weights {path}`")
    for key, kind in {**_NEEDED, **_RESUMED}.items():
        if key not in state and key in _NEEDED:
            raise GlocalError(f"{path} is no readable checkpoint: it has no {key}")
        if key in state and not isinstance(state[key], kind):
            raise GlocalError(f"{path} is no readable checkpoint: its {key} is no {kind.__name__}")
    if state["format"] > FORMAT:
        raise NewerFormatError(f"{path} was written by a newer glocal (format {state['format']}); upgrade glocal")
    if state["format"] < 1 or state["step"] < 0:
        raise GlocalError(f"{path} is no readable checkpoint: format {state['format']}, step {state['step']}")
    return state


def newest_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The newest readable checkpoint in a folder, or None where there is none; damaged ones are named."""
    found = newest_readable(folder)
    return None if found is None else found[1]


def newest_readable(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The same with its file.

    Raises:
        GlocalError: there are checkpoints, but none can be read.
        NewerFormatError: the newest one that is whole is of a newer version.
    """
    files = checkpoint_files(folder)
    for path in files:
        try:
            return path, load_checkpoint(path)
        except NewerFormatError:
            raise
        except GlocalError as error:
            warn(f"{error}; the one before it is taken")
    if files:
        raise GlocalError(f"none of the {len(files)} checkpoints in {folder} can be read")
    return None


def set_aside_after(path: Path) -> None:
    """Gives newer checkpoints than `path` another name: they could not be read, and the run goes on without them."""
    for damaged in checkpoint_files(path.parent):
        if damaged == path:
            return
        with writing(damaged, "renamed"):
            os.replace(damaged, damaged.with_suffix(".damaged"))


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], *, what: str) -> None:
    """`load_state_dict` whose error is one line with the first key or shape that does not fit.

    Args:
        module: gets the weights.
        weights: by name.
        what: the file, for the message.

    Raises:
        GlocalError: a missing or unknown name, or another shape.
    """
    own = module.state_dict()
    for name, tensor in own.items():
        if name not in weights:
            raise GlocalError(f"{what}: it has no {name}; was it made with another model or method?")
        if name.endswith("_extra_state"):  # grows with the data
            continue
        if weights[name].shape != tensor.shape:
            raise GlocalError(
                f"{what}: {name} has shape {tuple(weights[name].shape)}, but the recipe's model needs "
                f"{tuple(tensor.shape)}"
            )
    unknown = sorted(set(weights) - set(own))
    if unknown:
        raise GlocalError(f"{what}: {unknown[0]} is not in the recipe's model")
    module.load_state_dict(dict(weights))
