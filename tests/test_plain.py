"""YAML and JSON of users: bounded before anything is made of them, and what is wrong is one line."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from glocal.config import load_mapping
from glocal.errors import GlocalError
from glocal.plain import MOST_CHARACTERS, MOST_LEVELS, copied, read_json, read_yaml, write_yaml
from glocal.reproduction.studies import open_study


def bomb(width: int = 10, depth: int = 12, form: str = "[{}]") -> str:
    """A few hundred bytes that stand for width^depth values."""
    lines = ["a0: &a0 {x: 1, y: 2}"]
    for level in range(1, depth):
        inner = ", ".join([f"*a{level - 1}"] * width)
        lines.append(f"a{level}: &a{level} {form.format(inner)}")
    return "\n".join(lines)


def chain(levels: int) -> str:
    """Lists in one another, each of which is short where it is written."""
    return "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, levels))])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb(), "with its aliases written out, it has more than 500,000 characters"),
        (bomb(form="{{<<: [{}]}}"), "with its aliases written out"),
        (bomb(width=2, depth=MOST_LEVELS), "with its aliases written out"),
        ("a: &a " + "x" * 10_000 + "\nb: [" + ", ".join(["*a"] * 100) + "]", "with its aliases written out"),
        ("a: &a [*a]", "the alias in line 1 is part of what it stands for"),
        ("a: &a {b: {c: *a}}", "is part of what it stands for"),
        ("[" * 100_000, f"line 1 is nested deeper than {MOST_LEVELS} levels"),
        ("{a: " * 10_000 + "1" + "}" * 10_000, "is nested deeper than"),
        ("- " * 1000 + "a", "is nested deeper than"),
        ("? " * 1000 + "a", "is nested deeper than"),
        (chain(MOST_LEVELS + 5), r"the alias in line \d+ is nested deeper than"),
        ("a: " + "1" * 5000, "the number in line 1 has 5,000 digits; 100 are read at most"),
        ("a: 0x" + "f" * 5000, "has 5,002 digits"),
        ("a: !!timestamp x", "the tag tag:yaml.org,2002:timestamp in line 1 is not read; write a plain value"),
        ("a: !!timestamp 2026-01-02", "is not read"),
        ("a: !!binary aGk=", "is not read"),
        ("a: !!set {b, c}", "is not read"),
        ("a: !mine 3", "the tag !mine in line 1 is not read"),
        ("a: !!python/object/apply:os.getcwd []", "python/object/apply:os.getcwd in line 1 is not read"),
        ("a: !!int x", "'x' in line 1 is no int"),
        ("a: !!float x", "'x' in line 1 is no float"),
        ("a: !!bool x", "'x' in line 1 is no bool"),
        ("a: !!int [1]", "no valid YAML"),
        ("? [a]\n: 1", "no valid YAML"),
        ("<<: 3", "no valid YAML"),
        ("a: 1\n--- \nb: 2", "no valid YAML"),
        ("a: \x00", "no valid YAML"),
        ("x" * (MOST_CHARACTERS + 1), "has more than 500,000 characters; is it the right file"),
    ],
)
def test_what_is_too_much_or_no_plain_value_is_one_line(text: str, message: str) -> None:
    with pytest.raises(GlocalError, match=message) as caught:
        read_yaml(text, "here")
    assert str(caught.value).startswith("here: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_anchors_and_merged_sections_stand_for_values_of_their_own() -> None:
    found = read_yaml("a: &a {x: [1], y: 2}\nb: *a\nc: {<<: *a, y: 3}\nd: {<<: [*a, {z: 4}]}\n", "here")
    found["a"]["x"].append(5)
    assert (found["b"], found["c"]) == ({"x": [1], "y": 2}, {"x": [1], "y": 3})
    assert found["d"] == {"x": [1], "y": 2, "z": 4}
    assert len(read_yaml(chain(MOST_LEVELS - 2), "here")) == MOST_LEVELS - 2
    shared = [1, 2]
    assert read_yaml(write_yaml({"a": shared, "b": shared, "c": "="}), "here") == {"a": [1, 2], "b": [1, 2], "c": "="}


def test_copies_share_nothing() -> None:
    tree = {"a": [{"b": 1}], "c": (1, 2)}
    other = copied(tree)
    other["a"][0]["b"] = 2
    assert tree == {"a": [{"b": 1}], "c": (1, 2)}


@pytest.mark.parametrize("read", [load_mapping, open_study], ids=["recipe", "study"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train: {}".encode("utf-16"), r"is no text in UTF-8 \(byte 0\); save it as UTF-8"),
        (bytes(range(256)), "no text in UTF-8|no valid YAML"),
        (b"name: caf\xe9", r"is no text in UTF-8 \(byte 9\)"),
        (b"\x00" * 100, "no valid YAML"),
        (b" " * (MOST_CHARACTERS + 1), "has more than 500,000 characters"),
        (b"", "must"),
        (b"5", "must"),
    ],
)
def test_files_that_are_no_yaml_are_one_line(
    read: Callable[[Path], object], content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / "own.yaml").write_bytes(content)
    with pytest.raises(GlocalError, match=message) as caught:
        read(tmp_path / "own.yaml")
    assert "own.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folders_pipes_and_endless_files_are_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "endless.yaml").symlink_to("/dev/zero")
    for name in ("folder", "pipe", "endless"):
        with pytest.raises(GlocalError, match="cannot be read: (no file but a pipe or a device|Is a directory)"):
            load_mapping(tmp_path / f"{name}.yaml")
    with pytest.raises(GlocalError, match="cannot be read: File name too long"):
        load_mapping(tmp_path / f"{'x' * 300}.yaml")


def test_a_file_may_begin_with_the_mark_of_utf_8(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_bytes(b"\xef\xbb\xbftrain: {epochs: 3}")
    assert load_mapping(tmp_path / "own.yaml")["train"] == {"epochs": 3}


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{", b"\xff\xfe\xff", b"1" * 5000, b""])
def test_json_that_cannot_be_read_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(GlocalError, match=r"a\.json: cannot be read as JSON: \S") as caught:
        read_json(tmp_path / "a.json")
    assert "\n" not in str(caught.value)
    with pytest.raises(GlocalError, match="there is no"):
        read_json(tmp_path / "b.json")
