"""The reader of pickles: what it reads, and what it does not do."""

import builtins
import copyreg
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glocal.data.annotated.pickles import read_plain_pickle
from glocal.errors import GlocalError


def plain() -> dict[str, Any]:
    shared = {"easy": np.array([1, 200, 4992]), "bbx": [136.5, 34.1, 648.5, 955.7]}
    return {
        "imlist": ["all_souls_000013", "é"],
        "gnd": [shared, shared, {"easy": [], "hard": np.array([], dtype=np.int64), "junk": None}],
        "scalar": np.int64(-5),
        "small": np.arange(250, 256, dtype=np.uint8),
        "big endian": np.arange(3, dtype=">i4"),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "words": np.array(["a", "bcd"]),
        "flags": np.array([True, False]),
        "nested": (1, (2.5, "x"), [b"\xff\x00", (), {}]),
        "numbers": [2**70, -1, 0, 300, 70000, True, False],
    }


def assert_same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected)
    else:
        assert found == expected


def write(folder: Path, content: bytes) -> Path:
    path = folder / "gnd_test.pkl"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_are_read_as_they_were_written_by_every_protocol(protocol: int, tmp_path: Path) -> None:
    found = read_plain_pickle(write(tmp_path, pickle.dumps(plain(), protocol=protocol)))
    assert_same(found, plain())
    assert found["gnd"][0] is found["gnd"][1]


def test_names_of_the_older_numpy_are_understood(tmp_path: Path) -> None:
    for protocol in (2, 5):
        content = pickle.dumps(plain(), protocol=protocol).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
        # the name's length stands before it where the protocol counts, and the frame's before that
        content = content.replace(b"\x8c\x16numpy.core.multiarray", b"\x8c\x15numpy.core.multiarray")
        content = content.replace(b"\x8c\x13numpy._core.numeric", b"\x8c\x12numpy.core.numeric")
        assert b"numpy._core" not in content
        if protocol == 5:  # one frame, whose length stands behind PROTO
            content = content[:3] + struct.pack("<Q", len(content) - 11) + content[11:]
        assert_same(read_plain_pickle(write(tmp_path, content)), plain())


PYTHON_2 = {
    # pickle.dumps({"imlist": ["a\xe9"], "easy": numpy.array([200, 7])}, protocol), as Python 2 writes it
    0: b"(dp0\nS'imlist'\np1\n(lp2\nS'a\\xe9'\np3\nasS'easy'\np4\ncnumpy.core.multiarray\n_reconstruct\np5\n(cnumpy\n"
    b"ndarray\np6\n(I0\ntp7\nS'b'\np8\ntp9\nRp10\n(I1\n(I2\ntp11\ncnumpy\ndtype\np12\n(S'i8'\np13\nI0\nI1\ntp14\nRp15\n"
    b"(I3\nS'<'\np16\nNNNI-1\nI-1\nI0\ntp17\nbI00\nS'\\xc8\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x07\\x00\\x00\\x00\\x00"
    b"\\x00\\x00\\x00'\np18\ntp19\nbs.",
    2: b"\x80\x02}q\x00(U\x06imlistq\x01]q\x02U\x02a\xe9aU\x04easyq\x03cnumpy.core.multiarray\n_reconstruct\nq\x04"
    b"cnumpy\nndarray\nq\x05K\x00\x85U\x01b\x87Rq\x06(K\x01K\x02\x85cnumpy\ndtype\nq\x07U\x02i8K\x00K\x01\x87Rq\x08"
    b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x10\xc8\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0tbu.",
}


@pytest.mark.parametrize("protocol", PYTHON_2)
def test_pickles_of_python_2_are_read_as_latin_1(protocol: int, tmp_path: Path) -> None:
    expected = {"imlist": ["aé"], "easy": np.array([200, 7])}
    reference = pickle.loads(PYTHON_2[protocol], encoding="latin1")  # the bytes above are what they say
    assert_same(reference, expected)
    assert_same(read_plain_pickle(write(tmp_path, PYTHON_2[protocol])), expected)


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.made = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.made


class WithState:
    def __setstate__(self, state: Any) -> None:
        raise AssertionError("executed")


ARRAY = np.array([1]).__reduce__()[0]  # numpy's _reconstruct


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Calls(os.system, "touch executed"), f"{os.system.__module__}.system"),
        ({"gnd": [{"easy": [Calls(os.system, "touch executed")]}]}, "system"),
        (Calls(builtins.eval, "open('executed', 'w')"), "eval"),
        (Calls(builtins.exec, "open('executed', 'w')"), "exec"),
        (Calls(getattr, {}, "clear"), "getattr"),
        (Calls(__import__, "this"), "__import__"),
        (Calls(bytearray, 10**12), "bytearray"),
        (Calls(bytes, 10**12), "bytes"),
        (WithState(), "refused"),
        (os.system, "system"),
        ({1, 2}, "refused"),
        (3j, "complex"),
        (Calls(np.load, "/etc/passwd", None, True), "numpy.load"),
        (Calls(np.memmap, "/etc/passwd"), "numpy.memmap"),
        (Calls(np.frombuffer, b"12345678"), "numpy"),
        (Calls(ARRAY, dict, (0,), b"b"), ".dict"),  # numpy would make whatever type is named
        (Calls(ARRAY, np.recarray, (0,), b"b"), "recarray"),
        (Calls(ARRAY, np.ndarray, (0,), b"b", "more"), "arguments that are not numpy's"),
        (np.array([None, {}], dtype=object), "numpy's dtype O8"),
        (np.zeros(2, dtype=[("a", "i8"), ("b", "i8")]), "numpy's dtype V16"),
        (np.zeros(2, dtype="M8[s]"), "numpy's dtype M8"),
    ],
)
def test_nothing_else_is_built_called_or_imported(
    value: Any, named: str, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps(value, protocol=protocol)
    with pytest.raises(GlocalError, match=r"gnd_test\.pkl: holds .*refused") as caught:
        read_plain_pickle(write(tmp_path, content))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


ARRAY_CALL = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntC\x01btR"
INT64 = b"cnumpy\ndtype\n(U\x02i8K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"(ios\nsystem\n.", "INST os system"),
        (b"(cos\nsystem\nX\x04\0\0\0echoo.", "OBJ"),
        (b"cos\nsystem\n.", "os.system"),
        (b"(cnumpy\nndarray\nK\x05o.", "OBJ"),
        (b"cnumpy\nndarray\n)\x81.", "NEWOBJ"),
        (b"Pthe id\n.", "PERSID the id"),
        (b"K\x01Q.", "BINPERSID"),
        (b"\x82\x05.", "EXT1 5"),
        (b"\x84\xff\xff\xff\x7f.", "EXT4"),
        (b"\x97.", "NEXT_BUFFER"),
        (b"cnumpy\nndarray\n}X\x01\0\0\0aK\x01sb.", "a state for array type"),  # would set attributes of the class
        (b"c__builtin__\nbytes\n(K\x05tR.", "a call of bytes"),
        (b"c_codecs\nencode\n(X\x01\0\0\0aX\x05\0\0\0rot13tR.", "a call of encode"),
        (b"]2s.", "DUP"),
        (b"]0.", "POP"),
        (b"K\x01\x85q\x00h\x00\x86.", "a tuple in several places"),
        (b"}K\x01K\x02\x86K\x03s.", "keys of type tuple"),  # hashing tuples of tuples may never end
        (ARRAY_CALL + b"(K\x01K\x02\x85" + INT64 + b"\x89]tb.", "not of numbers or strings"),
        (b"cnumpy\ndtype\n(U\x02S0K\x00K\x01tR.", "numpy's dtype S0"),  # any number of them fits in no bytes
    ],
)
def test_instructions_that_make_objects_are_refused_by_name(content: bytes, named: str, tmp_path: Path) -> None:
    with pytest.raises(GlocalError, match="refused") as caught:
        read_plain_pickle(write(tmp_path, content))
    assert named in str(caught.value)


def test_extension_codes_are_refused_even_where_one_is_registered(tmp_path: Path) -> None:
    copyreg.add_extension("os", "system", 0x70)
    try:
        with pytest.raises(GlocalError, match="EXT1"):
            read_plain_pickle(write(tmp_path, b"\x82\x70(X\x04\0\0\0truetR."))
    finally:
        copyreg.remove_extension("os", "system", 0x70)


LONG_STRING = b"X" + struct.pack("<I", 2**20) + b"a" * 2**20 + b"q\x00"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle at all",
        b"\x80\x04.",
        b"]",
        b"h\x05.",
        b"t.",
        b"\x85.",
        b"K\x01K\x02a.",
        b"K\x01)R.",  # a call of a number
        b"]K\x05b.",  # a state for a list
        b"]}X\x01\0\0\0aK\x01sb.",
        b"](K\x01eq\x00.",  # written down after an addition: what is it?
        b"K\x07r\xff\xff\xff\xff.",  # a memo of 4 billion objects
        b"\x96\xff\xff\xff\xff\xff\xff\xff\x3fabc.",  # a bytearray of 4 EB
        b"\x95\xff\xff\xff\xff\xff\xff\xff\x3fK\x01.",  # a frame of 4 EB
        b"S'\n.",
        b"S'abc\n.",
        b"I" + b"9" * 5000 + b"\n.",
        b"cnumpy\nndarray\n.",
        ARRAY_CALL + b".",  # an array whose content never comes
        ARRAY_CALL + b"q\x00]h\x00a.",
        ARRAY_CALL + b"(K\x01J\xff\xff\xff\x7f\x85" + INT64 + b"\x89C\x08abcdefghtb.",  # more than its bytes
        ARRAY_CALL + b"(K\x01J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86" + INT64 + b"\x89C\x08abcdefghtb.",  # -1 × -1
        b"B\xff\xff\xff\x7fabc.",  # a length of 2 GB with 3 bytes
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
        LONG_STRING + b"](" + b"c_codecs\nencode\n(h\x00U\x06latin1tR" * 40 + b"e.",  # 40 MB from 1 MB
        pickle.dumps(plain())[:-20],
    ],
)
def test_damaged_files_and_bombs_are_an_error_in_one_line(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(GlocalError, match=r"gnd_test\.pkl: (damaged|holds)") as caught:
        read_plain_pickle(write(tmp_path, content))
    assert len(str(caught.value)) < len(str(tmp_path)) + 220


def test_tuples_of_tuples_are_refused_before_they_are_hashed(tmp_path: Path) -> None:
    doubled = b"".join(b"q%ch%c\x86" % (n, n) for n in range(100))  # 2**100 numbers to hash
    with pytest.raises(GlocalError, match="a tuple in several places"):
        read_plain_pickle(write(tmp_path, b"}K\x01\x85" + doubled + b"K\x01s."))


def test_lists_may_hold_themselves_and_lie_deep(tmp_path: Path) -> None:
    found = read_plain_pickle(write(tmp_path, b"]q\x00h\x00a."))
    assert found[0] is found
    nested = read_plain_pickle(write(tmp_path, b"]" * 100_000 + b"a" * 99_999 + b"."))
    assert isinstance(nested, list)


def test_a_missing_or_too_large_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(GlocalError, match=r"nothing\.pkl: cannot be read"):
        read_plain_pickle(tmp_path / "nothing.pkl")
    with open(tmp_path / "large.pkl", "wb") as file:
        file.truncate(17 * 2**20)
    with pytest.raises(GlocalError, match="at most 16 MiB"):
        read_plain_pickle(tmp_path / "large.pkl")


def test_random_bytes_never_do_more_than_fail(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    whole = bytearray(pickle.dumps(plain(), protocol=2))
    for _ in range(500):
        changed = bytearray(whole)
        for place in generator.integers(0, len(changed), 3):
            changed[place] = generator.integers(0, 256)
        try:
            read_plain_pickle(write(tmp_path, bytes(changed)))
        except GlocalError:
            continue
