"""A run's folder: made for a new run, checked when one is continued."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch

import glocal
from glocal.checkpoints import checkpoint_files, load_checkpoint, newest_readable, set_aside_after
from glocal.config import AnyRecipe, TrainSettings, build_recipe, load_mapping
from glocal.console import note
from glocal.data.sources.base import Source
from glocal.data.sources.passed_over import check_holds_no_images
from glocal.distributed import first_decides, process_rank, together
from glocal.errors import GlocalError, counted
from glocal.files import make_folder, remove_remains, sha256, write_atomically, write_text
from glocal.methods.own_file import OwnFile, own_files, renamed, same_method
from glocal.models.weights import Weights
from glocal.training.extending import extended
from glocal.training.flat import flatten
from glocal.training.images import FILE, check_images, write_names
from glocal.training.log import FAILED

Resume = Literal["auto", "must", "never"]

# Settings that may differ when a run is continued: they decide where and how fast it runs, not what comes out.
_FREE = {
    "reproduces",
    "row",
    "published",
    "planned",
    "data.workers",
    "data.lane",
    "data.resident_megabytes",
    "data.broken_limit",
    "data.patience",
    "train.device",
    "train.devices",
    "train.machines",
    "train.requeue",
    "train.log_steps",
    "train.loggers",
    "train.checkpoint_minutes",
    "train.checkpoint_steps",
    "train.keep_checkpoints",
    "train.compile",
    "train.deterministic",
    "train.channels_last",
    "train.keep_memory",
    "train.recompute",
    "train.sharded",
}


# What a run did that is older than a setting, where that is not the default.
_WAS = {"data.color": "exact"}

_MILESTONES = "optimizer.milestones."

_LOGS = (
    *(
        "metrics.csv",
        "monitor.csv",
        "loggers.json",
        "loss.png",
        "views.png",
        "report.html",
        "skipped.txt",
        FAILED,
        FILE,
    ),
    *("method.py", "base.py"),
)


def has_checkpoint(folder: Path) -> bool:
    """Whether there is a run in a folder that can be continued."""
    return bool(checkpoint_files(folder / "checkpoints"))


def goes_on(folder: Path) -> bool:
    """Whether a run in the folder goes on with the recipe that it has written."""
    return has_checkpoint(folder) and (folder / "recipe.yaml").is_file()


def prepare_folder(
    folder: Path,
    recipe: AnyRecipe,
    source: Source,
    resume: Resume,
    *,
    extend: bool = False,
    weights: Weights | None = None,
) -> tuple[AnyRecipe, dict[str, Any] | None]:
    """Makes the run's folder, or checks that the run in it is this one.

    What a start that failed has left protects nothing: it is replaced. Files of others are not touched.

    Args:
        folder: the run's.
        recipe: resolved.
        source: the images.
        resume: as for `pretrain`.
        extend: the run may become longer.
        weights: that a new run begins with, where they are out of a file.

    Returns:
        The recipe, with what the run in the folder remembers of its extensions, and the newest checkpoint.

    Raises:
        GlocalError: the folder cannot be made, or another run, files of others or images are in it.
    """
    begun, state = _newest(folder) if resume != "never" else (has_checkpoint(folder), None)
    return together(lambda: _prepare(folder, recipe, source, resume, begun, state, extend=extend, weights=weights))


def _newest(folder: Path) -> tuple[bool, dict[str, Any] | None]:
    """Whether a run is there, and its newest checkpoint: that which the first process has chosen, in all of them."""
    found: dict[str, Any] | None = None

    def choose() -> tuple[str, int] | None:
        nonlocal found
        newest = newest_readable(folder / "checkpoints")
        if newest is None:
            return None
        path, found = newest
        set_aside_after(path)
        if not (folder / "recipe.yaml").exists():
            note(f"{folder} has lost its recipe.yaml; that in {path.name} is taken")
            write_text(folder / "recipe.yaml", str(found["recipe"]))
        return path.name, path.stat().st_size

    chosen = first_decides(choose)
    if chosen is None:
        return False, None

    def read() -> dict[str, Any]:
        path = folder / "checkpoints" / chosen[0]
        state = found or load_checkpoint(path)
        if path.stat().st_size != chosen[1]:
            raise GlocalError(f"{path} is not the file that the first process has; does {folder} lie on a shared disk?")
        return state

    return True, together(read)


def _prepare(
    folder: Path,
    recipe: AnyRecipe,
    source: Source,
    resume: Resume,
    begun: bool,
    state: dict[str, Any] | None,
    *,
    extend: bool,
    weights: Weights | None,
) -> tuple[AnyRecipe, dict[str, Any] | None]:
    if folder.exists() and not folder.is_dir():
        raise GlocalError(f"{folder} is a file; give a folder for the run")
    if process_rank() == 0:
        remove_remains(folder, ("recipe.yaml", "environment.json", *_LOGS))
    if not begun:
        if resume == "must":
            raise GlocalError(f"there is no run in {folder} to continue (no checkpoint)")
        if extend:
            raise GlocalError(f"there is no run in {folder} to extend (no checkpoint); start it without --extend")
        _begin(folder, recipe, source, weights)
        return recipe, None
    if resume == "never":
        raise GlocalError(f"there is a run in {folder} already; choose another folder, or --resume auto to continue it")
    written = load_mapping(folder / "recipe.yaml")
    assert state is not None
    images = state.get("images")
    if images is None:
        note(f"the checkpoints in {folder} are of an older glocal: whether the images are still the same is not known")
    else:
        check_images(images, source, folder)
    longer = _lengthened(recipe, written, folder, extend=extend)
    own = _own_files(longer)
    moved = _moved(own, written, folder)
    written["method"] = renamed(written.get("method") or {}, moved)
    _check_settings(longer, written, folder, moved_images=images is not None, extend=extend)
    changed = (longer.train.epochs, longer.data.source) != (_epochs(written), _source(written))
    if process_rank() == 0 and not (folder / "environment.json").is_file():
        _write_environment(folder, None)
    if process_rank() == 0 and (changed or moved):
        if longer.data.source != _source(written):
            note(f"data.source was {_source(written)}, is {longer.data.source}: the same images by name")
        write_text(folder / "recipe.yaml", longer.to_yaml())
    return longer, state


def _own_files(recipe: AnyRecipe) -> dict[str, OwnFile]:
    return own_files(recipe.method.model_dump(mode="json"))


def _moved(own: Mapping[str, OwnFile], written: Mapping[str, Any], folder: Path) -> dict[str, OwnFile]:
    """The methods' files that have another place than when the run began.

    Raises:
        GlocalError: one says something else than it did then.
    """
    before = own_files(written.get("method") or {})
    moved = {}
    for copy, place in own.items():
        kept = folder / copy
        if copy not in before or not same_method(str(place), str(before[copy])):
            continue  # another method, of which the settings tell
        if kept.is_file() and kept.read_bytes() != place.path.read_bytes():
            raise GlocalError(
                f"{place.path} has changed since the run in {folder} began, so something else would come out; choose "
                f"another folder (--out), or continue with the run's own copy: method.name={kept}:{place.kind}"
            )
        if place != before[copy]:
            moved[copy] = place
    return moved


def _begin(folder: Path, recipe: AnyRecipe, source: Source, weights: Weights | None) -> None:
    make_folder(folder)
    if process_rank() > 0:
        return
    if _is_marked(folder):
        if (folder / "recipe.yaml").exists():
            note(f"{folder} has a recipe.yaml and no checkpoint: the run that failed there is begun anew")
        for name in _LOGS:
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
    else:
        _check_holds_nothing(folder, recipe)
    _write_environment(folder, weights)  # first, for it is the mark
    write_names(source, folder)
    for copy, place in _own_files(recipe).items():
        text = place.path.read_bytes()
        write_atomically(folder / copy, lambda file, text=text: file.write(text))  # type: ignore[misc]
    write_text(folder / "recipe.yaml", recipe.to_yaml())


def _is_marked(folder: Path) -> bool:
    """Whether a run was begun in the folder, so that what it wrote there may go: its environment.json says so."""
    try:
        return "glocal" in json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _check_holds_nothing(folder: Path, recipe: AnyRecipe) -> None:
    """Refuses a folder with files that a run would write over, or with images that would look like its output.

    Raises:
        GlocalError: there are such files; it names them.
    """
    names = {entry.name for entry in os.scandir(folder)}
    own = [name for name in ("recipe.yaml", "environment.json", "tensorboard", *_LOGS) if name in names]
    if own:
        raise GlocalError(
            f"{folder} holds {', '.join(own)} of something else, which a run would write over; choose another folder "
            "(--out), or move what is there"
        )
    sources = recipe.data.source if isinstance(recipe.data.source, list) else [recipe.data.source]
    if not any(os.path.isdir(one) and os.path.samefile(one, folder) for one in sources if one):
        check_holds_no_images(folder)


def _write_environment(folder: Path, weights: Weights | None) -> None:
    """What the run is made with, and the weights that it begins with."""
    about = {
        "glocal": glocal.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": platform.platform(),
    }
    if weights is not None:
        about["init"] = str(weights.file)
        with suppress(FileNotFoundError):  # of a run that goes on, and keeps its newest checkpoints only
            about["init_sha256"] = sha256(weights.file)
    write_text(folder / "environment.json", json.dumps(about, indent=2) + "\n")


def _lengthened(recipe: AnyRecipe, written: Mapping[str, Any], folder: Path, *, extend: bool) -> AnyRecipe:
    """The recipe with the lengths that the run in the folder had before, and with this one where it is to grow."""
    lengths, epochs = tuple((written.get("train") or {}).get("extended_from") or ()), _epochs(written)
    if recipe.train.epochs == epochs:
        return extended(recipe, lengths)
    if not extend:
        return recipe
    if recipe.train.epochs < epochs:
        raise GlocalError(
            f"--extend: the run in {folder} has {counted(epochs, 'epoch')} already; give more, not "
            f"train.epochs={recipe.train.epochs}"
        )
    return extended(recipe, (*lengths, epochs))


def _check_settings(
    recipe: AnyRecipe, written: Mapping[str, Any], folder: Path, *, moved_images: bool, extend: bool
) -> None:
    """Refuses settings by which something else would come out.

    Args:
        recipe: what is wanted.
        written: what the folder's recipe says.
        folder: the run's.
        moved_images: the images may have another place, for the checkpoint knows them by their names.
        extend: the run was to become longer, so that the mend is its own settings rather than another folder.
    """
    grown = recipe.train.extended_from[-1:] == (_epochs(written),)
    free = _FREE | ({"train.epochs"} if grown else set())
    lists = ("train.extended_from", *(("data.source",) if moved_images else ()))  # flattened, they have a key an entry
    # A run that is older than a setting was made with its default, or as _WAS says.
    before = flatten(build_recipe(written).model_dump(mode="json"))
    before |= {key: value for key, value in _WAS.items() if key not in flatten(written)}
    now = flatten(recipe.model_dump(mode="json"))
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if grown:  # the epochs that are added may have milestones
        free |= {
            key for key in changed if key not in before and key.startswith(_MILESTONES) and now[key] >= _epochs(written)
        }
    changed = [key for key in changed if key not in free and not key.startswith(lists)]
    if not changed:
        return
    shown = (
        (key, *("not set" if each.get(key) is None else each[key] for each in (before, now))) for key in changed[:3]
    )
    listed = ", ".join(f"{key} was {earlier}, is {later}" for key, earlier, later in shown)
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    longer = changed == ["train.epochs"] and now["train.epochs"] > before.get("train.epochs", 0)
    own = f"repeat the settings of that run, or take them from it: --recipe {folder / 'recipe.yaml'}"
    if written.get("planned") and not recipe.planned and not extend:
        longer, own = False, "repeat its command with --time, by which it was planned"
    way = (
        "continue it for longer with --extend, or choose another folder (--out)"
        if longer
        else (own if extend else f"choose another folder (--out), or to continue it, {own}")
    )
    raise GlocalError(f"the run in {folder} has other settings: {listed}{more}; {way}")


def _epochs(written: Mapping[str, Any]) -> int:
    return int((written.get("train") or {}).get("epochs", TrainSettings().epochs))


def _source(written: Mapping[str, Any]) -> Any:
    return (written.get("data") or {}).get("source")
