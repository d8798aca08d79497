"""The doctor sees what is wrong and says what to do."""

import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from glocal import doctor


def found(name: str) -> doctor.Finding:
    return next(finding for finding in doctor.examine() if finding.name == name)


def test_versions_and_machine_are_reported() -> None:
    names = [finding.name for finding in doctor.examine()]
    assert {"glocal", "Python", "torch", "torchvision", "timm", "CPU", "free disk"} <= set(names)
    assert found("torch").value == str(torch.__version__)
    assert doctor.table(doctor.examine()).row_count == len(names)


def test_a_torchvision_that_does_not_belong_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    def nms(*_: object) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("torchvision.ops.nms", nms)
    finding = found("torchvision")
    assert finding.status == "bad"
    assert "pip install --upgrade torch torchvision" in finding.advice


def test_a_missing_package_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_PACKAGES", ("no-such-package",))
    assert found("no-such-package").status == "bad"


def test_what_optional_packages_bring_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("pyarrow").status == found("huggingface_hub").status == "ok"
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "onnx" else object())
    assert found("onnx").value == "not installed"
    assert found("onnx").status == "ok"
    assert "glocal export --to onnx: pip install 'glocal[export]'" in found("onnx").advice
    assert found("imagehash").advice == "for near copies by perceptual hashes: glocal check, glocal duplicates"
    assert "glocal search" in found("faiss-cpu").advice


def test_extras_are_those_of_the_package() -> None:
    extras = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for _, package, extra, _ in doctor._OPTIONAL:
        assert any(needed.startswith(f"{package}>=") for needed in extras[extra])


def test_a_cuda_build_without_a_gpu_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "training runs on the CPU" in found("GPU").advice


@pytest.mark.parametrize(("major", "advice"), [(9, "bf16 is fast"), (7, "use train.precision=fp16")])
def test_gpus_are_listed_with_their_precision(major: int, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    card = SimpleNamespace(name="Card", major=major, minor=0, total_memory=16 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    assert found("GPU 0").value == f"Card, 16 GiB, compute {major}.0"
    assert advice in found("GPU 0").advice


def test_little_disk_and_shared_memory_are_warned_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    assert found("free disk").status == "warn"
    if Path("/dev/shm").is_dir():
        assert "data.workers=0" in found("/dev/shm").advice


@pytest.mark.parametrize(("gain", "chosen"), [(2.1, "bf16"), (0.4, "fp32")])
def test_the_measured_gain_of_bf16_is_shown(gain: float, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor, "cpu_bf16_gain", lambda: gain)
    assert f"{gain} times as fast" in found("CPU bf16").value
    assert f"train.precision=auto takes {chosen}" in found("CPU bf16").advice
