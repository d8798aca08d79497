"""A full disk, or a folder that is gone, ends a training in one line and costs what came after its checkpoint."""

import errno
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import glocal
from glocal import cli
from glocal.checkpoints import checkpoint_files, newest_checkpoint
from glocal.errors import WriteError
from glocal.files import write_atomically
from glocal.training import log, loop
from tests.training.test_runs import DATA, TINY, assert_equal

SETTINGS = {**TINY, "train.checkpoint_steps": 2}
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def train(out: Path) -> glocal.Run:
    return glocal.pretrain(DATA, out, overrides=SETTINGS, progress=False)


def at_step(number: int, act: Any, patch: pytest.MonkeyPatch) -> None:
    """Has something happen before a step."""
    real, steps = loop._optimise, iter(range(100))

    def optimise(*args: Any) -> torch.Tensor:
        if next(steps) == number:
            act()
        return real(*args)

    patch.setattr(loop, "_optimise", optimise)


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes; the system refuses the rest as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("no_pictures")
def test_a_checkpoint_that_finds_no_room_leaves_the_one_before_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = files_up_to(20_000)
    with monkeypatch.context() as patch:
        at_step(5, limit.__enter__, patch)
        try:
            with pytest.raises(WriteError, match=r"step-0+6\.pt cannot be written: .*goes on from .*step-0+4\.pt$"):
                train(tmp_path / "a")
        finally:
            limit.__exit__(None, None, None)
    assert not list(tmp_path.rglob("*.part"))
    train(tmp_path / "a")
    whole, mended = (newest_checkpoint(train(tmp_path / name).folder / "checkpoints") for name in ("whole", "a"))
    assert whole is not None
    assert mended is not None
    assert_equal(whole["method"], mended["method"])


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("name", log.TABLES)
def test_a_log_that_finds_no_room_ends_the_training_in_a_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.open

    def full(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        if path.name == name and mode == "a":
            raise FULL
        return real(path, mode, *args, **options)

    with monkeypatch.context() as patch:
        at_step(5, lambda: patch.setattr(Path, "open", full), patch)
        with pytest.raises(WriteError, match=rf"{name} cannot be written: No space left.*goes on from .*step-0+4\.pt$"):
            train(tmp_path / "a")
    assert train(tmp_path / "a").metrics["step"] == list(range(1, 13))


def test_pictures_and_tensorboard_that_find_no_room_are_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Board:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def add_scalar(self, *_: Any) -> None:
            raise FULL

    def full(figure: Any, file: Any, **_: Any) -> None:
        raise FULL

    monkeypatch.setattr(log, "SummaryWriter", Board)
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    assert train(tmp_path / "a").metrics["step"][-1] == 12
    said = capsys.readouterr().err
    for what in ("views.png cannot be written", "TensorBoard's events cannot be written", "loss.png cannot be written"):
        assert said.count(what) == 1


@pytest.mark.usefixtures("no_pictures")
def test_a_folder_that_was_made_anew_is_another_trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def anew() -> None:
        shutil.rmtree(tmp_path / "a")
        (tmp_path / "a").mkdir()
        (tmp_path / "a/.lock").touch()

    at_step(5, anew, monkeypatch)
    with pytest.raises(WriteError, match="a was removed, or made anew, while this training was running in it"):
        train(tmp_path / "a")
    assert [path.name for path in (tmp_path / "a").iterdir()] == [".lock"]


@pytest.mark.usefixtures("no_pictures")
def test_a_run_whose_folder_is_gone_ends_in_a_line_and_leaves_no_half_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_step(5, lambda: shutil.rmtree(tmp_path / "a"), monkeypatch)
    with pytest.raises(
        WriteError, match=r"a was removed, or made anew, while this training was running in it.*from the beginning"
    ):
        train(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_library_that_makes_another_error_of_a_full_disk_hides_nothing(tmp_path: Path) -> None:
    def write(_: Any) -> None:
        try:
            raise FULL
        except OSError:
            raise RuntimeError("unexpected pos 768") from None

    (tmp_path / "a").write_text("before")
    with pytest.raises(WriteError, match=r"a cannot be written: No space left on device$") as found:
        write_atomically(tmp_path / "a", write)
    assert found.value.errno == errno.ENOSPC
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_what_the_system_refuses_anywhere_is_one_line_of_the_command(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused() -> None:
        raise OSError(number, os.strerror(number), "found.bin")

    monkeypatch.setattr(cli, "app", refused)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert capsys.readouterr().err == f"glocal: found.bin: {os.strerror(number)}\n"


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="a folder in which not even root may write")
@pytest.mark.parametrize("command", [["pretrain", "--data", DATA], ["evaluate", "untrained:timm:resnet18"]])
def test_a_read_only_folder_is_one_line_before_anything_is_computed(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["glocal", *command, "--out", "/sys/kernel/runs"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("glocal: ")
    assert "cannot be made: " in last or "cannot be written: " in last


def test_nothing_that_was_written_is_left_to_the_system_to_write_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss of power takes neither a checkpoint, nor its name, nor the folder that it is in."""
    synced: list[str] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(os.readlink(f"/proc/self/fd/{file}")), real(file))[1])
    train(tmp_path / "a")
    run = str(tmp_path / "a")
    assert {str(tmp_path), run, f"{run}/checkpoints", f"{run}/metrics.csv"} <= set(synced)
    names = [Path(name).name for name in synced]
    assert sum(name.startswith(".step-") for name in names) == 6
    assert any(name.startswith(".recipe.yaml") for name in names)
    assert len(checkpoint_files(tmp_path / "a" / "checkpoints")) == 2
