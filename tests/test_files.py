"""Files are written with the mode that the user's umask gives."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(os.name == "nt", reason="no umask")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_mode_of_the_umask(umask: int, tmp_path: Path) -> None:
    code = "import sys, pathlib, glocal.files; glocal.files.write_text(pathlib.Path(sys.argv[1]), chr(97))"
    path = tmp_path / "a.txt"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, umask=umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
