"""Checkpoints: what is damaged is never taken for what was written."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from glocal.checkpoints import checkpoint_files, load_checkpoint, newest_checkpoint, save_checkpoint
from glocal.errors import GlocalError
from tests.training.test_runs import assert_equal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    for step in (1, 2):
        method = {"weight": torch.randn(40, 50, generator=generator), "count": torch.tensor(step)}
        state = {"step": step, "recipe": "name: a", "evaluated": "backbone", "method": method}
        save_checkpoint(tmp_path, state, keep=2)
    return tmp_path


def test_a_flipped_bit_is_told_or_changes_nothing(folder: Path) -> None:
    path = checkpoint_files(folder)[0]
    whole, written, told = load_checkpoint(path), path.read_bytes(), []
    draw = random.Random(0)
    for _ in range(400):
        place, bit = draw.randrange(len(written)), draw.randrange(8)
        path.write_bytes(written[:place] + bytes([written[place] ^ 1 << bit]) + written[place + 1 :])
        try:
            assert_equal(load_checkpoint(path), whole)
        except GlocalError as error:
            told.append(str(error))
    assert len(told) > 300
    assert not any("\n" in words for words in told)


@pytest.mark.parametrize("start", [0, 4096, -4096])
def test_zeroed_pages_are_told(start: int, folder: Path) -> None:
    path = checkpoint_files(folder)[0]
    written = bytearray(path.read_bytes())
    written[start : start + 1024 or None] = bytes(1024)
    path.write_bytes(written)
    with pytest.raises(GlocalError, match="is no readable checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"step: 2\n", b"\x80\x04.", b"PK\x03\x04", "übel".encode()])
def test_where_the_newest_is_none_the_one_before_is_taken_and_said(
    content: bytes, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint_files(folder)[0].write_bytes(content)
    found = newest_checkpoint(folder)
    assert found is not None
    assert found["step"] == 1
    assert "step-000000002.pt is no readable checkpoint" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("wrong", [{"step": "2"}, {"method": [1]}, {"recipe": 3}, {"evaluated": None}])
def test_other_kinds_of_values_are_told(wrong: dict[str, Any], folder: Path) -> None:
    path = checkpoint_files(folder)[0]
    torch.save({**load_checkpoint(path), **wrong}, path)
    [key] = wrong
    with pytest.raises(GlocalError, match=f"is no readable checkpoint: its {key} is no "):
        load_checkpoint(path)
