"""What is installed and usable here, with advice."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from rich.table import Table
from rich.text import Text

import glocal
from glocal.errors import counted
from glocal.training.precision import WORTHWHILE, cpu_bf16_gain

Status = Literal["ok", "warn", "bad"]
_MARKS = {"ok": "ok", "warn": "look", "bad": "BAD"}
_PACKAGES = (
    "lightning",
    "timm",
    "scikit-learn",
    "pillow",
    "numpy",
    "pydantic",
    "tensorboard",
    "pyarrow",
    "huggingface_hub",
)
_OPTIONAL = (  # module, package, extra of glocal, what it brings
    ("imagehash", "imagehash", "duplicates", "near copies by perceptual hashes: glocal check, glocal duplicates"),
    ("faiss", "faiss-cpu", "search", "an index for more than a million images: glocal search"),
    ("onnx", "onnx", "export", "glocal export --to onnx"),
    ("onnxruntime", "onnxruntime", "export", "glocal export --to onnx"),
    ("onnxscript", "onnxscript", "export", "glocal export --to onnx"),
    ("tifffile", "tifffile", "channels", "TIFF of several channels or pages: data.channels"),
    ("pydicom", "pydicom", "dicom", "DICOM: data.channels"),
    ("datasets", "datasets", "datasets", "data sets of Hugging Face, Parquet, WebDataset: --data hf:NAME"),
    ("umap", "umap-learn", "umap", "maps by UMAP: glocal maps, glocal report"),
    ("wandb", "wandb", "wandb", "Weights & Biases: train.loggers=[wandb]"),
    ("mlflow", "mlflow", "mlflow", "MLflow: train.loggers=[mlflow]"),
    ("faster_coco_eval", "faster-coco-eval", "detection", "detection and segmentation: glocal evaluate"),
)
_GIB = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: what was looked at.
        value: what was found.
        status: ok, warn (it works, but see the advice) or bad (it does not work).
        advice: what to do; empty when all is well.
    """

    name: str
    value: str
    status: Status = "ok"
    advice: str = ""


def examine(folder: str | Path = ".") -> list[Finding]:
    """Looks at versions, devices, memory and disk.

    Args:
        folder: where runs would be written.
    """
    return [*_versions(), *_devices(), *_machine(Path(folder))]


def table(findings: list[Finding]) -> Table:
    """The findings for the terminal."""
    shown = Table(title="glocal doctor", title_justify="left")
    for column in ("what", "found", "", "advice"):
        shown.add_column(column)
    for finding in findings:
        shown.add_row(finding.name, Text(finding.value), _MARKS[finding.status], Text(finding.advice))
    return shown


def _versions() -> Iterator[Finding]:
    yield Finding("glocal", glocal.__version__)
    yield Finding("Python", platform.python_version())
    yield Finding("torch", str(torch.__version__))
    yield _torchvision()
    for package in _PACKAGES:
        try:
            yield Finding(package, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(package, "missing", "bad", f"pip install {package}")
    for module, package, extra, brings in _OPTIONAL:
        if find_spec(module) is None:
            yield Finding(package, "not installed", "ok", f"optional, for {brings}: pip install 'glocal[{extra}]'")
        else:
            yield Finding(package, _version(package), "ok", f"for {brings}")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # the module comes with a package of another name, as faiss-gpu
        return "installed"


def _torchvision() -> Finding:
    """torchvision's compiled operations load only with the torch that they were built for."""
    try:
        import torchvision

        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (ImportError, RuntimeError, AttributeError, NotImplementedError):
        advice = "it does not belong to this torch: pip install --upgrade torch torchvision"
        return Finding("torchvision", "does not work", "bad", advice)
    return Finding("torchvision", str(torchvision.__version__))


def _devices() -> Iterator[Finding]:
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(number)
            bf16 = found.major >= 8
            value = f"{found.name}, {found.total_memory / _GIB:.0f} GiB, compute {found.major}.{found.minor}"
            advice = "train.precision=bf16 is fast here" if bf16 else "no bf16: use train.precision=fp16"
            yield Finding(f"GPU {number}", value, "ok", advice)
    elif torch.version.cuda is not None:
        yield Finding(
            "GPU", "none visible", "warn", "torch is built for CUDA but sees no GPU: training runs on the CPU"
        )
    if torch.backends.mps.is_available():
        yield Finding("MPS", "usable", "ok", "train.device=mps, or auto")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    advice = "" if threads >= cores // 2 else f"torch uses {counted(threads, 'thread')}: see OMP_NUM_THREADS"
    yield Finding("CPU", f"{counted(cores, 'core')}, {counted(threads, 'thread')}", "warn" if advice else "ok", advice)
    if not torch.cuda.is_available():
        gain = cpu_bf16_gain()
        chosen = "bf16" if gain >= WORTHWHILE else "fp32"
        value = f"a training step is {gain:.1f} times as fast as in fp32"
        advice = f"train.precision=auto takes {chosen}"
        if chosen == "bf16":
            advice += "; compare with fp32 before you trust it: small networks lose accuracy"
        yield Finding("CPU bf16", value, "ok", advice)
    compiler = shutil.which("g++") or shutil.which("clang++")
    advice = "" if compiler else "train.compile on a CPU needs g++ or clang++"
    yield Finding("C++ compiler", compiler or "none", "ok" if compiler else "warn", advice)


def _machine(folder: Path) -> Iterator[Finding]:
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / _GIB
        advice = "" if memory >= 4 else "little memory: small batches, data.lane=streaming"
        yield Finding("memory", f"{memory:.1f} GiB", "warn" if advice else "ok", advice)
    free = shutil.disk_usage(folder).free / _GIB
    advice = "" if free >= 2 else "checkpoints may not fit"
    yield Finding("free disk", f"{free:.1f} GiB", "warn" if advice else "ok", advice)
    shared = Path("/dev/shm")
    if shared.is_dir():
        size = shutil.disk_usage(shared).free / _GIB
        advice = "" if size >= 1 else "worker processes pass images through it: data.workers=0, or docker --shm-size"
        yield Finding("/dev/shm", f"{size:.1f} GiB", "warn" if advice else "ok", advice)
