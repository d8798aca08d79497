"""Processes that torchrun has started measure together what one alone measures."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

import glocal
from tests.preloaded import Preloaded


def measured(folder: Path) -> object:
    found = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["protocols"]
    return {name: {key: its[key] for key in ("results", "train", "test")} for name, its in found.items()}


@pytest.mark.parametrize("cache", [pytest.param(False, marks=pytest.mark.slow), True])
def test_two_processes_share_the_images_and_find_the_same(
    image_folder: Callable[..., Path], tmp_path: Path, preloaded: Preloaded, cache: bool
) -> None:
    folder = image_folder(45)
    (folder / "class7" / "0007.png").write_bytes(b"no image")
    (folder / "class4" / "0044.png").write_bytes(b"no image")
    alone = {
        "train": folder,
        "test": folder,
        "protocols": ["knn", "linear"],
        "k": [3],
        "settings": {"linear.epochs": 3},
    }
    glocal.evaluate("pixels", **alone, cache=False, out=tmp_path / "one", progress=False, workers=0)
    words = ["--protocol=knn", "--protocol=linear", "--k=3", "--set=linear.epochs=3", "--workers=0", "--quiet"]
    command = ["evaluate", "pixels", f"--train={folder}", f"--test={folder}", *words, f"--out={tmp_path / 'two'}"]
    kept = {"GLOCAL_CACHE": str(tmp_path / "cache")}
    if not cache:
        command.append("--no-cache")
    for _ in range(2 if cache else 1):  # the second one reads what the first one has kept
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2", **kept}
        both = [
            preloaded.start(*command, environment={**meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(2)
        ]
        done = [process.finish() for process in both]
        assert [process.returncode for process in done] == [0, 0], b"".join(process.stderr for process in done)
        assert b"".join(process.stdout for process in done).count(b"written to") == 1
        assert measured(tmp_path / "two") == measured(tmp_path / "one")
    if cache:
        assert len([name for name in os.listdir(tmp_path / "cache") if name.endswith(".safetensors")]) == 1
