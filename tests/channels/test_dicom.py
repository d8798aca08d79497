"""DICOM files: values after the modality's rescaling, more is brighter."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glocal.data.decoding.images import read_image
from glocal.data.decoding.rules import Decoding
from glocal.errors import BrokenImageError

pydicom = pytest.importorskip("pydicom")
STORED = np.random.default_rng(0).integers(0, 4096, (6, 8), dtype=np.uint16)


def write(path: Path, pixels: np.ndarray = STORED, **tags: Any) -> Path:
    """A CT image with 12 of 16 bits, as the standard has it."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.Rows, file.Columns = pixels.shape[-2:]
    file.SamplesPerPixel, file.PhotometricInterpretation, file.PixelRepresentation = 1, "MONOCHROME2", 0
    file.BitsAllocated, file.BitsStored, file.HighBit = 16, 12, 11
    file.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(file, name, value)
    file.save_as(path, enforce_file_format=True)
    return path


def read(path: Path, channels: int = 1) -> torch.Tensor:
    return read_image(path, path.name, Decoding(channels=channels))


def test_values_are_those_after_rescaling(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.dcm")
    hounsfield = write(tmp_path / "b.dcm", RescaleSlope="2", RescaleIntercept="-1024")
    assert torch.equal(read(plain)[0], torch.from_numpy(STORED.astype(np.float32)))
    assert torch.equal(read(hounsfield)[0], torch.from_numpy(2 * STORED.astype(np.float32) - 1024))


def test_more_is_brighter_whatever_the_file_says(tmp_path: Path) -> None:
    inverted = write(tmp_path / "a.dcm", PhotometricInterpretation="MONOCHROME1")
    assert torch.equal(read(inverted)[0], torch.from_numpy(4095 - STORED.astype(np.float32)))


def test_frames_are_channels(tmp_path: Path) -> None:
    frames = np.stack([STORED, STORED // 2, STORED // 3])
    path = write(tmp_path / "a.dcm", frames, NumberOfFrames=3)
    assert torch.equal(read(path, 3), torch.from_numpy(frames.astype(np.float32)))
    with pytest.raises(BrokenImageError, match="3 channels .* not data.channels=1"):
        read(path)


def test_what_is_damaged_or_too_large_is_a_broken_image(tmp_path: Path) -> None:
    large = write(tmp_path / "a.dcm", Rows=60_000, Columns=60_000)
    short = write(tmp_path / "b.dcm", Rows=600)
    with pytest.raises(BrokenImageError, match="more than data.max_pixels"):
        read(large)
    with pytest.raises(BrokenImageError):
        read(short)
    content = large.read_bytes()
    large.write_bytes(content[:140])
    with pytest.raises(BrokenImageError):
        read(large)


def test_without_pydicom_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.dcm")
    monkeypatch.setattr("glocal.data.decoding.channels.find_spec", lambda name: None)
    with pytest.raises(BrokenImageError, match=r"pip install 'glocal\[dicom\]'"):
        read(path)
