"""The commands in README and docs are commands that there are, with options that they have."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from glocal.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_LINE = re.compile(r"^(?:    |\$ )glocal (?P<rest>[a-z].*)$")
_OPEN = re.compile(r"[…|\[\]]|\.\.\.|[A-Z]+ RUN")  # a scheme to be filled in, not a command to type


def commands(text: str) -> list[str]:
    """What follows `glocal` in the lines of a page that are commands, broken lines joined, remarks left out.

    >>> commands("    glocal embed runs/a photos/ --out E   # once\\n    glocal export RUN --to timm|onnx")
    ['embed runs/a photos/ --out E']
    """
    joined = re.sub(r"\\\n\s*", " ", text)
    found = [match["rest"].split(" #")[0].strip() for line in joined.splitlines() if (match := _LINE.match(line))]
    return [command for command in found if not _OPEN.search(command)]


CASES = [(page.name, command) for page in PAGES for command in commands(page.read_text(encoding="utf-8"))]


def test_commands_are_found() -> None:
    names = {name for name, _ in CASES}
    assert {"README.md", "tutorial.md", "search.md", "curation.md", "export.md"} <= names
    assert len(CASES) > 40


@pytest.mark.parametrize(("page", "command"), CASES)
def test_a_documented_command_can_be_read(page: str, command: str) -> None:
    group = typer.main.get_command(app)
    name, *arguments = shlex.split(command)
    found = group.get_command(group.make_context("glocal", [], resilient_parsing=True), name)  # type: ignore[attr-defined]
    assert found is not None, f"{page}: there is no command {name}"
    found.make_context(name, arguments)


def test_links_between_pages_lead_somewhere() -> None:
    for page in [*PAGES, ROOT / "examples" / "README.md", ROOT / "CONTRIBUTING.md"]:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name} links to {link}, which is not there"
