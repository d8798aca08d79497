"""Checkpoints: what is damaged is never taken for what was written."""

import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from glocal.checkpoints import (
    checkpoint_files,
    load_checkpoint,
    newest_checkpoint,
    newest_readable,
    save_checkpoint,
    set_aside_after,
)
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


def test_every_bit_of_a_directory_entry_and_of_the_end_is_told(folder: Path) -> None:
    path = checkpoint_files(folder)[0]
    written = path.read_bytes()
    entry = written.index(b"PK\1\2")
    for place in (*range(entry, entry + 60), *range(len(written) - 100, len(written))):
        for bit in range(8):
            path.write_bytes(written[:place] + bytes([written[place] ^ 1 << bit]) + written[place + 1 :])
            with pytest.raises(GlocalError, match="is no readable checkpoint"):
                load_checkpoint(path)


def test_checkpoints_without_a_hash_of_earlier_versions_are_read_and_their_damages_told(folder: Path) -> None:
    path = checkpoint_files(folder)[0]
    whole = load_checkpoint(path)
    torch.save(whole, path)
    assert_equal(load_checkpoint(path), whole)
    written = path.read_bytes()
    for entry in [match.start() for match in re.finditer(b"PK\1\2", written)]:
        damaged = bytearray(written)
        damaged[entry + 38] ^= 16  # a folder, torch would take it for
        path.write_bytes(damaged)
        with pytest.raises(GlocalError, match="is no readable checkpoint"):
            load_checkpoint(path)


def test_names_that_are_no_checkpoints_are_left_alone(folder: Path) -> None:
    newest, before = checkpoint_files(folder)
    others = [folder / name for name in ("step-best.pt", "step-000000009 (copy).pt", "step-9.pt")]
    for other in others:
        other.write_bytes(before.read_bytes())
    (folder / "step-1000000000.pt").write_bytes(newest.read_bytes())  # ten digits
    assert [path.name for path in checkpoint_files(folder)] == ["step-1000000000.pt", newest.name, before.name]
    save_checkpoint(folder, load_checkpoint(newest), keep=1)
    assert checkpoint_files(folder) == [newest]
    assert all(other.exists() for other in others)


def test_a_damaged_newer_file_costs_no_good_one(folder: Path) -> None:
    newest, before = checkpoint_files(folder)
    state = load_checkpoint(before)
    damaged = folder / "step-000000018.pt"
    damaged.write_bytes(newest.read_bytes()[:-1])
    found = newest_readable(folder)
    assert found is not None
    assert found[0] == newest
    set_aside_after(found[0])
    assert checkpoint_files(folder) == [newest, before]
    assert damaged.with_suffix(".damaged").exists()
    damaged.write_bytes(b"")  # and where it could not be renamed
    saved = save_checkpoint(folder, {**state, "step": 14}, keep=1)
    assert checkpoint_files(folder) == [saved]


@pytest.mark.parametrize(("number", "words"), [(2, "a newer glocal (format 2); upgrade glocal"), (0, "format 0")])
def test_other_formats_are_refused_by_number_and_newer_ones_are_not_passed_over(
    number: int, words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkpoint_files(folder)[0]
    torch.save({**load_checkpoint(path), "format": number}, path)
    with pytest.raises(GlocalError, match=re.escape(words)):
        load_checkpoint(path)
    if number > 1:
        with pytest.raises(GlocalError, match="upgrade glocal"):
            newest_checkpoint(folder)
        assert capsys.readouterr().err == ""


class Executed:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("executed",)


def test_code_in_a_checkpoint_is_refused_in_a_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = checkpoint_files(folder)[0]
    torch.save({**load_checkpoint(path), "recipe": Executed()}, path)
    with pytest.raises(GlocalError, match="it holds more than numbers, and code is never executed"):
        load_checkpoint(path)
    assert "executed\n" not in capsys.readouterr().out


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


@pytest.mark.parametrize("key", ["step", "recipe", "method", "evaluated"])
def test_what_is_missing_is_told(key: str, folder: Path) -> None:
    path = checkpoint_files(folder)[0]
    state = load_checkpoint(path)
    del state[key]
    torch.save(state, path)
    with pytest.raises(GlocalError, match=f"it has no {key}" if key != "method" else "is no checkpoint of glocal"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "wrong", [{"step": "2"}, {"method": [1]}, {"recipe": 3}, {"evaluated": None}, {"optimizers": 1}, {"rng": [1]}]
)
def test_other_kinds_of_values_are_told(wrong: dict[str, Any], folder: Path) -> None:
    path = checkpoint_files(folder)[0]
    torch.save({**load_checkpoint(path), **wrong}, path)
    [key] = wrong
    with pytest.raises(GlocalError, match=f"is no readable checkpoint: its {key} is no "):
        load_checkpoint(path)
