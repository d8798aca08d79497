"""How far work is and how long it takes: lines now and then where there is no terminal."""

import io

import pytest
import torch
from rich.console import Console

from glocal.console import NowAndThen, progress_bar, progress_of
from glocal.distributed import own_device, processes_together, wait_for_all
from glocal.transfer import to_host


def test_lines_say_how_much_is_done_and_how_long_the_rest_takes(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    with progress_of("embedding photos", "images", 1000, done=400, clock=NowAndThen(lambda: now[0])) as advance:
        for _ in range(60):  # ten images in two seconds
            now[0] += 2
            advance(10)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "embedding photos: 450 of 1,000 images, 5 images/s, 0:01:50 left",
        "embedding photos: 550 of 1,000 images, 5 images/s, 0:01:30 left",
        "embedding photos: 750 of 1,000 images, 5 images/s, 0:00:50 left",
    ]


def test_names_on_a_bar_are_no_markup() -> None:
    bar = progress_bar("images", extra=("loss",))
    bar.add_task("embedding x[/y] [old]", total=3, loss="[/z]")
    shown = Console(width=200, file=io.StringIO())
    shown.print(bar.get_renderable())
    assert isinstance(shown.file, io.StringIO)
    assert "embedding x[/y] [old]" in shown.file.getvalue()


def test_nothing_is_said_where_it_is_not_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    with progress_of("w", "images", 10, visible=False, clock=NowAndThen(lambda: now[0])) as advance:
        now[0] = 100
        advance(5)
    assert capsys.readouterr().err == ""


def test_a_process_alone_waits_for_none_and_takes_the_device_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with processes_together():
        wait_for_all()
        assert not torch.distributed.is_initialized()
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert own_device("cpu") == "cpu"
    assert own_device("cuda") == "cuda:1"


def test_what_is_on_the_host_is_there_at_once() -> None:
    one, other = torch.rand(3), torch.arange(4)
    there = to_host(one, other)()
    assert torch.equal(there[0], one)
    assert torch.equal(there[1], other)
