"""train.precision=auto: what suits the machine, once and for all of a run."""

from pathlib import Path

import pytest
import torch

from glocal.checkpoints import newest_checkpoint
from glocal.training import precision, resolving
from glocal.training.precision import choose_precision
from tests.training.test_runs import run as train


@pytest.mark.parametrize(("gain", "chosen"), [(2.0, "bf16"), (1.05, "fp32"), (0.1, "fp32")])
def test_a_cpu_takes_what_is_faster_by_enough(gain: float, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_bf16_gain", lambda: gain)
    assert choose_precision("cpu", 1)[0] == chosen
    assert choose_precision("cpu", 2)[0] == "fp32"
    assert choose_precision("mps", 1)[0] == "fp32"


@pytest.mark.parametrize(("has_it", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_a_gpu_takes_bf16_where_it_has_it(has_it: bool, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_it)
    assert choose_precision("cuda", 4)[0] == chosen


def test_measuring_leaves_torch_s_generator_alone() -> None:
    before = torch.get_rng_state()
    assert precision.cpu_bf16_gain.__wrapped__() > 0
    assert torch.equal(before, torch.get_rng_state())


def test_a_run_keeps_what_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(resolving, "choose_precision", lambda *_: ("bf16", "this CPU trains 2.0 times faster in it"))
    first = train(tmp_path / "a", train__precision="auto", train__epochs=1)
    assert first.recipe.train.precision == "bf16"
    assert capsys.readouterr().err.count("train.precision is bf16: this CPU trains 2.0 times faster in it") == 1

    checkpoints = sorted((tmp_path / "a" / "checkpoints").glob("step-*.pt"))
    checkpoints[-1].unlink()  # one step is missing
    monkeypatch.setattr(resolving, "choose_precision", lambda *_: pytest.fail("it was chosen before"))
    again = train(tmp_path / "a", train__precision="auto", train__epochs=1)
    assert again.recipe.train.precision == "bf16"
    state = newest_checkpoint(tmp_path / "a" / "checkpoints")
    assert state is not None
    assert state["step"] == 6
