"""Mean and deviation of channels, against NumPy in float64."""

from pathlib import Path

import numpy as np
import pytest
import torch

from glocal.data import statistics
from glocal.data.ranges import decode_as, settle_decoding
from glocal.data.settings import DataSettings
from glocal.data.sources.base import MemorySource
from glocal.data.sources.folder import ImageFolder
from glocal.errors import GlocalError
from tests.channels.made import save, spectra


def test_they_are_those_of_all_pixels_of_images_of_any_size(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    offset = np.array([1e6, -3.0])
    images = [offset + draw.normal(size=(5 + number, 9, 2)) for number in range(11)]
    for number, image in enumerate(images):
        np.save(tmp_path / f"{number}.npy", image.astype(np.float32))
    pixels = np.concatenate([image.astype(np.float32).astype(np.float64).reshape(-1, 2) for image in images])
    source, settings = ImageFolder(tmp_path, values=True), DataSettings(channels=2)
    found = settle_decoding(settings, source, progress=False)
    assert np.allclose(found.mean, pixels.mean(axis=0), rtol=1e-6)
    assert np.allclose(found.std, pixels.std(axis=0), rtol=1e-5)
    assert DataSettings.model_validate(found.model_dump()) == found


def test_what_is_given_is_not_measured(tmp_path: Path) -> None:
    source = ImageFolder(save(tmp_path, *spectra(6, 0), ".npy"), values=True)
    given = DataSettings(channels=12, mean=tuple(range(12)))
    found = settle_decoding(given, source, progress=False)
    assert found.mean == given.mean
    assert len(found.std) == 12


def test_a_large_set_is_measured_on_a_sample_spread_over_it(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.arange(5000.0)[:, None, None, None].expand(-1, 1, 2, 2)
    source = MemorySource("ramp", images, None, None)
    mean, std, count = statistics.measure_channels(source, progress=False)
    assert count == 2048
    assert mean[0] == pytest.approx(2499.5, rel=1e-3)
    assert std[0] == pytest.approx(5000 / 12**0.5, rel=1e-2)
    monkeypatch.setattr(statistics, "_PIXELS", 100)
    mean, _, count = statistics.measure_channels(source, progress=False)
    assert 64 <= count < 200
    assert mean[0] == pytest.approx(2499.5, rel=0.05)


def test_a_channel_of_one_value_is_divided_by_one_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    images = torch.stack([torch.arange(16.0).view(4, 4), torch.full((4, 4), 7.0)])[None]
    found = settle_decoding(DataSettings(channels=2), MemorySource("made", images, None, None), progress=False)
    assert found.std[1] == 1
    assert "channel 1 has one value in all images" in capsys.readouterr().err


def test_unreadable_images_are_left_out_and_where_all_are_it_is_told(tmp_path: Path) -> None:
    save(tmp_path, *spectra(6, 0), ".npy")
    np.save(tmp_path / "class0" / "broken.npy", np.full((4, 4, 12), np.nan))
    source = ImageFolder(tmp_path, values=True)
    settings = DataSettings(channels=12)
    decode_as(source, settings.decoding)
    assert statistics.measure_channels(source, progress=False)[2] == 6
    wrong = DataSettings(channels=11)
    with pytest.raises(GlocalError, match=r"none of 7 images .* 12 channels .* not data.channels=11"):
        settle_decoding(wrong, source, progress=False)
