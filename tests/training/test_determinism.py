"""`train.deterministic`: the same weights twice on one device, and PyTorch's switches as they were afterwards."""

import os
import warnings
from pathlib import Path

import pytest
import torch

from glocal.errors import GlocalError
from glocal.training.determinism import deterministic
from tests.training.test_runs import assert_equal, final_state, run

pytestmark = pytest.mark.usefixtures("no_pictures")


def switches() -> tuple[bool, bool, str | None]:
    names = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    return *names, os.environ.get("CUBLAS_WORKSPACE_CONFIG")


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")),
    ],
)
def test_two_runs_end_in_the_same_weights_bit_for_bit(
    device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, threads = switches(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for name in ("first", "second"):
            run(tmp_path / name, train__deterministic=True, train__epochs=1, train__device=device)
    finally:
        torch.set_num_threads(threads)
    first, second = final_state(tmp_path / "first"), final_state(tmp_path / "second")
    assert_equal(first["method"], second["method"])
    assert_equal(first["optimizers"], second["optimizers"])
    assert switches() == before
    assert "no deterministic form" not in capsys.readouterr().err


def test_switches_are_as_they_were_after_an_error_too() -> None:
    before = switches()

    def stop_inside() -> None:
        with deterministic(True):
            assert switches() == (True, False, ":4096:8")
            raise GlocalError("stopped")

    with pytest.raises(GlocalError, match="stopped"):
        stop_inside()
    assert switches() == before
    with deterministic(False):
        assert switches() == before


def test_attention_is_computed_by_plain_products_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backward passes of its faster kernels add in any order, and say so in words of their own."""
    kernels = [f"{name}_sdp_enabled" for name in ("flash", "mem_efficient", "cudnn")]

    def enabled() -> list[bool]:
        return [getattr(torch.backends.cuda, name)() for name in kernels]

    before = enabled()
    with deterministic(True):
        assert enabled() == before  # this machine's CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with deterministic(True):
        assert enabled() == [False] * 3
        assert torch.backends.cuda.math_sdp_enabled()
    assert enabled() == before


def test_a_process_that_has_computed_on_a_gpu_is_told_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with deterministic(True):
        pass
    assert "start it with CUBLAS_WORKSPACE_CONFIG=:4096:8" in capsys.readouterr().err
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with deterministic(True):
        pass
    assert capsys.readouterr().err == ""


def test_kernels_of_attention_are_named_as_other_operations_are(capsys: pytest.CaptureFixture[str]) -> None:
    with deterministic(True):
        warnings.warn("Memory Efficient attention defaults to a non-deterministic algorithm. To …", stacklevel=1)
    assert "Memory Efficient attention has no deterministic form on this device" in capsys.readouterr().err


def test_an_operation_without_a_deterministic_form_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    with deterministic(True):
        for _ in range(2):
            torch.zeros(3).put_(torch.tensor([0, 1]), torch.tensor([1.0, 2.0]))
    said = capsys.readouterr().err
    assert said.count("put_ has no deterministic form on this device, so that weights may differ") == 1
    assert said.count("\n") == 1
