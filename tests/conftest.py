"""Small data that tests make for themselves, and how many processes and threads they take."""

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

# Before torch is loaded: one thread for each of the processes that share the work, and for those that tests start.
# Networks of tests are too small for two threads to gain anything, and two that wait for one another crawl where
# another program needs a core. What is about several threads asks for them itself.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GLOCAL_REPORT", "0")  # a page of every small run would take longer than its training

import glocal  # noqa: F401  # isort: skip  # how threads wait, which also has to be settled before torch is loaded

import pytest
import torch
from PIL import Image

from glocal.data.sources.shapes import Shapes
from glocal.training import run
from tests.preloaded import Preloaded


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Tests that are named one by one run in this process: starting others would take longer than they do."""
    return 0 if config.args and all("::" in name for name in config.args) else None


def pytest_collection_finish() -> None:
    """What is loaded by now lasts: Python need not look through it for garbage again and again, a tenth of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features that tests compute are not kept in the user's home."""
    monkeypatch.setenv("GLOCAL_CACHE", str(tmp_path_factory.getbasetemp() / "features"))


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw neither views nor losses, which takes as long as a small run's training. For tests of other things."""
    monkeypatch.setattr(run, "draw_views", lambda *_, **__: None)
    monkeypatch.setattr(run, "draw_loss", lambda *_, **__: None)


@pytest.fixture(scope="session")
def preloaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Preloaded]:
    """Commands in processes of their own that need not load torch again."""
    made = Preloaded(tmp_path_factory.mktemp("printed"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def shape_images() -> torch.Tensor:
    """256 shapes, (256, 3, 32, 32) uint8."""
    return Shapes("train", 256).images()


@pytest.fixture
def image_folder(tmp_path: Path, shape_images: torch.Tensor) -> Callable[..., Path]:
    """Makes a folder of PNG files by class: `image_folder(count, sizes)`."""

    def make(count: int = 64, sizes: tuple[tuple[int, int], ...] = ((32, 32),), name: str = "images") -> Path:
        folder = tmp_path / name
        for index in range(count):
            place = folder / f"class{index % 8}"
            place.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(shape_images[index].permute(1, 2, 0).numpy())
            picture.resize(sizes[index % len(sizes)]).save(place / f"{index:04d}.png")
        return folder

    return make
