"""Which part of the package may know which: layers import downwards only, and no module imports in a circle.

`docs/architecture.md` draws the same picture.
"""

import ast
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import glocal

# From the bottom up. A part may import itself and what stands in rows before its own; the longest name that fits a
# module is its part.
LAYERS = (
    ("glocal.waiting", "glocal.regular"),
    ("glocal.errors", "glocal"),  # `glocal` itself loads its public names when they are asked for
    ("glocal.plain",),
    (
        *("glocal.files", "glocal.locking", "glocal.distributed", "glocal.transfer", "glocal.memory"),
        *("glocal.settings", "glocal.signals"),
    ),
    ("glocal.console", "glocal.schedules"),
    ("glocal.checkpoints",),
    ("glocal.views",),
    ("glocal.data", "glocal.losses", "glocal.neighbors"),
    ("glocal.models",),
    ("glocal.methods",),
    ("glocal.training.optimizers", "glocal.training.log"),  # their settings are in the recipe, their files in plots
    ("glocal.papers",),  # the printed numbers, which recipes name
    ("glocal.config", "glocal.recipes"),
    ("glocal.models.loading",),  # of a run: its recipe says what to build
    ("glocal.report",),
    ("glocal.evaluation",),
    ("glocal.papers.measured", "glocal.papers.data_sets"),  # beside a paper's number, that of a run
    ("glocal.papers.shown",),
    ("glocal.embeddings", "glocal.exports"),
    ("glocal.curation",),
    ("glocal.pages",),
    ("glocal.training",),
    ("glocal.sweep", "glocal.demo", "glocal.doctor", "glocal.reproduction"),
    ("glocal.cli",),
    ("glocal.__main__",),
)

# Said apart from the order, so that a change of the rows above cannot undo it in passing.
NEVER = {
    "glocal.views": ("glocal.data", "glocal.models", "glocal.methods", "glocal.training", "glocal.evaluation"),
    "glocal.losses": ("glocal.data", "glocal.models", "glocal.methods", "glocal.training", "glocal.evaluation"),
    "glocal.data": ("glocal.methods", "glocal.training", "glocal.evaluation", "glocal.config"),
    "glocal.models": ("glocal.training", "glocal.evaluation"),
    "glocal.methods": ("glocal.training", "glocal.evaluation", "glocal.data", "glocal.config"),
    "glocal.report": ("glocal.evaluation",),
    "glocal.evaluation": ("glocal.training",),
}


class Import(NamedTuple):
    """`importer`, in line `line`, imports the module `imported`; `lazy`: only when a function is called."""

    importer: str
    imported: str
    line: int
    lazy: bool

    def __str__(self) -> str:
        return f"{self.importer}, line {self.line}, imports {self.imported}"


def imports_of(module: str, text: str, modules: Iterable[str]) -> Iterator[Import]:
    """The imports of this package in a module's text, those for type checkers alone left out."""

    def walk(node: ast.AST, *, lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
                yield from walk(ast.Module(child.orelse, []), lazy=lazy)
                continue
            names: list[str] = []
            if isinstance(child, ast.Import):
                names = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{module}, line {child.lineno}: write the whole name of what is imported"
                below = [f"{child.module}.{alias.name}" for alias in child.names]
                names = [name if name in modules else str(child.module) for name in below]
            for name in dict.fromkeys(names):
                if name.partition(".")[0] == "glocal":
                    yield Import(module, name, child.lineno, lazy)
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from walk(child, lazy=lazy or inside)

    yield from walk(ast.parse(text), lazy=False)


def package() -> dict[str, list[Import]]:
    """The imports of every module of the package."""
    root = Path(glocal.__file__).parent
    files = {}
    for path in sorted(root.rglob("*.py")):
        parts = ("glocal", *path.relative_to(root).with_suffix("").parts)
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return {name: list(imports_of(name, text, files)) for name, text in files.items()}


def within(module: str, part: str) -> bool:
    return module == part or module.startswith(f"{part}.")


def part_of(module: str) -> tuple[int, str]:
    """The row and the name of a module's part."""
    found = [(len(part), row, part) for row, parts in enumerate(LAYERS) for part in parts if within(module, part)]
    _, row, part = max(found)
    assert part != "glocal" or module == "glocal", f"{module} has no place in LAYERS: say there what it may know"
    return row, part


def upward(imports: Iterable[Import]) -> list[str]:
    """The imports that go up or sideways, in words."""
    found = []
    for one in imports:
        (own_row, own), (row, part) = part_of(one.importer), part_of(one.imported)
        if own != part and row >= own_row:
            found.append(f"{one}: {part} is {'above' if row > own_row else 'beside'} {own}")
    return found


def forbidden(imports: Iterable[Import]) -> list[str]:
    """The imports that NEVER rules out, in words."""
    return [
        f"{one}: {part} must not know {other}"
        for one in imports
        for part, others in NEVER.items()
        for other in others
        if within(one.importer, part) and within(one.imported, other)
    ]


def circle(imports: Iterable[Import]) -> list[str]:
    """The modules of a circle of imports that are carried out when a module is loaded; empty where there is none."""
    graph: dict[str, set[str]] = {}
    for one in imports:
        if one.lazy:
            continue
        names = one.imported.split(".")  # importing a.b.c loads a and a.b, unless one is inside these already
        loaded = {".".join(names[:end]) for end in range(1, len(names) + 1)}
        graph.setdefault(one.importer, set()).update(name for name in loaded if not within(one.importer, name))
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


PACKAGE = package()


@pytest.mark.parametrize("module", PACKAGE)
def test_a_module_knows_only_what_is_below_it(module: str) -> None:
    assert not upward(PACKAGE[module])
    assert not forbidden(PACKAGE[module])


def test_no_module_imports_itself_by_way_of_others() -> None:
    found = circle(one for imports in PACKAGE.values() for one in imports)
    assert not found, f"a circle of imports: {' → '.join(found)}"


def read(module: str, text: str) -> list[Import]:
    return list(imports_of(module, text, PACKAGE))


def test_imports_are_found_wherever_they_stand() -> None:
    text = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import glocal.cli\nelse:\n    import glocal.files\n"
        "from glocal import sweep, __version__\ndef load():\n    from glocal.models import loading\nimport torch\n"
    )
    assert read("glocal.views.plan", text) == [
        Import("glocal.views.plan", "glocal.files", 5, lazy=False),
        Import("glocal.views.plan", "glocal.sweep", 6, lazy=False),
        Import("glocal.views.plan", "glocal", 6, lazy=False),
        Import("glocal.views.plan", "glocal.models.loading", 8, lazy=True),
    ]


def test_what_breaks_a_rule_is_named() -> None:
    lazy = "def f():\n    from glocal.data.sources.base import Source\n"
    assert upward(read("glocal.losses.soft", lazy)) == [
        "glocal.losses.soft, line 2, imports glocal.data.sources.base: glocal.data is beside glocal.losses"
    ]
    assert upward(read("glocal.sweep", "import glocal.cli")) == [
        "glocal.sweep, line 1, imports glocal.cli: glocal.cli is above glocal.sweep"
    ]
    assert forbidden(read("glocal.report.maps", "import glocal.evaluation.compare")) == [
        "glocal.report.maps, line 1, imports glocal.evaluation.compare: glocal.report must not know glocal.evaluation"
    ]
    with pytest.raises(AssertionError, match="glocal.new has no place in LAYERS"):
        part_of("glocal.new")


def test_a_circle_is_named_from_module_to_module() -> None:
    one, two = "glocal.views.plan", "glocal.views.crops"
    both = [*read(one, f"import {two}"), *read(two, f"import {one}")]
    assert set(circle(both)) == {one, two}
    assert circle([*read(one, f"import {two}"), *read(two, f"def f():\n    import {one}")]) == []
