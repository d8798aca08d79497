"""Checkpoints: written atomically, loaded without executing anything, the newest few kept."""

from __future__ import annotations

import pickle
import textwrap
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
_KINDS = {"format": int, "step": int, "recipe": str, "method": dict, "evaluated": str}


def checkpoint_files(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the newest first."""
    return sorted(folder.glob("step-*.pt"), reverse=True)


def save_checkpoint(folder: Path, state: Mapping[str, Any], *, keep: int) -> Path:
    """Writes `state` (with its "step") and deletes all but the newest `keep` checkpoints.

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
    write_atomically(path, lambda file: torch.save({**state, "format": FORMAT}, file))
    for old in checkpoint_files(folder)[keep:]:
        old.unlink(missing_ok=True)
    return path


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint to the CPU; only tensors and plain values are accepted (`weights_only`).

    Raises:
        GlocalError: the file is missing, damaged, not of this package or of a newer format.
    """
    try:
        with zipfile.ZipFile(path) as parts:  # torch looks at no checksum
            if damaged := parts.testzip():
                raise zipfile.BadZipFile(f"{damaged} has another checksum than when it was written")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise GlocalError(f"there is no checkpoint {path}") from None
    except _DAMAGE as error:
        # torch's advice for files that it will not unpickle is a page long, and no advice for users of this package
        why = (
            ""
            if isinstance(error, pickle.UnpicklingError)
            else f": {textwrap.shorten(str(error), 120, placeholder='…')}"
        )
        raise GlocalError(f"{path} is no readable checkpoint{why}") from error
    if not isinstance(state, dict) or "format" not in state or "method" not in state:
        raise GlocalError(f"{path} is no checkpoint of glocal; name its network: `timm:NAME --weights {path}`")
    for key, kind in _KINDS.items():
        if key in state and not isinstance(state[key], kind):
            raise GlocalError(f"{path} is no readable checkpoint: its {key} is no {kind.__name__}")
    if state["format"] > FORMAT:
        raise GlocalError(f"{path} was written by a newer glocal (format {state['format']}); upgrade glocal")
    return state


def newest_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The newest readable checkpoint in a folder, or None where there is none; damaged ones are named."""
    found = newest_readable(folder)
    return None if found is None else found[1]


def newest_readable(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The same with its file."""
    files = checkpoint_files(folder)
    for path in files:
        try:
            return path, load_checkpoint(path)
        except GlocalError as error:
            warn(f"{error}; the one before it is taken")
    if files:
        raise GlocalError(f"none of the {len(files)} checkpoints in {folder} can be read")
    return None


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
