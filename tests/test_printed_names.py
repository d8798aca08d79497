"""Names that act on a terminal, or break lines, are escapes wherever they are printed or written in lines."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from glocal.cli.app import app, show
from glocal.console import name_cell, note, tell, warn
from glocal.data.sources.listed import ListedImages
from glocal.files import harmless, write_csv

NAME = "a\nb\r\x1b]0;title\x07\x9b31m\u202e[bold]:x:.png"
SHOWN = "a\\nb\\r\\x1b]0;title\\x07\\x9b31m\\u202e[bold]:x:.png"


def test_messages_are_one_line_without_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    assert harmless(NAME) == SHOWN
    for say, before in ((note, "note: "), (warn, "warning: "), (tell, "")):
        say(NAME)
        assert capsys.readouterr().err == f"{before}{SHOWN}\n"
    shown = Console(width=200)
    shown.print(name_cell(NAME + os.fsdecode(b"\xff")))
    assert capsys.readouterr().out == f"{SHOWN}\\udcff\n"


def test_an_error_of_the_command_line_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from glocal import cli

    monkeypatch.setattr("sys.argv", ["glocal", "check", f"nowhere/{NAME}"])
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr().err
    assert said.startswith("glocal: there is no folder nowhere")
    assert said.count("\n") == 1
    assert "\x1b" not in said


def test_what_a_command_prints_at_its_end_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    show(f"run:  {NAME}", f"use:  {NAME}")
    assert capsys.readouterr().out == f"run:  {SHOWN}\nuse:  {SHOWN}\n"


def test_commands_that_are_printed_have_names_in_quotes(
    image_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "a b"
    app(["pack", str(image_folder(2)), "--out", str(place), "--quiet"], standalone_mode=False)
    assert f"check:  glocal pack --check '{place}'\n" in capsys.readouterr().out


def test_tables_keep_names_with_carriage_returns(tmp_path: Path) -> None:
    names = ["a\rb.png", "c\r\nd.png", 'e"\n.png', "f.png"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    write_csv(tmp_path / "names.csv", ("path",), [(name,) for name in names], opened=True)
    assert list(ListedImages(tmp_path / "names.csv").keys) == names
    assert (tmp_path / "names.csv").read_bytes().endswith(b"\nf.png\n")
