"""Names of files that are no UTF-8: Linux allows any bytes, and Python gives them as text that cannot be encoded."""

import csv
import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from glocal.config import load_mapping
from glocal.evaluation import evaluate
from glocal.evaluation.protocols import protocol_names
from glocal.report.affinity import draw_affinity
from glocal.training.run import pretrain
from tests.preloaded import Preloaded

RUN = {
    "model.name": "resnet18",
    "model.options": {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]},
    "model.stem": "standard",
    "train.batch_size": 8,
    "train.epochs": 1,
    "monitor.knn_epochs": 1,
}


def named(*parts: bytes) -> str:
    return os.path.join(*(os.fsdecode(part) for part in parts))


def fill(folder: str, count: int, *, broken: bool = False) -> str:
    """Two classes, one of them with a name in Latin-1, as are some files."""
    try:
        os.makedirs(named(os.fsencode(folder), b"caf\xe9"))
    except OSError:
        pytest.skip("this file system takes only names in UTF-8")
    os.makedirs(named(os.fsencode(folder), b"tea"))
    generator = torch.Generator().manual_seed(0)
    for number in range(count):
        pixels = torch.randint(0, 256, (32, 32, 3), generator=generator, dtype=torch.uint8)
        place = named(os.fsencode(folder), (b"caf\xe9", b"tea")[number % 2], b"\xff%d.png" % number)
        Image.fromarray(pixels.numpy()).save(place)
    if broken:
        Path(named(os.fsencode(folder), b"tea", b"broken\xff.png")).write_bytes(b"no image")
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> tuple[str, str, str]:
    top = os.fsencode(tmp_path)
    train, test = fill(named(top, b"tr\xe4in"), 40, broken=True), fill(named(top, b"test\xff"), 20)
    return train, test, named(top, b"run\xff")


def test_a_run_and_its_evaluation_finish_with_names_that_are_no_utf_8(folders: tuple[str, str, str]) -> None:
    train, test, out = folders
    pretrain(train, out, overrides={**RUN, "data.broken_limit": 0.1, "data.test": test}, progress=False)
    run = Path(out)
    assert {"loss.png", "views.png", "recipe.yaml", "metrics.csv", "skipped.txt"} <= {
        path.name for path in run.iterdir()
    }
    assert load_mapping(run / "recipe.yaml")["data"]["source"] == train  # the name comes back as it was
    assert b"tea/broken\xff.png" in (run / "skipped.txt").read_bytes()  # the name as it stands on the disk
    pretrain(train, out, overrides={**RUN, "data.broken_limit": 0.1, "data.test": test}, progress=False)  # continued

    written = run / "evaluation"
    found = evaluate(out, train=train, test=test, protocols=["all"], k=[2], out=written, progress=False)
    again = evaluate(out, train=train, test=test, protocols=["all"], k=[2], out=written, progress=False)  # cached
    assert set(found["protocols"]) == set(again["protocols"]) <= set(protocol_names())
    told = json.loads((written / "evaluation.json").read_text(encoding="utf-8"))
    assert told["protocols"].keys() == found["protocols"].keys()
    with (written / "evaluation.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.reader(file))) > len(found["protocols"])


def test_the_command_line_prints_names_that_are_no_utf_8(folders: tuple[str, str, str], preloaded: Preloaded) -> None:
    train, test, out = folders
    sets = [f"--set={key}={json.dumps(value)}" for key, value in {**RUN, "data.broken_limit": 0.1}.items()]
    strict = "import sys; sys.stdout.reconfigure(encoding='utf-8', errors='strict')"  # as a terminal in UTF-8
    for command in (
        ["pretrain", "--data", train, "--out", out, *sets],
        ["evaluate", out, "--train", train, "--test", test, "--protocol", "knn", "--k", "2"],
        ["compare", out, "--out", named(os.fsencode(out), b"compare")],
        ["views", "--data", train, "--out", named(os.fsencode(out), b"sheet\xff.png")],
        ["evaluate", named(os.fsencode(out), b"absent"), "--train", train, "--test", test],
    ):
        done = preloaded.run(*command, before=strict)
        assert done.returncode == (2 if command[1].endswith("absent") else 0), done.stderr.decode(errors="replace")
        assert b"Traceback" not in done.stderr
        done.stdout.decode("utf-8")  # what is printed is UTF-8
        done.stderr.decode("utf-8")


def test_a_picture_with_names_that_are_no_utf_8_is_drawn(folders: tuple[str, str, str], tmp_path: Path) -> None:
    train, _, out = folders
    logo = {**RUN, "method.name": "logo", "method.base": {"name": "moco", "queue_size": 16}, "monitor.knn_epochs": 0}
    pretrain(train, out, overrides={**logo, "data.broken_limit": 0.1}, progress=False)
    assert len(draw_affinity(out, tmp_path / "a.png").images) == 4
