"""The command line: each command parses, calls one public function, and prints."""

from __future__ import annotations

import io
import os
import sys
from importlib import import_module

from rich.console import Console

from glocal.cli.app import app
from glocal.errors import GlocalError
from glocal.files import harmless

# In the order of `glocal --help`.
for _commands in ("training", "measuring", "reproducing", "searching", "curating", "packing", "exporting", "looking"):
    import_module(f"glocal.cli.{_commands}")


def _other_process() -> bool:
    from glocal.distributed import process_rank

    return process_rank() > 0


def main() -> None:
    """Runs the command line; errors that a user can mend become one line and exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names that are no UTF-8, and terminals that are none
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        app()
    except BaseException as error:
        number = getattr(error, "signal", None)
        if debug or not (isinstance(error, GlocalError) or number is not None):
            raise
        text = harmless(str(error) if number is None else f"{error}; the same command continues it")
        if number is None or not _other_process():  # all processes of a training stop together: one says so
            Console(stderr=True, highlight=False, emoji=False).print(f"glocal: {text}", soft_wrap=True, markup=False)
        if number is None:
            sys.exit(2)
        sys.stdout.flush()
        os._exit(128 + number)  # worker processes and threads need not be waited for
