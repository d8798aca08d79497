"""The command line as a user meets it."""

import errno
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import glocal
from glocal.cli import main
from glocal.data.sources.opening import open_source
from glocal.errors import GlocalError
from tests.preloaded import Preloaded

Call = Callable[..., subprocess.CompletedProcess[str]]


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as a user starts it: seconds, most of them for loading torch."""
    code = "from glocal.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """The same in this process: the entry point, what it writes and its exit code."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["glocal", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        said = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, int(end.value.code or 0), said.out, said.err)

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrain", "--data", "shapez", "--out", "X"], "there is no folder shapez; did you mean shapes?"),
        (["pretrain", "--data", "shapes:train:x", "--out", "X"], "shapes:train:x: write shapes"),  # no emoji :train:
        (["pretrain", "--out", "X"], "no images: give a folder or a data set (--data)"),
        (
            ["pretrain", "--data", "shapes", "--out", "X", "--recipe", "sce-cifar"],
            "did you mean sce-cifar10?",
        ),
        (
            ["pretrain", "--data", "shapes", "--out", "X", "--set", "train.epoch=1"],
            "did you mean train.epochs?",
        ),
        (["pretrain", "--data", "shapes", "--out", "X", "--resume", "always"], "--resume always"),
        (
            ["pretrain", "--data", "shapes", "--out", "X", "--set", "train.epochs", "3"],
            "--set train.epochs: write it as train.epochs=VALUE",
        ),
        (["sweep", "--data", "shapes", "--grid", "optimizer.lr", "0.1"], "--grid optimizer.lr: write it as"),
        (["views", "--out", "X"], "no images: give a folder, another source or one image file (--data)"),
        (["views", "--affinity", "nowhere"], "--affinity nowhere: there is no such folder; give that of a LoGo run"),
        (["views", "--affinity", "nowhere", "--match"], "leave --match and --recipe out"),
        (["pretrain", "--data", "shapes", "--out", "X", "--set", "train.device=tpu"], "train.device must be"),
        (
            ["evaluate", "nowhere", "--train", "shapes", "--test", "shapes:test"],
            "no run folder or checkpoint nowhere",
        ),
        (
            ["evaluate", "timm:resnet19", "--train", "digits", "--test", "digits:test"],
            "timm:resnet19: did you mean",
        ),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments: list[str], message: str, tmp_path: Path, call: Call) -> None:
    done = call(*[str(tmp_path / "run") if argument == "X" else argument for argument in arguments])
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["pretrain", "--data", "shapes", "--out", ""], "--out"),
        (["pretrain", "--data", "shapes", "--out="], "--out"),
        (["pretrain", "--data", "", "--out", "x"], "--data"),
        (["embed", "run", ""], "argument 3"),
    ],
)
def test_an_empty_name_is_not_the_current_folder(
    arguments: list[str], option: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = call(*arguments)
    assert done.returncode == 2
    assert done.stderr == f"glocal: {option} is empty; give a name\n"
    assert not list(tmp_path.iterdir())
    with pytest.raises(GlocalError, match="the name of the images is empty"):
        open_source(["shapes", ""])


@pytest.mark.parametrize("name", ["ENAMETOOLONG", "EISDIR", "ENOTDIR", "ELOOP", "EIO", "ESTALE"])
def test_a_name_that_leads_to_no_file_and_a_disk_that_fails_are_one_line(
    name: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> None:
        raise OSError(getattr(errno, name), "refused", "found.bin")

    monkeypatch.setattr("glocal.cli.app", refused)
    done = call("pretrain")
    assert (done.returncode, done.stderr) == (2, "glocal: found.bin: refused\n")


def test_a_run_in_a_name_of_300_letters_is_refused_in_a_line(call: Call, tmp_path: Path) -> None:
    done = call("pretrain", "--data", "shapes:train:8", "--out", str(tmp_path / ("x" * 300)), "--quiet")
    assert done.returncode == 2
    assert done.stderr.endswith("File name too long\n")
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback(preloaded: Preloaded) -> None:
    said = preloaded.run("pretrain", "--data", "shapez", "--out", "x", "--debug").stderr.decode()
    assert "Traceback" in said
    assert "GlocalError" in said


def test_a_mistake_ends_a_process_of_its_own_in_one_line() -> None:
    done = start("pretrain", "--data", "shapez", "--out", "x")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "did you mean shapes?" in done.stderr


def test_recipes_lists_what_each_reproduces_with_its_number(call: Call) -> None:
    done = call("recipes")
    assert done.returncode == 0
    assert "sce-cifar10" in done.stdout
    assert "90.34 % linear top-1" in done.stdout


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--epochs", "glocal: --epochs is a setting: --set train.epochs=VALUE\n"),
        ("--batch-size=8", "glocal: --batch-size is a setting: --set train.batch_size=VALUE\n"),
        ("--tim", ""),
    ],
)
def test_a_setting_that_was_taken_for_an_option_is_told(call: Call, option: str, said: str) -> None:
    done = call("pretrain", "--data", "shapes", "--out", "X", option, "5")
    assert done.returncode == 2
    assert "No such option" in done.stderr
    assert done.stderr[done.stderr.find("glocal: --") :] == said if said else "is a setting" not in done.stderr


def test_help_imports_nothing_heavy() -> None:
    heavy = ("torch", "torchvision", "timm", "lightning", "matplotlib", "numpy", "pydantic", "yaml", "PIL")
    code = f"""
import sys
from glocal.cli import main
try:
    main()
except SystemExit:
    pass
print([name for name in {heavy} if name in sys.modules], file=sys.stderr)
"""
    arguments = [sys.executable, "-c", code, "--help"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert "pretrain" in done.stdout
    assert done.stderr.strip() == "[]"


def test_version_and_doctor(call: Call) -> None:
    assert call("--version").stdout.strip() == f"glocal {glocal.__version__}"
    done = call("doctor")
    assert done.returncode == 0
    assert "torchvision" in done.stdout
    assert "CPU" in done.stdout


def test_pretrain_then_evaluate(tmp_path: Path, call: Call) -> None:
    options = [
        "model.options={channels: [8, 8, 16, 16], layers: [1, 1, 1, 1]}",
        "train.epochs=1",
        "train.batch_size=64",
    ]
    sets = [part for option in options for part in ("--set", option)]
    done = start("pretrain", "--data", "shapes:train:256", "--out", str(tmp_path / "a"), *sets)
    assert done.returncode == 0, done.stderr
    assert f"glocal evaluate {tmp_path / 'a'}" in done.stdout
    arguments = [
        "--train",
        "shapes:train:256",
        "--test",
        "shapes:test:128",
        "--protocol",
        "knn",
        "--protocol",
        "linear",
    ]
    done = call("evaluate", str(tmp_path / "a"), *arguments, "--k", "5", "--k", "20")
    assert done.returncode == 0, done.stderr
    assert "k=20" in done.stdout
    found = json.loads((tmp_path / "a" / "evaluation" / "evaluation.json").read_text())
    assert set(found["protocols"]) == {"knn", "linear"}
    lines = (tmp_path / "a" / "evaluation" / "evaluation.csv").read_text().splitlines()
    assert len(lines) == 1 + 8 + 2  # header; two k by two votes and the probe, each top-1 and top-5
    untrained = [
        "untrained:" + str(tmp_path / "a"),
        *arguments[:6],
        "--out",
        str(tmp_path / "u"),
        "--set",
        "knn.k=[5, 20]",
    ]
    done = call("evaluate", *untrained, "--data", "retrieval=" + str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert "k=20" in done.stdout  # what was found is shown before the error
    assert "nowhere" in done.stderr
    done = call("compare", str(tmp_path / "a"), str(tmp_path / "u"), "--out", str(tmp_path / "c"))
    assert done.returncode == 0, done.stderr
    assert "a untrained (resnet18)" in done.stdout
    for name in ("compare.csv", "compare.json", "compare.md", "compare.png"):
        assert (tmp_path / "c" / name).stat().st_size > 0


def test_maps_are_drawn_side_by_side_and_a_sweep_says_how_it_measures(tmp_path: Path, call: Call) -> None:
    place = tmp_path / "maps.png"
    some = ("--classes", "3", "--images", "60")
    done = call("maps", "pixels", "pixels", "--data", "digits:test", *some, "--out", str(place))
    assert done.returncode == 0, done.stderr
    assert "60 images of the classes " in done.stdout
    assert place.stat().st_size > 10_000
    done = call("sweep", "--grid", "method.temperature=0.1", "--data", "shapes", "--probe", "svm.shots=1")
    assert done.returncode == 2
    assert "--probe svm.shots: a sweep measures by knn and linear" in done.stderr


def test_protocols_are_listed_with_what_they_need(call: Call) -> None:
    done = call("protocols")
    assert done.returncode == 0
    assert "--data copy_detection=PATH" in done.stdout
    done = call("protocols", "linear", "--set", "linear.style=moco")
    assert "[30.0]" in done.stdout
    assert "share of the image's area that a crop has" in done.stdout
    assert "gnd_roxford5k.pkl" in call("protocols", "retrieval").stdout
    assert "did you mean knn" in call("protocols", "kn").stderr
