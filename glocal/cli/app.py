"""The program that all commands belong to, and how they print."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console

from glocal.files import harmless

app = typer.Typer(
    help="Self-supervised visual representation learning, globally and locally at once.",
    epilog="--debug, anywhere in the command, shows the traceback of an error.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _well_formed(settings: list[str]) -> list[str]:
    """Reads `--set` before the rest of the command: `--set train.epochs 10` would be told of an extra argument 10."""
    if settings:
        from glocal.settings import parse_overrides

        parse_overrides(settings)
    return settings


def set_option(about: str) -> Any:
    """The option `--set KEY=VALUE`."""
    return typer.Option("--set", help=about, callback=_well_formed)


Sets = Annotated[list[str] | None, set_option("A setting by its path, e.g. train.epochs=10; repeatable.")]


def show(*things: Any) -> None:
    """Prints lines of text, whatever names are in them, and tables."""
    console = Console(emoji=False)
    if not console.is_terminal:  # a pipe has no width; rich would cut tables at 80 columns
        console = Console(width=160, emoji=False)
    for thing in things:
        if isinstance(thing, str):
            thing = harmless(thing)
        console.print(thing, soft_wrap=isinstance(thing, str), highlight=False, markup=False)


def _version(wanted: bool) -> None:
    if wanted:
        from glocal import __version__

        print(f"glocal {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
