"""What README and docs say is so: commands, links, anchors, pictures, files are there, and the API is complete."""

import re
import shlex
import tomllib
import unicodedata
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer

import glocal
from glocal import losses
from glocal.cli import app
from glocal.methods import method_names

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
IN_DOCS = sorted(DOCS.rglob("*.md"))
PAGES = [ROOT / "README.md", *IN_DOCS]
LINKING = [*PAGES, ROOT / "examples" / "README.md", ROOT / "CONTRIBUTING.md"]
_FENCE = re.compile(r"^ *(```+)(\w*)")
_SHELL = {"bash", "console", "sh"}
_OPEN = re.compile(r"[…|]| \[|\.\.\.|[A-Z]+ RUN")  # a scheme to be filled in, not a command to type
_LINK = re.compile(r"(?P<picture>!?)\[(?:[^\[\]]|\[[^\]]*\])*\]\((?P<place>[^)\s]+)\)")
_FILE = re.compile(r"`(?:python )?((?:glocal|tests|benchmarks|examples|docs)/[\w./-]*)[` ]")


def lines_of(text: str) -> Iterator[tuple[str | None, str]]:
    """Each line with the language of the fence that it lies in; None outside of fences.

    >>> list(lines_of("a\\n```bash\\nb\\n```"))
    [(None, 'a'), ('bash', 'b')]
    """
    language: str | None = None
    for line in text.splitlines():
        fence = _FENCE.match(line)
        if fence is None:
            yield language, line
        else:
            language = fence[2] if language is None else None


def commands(text: str) -> list[str]:
    """What follows `glocal` in the lines of a page that are commands, broken lines joined, remarks left out.

    >>> commands("    glocal embed runs/a photos/ --out E   # once\\n    glocal export RUN --to timm|onnx")
    ['embed runs/a photos/ --out E']
    >>> commands("```console\\n$ glocal watch runs\\n```\\n```bash\\nglocal doctor\\n```\\n```text\\nglocal no\\n```")
    ['watch runs', 'doctor']
    """
    found = []
    for language, line in lines_of(re.sub(r"\\\n\s*", " ", text)):
        start = r"    " if language is None else r"(?:\$ )?"
        match = re.match(start + r"glocal (?P<rest>[a-z].*)$", line)
        if match and (language is None or language in _SHELL):
            found.append(match["rest"].split(" #")[0].strip())
    return [command for command in found if not _OPEN.search(command)]


def prose(text: str) -> str:
    """A page without its fences and without code in its lines."""
    return re.sub(r"`[^`\n]*`", "``", "\n".join(line for language, line in lines_of(text) if language is None))


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings that are the same on the site (Python-Markdown) and on GitHub.

    >>> anchors("# Which one?\\n\\n## Für alle")
    {'which-one'}
    """
    headings = [line.lstrip("# ") for language, line in lines_of(text) if language is None and re.match("#+ ", line)]
    plain = [re.sub(r"[`*]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)) for heading in headings]
    return {_on_github(heading) for heading in plain} & {_on_the_site(heading) for heading in plain}


def _on_github(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _on_the_site(heading: str) -> str:
    ascii_ = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_).strip().lower())


@cache
def _group() -> Any:
    return typer.main.get_command(app)


CASES = [(page.relative_to(ROOT), command) for page in PAGES for command in commands(page.read_text(encoding="utf-8"))]


def test_commands_are_found() -> None:
    names = {place.name for place, _ in CASES}
    assert {"README.md", "tutorial.md", "search.md", "curation.md", "export.md", "distillation.md"} <= names
    assert len(CASES) > 120


@pytest.mark.parametrize(("page", "command"), CASES, ids=[f"{page}: {command}"[:80] for page, command in CASES])
def test_a_documented_command_can_be_read(page: Path, command: str) -> None:
    group = _group()
    name, *arguments = shlex.split(command)
    found = group.get_command(group.make_context("glocal", [], resilient_parsing=True), name)
    assert found is not None, f"{page}: there is no command {name}"
    found.make_context(name, arguments)


@pytest.mark.parametrize("page", LINKING, ids=[str(page.relative_to(ROOT)) for page in LINKING])
def test_links_anchors_and_pictures_lead_somewhere(page: Path) -> None:
    """On GitHub and on the site alike; `make docs` looks at the site's own links once more, and at the API's names."""
    for link in _LINK.finditer(prose(page.read_text(encoding="utf-8"))):
        place, _, anchor = link["place"].partition("#")
        if re.match(r"\w+:", place):
            assert not link["picture"], f"{page.name} shows a picture from another place: {place}"
            continue
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), f"{page.name} links to {place}, which is not there"
        if page.is_relative_to(DOCS):
            assert target.is_relative_to(DOCS), f"{page.name} links to {place}, which is not on the site"
        if anchor:
            there = anchors(target.read_text(encoding="utf-8"))
            assert anchor in there, f"{page.name}: {target.name} has no heading #{anchor}"


def test_every_picture_is_shown_somewhere() -> None:
    shown = {
        (page.parent / link["place"]).resolve()
        for page in PAGES
        for link in _LINK.finditer(prose(page.read_text(encoding="utf-8")))
        if link["picture"]
    }
    assert shown >= {path.resolve() for path in (DOCS / "images").iterdir()}


@pytest.mark.parametrize("page", LINKING, ids=[str(page.relative_to(ROOT)) for page in LINKING])
def test_files_that_a_page_names_are_there(page: Path) -> None:
    for name in _FILE.findall(page.read_text(encoding="utf-8")):
        if "NAME" not in name and "*" not in name:
            assert (ROOT / name).exists(), f"{page.name} names {name}, which is not there"


def test_every_page_is_in_the_navigation_and_in_it_once() -> None:
    def pages(entry: object) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for inner in entry.values() if isinstance(entry, dict) else entry:  # type: ignore[attr-defined]
                yield from pages(inner)

    listed = list(pages(tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]))
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in IN_DOCS)


def test_all_that_is_public_has_its_place_in_the_api() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
    placed = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    assert len(placed) == len(set(placed))
    modules = {"losses", "methods"}
    assert {f"glocal.{name}" for name in glocal.__all__} - {f"glocal.{name}" for name in modules} <= set(placed)
    assert {f"glocal.losses.{name}" for name in losses.__all__} <= set(placed)
    for name in placed:
        module, _, attribute = name.rpartition(".")
        assert hasattr(import_module(module), attribute), name


def test_every_method_has_its_place_on_a_page_and_in_the_api() -> None:
    families = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "methods").glob("*.md"))
    api = (DOCS / "api" / "methods.md").read_text(encoding="utf-8")
    table = (DOCS / "methods.md").read_text(encoding="utf-8")
    for name in method_names():
        assert name == "supervised" or f"`glocal/methods/{name}.py`" in families, name
        assert f"::: glocal.methods.{name}." in api, name
        assert f"`{name}.py`" in table, name
