"""A pipe in the place of a file that a user names is refused in a line; nothing waits for its other end."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from glocal.config import load_mapping
from glocal.curation.naming import _names_in, table_lines
from glocal.data.annotated.boxes import _read_xml
from glocal.data.annotated.pickles import read_plain_pickle
from glocal.data.annotated.queries import _from_csv
from glocal.data.annotated.transfer_sets import _lines, _matlab
from glocal.data.annotated.voc import read_image_set
from glocal.data.packs.layout import read_about
from glocal.data.sources.opening import open_source
from glocal.evaluation.protocols.finetune import read_list
from glocal.methods.own_file import load_file
from glocal.models.loading import load_backbone
from glocal.models.weights import read_weights
from glocal.plain import read_json, read_yaml_file
from glocal.regular import open_regular_text

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")

READERS: dict[str, Callable[[Path], Any]] = {
    "a list.txt": open_source,
    "a table.csv": open_source,
    "classes.txt": lambda path: open_source(f"shapes@{path}"),
    "rows.parquet": lambda path: open_source(f"hf:{path}"),
    "w.pth": read_weights,
    "w.safetensors": read_weights,
    "step.pt": load_backbone,
    "recipe.yaml": load_mapping,
    "settings.yaml": lambda path: read_yaml_file(path, "settings"),
    "annotations.json": read_json,
    "own.py": load_file,
    "names.txt": _names_in,
    "labels.csv": table_lines,
    "queries.csv": _from_csv,
    "a.xml": lambda path: _read_xml(path, path),
    "a.pkl": read_plain_pickle,
    "train.txt": read_image_set,
    "lines.txt": _lines,
    "a.mat": _matlab,
    "1percent.txt": lambda path: read_list(path, open_source("shapes:test:4")),
    "glocal-pack.json": lambda path: read_about(path.parent),
}


@pytest.fixture(autouse=True)
def _seconds() -> Iterator[None]:
    """What waits for a pipe fails."""

    def late(*_: Any) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 20)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", READERS)
def test_no_reader_of_users_files_waits_for_a_pipe(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    missing = name == "train.txt"  # whatever is wrong with a list of VOC, it says where it comes from
    with pytest.raises((ValueError, OSError), match="there is no" if missing else "no file but a pipe or a device"):
        READERS[name](tmp_path / name)


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfcaf\xc3\xa9\n")
    with open_regular_text(tmp_path / "a.txt") as file:
        assert file.read() == "café\n"
